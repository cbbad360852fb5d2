//! The task of one connection: reads, hands messages on in order, keeps the heartbeat, writes what
//! the socket did not take at once, and ends the session.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io,
    sync::Arc,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use sio::{
    engine::{CloseReason, Packet, Received, TransportKind},
    packet::{Encoded, encode},
    ws,
};
use tokio::{
    io::Interest,
    time::{Sleep, sleep_until},
};

use super::{Conn, EngineServer};

/// A message of the Engine.IO layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message, without its packet type.
    Text(ByteString),
    /// A binary message.
    Binary(Bytes),
}

/// How far a handler got with a message. Futures send their answers themselves; they are dropped
/// when the connection ends.
pub enum Step {
    /// All done.
    Done,
    /// What concerns order is done; the rest runs beside later messages.
    Later(BoxFuture<'static, ()>),
    /// Later messages must wait for this.
    Wait(BoxFuture<'static, Step>),
}

/// What stands above the Engine.IO layer.
pub trait EngineHandler: Send + Sync + 'static {
    /// A message, in the order they were sent. Must not block.
    ///
    /// # Errors
    /// Ends the session for the reason given.
    fn message(&self, conn: &Arc<Conn>, message: Message) -> Result<Step, CloseReason>;

    /// The session has ended. Called once.
    fn closed(&self, conn: &Arc<Conn>, reason: CloseReason);
}

/// So many answers of one connection may be outstanding before it is read no further.
const MAX_IN_FLIGHT: usize = 64;
/// A closed connection gets so long to take what is queued.
const LAST_FLUSH: Duration = Duration::from_secs(1);
/// A polling client gets so long to fetch what was said before a close.
const LAST_POLL: Duration = Duration::from_secs(5);
/// What a client said before it left is worked through for so long.
const LAST_WORK: Duration = Duration::from_secs(5);
const SCRATCH: usize = 64 * 1024;

thread_local! {
    /// One read buffer a thread: an idle connection keeps none.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// What the driver waits for besides the transport.
#[derive(Default)]
struct Work {
    backlog: VecDeque<Message>,
    waiting: Option<BoxFuture<'static, Step>>,
    in_flight: Option<Box<FuturesUnordered<BoxFuture<'static, ()>>>>,
}

impl Work {
    fn accepts(&self) -> bool {
        self.waiting.is_none()
            && self
                .in_flight
                .as_ref()
                .is_none_or(|set| set.len() < MAX_IN_FLIGHT)
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Done => {}
            Step::Later(mut future) => {
                // Most are done at once, and then nothing more is kept for them. One that is not is
                // polled again with the driver's own waker.
                let mut context = Context::from_waker(Waker::noop());
                if future.as_mut().poll(&mut context).is_pending() {
                    self.in_flight.get_or_insert_default().push(future);
                }
            }
            Step::Wait(future) => self.waiting = Some(future),
        }
    }

    /// Waits until something of it is done; for ever when there is nothing.
    async fn progress(&mut self) {
        let waiting = async {
            match &mut self.waiting {
                Some(future) => future.await,
                None => std::future::pending().await,
            }
        };
        let in_flight = async {
            match &mut self.in_flight {
                Some(set) if !set.is_empty() => set.next().await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            step = waiting => {
                self.waiting = None;
                self.step(step);
            }
            _ = in_flight => {
                if self.in_flight.as_ref().is_some_and(|set| set.is_empty()) {
                    self.in_flight = None;
                }
            }
        }
    }
}

pub(super) struct Driver {
    server: Arc<EngineServer>,
    conn: Arc<Conn>,
    work: Work,
}

impl Driver {
    pub(super) fn new(server: Arc<EngineServer>, conn: Arc<Conn>) -> Self {
        Self {
            server,
            conn,
            work: Work::default(),
        }
    }

    /// Runs a session that began as a WebSocket.
    ///
    /// `early` is what was read of the stream behind the handshake.
    pub(super) async fn websocket(mut self, early: Bytes) {
        let mut decoder = ws::Decoder::new();
        let reason = match self.feed(&mut decoder, &early) {
            Ok(()) => {
                drop(early);
                self.drive_websocket(decoder).await
            }
            Err(reason) => reason,
        };
        self.finish(reason).await;
    }

    /// Runs a session that began with long-polling.
    pub(super) async fn polling(mut self) {
        let reason = match self.drive_polling().await {
            Ok(decoder) => Box::pin(self.drive_websocket(decoder)).await,
            Err(reason) => reason,
        };
        self.finish(reason).await;
    }

    /// `Ok` when a WebSocket has taken over.
    async fn drive_polling(&mut self) -> Result<ws::Decoder, CloseReason> {
        let conn = Arc::clone(&self.conn);
        let sleep = sleep_until(Self::wake_at(&conn));
        tokio::pin!(sleep);
        loop {
            let taken_over = {
                let mut engine = conn.engine.lock();
                let taken_over = engine.handover.as_mut().and_then(|handover| {
                    self.work.backlog.extend(handover.inbox.drain(..));
                    let decoder = handover.decoder.take()?;
                    Some((decoder, handover.left))
                });
                if taken_over.is_some() {
                    engine.handover = None;
                }
                taken_over
            };
            self.process()?;
            match taken_over {
                Some((_, true)) => return Err(CloseReason::TransportClose),
                Some((decoder, false)) => return Ok(decoder),
                None => {}
            }
            if let Some(reason) = conn.closing() {
                return Err(reason);
            }
            Self::rearm(sleep.as_mut(), &conn);
            tokio::select! {
                () = conn.wake.notified() => {}
                () = &mut sleep => self.on_deadline()?,
                () = self.work.progress() => {}
            }
        }
    }

    async fn drive_websocket(&mut self, decoder: ws::Decoder) -> CloseReason {
        match self.try_drive_websocket(decoder).await {
            Ok(never) => match never {},
            Err(reason) => reason,
        }
    }

    async fn try_drive_websocket(
        &mut self,
        mut decoder: ws::Decoder,
    ) -> Result<std::convert::Infallible, CloseReason> {
        let conn = Arc::clone(&self.conn);
        let Some(stream) = conn.stream.get() else {
            return Err(CloseReason::TransportError);
        };
        let sleep = sleep_until(Self::wake_at(&conn));
        tokio::pin!(sleep);
        loop {
            self.process()?;
            if let Some(reason) = conn.closing() {
                return Err(reason);
            }
            Self::rearm(sleep.as_mut(), &conn);
            let reading = self.work.backlog.is_empty() && self.work.accepts();
            let interest = match (reading, conn.out.lock().has_queued()) {
                (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
                (true, false) => Some(Interest::READABLE),
                (false, true) => Some(Interest::WRITABLE),
                (false, false) => None,
            };
            let ready = async {
                match interest {
                    Some(interest) => stream.ready(interest).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ready = ready => {
                    let ready = ready.map_err(|_| CloseReason::TransportError)?;
                    if ready.is_writable() {
                        conn.out.lock().flush(stream).map_err(|_| CloseReason::TransportError)?;
                    }
                    if reading && (ready.is_readable() || ready.is_read_closed()) {
                        self.read(stream, &mut decoder)?;
                    }
                }
                () = conn.wake.notified() => {}
                () = &mut sleep => self.on_deadline()?,
                () = self.work.progress() => {}
            }
        }
    }

    /// Reads once what is there. One read a turn keeps a flooding client to its share.
    fn read(&mut self, stream: &tokio::net::TcpStream, decoder: &mut ws::Decoder) -> Result<(), CloseReason> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let read = match stream.try_read(buffer) {
                Ok(0) => return Err(CloseReason::TransportClose),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(CloseReason::TransportError),
            };
            self.feed(decoder, &buffer[..read])
        })
    }

    fn feed(&mut self, decoder: &mut ws::Decoder, mut input: &[u8]) -> Result<(), CloseReason> {
        loop {
            match decoder.next(&mut input, self.server.options().max_payload) {
                Ok(Some(message)) => self.on_frame(message)?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    self.last_word(ws::frame::close(error.close_code(), ""));
                    let too_large = error.close_code() == 1009;
                    return Err(if too_large {
                        CloseReason::TooLarge
                    } else {
                        CloseReason::TransportError
                    });
                }
            }
        }
    }

    fn on_frame(&mut self, frame: ws::Message) -> Result<(), CloseReason> {
        let version = self.conn.engine.lock().session.version();
        let packet = match frame {
            ws::Message::Text(text) => Packet::decode_text(text),
            ws::Message::Binary(bytes) => Packet::decode_binary(version, bytes),
            ws::Message::Ping(data) => {
                self.last_word(ws::frame::pong(&data));
                return Ok(());
            }
            ws::Message::Pong(_) => return Ok(()),
            ws::Message::Close(code) => {
                self.last_word(ws::frame::close(code.unwrap_or(1000), ""));
                return Err(CloseReason::TransportClose);
            }
        }
        .map_err(|_| CloseReason::ParseError)?;
        let received = {
            let mut engine = self.conn.engine.lock();
            let timing = &self.server.options().timing;
            engine
                .session
                .on_packet(TransportKind::WebSocket, packet, timing, Instant::now())?
        };
        let message = match received {
            Received::Text(text) => Message::Text(text),
            Received::Binary(bytes) => Message::Binary(bytes),
            Received::ClientClose => return Err(CloseReason::TransportClose),
            Received::Pong(data) => {
                self.conn.send(&encode::engine_pong(&data));
                return Ok(());
            }
            Received::Nothing | Received::Probe | Received::Upgraded | Received::UpgradeFailed => {
                return Ok(());
            }
        };
        if self.work.backlog.is_empty() && self.work.accepts() {
            self.handle(message)
        } else {
            self.work.backlog.push_back(message);
            Ok(())
        }
    }

    fn process(&mut self) -> Result<(), CloseReason> {
        while self.work.accepts() {
            let Some(message) = self.work.backlog.pop_front() else {
                if self.work.backlog.capacity() > 0 {
                    self.work.backlog = VecDeque::new();
                }
                return Ok(());
            };
            self.handle(message)?;
        }
        Ok(())
    }

    fn handle(&mut self, message: Message) -> Result<(), CloseReason> {
        let step = self.server.handler().message(&self.conn, message)?;
        self.work.step(step);
        Ok(())
    }

    fn on_deadline(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now();
        if self.conn.sockets.lock().timed_out(now) {
            return Err(CloseReason::ForcedClose);
        }
        self.conn.run_timers(&self.server.options().timing, now)
    }

    /// Puts bytes behind what is queued, without the queue's limit.
    fn last_word(&self, frame: Bytes) {
        let mut out = self.conn.out.lock();
        out.push(
            self.conn.stream.get(),
            &Encoded::from_frames(frame),
            false,
            usize::MAX,
        );
    }

    /// Takes what the client said and is still to be handled, in time or not at all.
    async fn work_off(&mut self) {
        let all = async {
            while self.process().is_ok() && !self.work.backlog.is_empty() {
                self.work.progress().await;
            }
        };
        // It has heard no answer: what is left it may send again.
        let _ = tokio::time::timeout(LAST_WORK, all).await;
    }

    async fn finish(&mut self, reason: CloseReason) {
        if reason == CloseReason::TransportClose && !self.work.backlog.is_empty() {
            Box::pin(self.work_off()).await;
        }
        let conn = &self.conn;
        conn.close(reason);
        let reason = conn.closing().unwrap_or(reason);
        // What is still being answered belongs to the session and ends with it.
        self.work = Work::default();
        self.server.handler().closed(conn, reason);
        if let Some(stream) = conn.stream.get() {
            self.server.remove(conn.sid());
            let ended_by_client = matches!(reason, CloseReason::TransportClose | CloseReason::TransportError);
            // Who sent too much has been told so by a close frame already.
            if !ended_by_client && reason != CloseReason::TooLarge {
                self.last_word(ws::frame::close(1000, ""));
            }
            conn.out.lock().close();
            let flush = async {
                while conn.out.lock().flush(stream).is_ok_and(|done| !done) && stream.writable().await.is_ok()
                {
                }
            };
            if reason != CloseReason::SlowConsumer {
                // Who does not take the last words in time does without them.
                let _ = tokio::time::timeout(LAST_FLUSH, flush).await;
            }
            // Ends the TCP connection although rooms may still hold the session for a moment.
            let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Both);
        } else {
            conn.out.lock().close();
            conn.poll_wake.notify_waiters();
            if has_last_words(reason) && conn.out.lock().has_queued() {
                let deadline = tokio::time::Instant::now() + LAST_POLL;
                while conn.out.lock().has_queued()
                    && tokio::time::timeout_at(deadline, conn.wake.notified())
                        .await
                        .is_ok()
                {}
            }
            self.server.remove(conn.sid());
        }
    }

    fn wake_at(conn: &Conn) -> tokio::time::Instant {
        let far = Duration::from_secs(24 * 3600);
        conn.deadline().unwrap_or_else(|| Instant::now() + far).into()
    }

    /// Deadlines nearly always move away from now; the timer is touched only when one came nearer or
    /// has passed, so that traffic costs no timer work.
    fn rearm(mut sleep: std::pin::Pin<&mut Sleep>, conn: &Conn) {
        let at = Self::wake_at(conn);
        if at < sleep.deadline() || sleep.is_elapsed() {
            sleep.as_mut().reset(at);
        }
    }
}

/// Whether what is queued for a polling client when the session ends for `reason` must still be fetched:
/// only words of ours, after which the client must not come back, are worth it.
pub(super) fn has_last_words(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::ForcedServerClose | CloseReason::ServerNamespaceDisconnect
    )
}

/// A panic of a handler ends its connection like an error would, and no other.
impl Drop for Driver {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.conn.close(CloseReason::ForcedServerClose);
            self.server.remove(self.conn.sid());
            self.server
                .handler()
                .closed(&self.conn, CloseReason::ForcedServerClose);
            if let Some(stream) = self.conn.stream.get() {
                let _ = socket2::SockRef::from(stream).shutdown(std::net::Shutdown::Both);
            }
            self.conn.out.lock().close();
            self.conn.poll_wake.notify_waiters();
        }
    }
}
