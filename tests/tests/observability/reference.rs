//! `docs/METRICS.md` is what a running cluster exports, and every name that was promised is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
};

use anyhow::{Context, Result, ensure};
use tests::{Cluster, Standalone};

use crate::{SIZE, get, jobs, project, runtime, visit};

const FILE: &str = "docs/METRICS.md";
/// CONTRACT section 8.
const PROMISED: [&str; 11] = [
    "socket_active_connections",
    "socket_connections_total",
    "socket_disconnects_total",
    "socket_messages_total",
    "socket_message_duration_seconds",
    "socket_message_size_bytes",
    "socket_active_rooms",
    "socket_active_users",
    "socket_errors_total",
    "socket_auth_events_total",
    "socket_server_uptime_seconds",
];

#[derive(Default)]
struct Family {
    help: String,
    kind: String,
    labels: BTreeSet<String>,
    roles: BTreeSet<&'static str>,
}

type Families = BTreeMap<String, Family>;

#[test]
fn the_reference_is_what_is_exported() -> Result<()> {
    let mut families = Families::new();
    // With traces, whose spans are counted too, none of them recorded; and with limits, for which gateways ask Redis.
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("FANFARE_LIMITS__EVENTS", "1000"),
    ];
    Cluster::run(SIZE, &settings, |cluster| {
        cluster.until_settled()?;
        drop(runtime()?.block_on(visit(cluster))?);
        for (job, instances) in jobs(cluster) {
            let role = job.trim_start_matches("fanfare-");
            for instance in instances {
                read(&get(instance.admin(), "/metrics")?, role, &mut families)?;
            }
        }
        Ok(())
    })?;
    let standalone = Standalone::start(&[])?;
    let mut alone = Families::new();
    let address = standalone.admin.trim_start_matches("http://");
    read(&get(address, "/metrics")?, "standalone", &mut alone)?;
    standalone.stop()?;
    for name in PROMISED {
        ensure!(families.contains_key(name), "a cluster exports no {name}");
        ensure!(
            alone.contains_key(name) || is_made_by_use(name),
            "standalone exports no {name}"
        );
    }
    let written = page(&families);
    let file = project(FILE);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&file, &written)?;
    }
    let kept = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let missing: Vec<_> = written.lines().filter(|line| !kept.contains(line)).collect();
    ensure!(
        kept == written,
        "{FILE} is not what is exported; UPDATE=1 writes it anew:\n{}",
        missing.join("\n")
    );
    Ok(())
}

/// Has labels that come with the first event only.
fn is_made_by_use(name: &str) -> bool {
    [
        "socket_disconnects_total",
        "socket_messages_total",
        "socket_message_duration_seconds",
    ]
    .contains(&name)
}

/// Adds what one process exports.
fn read(text: &str, role: &'static str, families: &mut Families) -> Result<()> {
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').context("help")?;
            current = name.to_owned();
            let family = families.entry(current.clone()).or_default();
            family.help = help.to_owned();
            family.roles.insert(role);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').context("type")?;
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if let Some((labels, _)) = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')) {
            ensure!(
                labels.contains(r#"environment=""#) || labels.contains("le="),
                "without an environment: {line}"
            );
            let names = labels
                .split(',')
                .filter_map(|label| label.split_once('='))
                .map(|(name, _)| name);
            let names = names.filter(|name| !["environment", "le"].contains(name));
            let family = families.get_mut(&current).context("a sample before its help")?;
            family.labels.extend(names.map(str::to_owned));
        } else {
            ensure!(line.is_empty(), "without labels: {line}");
        }
    }
    Ok(())
}

fn page(families: &Families) -> String {
    let mut page = "# Metrics\n\n\
        Every process exports its metrics at `/metrics` of its admin port, in Prometheus' text format. All carry the label\n\
        `environment`. Labels come from closed sets: no room, user or socket is one, an event that Fanfare does not know\n\
        counts as `other`, and so do namespaces beyond the first 64. Counters of closed sets begin at 0, so that the first\n\
        increment shows in a rate. Standalone exports what gateway, fanout and presence do, but for NATS, Redis and gRPC.\n\n\
        `socket_active_connections` is a gateway's own: sum it. `socket_active_rooms` and `socket_active_users` are the\n\
        cluster's, from presence: take the maximum.\n\n\
        Dashboards and alerts that read these: `deploy/observability`. This page is written by\n\
        `UPDATE=1 cargo nextest run -p tests the_reference_is_what_is_exported`, which otherwise fails when it is not true.\n\n\
        | metric | type | labels | roles | what |\n| --- | --- | --- | --- | --- |\n"
        .to_owned();
    for (name, family) in families {
        let list = |items: Vec<String>| items.join(", ");
        let labels = list(family.labels.iter().map(|label| format!("`{label}`")).collect());
        let roles = if family.roles.len() == 3 {
            "all".to_owned()
        } else {
            list(family.roles.iter().map(|role| (*role).to_owned()).collect())
        };
        let help = family.help.replace('|', "\\|");
        let _ = writeln!(
            page,
            "| `{name}` | {} | {labels} | {roles} | {help} |",
            family.kind
        );
    }
    page
}
