//! One trace follows one event through the processes of a cluster (CONTRACT section 9).

use std::{collections::BTreeSet, fs, net::SocketAddr};

use anyhow::{Context, Result, ensure};
use bench::client::{Reader, Writer, open};
use serde_json::json;
use tests::{Client, Cluster, Size, Standalone, servers::free_port, until};

use crate::{
    SIZE,
    receiver::{Receiver, Span, tree},
    runtime,
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// That of a socket, for its events without one.
const OF_SOCKET: &str = "0af7651916cd43dd8448eb211c80319d";
const PARENT: &str = "b7ad6b7169203331";
/// What clients say; no span may tell it.
pub(crate) const SECRET: &str = "between you and me";
/// Spans are sent so often, in milliseconds.
pub(crate) const SOON: (&str, &str) = ("OTEL_BSP_SCHEDULE_DELAY", "100");

/// A client that sends raw packets.
pub(crate) async fn raw(gateway: SocketAddr, auth: &serde_json::Value) -> Result<(Reader, Writer)> {
    let (mut reader, mut writer) = open(gateway).await?;
    writer.text(&format!("40/chat,{auth}")).await?;
    let connected = reader.text().await?;
    ensure!(connected.starts_with("40/chat"), "{connected}");
    Ok((reader, writer))
}

/// Sends an event that is acknowledged, and waits for that.
pub(crate) async fn emit((reader, writer): &mut (Reader, Writer), event: &serde_json::Value) -> Result<()> {
    writer.text(&format!("42/chat,7{event}")).await?;
    while !reader.text().await?.starts_with("43/chat,7") {}
    Ok(())
}

#[test]
fn a_client_s_event_is_one_trace_through_three_processes() -> Result<()> {
    let receiver = Receiver::grpc()?;
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url.as_str()),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.namespace=chat"),
        SOON,
    ];
    let size = Size { workers: 1, ..SIZE };
    Cluster::run(size, &settings, |cluster| {
        cluster.until_settled()?;
        let gateways = cluster.addresses()?;
        runtime()?.block_on(async {
            let mut members = Vec::new();
            for gateway in &gateways {
                let member = Client::connect(*gateway).await?;
                member.join("hall").await?;
                // Nobody asks for a trace of it.
                member.publish("hall", SECRET, "untraced").await?;
                members.push(member);
            }
            let told = |trace| json!({ "traceparent": format!("00-{trace}-{PARENT}-01") });
            let mut sender = raw(gateways[0], &told(OF_SOCKET)).await?;
            let message = json!({ "roomId": "hall", "content": SECRET });
            emit(&mut sender, &json!(["message", message, told(TRACE)])).await?;
            emit(&mut sender, &json!(["message", message])).await?;
            for member in &members {
                member
                    .message("the traced one", |message| message.content == SECRET)
                    .await?;
            }
            anyhow::Ok(())
        })?;
        for trace in [TRACE, OF_SOCKET] {
            let spans = receiver.spans.of_trace(trace, 7)?;
            println!("{}", tree(&spans, PARENT));
            let services = ["fanfare-gateway", "fanfare-fanout"];
            look_at(&spans, "gateway receive message", &services)?;
            let received: Vec<_> = named(&spans, "gateway receive message").collect();
            ensure!(
                received.len() == 1 && received[0].parent == PARENT,
                "{received:?}"
            );
            let deliver: Vec<_> = named(&spans, "gateway deliver").collect();
            ensure!(deliver.len() == 2, "one a gateway: {deliver:?}");
            let processes: BTreeSet<_> = spans.iter().map(|span| &span.process).collect();
            ensure!(processes.len() == 3, "{processes:?}");
        }
        let others: Vec<_> = receiver.spans.all();
        let asked = |span: &&Span| ![TRACE, OF_SOCKET].contains(&span.trace.as_str());
        let others: Vec<_> = others.iter().filter(asked).collect();
        ensure!(others.is_empty(), "nobody asked for {others:?}");
        Ok(())
    })
}

/// Volatile events, standalone, and OTLP over HTTP.
#[test]
fn standalone_traces_over_http() -> Result<()> {
    let receiver = Receiver::http()?;
    let standalone = Standalone::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url.as_str()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("RUST_LOG", "debug"),
        ("FANFARE_LOG__FORMAT", "json"),
        SOON,
    ])?;
    let address = standalone.url.trim_start_matches("http://").parse()?;
    runtime()?.block_on(async {
        let mut sender = raw(address, &json!({})).await?;
        emit(&mut sender, &json!(["join-room", { "roomId": "hall" }])).await?;
        let other = Client::connect(address).await?;
        other.join("hall").await?;
        emit(
            &mut sender,
            &json!(["message", { "roomId": "hall", "content": SECRET }]),
        )
        .await?;
        other
            .message("the message", |message| message.content == SECRET)
            .await?;
        emit(&mut sender, &json!(["typing", { "roomId": "hall" }])).await?;
        other.event("user-typing", |_| true).await?;
        anyhow::Ok(())
    })?;
    let mut traced = String::new();
    until(
        "message and typing are traced",
        std::time::Duration::from_secs(30),
        || {
            let spans = receiver.spans.all();
            let first = |name: &str| {
                let span = spans.iter().find(|span| span.name == name);
                span.map(|span| span.trace.clone())
            };
            traced = first("gateway receive message").unwrap_or_default();
            let typing = first("gateway receive typing").unwrap_or_default();
            let count = |trace: &str| spans.iter().filter(|span| span.trace == trace).count();
            Ok(count(&traced) == 5 && count(&typing) == 5)
        },
    )?;
    let spans = receiver.spans.of_trace(&traced, 5)?;
    println!("{}", tree(&spans, ""));
    look_at(&spans, "gateway receive message", &["fanfare-standalone"])?;
    standalone.stop()
}

/// The system's authorities count, which `SSL_CERT_FILE` names.
#[test]
fn a_collector_over_tls_is_known_by_the_system_s_authorities() -> Result<()> {
    let (receiver, authority) = Receiver::tls()?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("ca.pem");
    fs::write(&file, authority)?;
    let standalone = Standalone::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url.as_str()),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("SSL_CERT_FILE", file.to_str().context("a path")?),
        SOON,
    ])?;
    let address = standalone.url.trim_start_matches("http://").parse()?;
    runtime()?.block_on(async { Client::connect(address).await?.join("hall").await })?;
    until("spans come", std::time::Duration::from_secs(30), || {
        Ok(!receiver.spans.all().is_empty())
    })
    .with_context(|| standalone.output())?;
    standalone.stop()
}

#[test]
fn a_collector_that_is_away_costs_one_line() -> Result<()> {
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let standalone = Standalone::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", nobody.as_str()),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        SOON,
    ])?;
    let address = standalone.url.trim_start_matches("http://").parse()?;
    runtime()?.block_on(async {
        let client = Client::connect(address).await?;
        client.join("hall").await?;
        for number in 0..20 {
            client
                .publish("hall", SECRET, &format!("message-{number}"))
                .await?;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    })?;
    until("spans are lost", std::time::Duration::from_secs(30), || {
        Ok(standalone.metric("fanfare_spans_total", "result=\"failed\"")? > 20.0)
    })?;
    let output = standalone.output();
    let told = output
        .lines()
        .filter(|line| line.contains("traces are lost"))
        .count();
    ensure!(told == 1, "{told} lines:\n{output}");
    standalone.stop()
}

pub(crate) fn named<'a>(spans: &'a [Span], name: &'a str) -> impl Iterator<Item = &'a Span> {
    spans.iter().filter(move |span| span.name == name)
}

/// Each span is the child of the one before, and they tell nothing of what was said.
pub(crate) fn look_at(spans: &[Span], first: &str, services: &[&str]) -> Result<()> {
    let way = [first, "publish", "fanout process", "deliver", "gateway deliver"];
    for pair in way.windows(2) {
        for child in named(spans, pair[1]) {
            let parent = spans.iter().find(|span| span.id == child.parent);
            let parent = parent.with_context(|| format!("{} has no parent: {spans:#?}", child.name))?;
            ensure!(parent.name == pair[0], "{} is below {}", child.name, parent.name);
        }
    }
    for name in way {
        ensure!(named(spans, name).next().is_some(), "no {name}: {spans:#?}");
    }
    ensure!(
        spans.iter().all(|span| way.contains(&span.name.as_str())),
        "{spans:#?}"
    );
    for span in spans {
        ensure!(services.contains(&span.process.0.as_str()), "{:?}", span.process);
        for key in [
            "messaging.system",
            "messaging.operation.name",
            "messaging.operation.type",
        ] {
            ensure!(span.attributes.contains_key(key), "{} has no {key}", span.name);
        }
        ensure!(!format!("{span:?}").contains(SECRET), "{span:?}");
        ensure!(span.time.1 >= span.time.0, "{span:?}");
    }
    Ok(())
}
