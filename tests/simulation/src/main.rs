//! Runs as many seeds as wanted.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to people"
)]

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
    time::Instant,
};

use clap::Parser;

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
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
        let outcome = simulation::run(seed);
        println!("{}\n\n{outcome}", outcome.trace.join("\n"));
        return told(outcome.broken.as_deref());
    }
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (next, failed) = (AtomicU64::new(arguments.from), AtomicUsize::new(0));
    let end = arguments.from.saturating_add(arguments.seeds);
    let sums = [const { AtomicUsize::new(0) }; 5];
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failed.load(Ordering::Relaxed) > 0 && !arguments.all {
                        break;
                    }
                    let outcome = simulation::run(seed);
                    let counts = [
                        outcome.acknowledged,
                        outcome.received,
                        outcome.repeats,
                        outcome.recovered,
                        outcome.fresh,
                    ];
                    for (sum, count) in sums.iter().zip(counts) {
                        sum.fetch_add(count, Ordering::Relaxed);
                    }
                    if outcome.broken.is_some() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        told(outcome.broken.as_deref());
                    }
                }
            });
        }
    });
    let seeds = next.load(Ordering::Relaxed).min(end) - arguments.from;
    let [acknowledged, received, repeats, recovered, fresh] = sums.map(AtomicUsize::into_inner);
    let failed = failed.into_inner();
    println!(
        "{seeds} seeds in {:.1?}: {failed} failed; {acknowledged} acknowledged, {received} received, {repeats} repeated \
         after crashes; {recovered} recovered, {fresh} fresh",
        begun.elapsed()
    );
    if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn told(broken: Option<&str>) -> ExitCode {
    match broken {
        Some(broken) => {
            eprintln!("{broken}\n");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}
