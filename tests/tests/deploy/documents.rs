//! Documents that are made from the program, and what documents say of it.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};
use config::{Role, settings::SETTINGS};
use serde_json::{Map, Value, json};

use crate::{
    files, generated,
    manifests::{chart_file, yaml},
    names::{self, Help, OTHER_VARIABLES},
    none, read, root,
};

const INTRODUCTION: &str = "# Configuration

Made from the program by `UPDATE=1 cargo nextest run -p tests --test deploy documents`; do not edit.

A TOML file (`--config FILE`) lies over the defaults, environment variables over the file, flags (`--set KEY=VALUE`) over both.
An unknown key in the file is an error; an unknown `FANFARE_*` variable is a warning. `fanfare config check ROLE` tells
every mistake, `fanfare config show ROLE` prints what counts, secrets masked. SIGHUP reads keys, policies, origins and limits again.
";

/// Tables that are lists, and where their fields stand in the program.
const LISTS: [(&str, &str); 3] = [
    ("namespaces", "libs/config/src/namespaces.rs"),
    ("issuers", "libs/config/src/identity.rs"),
    ("api.keys", "libs/config/src/api.rs"),
];

/// What the chart sets by itself; and TLS of listeners that its probes and Services speak plain HTTP to.
const CHART_SETS: [&str; 15] = [
    "gateway.listen",
    "gateway.tls_cert",
    "gateway.tls_key",
    "gateway.grpc_listen",
    "gateway.advertise",
    "fanout.grpc_listen",
    "fanout.http_listen",
    "presence.grpc_listen",
    "admin.listen",
    "admin.tls_cert",
    "admin.tls_key",
    "grpc.tls_ca",
    "grpc.tls_cert",
    "grpc.tls_key",
    "grpc.tls_server_name",
];

fn configuration(help: &[Help]) -> Result<String> {
    let mut text = INTRODUCTION.to_owned();
    let mut section = None;
    for setting in SETTINGS {
        let of = setting.key.split_once('.').map_or("", |(section, _)| section);
        if section != Some(of) {
            section = Some(of);
            let title = if of.is_empty() {
                "Common".to_owned()
            } else {
                format!("`[{of}]`")
            };
            let _ = write!(
                text,
                "\n## {title}\n\n| key | variable | default | what |\n| --- | --- | --- | --- |\n"
            );
        }
        let variable = setting.variable();
        let older = setting.legacy.filter(|legacy| *legacy != variable);
        let older = older.map_or(String::new(), |older| format!(", `{older}`"));
        let shown = |value: &str| {
            if value.is_empty() {
                "–".to_owned()
            } else {
                format!("`{value}`")
            }
        };
        let mut default = shown(setting.default_in(Role::Gateway));
        let standalone = shown(setting.default_in(Role::Standalone));
        if standalone != default {
            let _ = write!(default, "; standalone {standalone}");
        }
        let mut what = setting.doc.replace('|', "\\|");
        if setting.secret {
            what.push_str(" (secret)");
        }
        let _ = writeln!(
            text,
            "| `{}` | `{variable}`{older} | {default} | {what} |",
            setting.key
        );
    }
    text.push_str("\n## Tables that are lists\n\nOnly the file has them. README.md shows them at work.\n\n| table | fields |\n| --- | --- |\n");
    for (table, file) in LISTS {
        let _ = writeln!(text, "| `[[{table}]]` | `{}` |", fields(file)?.join("`, `"));
    }
    text.push_str("\n## Other variables\n\n| variable | what |\n| --- | --- |\n");
    let is_setting = |name: &str| SETTINGS.iter().any(|setting| setting.legacy == Some(name));
    for (name, what) in OTHER_VARIABLES.into_iter().filter(|(name, _)| !is_setting(name)) {
        let _ = writeln!(text, "| `{name}` | {what} |");
    }
    text.push_str("\n## Commands\n");
    for Help { command, text: help } in help {
        let name = std::iter::once("fanfare").chain(command.iter().map(String::as_str));
        let name = name.collect::<Vec<_>>().join(" ");
        let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        let _ = write!(text, "\n### `{name}`\n\n```text\n{}\n```\n", help.trim_end());
    }
    Ok(text)
}

/// The names in a file's list `FIELDS`.
fn fields(file: &str) -> Result<Vec<String>> {
    let source = read(file)?;
    let list = source
        .split_once("const FIELDS: ")
        .and_then(|(_, rest)| rest.split_once("];"));
    let (list, _) = list.with_context(|| format!("{file} has no FIELDS"))?;
    let names = list.split('"').skip(1).step_by(2);
    Ok(names.map(str::to_owned).collect())
}

/// The settings that the chart takes, by section.
fn schema_of_settings() -> Value {
    let mut properties = Map::new();
    for setting in SETTINGS {
        if setting.secret && !setting.key.ends_with(".url") || CHART_SETS.contains(&setting.key) {
            continue;
        }
        let mut schema = match setting.default {
            "true" | "false" => json!({"type": "boolean"}),
            number if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                json!({"type": "integer"})
            }
            _ => json!({"type": ["string", "array"], "items": {"type": "string"}}),
        };
        schema["description"] = setting.doc.into();
        match setting.key.split_once('.') {
            None => {
                properties.insert(setting.key.to_owned(), schema);
            }
            Some((section, key)) => {
                let section = properties.entry(section).or_insert_with(
                    || json!({"type": "object", "additionalProperties": false, "properties": {}}),
                );
                section["properties"][key] = schema;
            }
        }
    }
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

#[test]
fn documents_of_settings_and_commands() -> Result<()> {
    generated("docs/CONFIGURATION.md", &configuration(&names::help()?)?)
}

#[test]
fn documents_the_schema_of_the_charts_settings() -> Result<()> {
    let mut schema: Value = serde_json::from_str(&chart_file("values.schema.json")?)?;
    schema["properties"]["settings"] = schema_of_settings();
    let text = serde_json::to_string_pretty(&schema)? + "\n";
    generated("helm/fanfare/values.schema.json", &text)
}

/// What a value is for, from the comments of values.yaml: the lines `# -- …` before the keys.
fn comments(values: &str) -> Vec<(String, String)> {
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut comment = String::new();
    let mut found = Vec::new();
    for line in values.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim_start();
        if let Some(text) = line.strip_prefix("# -- ") {
            text.clone_into(&mut comment);
            continue;
        }
        let Some((key, _)) = line.split_once(':') else {
            continue;
        };
        if key.starts_with(['#', '-']) {
            continue;
        }
        path.retain(|(outer, _)| *outer < indent);
        path.push((indent, key.to_owned()));
        let keys: Vec<_> = path.iter().map(|(_, key)| key.as_str()).collect();
        found.push((keys.join("."), std::mem::take(&mut comment)));
    }
    found
}

#[test]
fn documents_the_charts_values() -> Result<()> {
    const MARK: &str = "<!-- values: made from values.yaml -->\n";
    let values = chart_file("values.yaml")?;
    let parsed = yaml(&values)?;
    let readme = chart_file("README.md")?;
    let (before, _) = readme
        .split_once(MARK)
        .context("README.md of the chart has no mark")?;
    let all = comments(&values);
    let mut table = String::from("\n| value | default | what |\n| --- | --- | --- |\n");
    for (path, comment) in &all {
        let inner = format!("{path}.");
        let is_leaf = !all.iter().any(|(other, _)| other.starts_with(&inner));
        if !is_leaf && comment.is_empty() {
            continue;
        }
        let value = path.split('.').fold(&parsed, |value, key| &value[key]);
        let _ = writeln!(table, "| `{path}` | `{value}` | {comment} |");
    }
    generated("helm/fanfare/README.md", &format!("{before}{MARK}{table}"))
}

/// A chart can only hold what lies in its directory.
#[test]
fn documents_of_observability_are_in_the_chart() -> Result<()> {
    let from = |path: &str| format!("deploy/observability/{path}");
    generated("helm/fanfare/files/alerts.yml", &read(from("alerts.yml"))?)?;
    let dashboards = files(&root().join(from("grafana/dashboards")), &["json"])?;
    ensure!(!dashboards.is_empty(), "no dashboards");
    for dashboard in dashboards {
        let name = dashboard.file_name().unwrap_or_default().to_string_lossy();
        generated(
            &format!("helm/fanfare/files/dashboards/{name}"),
            &read(&dashboard)?,
        )?;
    }
    Ok(())
}

/// Words of a text that begin like a variable of ours.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |char: char| char.is_ascii_uppercase() || char.is_ascii_digit() || char == '_';
    text.split(move |char| !is_part(char))
        .filter(|word| word.starts_with("FANFARE_") || word.starts_with("__") || word.starts_with("OTEL_"))
}

#[test]
fn every_variable_in_a_document_exists() -> Result<()> {
    let mut source = String::new();
    for file in files(root(), &["rs", "mjs", "py"])? {
        source.push_str(&read(file)?);
    }
    let is_key = |short: &str| SETTINGS.iter().any(|setting| setting.variable().ends_with(short));
    let mut mistakes = Vec::new();
    for file in files(
        root(),
        &[
            "md",
            "yaml",
            "yml",
            "tpl",
            "toml",
            "conf",
            "service",
            "sh",
            "env",
            "Dockerfile",
        ],
    )? {
        let text = read(&file)?;
        for word in variables(&text) {
            let short = word.trim_end_matches('_');
            let known = if word.ends_with('_') || short.is_empty() {
                true // as in FANFARE_<SECTION>__<KEY>
            } else if word.starts_with("__") {
                is_key(word)
            } else {
                names::is_variable(word) || !word.contains("__") && source.contains(word)
            };
            if !known {
                mistakes.push(format!("{}: {word}", file.display()));
            }
        }
    }
    none(&mistakes)
}

/// Command lines of the program that a text shows: what follows `fanfare ` in code, up to the end of the line.
fn command_lines(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        let spans: Vec<&str> = if in_block {
            vec![line]
        } else {
            line.split('`').skip(1).step_by(2).collect()
        };
        for span in spans {
            // Another program's line that has our name in it.
            if ["kubectl", "helm ", "nextest"]
                .iter()
                .any(|other| span.contains(other))
            {
                continue;
            }
            let begins = ["fanfare ", "cargo run --release -- "];
            for begin in begins {
                if let Some(at) = span.find(begin) {
                    let rest = &span[at + begin.len()..];
                    found.push(rest.split('#').next().unwrap_or_default());
                }
            }
        }
    }
    found
}

#[test]
fn every_flag_in_a_document_exists() -> Result<()> {
    let flags = names::flags(&names::help()?);
    let mut mistakes = Vec::new();
    let mut seen = 0;
    for file in files(root(), &["md"])? {
        for line in command_lines(&read(&file)?) {
            for flag in line.split_whitespace().filter_map(names::flag) {
                seen += 1;
                if !flags.contains(&flag) && flag != "--help" {
                    mistakes.push(format!("{}: {flag} in `fanfare {line}`", file.display()));
                }
            }
        }
    }
    ensure!(seen > 10, "only {seen} flags found in documents");
    none(&mistakes)
}
