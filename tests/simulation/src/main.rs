//! Runs as many seeds as wanted, each in a process of its own: what a process shares among its threads, such as the
//! counter in the ids of events, must not make a run another one.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to people"
)]

use std::{
    io,
    process::{Command, ExitCode},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use clap::Parser;
use simulation::Outcome;

#[derive(Parser)]
#[command(about = "Simulates the whole system: every seed is another schedule of work and faults")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// This one alone, with everything that happens; RUST_LOG shows the log of all processes.
    #[arg(long)]
    seed: Option<u64>,
    /// Goes on behind a seed that fails.
    #[arg(long)]
    all: bool,
    /// With --seed: says only what is counted.
    #[arg(long, hide = true)]
    counts: bool,
}

/// Acknowledged, received, repeats, recovered, fresh.
type Counts = [usize; 5];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => one(seed, arguments.counts),
        None => many(&arguments),
    }
}

fn one(seed: u64, only_counts: bool) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(io::stderr)
        .init();
    let outcome = simulation::run(seed);
    if only_counts {
        let [acknowledged, received, repeats, recovered, fresh] = counts(&outcome);
        println!("{acknowledged} {received} {repeats} {recovered} {fresh}");
    } else {
        println!("{}\n\n{outcome}", outcome.trace.join("\n"));
    }
    match outcome.broken {
        Some(broken) => {
            eprintln!("{broken}\n");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn counts(outcome: &Outcome) -> Counts {
    [
        outcome.acknowledged,
        outcome.received,
        outcome.repeats,
        outcome.recovered,
        outcome.fresh,
    ]
}

fn many(arguments: &Arguments) -> ExitCode {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (next, failed) = (AtomicU64::new(arguments.from), AtomicUsize::new(0));
    let end = arguments.from.saturating_add(arguments.seeds);
    let sums = [const { AtomicUsize::new(0) }; 5];
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failed.load(Ordering::Relaxed) == 0 || arguments.all {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    match apart(seed) {
                        Ok(counts) => {
                            for (sum, count) in sums.iter().zip(counts) {
                                sum.fetch_add(count, Ordering::Relaxed);
                            }
                        }
                        Err(broken) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            eprintln!("{broken}");
                        }
                    }
                }
            });
        }
    });
    let seeds = next.into_inner().min(end) - arguments.from;
    let [acknowledged, received, repeats, recovered, fresh] = sums.map(AtomicUsize::into_inner);
    let failed = failed.into_inner();
    println!(
        "{seeds} seeds in {:.1?}: {failed} failed; {acknowledged} acknowledged, {received} received, {repeats} repeated \
         after crashes; {recovered} recovered, {fresh} fresh",
        begun.elapsed()
    );
    if failed == 0 && acknowledged > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs a seed in a process of its own; the error is what that process says.
fn apart(seed: u64) -> Result<Counts, String> {
    let run = || {
        let program = std::env::current_exe()?;
        Command::new(program)
            .args(["--counts", "--seed", &seed.to_string()])
            .output()
    };
    let output = run().map_err(|error: io::Error| error.to_string())?;
    let (said, told) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    if !output.status.success() {
        return Err(format!("seed {seed} failed\n{told}"));
    }
    let mut counts = Counts::default();
    for (count, word) in counts.iter_mut().zip(said.split_whitespace()) {
        *count = word.parse().map_err(|_| format!("seed {seed}: {said}"))?;
    }
    Ok(counts)
}
