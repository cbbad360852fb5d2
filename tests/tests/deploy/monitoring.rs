//! `deploy/observability` fits together, and fits compose and the chart: what a pipeline names is there, and who calls
//! whom finds the port that the other listens on.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    manifests::{chart_file, items, render, text, yaml},
    none, read,
};

const PORTS: [(&str, u16); 3] = [("gateway", 9091), ("fanout", 9092), ("presence", 9093)];

fn keys(table: &Value) -> BTreeSet<&str> {
    table
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .collect()
}

/// What stands there when nobody sets the variable: `${env:NAME:-default}`.
fn default_of(text: &str) -> &str {
    let default = text
        .strip_prefix("${env:")
        .and_then(|rest| rest.strip_suffix('}')?.split_once(":-"));
    default.map_or(text, |(_, default)| default)
}

fn port(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

/// The names by which containers of the compose file find each other.
fn hosts(compose: &Value) -> Result<BTreeSet<&str>> {
    let services = compose["services"].as_object().context("services")?;
    let mut hosts: BTreeSet<&str> = services.keys().map(String::as_str).collect();
    for service in services.values() {
        hosts.extend(items(&service["networks"]["default"]["aliases"]).iter().map(text));
    }
    Ok(hosts)
}

/// Where a service of the compose file mounts something.
fn mounts<'a>(compose: &'a Value, service: &str) -> Vec<&'a str> {
    let volumes = items(&compose["services"][service]["volumes"]).iter().map(text);
    volumes.filter_map(|volume| volume.split(':').nth(1)).collect()
}

#[test]
fn every_pipeline_of_the_collector_is_made_of_what_is_there() -> Result<()> {
    let collector = yaml(&read("deploy/observability/collector.yaml")?)?;
    let service = &collector["service"];
    let mut mistakes = Vec::new();
    let extensions = items(&service["extensions"]).iter().map(text).collect();
    if keys(&collector["extensions"]) != extensions {
        mistakes.push(format!("extensions in use: {extensions:?}"));
    }
    let mut used: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (name, pipeline) in service["pipelines"].as_object().context("pipelines")? {
        for part in ["receivers", "processors", "exporters"] {
            let defined = keys(&collector[part]);
            let named: Vec<_> = items(&pipeline[part])
                .iter()
                .map(|item| default_of(text(item)))
                .collect();
            for missing in named.iter().filter(|one| !defined.contains(*one)) {
                mistakes.push(format!("{name}: {part}: {missing} is not defined"));
            }
            if named.is_empty() {
                mistakes.push(format!("{name} has no {part}"));
            }
            used.extend(named.into_iter().map(|one| (part, one)));
        }
        // The collector's own advice: what refuses comes first.
        let first = items(&pipeline["processors"]).first().map(text);
        if first != Some("memory_limiter") {
            mistakes.push(format!("{name} begins with {first:?}"));
        }
    }
    let compose = yaml(&read("deploy/compose.yaml")?)?;
    let passed: Vec<_> = items(&compose["services"]["collector"]["environment"])
        .iter()
        .map(text)
        .collect();
    for variable in read("deploy/observability/collector.yaml")?
        .split("${env:")
        .skip(1)
    {
        let (name, _) = variable.split_once(":-").context("a default")?;
        if !passed.contains(&name) {
            mistakes.push(format!("compose does not pass {name}"));
        }
    }
    // The one that is not the default is chosen by TRACES_EXPORTER.
    used.insert(("exporters", "otlp"));
    for part in ["receivers", "processors", "exporters"] {
        let idle = keys(&collector[part]).into_iter();
        mistakes.extend(
            idle.filter(|one| !used.contains(&(part, *one)))
                .map(|one| format!("{part}: {one} is in no pipeline")),
        );
    }
    none(&mistakes)
}

#[test]
fn everybody_is_reached_where_they_listen() -> Result<()> {
    let compose = yaml(&read("deploy/compose.yaml")?)?;
    let collector = yaml(&read("deploy/observability/collector.yaml")?)?;
    let prometheus = yaml(&read("deploy/observability/prometheus.yml")?)?;
    let chart = yaml(&chart_file("values.yaml")?)?;
    let hosts = hosts(&compose)?;
    let mut mistakes = Vec::new();
    let mut check = |what: String, fits: bool| {
        if !fits {
            mistakes.push(what);
        }
    };

    let protocols = &collector["receivers"]["otlp"]["protocols"];
    let [grpc, http] = ["grpc", "http"].map(|protocol| port(text(&protocols[protocol]["endpoint"])));
    check(
        format!("OTLP at {grpc:?}, {http:?}"),
        (grpc, http) == (Some(4317), Some(4318)),
    );
    for (name, service) in compose["services"].as_object().context("services")? {
        let Some(endpoint) = service["environment"].get("OTEL_EXPORTER_OTLP_ENDPOINT") else {
            continue;
        };
        let told = text(endpoint);
        check(
            format!("{name} sends spans to {told}"),
            told.starts_with("http://collector:") && port(told) == grpc,
        );
    }
    check("a collector in compose".to_owned(), hosts.contains("collector"));
    let open: Vec<_> = items(&chart["networkPolicy"]["outgoingPorts"])
        .iter()
        .filter_map(|port| u16::try_from(port.as_u64()?).ok())
        .collect();
    for port in [grpc, http].into_iter().flatten() {
        check(format!("{port} in {open:?} of the chart"), open.contains(&port));
    }

    let reader = &collector["service"]["telemetry"]["metrics"]["readers"][0];
    let own = &reader["pull"]["exporter"]["prometheus"]["port"];
    let mut scraped = BTreeSet::new();
    for job in items(&prometheus["scrape_configs"]) {
        let name = text(&job["job_name"]);
        for found in items(&job["dns_sd_configs"]) {
            for host in items(&found["names"]).iter().map(text) {
                check(format!("{name}: there is no {host}"), hosts.contains(host));
                let role = PORTS.iter().find(|(role, _)| *role == host);
                let port = found["port"].as_u64();
                check(
                    format!("{name}: {host} at {port:?}"),
                    role.is_some_and(|(_, admin)| port == Some((*admin).into())),
                );
                scraped.insert(host);
            }
        }
        for target in items(&job["static_configs"])
            .iter()
            .flat_map(|one| items(&one["targets"]))
        {
            let target = text(target);
            check(
                format!("{name}: {target}, not {own}"),
                target.starts_with("collector:") && port(target).map(u64::from) == own.as_u64(),
            );
        }
    }
    check(
        format!("scraped: {scraped:?}"),
        PORTS.iter().all(|(role, _)| scraped.contains(role)),
    );
    none(&mistakes)
}

/// As Prometheus' service discovery tells a label of a service.
fn discovered(label: &str) -> String {
    let name = label.replace(|char: char| !char.is_ascii_alphanumeric(), "_");
    format!("__meta_kubernetes_service_label_{name}")
}

/// Alerts and dashboards name jobs: the chart's are those of `prometheus.yml`.
#[test]
fn jobs_of_the_chart_are_those_that_alerts_name() -> Result<()> {
    let chart = render(Path::new("helm/fanfare/ci/alb-values.yaml"), &[], &[])?;
    let monitor = chart
        .of_kind("ServiceMonitor")
        .next()
        .context("a ServiceMonitor")?;
    let rules = items(&monitor["spec"]["endpoints"][0]["relabelings"]);
    let rule = rules.iter().find(|rule| rule["targetLabel"] == "job");
    let rule = rule.context("no job")?;
    let wanted = monitor["spec"]["selector"]["matchLabels"]
        .as_object()
        .context("a selector")?;
    let mut jobs = BTreeSet::new();
    for service in chart.of_kind("Service") {
        let labels = service["metadata"]["labels"].as_object().context("labels")?;
        if wanted.iter().all(|(key, value)| labels.get(key) == Some(value)) {
            let source = text(&rule["sourceLabels"][0]);
            let label = labels.iter().find(|(key, _)| discovered(key) == source);
            let (_, value) = label.with_context(|| format!("no {source}"))?;
            jobs.insert(text(&rule["replacement"]).replace("$1", text(value)));
        }
    }
    let prometheus = yaml(&read("deploy/observability/prometheus.yml")?)?;
    let scraped = items(&prometheus["scrape_configs"]).iter();
    let scraped: BTreeSet<_> = scraped
        .map(|job| text(&job["job_name"]).to_owned())
        .filter(|name| name.starts_with("fanfare-"))
        .collect();
    ensure!(
        jobs == scraped,
        "{jobs:?} in the chart, {scraped:?} in prometheus.yml"
    );
    Ok(())
}

#[test]
fn grafana_finds_its_source_and_its_dashboards() -> Result<()> {
    let compose = yaml(&read("deploy/compose.yaml")?)?;
    let provisioning = "deploy/observability/grafana/provisioning";
    let sources = yaml(&read(format!("{provisioning}/datasources/prometheus.yaml"))?)?;
    let providers = yaml(&read(format!("{provisioning}/dashboards/fanfare.yaml"))?)?;
    let prometheus = yaml(&read("deploy/observability/prometheus.yml")?)?;
    let mut mistakes = Vec::new();
    for document in [&sources, &providers] {
        if document["apiVersion"] != 1 {
            mistakes.push(format!("apiVersion of {document}"));
        }
    }
    let (mut defaults, mut uids) = (0, BTreeSet::new());
    for source in items(&sources["datasources"]) {
        let url = text(&source["url"]);
        if source["type"] != "prometheus" || url != "http://prometheus:9090" {
            mistakes.push(format!("{url} is not compose's Prometheus"));
        }
        let interval = &prometheus["global"]["scrape_interval"];
        if source["jsonData"]["timeInterval"] != *interval {
            mistakes.push(format!("{url} is scraped every {interval}"));
        }
        defaults += usize::from(source["isDefault"] == true);
        uids.insert(text(&source["uid"]));
    }
    if defaults != 1 || uids.len() != items(&sources["datasources"]).len() {
        mistakes.push(format!("{defaults} default sources, {uids:?}"));
    }
    let mounted = mounts(&compose, "grafana");
    for provider in items(&providers["providers"]) {
        let path = text(&provider["options"]["path"]);
        if provider["type"] != "file" || !mounted.contains(&path) {
            mistakes.push(format!("{path} is not among {mounted:?}"));
        }
    }
    if !mounted.contains(&"/etc/grafana/provisioning") {
        mistakes.push("the provisioning is not mounted where Grafana looks".to_owned());
    }
    let command = text(&compose["services"]["collector"]["command"][0]);
    let file = command.strip_prefix("--config=").unwrap_or_default();
    if !mounts(&compose, "collector").contains(&file) {
        mistakes.push(format!("the collector's configuration is not at {file}"));
    }
    none(&mistakes)
}
