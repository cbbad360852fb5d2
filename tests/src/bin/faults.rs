//! `make faults`: every fault under load, then some at random, and one table of what they cost.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use tests::faults::{FAULTS, Row, at_random, cuts, storm, table};

const USAGE: &str = "faults [NAME…] [--minutes N] [--seed N] [--storm CLIENTS]";

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to people"
)]
fn main() -> Result<ExitCode> {
    let mut names = Vec::new();
    let (mut minutes, mut seed, mut clients) = (None, None, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || -> Result<u64> { Ok(args.next().context(USAGE)?.parse()?) };
        match arg.as_str() {
            "--minutes" => minutes = Some(number()?),
            "--seed" => seed = Some(number()?),
            "--storm" => clients = Some(number()?),
            option if option.starts_with('-') => bail!(USAGE),
            _ => names.push(arg),
        }
    }
    let chosen = FAULTS
        .iter()
        .filter(|fault| names.iter().any(|name| fault.name.contains(name.as_str())));
    let mut rows: Vec<Row> = if names.is_empty() && minutes.is_none() && clients.is_none() {
        minutes = Some(5);
        let each = FAULTS.iter().map(tests::faults::Fault::happen);
        each.chain([cuts(Duration::from_secs(60))]).collect()
    } else {
        chosen.map(tests::faults::Fault::happen).collect()
    };
    if let Some(clients) = clients {
        rows.push(storm(usize::try_from(clients)?, 200, Duration::from_secs(15)));
    }
    if let Some(minutes) = minutes.filter(|minutes| *minutes > 0) {
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        rows.push(at_random(seed, Duration::from_secs(60 * minutes)));
    }
    println!("{}", table(&rows));
    let mut failed = false;
    for row in rows {
        if let Err(error) = row.ensure_clean() {
            failed = true;
            eprintln!("{error:?}\n");
        }
    }
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
