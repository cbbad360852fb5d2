//! The dashboards and alerts that are delivered, on a real Prometheus that scrapes a running cluster.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Client, Cluster};

use crate::{
    SIZE, project,
    prometheus::{Prometheus, promtool},
    runtime, visit,
};

const DASHBOARDS: [&str; 2] = ["fanfare", "operators"];
/// Rates are taken over so long here.
const RATE: &str = "8s";

#[test]
fn rules_pass_their_tests() -> Result<()> {
    let directory = project("deploy/observability");
    promtool(&directory, &["check", "config", "prometheus.yml"])?;
    promtool(&directory, &["test", "rules", "alerts_test.yml"])
}

#[test]
fn dashboards_have_their_rows_and_filters() -> Result<()> {
    let fanfare = dashboard("fanfare")?;
    let rows: Vec<_> = panels(&fanfare)?
        .iter()
        .filter(|panel| panel["type"] == "row")
        .map(|panel| panel["title"].clone())
        .collect();
    let expected = [
        "Connection status",
        "Connection activity",
        "Messages",
        "Performance",
        "Authentication and errors",
    ];
    ensure!(rows == expected, "{rows:?}");
    for name in DASHBOARDS {
        let dashboard = dashboard(name)?;
        let variables = dashboard["templating"]["list"].as_array().context("variables")?;
        let has = |name: &str| variables.iter().any(|variable| variable["name"] == name);
        ensure!(has("datasource") && has("environment"), "{name}: {variables:?}");
        ensure!(name != "fanfare" || has("namespace"), "{name}: {variables:?}");
        let mut ids: Vec<_> = panels(&dashboard)?
            .iter()
            .map(|panel| panel["id"].as_u64())
            .collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        ensure!(
            ids.len() == count && !ids.contains(&None),
            "{name}: panels without an id of their own"
        );
    }
    Ok(())
}

#[test]
fn prometheus_evaluates_every_dashboard_and_alert() -> Result<()> {
    Cluster::run(SIZE, &[("ENVIRONMENT", "staging")], |cluster| {
        cluster.until_settled()?;
        let prometheus = Prometheus::start(cluster)?;
        let runtime = runtime()?;
        let mut members: Vec<Client> = Vec::new();
        // Rates need a past with several scrapes in it in which something happened.
        for second in 2..=10 {
            members.extend(runtime.block_on(visit(cluster))?);
            prometheus.until_it_knows(Duration::from_secs(second))?;
        }
        let mut silent = Vec::new();
        for name in DASHBOARDS {
            for (panel, expression) in expressions(&dashboard(name)?)? {
                let expression = expression
                    .replace("$__rate_interval", RATE)
                    .replace("$environment", "staging")
                    .replace("$namespace", ".*");
                ensure!(!expression.contains('$'), "{panel}: {expression}");
                if prometheus.query(&expression)?.is_empty() {
                    silent.push(format!("{name}, {panel}: {expression}"));
                }
            }
        }
        ensure!(silent.is_empty(), "no data:\n{}", silent.join("\n"));
        alerts(&prometheus)?;
        drop(members);
        Ok(())
    })
}

/// Every rule is evaluated without an error, reads metrics that are there, and none fires on a healthy cluster.
fn alerts(prometheus: &Prometheus) -> Result<()> {
    let answer = prometheus.ask("/api/v1/rules")?;
    let groups = answer["data"]["groups"].as_array().context("groups")?;
    let mut known = 0;
    for rule in groups
        .iter()
        .filter_map(|group| group["rules"].as_array())
        .flatten()
    {
        known += 1;
        ensure!(rule["health"] == "ok", "{rule}");
        ensure!(rule["state"] != "firing", "{rule}");
        let query = rule["query"].as_str().context("a rule has a query")?;
        for metric in metrics_of(query) {
            let found = prometheus.query(&format!("count({metric})"))?;
            ensure!(
                !found.is_empty(),
                "{} reads {metric}, which nobody exports",
                rule["name"]
            );
        }
    }
    ensure!(known > 20, "only {known} rules");
    Ok(())
}

/// The names of metrics in an expression.
fn metrics_of(expression: &str) -> Vec<&str> {
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let mut metrics: Vec<_> = words
        .filter(|word| {
            ["fanfare_", "socket_", "process_"]
                .iter()
                .any(|prefix| word.starts_with(prefix))
        })
        .collect();
    metrics.sort_unstable();
    metrics.dedup();
    metrics
}

fn dashboard(name: &str) -> Result<Value> {
    let file = project(&format!("deploy/observability/grafana/dashboards/{name}.json"));
    Ok(serde_json::from_str(&fs::read_to_string(file)?)?)
}

fn panels(dashboard: &Value) -> Result<&Vec<Value>> {
    dashboard["panels"].as_array().context("panels")
}

/// Every expression with the title of its panel.
fn expressions(dashboard: &Value) -> Result<Vec<(String, String)>> {
    let none = json!([]);
    let mut found = Vec::new();
    for panel in panels(dashboard)? {
        let targets = panel
            .get("targets")
            .unwrap_or(&none)
            .as_array()
            .context("targets")?;
        for target in targets {
            let expression = target["expr"].as_str().context("an expression")?;
            found.push((panel["title"].to_string(), expression.to_owned()));
        }
    }
    ensure!(!found.is_empty(), "a dashboard without expressions");
    Ok(found)
}
