//! What is shipped around the program: the Helm chart, configurations of load balancers, and documents that are made
//! from the program. `UPDATE=1` writes those anew.

mod balancers;
mod chart;
mod compose;
mod deletion_cost;
mod documents;
mod manifests;
mod monitoring;
mod names;
mod policies;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

fn root() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

fn read(path: impl AsRef<Path>) -> Result<String> {
    let path = root().join(path);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Holds a file against what it must be, or writes it.
fn generated(path: &str, wanted: &str) -> Result<()> {
    let file = root().join(path);
    if std::env::var_os("UPDATE").is_some() {
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)?;
        }
        return Ok(fs::write(file, wanted)?);
    }
    let there = fs::read_to_string(&file).unwrap_or_default();
    ensure!(
        there == wanted,
        "{path} is not what the program says; UPDATE=1 cargo nextest run -p tests --test deploy documents"
    );
    Ok(())
}

/// Every mistake in one run.
fn none(mistakes: &[String]) -> Result<()> {
    ensure!(mistakes.is_empty(), "\n{}", mistakes.join("\n"));
    Ok(())
}

/// Files below a directory with one of these extensions, sorted; nothing built, installed or hidden.
fn files(directory: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    const NOT_OURS: &[&str] = &["target", "node_modules", "vendor", "corpus"];
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if !name.starts_with('.') && !NOT_OURS.contains(&&*name) {
                found.extend(files(&path, extensions)?);
            }
        } else if extensions
            .iter()
            .any(|wanted| name.rsplit('.').next() == Some(wanted))
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
