//! One thread, one epoll, many connections: each a small state machine without a buffer of its own.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use anyhow::{Context, Result};
use mio::{Events, Interest, Poll, Token, Waker, net::TcpStream, unix::SourceFd};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use socket2::{Domain, Socket, Type};

use crate::{
    dialect::{Dialect, Incoming},
    wire::{self, Marker},
};

/// What a connection belongs to, as the plan numbers it.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) group: u16,
    pub(crate) member: u32,
}

/// Index of a connection.
pub(crate) type Id = usize;

const READ_BUFFER: usize = 256 * 1024;
const TIMER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
/// Addresses on loopback to connect from: one has only 28,000 ports, and each is blocked for a minute after use.
const LOOPBACK_SOURCES: u32 = 250;

/// Nanoseconds of the monotonic clock, which all processes of the machine share.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// What happens on connections.
pub(crate) trait Plan {
    /// The connection is open, its namespace too. The session may be taken up again by its `pid`.
    fn connected(&mut self, net: &mut Net, id: Id, owner: Owner, pid: Option<&[u8]>);
    /// An event came.
    fn message(&mut self, net: &mut Net, id: Id, owner: Owner, marker: Marker, position: Option<&[u8]>);
    /// An answer came; without `request`, to the oldest.
    fn ack(&mut self, net: &mut Net, id: Id, owner: Owner, request: Option<u32>, ok: bool);
    /// It ended by itself, or was refused.
    fn closed(&mut self, net: &mut Net, owner: Owner);
}

/// How a connection is opened.
pub(crate) struct Opening<'a> {
    /// Which of the targets.
    pub(crate) target: usize,
    pub(crate) owner: Owner,
    pub(crate) token: Option<&'a str>,
    /// The session to take up again, and its position.
    pub(crate) resume: Option<(&'a [u8], Option<&'a [u8]>)>,
    /// Tell positions of events.
    pub(crate) positions: bool,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum State {
    Tcp,
    Http,
    Engine,
    Namespace,
    Open,
}

struct Conn {
    stream: TcpStream,
    owner: Owner,
    state: State,
    positions: bool,
    /// The beginning of a frame that is not complete.
    input: Vec<u8>,
    /// Of a byte stream within frames: what is not complete.
    carry: Vec<u8>,
    /// Asks for the namespace, once the transport is open.
    hello: Vec<u8>,
    /// What the socket has not taken.
    output: Vec<u8>,
}

/// The connections.
pub(crate) struct Net {
    poll: Poll,
    timer: OwnedFd,
    timer_at: u64,
    conns: Vec<Option<Conn>>,
    free: Vec<Id>,
    /// Freed in this turn: events of the old connection may still wait.
    freed: Vec<Id>,
    sources: u32,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    targets: Vec<(SocketAddr, String)>,
    dialect: Rc<Dialect>,
}

impl Net {
    pub(crate) fn new(dialect: Dialect, targets: Vec<SocketAddr>) -> Result<Self> {
        let poll = Poll::new()?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC,
        )?;
        poll.registry()
            .register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Self {
            poll,
            timer,
            timer_at: 0,
            conns: Vec::new(),
            free: Vec::new(),
            freed: Vec::new(),
            sources: std::process::id(),
            buffer: vec![0; READ_BUFFER],
            scratch: Vec::with_capacity(4096),
            targets: targets
                .into_iter()
                .map(|target| (target, target.to_string()))
                .collect(),
            dialect: Rc::new(dialect),
        })
    }

    /// Wakes [`Net::turn`] from another thread.
    pub(crate) fn waker(&self) -> Result<Waker> {
        Ok(Waker::new(self.poll.registry(), WAKER)?)
    }

    /// How many servers there are to connect to.
    pub(crate) fn targets(&self) -> usize {
        self.targets.len()
    }

    /// Begins to connect.
    pub(crate) fn open(&mut self, opening: &Opening<'_>) -> Result<Id> {
        let (address, host) = &self.targets[opening.target];
        let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            self.sources = self.sources.wrapping_add(1);
            let host = (self.sources % LOOPBACK_SOURCES + 1) as u8;
            let source = SocketAddr::from((Ipv4Addr::new(127, 0, 1, host), 0));
            socket
                .bind(&source.into())
                .context("binding a loopback address")?;
        }
        match socket.connect(&(*address).into()) {
            Ok(()) => {}
            Err(error)
                if error.kind() == ErrorKind::WouldBlock
                    || error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error).with_context(|| format!("connecting to {address}")),
        }
        let mut output = Vec::new();
        self.dialect.upgrade(&mut output, host);
        let mut hello = Vec::new();
        self.dialect.connect(&mut hello, opening.token, opening.resume);
        let id = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        let mut stream = TcpStream::from_std(socket.into());
        self.poll
            .registry()
            .register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)?;
        self.conns[id] = Some(Conn {
            stream,
            owner: opening.owner,
            state: State::Tcp,
            positions: opening.positions,
            input: Vec::new(),
            carry: Vec::new(),
            hello,
            output,
        });
        Ok(id)
    }

    /// Sends what `write` appends.
    pub(crate) fn send(&mut self, id: Id, write: impl FnOnce(&Dialect, &mut Vec<u8>)) {
        self.scratch.clear();
        write(&self.dialect, &mut self.scratch);
        if let Some(conn) = &mut self.conns[id] {
            conn.send(&self.scratch);
        }
    }

    /// Ends a connection at once, as a cut does; the plan is not told.
    pub(crate) fn cut(&mut self, id: Id) {
        if self.conns[id].take().is_some() {
            self.freed.push(id);
        }
    }

    /// Says good bye and ends it; the plan is not told.
    pub(crate) fn close(&mut self, id: Id) {
        self.send(id, |dialect, out| dialect.close(out));
        self.cut(id);
    }

    /// Waits until `until` (nanoseconds of [`now`]) at most, and handles what has come.
    pub(crate) fn turn(&mut self, plan: &mut impl Plan, events: &mut Events, until: u64) -> Result<()> {
        let timeout = if until <= now() {
            Some(Duration::ZERO)
        } else {
            self.arm(until)?;
            None
        };
        self.free.append(&mut self.freed);
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        for event in &*events {
            let id = match event.token() {
                TIMER => {
                    self.timer_at = 0;
                    let mut expirations = [0; 8];
                    // It may have been set again meanwhile: nothing to read then.
                    let _ = rustix::io::read(&self.timer, &mut expirations);
                    continue;
                }
                WAKER => continue,
                Token(id) => id,
            };
            if event.is_writable()
                && let Some(conn) = &mut self.conns[id]
                && !conn.flush()
            {
                self.end(plan, id);
                continue;
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read(plan, id);
            }
        }
        Ok(())
    }

    fn arm(&mut self, until: u64) -> Result<()> {
        if self.timer_at != until {
            self.timer_at = until;
            let zero = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let value = Timespec {
                tv_sec: (until / 1_000_000_000) as _,
                tv_nsec: (until % 1_000_000_000) as _,
            };
            let timer = Itimerspec {
                it_interval: zero,
                it_value: value,
            };
            timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &timer)?;
        }
        Ok(())
    }

    fn read(&mut self, plan: &mut impl Plan, id: Id) {
        // Taken out, so that the plan may use the connections while it is told what came.
        let mut buffer = std::mem::take(&mut self.buffer);
        while let Some(conn) = &mut self.conns[id] {
            let kept = conn.input.len();
            buffer[..kept].copy_from_slice(&conn.input);
            if buffer.len() - kept < READ_BUFFER / 2 {
                // A frame larger than the buffer: it grows for everybody.
                buffer.resize(buffer.len() * 2, 0);
            }
            match conn.stream.read(&mut buffer[kept..]) {
                Ok(0) => {
                    self.end(plan, id);
                    break;
                }
                Ok(read) => {
                    let all = kept + read;
                    let whole = all == buffer.len();
                    match self.scan(plan, id, &buffer[..all]) {
                        Some(done) => {
                            if let Some(conn) = &mut self.conns[id] {
                                conn.input.clear();
                                if done == all {
                                    conn.input = Vec::new();
                                } else {
                                    conn.input.extend_from_slice(&buffer[done..all]);
                                }
                            }
                        }
                        None => self.end(plan, id),
                    }
                    // Less than there was room for: the next byte makes a new event.
                    if !whole {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.end(plan, id);
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    /// Handles the whole frames; how many bytes they had. `None`: the connection is to end.
    fn scan(&mut self, plan: &mut impl Plan, id: Id, input: &[u8]) -> Option<usize> {
        let mut done = 0;
        let conn = self.conns[id].as_mut()?;
        if matches!(conn.state, State::Tcp | State::Http) {
            let Some(head) = memchr::memmem::find(input, b"\r\n\r\n") else {
                return Some(0);
            };
            if !input.starts_with(b"HTTP/1.1 101") {
                return None;
            }
            done = head + 4;
            conn.state = State::Engine;
        }
        while let Some(frame) = wire::next_frame(&input[done..]) {
            let payload = &input[done..][frame.payload.clone()];
            done += frame.payload.end;
            match frame.opcode {
                wire::CLOSE => return None,
                wire::PING => {
                    if let Some(conn) = &mut self.conns[id] {
                        let mut pong = Vec::new();
                        wire::frame(&mut pong, wire::PONG, &[payload]);
                        conn.send(&pong);
                    }
                }
                _ => self.payload(plan, id, payload)?,
            }
            // The plan may have ended it.
            if self.conns[id].is_none() {
                return Some(done);
            }
        }
        Some(done)
    }

    /// `None`: the connection is to end.
    fn payload(&mut self, plan: &mut impl Plan, id: Id, payload: &[u8]) -> Option<()> {
        let conn = self.conns[id].as_mut()?;
        let (owner, positions) = (conn.owner, conn.positions);
        let mut carry = std::mem::take(&mut conn.carry);
        let dialect = Rc::clone(&self.dialect);
        let mut good = Some(());
        dialect.read(payload, &mut carry, positions, |incoming| match incoming {
            Incoming::Message { marker, position } => plan.message(self, id, owner, marker, position),
            Incoming::Ack { id: None, .. } if self.is_in(id, State::Namespace) => {
                self.set(id, State::Open);
                plan.connected(self, id, owner, None);
            }
            Incoming::Ack { id: request, ok } => plan.ack(self, id, owner, request, ok),
            Incoming::Ping => self.send(id, |dialect, out| dialect.pong(out)),
            Incoming::Open if self.is_in(id, State::Engine) => {
                self.set(id, State::Namespace);
                if let Some(conn) = &mut self.conns[id] {
                    let hello = std::mem::take(&mut conn.hello);
                    conn.send(&hello);
                }
            }
            Incoming::Connected { pid } => {
                self.set(id, State::Open);
                plan.connected(self, id, owner, pid);
            }
            Incoming::Refused => good = None,
            Incoming::Open | Incoming::Other => {}
        });
        if !carry.is_empty()
            && let Some(conn) = &mut self.conns[id]
        {
            conn.carry = carry;
        }
        good
    }

    fn is_in(&self, id: Id, state: State) -> bool {
        self.conns[id].as_ref().is_some_and(|conn| conn.state == state)
    }

    fn set(&mut self, id: Id, state: State) {
        if let Some(conn) = &mut self.conns[id] {
            conn.state = state;
        }
    }

    fn end(&mut self, plan: &mut impl Plan, id: Id) {
        if let Some(conn) = &self.conns[id] {
            let owner = conn.owner;
            self.cut(id);
            plan.closed(self, owner);
        }
    }
}

impl Conn {
    fn send(&mut self, bytes: &[u8]) {
        if self.output.is_empty() {
            // A connection that has ended says so to whoever reads it.
            let written = self.stream.write(bytes).unwrap_or_default();
            if written < bytes.len() {
                self.output.extend_from_slice(&bytes[written..]);
            }
        } else {
            self.output.extend_from_slice(bytes);
        }
    }

    /// Writes what waits; false when the connection is not to be had.
    fn flush(&mut self) -> bool {
        if self.state == State::Tcp {
            if self.stream.take_error().is_ok_and(|error| error.is_some()) {
                return false;
            }
            if self.stream.peer_addr().is_err() {
                return true;
            }
            self.state = State::Http;
        }
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(written) => {
                    self.output.drain(..written);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.output = Vec::new();
        true
    }
}
