//! Runs the benchmarks under callgrind and compares.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{Benchmark, ROUNDS, region};

/// More than this is a growth.
const TOLERANCE_PERCENT: f64 = 5.0;
/// The first regions fill caches and make room in tables.
const WARM_UP: usize = 5;

/// `baseline.json`.
#[derive(Serialize, Deserialize)]
struct Baseline {
    /// Counts of another compiler or machine are not quite the same.
    rustc: String,
    valgrind: String,
    cpu: String,
    /// Instructions an operation.
    instructions: BTreeMap<String, f64>,
}

/// Prints a table; 1 when a benchmark has grown. `update`: keeps what is counted now instead.
#[expect(clippy::print_stdout, reason = "the command's table")]
pub(crate) fn check(update: bool) -> Result<ExitCode> {
    let mut now = Baseline {
        rustc: first_line(Command::new("rustc").arg("--version"))?,
        valgrind: first_line(Command::new("valgrind").arg("--version"))?,
        cpu: cpu(),
        instructions: BTreeMap::new(),
    };
    let path = path();
    let kept: Option<Baseline> = match fs::read(&path) {
        Ok(text) => Some(serde_json::from_slice(&text).with_context(|| path.display().to_string())?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    if let Some(kept) = &kept {
        for (what, kept, now) in [
            ("rustc", &kept.rustc, &now.rustc),
            ("valgrind", &kept.valgrind, &now.valgrind),
            ("the processor", &kept.cpu, &now.cpu),
        ] {
            if kept != now {
                println!("The baseline was counted with another {what}, {kept}; this is {now}.");
            }
        }
    }

    println!(
        "{:<16} {:>12} {:>12} {:>8}  instructions for",
        "benchmark", "baseline", "now", "change"
    );
    let mut grown = 0;
    for benchmark in Benchmark::value_variants() {
        let name = benchmark.name();
        let (operations, unit) = benchmark.operations();
        let regions = count(&name)?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let instructions = (median(regions) as f64 / operations as f64 * 10.0).round() / 10.0;
        let baseline = kept.as_ref().and_then(|kept| kept.instructions.get(&name));
        let change = baseline.map(|baseline| (instructions / baseline - 1.0) * 100.0);
        let too_much = change.is_some_and(|change| change > TOLERANCE_PERCENT);
        grown += usize::from(too_much);
        println!(
            "{name:<16} {:>12} {instructions:>12.1} {:>8}  {unit}{}",
            baseline.map_or_else(|| "-".to_owned(), |baseline| format!("{baseline:.1}")),
            change.map_or_else(|| "-".to_owned(), |change| format!("{change:+.1} %")),
            if too_much { "  GROWN" } else { "" },
        );
        now.instructions.insert(name, instructions);
    }
    if update {
        let mut text = serde_json::to_string_pretty(&now)?;
        text.push('\n');
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("Kept as the baseline.");
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        kept.is_some(),
        "there is no baseline yet: `make bench-check UPDATE=1`"
    );
    if grown > 0 {
        println!(
            "Grown by more than {TOLERANCE_PERCENT} %: {grown}. If it has to be, `make bench-check UPDATE=1` and say why."
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.json")
}

fn first_line(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| {
        format!("{program} cannot be run; `tests/deps.sh bench` installs what is missing")
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Which one it is decides which variants of the libraries' functions are chosen.
fn cpu() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model
        .map_or(std::env::consts::ARCH, |(_, name)| name.trim())
        .to_owned()
}

/// Instructions of each region of a benchmark, in order, without the warm-up.
fn count(benchmark: &str) -> Result<Vec<u64>> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("counts");
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--zero-before={}", region::BEGIN))
        .arg(format!("--dump-before={}", region::END))
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe()?)
        .args(["run", benchmark])
        .output()?;
    ensure!(
        output.status.success(),
        "{benchmark} ended with {}:\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let mut regions = Vec::new();
    for number in 1.. {
        let Ok(dump) = fs::read_to_string(out.with_extension(number.to_string())) else {
            break;
        };
        // The last one is what came after the last region.
        if !dump.contains("\ndesc: Trigger: --dump-before=") {
            continue;
        }
        let total = dump
            .lines()
            .find_map(|line| line.strip_prefix("totals: "))
            .context("a dump without totals")?;
        regions.push(total.trim().parse()?);
    }
    ensure!(
        regions.len() == ROUNDS,
        "{benchmark}: {} regions of {ROUNDS} were counted",
        regions.len()
    );
    Ok(regions.split_off(WARM_UP))
}

fn median(mut counts: Vec<u64>) -> u64 {
    counts.sort_unstable();
    counts.get(counts.len() / 2).copied().unwrap_or_default()
}
