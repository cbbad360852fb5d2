//! The names that the program knows: variables, flags, ports.

use std::{collections::BTreeSet, process::Command};

use anyhow::{Result, ensure};
use config::settings::SETTINGS;
use tests::built;

/// Variables that are not settings of Fanfare's own, and what they are for.
pub(crate) const OTHER_VARIABLES: [(&str, &str); 8] = [
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "Where traces go; there are none without it",
    ),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc (default) or http/protobuf"),
    (
        "OTEL_EXPORTER_OTLP_HEADERS",
        "Headers for the collector, name=value, comma-separated",
    ),
    (
        "OTEL_SERVICE_NAME",
        "service.name of traces; fanfare-<role> without it",
    ),
    (
        "OTEL_RESOURCE_ATTRIBUTES",
        "More attributes of the process, name=value, comma-separated",
    ),
    (
        "OTEL_TRACES_SAMPLER",
        "Which events are traced, as OpenTelemetry says: parentbased_traceidratio, always_on, …",
    ),
    ("OTEL_TRACES_SAMPLER_ARG", "Its argument: the share, 0 to 1"),
    ("NO_COLOR", "Logs without colours"),
];

/// Whether the program reads a variable.
pub(crate) fn is_variable(name: &str) -> bool {
    SETTINGS
        .iter()
        .any(|setting| setting.variable() == name || setting.legacy == Some(name))
        || OTHER_VARIABLES.iter().any(|(other, _)| *other == name)
}

/// Ports of a role (CONTRACT section 2).
pub(crate) fn of_contract(role: &str) -> Vec<u64> {
    match role {
        "gateway" => vec![3001, 7001, 9091],
        "fanout" => vec![7002, 7003, 9092],
        _ => vec![7004, 9093],
    }
}

/// A command and what its `-h` says.
pub(crate) struct Help {
    pub(crate) command: Vec<String>,
    pub(crate) text: String,
}

/// The help of the program and of all its subcommands, each before its own.
pub(crate) fn help() -> Result<Vec<Help>> {
    let mut all = Vec::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(command) = open.pop() {
        let output = Command::new(built("fanfare", "cargo build -p fanfare")?)
            .args(&command)
            .arg("-h")
            .env_clear()
            .output()?;
        ensure!(
            output.status.success(),
            "fanfare {} -h: {}",
            command.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout)?;
        let list = text.split_once("\nCommands:\n").map_or("", |(_, list)| list);
        let names = list
            .lines()
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
            .filter(|name| !name.is_empty() && *name != "help");
        let inner: Vec<_> = names
            .map(|name| [command.clone(), vec![name.to_owned()]].concat())
            .collect();
        open.extend(inner.into_iter().rev());
        all.push(Help { command, text });
    }
    Ok(all)
}

/// All flags of all commands, as `--flag`.
pub(crate) fn flags(help: &[Help]) -> BTreeSet<String> {
    let words = help.iter().flat_map(|help| help.text.split([' ', ',', '\n']));
    words.filter_map(flag).collect()
}

/// The flag that a word of a command line is, without its value.
pub(crate) fn flag(word: &str) -> Option<String> {
    let word = word.split('=').next()?;
    let name = word.strip_prefix("--")?;
    let name: String = name
        .chars()
        .take_while(|char| char.is_ascii_alphanumeric() || *char == '-')
        .collect();
    (!name.is_empty()).then(|| format!("--{name}"))
}
