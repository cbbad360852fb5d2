//! Who may talk to whom: the chart's network policies.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    chart::{ROLES, container, everywhere, pod_of},
    manifests::{items, render, text},
    names::of_contract,
    none,
};

fn ports(list: &Value, key: &str) -> BTreeSet<u64> {
    items(list).iter().filter_map(|port| port[key].as_u64()).collect()
}

#[test]
fn network_policies_open_the_ports_that_containers_have() -> Result<()> {
    everywhere(&[], |rendered, mistakes| {
        for role in ROLES {
            let deployment = rendered.one("Deployment", role)?;
            let of_container = ports(&container(deployment)["ports"], "containerPort");
            let promised: BTreeSet<u64> = of_contract(role).into_iter().collect();
            if of_container != promised {
                mistakes.push(format!("{role}: ports {of_container:?}, CONTRACT {promised:?}"));
            }
            let Ok(policy) = rendered.one("NetworkPolicy", role) else {
                continue;
            };
            let rules = items(&policy["spec"]["ingress"]);
            let open: BTreeSet<u64> = rules
                .iter()
                .flat_map(|rule| ports(&rule["ports"], "port"))
                .collect();
            if open != of_container {
                mistakes.push(format!("{role}: the policy opens {open:?} of {of_container:?}"));
            }
            for rule in rules {
                let public = ports(&rule["ports"], "port").contains(&3001);
                if !public && rule["from"].is_null() {
                    mistakes.push(format!("{role}: {} for anybody", rule["ports"]));
                }
            }
        }
        Ok(())
    })
}

/// The roles that a rule's peers are, all of this release.
fn components(peers: &Value) -> BTreeSet<&str> {
    let labels = items(peers)
        .iter()
        .map(|peer| &peer["podSelector"]["matchLabels"])
        .filter(|labels| labels["app.kubernetes.io/instance"] == "test");
    labels
        .map(|labels| text(&labels["app.kubernetes.io/component"]))
        .collect()
}

#[test]
fn roles_reach_what_they_need_and_each_other_s_internal_port_alone() -> Result<()> {
    everywhere(&[], |rendered, mistakes| {
        for role in ROLES {
            let Ok(policy) = rendered.one("NetworkPolicy", role) else {
                continue;
            };
            let is_gateway = role == "gateway";
            let mut needed = BTreeSet::from([53, 4222, 6379, 443, 4317, 4318]);
            needed.extend((role != "presence").then_some(7001));
            let pod = &rendered.one("Deployment", role)?["spec"]["template"]["spec"];
            needed.extend((items(&pod["containers"]).len() > 1).then_some(6443));
            let mut open = BTreeSet::new();
            for rule in items(&policy["spec"]["egress"]) {
                let ports = ports(&rule["ports"], "port");
                if ports.contains(&7001) && components(&rule["to"]) != BTreeSet::from(["gateway"]) {
                    mistakes.push(format!("{role}: 7001 of {}", rule["to"]));
                }
                open.extend(ports);
            }
            if open != needed {
                mistakes.push(format!("{role} reaches {open:?}, and needs {needed:?}"));
            }
            let inner = items(&policy["spec"]["ingress"])
                .iter()
                .find(|rule| ports(&rule["ports"], "port").contains(&7001));
            let inner = inner.map(|rule| components(&rule["from"]));
            if inner != is_gateway.then_some(BTreeSet::from(["fanout", "gateway"])) {
                mistakes.push(format!("{role}: 7001 is open for {inner:?}"));
            }
        }
        Ok(())
    })?;
    let chart = render(Path::new("helm/fanfare/ci/alb-values.yaml"), &[], &[])?;
    for role in ROLES {
        let rules = items(&chart.one("NetworkPolicy", role)?["spec"]["egress"]);
        let to = |port| {
            let rule = rules
                .iter()
                .find(|rule| ports(&rule["ports"], "port").contains(&port));
            rule.map(|rule| &rule["to"][0]).context("a rule")
        };
        let nats = to(4222)?;
        ensure!(nats["namespaceSelector"].is_object(), "{role}: NATS is {nats}");
        let redis = to(6379)?;
        ensure!(redis["ipBlock"].is_object(), "{role}: Redis is {redis}");
    }
    Ok(())
}

/// For Kubernetes an empty list of ports or peers is all of them.
#[test]
fn a_policy_of_nothing_is_not_one_of_everything() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let values = directory.path().join("values.yaml");
    let nothing = json!({"monitoring": [], "outgoingPorts": [], "natsPorts": [], "redisPorts": []});
    fs::write(&values, json!({ "networkPolicy": nothing }).to_string())?;
    let rendered = render(&values, &[], &[])?;
    let mut mistakes = Vec::new();
    for role in ROLES {
        let spec = &rendered.one("NetworkPolicy", role)?["spec"];
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in items(&spec[direction]) {
                let is_empty = |list: &Value| list.as_array().is_some_and(Vec::is_empty);
                let admin = rule["ports"][0]["port"].as_u64() > Some(9000);
                if items(&rule["ports"]).is_empty() || is_empty(&rule[peers]) || admin {
                    mistakes.push(format!("{role}: {direction}: {rule}"));
                }
            }
        }
    }
    none(&mistakes)
}

/// A policy closes the pods that it selects to everybody else: built-in NATS and Redis have none.
#[test]
fn a_test_run_closes_nothing() -> Result<()> {
    let values = Path::new("helm/fanfare/ci/try-out-values.yaml");
    let rendered = render(values, &["networkPolicy.enabled=true"], &[])?;
    let policy = rendered.one("NetworkPolicy", "-test")?;
    let selector = &policy["spec"]["podSelector"];
    let expression = &selector["matchExpressions"][0];
    ensure!(expression["operator"] == "In", "{expression}");
    let components = items(&expression["values"]);
    let labels = selector["matchLabels"].as_object().context("labels")?;
    let component = "app.kubernetes.io/component";
    let selected: BTreeSet<_> = rendered
        .objects
        .iter()
        .filter_map(pod_of)
        .map(|pod| &pod["metadata"]["labels"])
        .filter(|of_pod| labels.iter().all(|(key, value)| of_pod[key] == *value))
        .filter(|of_pod| components.contains(&of_pod[component]))
        .map(|of_pod| text(&of_pod[component]))
        .collect();
    ensure!(selected == BTreeSet::from(ROLES), "{selected:?}");
    let kept_until = text(&policy["metadata"]["annotations"]["helm.sh/hook-delete-policy"]);
    ensure!(kept_until.contains("hook-failed"), "{kept_until}");
    Ok(())
}

/// A balancer's addresses are no pods.
#[test]
fn a_balancer_reaches_presence_through_the_policy() -> Result<()> {
    let values = Path::new("helm/fanfare/ci/alb-values.yaml");
    let peers = |set: &[&str]| -> Result<Value> {
        let rendered = render(values, set, &[])?;
        let rules = items(&rendered.one("NetworkPolicy", "presence")?["spec"]["ingress"]).iter();
        let mut rules = rules.filter(|rule| rule["ports"][0]["port"] == 7004);
        Ok(rules.next().context("7004 is open")?["from"].clone())
    };
    let (pods, balancer) = (
        json!({"podSelector": {}}),
        json!({"ipBlock": {"cidr": "10.0.0.0/16"}}),
    );
    let open = peers(&[])?;
    ensure!(open == json!([pods, balancer]), "{open}");
    let open = peers(&["ingress.alb.presence.enabled=false"])?;
    ensure!(open == json!([pods]), "{open}");
    let error = render(values, &["networkPolicy.clients=null"], &[]).err();
    let error = error.context("nobody names the balancer")?;
    ensure!(error.to_string().contains("networkPolicy.clients"), "{error:#}");
    Ok(())
}
