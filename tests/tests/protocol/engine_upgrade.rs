//! Engine.IO v4, "Upgrade".

use anyhow::{Context, Result, ensure};

use crate::client::{BINARY, CLOSE, ENGINE, HANDSHAKE, Polling, TEXT, WebSocket, calm, frame, packets, with};

/// A session that has done the whole of it.
fn upgraded(polling: &Polling<'_>) -> Result<WebSocket> {
    let mut socket = probed(polling)?;
    socket.text("5")?;
    Ok(socket)
}

fn probed(polling: &Polling<'_>) -> Result<WebSocket> {
    let mut socket = polling.websocket()?;
    socket.text("2probe")?;
    socket.expect("3probe")?;
    Ok(socket)
}

/// The figure of "Upgrade": 101, `2probe`, `3probe`, `5`, and then the session is there.
#[test]
fn upgrade() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut socket = upgraded(&polling)?;
        socket.text("4hello")?;
        socket.expect("4hello")?;
        socket.binary(&[1, 2, 3])?;
        socket.expect_binary(&[1, 2, 3])
    })
}

/// "The server MUST send a `noop` packet to any pending GET request".
#[test]
fn a_waiting_poll_is_released() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut poll = polling.begin_poll()?;
        ensure!(poll.is_silent()?, "an answer with nothing to say");
        let mut socket = probed(&polling)?;
        ensure!(packets(&poll.answer()?)? == ["6"]);
        // Clients may poll once more before they pause.
        ensure!(polling.packets()? == ["6"]);
        socket.text("5")?;
        socket.text("4hello")?;
        socket.expect("4hello")
    })
}

/// "to ensure that no packet gets lost": what nobody has polled comes over the WebSocket, before anything newer.
#[test]
fn nothing_is_lost_over_the_upgrade() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        polling.send(b"4one\x1ebAQID\x1e4two")?;
        let mut socket = probed(&polling)?;
        polling.send(b"4three")?;
        socket.text("5")?;
        socket.text("4four")?;
        socket.expect("4one")?;
        socket.expect_binary(&[1, 2, 3])?;
        for text in ["4two", "4three", "4four"] {
            socket.expect(text)?;
        }
        Ok(())
    })
}

/// Frames need not come one by one: all of an upgrade in one segment, messages behind it included.
#[test]
fn an_upgrade_in_one_segment() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut socket = polling.websocket()?;
        let frames = [
            frame(TEXT, b"2probe"),
            frame(TEXT, b"5"),
            frame(TEXT, b"4one"),
            frame(BINARY, &[1, 2]),
            frame(TEXT, b"4two"),
        ];
        socket.write(&frames.concat())?;
        socket.expect("3probe")?;
        socket.expect("4one")?;
        socket.expect_binary(&[1, 2])?;
        socket.expect("4two")
    })
}

/// What a client says before it goes is heard, also when it goes in the segment that ends the upgrade.
#[test]
fn an_upgrade_and_a_goodbye_in_one_segment() -> Result<()> {
    calm(|server| {
        for goodbye in [frame(TEXT, b"1"), frame(CLOSE, &1000_u16.to_be_bytes())] {
            let polling = Polling::open(server, ENGINE)?;
            let mut socket = polling.websocket()?;
            let frames = [
                frame(TEXT, b"2probe"),
                frame(TEXT, b"5"),
                frame(TEXT, b"4one"),
                goodbye,
            ];
            socket.write(&frames.concat())?;
            socket.expect("3probe")?;
            socket.expect("4one")?;
            socket.closed()?;
        }
        Ok(())
    })
}

/// The opening handshake and the whole upgrade in one segment: the server must not lose what it read too far.
#[test]
fn an_upgrade_right_behind_the_handshake() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut connection = server.connect()?;
        let head = crate::client::head("GET", &polling.target("websocket"), &HANDSHAKE);
        let frames = [frame(TEXT, b"2probe"), frame(TEXT, b"5"), frame(TEXT, b"4one")];
        connection.write(&[head.as_bytes(), b"\r\n", &frames.concat()].concat())?;
        ensure!(connection.answer()?.status == 101);
        let mut socket = WebSocket::after(connection);
        socket.expect("3probe")?;
        socket.expect("4one")
    })
}

/// After the upgrade the polling transport is closed: requests are refused (official suite), the session goes on.
#[test]
fn polling_is_over_after_the_upgrade() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut socket = upgraded(&polling)?;
        socket.text("4hello")?;
        socket.expect("4hello")?;
        polling.poll()?.is_refusal(400, 3, "Bad request")?;
        polling.post(&[], b"4hello")?.is_refusal(400, 3, "Bad request")?;
        socket.text("4still here")?;
        socket.expect("4still here")
    })
}

/// A poll that waited while the upgrade was completed is answered, not left hanging.
#[test]
fn no_poll_hangs_after_the_upgrade() -> Result<()> {
    calm(|server| {
        for _ in 0..20 {
            let polling = Polling::open(server, ENGINE)?;
            let mut socket = polling.websocket()?;
            let mut poll = polling.begin_poll()?;
            socket.write(&[frame(TEXT, b"2probe"), frame(TEXT, b"5")].concat())?;
            socket.expect("3probe")?;
            let answer = poll.answer()?;
            ensure!(answer.status == 400 || packets(&answer)? == ["6"], "{answer:?}");
            socket.text("4hello")?;
            socket.expect("4hello")?;
        }
        Ok(())
    })
}

/// "WebSocket": not more than one per session. The second one is closed, the first keeps working.
#[test]
fn a_second_websocket_is_closed() -> Result<()> {
    calm(|server| {
        // After the upgrade.
        let polling = Polling::open(server, ENGINE)?;
        let mut first = upgraded(&polling)?;
        first.text("4hello")?;
        first.expect("4hello")?;
        polling.websocket()?.closed()?;
        first.text("4hello")?;
        first.expect("4hello")?;

        // For a session that began as a WebSocket.
        let (mut first, sid) = WebSocket::session(server, ENGINE)?;
        let target = format!("{ENGINE}?EIO=4&transport=websocket&sid={sid}");
        WebSocket::open(server, &target)?.closed()?;
        first.text("4hello")?;
        first.expect("4hello")?;

        // While the first one probes.
        let polling = Polling::open(server, ENGINE)?;
        let mut first = probed(&polling)?;
        polling.websocket()?.closed()?;
        first.text("5")?;
        first.text("4hello")?;
        first.expect("4hello")
    })
}

/// The WebSocket must begin with the probe (reference): anything else closes it, and the session stays on polling.
#[test]
fn what_is_no_probe_closes_the_websocket_alone() -> Result<()> {
    calm(|server| {
        for first in ["2", "2other", "3probe", "0", "1", "4hello", "5", "6", "7", ""] {
            let polling = Polling::open(server, ENGINE)?;
            let mut socket = polling.websocket()?;
            socket.text(first)?;
            socket.closed().with_context(|| format!("{first:?}"))?;
            polling.send(b"4still here")?;
            ensure!(polling.packets()? == ["4still here"], "{first:?}");
            // And may try again.
            let mut socket = upgraded(&polling).with_context(|| format!("{first:?}"))?;
            socket.text("4hello")?;
            socket.expect("4hello")?;
        }
        Ok(())
    })
}

/// The same between probe and `5`.
#[test]
fn what_is_no_upgrade_after_the_probe_closes_the_websocket_alone() -> Result<()> {
    calm(|server| {
        for then in [
            frame(TEXT, b"4hello"),
            frame(TEXT, b"3"),
            frame(TEXT, b"x"),
            frame(BINARY, b"hello"),
            frame(CLOSE, &1000_u16.to_be_bytes()),
            vec![0xff; 20],
        ] {
            let polling = Polling::open(server, ENGINE)?;
            let mut socket = probed(&polling)?;
            socket.write(&then)?;
            socket.closed().with_context(|| format!("{then:?}"))?;
            polling.send(b"4still here")?;
            ensure!(polling.packets()?.contains(&"4still here".to_owned()), "{then:?}");
        }
        Ok(())
    })
}

/// A client whose WebSocket breaks while it probes stays on polling: its polls wait again, and are not answered
/// with noops for ever.
#[test]
fn a_broken_probe_leaves_polling_as_it_was() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        drop(probed(&polling)?);
        // Polls that come before the server has noticed get a noop.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        let mut poll = polling.begin_poll()?;
        while !poll.is_silent()? {
            ensure!(packets(&poll.answer()?)? == ["6"]);
            ensure!(std::time::Instant::now() < until, "noops for ever");
            poll = polling.begin_poll()?;
        }
        polling.send(b"4hello")?;
        ensure!(packets(&poll.answer()?)? == ["4hello"]);
        let mut socket = upgraded(&polling)?;
        socket.text("4hello")?;
        socket.expect("4hello")
    })
}

/// Reference, `upgradeTimeout`: a WebSocket that does not complete the upgrade is closed, the session stays.
#[test]
fn an_upgrade_has_its_time() -> Result<()> {
    let times = [("--ping-interval", "60000"), ("--upgrade-timeout", "500")];
    with(&times, |server| {
        for probe in [false, true] {
            let polling = Polling::open(server, ENGINE)?;
            let begun = std::time::Instant::now();
            let mut socket = polling.websocket()?;
            if probe {
                socket.text("2probe")?;
                socket.expect("3probe")?;
            }
            socket.closed()?;
            ensure!(begun.elapsed() >= std::time::Duration::from_millis(250));
            polling.send(b"4still here")?;
            ensure!(polling.packets()? == ["4still here"]);
        }
        Ok(())
    })
}

/// "Heartbeat" goes on over the upgrade: a ping that was polled may be answered on the WebSocket, the next comes there.
#[test]
fn heartbeat_goes_over_with_the_upgrade() -> Result<()> {
    with(&[("--ping-timeout", "60000")], |server| {
        let polling = Polling::open(server, ENGINE)?;
        ensure!(polling.packets()? == ["2"]);
        let mut socket = upgraded(&polling)?;
        socket.text("3")?;
        for _ in 0..2 {
            socket.expect("2")?;
            socket.text("3")?;
        }
        Ok(())
    })
}

/// The session ends while a WebSocket probes for it: that one ends with it.
#[test]
fn a_closed_session_takes_its_probe_along() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut socket = probed(&polling)?;
        polling.send(b"1")?;
        socket.text("5")?;
        socket.closed()?;
        polling.is_gone()
    })
}
