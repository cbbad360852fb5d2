//! One trace follows what an application sends, from its own span to the last gateway's write.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use proto::v1::{
    Argument, EmitRequest, NotifyUserRequest, argument::Value as ArgumentValue,
    publisher_client::PublisherClient,
};
use serde_json::json;
use tests::{Client, Cluster, HttpRequest, Size, token};
use tonic::Request;

use crate::{
    SIZE,
    receiver::{Receiver, Span, tree},
    runtime,
    traces::{SECRET, SOON, look_at, named},
};

const KEY: &str = "a key of the publisher API";
const PARENT: &str = "b7ad6b7169203331";

/// A trace of an application's own.
fn trace(number: u8) -> String {
    format!("0af7651916cd43dd8448eb211c8031{number:02x}")
}

fn traceparent(number: u8) -> String {
    format!("00-{}-{PARENT}-01", trace(number))
}

/// Where the worker serves the API: gRPC and HTTP.
fn served(cluster: &Cluster) -> Result<(SocketAddr, SocketAddr)> {
    let output = cluster.workers[0].output();
    let line = output.lines().find(|line| line.contains("publisher API grpc="));
    let field = |name: &str| -> Option<SocketAddr> {
        let rest = line?.split_once(name)?.1;
        rest.split_whitespace().next()?.parse().ok()
    };
    field("grpc=").zip(field("http=")).context(output)
}

/// A request over gRPC, with the key and the trace in its metadata.
fn with_metadata<T>(message: T, traceparent: &str) -> Result<Request<T>> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("authorization", format!("Bearer {KEY}").parse()?);
    metadata.insert("traceparent", traceparent.parse()?);
    Ok(request)
}

fn emit(content: &str) -> EmitRequest {
    let json = json!({ "content": content, "secret": SECRET }).to_string();
    EmitRequest {
        namespace: "/chat".to_owned(),
        rooms: vec!["hall".to_owned()],
        event: "news".to_owned(),
        args: vec![Argument {
            value: Some(ArgumentValue::Json(json)),
        }],
        ..EmitRequest::default()
    }
}

fn over_http(publisher: SocketAddr, traceparent: &str, content: &str, volatile: bool) -> Result<()> {
    let body = json!({
        "namespace": "/chat", "rooms": ["hall"], "event": "news", "volatile": volatile,
        "args": [{ "content": content, "secret": SECRET }],
    });
    let request = HttpRequest::new(publisher, "POST", "/v1/emit").token(KEY);
    let request = request.with("traceparent", traceparent).json(&body);
    request.send()?.expect(200).map(drop)
}

/// By NATS' own protocol, with the trace in a header.
fn over_nats(port: u16, traceparent: &str, content: &str) -> Result<()> {
    let body = json!({
        "op": "emit", "rooms": ["hall"], "event": "news", "args": [{ "content": content, "secret": SECRET }],
    });
    let (headers, body) = (
        format!("NATS/1.0\r\ntraceparent: {traceparent}\r\n\r\n"),
        body.to_string(),
    );
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let (head, all) = (headers.len(), headers.len() + body.len());
    let packets = format!(
        "CONNECT {{\"verbose\":false,\"headers\":true}}\r\nSUB answer 1\r\nHPUB fanfare.pub.chat answer {head} {all}\r\n{headers}{body}\r\n"
    );
    stream.write_all(packets.as_bytes())?;
    for line in BufReader::new(stream).lines() {
        let line = line?;
        ensure!(!line.contains("-ERR") && !line.contains("\"code\""), "{line}");
        if line.contains("\"offset\"") {
            return Ok(());
        }
    }
    anyhow::bail!("NATS has hung up")
}

#[test]
fn what_applications_send_is_one_trace() -> Result<()> {
    let receiver = Receiver::grpc()?;
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url.as_str()),
        ("OTEL_TRACES_SAMPLER", "parentbased_always_off"),
        ("FANFARE_API__KEY", KEY),
        SOON,
    ];
    let size = Size { workers: 1, ..SIZE };
    Cluster::run(size, &settings, |cluster| {
        cluster.until_settled()?;
        let gateways = cluster.addresses()?;
        let (grpc, http) = served(cluster)?;
        let ada = token("ada", &[])?;
        runtime()?.block_on(async {
            let mut members = Vec::new();
            for gateway in &gateways {
                let member = Client::connect(*gateway).await?;
                member.join("hall").await?;
                members.push(member);
            }
            let notified = Client::connect_as(gateways[1], "/notifications", &ada).await?;
            notified.ok("subscribe", &json!({})).await?;

            let mut publisher = PublisherClient::connect(format!("http://{grpc}")).await?;
            publisher
                .emit(with_metadata(emit("over gRPC"), &traceparent(1))?)
                .await?;
            over_http(http, &traceparent(2), "over HTTP", false)?;
            over_nats(cluster.nats.port(), &traceparent(3), "over NATS")?;
            over_http(http, &traceparent(4), "volatile", true)?;
            let notification = NotifyUserRequest {
                user_id: "ada".to_owned(),
                r#type: "news".to_owned(),
                title: SECRET.to_owned(),
                ..NotifyUserRequest::default()
            };
            publisher
                .notify_user(with_metadata(notification, &traceparent(5))?)
                .await?;
            // The application has decided otherwise, or has said nothing.
            over_http(http, &traceparent(6).replace("-01", "-00"), "not sampled", false)?;
            over_http(http, "nonsense", "no trace", false)?;
            for member in &members {
                for content in ["over gRPC", "over HTTP", "over NATS", "volatile", "no trace"] {
                    member.event("news", |news| news["content"] == content).await?;
                }
            }
            notified
                .event("newNotification", |news| news["title"] == SECRET)
                .await?;
            anyhow::Ok(())
        })?;
        for (number, what, receivers) in [
            (1, "publisher receive Emit", 2),
            (2, "publisher receive Emit", 2),
            (3, "publisher receive Emit", 2),
            (4, "publisher receive Emit", 2),
            (5, "publisher receive NotifyUser", 1),
        ] {
            let spans = receiver.spans.of_trace(&trace(number), 3 + 2 * receivers)?;
            println!("{}", tree(&spans, PARENT));
            look_at(&spans, what, &["fanfare-gateway", "fanfare-fanout"])?;
            ensure!(
                named(&spans, "gateway deliver").count() == receivers,
                "{spans:#?}"
            );
            ensure!(
                named(&spans, what).all(|span| span.parent == PARENT),
                "it is below the application's own span: {spans:#?}"
            );
        }
        let transport = |number| -> Result<String> {
            let spans = receiver.spans.of_trace(&trace(number), 1)?;
            let span = spans.iter().find(|span| span.parent == PARENT).context("none")?;
            Ok(span.attributes["fanfare.transport"].clone())
        };
        for (number, over) in [(1, "grpc"), (2, "http"), (3, "nats")] {
            ensure!(transport(number)? == over);
        }
        let wanted: Vec<_> = (1..=5).map(trace).collect();
        let others: Vec<Span> = receiver.spans.all();
        let others: Vec<_> = others
            .iter()
            .filter(|span| !wanted.contains(&span.trace))
            .collect();
        ensure!(others.is_empty(), "nobody asked for {others:?}");
        Ok(())
    })
}
