//! The chart, rendered for everything that stands in `ci/`.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    manifests::{
        KUBERNETES, Rendered, chart_file, custom_mistakes, helm, items, render, text, values_files, yaml,
    },
    names::is_variable,
    none, read,
};

pub(crate) const ROLES: [&str; 3] = ["gateway", "fanout", "presence"];
/// What a gateway exports of its connections.
const CONNECTIONS: &str = "fanfare_connections";
/// The groups of Kubernetes itself; the others are custom resources.
const OWN_GROUPS: [&str; 5] = [
    "apps",
    "autoscaling",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
];

fn is_custom(object: &Value) -> bool {
    text(&object["apiVersion"])
        .split_once('/')
        .is_some_and(|(group, _)| !OWN_GROUPS.contains(&group))
}

/// Renders every values file and gathers what `check` finds.
pub(crate) fn everywhere(
    versions: &[&str],
    check: impl Fn(&Rendered, &mut Vec<String>) -> Result<()>,
) -> Result<()> {
    let mut mistakes = Vec::new();
    for file in values_files()? {
        let mut found = Vec::new();
        check(&render(&file, &[], versions)?, &mut found).with_context(|| file.display().to_string())?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        mistakes.extend(found.iter().map(|found| format!("{name}: {found}")));
    }
    none(&mistakes)
}

pub(crate) fn pod_of(object: &Value) -> Option<&Value> {
    match text(&object["kind"]) {
        "Deployment" | "StatefulSet" => Some(&object["spec"]["template"]),
        "Pod" => Some(object),
        _ => None,
    }
}

pub(crate) fn container(deployment: &Value) -> &Value {
    &deployment["spec"]["template"]["spec"]["containers"][0]
}

#[test]
fn it_passes_helms_lint() -> Result<()> {
    for file in values_files()? {
        let output = helm(
            "lint",
            &["--strict", "helm/fanfare", "--values", &file.to_string_lossy()],
        )?;
        ensure!(
            output.status.success(),
            "{}: {}{}",
            file.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[test]
fn objects_fit_the_schemas_of_kubernetes_and_of_custom_resources() -> Result<()> {
    everywhere(&KUBERNETES, |rendered, mistakes| {
        mistakes.extend_from_slice(&rendered.mistakes);
        let custom: Vec<_> = rendered
            .objects
            .iter()
            .filter(|object| is_custom(object))
            .collect();
        if !custom.is_empty() {
            mistakes.extend(custom_mistakes(&custom)?);
        }
        let mut names = BTreeSet::new();
        for object in &rendered.objects {
            let name = format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
            if !names.insert(name.clone()) {
                mistakes.push(format!("twice: {name}"));
            }
        }
        Ok(())
    })
}

#[test]
fn selectors_find_the_pods_they_are_meant_for() -> Result<()> {
    everywhere(&[], |rendered, mistakes| {
        let pods: Vec<_> = rendered.objects.iter().filter_map(pod_of).collect();
        let found = |selector: &Value| {
            let labels = selector.as_object().cloned().unwrap_or_default();
            let fit = |pod: &&&Value| {
                labels
                    .iter()
                    .all(|(key, value)| pod["metadata"]["labels"][key] == *value)
            };
            pods.iter().filter(fit).count()
        };
        for object in &rendered.objects {
            let spec = &object["spec"];
            let selector = match text(&object["kind"]) {
                "Service" => &spec["selector"],
                "Deployment" | "StatefulSet" | "PodDisruptionBudget" => &spec["selector"]["matchLabels"],
                "NetworkPolicy" if text(&object["metadata"]["name"]).ends_with("-test") => continue,
                "NetworkPolicy" => &spec["podSelector"]["matchLabels"],
                _ => continue,
            };
            let count = found(selector);
            if count != 1 {
                let name = text(&object["metadata"]["name"]);
                mistakes.push(format!(
                    "{} {name} selects the pods of {count} templates",
                    text(&object["kind"])
                ));
            }
        }
        for service in rendered.of_kind("Service") {
            let selector = &service["spec"]["selector"]["app.kubernetes.io/component"];
            let pod = pods
                .iter()
                .find(|pod| pod["metadata"]["labels"]["app.kubernetes.io/component"] == *selector);
            let ports = pod.map(|pod| items(&pod["spec"]["containers"][0]["ports"]));
            for port in items(&service["spec"]["ports"]) {
                let named = |other: &&Value| other["name"] == port["targetPort"];
                if ports.and_then(|ports| ports.iter().find(named)).is_none() {
                    mistakes.push(format!("no pod has the port {}", port["targetPort"]));
                }
            }
        }
        Ok(())
    })
}

/// Seconds of the constants of a role's file that bound how long it takes to end.
fn budgets(file: &str) -> Result<u64> {
    let source = read(file)?;
    let budgets = source.lines().filter_map(|line| {
        let (name, value) = line
            .trim_start_matches("pub(crate) ")
            .strip_prefix("const ")?
            .split_once(": Duration = Duration::from_secs(")?;
        (name.ends_with("_BUDGET") || name == "MARGIN").then(|| value.trim_end_matches(");").parse::<u64>())
    });
    Ok(budgets.sum::<Result<u64, _>>()?)
}

#[test]
fn the_grace_period_holds_all_phases_of_the_end() -> Result<()> {
    let admin = budgets("fanfare/src/process.rs")?;
    ensure!(admin > 0, "no budget found in process.rs");
    everywhere(&[], |rendered, mistakes| {
        for role in ROLES {
            let deployment = rendered.one("Deployment", role)?;
            let spec = &deployment["spec"]["template"]["spec"];
            let grace = spec["terminationGracePeriodSeconds"]
                .as_u64()
                .context("a grace")?;
            let mut needed = budgets(&format!("fanfare/src/{role}.rs"))? + admin;
            if role == "gateway" {
                let drain = container(deployment)["env"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|variable| variable["name"] == "FANFARE_GATEWAY__DRAIN_SECONDS");
                // A file may say anything, and the environment lies over it.
                let drain = drain.context("the drain is left to the file")?;
                needed += text(&drain["value"]).parse::<u64>()?;
            }
            // Load balancers and callers of APIs forget it first.
            let notice = &container(deployment)["lifecycle"]["preStop"]["sleep"]["seconds"];
            needed += notice.as_u64().with_context(|| format!("{role}: a preStop"))?;
            if grace < needed {
                mistakes.push(format!(
                    "{role}: a grace of {grace} s, and ending takes {needed} s"
                ));
            }
        }
        Ok(())
    })?;
    // Kubernetes refuses to sleep for no time.
    let values = Path::new("helm/fanfare/ci/default-values.yaml");
    for role in ROLES {
        let at_once = render(values, &[&format!("{role}.preStopSeconds=0")], &[])?;
        let lifecycle = &container(at_once.one("Deployment", role)?)["lifecycle"];
        ensure!(lifecycle.is_null(), "{role}: {lifecycle}");
    }
    Ok(())
}

#[test]
fn rollouts_probes_and_rights_are_fit_for_production() -> Result<()> {
    everywhere(&[], |rendered, mistakes| {
        for role in ROLES {
            let deployment = rendered.one("Deployment", role)?;
            let (spec, container) = (&deployment["spec"], container(deployment));
            let pod = &spec["template"]["spec"];
            let mut must = |holds: bool, what: &str| {
                if !holds {
                    mistakes.push(format!("{role}: {what}"));
                }
            };
            must(
                spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0,
                "maxUnavailable 0",
            );
            let probes = ["startupProbe", "readinessProbe", "livenessProbe"].map(|probe| &container[probe]);
            must(probes.iter().all(|probe| probe.is_object()), "three probes");
            must(
                probes[0] != probes[1] && probes[1] != probes[2] && probes[0] != probes[2],
                "probes that differ",
            );
            must(probes[1]["httpGet"]["path"] == "/readyz", "readiness by /readyz");
            must(
                probes[2]["httpGet"]["path"] == "/livez",
                "liveness by /livez alone: a NATS that is away is no reason to restart",
            );
            must(
                container["resources"]["limits"]["memory"].is_string(),
                "a limit of memory, which the gateway's own limit is taken from",
            );
            must(
                container["resources"]["limits"]["cpu"].is_null(),
                "no limit of CPU",
            );
            must(
                text(&pod["serviceAccountName"]).ends_with(role),
                "a ServiceAccount of its own",
            );
            must(pod["topologySpreadConstraints"].is_array(), "a spread");
        }
        let gateway = rendered.one("Deployment", "gateway")?;
        let mut must = |holds: bool, what: &str| {
            if !holds {
                mistakes.push(what.to_owned());
            }
        };
        must(
            gateway["spec"]["minReadySeconds"].as_u64() > Some(0),
            "gateway: minReadySeconds",
        );
        let scalers = ["HorizontalPodAutoscaler", "ScaledObject"];
        let scalers: Vec<_> = scalers.iter().flat_map(|kind| rendered.of_kind(kind)).collect();
        must(scalers.len() < 2, "one autoscaler at most");
        must(
            scalers.is_empty() != gateway["spec"]["replicas"].is_null(),
            "replicas, or something that scales them",
        );
        for scaler in scalers {
            let target = &scaler["spec"]["scaleTargetRef"]["name"];
            must(
                *target == gateway["metadata"]["name"],
                "the autoscaler's target is the gateway",
            );
        }
        for object in &rendered.objects {
            let Some(pod) = pod_of(object) else { continue };
            let name = text(&object["metadata"]["name"]);
            let security = &pod["spec"]["securityContext"];
            must(security["runAsNonRoot"] == true, &format!("{name}: not root"));
            must(
                security["seccompProfile"]["type"] == "RuntimeDefault",
                &format!("{name}: seccomp"),
            );
            must(
                pod["spec"]["automountServiceAccountToken"] == false,
                &format!("{name}: no token of Kubernetes unasked"),
            );
            for container in items(&pod["spec"]["containers"]) {
                let security = &container["securityContext"];
                must(
                    security["readOnlyRootFilesystem"] == true
                        && security["allowPrivilegeEscalation"] == false
                        && security["capabilities"]["drop"][0] == "ALL",
                    &format!("{name}: a container with rights it does not need"),
                );
            }
        }
        Ok(())
    })
}

#[test]
fn every_variable_and_argument_is_one_of_the_program() -> Result<()> {
    everywhere(&[], |rendered, mistakes| {
        for object in &rendered.objects {
            let Some(pod) = pod_of(object) else { continue };
            for container in items(&pod["spec"]["containers"]) {
                let mut seen = BTreeSet::new();
                for variable in items(&container["env"]) {
                    let name = text(&variable["name"]);
                    let of_the_pod = ["POD_IP", "POD_NAME", "POD_NAMESPACE"].contains(&name);
                    if !is_variable(name) && !of_the_pod {
                        mistakes.push(format!("{name} is no variable of the program"));
                    }
                    if !seen.insert(name) {
                        mistakes.push(format!("{name} is set twice"));
                    }
                }
            }
        }
        Ok(())
    })
}

/// Connections count, not their sockets of every namespace; those of this release's pods, and no answer is not taken
/// for none of them.
#[test]
fn gateways_are_scaled_by_their_own_connections() -> Result<()> {
    let rendered = render(Path::new("helm/fanfare/ci/alb-values.yaml"), &[], &[])?;
    let scaler = rendered.one("HorizontalPodAutoscaler", "gateway")?;
    let metric = &scaler["spec"]["metrics"][0]["pods"]["metric"]["name"];
    ensure!(metric == CONNECTIONS, "{metric}");
    let rule = format!("seriesQuery: {CONNECTIONS}{{");
    ensure!(
        chart_file("README.md")?.contains(&rule),
        "no {rule} in the README"
    );
    let exported = format!("| `{CONNECTIONS}` | gauge |  | gateway |");
    ensure!(read("docs/METRICS.md")?.contains(&exported), "no {CONNECTIONS}");
    let rendered = render(Path::new("helm/fanfare/ci/nginx-values.yaml"), &[], &[])?;
    let scaler = rendered.one("ScaledObject", "gateway")?;
    let trigger = &scaler["spec"]["triggers"][0]["metadata"];
    let pods = r#"{kubernetes_namespace="realtime",pod=~"test-fanfare-gateway-.*"}"#;
    ensure!(
        trigger["query"] == format!("sum({CONNECTIONS}{pods})"),
        "{trigger}"
    );
    ensure!(trigger["ignoreNullValues"] == "false", "{trigger}");
    Ok(())
}

#[test]
fn balancers_wait_longer_than_the_heartbeat() -> Result<()> {
    let alb = render(Path::new("helm/fanfare/ci/alb-values.yaml"), &[], &[])?;
    let annotations = &alb.one("Ingress", "gateway")?["metadata"]["annotations"];
    let of = |name: &str| text(&annotations[format!("alb.ingress.kubernetes.io/{name}")]).to_owned();
    ensure!(of("target-type") == "ip");
    ensure!(of("load-balancer-attributes") == "idle_timeout.timeout_seconds=300");
    let group = of("target-group-attributes");
    for attribute in [
        "stickiness.type=app_cookie",
        "stickiness.app_cookie.cookie_name=fanfare",
        "deregistration_delay.timeout_seconds=70",
    ] {
        ensure!(group.contains(attribute), "{attribute} is not in {group}");
    }
    ensure!(of("tags") == "team=realtime", "annotations on top");
    let presence = &alb.one("Ingress", "presence")?["metadata"]["annotations"];
    ensure!(presence["alb.ingress.kubernetes.io/backend-protocol-version"] == "GRPC");

    let short = render(
        Path::new("helm/fanfare/ci/nginx-values.yaml"),
        &["ingress.idleTimeoutSeconds=45"],
        &[],
    );
    let error = short.err().context("45 s are not more than 25 s and 20 s")?;
    ensure!(
        error.to_string().contains("ingress.idleTimeoutSeconds"),
        "{error:#}"
    );
    Ok(())
}

#[test]
fn what_is_unknown_or_contradicts_itself_is_refused() -> Result<()> {
    for set in [
        "gateway.replica=3",
        "settings.gateway.drain_second=3",
        "settings.gateway.drain_seconds=soon",
        "settings.gateways.drain_seconds=3",
        "settings.auth.jwt_secret=x",
        "gateway.autoscaling.type=both",
        "ingress.preset=gateway-api",
        "gateway.shutdownSeconds=5",
        "secrets.external.enabled=true",
        "gateway.extraEnv[0].name=FANFARE_GATEWAY__DRAIN_SECONDS",
        "bogus=1",
    ] {
        let refused = render(Path::new("helm/fanfare/ci/default-values.yaml"), &[set], &[]);
        ensure!(refused.is_err(), "{set} was taken");
    }
    Ok(())
}

/// Every object of the schema says which fields there are, or that all its fields are alike.
#[test]
fn the_schema_is_strict() -> Result<()> {
    fn walk(path: &str, schema: &Value, mistakes: &mut Vec<String>) {
        let is_object = schema["type"] == "object";
        // What Kubernetes defines is checked there.
        let of_kubernetes = path.contains("ffinity") || path.ends_with("claims") || path == ".global";
        if is_object && schema["additionalProperties"].is_null() && !of_kubernetes {
            mistakes.push(format!("{path} allows anything"));
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), inner, mistakes);
        }
    }
    fn known(path: &str, value: &Value, schema: &Value, mistakes: &mut Vec<String>) {
        let Some(fields) = value.as_object() else { return };
        for (name, inner) in fields {
            let field = &schema["properties"][name];
            if !field.is_null() {
                known(&format!("{path}.{name}"), inner, field, mistakes);
            } else if !schema["additionalProperties"].is_object() {
                mistakes.push(format!("{path}.{name} is not in the schema"));
            }
        }
    }
    let schema: Value = serde_json::from_str(&chart_file("values.schema.json")?)?;
    let mut mistakes = Vec::new();
    walk("", &schema, &mut mistakes);
    known("", &yaml(&chart_file("values.yaml")?)?, &schema, &mut mistakes);
    none(&mistakes)
}
