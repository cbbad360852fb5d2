//! Where servers with several threads go wrong: one connection overtakes another. Each is a test of the official suites
//! or has cost one of them a run.

use anyhow::{Result, ensure};

use crate::client::{ENGINE, Polling, TEXT, calm, frame, packets};

/// A POST `1` that overtakes the GET sent with it: the GET is still answered. Tries it a few times, because two
/// segments sent one behind the other may be far apart on a busy machine.
#[test]
fn a_close_that_overtakes_the_poll() -> Result<()> {
    calm(|server| {
        for _ in 0..10 {
            let polling = Polling::open(server, ENGINE)?;
            let mut post = server.connect()?;
            let mut poll = server.connect()?;
            post.request("POST", &polling.target("polling"), &[], b"1")?;
            poll.request("GET", &polling.target("polling"), &[], b"")?;
            ensure!(post.answer()?.status == 200);
            let answer = poll.answer()?;
            polling.is_gone()?;
            if answer.status == 200 {
                ensure!(packets(&answer)? == ["6"], "{answer:?}");
                return Ok(());
            }
        }
        anyhow::bail!("the poll is refused each time")
    })
}

/// After `5` a GET is refused, be it sent at once: the change is done before anything else is read. The echo of what
/// was sent behind the `5` says that it was.
#[test]
fn a_poll_right_behind_the_upgrade() -> Result<()> {
    calm(|server| {
        for _ in 0..20 {
            let polling = Polling::open(server, ENGINE)?;
            let mut socket = polling.websocket()?;
            socket.text("2probe")?;
            socket.expect("3probe")?;
            socket.write(&[frame(TEXT, b"5"), frame(TEXT, b"4hello")].concat())?;
            socket.expect("4hello")?;
            polling.poll()?.is_refusal(400, 3, "Bad request")?;
        }
        Ok(())
    })
}

/// A bad payload is answered with 400 (or the connection is cut), and then nobody is served under that id.
#[test]
fn a_poll_right_behind_a_bad_payload() -> Result<()> {
    calm(|server| {
        for _ in 0..20 {
            let polling = Polling::open(server, ENGINE)?;
            let answer = polling.post(&[], b"abc")?;
            ensure!(answer.status == 400, "{answer:?}");
            let answer = polling.poll()?;
            ensure!(answer.status == 400, "{answer:?}");
        }
        Ok(())
    })
}

/// A session whose poll was cancelled is gone for the next GET as well, not only for a POST.
#[test]
fn a_poll_after_a_cancelled_one() -> Result<()> {
    calm(|server| {
        let polling = Polling::open(server, ENGINE)?;
        let mut poll = polling.begin_poll()?;
        ensure!(poll.is_silent()?, "an answer with nothing to say");
        drop(poll);
        // It says 1 or is refused; it must not wait for packets of a session that ended.
        let answer = polling.poll()?;
        ensure!(answer.status == 400 || packets(&answer)? == ["1"], "{answer:?}");
        polling.is_gone()
    })
}

/// Requests of many clients at once, each on threads of its own, do not disturb each other.
#[test]
fn many_sessions_at_once() -> Result<()> {
    calm(|server| {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|client| {
                    scope.spawn(move || -> Result<()> {
                        for round in 0..10 {
                            let polling = Polling::open(server, ENGINE)?;
                            let text = format!("4{client}-{round}");
                            polling.send(text.as_bytes())?;
                            ensure!(polling.packets()? == [text.as_str()]);
                            let mut socket = polling.websocket()?;
                            socket.text("2probe")?;
                            socket.expect("3probe")?;
                            socket.text("5")?;
                            socket.text(&text)?;
                            socket.expect(&text)?;
                            socket.text("1")?;
                            socket.closed()?;
                            polling.is_gone()?;
                        }
                        Ok(())
                    })
                })
                .collect();
            clients
                .into_iter()
                .try_for_each(|client| client.join().map_err(|_| anyhow::anyhow!("a panic"))?)
        })
    })
}
