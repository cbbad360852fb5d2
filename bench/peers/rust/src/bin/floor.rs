//! The floor: what a delivery costs when a server does nothing but `write` a prepared frame to each socket. One
//! thread on epoll; handshakes, connects, joins and acknowledgements are canned. The events that arrive in one
//! read go to a member in one write.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    mem,
};

use anyhow::Result;
use mio::{
    Events, Interest, Poll, Token,
    net::{TcpListener, TcpStream},
};
use peers::{CONNECTED, OPEN, Packet, accept_key, address, event, ok, time};

const LISTENER: Token = Token(usize::MAX);
const READ: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    is_open: bool,
    /// A request or frame of which more is to come.
    partial: Vec<u8>,
    /// What the socket did not take.
    pending: Vec<u8>,
    rooms: Vec<usize>,
}

#[derive(Default)]
struct Server {
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    rooms: HashMap<String, usize>,
    /// By number of room.
    members: Vec<Vec<usize>>,
}

/// What the packets of one read lead to.
#[derive(Default)]
struct Outcome {
    /// To the sender alone.
    replies: Vec<u8>,
    /// Frames by room.
    events: Vec<(usize, Vec<u8>)>,
}

fn main() -> Result<()> {
    let mut listener = TcpListener::bind(address()?)?;
    println!("listening on {}", listener.local_addr()?);
    let mut poll = Poll::new()?;
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut buffer = vec![0; READ];
    let mut server = Server::default();
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            if event.token() == LISTENER {
                server.accept(&listener, &poll)?;
                continue;
            }
            if event.is_writable() {
                server.write(event.token().0, &[]);
            }
            if event.is_readable() {
                server.read(event.token().0, &mut buffer);
            }
        }
    }
}

impl Server {
    fn accept(&mut self, listener: &TcpListener, poll: &Poll) -> Result<()> {
        loop {
            let mut stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            stream.set_nodelay(true)?;
            let number = self.free.pop().unwrap_or(self.connections.len());
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(number), interest)?;
            let connection = Connection {
                stream,
                is_open: false,
                partial: Vec::new(),
                pending: Vec::new(),
                rooms: Vec::new(),
            };
            if number == self.connections.len() {
                self.connections.push(None);
            }
            self.connections[number] = Some(connection);
        }
    }

    /// Reads until the socket has no more. A read that does not fill the buffer has emptied it (epoll(7)).
    fn read(&mut self, number: usize, buffer: &mut [u8]) {
        loop {
            let Some(connection) = &mut self.connections[number] else {
                return;
            };
            let length = match connection.stream.read(buffer) {
                Ok(0) => return self.close(number),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.close(number),
            };
            let mut outcome = Outcome::default();
            let more = if connection.partial.is_empty() {
                self.input(number, &mut buffer[..length], &mut outcome)
            } else {
                let mut input = mem::take(&mut connection.partial);
                input.extend_from_slice(&buffer[..length]);
                self.input(number, &mut input, &mut outcome)
            };
            self.deliver(number, &outcome);
            if more.is_none() {
                return self.close(number);
            }
            if length < buffer.len() {
                return;
            }
        }
    }

    /// Handles what is complete and keeps the rest; `None` when the connection is to be closed.
    fn input(&mut self, number: usize, mut input: &mut [u8], outcome: &mut Outcome) -> Option<()> {
        if !self.connections[number].as_ref()?.is_open
            && let Some(end) = memchr::memmem::find(input, b"\r\n\r\n")
        {
            let (request, rest) = input.split_at_mut(end + 4);
            input = rest;
            handshake(request, &mut outcome.replies)?;
            self.connections[number].as_mut()?.is_open = true;
        }
        if self.connections[number].as_ref()?.is_open {
            while let Some((header, length)) = frame(input) {
                let (frame, rest) = input.split_at_mut(header + length);
                input = rest;
                if frame[0] & 0x0f == 8 {
                    return None;
                }
                let (head, payload) = frame.split_at_mut(header);
                let mask = &head[header - 4..];
                for (byte, key) in payload.iter_mut().zip(mask.iter().cycle()) {
                    *byte ^= key;
                }
                let text = std::str::from_utf8(payload).ok()?;
                self.packet(number, text, outcome)?;
            }
        }
        self.connections[number]
            .as_mut()?
            .partial
            .extend_from_slice(input);
        Some(())
    }

    fn packet(&mut self, number: usize, text: &str, outcome: &mut Outcome) -> Option<()> {
        match Packet::parse(text) {
            Packet::Connect => put(&mut outcome.replies, CONNECTED),
            Packet::Join { id, room } => {
                let next = self.rooms.len();
                let room = *self.rooms.entry(room.to_owned()).or_insert(next);
                if room == next {
                    self.members.push(Vec::new());
                }
                self.members[room].push(number);
                self.connections[number].as_mut()?.rooms.push(room);
                put(&mut outcome.replies, &ok(id));
            }
            Packet::Message {
                id,
                room,
                event: name_and_argument,
            } => {
                if let Some(&room) = self.rooms.get(room) {
                    let known = outcome.events.iter().position(|(other, _)| *other == room);
                    let known = known.unwrap_or_else(|| {
                        outcome.events.push((room, Vec::new()));
                        outcome.events.len() - 1
                    });
                    put(&mut outcome.events[known].1, &event(name_and_argument));
                }
                put(&mut outcome.replies, &ok(id));
            }
            Packet::Other { id } => put(&mut outcome.replies, &time(id)),
            Packet::Silent => {}
        }
        Some(())
    }

    fn deliver(&mut self, sender: usize, outcome: &Outcome) {
        let mut replies = outcome.replies.as_slice();
        for (room, frames) in &outcome.events {
            let members = mem::take(&mut self.members[*room]);
            for &member in &members {
                if member == sender && !replies.is_empty() {
                    self.write(member, &[frames.as_slice(), mem::take(&mut replies)].concat());
                } else {
                    self.write(member, frames);
                }
            }
            self.members[*room] = members;
        }
        if !replies.is_empty() {
            self.write(sender, replies);
        }
    }

    /// Writes at once what the socket takes; the rest goes when it is writable. A connection that fails is
    /// closed when its end is read.
    fn write(&mut self, number: usize, bytes: &[u8]) {
        let Some(connection) = &mut self.connections[number] else {
            return;
        };
        if !connection.pending.is_empty() {
            connection.pending.extend_from_slice(bytes);
            if let Ok(written) = connection.stream.write(&connection.pending) {
                connection.pending.drain(..written);
            }
        } else if !bytes.is_empty() {
            let written = connection.stream.write(bytes).unwrap_or(0);
            connection.pending.extend_from_slice(&bytes[written..]);
        }
    }

    fn close(&mut self, number: usize) {
        if let Some(connection) = self.connections[number].take() {
            for room in connection.rooms {
                self.members[room].retain(|member| *member != number);
            }
            self.free.push(number);
        }
    }
}

/// Answers the request for a WebSocket; `None` for one without a key.
fn handshake(request: &[u8], replies: &mut Vec<u8>) -> Option<()> {
    let request = std::str::from_utf8(request).ok()?;
    let key = request.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key")
            .then(|| value.trim())
    })?;
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_key(key)
    );
    replies.extend_from_slice(answer.as_bytes());
    put(replies, OPEN);
    Some(())
}

/// Lengths of header and payload of a masked frame (RFC 6455 section 5.2), once it is complete.
fn frame(input: &[u8]) -> Option<(usize, usize)> {
    let (header, length) = match input.get(1)? & 0x7f {
        126 => (
            8,
            usize::from(u16::from_be_bytes(input.get(2..4)?.try_into().ok()?)),
        ),
        127 => (
            14,
            usize::try_from(u64::from_be_bytes(input.get(2..10)?.try_into().ok()?)).ok()?,
        ),
        length => (6, usize::from(length)),
    };
    (input.len() >= header + length).then_some((header, length))
}

/// Appends an unmasked text frame.
fn put(out: &mut Vec<u8>, text: &str) {
    out.push(0x81);
    match u16::try_from(text.len()) {
        Ok(length) if length < 126 => out.push(length.to_be_bytes()[1]),
        Ok(length) => {
            out.push(126);
            out.extend_from_slice(&length.to_be_bytes());
        }
        Err(_) => {
            out.push(127);
            out.extend_from_slice(&(text.len() as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}
