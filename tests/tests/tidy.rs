//! The rules of the house that no compiler checks: which crate may know which, what source files look like, and
//! that the guides tell the truth about paths and commands.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The kit: what every service is put together with.
const KIT: &[&str] = &["config", "lifecycle", "telemetry"];

/// Which of our crates a crate may depend on, the kit aside where `kit` says so. Less is fine, anything else an
/// error. `None`: all of them.
struct Edges {
    of: &'static str,
    to: Option<&'static [&'static str]>,
    kit: bool,
}

const fn edges(of: &'static str, to: &'static [&'static str]) -> Edges {
    Edges {
        of,
        to: Some(to),
        kit: false,
    }
}

const fn service(of: &'static str, to: &'static [&'static str]) -> Edges {
    Edges {
        of,
        to: Some(to),
        kit: true,
    }
}

/// Puts everything together; nobody depends on it.
const fn top(of: &'static str) -> Edges {
    Edges {
        of,
        to: None,
        kit: true,
    }
}

const EDGES: &[Edges] = &[
    top("fanfare"),
    top("tests"),
    top("simulation"),
    top("bench"),
    top("instructions"),
    service(
        "gateway",
        &[
            "app",
            "auth",
            "bus",
            "calls",
            "delivery",
            "limits",
            "model",
            "notifications",
            "proto",
            "publisher",
            "sio",
        ],
    ),
    service(
        "fanout",
        &[
            "apikeys",
            "bus",
            "delivery",
            "model",
            "proto",
            "publisher",
            "registry",
        ],
    ),
    service("presence", &["apikeys", "bus", "model", "proto", "registry"]),
    edges("app", &["bus", "calls", "config", "lifecycle", "model"]),
    edges("auth", &["calls", "config", "lifecycle", "model"]),
    edges("bus", &["model", "proto", "servers"]),
    edges("delivery", &["lifecycle", "model", "proto", "servers"]),
    edges("registry", &["model", "servers"]),
    edges("apikeys", &["config"]),
    edges(
        "notifications",
        &[
            "bus",
            "calls",
            "lifecycle",
            "limits",
            "model",
            "proto",
            "publisher",
            "telemetry",
        ],
    ),
    edges("publisher", &["bus", "model", "proto", "sio", "telemetry"]),
    edges("proto", &["model"]),
    edges("sio", &[]),
    edges("model", &[]),
    edges("limits", &["registry"]),
    edges("calls", &[]),
    edges("config", &[]),
    edges("lifecycle", &[]),
    edges("telemetry", &["model"]),
    edges("servers", &[]),
];

/// Services meet in ports and records, in tests too.
const SERVICES: &[&str] = &["gateway", "fanout", "presence"];

/// Foreign crates that only these of ours may depend on, so that the rest stays free of the engine behind a port.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("async-nats", &["bus"]),
    ("redis", &["registry"]),
    ("tonic", &["delivery", "fanout", "presence", "proto"]),
];

/// Crates without runtime, clock, randomness or I/O, and what would bring them in.
const SANS_IO: &[&str] = &["model", "sio"];
const IO_CRATES: &[&str] = &["axum", "hyper", "rand", "socket2", "tokio", "tokio-util"];
const IO_PATHS: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::net",
    "std::thread",
];

const MAX_LINES: usize = 700;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// None for `[dependencies]`, else `dev` or `build`.
    kind: Option<String>,
    /// Of a crate of this workspace.
    path: Option<PathBuf>,
}

impl Dependency {
    fn is_dev(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = root().join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn packages() -> Result<Vec<Package>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Metadata = serde_json::from_slice(&output.stdout)?;
    Ok(metadata.packages)
}

/// Every mistake in one run.
fn none(mistakes: &[String]) -> Result<()> {
    ensure!(mistakes.is_empty(), "\n{}", mistakes.join("\n"));
    Ok(())
}

/// Files of the project with one of these extensions; nothing built, installed or hidden.
fn files(extensions: &[&str]) -> Result<Vec<PathBuf>> {
    const NOT_OURS: &[&str] = &["target", "node_modules", "vendor", "dist", "corpus"];
    let mut found = Vec::new();
    let mut directories = vec![root().to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                if !name.starts_with('.') && !NOT_OURS.contains(&&*name) && !path.ends_with("proto/gen") {
                    directories.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
            {
                found.push(path);
            }
        }
    }
    ensure!(!found.is_empty(), "no files at all: {}", root().display());
    Ok(found)
}

fn shown(path: &Path) -> std::path::Display<'_> {
    path.strip_prefix(root()).unwrap_or(path).display()
}

#[test]
fn crates_depend_only_on_whom_they_may() -> Result<()> {
    let packages = packages()?;
    let mut mistakes = Vec::new();
    for package in &packages {
        let name = package.name.as_str();
        let Some(edges) = EDGES.iter().find(|edges| edges.of == name) else {
            mistakes.push(format!("{name} is not in the table of edges"));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            if dependency.path.is_none() || to == name {
                continue;
            }
            let allowed = edges.to.is_none_or(|allowed| allowed.contains(&to))
                || edges.kit && KIT.contains(&to)
                || dependency.is_dev() && !(SERVICES.contains(&name) && SERVICES.contains(&to));
            if !allowed {
                mistakes.push(format!("{name} must not depend on {to}"));
            }
        }
    }
    for edges in EDGES {
        if packages.iter().all(|package| package.name != edges.of) {
            mistakes.push(format!("{} has edges and is no crate", edges.of));
        }
    }
    none(&mistakes)
}

#[test]
fn engines_stay_behind_their_ports() -> Result<()> {
    let mut mistakes = Vec::new();
    for package in packages()? {
        let name = package.name.as_str();
        for dependency in package.dependencies.iter().filter(|found| !found.is_dev()) {
            let foreign = dependency.name.as_str();
            for (engine, users) in ONLY_IN {
                if foreign == *engine && !users.contains(&name) {
                    mistakes.push(format!(
                        "{name} must not depend on {engine}: only {}",
                        users.join(", ")
                    ));
                }
            }
            if SANS_IO.contains(&name) && IO_CRATES.contains(&foreign) {
                mistakes.push(format!("{name} must not depend on {foreign}: it does no I/O"));
            }
        }
    }
    for path in files(&["rs"])? {
        let of_sans_io = SANS_IO
            .iter()
            .any(|name| path.starts_with(root().join("libs").join(name).join("src")));
        if !of_sans_io {
            continue;
        }
        let text = read(&path)?;
        for used in IO_PATHS.iter().filter(|used| text.contains(**used)) {
            mistakes.push(format!("{}: {used}, in a crate that does no I/O", shown(&path)));
        }
    }
    none(&mistakes)
}

#[test]
fn crates_take_lints_and_versions_from_the_workspace() -> Result<()> {
    let mut mistakes = Vec::new();
    for package in packages()? {
        let manifest: toml::Table = read(&package.manifest_path)?.parse()?;
        let inherits =
            |table: &toml::Value| table.get("workspace").and_then(toml::Value::as_bool) == Some(true);
        let name = &package.name;
        if !manifest.get("lints").is_some_and(inherits) {
            mistakes.push(format!("{name}: no [lints] workspace = true"));
        }
        for key in ["version", "edition", "rust-version", "license", "publish"] {
            let taken = manifest.get("package").and_then(|package| package.get(key));
            if !taken.is_some_and(inherits) {
                mistakes.push(format!("{name}: {key} is not the workspace's"));
            }
        }
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let dependencies = manifest.get(section).and_then(toml::Value::as_table);
            for (dependency, how) in dependencies.into_iter().flatten() {
                if !inherits(how) {
                    mistakes.push(format!(
                        "{name}: {dependency} belongs into [workspace.dependencies]"
                    ));
                }
            }
        }
    }
    none(&mistakes)
}

#[test]
fn sources_are_short_and_clean() -> Result<()> {
    // In two parts, so that this file does not find itself.
    let unfinished = [("todo", "!("), ("unimplemented", "!("), ("dbg", "!(")].map(|(a, b)| format!("{a}{b}"));
    let mut mistakes = Vec::new();
    for path in files(&["rs", "mjs", "js", "ts", "tsx", "py", "css", "html"])? {
        let text = read(&path)?;
        let lines = text.lines().count();
        if lines > MAX_LINES {
            mistakes.push(format!(
                "{}: {lines} lines, more than {MAX_LINES}: it has more than one reason to change",
                shown(&path)
            ));
        }
        for (number, line) in (1..).zip(text.lines()) {
            let mut found = |what: &str| mistakes.push(format!("{}:{number}: {what}", shown(&path)));
            if line.ends_with([' ', '\t']) {
                found("white space at the end");
            }
            if line.contains('\t') {
                found("a tab");
            }
            if path.extension().is_some_and(|extension| extension == "rs") {
                for word in unfinished.iter().filter(|word| line.contains(word.as_str())) {
                    found(&format!("{word}…)"));
                }
            }
        }
    }
    none(&mistakes)
}

#[test]
fn readme_begins_with_the_two_commands() -> Result<()> {
    let readme = read("README.md")?;
    let block = readme
        .split("```")
        .nth(1)
        .context("README.md has no code block")?;
    for command in ["cargo run --release", "make test"] {
        ensure!(
            block.contains(command),
            "the first code block of README.md lacks `{command}`"
        );
    }
    Ok(())
}

#[test]
fn code_map_names_what_exists() -> Result<()> {
    let architecture = read("ARCHITECTURE.md")?;
    let (_, map) = architecture
        .split_once("## Code map")
        .context("ARCHITECTURE.md has no section `Code map`")?;
    let map = map.split("\n## ").next().unwrap_or(map);
    let named: BTreeSet<_> = map
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.split('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    ensure!(
        !named.is_empty(),
        "the code map names no path in the first column of its table"
    );

    let mut mistakes = Vec::new();
    for path in &named {
        if !root().join(path).exists() {
            mistakes.push(format!("the code map names {path}, which does not exist"));
        }
    }
    for package in packages()? {
        let directory = package
            .manifest_path
            .parent()
            .context("a manifest lies in a directory")?;
        let directory = shown(directory).to_string();
        if !named.iter().any(|path| path.starts_with(&directory)) {
            mistakes.push(format!("the code map lacks {directory}/"));
        }
    }
    none(&mistakes)
}
