//! Counts the instructions of the hot paths with callgrind and compares them with those kept in the repository.

mod check;
mod codec;
mod deliver;
mod dispatch;
mod edge;
mod publish;
mod region;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

/// Regions of one run; the median counts, so that a timer that falls into one changes nothing.
const ROUNDS: usize = 45;

#[derive(Parser)]
#[command(about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Counts all benchmarks under valgrind and compares them with the baseline; exit code 1 when one has grown by
    /// more than 5 %
    Check {
        /// Keeps what is counted now as the baseline
        #[arg(long)]
        update: bool,
    },
    /// Runs one benchmark, which counts nothing by itself: to be looked at with a profiler
    Run { benchmark: Benchmark },
}

/// What is counted.
#[derive(Copy, Clone, Debug, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    DecodeEvent,
    EncodePacket,
    #[value(name = "deliver-to-1000")]
    DeliverTo1000,
    Publish,
    Dispatch,
}

impl Benchmark {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Operations of one region, and what one is.
    fn operations(self) -> (usize, &'static str) {
        match self {
            Self::DecodeEvent | Self::EncodePacket => (codec::EVENTS, "an event"),
            Self::DeliverTo1000 => (deliver::MEMBERS, "a member"),
            Self::Publish => (1, "a message"),
            Self::Dispatch => (1, "an event, two gateways"),
        }
    }

    fn run(self, rounds: usize) -> Result<()> {
        match self {
            Self::DecodeEvent => codec::decode(rounds),
            Self::EncodePacket => codec::encode(rounds),
            Self::DeliverTo1000 => deliver::run(rounds),
            Self::Publish => publish::run(rounds),
            Self::Dispatch => dispatch::run(rounds),
        }
    }
}

#[expect(clippy::print_stderr, reason = "a command tells why it failed")]
fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Check { update } => check::check(update),
        Command::Run { benchmark } => benchmark.run(ROUNDS).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("instructions: {error:#}");
        ExitCode::from(2)
    })
}
