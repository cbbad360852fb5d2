//! A Prometheus of the test's own that scrapes a cluster.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{
    Cluster, Process,
    servers::{free_port, program},
    until,
};

use crate::{get, jobs, project};

const START: Duration = Duration::from_secs(30);

/// A running Prometheus. Dropping it kills it.
pub(crate) struct Prometheus {
    address: String,
    since: Instant,
    _process: Process,
    _directory: TempDir,
}

impl Prometheus {
    /// Scrapes every process of the cluster once a second, under the job names of `deploy/observability`, with its
    /// alerts.
    pub(crate) fn start(cluster: &Cluster) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let scrapes: Vec<_> = jobs(cluster)
            .iter()
            .map(|(job, instances)| {
                let targets: Vec<_> = instances.iter().map(|instance| instance.admin()).collect();
                json!({ "job_name": job, "static_configs": [{ "targets": targets }] })
            })
            .collect();
        let config = json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [project("deploy/observability/alerts.yml")],
            "scrape_configs": scrapes,
        });
        // JSON is YAML.
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, config.to_string())?;
        let port = free_port()?;
        let address = format!("127.0.0.1:{port}");
        let process = Process::start(
            "prometheus",
            Command::new(program("prometheus")?)
                .arg(format!("--config.file={}", file.display()))
                .arg(format!(
                    "--storage.tsdb.path={}",
                    directory.path().join("data").display()
                ))
                .arg(format!("--web.listen-address={address}")),
        )?;
        let started = Self {
            address,
            since: Instant::now(),
            _process: process,
            _directory: directory,
        };
        until("Prometheus answers", START, || {
            Ok(get(&started.address, "/-/ready").is_ok())
        })
        .with_context(|| started._process.output())?;
        let targets = jobs(cluster)
            .iter()
            .map(|(_, instances)| instances.len())
            .sum::<usize>();
        let all_up = format!(r#"sum(up{{job=~"fanfare-.*"}}) == {targets}"#);
        until("everything is scraped", START, || {
            Ok(!started.query(&all_up)?.is_empty())
        })?;
        Ok(started)
    }

    /// Waits until there is a past of so long.
    pub(crate) fn until_it_knows(&self, past: Duration) -> Result<()> {
        until("time passes", past * 2, || Ok(self.since.elapsed() > past))
    }

    /// The samples of an instant query.
    pub(crate) fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let answer = self.ask(&format!("/api/v1/query?query={}", encoded(expression)))?;
        let samples = answer["data"]["result"].as_array();
        Ok(samples
            .with_context(|| format!("{expression}: {answer}"))?
            .clone())
    }

    /// What the API answers.
    pub(crate) fn ask(&self, path: &str) -> Result<Value> {
        let answer: Value = serde_json::from_str(&get(&self.address, path)?)?;
        ensure!(answer["status"] == "success", "{path}: {answer}");
        Ok(answer)
    }
}

/// Runs promtool in a directory.
pub(crate) fn promtool(directory: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program("promtool")?)
        .args(arguments)
        .current_dir(directory)
        .output()?;
    ensure!(
        output.status.success(),
        "promtool {arguments:?}:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn encoded(text: &str) -> String {
    let bytes = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    bytes.collect()
}
