//! The tables, for a terminal and for RESULTS.md.

use std::fmt::Write;

use super::{
    columns::{Column, SHOWN, Shown},
    reach::GOALS,
    results::{Cell, Results},
    rows::Row,
};

/// Side by side: a row a server, a column a figure.
#[must_use]
pub fn side_by_side(results: &Results) -> String {
    let shown: Vec<_> = SHOWN
        .iter()
        .filter(|shown| results.cells.iter().any(|cell| cell.column == shown.column))
        .collect();
    let mut lines = vec![head("server", shown.iter().map(|shown| shown.title))];
    for row in Row::ALL {
        if results.cells.iter().any(|cell| cell.row == row) {
            let title = if row.is_fanfare() {
                format!("**{}**", row.title())
            } else {
                row.title().to_owned()
            };
            let mut line = vec![title];
            line.extend(shown.iter().map(|shown| value(results, shown, row)));
            lines.push(line);
        }
    }
    table(&lines)
}

/// The figure, or why there is none.
fn value(results: &Results, shown: &Shown, row: Row) -> String {
    let Some(cell) = results.cell(shown.column, row) else {
        return "–".to_owned();
    };
    match cell.median().get(shown.figure) {
        Some(figure) => number(*figure),
        None if cell.runs.is_empty() => "failed".to_owned(),
        None => "does not count".to_owned(),
    }
}

/// What is to be reached, and the distance where it is not.
#[must_use]
pub fn reach(results: &Results) -> String {
    let mut lines = vec![head(
        "what",
        ["reach", "measured", "ratio", "reached"].into_iter(),
    )];
    for goal in &GOALS {
        let verdict = goal.judge(results);
        lines.push(vec![
            goal.what.to_owned(),
            goal.bound(),
            verdict.measured.map_or("–".to_owned(), number),
            verdict
                .ratio
                .map_or("–".to_owned(), |ratio| format!("{ratio:.2}")),
            match (verdict.reached, verdict.distance) {
                (Some(true), _) => "yes".to_owned(),
                (_, Some(distance)) => format!("**no**, by {:.0} %", distance * 100.0),
                _ => "not measured".to_owned(),
            },
        ]);
    }
    table(&lines)
}

/// What was counted in every cell, the runs that do not count included.
fn counts(results: &Results) -> String {
    let titles = [
        "server",
        "runs that count",
        "lost",
        "doubled",
        "reordered",
        "members with another order",
        "errors",
        "why not",
    ];
    let mut lines = vec![head("scenario", titles.into_iter())];
    for cell in &results.cells {
        let mut faults = crate::report::Faults::default();
        for run in &cell.runs {
            faults.add(run.faults);
        }
        let valid = cell.runs.iter().filter(|run| run.valid).count();
        lines.push(vec![
            cell.column.name().to_owned(),
            cell.row.name().to_owned(),
            format!("{valid} of {}", cell.runs.len() + cell.failures.len()),
            faults.lost.to_string(),
            faults.doubled.to_string(),
            faults.reordered.to_string(),
            faults.order_differs.to_string(),
            (faults.stray + faults.errors).to_string(),
            cell.failures.first().map_or(String::new(), |why| first_line(why)),
        ]);
    }
    table(&lines)
}

/// Where the CPU of a delivery goes, process by process.
fn processes(results: &Results) -> String {
    let prefix = "cpu_s_per_million_deliveries.";
    let mut lines = vec![head(
        "scenario",
        ["server", "CPU-s a million deliveries"].into_iter(),
    )];
    let several = |cell: &&Cell| cell.row.is_two_nodes();
    for cell in results.cells.iter().filter(several) {
        let parts: Vec<_> = cell
            .median()
            .iter()
            .filter_map(|(name, figure)| Some((name.strip_prefix(prefix)?.to_owned(), *figure)))
            .map(|(name, figure)| format!("{name} {}", number(figure)))
            .collect();
        if !parts.is_empty() {
            lines.push(vec![
                cell.column.name().to_owned(),
                cell.row.name().to_owned(),
                parts.join(", "),
            ]);
        }
    }
    table(&lines)
}

fn commands(results: &Results) -> String {
    let mut text = String::new();
    for column in Column::ALL {
        // Fanfare's own arguments are those of the row; the tokens' secret tells nobody anything.
        let arguments = column.arguments(Row::Floor, results.quick).join(" ");
        let arguments = arguments.replace(" --order report", "");
        // Writing to a String does not fail.
        let _ = writeln!(text, "fanfare bench {arguments}   # {}", column.name());
    }
    text
}

/// The whole of RESULTS.md.
#[must_use]
pub fn document(results: &Results) -> String {
    let machine = &results.machine;
    let versions: Vec<_> = machine
        .versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    let mut plots = String::new();
    for shown in &SHOWN {
        if results.cells.iter().any(|cell| cell.column == shown.column) {
            let _ = writeln!(plots, "![{}](plots/{}.svg)", shown.title, shown.plot());
        }
    }
    let runs = results
        .cells
        .iter()
        .map(|cell| cell.runs.len())
        .max()
        .unwrap_or(0);
    let short = if results.quick {
        "These are the short runs of `--quick`: good for a look, not for a decision.\n\n"
    } else {
        ""
    };
    format!(
        "# Fanfare beside its peers\n\n\
         Written by `make bench`; do not edit. How to read it: [README.md](README.md).\n\n{short}\
         - {date}, commit {commit}; {cpu}, {cores} cores, {memory} GiB, Linux {kernel}; load before the first run {load}\n\
         - {versions}\n\
         - medians of up to {runs} runs, the rows of a column in turn; all server processes on one core, the generator on the other; \
         content of 128 bytes over WebSocket\n\n\
         ## Side by side\n\n{side}\n\
         CPU is user and system time of all processes of a row as the kernel counts it: gateways or nodes, worker, presence, \
         nats-server, redis-server. A figure of a run with a loss, a double or an error does not count, nor does one of Fanfare's \
         stored messages with two orders in a room. Latency is from the moment an event was to be sent until a member has it, over \
         the members at both nodes. An idle client has one namespace and one room; Fanfare's has shown a token.\n\n\
         ## Reach\n\n{reach}\n\
         ## Where the CPU of a delivery goes\n\n{processes}\n\
         ## What was counted\n\n{counts}\n\
         ## Commands\n\n```sh\n{commands}```\n\n\
         Fanfare's rows add a token for each client, nats-server's `--dialect nats`, and those that promise no order `--order report`.\n\n\
         ## Plots\n\n{plots}",
        date = machine.date,
        commit = machine.commit,
        cpu = machine.cpu,
        cores = machine.cores,
        memory = machine.memory_gib,
        kernel = machine.kernel,
        load = machine.load,
        versions = versions.join(", "),
        side = side_by_side(results),
        reach = reach(results),
        processes = processes(results),
        counts = counts(results),
        commands = commands(results),
    )
}

/// A figure with as many digits as tell something.
pub(super) fn number(figure: f64) -> String {
    match figure.abs() {
        1000.0.. => {
            let digits = format!("{figure:.0}");
            let mut grouped = String::new();
            for (place, digit) in digits.chars().enumerate() {
                if place > 0 && (digits.len() - place).is_multiple_of(3) {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        1.0.. => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    line.replace('|', "\\|")
}

fn head<'a>(first: &'a str, titles: impl Iterator<Item = &'a str>) -> Vec<String> {
    std::iter::once(first).chain(titles).map(str::to_owned).collect()
}

/// Rows of cells as Markdown, aligned so that it reads in a terminal, too.
fn table(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let widths: Vec<_> = (0..columns)
        .map(|column| {
            let widths = lines.iter().map(|line| line[column].chars().count());
            widths.max().unwrap_or(0).max(3)
        })
        .collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                let _ = write!(text, "| {:-<width$} ", "");
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::results::tests::fixture;

    #[test]
    fn the_table_says_what_counts() {
        let table = side_by_side(&fixture());
        let line = |row: Row| {
            let line = table.lines().find(|line| line.contains(row.title())).unwrap();
            let cells = line.split('|').map(str::trim).filter(|cell| !cell.is_empty());
            cells.skip(1).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(line(Row::Floor), ["4.00", "–", "–", "–"]);
        assert_eq!(line(Row::Fanfare), ["5.00", "123,456", "–", "–"]);
        assert_eq!(line(Row::Axum)[0], "does not count");
        assert_eq!(line(Row::Nats)[0], "failed");
        assert_eq!(line(Row::Cluster), ["–", "–", "2.00", "2.50"]);
        assert!(!table.contains(Row::SocketIoRedis.title()));
    }

    #[test]
    fn distances_are_told() {
        let table = reach(&fixture());
        let line = |what: &str| table.lines().find(|line| line.contains(what)).unwrap();
        assert!(
            line("| 1 publisher, 1 in flight").contains("**no**, by 9 %"),
            "{table}"
        );
        assert!(line("acknowledged round trips").contains("| yes"), "{table}");
        assert!(line("16 in flight").contains("not measured"), "{table}");
    }

    #[test]
    fn the_document_has_it_all() {
        let document = document(&fixture());
        for part in [
            "2026-01-01, commit 0123456; A processor, 2 cores, 16 GiB, Linux 6.1.0",
            "socketioxide 0.18.9",
            "--quick",
            "| 0 of 1",
            "nats-server is not installed",
            "plots/latency-delivery-ms-p50.svg",
            "fanfare bench fanout --members 1000 --in-flight 16",
        ] {
            assert!(document.contains(part), "{part} is not in {document}");
        }
        assert!(!document.contains("plots/idle"));
    }

    #[test]
    fn numbers_are_short() {
        let numbers = [1_234_567.0, 999.6, 45.67, 1.234, 0.0456];
        assert_eq!(
            numbers.map(number),
            ["1,234,567", "1000", "45.7", "1.23", "0.046"]
        );
    }
}
