//! Requests that come to the wrong gateway: forwarded to the owner of the session in one hop.
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

mod client;
mod internal;
mod stage;
mod wired;

use std::{net::SocketAddr, time::Duration};

use client::{Said, UPGRADE, WebSocket, answer, ask, get, open, post, send, sid_of, upgrade};
use futures_util::future::join_all;
use sio::engine::{CloseReason, Timing};
use stage::{CALM, MAX_PAYLOAD, beat, cluster, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

#[tokio::test]
async fn polling_through_another_gateway_is_what_the_owner_answers() {
    let (_, [owner, other]) = cluster(CALM, None).await;
    let sid = open(owner.public).await;
    let target = format!("&transport=polling&sid={sid}");
    let origin = [("origin", "https://app.example")];
    let mut direct = Vec::new();
    let mut forwarded = Vec::new();
    for (at, answers) in [(owner.public, &mut direct), (other.public, &mut forwarded)] {
        answers.push(ask(at, "POST", &target, &origin, b"4one\x1e4two").await);
        answers.push(ask(at, "GET", &target, &origin, b"").await);
        answers.push(ask(at, "PUT", &target, &origin, b"").await);
        answers.push(ask(at, "OPTIONS", &target, &origin, b"").await);
    }
    assert_eq!(forwarded[1].body, "4one\x1e4two");
    for (direct, forwarded) in direct.iter().zip(&forwarded) {
        assert_eq!(direct.stable(), forwarded.stable());
    }
    assert_eq!(other.forwards("polling", "ok"), 3);
    assert_eq!(owner.forwards("polling", "ok"), 0);
}

#[tokio::test]
async fn a_poll_waits_at_the_owner() {
    let (_, [owner, other]) = cluster(CALM, None).await;
    let sid = open(owner.public).await;
    let target = format!("&transport=polling&sid={sid}");
    let mut poll = send(other.public, "GET", &target, &[], b"").await;
    assert_eq!(post(other.public, &sid, "4hello").await.body, "ok");
    assert_eq!(answer(&mut poll).await.body, "4hello");
}

#[tokio::test]
async fn a_client_that_hangs_up_is_noticed_by_the_owner_as_if_it_had_polled_there() {
    let (_, [owner, other]) = cluster(CALM, None).await;
    for at in [owner.public, other.public] {
        let sid = open(owner.public).await;
        let target = format!("&transport=polling&sid={sid}");
        // One that is cut before it has reached the owner changes nothing there.
        while owner.engine.connections() > 0 {
            let poll = send(at, "GET", &target, &[], b"").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(poll);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(get(other.public, &sid).await.is_unknown_session());
    }
    // Nothing of that is left behind.
    let sid = open(owner.public).await;
    post(other.public, &sid, "4on").await;
    assert_eq!(get(other.public, &sid).await.body, "4on");
}

#[tokio::test]
async fn an_upgrade_through_another_gateway_is_a_tunnel() {
    let (_, [owner, other]) = cluster(CALM, None).await;
    let sid = open(owner.public).await;
    let mut socket = upgrade(other.public, owner.public, &sid).await;
    socket.send("4hello").await;
    socket.expect("4hello").await;
    let large = format!("4{}", "x".repeat(MAX_PAYLOAD - 1));
    socket.send(&large).await;
    socket.expect(&large).await;

    // A second WebSocket is accepted and closed, the first goes on.
    let mut second = WebSocket::attach(other.public, &sid).await.ok().unwrap();
    assert_eq!(second.next().await, Said::Closed);
    socket.send("4still there").await;
    socket.expect("4still there").await;
    let late = get(other.public, &sid).await;
    assert_eq!((late.status, late.body.contains("\"code\":3")), (400, true));

    assert_eq!(other.forwards("upgrade", "ok"), 2);
    drop(socket);
    until(|| owner.engine.connections() == 0).await;
}

#[tokio::test]
async fn a_tunnel_ends_with_the_session_and_with_the_gateway_it_goes_through() {
    let (_, [owner, other]) = cluster(CALM, None).await;
    let sid = open(owner.public).await;
    let mut socket = upgrade(other.public, other.public, &sid).await;
    for conn in owner.engine.all() {
        conn.close(CloseReason::ServerShuttingDown);
    }
    assert_eq!(socket.next().await, Said::Closed);

    let sid = open(owner.public).await;
    let mut socket = upgrade(other.public, other.public, &sid).await;
    socket.send("4hello").await;
    socket.expect("4hello").await;
    other.forwarder.close();
    assert_eq!(socket.next().await, Said::Closed);
    until(|| owner.engine.connections() == 0).await;
    let sid = open(owner.public).await;
    let refused = WebSocket::attach(other.public, &sid).await.err().unwrap();
    assert!(refused.is_unknown_session());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_sessions_without_stickiness() {
    const ROUNDS: usize = 6;
    let timing = Timing {
        ping_interval: Duration::from_millis(300),
        ..CALM
    };
    let (_, nodes) = cluster::<3>(timing, None).await;
    let at = |turn: usize| nodes[turn % 3].public;
    let sessions = (0..100).map(|number: usize| async move {
        let mut turn = number;
        let mut next = move || {
            turn += 1;
            at(turn)
        };
        let sid = open(next()).await;
        for round in 0..ROUNDS {
            let message = format!("4{number}.{round}");
            assert_eq!(post(next(), &sid, &message).await.body, "ok");
            loop {
                let got = get(next(), &sid).await;
                assert_eq!(got.status, 200, "{}", got.body);
                if got.body.split('\x1e').any(|packet| packet == "2") {
                    assert_eq!(post(next(), &sid, "3").await.body, "ok");
                }
                if got.body.split('\x1e').any(|packet| packet == message) {
                    break;
                }
            }
        }
        if number.is_multiple_of(2) {
            let mut socket = upgrade(next(), next(), &sid).await;
            for round in 0..ROUNDS {
                let message = format!("4{number}.{round}");
                socket.send(&message).await;
                socket.expect(&message).await;
            }
        } else {
            assert_eq!(post(next(), &sid, "1").await.body, "ok");
        }
    });
    join_all(sessions).await;
    let count = |kind, result| nodes.iter().map(|node| node.forwards(kind, result)).sum::<u64>();
    assert!(count("polling", "ok") > 0 && count("upgrade", "ok") > 0);
    for kind in ["polling", "upgrade"] {
        assert_eq!(count(kind, "gone") + count(kind, "failed"), 0);
    }
    for node in &nodes {
        until(|| node.engine.connections() == 0).await;
    }
}

/// Asks for the session on both transports.
async fn is_unknown(at: SocketAddr, sid: &str) {
    assert!(get(at, sid).await.is_unknown_session());
    assert!(post(at, sid, "4x").await.is_unknown_session());
    assert!(
        WebSocket::attach(at, sid)
            .await
            .err()
            .unwrap()
            .is_unknown_session()
    );
}

#[tokio::test]
async fn the_sessions_of_an_owner_that_is_gone_are_unknown_at_once() {
    let (signals, [owner, other]) = cluster(CALM, None).await;
    let sid = open(owner.public).await;
    is_unknown(other.public, "nobodyXXXXXXXXXXXXXX").await;
    is_unknown(other.public, "x").await;
    let own = format!("{}XXXXXXXXXXXXXX", other.id);
    is_unknown(other.public, &own).await;
    assert_eq!(other.forwards("polling", "gone"), 0);

    // Crashed: still in the table, but nobody listens.
    let address = other.peers.address_of(owner.id.as_str()).unwrap();
    owner.crash().await;
    beat(&signals, owner.id.as_str(), &address, false);
    is_unknown(other.public, &sid).await;
    assert_eq!(other.forwards("polling", "gone"), 2);
    assert_eq!(other.forwards("upgrade", "gone"), 1);

    // Left.
    beat(&signals, owner.id.as_str(), &address, true);
    until(|| other.peers.address_of(owner.id.as_str()).is_none()).await;
    is_unknown(other.public, &sid).await;
    assert_eq!(other.forwards("polling", "gone"), 2);
}

#[tokio::test]
async fn an_owner_that_breaks_off_before_it_answers_is_gone() {
    let (signals, [node]) = cluster(CALM, None).await;
    let owner = TcpListener::bind("127.0.0.1:0").await.unwrap();
    beat(
        &signals,
        "broken",
        &owner.local_addr().unwrap().to_string(),
        false,
    );
    node.knows("broken").await;
    let breaks = async {
        loop {
            let (mut stream, _) = owner.accept().await.unwrap();
            let mut head = [0; 16];
            stream.read_exact(&mut head).await.unwrap();
        }
    };
    tokio::select! {
        () = is_unknown(node.public, "brokenXXXXXXXXXXXXXX") => {}
        () = breaks => {}
    }
}

#[tokio::test]
async fn an_owner_that_is_frozen_is_not_waited_for_without_end() {
    let timing = Timing {
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_millis(100),
        ..CALM
    };
    let (signals, [node]) = cluster(timing, None).await;
    // Takes connections, as a kernel does for a process that stands still.
    let owner = TcpListener::bind("127.0.0.1:0").await.unwrap();
    beat(
        &signals,
        "frozen",
        &owner.local_addr().unwrap().to_string(),
        false,
    );
    node.knows("frozen").await;
    let sid = "frozenXXXXXXXXXXXXXX";
    let (poll, upgraded) = tokio::join!(get(node.public, sid), WebSocket::attach(node.public, sid));
    assert!(poll.is_unknown_session());
    assert!(upgraded.err().unwrap().is_unknown_session());
    assert_eq!(node.forwards("polling", "failed"), 1);
    assert_eq!(node.forwards("upgrade", "failed"), 1);
}

#[tokio::test]
async fn a_forwarded_request_is_not_forwarded_again_and_opens_nothing() {
    let (_, [owner, other]) = cluster(CALM, None).await;
    let sid = open(owner.public).await;
    is_unknown(other.internal, &sid).await;
    assert_eq!(
        other.forwards("polling", "ok") + other.forwards("polling", "gone"),
        0
    );
    let handshake = ask(other.internal, "GET", "&transport=polling", &[], b"").await;
    assert_eq!(handshake.status, 400);
    assert_eq!(other.engine.connections(), 0);
    // It was for its owner only.
    post(owner.internal, &sid, "4x").await;
    assert_eq!(get(owner.internal, &sid).await.body, "4x");
}

#[tokio::test]
async fn the_owner_gets_the_request_as_the_client_sent_it_and_the_true_address() {
    let (signals, [node]) = cluster(CALM, None).await;
    let owner = TcpListener::bind("127.0.0.1:0").await.unwrap();
    beat(
        &signals,
        "record",
        &owner.local_addr().unwrap().to_string(),
        false,
    );
    node.knows("record").await;
    let sent = [
        ("cookie", "session=1; fanfare=x"),
        ("authorization", "Bearer t"),
        ("origin", "https://app.example"),
        ("user-agent", "test"),
        ("x-fanfare-client-ip", "198.51.100.1"),
        ("x-custom", "kept"),
    ];
    let own_business = [
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
    ];
    for websocket in [false, true] {
        let transport = if websocket { "websocket" } else { "polling" };
        let target = format!("&transport={transport}&sid=recordXXXXXXXXXXXXXX&t=1");
        let mut headers = sent.to_vec();
        headers.extend(if websocket {
            UPGRADE.to_vec()
        } else {
            own_business.to_vec()
        });
        let mut client = send(node.public, "GET", &target, &headers, b"").await;
        let (mut stream, _) = owner.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let target = target.to_lowercase();
        assert!(
            head.starts_with(&format!("get /engine.io/?eio=4{target} http/1.1\r\n")),
            "{head}"
        );
        for (name, value) in &sent {
            let value = if *name == "x-fanfare-client-ip" {
                "127.0.0.1"
            } else {
                value
            };
            let line = format!("\r\n{name}: {}\r\n", value.to_lowercase());
            assert!(head.contains(&line), "{line:?} is not in {head}");
            assert_eq!(head.matches(&format!("\r\n{name}:")).count(), 1, "{head}");
        }
        assert!(head.contains("\r\nhost: edge.example\r\n"), "{head}");
        assert!(!head.contains("x-hop") && !head.contains("\r\nte:"), "{head}");
        assert_eq!(head.contains("\r\nupgrade: websocket\r\n"), websocket, "{head}");
        stream
            .write_all(b"HTTP/1.1 418 Teapot\r\nx-of: owner\r\ncontent-length: 3\r\n\r\ntea")
            .await
            .unwrap();
        let answer = answer(&mut client).await;
        assert_eq!((answer.status, answer.body.as_str()), (418, "tea"));
        assert_eq!(answer.header("x-of"), Some("owner"));
    }
}

#[tokio::test]
async fn a_client_cannot_name_its_own_address() {
    let (_, [node]) = cluster(CALM, None).await;
    let spoofed = [("x-fanfare-client-ip", "198.51.100.1")];
    ask(node.public, "GET", "&transport=polling", &spoofed, b"").await;
    let sessions = node.engine.all();
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].handshake().ip.to_string(), "127.0.0.1");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_by_the_owner_and_the_session_goes_on() {
    let (_, [owner, other]) = cluster(CALM, None).await;
    let sid = open(owner.public).await;
    let target = format!("&transport=polling&sid={sid}");
    for size in [MAX_PAYLOAD + 1, 3 * MAX_PAYLOAD] {
        let body = "4".repeat(size);
        let refused = post(other.public, &sid, &body).await;
        assert_eq!(refused.status, 413, "{size}");
        let chunked = format!("{size:x}\r\n{body}\r\n0\r\n\r\n");
        let headers = [("transfer-encoding", "chunked")];
        let refused = ask(other.public, "POST", &target, &headers, chunked.as_bytes()).await;
        assert_eq!(refused.status, 413, "{size} in chunks");
    }
    let largest = format!("4{}", "x".repeat(MAX_PAYLOAD - 1));
    let chunked = format!("{MAX_PAYLOAD:x}\r\n{largest}\r\n0\r\n\r\n");
    let headers = [("transfer-encoding", "chunked")];
    let taken = ask(other.public, "POST", &target, &headers, chunked.as_bytes()).await;
    assert_eq!(taken.status, 200);
    assert_eq!(get(other.public, &sid).await.body, largest);
    assert_eq!(post(other.public, &sid, &largest).await.status, 200);
    assert_eq!(get(other.public, &sid).await.body, largest);
}

#[tokio::test]
async fn handshakes_set_the_affinity_cookie_and_leave_a_good_one() {
    let (_, [node, other]) = cluster(CALM, None).await;
    let first = ask(node.public, "GET", "&transport=polling", &[], b"").await;
    let cookie = first.header("set-cookie").unwrap();
    assert!(cookie.starts_with("fanfare=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"));
    let cookie = cookie.split(';').next().unwrap();
    let again = [("cookie", cookie)];
    let second = ask(node.public, "GET", "&transport=polling", &again, b"").await;
    assert_eq!(second.header("set-cookie"), None);
    let malformed = [("cookie", "fanfare=1")];
    let third = ask(node.public, "GET", "&transport=polling", &malformed, b"").await;
    assert!(third.header("set-cookie").is_some());
    // Only handshakes do.
    let sid = sid_of(&first.body);
    for at in [node.public, other.public] {
        assert_eq!(post(at, &sid, "4x").await.header("set-cookie"), None);
        assert_eq!(get(at, &sid).await.header("set-cookie"), None);
    }
    let mut upgraded = send(node.public, "GET", "&transport=websocket", &UPGRADE, b"").await;
    let upgraded = answer(&mut upgraded).await;
    assert_eq!(upgraded.status, 101);
    assert!(upgraded.header("set-cookie").unwrap().starts_with("fanfare="));
}
