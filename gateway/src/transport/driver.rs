//! The task of one connection: reads, hands messages on in order, keeps the heartbeat, writes what
//! the socket did not take at once, and ends the session.

use std::{
    cell::RefCell,
    collections::VecDeque,
    convert::Infallible,
    future::poll_fn,
    io::{self, Read as _},
    net::Shutdown,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http::HeaderMap;
use sio::{
    engine::{CloseReason, Packet, Received, TransportKind},
    packet::{Encoded, encode},
    ws,
};
use socket2::SockRef;
use tokio::{
    io::Interest,
    time::{Sleep, sleep_until},
};

use super::{Conn, EngineServer};
use crate::session::Shown;

/// A message of the Engine.IO layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text message, without its packet type.
    Text(ByteString),
    /// A binary message.
    Binary(Bytes),
}

impl Message {
    fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
        }
    }
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
    /// What of a handshake request says who sends it. Kept as long as the connection lasts.
    fn shown(&self, headers: &HeaderMap, _query: Option<&str>) -> Shown {
        Shown::bearer(headers)
    }

    /// The session has begun, and nothing has come yet.
    ///
    /// # Errors
    /// Ends the session for the reason given.
    fn opened(&self, _conn: &Arc<Conn>) -> Result<Step, CloseReason> {
        Ok(Step::Done)
    }

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
/// A client gets so long to end a connection too that this side has ended.
const LAST_READ: Duration = Duration::from_secs(1);
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
    /// Bytes in `backlog`.
    waiting_bytes: usize,
    /// What was read and is not decoded yet: a few compressed bytes can become a large message, so no more of them are
    /// opened than may wait.
    undecoded: Option<Box<[u8]>>,
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

    /// Ready when something of it is done, and then there may be more.
    fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(future) = &mut self.waiting
            && let Poll::Ready(step) = future.as_mut().poll(context)
        {
            self.waiting = None;
            self.step(step);
            return Poll::Ready(());
        }
        let Some(set) = &mut self.in_flight else {
            return Poll::Pending;
        };
        let done = set.poll_next_unpin(context).is_ready();
        if set.is_empty() {
            self.in_flight = None;
        }
        if done { Poll::Ready(()) } else { Poll::Pending }
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
    // No `async fn`: each of the many futures of this would keep room for its arguments twice.
    pub(super) fn websocket(mut self, early: Bytes) -> impl Future<Output = ()> + Send {
        let decoder = self.opened().and_then(|()| self.begin_websocket(&early));
        drop(early);
        async move {
            let reason = match decoder {
                Ok(decoder) => self.drive_websocket(decoder).await,
                Err(reason) => reason,
            };
            Box::pin(self.finish(reason)).await;
        }
    }

    /// Runs a session that began with long-polling.
    pub(super) async fn polling(mut self) {
        let taken_over = match self.opened() {
            Ok(()) => self.drive_polling().await,
            Err(reason) => Err(reason),
        };
        let reason = match taken_over.and_then(|early| self.begin_websocket(&early)) {
            Ok(decoder) => self.drive_websocket(decoder).await,
            Err(reason) => reason,
        };
        Box::pin(self.finish(reason)).await;
    }

    fn opened(&mut self) -> Result<(), CloseReason> {
        let step = self.server.handler().opened(&self.conn)?;
        self.work.step(step);
        Ok(())
    }

    /// Takes what was read of a WebSocket before it was the driver's.
    fn begin_websocket(&mut self, early: &[u8]) -> Result<ws::Decoder, CloseReason> {
        let mut decoder = ws::Decoder::new();
        self.feed(&mut decoder, early)?;
        Ok(decoder)
    }

    /// `Ok` when a WebSocket has taken over, with what was read of it.
    async fn drive_polling(&mut self) -> Result<Bytes, CloseReason> {
        let mut sleep = pin!(sleep_until(Self::wake_at(&self.conn)));
        poll_fn(|context| self.poll_polling(context, sleep.as_mut())).await
    }

    fn poll_polling(
        &mut self,
        context: &mut Context<'_>,
        mut sleep: Pin<&mut Sleep>,
    ) -> Poll<Result<Bytes, CloseReason>> {
        loop {
            let mut again = self.conn.wake.poll_told(context).is_ready();
            let taken_over = {
                let mut engine = self.conn.engine.lock();
                let taken_over = engine.handover.as_mut().and_then(|handover| {
                    self.work.backlog.extend(handover.inbox.drain(..));
                    handover.websocket.take()
                });
                if taken_over.is_some() {
                    engine.handover = None;
                }
                taken_over
            };
            self.process()?;
            if let Some(early) = taken_over {
                return Poll::Ready(Ok(early));
            }
            again |= self.poll_common(context, sleep.as_mut())?;
            if !again {
                return Poll::Pending;
            }
        }
    }

    async fn drive_websocket(&mut self, mut decoder: ws::Decoder) -> CloseReason {
        let mut sleep = pin!(sleep_until(Self::wake_at(&self.conn)));
        let Err(reason) = poll_fn(|context| self.poll_websocket(context, &mut decoder, sleep.as_mut())).await;
        reason
    }

    /// One poll for all that a WebSocket's session waits for: combinators would keep hundreds of bytes of state for
    /// each connection that does nothing.
    fn poll_websocket(
        &mut self,
        context: &mut Context<'_>,
        decoder: &mut ws::Decoder,
        mut sleep: Pin<&mut Sleep>,
    ) -> Poll<Result<Infallible, CloseReason>> {
        let conn = Arc::clone(&self.conn);
        let Some(stream) = conn.stream.get() else {
            return Poll::Ready(Err(CloseReason::TransportError));
        };
        loop {
            // Asked first: what is told while the rest is looked at wakes the task again.
            let mut again = conn.wake.poll_told(context).is_ready();
            self.process()?;
            again |= self.poll_common(context, sleep.as_mut())?;
            if conn.out.lock().has_queued()
                && let Poll::Ready(ready) = stream.poll_write_ready(context)
            {
                ready
                    .and_then(|()| conn.out.lock().flush(stream))
                    .map_err(|_| CloseReason::TransportError)?;
                again = true;
            }
            if self.work.backlog.is_empty() && self.work.accepts() {
                if let Some(rest) = self.work.undecoded.take() {
                    self.feed(decoder, &rest)?;
                    again = true;
                } else if let Poll::Ready(ready) = stream.poll_read_ready(context) {
                    ready.map_err(|_| CloseReason::TransportError)?;
                    self.read(stream, decoder)?;
                    again = true;
                }
            }
            if !again {
                return Poll::Pending;
            }
        }
    }

    /// What concerns every transport; `Ok(true)` when something has happened.
    fn poll_common(
        &mut self,
        context: &mut Context<'_>,
        mut sleep: Pin<&mut Sleep>,
    ) -> Result<bool, CloseReason> {
        if let Some(reason) = self.conn.closing() {
            return Err(reason);
        }
        Self::rearm(sleep.as_mut(), &self.conn);
        let mut happened = sleep.poll(context).is_ready();
        if happened {
            self.on_deadline()?;
        }
        happened |= self.work.poll_progress(context).is_ready();
        Ok(happened)
    }

    /// Reads once what is there. One read a turn keeps a flooding client to its share.
    fn read(&mut self, stream: &tokio::net::TcpStream, decoder: &mut ws::Decoder) -> Result<(), CloseReason> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut read = 0;
            let outcome = stream.try_io(Interest::READABLE, || {
                read = (&*SockRef::from(stream)).read(buffer)?;
                if read == 0 || read == buffer.len() {
                    return Ok(());
                }
                // That was all there is: no second read is needed to learn it.
                Err(io::ErrorKind::WouldBlock.into())
            });
            match outcome {
                Ok(()) if read == 0 => Err(CloseReason::TransportClose),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(CloseReason::TransportError),
                Ok(()) | Err(_) => self.feed(decoder, &buffer[..read]),
            }
        })
    }

    fn feed(&mut self, decoder: &mut ws::Decoder, mut input: &[u8]) -> Result<(), CloseReason> {
        let max_payload = self.server.options().max_payload;
        loop {
            if self.work.waiting_bytes > max_payload && !input.is_empty() {
                self.work.undecoded = Some(input.into());
                return Ok(());
            }
            match decoder.next_of(&mut input, max_payload, self.conn.inflates()) {
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
        let version = self.conn.handshake().version;
        let packet = match frame {
            ws::Message::Text(text) => Packet::decode_message(version, text),
            ws::Message::Binary(bytes) => Packet::decode_binary(version, bytes),
            ws::Message::Ping(data) => {
                // A client that reads nothing gets none: a later ping is answered for all (RFC 6455 section 5.5.3).
                self.put(ws::frame::pong(&data), true);
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
            self.work.waiting_bytes += message.len();
            self.work.backlog.push_back(message);
            Ok(())
        }
    }

    fn process(&mut self) -> Result<(), CloseReason> {
        while self.work.accepts() {
            let Some(message) = self.work.backlog.pop_front() else {
                if self.work.backlog.capacity() > 0 {
                    self.work.backlog = VecDeque::new();
                    self.work.waiting_bytes = 0;
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
        self.put(frame, false);
    }

    fn put(&self, frame: Bytes, volatile: bool) {
        let mut out = self.conn.out.lock();
        out.push(
            self.conn.stream.get(),
            &Encoded::from_frames(frame),
            volatile,
            usize::MAX,
        );
    }

    /// Takes what the client said and is still to be handled, in time or not at all.
    async fn work_off(&mut self) {
        let all = async {
            while self.process().is_ok() && !self.work.backlog.is_empty() {
                poll_fn(|context| self.work.poll_progress(context)).await;
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
            if !matches!(reason, CloseReason::TransportClose | CloseReason::SlowConsumer) {
                let _ = tokio::time::timeout(LAST_READ, linger(stream)).await;
            }
            // Ends the TCP connection although rooms may still hold the session for a moment.
            let _ = SockRef::from(stream).shutdown(Shutdown::Both);
        } else {
            conn.out.lock().close();
            conn.poll_wake.notify_waiters();
            if has_last_words(reason) && conn.out.lock().has_queued() {
                let deadline = tokio::time::Instant::now() + LAST_POLL;
                while conn.out.lock().has_queued()
                    && tokio::time::timeout_at(deadline, conn.wake.told()).await.is_ok()
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
    fn rearm(mut sleep: Pin<&mut Sleep>, conn: &Conn) {
        let at = Self::wake_at(conn);
        if at < sleep.deadline() || sleep.is_elapsed() {
            sleep.as_mut().reset(at);
        }
    }
}

/// Says that nothing more comes, and drops what the client still sends until it ends too: a connection closed with bytes
/// unread is reset, and a client that is writing then loses the last words (RFC 9293 section 3.6.1).
async fn linger(stream: &tokio::net::TcpStream) {
    if SockRef::from(stream).shutdown(Shutdown::Write).is_err() {
        return;
    }
    while stream.readable().await.is_ok() {
        match READ_BUFFER.with_borrow_mut(|buffer| stream.try_read(buffer)) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Whether what is queued for a polling client when the session ends for `reason` must still be fetched:
/// only words of ours, after which the client must not come back, are worth it.
pub(super) fn has_last_words(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::ForcedServerClose | CloseReason::ServerNamespaceDisconnect | CloseReason::RateLimited
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
                let _ = SockRef::from(stream).shutdown(Shutdown::Both);
            }
            self.conn.out.lock().close();
            self.conn.poll_wake.notify_waiters();
        }
    }
}
