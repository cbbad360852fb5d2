//! Servers reach clients: the publisher API from outside, with stock clients on both sides.

mod departed;

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Cluster, JWT_SECRET, Size, Standalone, node, python_program, schemathesis};

const KEY: &str = "a key of the publisher API";
const READ_KEY: &str = "a key for reading only";

/// Where a process serves the API, as it has logged it: gRPC and HTTP.
fn served(output: &str) -> Result<(String, String)> {
    let line = output.lines().find(|line| line.contains("publisher API grpc="));
    let field = |name: &str| {
        let rest = line?.split_once(name)?.1;
        rest.split_whitespace().next().map(str::to_owned)
    };
    let found = field("grpc=").zip(field("http="));
    found.with_context(|| format!("it does not say where the publisher API is:\n{output}"))
}

fn operations(urls: &[String], publishers: &[String], key: Option<&str>) -> Result<()> {
    script("node/publisher.test.mjs", urls, publishers, key)
}

fn script(file: &str, urls: &[String], publishers: &[String], key: Option<&str>) -> Result<()> {
    let (urls, publishers) = (urls.join(","), publishers.join(","));
    let mut settings = vec![
        ("FANFARE_URLS", urls.as_str()),
        ("FANFARE_PUBLISHERS", publishers.as_str()),
        ("JWT_SECRET", JWT_SECRET),
    ];
    settings.extend(key.map(|key| ("FANFARE_API__KEY", key)));
    node(file, &urls, &settings)
}

/// Where clients connect, and where the API is.
fn places(cluster: &Cluster) -> Result<(Vec<String>, Vec<String>)> {
    let addresses = cluster.addresses()?.into_iter();
    let publishers: Result<Vec<String>> = cluster
        .workers
        .iter()
        .map(|worker| Ok(format!("http://{}", served(&worker.output())?.1)))
        .collect();
    let urls = addresses.map(|address| format!("http://{address}")).collect();
    Ok((urls, publishers?))
}

#[test]
fn every_operation_in_standalone() -> Result<()> {
    let server = Standalone::start(&[])?;
    let (_, http) = served(&server.output())?;
    operations(
        std::slice::from_ref(&server.url),
        &[format!("http://{http}")],
        None,
    )?;
    server.stop()
}

#[test]
fn every_operation_in_a_cluster() -> Result<()> {
    let size = Size {
        gateways: 3,
        workers: 2,
        ..Size::default()
    };
    Cluster::run(size, &[("FANFARE_API__KEY", KEY)], |cluster| {
        cluster.until_settled()?;
        let (urls, publishers) = places(cluster)?;
        operations(&urls, &publishers, Some(KEY))
    })
}

#[test]
fn servers_say_who_is_a_member() -> Result<()> {
    const CLOSED: (&str, &str) = ("FANFARE_ROOMS__PUBLIC", "");
    let file = "node/members.test.mjs";
    let server = Standalone::start(&[CLOSED])?;
    let (_, http) = served(&server.output())?;
    let urls = std::slice::from_ref(&server.url);
    script(file, urls, &[format!("http://{http}")], None)?;
    server.stop()?;
    let size = Size {
        gateways: 2,
        ..Size::default()
    };
    Cluster::run(size, &[CLOSED], |cluster| {
        cluster.until_settled()?;
        let (urls, publishers) = places(cluster)?;
        script(file, &urls, &publishers, None)
    })
}

#[test]
fn requests_on_the_bus() -> Result<()> {
    let size = Size {
        gateways: 1,
        workers: 2,
        ..Size::default()
    };
    Cluster::run(size, &[], |cluster| {
        cluster.until_settled()?;
        let port = cluster.nats.port();
        let answer = request(
            port,
            "fanfare.pub.chat",
            r#"{"op":"emit","event":"e","rooms":["r"],"args":[1]}"#,
        )?;
        ensure!(
            answer["id"].is_string() && answer["offset"].is_string(),
            "{answer}"
        );
        let answer = request(port, "fanfare.pub.chat", r#"{"op":"FetchSockets"}"#)?;
        ensure!(
            answer == json!({ "sockets": [], "next_page_token": "" }),
            "{answer}"
        );
        let other = r#"{"op":"batch","emits":[{"event":"e"},{"event":"e","namespace":"/"}]}"#;
        for (body, path) in [(other, "namespace"), (r#"{"op":"shout"}"#, "op"), ("[]", "")] {
            let answer = request(port, "fanfare.pub.chat", body)?;
            ensure!(answer["code"] == "VALIDATION_ERROR", "{answer}");
            ensure!(answer["details"][0]["path"] == path, "{answer}");
        }
        let answer = request(port, "fanfare.pub._root", r#"{"op":"emit","event":"e"}"#)?;
        ensure!(answer["offset"].is_string(), "{answer}");
        Ok(())
    })
}

/// A request by NATS' own protocol.
fn request(port: u16, subject: &str, body: &str) -> Result<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let length = body.len();
    let packets = format!(
        "CONNECT {{\"verbose\":false}}\r\nSUB answer 1\r\nPUB {subject} answer {length}\r\n{body}\r\n"
    );
    stream.write_all(packets.as_bytes())?;
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(lines.read_line(&mut line)? > 0, "NATS has hung up");
        if line.starts_with("MSG answer ") {
            line.clear();
            lines.read_line(&mut line)?;
            return Ok(serde_json::from_str(&line)?);
        }
        ensure!(!line.starts_with("-ERR"), "{line}");
    }
}

#[test]
fn schemathesis_finds_nothing_else_than_documented() -> Result<()> {
    let server = Standalone::start(&[("FANFARE_API__KEY", KEY)])?;
    let document = format!("http://{}/openapi.json", served(&server.output())?.1);
    // An offset must belong to its room, which no schema can say. A batch answers for each emit by itself, and other
    // forms that protobuf's JSON has for the same value are taken too.
    let without = ["positive_data_acceptance", "negative_data_rejection"];
    schemathesis(&document, KEY, &without)?;
    server.stop()
}

#[test]
fn stubs_of_the_published_proto_and_scopes_of_keys() -> Result<()> {
    let file = format!("[[api.keys]]\nname = \"dashboard\"\nkey = \"{READ_KEY}\"\nscopes = [\"read\"]\n");
    let server = Standalone::start_with(Some(&file), &[("FANFARE_API__KEY", KEY)])?;
    let (grpc, _) = served(&server.output())?;
    let settings = [
        ("FANFARE_URL", server.url.as_str()),
        ("FANFARE_PUBLISHER", grpc.as_str()),
        ("FANFARE_PROTO", concat!(env!("CARGO_MANIFEST_DIR"), "/../proto")),
        ("FANFARE_API__KEY", KEY),
        ("FANFARE_READ_KEY", READ_KEY),
    ];
    python_program("python/publisher_api.py", &settings)?;
    let output = server.output();
    let audited = |what: &str| {
        output
            .lines()
            .any(|line| line.contains("audit") && line.contains(what))
    };
    ensure!(
        audited("dashboard") && audited("JoinRooms") && !output.contains("hello"),
        "the audit log tells who did what, and not with what:\n{output}"
    );
    server.stop()
}

#[test]
fn the_example_of_a_serverless_route() -> Result<()> {
    let server = Standalone::start(&[("FANFARE_API__KEY", KEY)])?;
    let publisher = format!("http://{}", served(&server.output())?.1);
    let settings = [
        ("FANFARE_PUBLISHER", publisher.as_str()),
        ("FANFARE_API_KEY", KEY),
        ("JWT_SECRET", JWT_SECRET),
    ];
    node("node/publish_example.test.mjs", &server.url, &settings)?;
    server.stop()
}
