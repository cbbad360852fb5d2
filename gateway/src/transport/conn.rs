//! One Engine.IO session.

use std::{
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use parking_lot::Mutex;
use sio::{
    engine::{CloseReason, Session, Timer, Timing, Version},
    packet::{Dialect, Encoded, Wire, encode},
};
use telemetry::trace::Span;
use tokio::{net::TcpStream, sync::Notify};

use super::{
    door::Seat,
    driver::Message,
    outbound::{Mode, Outbound, Pushed},
    wake::Wake,
};
use crate::session::{Shown, Sockets};

/// Flags of a connection.
const V3: u8 = 1;
const MSGPACK: u8 = 2;
const INFLATES: u8 = 4;
const DEFLATES: u8 = 8;

/// What a connection's handshake request said; namespaces look at it when they are joined.
#[derive(Debug)]
pub struct Handshake {
    /// Address of the client.
    pub ip: IpAddr,
    /// Header `User-Agent`, at most 256 bytes.
    pub user_agent: Box<str>,
    /// What it shows of who sends it.
    pub shown: Shown,
    /// Whether the client copes with a trailing position in its events. python-socketio and the Dart client
    /// hand it to the application's handlers, which take a fixed number of arguments.
    pub recovers: bool,
    /// Which Engine.IO it speaks.
    pub version: Version,
    /// A client of v3 that cannot take bytes over polling.
    pub(super) base64: bool,
    /// Counts the connection until it has ended: rooms may hold it for longer.
    pub(super) seat: Mutex<Option<Seat>>,
}

/// One Engine.IO session, whatever its transport. Shared by its driver, by requests in flight and
/// by the rooms it is in.
///
/// Locks are taken in the order `engine`, `out`; neither is held while application code runs.
pub struct Conn {
    sid: Box<str>,
    handshake: Handshake,
    send_queue: usize,
    /// Bytes from which messages are compressed, where that was agreed on.
    deflate_from: usize,
    /// What is not standard about the form of its packets.
    flags: AtomicU8,
    pub(super) engine: Mutex<Engine>,
    pub(super) out: Mutex<Outbound>,
    pub(super) stream: OnceLock<TcpStream>,
    /// Wakes the driver.
    pub(super) wake: Wake,
    /// Wakes the pending GET.
    pub(super) poll_wake: Notify,
    pub(crate) sockets: Mutex<Sockets>,
}

/// The part of a session that changes with what comes in.
pub(super) struct Engine {
    pub(super) session: Session,
    pub(super) closing: Option<CloseReason>,
    /// What requests hand to the driver; absent on a plain WebSocket.
    pub(super) handover: Option<Box<Handover>>,
}

/// What polling requests and the upgrading WebSocket leave for the driver.
#[derive(Default)]
pub(super) struct Handover {
    pub(super) inbox: Vec<Message>,
    /// A WebSocket has taken over: what was read of it already.
    pub(super) websocket: Option<Bytes>,
}

impl Handover {
    /// So many messages may wait for the driver before a POST is answered.
    const ROOM: usize = 256;

    /// Gives the message back when there is no room.
    pub(super) fn put(&mut self, message: Message) -> Result<(), Message> {
        if self.inbox.len() >= Self::ROOM {
            return Err(message);
        }
        self.inbox.push(message);
        Ok(())
    }
}

/// Holds packets back until all of a batch are there, so that a connection gets its share of it by one
/// write. Released when dropped.
pub(crate) struct Cork {
    on: bool,
    conns: Vec<Arc<Conn>>,
    /// End when everything is written.
    spans: Vec<Span>,
}

impl Cork {
    /// One that is not `on` holds nothing back.
    pub(crate) fn new(on: bool) -> Self {
        Self {
            on,
            conns: Vec::new(),
            spans: Vec::new(),
        }
    }

    /// The span ends with the release.
    pub(crate) fn ends(&mut self, span: Option<Span>) {
        self.spans.extend(span);
    }

    /// Writes everything that waits.
    pub(crate) fn release(&mut self) {
        for conn in self.conns.drain(..) {
            conn.uncork();
        }
        self.spans.clear();
    }
}

impl Drop for Cork {
    fn drop(&mut self) {
        self.release();
    }
}

impl Conn {
    pub(super) fn new(
        sid: Box<str>,
        handshake: Handshake,
        session: Session,
        mode: Mode,
        send_queue: usize,
        deflate_from: usize,
        sockets: Sockets,
    ) -> Arc<Self> {
        let flags = match handshake.version {
            Version::V3 => V3,
            Version::V4 => 0,
        };
        let handover = (mode == Mode::Polling).then(Box::default);
        Arc::new(Self {
            sid,
            handshake,
            send_queue,
            deflate_from,
            flags: AtomicU8::new(flags),
            engine: Mutex::new(Engine {
                session,
                closing: None,
                handover,
            }),
            out: Mutex::new(Outbound::new(mode)),
            stream: OnceLock::new(),
            wake: Wake::default(),
            poll_wake: Notify::new(),
            sockets: Mutex::new(sockets),
        })
    }

    /// The Engine.IO session id: a secret of the client.
    #[must_use]
    pub fn sid(&self) -> &str {
        &self.sid
    }

    /// What the handshake request said.
    #[must_use]
    pub fn handshake(&self) -> &Handshake {
        &self.handshake
    }

    /// How the client wants its packets.
    #[must_use]
    pub fn wire(&self) -> Wire {
        let flags = self.flags.load(Ordering::Relaxed);
        let dialect = match flags & (V3 | MSGPACK) {
            0 => Dialect::Standard,
            MSGPACK => Dialect::Msgpack,
            _ => Dialect::V3,
        };
        Wire {
            dialect,
            deflate: flags & DEFLATES != 0,
        }
    }

    /// Whether the client wants its packets as most do.
    #[inline]
    pub(crate) fn is_standard(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & (V3 | MSGPACK | DEFLATES) == 0
    }

    /// Whether it is on long-polling now.
    pub(crate) fn is_polling(&self) -> bool {
        self.out.lock().mode() == Mode::Polling
    }

    /// The client has shown that it speaks MessagePack: from now on it gets that.
    pub(crate) fn speaks_msgpack(&self) {
        self.flags.fetch_or(MSGPACK, Ordering::Relaxed);
    }

    /// Its WebSocket has agreed on compression; what comes may be compressed.
    pub(super) fn inflates(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & INFLATES != 0
    }

    /// The WebSocket that is about to be its own has agreed on compression.
    pub(super) fn set_inflates(&self) {
        self.flags.fetch_or(INFLATES, Ordering::Relaxed);
    }

    /// Compresses from now on if that was agreed on. What waits for a poll must not be compressed, so this is told once
    /// nothing goes there any more.
    pub(super) fn compress(&self) {
        if self.inflates() {
            self.flags.fetch_or(DEFLATES, Ordering::Relaxed);
        }
    }

    /// A packet in the client's own form; `None`: that is the standard one.
    #[must_use]
    pub(crate) fn translate(&self, packet: &Encoded) -> Option<Encoded> {
        let wire = self.wire();
        if wire == Wire::default() {
            return None;
        }
        wire.translate(packet, self.deflate_from)
    }

    /// Sends a packet, which is translated if the client wants another form. Never waits; a connection whose queue
    /// runs over is closed as a slow consumer.
    pub fn send(&self, packet: &Encoded) {
        match self.translate(packet) {
            Some(translated) => self.push(&translated, false),
            None => self.push(packet, false),
        }
    }

    /// Sends a packet in the client's own form, which goes out when the cork is released at the latest.
    pub(crate) fn send_corked(self: &Arc<Self>, packet: &Encoded, volatile: bool, cork: &mut Cork) {
        if !cork.on {
            return self.push(packet, volatile);
        }
        let (pushed, mode) = {
            let mut out = self.out.lock();
            let pushed = out.push_corked(self.stream.get(), packet, volatile, self.send_queue);
            (pushed, out.mode())
        };
        match pushed {
            Pushed::Done => {}
            Pushed::Corked => cork.conns.push(Arc::clone(self)),
            pushed => self.after(pushed, mode),
        }
    }

    fn uncork(&self) {
        let (pushed, mode) = {
            let mut out = self.out.lock();
            (out.uncork(self.stream.get()), out.mode())
        };
        self.after(pushed, mode);
    }

    fn push(&self, packet: &Encoded, volatile: bool) {
        let (pushed, mode) = {
            let mut out = self.out.lock();
            let pushed = out.push(self.stream.get(), packet, volatile, self.send_queue);
            (pushed, out.mode())
        };
        self.after(pushed, mode);
    }

    fn after(&self, pushed: Pushed, mode: Mode) {
        match pushed {
            // Whoever corked it will release it.
            Pushed::Done | Pushed::Corked => {}
            Pushed::Queued if mode == Mode::Polling => self.poll_wake.notify_waiters(),
            Pushed::Queued => self.wake.tell(),
            Pushed::Overflow => self.close(CloseReason::SlowConsumer),
            Pushed::Broken => self.close(CloseReason::TransportError),
        }
    }

    /// Bytes that wait to be sent.
    pub(crate) fn queued(&self) -> usize {
        self.out.lock().queued()
    }

    /// Asks the driver to end the session; the first reason counts. Returns at once.
    pub fn close(&self, reason: CloseReason) {
        {
            let mut engine = self.engine.lock();
            if engine.closing.is_none() {
                engine.closing = Some(reason);
            }
            engine.session.close();
        }
        self.wake.tell();
    }

    /// Why the session ends, once that is decided.
    #[must_use]
    pub fn closing(&self) -> Option<CloseReason> {
        self.engine.lock().closing
    }

    /// Does what has become due in the engine.
    ///
    /// # Errors
    /// When the session has run out of time.
    pub(super) fn run_timers(&self, timing: &Timing, now: Instant) -> Result<(), CloseReason> {
        loop {
            let timer = self.engine.lock().session.on_deadline(timing, now);
            match timer {
                Some(Timer::SendPing) => self.send(&encode::engine_ping(false)),
                Some(Timer::Close(reason)) => return Err(reason),
                // The WebSocket that probed is cut by its own task.
                Some(Timer::UpgradeTimedOut) => self.out.lock().release_poll = false,
                None => return Ok(()),
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let engine = self.engine.lock().session.deadline();
        let client = self.sockets.lock().deadline();
        [engine, client].into_iter().flatten().min()
    }
}
