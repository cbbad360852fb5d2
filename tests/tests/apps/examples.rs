//! The examples of `examples/handlers`, with stock clients.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{Cluster, Mode, Process, Size, Standalone, install_python_packages, node, scenario};

const START: Duration = Duration::from_secs(30);
const SECRET: &str = "a secret of the webhooks";

fn example(name: &str) -> Result<std::path::PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the root")?;
    let path = root.join("examples/handlers").join(name);
    let lines = std::fs::read_to_string(&path)?.lines().count();
    ensure!(lines < 60, "{name} has {lines} lines: an example is short");
    Ok(path)
}

#[test]
fn a_python_handler_over_nats() -> Result<()> {
    let size = Size {
        gateways: 1,
        workers: 1,
        ..Size::default()
    };
    Cluster::run(size, &[], |cluster| {
        cluster.until_owned()?;
        let mut command = Command::new(install_python_packages()?);
        command
            .arg(example("handler.py")?)
            .env("NATS_URL", cluster.nats.url());
        let handler = Process::start("handler.py", &mut command)?;
        handler.line("it handles", START, |line| (line == "handling").then_some(()))?;
        let url = format!("http://{}", cluster.addresses()?[0]);
        let settings = [
            ("JWT_SECRET", tests::JWT_SECRET),
            ("FANFARE_TRANSPORT", "websocket"),
        ];
        node("node/handlers.test.mjs", &url, &settings).with_context(|| handler.output())
    })
}

#[test]
fn a_webhook_in_node() -> Result<()> {
    let mut command = Command::new("node");
    command
        .arg(example("webhook.mjs")?)
        .env("WEBHOOK_SECRET", SECRET)
        .env("PORT", "0");
    let webhook = Process::start("webhook.mjs", &mut command)?;
    let port: u16 = webhook.line("it listens", START, |line| {
        line.strip_prefix("listening on ")?.trim().parse().ok()
    })?;
    let url = format!("http://127.0.0.1:{port}/");
    let settings = [
        ("FANFARE_APP__WEBHOOK_URL", url.as_str()),
        ("FANFARE_APP__WEBHOOK_SECRET", SECRET),
    ];
    let server = Standalone::start(&settings)?;
    scenario(&server, "handlers", Mode::Upgrade).with_context(|| webhook.output())?;
    server.stop()?;

    // Copies and forgeries are refused.
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    let body =
        json!({ "type": "event", "event": "order", "args": [{ "item": "x" }], "user": { "username": "x" } });
    let body = body.to_string();
    let signed = |secret: &str, time: u64| calls::signature(secret, time, body.as_bytes());
    for (signature, status) in [
        (signed(SECRET, now), 200),
        (signed(SECRET, now - 400), 401),
        (signed(SECRET, now + 400), 401),
        (signed("another", now), 401),
        (signed(SECRET, now).replace("v1=", "v2="), 401),
        (String::new(), 401),
    ] {
        let got = post(port, &signature, &body)?;
        ensure!(
            got.starts_with(&format!("HTTP/1.1 {status}")),
            "{signature}: {got}"
        );
    }
    Ok(())
}

/// The whole answer to a POST.
fn post(port: u16, signature: &str, body: &str) -> Result<String> {
    use std::io::{Read, Write};

    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(START))?;
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: localhost\r\nfanfare-signature: {signature}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
