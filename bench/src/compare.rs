//! Fanfare beside its peers: starts each in turn, runs the same scenarios, and tells the ratios.

pub mod columns;
pub mod machine;
pub mod markdown;
pub mod plot;
pub mod reach;
pub mod results;
pub mod rows;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser};
use serde::Serialize;

use crate::{
    cli::{Bench, Common, measure},
    procs::pin,
    report::Run,
};
use columns::{Column, SHOWN};
use machine::Machine;
use results::{Cell, Results};
use rows::Row;

/// What the comparison takes beside `--repeat`, `--pin` and `--server-cpu`.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Compare {
    /// Short runs.
    #[arg(long)]
    pub quick: bool,
    /// Measures only this COLUMN, COLUMN/ROW or /ROW; may be given again. Nothing is written then, but with --out or
    /// --from.
    #[arg(long, value_name = "COLUMN/ROW")]
    pub only: Vec<String>,
    /// Where RESULTS.md, plots/ and results/ are written; by default the directory of the load generator.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Measures nothing, and writes everything again from what this file holds; with --only, measures that anew.
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
}

/// Measures, prints the tables and writes the files. The answer is whether there is a figure that counts in every
/// cell.
///
/// # Errors
/// When nothing fits `--only`, or a file cannot be written. A server that does not come up makes its cell fail, not
/// the comparison.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]
pub(crate) fn run(compare: &Compare, common: &Common) -> Result<bool> {
    let results = match &compare.from {
        Some(file) => {
            let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            let mut results: Results = serde_json::from_str(&text)?;
            if !compare.only.is_empty() {
                results.replace(measure_all(compare, common)?);
            }
            results
        }
        None => measure_all(compare, common)?,
    };
    println!(
        "{}\n{}",
        markdown::side_by_side(&results),
        markdown::reach(&results)
    );
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = compare.out.as_deref();
    let complete = compare.only.is_empty() || compare.from.is_some();
    if let Some(out) = out.or(complete.then_some(here)) {
        write(&results, out)?;
        eprintln!("written to {}", out.display());
    }
    Ok(results.cells.iter().all(|cell| !cell.median().is_empty()))
}

#[expect(clippy::print_stderr, reason = "it takes a while, and says what it does")]
fn measure_all(compare: &Compare, common: &Common) -> Result<Results> {
    let cores = (common.server_cpu.0, common.pin.0);
    ensure!(
        cores.0.is_some() == cores.1.is_some(),
        "servers and generator both have a core, or none has"
    );
    let machine = Machine::here()?;
    let began = Instant::now();
    let mut cells = Vec::new();
    for column in Column::ALL {
        let first = cells.len();
        cells.extend(
            Row::ALL
                .into_iter()
                .filter(|row| column.has(*row) && is_wanted(&compare.only, column, *row))
                .map(|row| Cell {
                    column,
                    row,
                    runs: Vec::new(),
                    failures: Vec::new(),
                }),
        );
        // In turn, so that what drifts on the machine meets all rows alike.
        for round in 1..=column.rounds(common.repeat) {
            for cell in &mut cells[first..] {
                match measure_one(column, cell.row, compare.quick, common) {
                    Ok(run) => cell.add(run),
                    Err(error) => cell.failures.push(format!("{error:#}")),
                }
                eprintln!(
                    "{:5.0} s  {} {}, round {round}: {}",
                    began.elapsed().as_secs_f64(),
                    column.name(),
                    cell.row.name(),
                    last(cell)
                );
            }
        }
    }
    ensure!(!cells.is_empty(), "nothing is called {}", compare.only.join(", "));
    Ok(Results {
        machine,
        quick: compare.quick,
        cells,
    })
}

fn measure_one(column: Column, row: Row, quick: bool, common: &Common) -> Result<Run> {
    let arguments = column.arguments(row, quick);
    let mut bench = Bench::try_parse_from(std::iter::once("bench").chain(arguments))?;
    // Children take the core of the thread that starts them, before they have threads of their own.
    let core = common.server_cpu.0;
    if let Some(core) = core {
        pin(None, core)?;
    }
    let deployment = row.start(core)?;
    bench.common.urls.clone_from(&deployment.targets);
    bench.common.pids = deployment.processes();
    bench.common.pin = common.pin;
    let report = measure(&bench, Vec::new(), None)?;
    let mut runs = report.runs.into_iter();
    runs.next().context("nothing was run")
}

/// What the last round of a cell has to say.
fn last(cell: &Cell) -> String {
    let Some(run) = cell.runs.last() else {
        return cell.failures.last().cloned().unwrap_or_default();
    };
    let figures: Vec<_> = SHOWN
        .iter()
        .filter(|shown| shown.column == cell.column)
        .filter_map(|shown| {
            let figure = markdown::number(*run.figures.get(shown.figure)?);
            Some(format!("{} {figure}", shown.figure))
        })
        .collect();
    let faults = match run.faults.none(false) {
        true => String::new(),
        false => format!(" {:?}", run.faults),
    };
    format!("{}{faults}", figures.join(", "))
}

fn is_wanted(only: &[String], column: Column, row: Row) -> bool {
    only.is_empty()
        || only.iter().any(|only| {
            let (wanted, of) = only.split_once('/').unwrap_or((only, ""));
            (wanted.is_empty() || wanted == column.name()) && (of.is_empty() || of == row.name())
        })
}

fn write(results: &Results, out: &Path) -> Result<()> {
    let plots = out.join("plots");
    fs::create_dir_all(&plots)?;
    fs::create_dir_all(out.join("results"))?;
    fs::write(out.join("RESULTS.md"), markdown::document(results))?;
    let json = serde_json::to_string_pretty(results)?;
    fs::write(out.join("results/compare.json"), json + "\n")?;
    for shown in &SHOWN {
        if let Some(svg) = plot::bars(results, shown) {
            fs::write(plots.join(shown.plot() + ".svg"), svg)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_columns_and_rows() {
        let is = |only: &str, column, row| is_wanted(&[only.to_owned()], column, row);
        assert!(is("rooms", Column::Rooms, Row::Nats));
        assert!(is("rooms/nats", Column::Rooms, Row::Nats));
        assert!(is("/nats", Column::Echo, Row::Nats));
        assert!(!is("rooms/nats", Column::Rooms, Row::Floor));
        assert!(!is("rooms", Column::Echo, Row::Nats));
        assert!(is_wanted(&[], Column::Echo, Row::Nats));
    }

    #[test]
    fn files_are_written_as_they_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let results = results::tests::fixture();
        write(&results, directory.path()).unwrap();
        let json = fs::read_to_string(directory.path().join("results/compare.json")).unwrap();
        let again: Results = serde_json::from_str(&json).unwrap();
        assert_eq!(markdown::document(&again), markdown::document(&results));
        assert!(
            directory
                .path()
                .join("plots/one-cpu-s-per-million-deliveries.svg")
                .exists()
        );
        assert!(
            !directory
                .path()
                .join("plots/idle-cpu-ms-per-connect.svg")
                .exists()
        );
    }
}
