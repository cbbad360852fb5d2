//! HTTP long-polling: GET fetches packets, POST brings them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::body::Body;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use sio::{
    engine::{
        CloseReason, DecodeError, HandshakeError, Packet, Received, TransportKind, Version, open_payload,
        payload,
    },
    packet::{Frame, encode},
};

use super::{
    Conn, EngineServer, Handshake,
    driver::{Message, has_last_words},
    outbound::Mode,
    reply,
};

/// A `1` that overtook the client's own GET waits so long for it, so that the GET is still answered.
const CLOSE_GRACE: Duration = Duration::from_millis(20);

/// Opens a session: the answer is its open packet.
pub(super) fn open(server: &Arc<EngineServer>, handshake: Handshake) -> Response<Body> {
    let conn = server.admit(handshake, TransportKind::Polling);
    let options = server.options();
    let open = open_payload(conn.sid(), true, &options.timing, options.max_payload);
    server
        .tasks()
        .spawn("polling connection", server.drive(&conn).polling());
    body(conn.handshake(), encode::engine_open(&open).frames())
}

/// An answer in the form that the client reads.
fn body(handshake: &Handshake, frames: impl IntoIterator<Item = Frame>) -> Response<Body> {
    match handshake.version {
        Version::V4 => reply::packets(payload::encode(frames)),
        Version::V3 => match payload::v3::encode(frames, handshake.base64) {
            (body, false) => reply::packets(body),
            (body, true) => reply::with_body(StatusCode::OK, "application/octet-stream", body),
        },
    }
}

/// A request of a session that is there.
pub(super) async fn serve(
    server: &Arc<EngineServer>,
    conn: Arc<Conn>,
    request: Request<Incoming>,
) -> Result<Response<Body>, HandshakeError> {
    match *request.method() {
        Method::GET => get(server, conn).await,
        Method::POST => post(server, conn, request).await,
        _ => Err(HandshakeError::BadRequest),
    }
}

async fn get(server: &EngineServer, conn: Arc<Conn>) -> Result<Response<Body>, HandshakeError> {
    // The driver's timer may be a moment late; a session whose time is over is over.
    if let Err(reason) = conn.run_timers(&server.options().timing, Instant::now()) {
        conn.close(reason);
    }
    {
        let mut engine = conn.engine.lock();
        if engine.session.transport() != TransportKind::Polling {
            return Err(HandshakeError::BadRequest);
        }
        let begun = match engine.closing {
            None => engine.session.begin_poll(),
            Some(reason) if has_last_words(reason) => Ok(()),
            Some(_) => return Err(HandshakeError::SessionIdUnknown),
        };
        drop(engine);
        if let Err(reason) = begun {
            conn.close(reason);
            return Err(HandshakeError::BadRequest);
        }
    }
    conn.out.lock().polled = true;
    let mut poll = PendingPoll {
        conn: &conn,
        answered: false,
    };
    loop {
        let notified = conn.poll_wake.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if let Some(frames) = poll.frames(server.options().max_payload) {
            poll.answered = true;
            return Ok(body(conn.handshake(), frames));
        }
        notified.await;
    }
}

/// A GET that waits. Dropped unanswered, the client has hung up: it would miss whatever comes next,
/// so the session ends.
struct PendingPoll<'a> {
    conn: &'a Arc<Conn>,
    answered: bool,
}

impl PendingPoll<'_> {
    fn frames(&self, max_body: usize) -> Option<Vec<Frame>> {
        let closing = self.conn.closing();
        let mut out = self.conn.out.lock();
        let queued = out.take_payload(max_body);
        if out.mode() != Mode::Closed {
            return queued;
        }
        // Stock clients hear of packets a moment later than of the transport's end, and would come back by themselves
        // if the `disconnect` came with it.
        if queued.is_some() && closing == Some(CloseReason::RateLimited) {
            return queued;
        }
        let last = match closing {
            // The client said goodbye itself.
            Some(CloseReason::TransportClose) => encode::engine_noop(),
            _ => encode::engine_close(),
        };
        let mut frames = queued.unwrap_or_default();
        frames.extend(last.frames());
        Some(frames)
    }
}

impl Drop for PendingPoll<'_> {
    fn drop(&mut self) {
        self.conn.out.lock().polled = false;
        self.conn.engine.lock().session.end_poll();
        if self.answered {
            // The driver of a closing session waits for its last words to be fetched.
            self.conn.wake.tell();
        } else {
            self.conn.close(CloseReason::TransportError);
        }
    }
}

async fn post(
    server: &EngineServer,
    conn: Arc<Conn>,
    request: Request<Incoming>,
) -> Result<Response<Body>, HandshakeError> {
    {
        let mut engine = conn.engine.lock();
        if engine.session.transport() != TransportKind::Polling || engine.session.is_closed() {
            return Err(HandshakeError::BadRequest);
        }
        if let Err(reason) = engine.session.begin_post() {
            drop(engine);
            conn.close(reason);
            return Err(HandshakeError::BadRequest);
        }
    }
    let _posting = PendingPost(&conn);
    let binary = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/octet-stream"));
    let version = conn.handshake().version;
    if binary && version == Version::V4 {
        conn.close(CloseReason::TransportError);
        return Err(HandshakeError::BadRequest);
    }
    let limited = Limited::new(request.into_body(), server.options().max_payload);
    let body = match tokio::time::timeout(server.options().body_timeout, limited.collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return Ok(reply::empty(StatusCode::PAYLOAD_TOO_LARGE));
        }
        Ok(Err(_)) | Err(_) => {
            conn.close(CloseReason::TransportError);
            return Err(HandshakeError::BadRequest);
        }
    };
    let taken = match version {
        Version::V4 => take(server, &conn, payload::packets(body)).await,
        Version::V3 => take(server, &conn, payload::v3::packets(body, binary)).await,
    };
    if taken.is_err() {
        conn.close(CloseReason::ParseError);
        return Err(HandshakeError::BadRequest);
    }
    Ok(reply::with_body(StatusCode::OK, "text/html", "ok"))
}

/// As the reference does, what stands before a bad packet counts.
async fn take(
    server: &EngineServer,
    conn: &Arc<Conn>,
    packets: Result<impl Iterator<Item = Result<Packet, DecodeError>>, DecodeError>,
) -> Result<(), DecodeError> {
    for packet in packets? {
        if !receive(server, conn, packet?).await {
            break;
        }
    }
    Ok(())
}

/// Hands a packet to the driver as soon as that has room for it; `false` when the session takes no more.
async fn receive(server: &EngineServer, conn: &Arc<Conn>, packet: Packet) -> bool {
    let received = {
        let mut engine = conn.engine.lock();
        engine.session.on_packet(
            TransportKind::Polling,
            packet,
            &server.options().timing,
            Instant::now(),
        )
    };
    let mut message = match received {
        Ok(Received::Text(text)) => Message::Text(text),
        Ok(Received::Binary(bytes)) => Message::Binary(bytes),
        Ok(Received::ClientClose) => {
            if !conn.out.lock().polled {
                tokio::time::sleep(CLOSE_GRACE).await;
            }
            conn.close(CloseReason::TransportClose);
            return false;
        }
        Ok(Received::Pong(data)) => {
            conn.send(&encode::engine_pong(&data));
            conn.wake.tell();
            return true;
        }
        Ok(_) => {
            // A pong may have brought the next ping nearer than the driver's timer.
            conn.wake.tell();
            return true;
        }
        Err(reason) => {
            conn.close(reason);
            return false;
        }
    };
    loop {
        let put = {
            let mut engine = conn.engine.lock();
            match &mut engine.handover {
                Some(handover) => handover.put(message),
                // The WebSocket has taken over, or the session has ended.
                None => return false,
            }
        };
        conn.wake.tell();
        match put {
            Ok(()) => return true,
            Err(full) => message = full,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

struct PendingPost<'a>(&'a Arc<Conn>);

impl Drop for PendingPost<'_> {
    fn drop(&mut self) {
        self.0.engine.lock().session.end_post();
    }
}
