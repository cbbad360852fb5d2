//! Socket.IO v5, "Sending and receiving data", "Acknowledgement", "Packet encoding", "Sample session".

use anyhow::{Context, Result, ensure};

use crate::client::{ENGINE, Polling, SOCKET, Seen, WebSocket, calm, packets};

/// "Sending and receiving data" with the main namespace: arguments come back as they were sent.
#[test]
fn events() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        for args in [
            "",
            ",1",
            r#","hello",1,true,null,1.5e-7,-0"#,
            r#",{"a":{"b":["c",{"d":[[]]}]}},[],{},"""#,
            ",\"\u{e9}\u{20ac}\u{1f37a}\"",
            r#","\"\\\/\b\f\n\r\t\u0000\ud83c\udfba""#,
        ] {
            socket.text(&format!(r#"42["message"{args}]"#))?;
            socket.expect(&format!(r#"42["message-back"{args}]"#))?;
        }
        Ok(())
    })
}

/// "Sending and receiving data" on long-polling, several events in a payload.
#[test]
fn events_on_polling() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, SOCKET)?;
        polling.send(b"40\x1e42[\"message\",1]\x1e42[\"message\",2]\x1e427[\"message-with-ack\",3]")?;
        let all = polling.packets_of(5)?;
        ensure!(all[0].starts_with(r#"40{"sid":""#), "{all:?}");
        let rest = [
            r#"42["auth",{}]"#,
            r#"42["message-back",1]"#,
            r#"42["message-back",2]"#,
            "437[3]",
        ];
        ensure!(all[1..] == rest, "{all:?}");
        Ok(())
    })
}

/// An event nobody handles is nobody's fault; a number may be an event's name (reference).
#[test]
fn events_nobody_handles() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        for event in [
            r#"42["unheard-of",1]"#,
            r#"42[""]"#,
            "42[1,2]",
            "42[-1.5]",
            r#"42["message-with-ack"]"#,
            r#"42["__proto__"]"#,
        ] {
            socket.text(event)?;
        }
        socket.text(r#"421["message-with-ack"]"#)?;
        socket.expect("431[]")
    })
}

/// "Sending and receiving data" with binary data: as many frames as the packet says belong to it, and their order is
/// that of their numbers.
#[test]
fn binary_events() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        socket.text(r#"451-["message",{"_placeholder":true,"num":0}]"#)?;
        socket.binary(&[1, 2, 3, 4])?;
        socket.expect(r#"451-["message-back",{"_placeholder":true,"num":0}]"#)?;
        socket.expect_binary(&[1, 2, 3, 4])?;

        let args = r#"{"_placeholder":true,"num":0},"text",{"deep":[{"_placeholder":true,"num":1}]}"#;
        socket.text(&format!(r#"452-["message",{args}]"#))?;
        socket.binary(&[1])?;
        socket.binary(&[])?;
        socket.expect(&format!(r#"452-["message-back",{args}]"#))?;
        socket.expect_binary(&[1])?;
        socket.expect_binary(&[])?;

        // As many as there may be.
        let places: Vec<_> = (0..10)
            .map(|num| format!(r#"{{"_placeholder":true,"num":{num}}}"#))
            .collect();
        let places = places.join(",");
        socket.text(&format!(r#"4510-["message",{places}]"#))?;
        for number in 0..10 {
            socket.binary(&[number])?;
        }
        socket.expect(&format!(r#"4510-["message-back",{places}]"#))?;
        for number in 0..10 {
            socket.expect_binary(&[number])?;
        }
        Ok(())
    })
}

/// The same on long-polling, where binary is base64: attachments may come with the packet or with a later request.
#[test]
fn binary_events_on_polling() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, SOCKET)?;
        polling.send(b"40")?;
        ensure!(polling.packets_of(2)?[1] == r#"42["auth",{}]"#);
        polling.send(
            b"452-[\"message\",{\"_placeholder\":true,\"num\":0},{\"_placeholder\":true,\"num\":1}]\x1ebAQI=",
        )?;
        polling.send(b"bAwQ=")?;
        let wanted = [
            r#"452-["message-back",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#,
            "bAQI=",
            "bAwQ=",
        ];
        ensure!(polling.packets_of(3)? == wanted);
        Ok(())
    })
}

/// Heartbeats may come between a packet and its attachments; they belong to the layer below.
#[test]
fn heartbeats_do_not_disturb_attachments() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        socket.text(r#"451-["message",{"_placeholder":true,"num":0}]"#)?;
        socket.text("3")?;
        socket.text("6")?;
        socket.binary(&[1])?;
        socket.expect(r#"451-["message-back",{"_placeholder":true,"num":0}]"#)?;
        socket.expect_binary(&[1])
    })
}

/// "Acknowledgement": the same id, an array that may be empty; ids are the client's to choose.
#[test]
fn acknowledgements() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        for (event, ack) in [
            (r#"420["message-with-ack"]"#, "430[]"),
            (r#"4212["message-with-ack","bar"]"#, r#"4312["bar"]"#),
            (r#"4212["message-with-ack",{"a":[1]},2]"#, r#"4312[{"a":[1]},2]"#),
            (
                r#"429007199254740991["message-with-ack"]"#,
                "439007199254740991[]",
            ),
        ] {
            socket.text(event)?;
            socket.expect(ack)?;
        }
        Ok(())
    })
}

/// "Acknowledgement" in a custom namespace; ids of different namespaces have nothing to do with each other.
#[test]
fn acknowledgements_in_a_custom_namespace() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        socket.text("40/custom,")?;
        ensure!(socket.next_text()?.starts_with("40/custom,"));
        socket.expect(r#"42/custom,["auth",{}]"#)?;
        socket.text(r#"42/custom,13["message-with-ack","bar"]"#)?;
        socket.text(r#"4213["message-with-ack","foo"]"#)?;
        socket.expect(r#"43/custom,13["bar"]"#)?;
        socket.expect(r#"4313["foo"]"#)
    })
}

/// "Acknowledgement" with binary data: a BINARY_ACK.
#[test]
fn binary_acknowledgements() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        socket.text(r#"451-15["message-with-ack","bar",{"_placeholder":true,"num":0}]"#)?;
        socket.binary(&[1, 2, 3, 4])?;
        socket.expect(r#"461-15["bar",{"_placeholder":true,"num":0}]"#)?;
        socket.expect_binary(&[1, 2, 3, 4])?;

        socket.text("40/custom,")?;
        ensure!(socket.next_text()?.starts_with("40/custom,"));
        socket.expect(r#"42/custom,["auth",{}]"#)?;
        socket.text(r#"451-/custom,1["message-with-ack",{"_placeholder":true,"num":0}]"#)?;
        socket.binary(&[5])?;
        socket.expect(r#"461-/custom,1[{"_placeholder":true,"num":0}]"#)?;
        socket.expect_binary(&[5])
    })
}

/// Reference: an acknowledgement nobody waits for is ignored, a binary one with its attachments.
#[test]
fn acknowledgements_nobody_waits_for() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        socket.text("430[]")?;
        socket.text(r#"4399["late"]"#)?;
        socket.text(r#"461-7[{"_placeholder":true,"num":0}]"#)?;
        socket.binary(&[1])?;
        socket.text(r#"421["message-with-ack"]"#)?;
        socket.expect("431[]")
    })
}

/// "Format": the parts in their order, each optional one with and without the others.
#[test]
fn table_of_formats() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        socket.text("40/custom,")?;
        ensure!(socket.next_text()?.starts_with("40/custom,"));
        socket.expect(r#"42/custom,["auth",{}]"#)?;
        let place = r#"{"_placeholder":true,"num":0}"#;
        for (sent, wanted) in [
            (r#"2["message",0]"#, r#"2["message-back",0]"#),
            (r#"2/,["message",0]"#, r#"2["message-back",0]"#),
            (r#"25["message-with-ack",0]"#, "35[0]"),
            (r#"2/custom,5["message-with-ack",0]"#, "3/custom,5[0]"),
            (r#"51-["message",PLACE]"#, r#"51-["message-back",PLACE]"#),
            (r#"51-5["message-with-ack",PLACE]"#, "61-5[PLACE]"),
            (r#"51-/custom,5["message-with-ack",PLACE]"#, "61-/custom,5[PLACE]"),
        ] {
            let sent = format!("4{}", sent.replace("PLACE", place));
            socket.text(&sent)?;
            if sent.contains(place) {
                socket.binary(&[9])?;
            }
            let wanted = format!("4{}", wanted.replace("PLACE", place));
            socket.expect(&wanted).with_context(|| sent.clone())?;
            if wanted.contains(place) {
                socket.expect_binary(&[9])?;
            }
        }
        Ok(())
    })
}

/// Numbers that stand for attachments are the wire's business: nothing forbids one in a packet without any.
#[test]
fn a_placeholder_without_attachments_is_data() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        socket.text(r#"42["message",{"_placeholder":true,"num":0}]"#)?;
        socket.expect(r#"42["message-back",{"_placeholder":true,"num":0}]"#)
    })
}

/// A packet as long as may be.
#[test]
fn a_packet_of_the_greatest_length() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::joined(server)?;
        let long = "x".repeat(1_000_000 - r#"421["message-with-ack",""]"#.len());
        socket.text(&format!(r#"421["message-with-ack","{long}"]"#))?;
        ensure!(socket.next()? == Seen::Text(format!(r#"431["{long}"]"#)));
        Ok(())
    })
}

/// "Sample session", request by request; `/custom` stands for its `/admin`.
#[test]
fn sample_session() -> Result<()> {
    calm(|server| {
        // 1: open packet.
        let polling = Polling::open(server, SOCKET)?;
        // 2 and 3: CONNECT.
        polling.send(b"40")?;
        let all = polling.packets_of(2)?;
        ensure!(all[0].starts_with(r#"40{"sid":""#), "{all:?}");
        // 4: an event from the server.
        ensure!(all[1] == r#"42["auth",{}]"#, "{all:?}");
        // 5: events to the server.
        let mut poll = polling.begin_poll()?;
        polling.send(b"42[\"hello\"]\x1e42[\"message\",\"world\"]")?;
        ensure!(packets(&poll.answer()?)? == [r#"42["message-back","world"]"#]);
        // 6: the upgrade.
        let mut poll = polling.begin_poll()?;
        let mut socket = polling.websocket()?;
        socket.text("2probe")?;
        socket.expect("3probe")?;
        ensure!(packets(&poll.answer()?)? == ["6"]);
        socket.text("5")?;
        socket.text(r#"42["message","hello"]"#)?;
        socket.expect(r#"42["message-back","hello"]"#)?;
        socket.text("40/custom,")?;
        ensure!(socket.next_text()?.starts_with(r#"40/custom,{"sid":""#));
        socket.expect(r#"42/custom,["auth",{}]"#)?;
        socket.text(r#"451-/custom,1["message-with-ack",{"_placeholder":true,"num":0}]"#)?;
        socket.binary(&[1])?;
        socket.expect(r#"461-/custom,1[{"_placeholder":true,"num":0}]"#)?;
        socket.expect_binary(&[1])?;
        socket.text("3")?;
        socket.text("1")?;
        socket.closed()?;
        polling.is_gone()
    })
}

/// The Engine.IO echo has no Socket.IO on it: what would be malformed there is any message here.
#[test]
fn the_layers_are_apart() -> Result<()> {
    calm(|server| {
        let mut socket = WebSocket::session(server, ENGINE)?.0;
        socket.text("42")?;
        socket.expect("42")?;
        socket.text("4not a packet")?;
        socket.expect("4not a packet")
    })
}
