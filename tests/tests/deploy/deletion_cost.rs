//! The command beside a gateway's pod, against something that takes patches as the API server of Kubernetes does.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::Path,
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;
use tests::{Client, Process, Standalone, built, servers::Signal};

use crate::manifests::{items, render, text};

/// The command as the chart runs it: its arguments, and no more environment than it has there. It asks `admin` in place
/// of the gateway's admin port.
fn of_the_chart(admin: &str) -> Result<Command> {
    let often = "gateway.podDeletionCost.periodSeconds=1";
    let chart = render(Path::new("helm/fanfare/ci/alb-values.yaml"), &[often], &[])?;
    let pod = &chart.one("Deployment", "gateway")?["spec"]["template"]["spec"];
    let named = |list: &Value, name: &str| items(list).iter().find(|one| one["name"] == name).cloned();
    let port = named(&pod["containers"][0]["ports"], "admin").context("an admin port")?;
    let sidecar = named(&pod["containers"], "deletion-cost").context("a sidecar")?;
    let gateway = format!("--admin=127.0.0.1:{}", port["containerPort"]);
    let mut arguments: Vec<_> = items(&sidecar["args"]).iter().map(text).collect();
    let there = arguments.iter().position(|argument| *argument == gateway);
    arguments.remove(there.with_context(|| format!("no {gateway} in {arguments:?}"))?);
    let mut command = Command::new(built("fanfare", "cargo build -p fanfare")?);
    command.args(arguments).args(["--admin", admin]).env_clear();
    for variable in items(&sidecar["env"]) {
        command.env(
            text(&variable["name"]),
            text(&variable["valueFrom"]["fieldRef"]["fieldPath"]),
        );
    }
    Ok(command)
}

/// The next request: its first line and headers, and its body. It is answered with success.
fn patched(api: &TcpListener) -> Result<(String, Value)> {
    let (mut stream, _) = api.accept()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")?;
    Ok((head, serde_json::from_slice(&body)?))
}

#[test]
fn a_pod_says_how_many_connections_it_would_cost() -> Result<()> {
    let server = Standalone::start(&[])?;
    let api = TcpListener::bind(("127.0.0.1", 0))?;
    let account = TempDir::with_prefix("fanfare-account-")?;
    fs::write(account.path().join("token"), "a-token\n")?;
    let mut command = of_the_chart(server.admin.trim_start_matches("http://"))?;
    command
        .args(["--api", &format!("http://{}", api.local_addr()?), "--account"])
        .arg(account.path());
    let mut process = Process::start("deletion-cost", &mut command)?;

    let cost =
        |body: &Value| body["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"].clone();
    let (head, body) = patched(&api)?;
    ensure!(
        head.starts_with("PATCH /api/v1/namespaces/metadata.namespace/pods/metadata.name "),
        "{head}"
    );
    let head = head.to_lowercase();
    ensure!(head.contains("authorization: bearer a-token"), "{head}");
    ensure!(
        head.contains("content-type: application/merge-patch+json"),
        "{head}"
    );
    ensure!(cost(&body) == "0", "{body}");

    let runtime = tokio::runtime::Runtime::new()?;
    let address = server.url.strip_prefix("http://").context("a URL")?.parse()?;
    let _client = runtime.block_on(Client::connect(address))?;
    let (_, body) = patched(&api)?;
    ensure!(cost(&body) == "1", "{body}");

    process.signal(Signal::TERM)?;
    ensure!(process.wait(std::time::Duration::from_secs(30))?.success());
    server.stop()
}
