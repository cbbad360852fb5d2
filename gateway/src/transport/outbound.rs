//! The outgoing side of a connection: written straight to the socket while it takes bytes, queued
//! (bounded, in bytes) while it does not.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
};

use sio::packet::{Encoded, Frame, encode};
use tokio::net::TcpStream;

/// At most so many queued packets go into one vectored write.
const WRITE_BATCH: usize = 64;
/// At most so many bytes wait for what follows them.
const CORKED: usize = 64 * 1024;
/// An empty queue keeps room for so many packets.
const KEPT_SLOTS: usize = 4;
/// A polling client is away for a moment after each answer; so many bytes of volatile packets wait for it
/// then, or it would miss nearly all of them.
const BETWEEN_POLLS: usize = 16 * 1024;
/// What a queued packet takes besides its bytes: many small ones must not be more than one large one.
const SLOT: usize = 64;
/// At most so many messages go into one polling answer: python-engineio refuses a body with more.
const POLL_BATCH: usize = 16;

/// Where outgoing bytes go now.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Waits for GET requests.
    Polling,
    /// Straight to the WebSocket.
    WebSocket,
    /// Nothing more is taken; what is queued may still go out.
    Closed,
}

/// What the sender must do after [`Outbound::push`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It is on its way, or was dropped as volatile packets are.
    Done,
    /// It waits: wake the driver (WebSocket) or the pending GET (polling).
    Queued,
    /// It waits to go out together with what follows: [`Outbound::uncork`] must be called.
    Corked,
    /// The queue is over its limit: the connection is a slow consumer and must be closed.
    Overflow,
    /// The socket is broken: the connection must be closed.
    Broken,
}

pub(super) struct Outbound {
    mode: Mode,
    queue: VecDeque<Encoded>,
    /// Bytes in `queue`, less those of its front already written.
    queued: usize,
    /// Bytes of the queue's front that the socket has taken.
    written: usize,
    /// The socket did not take all the last time.
    blocked: bool,
    /// [`Outbound::uncork`] will be called.
    corked: bool,
    /// A GET is waiting.
    pub(super) polled: bool,
    /// A pending or next GET is answered with a noop, so that an upgrade can go on.
    pub(super) release_poll: bool,
}

impl Outbound {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            queue: VecDeque::new(),
            queued: 0,
            written: 0,
            blocked: false,
            corked: false,
            polled: false,
            release_poll: false,
        }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    /// Bytes that wait.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Takes one encoded packet. `limit` is the most bytes the queue may hold.
    pub(super) fn push(
        &mut self,
        stream: Option<&TcpStream>,
        packet: &Encoded,
        volatile: bool,
        limit: usize,
    ) -> Pushed {
        match (self.mode, stream) {
            (Mode::Closed, _) => Pushed::Done,
            (Mode::WebSocket, Some(_)) if self.corked && !self.blocked => {
                self.push_corked(stream, packet, volatile, limit)
            }
            (Mode::WebSocket, Some(stream)) if self.queue.is_empty() => {
                match stream.try_write(packet.as_bytes()) {
                    Ok(written) if written == packet.len() => Pushed::Done,
                    Ok(written) => {
                        self.blocked = true;
                        self.queued = packet.len() - written;
                        self.written = written;
                        self.queue.push_back(packet.clone());
                        Pushed::Queued
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if volatile {
                            return Pushed::Done;
                        }
                        self.blocked = true;
                        self.enqueue(packet, limit)
                    }
                    Err(_) => Pushed::Broken,
                }
            }
            (Mode::WebSocket, _) if volatile && self.blocked => Pushed::Done,
            (Mode::Polling, _) if volatile && !self.polled && self.queued > BETWEEN_POLLS => Pushed::Done,
            (Mode::WebSocket | Mode::Polling, _) => self.enqueue(packet, limit),
        }
    }

    /// Takes one encoded packet, as [`Outbound::push`] does, that may go out together with what follows.
    pub(super) fn push_corked(
        &mut self,
        stream: Option<&TcpStream>,
        packet: &Encoded,
        volatile: bool,
        limit: usize,
    ) -> Pushed {
        let Some(stream) = stream.filter(|_| self.mode == Mode::WebSocket && !self.blocked) else {
            return self.push(stream, packet, volatile, limit);
        };
        if self.queued + packet.len() > CORKED.min(limit) {
            // What was never tried must not count as what the socket does not take.
            match self.flush(stream) {
                Ok(true) => {}
                Ok(false) => return self.push(Some(stream), packet, volatile, limit),
                Err(_) => return Pushed::Broken,
            }
        }
        self.queued += packet.len();
        self.queue.push_back(packet.clone());
        if std::mem::replace(&mut self.corked, true) {
            Pushed::Done
        } else {
            Pushed::Corked
        }
    }

    /// Writes what was held back by [`Outbound::push_corked`].
    pub(super) fn uncork(&mut self, stream: Option<&TcpStream>) -> Pushed {
        self.corked = false;
        let Some(stream) = stream else {
            return Pushed::Done;
        };
        match self.flush(stream) {
            Ok(true) => Pushed::Done,
            Ok(false) => Pushed::Queued,
            Err(_) => Pushed::Broken,
        }
    }

    fn enqueue(&mut self, packet: &Encoded, limit: usize) -> Pushed {
        let kept = self.queued + self.queue.len() * SLOT;
        if kept + packet.len() > limit && !self.queue.is_empty() {
            self.queue = VecDeque::new();
            self.queued = 0;
            self.written = 0;
            self.mode = Mode::Closed;
            return Pushed::Overflow;
        }
        self.queued += packet.len();
        self.queue.push_back(packet.clone());
        Pushed::Queued
    }

    /// Writes as much of the queue as the socket takes. `Ok(true)` when nothing is left.
    ///
    /// # Errors
    /// The socket's error, but for "would block".
    pub(super) fn flush(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while !self.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); WRITE_BATCH];
            let mut filled = 0;
            for (index, packet) in self.queue.iter().take(WRITE_BATCH).enumerate() {
                let from = if index == 0 { self.written } else { 0 };
                slices[index] = IoSlice::new(&packet.as_bytes()[from..]);
                filled = index + 1;
            }
            match stream.try_write_vectored(&slices[..filled]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => self.advance(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        self.blocked = false;
        // A few slots are kept: what is sent in batches would make them anew each time.
        if self.queue.capacity() > KEPT_SLOTS {
            self.queue = VecDeque::new();
        }
        Ok(true)
    }

    fn advance(&mut self, mut taken: usize) {
        self.queued -= taken;
        while let Some(front) = self.queue.front() {
            let rest = front.len() - self.written;
            if taken < rest {
                self.written += taken;
                return;
            }
            taken -= rest;
            self.written = 0;
            self.queue.pop_front();
        }
    }

    /// The messages for a waiting GET: as many whole packets as fit into `max_body` (at least one), or a
    /// noop when the poll must be released; `None` while there is nothing to say.
    pub(super) fn take_payload(&mut self, max_body: usize) -> Option<Vec<Frame>> {
        if self.queue.is_empty() {
            return self
                .release_poll
                .then(|| encode::engine_noop().frames().collect());
        }
        let mut frames = Vec::new();
        let mut size = 0;
        while let Some(packet) = self.queue.front() {
            // Base64 grows binary frames by a third; the advertised maximum is about what clients send,
            // so here it only bounds the memory of one answer.
            let messages = packet.frames().count();
            let full = size + packet.len() > max_body || frames.len() + messages > POLL_BATCH;
            if !frames.is_empty() && full {
                break;
            }
            size += packet.len();
            self.queued -= packet.len();
            if let Some(packet) = self.queue.pop_front() {
                frames.extend(packet.frames());
            }
        }
        if self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
        Some(frames)
    }

    /// From now on packets go to the WebSocket; what was queued for polling goes first.
    pub(super) fn upgrade(&mut self) {
        if self.mode == Mode::Polling {
            self.mode = Mode::WebSocket;
            self.release_poll = true;
        }
    }

    /// Takes nothing more. What is queued stays for a last flush.
    pub(super) fn close(&mut self) {
        self.mode = Mode::Closed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Encoded {
        encode::engine_text(text)
    }

    fn body(out: &mut Outbound, max: usize) -> Option<Vec<u8>> {
        out.take_payload(max).map(sio::engine::payload::encode)
    }

    #[test]
    fn polling_takes_whole_packets_up_to_the_bound() {
        let mut out = Outbound::new(Mode::Polling);
        for packet in ["a", "b", "c"] {
            assert_eq!(out.push(None, &text(packet), false, 1000), Pushed::Queued);
        }
        assert_eq!(body(&mut out, 8).unwrap(), b"4a\x1e4b");
        assert_eq!(
            body(&mut out, 1).unwrap(),
            b"4c",
            "a packet over the bound goes alone"
        );
        assert_eq!(body(&mut out, 8), None);
        assert_eq!(out.queued, 0);
    }

    #[test]
    fn polling_answers_have_few_messages() {
        let mut out = Outbound::new(Mode::Polling);
        for _ in 0..POLL_BATCH + 1 {
            out.push(None, &text("x"), false, 1 << 20);
        }
        let full = body(&mut out, 1000).unwrap();
        assert_eq!(full.split(|byte| *byte == 0x1e).count(), POLL_BATCH);
        assert_eq!(body(&mut out, 1000).unwrap(), b"4x");
    }

    #[test]
    fn a_queue_over_its_limit_is_given_up() {
        let mut out = Outbound::new(Mode::Polling);
        assert_eq!(out.push(None, &text(&"x".repeat(90)), false, 100), Pushed::Queued);
        assert_eq!(
            out.push(None, &text(&"x".repeat(90)), false, 100),
            Pushed::Overflow
        );
        assert!(!out.has_queued());
        assert_eq!(out.push(None, &text("x"), false, 100), Pushed::Done);
    }

    #[test]
    fn many_small_packets_are_a_lot_too() {
        let mut out = Outbound::new(Mode::Polling);
        let taken = (0..1000).take_while(|_| out.push(None, &text("x"), false, 10 * SLOT) == Pushed::Queued);
        assert!(taken.count() <= 10);
        assert_eq!(out.queued, 0);
    }

    #[test]
    fn volatile_packets_need_a_poll_that_waits_or_comes_soon() {
        let mut out = Outbound::new(Mode::Polling);
        assert_eq!(out.push(None, &text("x"), true, 1 << 20), Pushed::Queued);
        out.push(None, &text(&"x".repeat(BETWEEN_POLLS)), false, 1 << 20);
        let queued = out.queued;
        assert_eq!(out.push(None, &text("x"), true, 1 << 20), Pushed::Done);
        assert_eq!(
            out.queued, queued,
            "a client that stays away gets no more of them"
        );
        out.polled = true;
        assert_eq!(out.push(None, &text("x"), true, 1 << 20), Pushed::Queued);
    }

    #[test]
    fn a_released_poll_gets_a_noop() {
        let mut out = Outbound::new(Mode::Polling);
        out.upgrade();
        assert_eq!(body(&mut out, 8).unwrap(), b"6");
    }
}
