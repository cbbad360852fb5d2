//! `deploy/compose.yaml` and what it builds and mounts, as far as they can be looked at without a container engine.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tests::servers::program;

use crate::{
    manifests::{items, render, text, yaml},
    names::is_variable,
    none, read, root,
};

#[test]
fn it_is_the_whole_system_and_what_it_mounts_exists() -> Result<()> {
    let compose = yaml(&read("deploy/compose.yaml")?)?;
    let services = compose["services"].as_object().context("services")?;
    let mut mistakes = Vec::new();
    let mut roles = BTreeMap::<&str, usize>::new();
    for (name, service) in services {
        for volume in items(&service["volumes"]) {
            let (source, _) = text(volume).split_once(':').context("a mount")?;
            let is_named = compose["volumes"].get(source).is_some();
            if !is_named && !root().join("deploy").join(source).exists() {
                mistakes.push(format!("{name} mounts {source}, which does not exist"));
            }
        }
        for other in names_of(&service["depends_on"]) {
            if !services.contains_key(other) {
                mistakes.push(format!("{name} depends on {other}"));
            }
        }
        let is_ours = text(&service["image"]).contains("FANFARE_IMAGE");
        if !is_ours {
            let image = text(&service["image"]);
            if image
                .rsplit_once(':')
                .is_none_or(|(_, tag)| tag == "latest" || tag.contains('/'))
            {
                mistakes.push(format!("{name}: {image} has no version"));
            }
            continue;
        }
        *roles.entry(text(&service["command"][0])).or_default() += 1;
        for variable in service["environment"].as_object().context("environment")?.keys() {
            if !is_variable(variable) {
                mistakes.push(format!("{name}: {variable} is no variable of the program"));
            }
        }
        for (key, wanted) in [
            ("read_only", Value::Bool(true)),
            ("stop_grace_period", "45s".into()),
        ] {
            if service[key] != wanted {
                mistakes.push(format!("{name}: {key} is {}", service[key]));
            }
        }
    }
    for (role, count) in [("gateway", 2), ("fanout", 2), ("presence", 2)] {
        if roles.get(role) != Some(&count) {
            mistakes.push(format!("{count} of {role}, not {roles:?}"));
        }
    }
    for needed in ["nginx", "nats", "redis", "prometheus", "grafana", "collector"] {
        if !services.contains_key(needed) {
            mistakes.push(format!("{needed} is missing"));
        }
    }
    none(&mistakes)
}

/// `depends_on` is a list or a table.
fn names_of(list: &Value) -> Vec<&str> {
    match list {
        Value::Object(table) => table.keys().map(String::as_str).collect(),
        list => items(list).iter().map(text).collect(),
    }
}

#[test]
fn the_dockerfile_passes_its_linter() -> Result<()> {
    let output = Command::new(program("hadolint")?)
        .arg(root().join("deploy/docker/Dockerfile"))
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}

/// The configurations of compose and of the chart, as nats-server reads them.
#[test]
fn nats_takes_its_configuration() -> Result<()> {
    let chart = render(Path::new("helm/fanfare/ci/try-out-values.yaml"), &[], &[])?;
    let of_chart = text(&chart.one("ConfigMap", "nats")?["data"]["nats.conf"]).to_owned();
    for configuration in [read("deploy/compose/nats.conf")?, of_chart] {
        let directory = TempDir::with_prefix("fanfare-nats-conf-")?;
        let file = directory.path().join("nats.conf");
        let store = directory.path().join("store");
        fs::write(&file, configuration.replace("/data", &store.to_string_lossy()))?;
        let output = Command::new(program("nats-server-current")?)
            .args(["-t", "-c"])
            .arg(&file)
            .output()?;
        ensure!(
            output.status.success(),
            "{configuration}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[test]
fn the_proxy_knows_the_gateways() -> Result<()> {
    let compose = yaml(&read("deploy/compose.yaml")?)?;
    let upstream = read("deploy/compose/upstream.conf")?;
    for gateway in ["gateway-1", "gateway-2"] {
        ensure!(
            upstream.contains(&format!("server {gateway}:3001")),
            "{gateway} in upstream.conf"
        );
        let advertised = &compose["services"][gateway]["environment"]["FANFARE_GATEWAY__ADVERTISE"];
        ensure!(
            *advertised == format!("{gateway}:7001"),
            "{gateway} advertises {advertised}"
        );
    }
    Ok(())
}
