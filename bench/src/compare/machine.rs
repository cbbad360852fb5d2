//! Where the comparison ran, and with what.

use std::{fs, process::Command};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::rows::peers;
use crate::deploy::program;

/// The machine and the versions of everything on it that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// When, as year-month-day.
    pub date: String,
    /// The processor.
    pub cpu: String,
    /// How many cores this process sees.
    pub cores: usize,
    /// Memory, GiB.
    pub memory_gib: u64,
    /// Version of Linux.
    pub kernel: String,
    /// Processes that wanted to run before the first run, on average of a minute: others disturb.
    pub load: f64,
    /// What was checked out.
    pub commit: String,
    /// Names and versions.
    pub versions: Vec<(String, String)>,
}

impl Machine {
    /// This one. What cannot be found out is told as `unknown`.
    ///
    /// # Errors
    /// When the kernel does not tell what every Linux tells.
    pub fn here() -> Result<Self> {
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let cpu = cpu
            .lines()
            .find_map(|line| line.strip_prefix("model name"))
            .map_or("unknown", |line| line.trim_start_matches([' ', '\t', ':']));
        let memory = fs::read_to_string("/proc/meminfo")?;
        let kib: u64 = memory
            .split_ascii_whitespace()
            .nth(1)
            .context("no memory")?
            .parse()?;
        let load = fs::read_to_string("/proc/loadavg")?;
        let load = load.split(' ').next().context("no load")?.parse()?;
        let repository = peers().display().to_string();
        Ok(Self {
            date: said("date", &["-u", "+%F"]),
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_gib: (kib + (1 << 19)) >> 20,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            load,
            commit: said(
                "git",
                &[
                    "-C",
                    &repository,
                    "describe",
                    "--always",
                    "--dirty",
                    "--exclude",
                    "*",
                ],
            ),
            versions: versions(),
        })
    }
}

fn versions() -> Vec<(String, String)> {
    let nats = if program("nats-server-current").is_ok() {
        "nats-server-current"
    } else {
        "nats-server"
    };
    let mut versions = vec![
        ("rustc".to_owned(), word(&said("rustc", &["--version"]), 1)),
        ("Node".to_owned(), said("node", &["--version"])),
        ("nats-server".to_owned(), word(&said(nats, &["--version"]), 1)),
        (
            "redis-server".to_owned(),
            word(&said("redis-server", &["--version"]), 2).replace("v=", ""),
        ),
    ];
    versions.extend(rust_versions());
    versions.extend(node_versions());
    versions
}

/// Of the crates that are peers.
fn rust_versions() -> Vec<(String, String)> {
    let lock = fs::read_to_string(peers().join("rust/Cargo.lock")).unwrap_or_default();
    let mut versions = Vec::new();
    for package in lock.split("[[package]]") {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim_matches([' ', '=', '"']).to_owned())
        };
        if let (Some(name), Some(version)) = (field("name"), field("version"))
            && ["axum", "mio", "socketioxide", "socketioxide-redis", "tokio"].contains(&name.as_str())
        {
            versions.push((name, version));
        }
    }
    versions
}

/// Of the packages that are peers.
fn node_versions() -> Vec<(String, String)> {
    let package = fs::read_to_string(peers().join("node/package.json")).unwrap_or_default();
    let package: serde_json::Value = serde_json::from_str(&package).unwrap_or_default();
    let dependencies = package["dependencies"].as_object().into_iter().flatten();
    dependencies
        .map(|(name, version)| (name.clone(), version.as_str().unwrap_or("unknown").to_owned()))
        .collect()
}

/// What a program says, on one line.
fn said(name: &str, arguments: &[&str]) -> String {
    program(name)
        .ok()
        .and_then(|program| Command::new(program).args(arguments).output().ok())
        .filter(|output| output.status.success())
        .map_or("unknown".to_owned(), |output| {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        })
}

/// A word of it, counted from 0: the version in `rustc 1.95.0 (…)` is word 1, in `Redis server v=7.0 …` word 2.
fn word(text: &str, number: usize) -> String {
    text.split(' ').nth(number).unwrap_or(text).to_owned()
}
