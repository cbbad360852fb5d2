//! WebSocket handshakes (RFC 6455 section 4.2) and the probe of an upgrading session.

use std::{cell::RefCell, io, sync::Arc, time::Instant};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use lifecycle::{Tasks, WriteTimeout};
use sio::{
    engine::{CloseReason, HandshakeError, Packet, Received, TransportKind, open_payload},
    packet::encode,
    ws::{self, Decoder, deflate},
};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::{Conn, EngineServer, Handshake, reply, tunnel};

/// Refuses what is no WebSocket handshake of version 13.
pub(super) fn check(request: &Request<Incoming>) -> Result<(), HandshakeError> {
    let headers = request.headers();
    let connection_upgrades = headers.get_all(header::CONNECTION).iter().any(|value| {
        value.to_str().is_ok_and(|value| {
            value
                .split(',')
                .any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
        })
    });
    let valid = request.method() == Method::GET
        && connection_upgrades
        && headers
            .get(header::SEC_WEBSOCKET_VERSION)
            .is_some_and(|version| version == "13")
        && headers
            .get(header::SEC_WEBSOCKET_KEY)
            .is_some_and(|key| key.len() == 24);
    if valid {
        Ok(())
    } else {
        Err(HandshakeError::BadRequest)
    }
}

/// Opens a session that is a WebSocket from the start.
pub(super) fn open(
    server: &Arc<EngineServer>,
    request: Request<Incoming>,
    handshake: Handshake,
) -> Response<Body> {
    let Switch {
        response,
        upgrade,
        deflates,
    } = switch(server, request);
    let server = Arc::clone(server);
    server.clone().tasks().spawn("websocket connection", async move {
        let Some((stream, early)) = stream(upgrade, server.tasks()).await else {
            return;
        };
        let conn = server.admit(handshake, TransportKind::WebSocket);
        let options = server.options();
        let open = open_payload(conn.sid(), false, &options.timing, options.max_payload);
        if conn.stream.set(stream).is_err() {
            return;
        }
        if deflates {
            conn.set_inflates();
            conn.compress();
        }
        conn.send(&encode::engine_open(&open));
        server.drive(&conn).websocket(early).await;
    });
    response
}

/// A WebSocket for a session that is there: an upgrade. One that cannot upgrade (done already, or
/// another probe is under way) is accepted and closed, as the reference does.
pub(super) fn attach(
    server: &Arc<EngineServer>,
    conn: Arc<Conn>,
    request: Request<Incoming>,
) -> Response<Body> {
    let Switch {
        response,
        upgrade,
        deflates,
    } = switch(server, request);
    let server = Arc::clone(server);
    server.clone().tasks().spawn("websocket probe", async move {
        let Some((stream, early)) = stream(upgrade, server.tasks()).await else {
            return;
        };
        let begun = conn
            .engine
            .lock()
            .session
            .begin_upgrade(&server.options().timing, Instant::now());
        if begun {
            conn.wake.tell();
            probe(&server, &conn, stream, &early, deflates).await;
        } else {
            let _ = stream.try_write(&ws::frame::close(1000, ""));
        }
    });
    response
}

/// A request that becomes a WebSocket.
struct Switch {
    response: Response<Body>,
    upgrade: OnUpgrade,
    /// Both sides may compress.
    deflates: bool,
}

fn switch(server: &EngineServer, mut request: Request<Incoming>) -> Switch {
    let upgrade = hyper::upgrade::on(&mut request);
    let mut response = reply::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let key = request
        .headers()
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok())
        .unwrap_or_default();
    if let Ok(accept) = HeaderValue::from_str(&ws::frame::accept_key(key)) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    let mut offers = request.headers().get_all(header::SEC_WEBSOCKET_EXTENSIONS).iter();
    let deflates = server.options().deflate_from.is_some()
        && offers.any(|offer| offer.to_str().is_ok_and(deflate::accepts));
    if deflates {
        let agreed = HeaderValue::from_static(deflate::RESPONSE);
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, agreed);
    }
    Switch {
        response,
        upgrade,
        deflates,
    }
}

/// The stream behind an upgraded request, in plain, with what was read of it beyond the head.
pub(super) async fn stream(upgrade: OnUpgrade, tasks: &Tasks) -> Option<(TcpStream, Bytes)> {
    let upgraded = upgrade.await.ok()?;
    let upgraded = match upgraded.downcast::<TokioIo<WriteTimeout<TcpStream>>>() {
        Ok(parts) => return Some((parts.io.into_inner().into_inner(), parts.read_buf)),
        Err(upgraded) => upgraded,
    };
    let parts = upgraded
        .downcast::<TokioIo<WriteTimeout<TlsStream<TcpStream>>>>()
        .ok()?;
    match bridge(tasks, parts.io.into_inner().into_inner()) {
        Ok(stream) => Some((stream, parts.read_buf)),
        Err(error) => {
            tracing::error!(%error, "cannot take a WebSocket over TLS");
            None
        }
    }
}

/// A plain stream for one over TLS: sessions write to their socket directly, from whatever task delivers,
/// and the state of a TLS stream has no place under that. It costs a pair of sockets, a task and one more
/// copy each way; only WebSockets over TLS pay it.
fn bridge(tasks: &Tasks, encrypted: TlsStream<TcpStream>) -> io::Result<TcpStream> {
    let (session, task) = std::os::unix::net::UnixStream::pair()?;
    session.set_nonblocking(true)?;
    task.set_nonblocking(true)?;
    let task = tokio::net::UnixStream::from_std(task)?;
    // Only what all stream sockets have is ever asked of a session's stream: read, write, shut down.
    let session = std::net::TcpStream::from(std::os::fd::OwnedFd::from(session));
    let session = TcpStream::from_std(session)?;
    tasks.spawn(
        "websocket over TLS",
        tunnel::run(encrypted, Bytes::new(), task, Bytes::new()),
    );
    Ok(session)
}

/// Waits for `2probe`, answers `3probe`, waits for `5`, then hands the stream to the driver. What
/// goes wrong before that ends the WebSocket, not the session.
async fn probe(server: &EngineServer, conn: &Arc<Conn>, stream: TcpStream, early: &[u8], deflates: bool) {
    let mut probe = Probe {
        server,
        conn,
        deflates,
        decoder: Decoder::new(),
    };
    let run = async {
        let mut upgraded = probe.feed(&stream, early)?;
        loop {
            if let Some(behind) = upgraded {
                return Ok::<Bytes, ()>(behind);
            }
            // The driver wakes polls when the session ends, and then there is nothing to upgrade.
            let ended = conn.poll_wake.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if conn.closing().is_some() {
                return Err(());
            }
            tokio::select! {
                ready = stream.readable() => ready.map_err(drop)?,
                () = ended => continue,
            }
            upgraded = probe.read(&stream)?;
        }
    };
    let in_time = tokio::time::timeout(server.options().timing.upgrade_timeout, run).await;
    let Ok(Ok(behind)) = in_time else {
        let _ = stream.try_write(&ws::frame::close(1000, ""));
        conn.engine.lock().session.end_upgrade();
        conn.out.lock().release_poll = false;
        return;
    };
    let taken = {
        let mut engine = conn.engine.lock();
        let first = conn.stream.set(stream).is_ok();
        if first && deflates {
            conn.set_inflates();
        }
        match &mut engine.handover {
            Some(handover) if first => {
                handover.websocket = Some(behind);
                true
            }
            _ => false,
        }
    };
    if taken {
        conn.out.lock().upgrade();
        conn.compress();
        conn.poll_wake.notify_waiters();
        conn.wake.tell();
    } else {
        conn.close(CloseReason::TransportError);
    }
}

struct Probe<'a> {
    server: &'a EngineServer,
    conn: &'a Arc<Conn>,
    deflates: bool,
    decoder: Decoder,
}

impl Probe<'_> {
    /// Once upgraded, what came behind the `5` in the same read: that is the driver's.
    fn read(&mut self, stream: &TcpStream) -> Result<Option<Bytes>, ()> {
        thread_local! {
            static BUFFER: RefCell<[u8; 4096]> = const { RefCell::new([0; 4096]) };
        }
        BUFFER.with_borrow_mut(|buffer| match stream.try_read(buffer) {
            Ok(0) => Err(()),
            Ok(read) => self.feed(stream, &buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(()),
        })
    }

    fn feed(&mut self, stream: &TcpStream, mut input: &[u8]) -> Result<Option<Bytes>, ()> {
        let version = self.conn.handshake().version;
        while let Some(frame) = self
            .decoder
            .next_of(&mut input, self.server.options().max_payload, self.deflates)
            .map_err(drop)?
        {
            let packet = match frame {
                ws::Message::Text(text) => Packet::decode_message(version, text).map_err(drop)?,
                ws::Message::Binary(bytes) => Packet::decode_binary(version, bytes).map_err(drop)?,
                ws::Message::Ping(data) => {
                    let _ = stream.try_write(&ws::frame::pong(&data));
                    continue;
                }
                ws::Message::Pong(_) => continue,
                ws::Message::Close(_) => return Err(()),
            };
            let received = {
                let mut engine = self.conn.engine.lock();
                let timing = &self.server.options().timing;
                engine
                    .session
                    .on_packet(TransportKind::WebSocket, packet, timing, Instant::now())
            };
            match received {
                Ok(Received::Probe) => {
                    let pong = encode::engine_pong("probe");
                    if stream.try_write(pong.as_bytes()).ok() != Some(pong.len()) {
                        return Err(());
                    }
                    self.conn.out.lock().release_poll = true;
                    self.conn.poll_wake.notify_waiters();
                }
                Ok(Received::Upgraded) => return Ok(Some(Bytes::copy_from_slice(input))),
                Ok(Received::Nothing) => {}
                Ok(_) => return Err(()),
                Err(reason) => {
                    self.conn.close(reason);
                    return Err(());
                }
            }
        }
        Ok(None)
    }
}
