//! A client so raw that it can do everything wrong: HTTP/1.1 and WebSocket frames by hand. Blocking; what
//! does not come within [`PATIENCE`] is an error.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// How long an answer is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    head: String,
    /// The body, as text.
    pub body: String,
}

impl Answer {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// The host and port of a URL `http://host:port`.
#[must_use]
pub fn host(url: &str) -> &str {
    url.strip_prefix("http://").unwrap_or(url)
}

fn connect(host: &str) -> Result<TcpStream> {
    let address = host
        .to_socket_addrs()?
        .find(|address| TcpStream::connect(address).is_ok());
    let stream = TcpStream::connect(address.with_context(|| format!("{host} does not answer"))?)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A request whose answer is still to come.
pub struct Pending {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Pending {
    /// Sends a request; `extra` are header lines, each with its line end.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn send(host: &str, method: &str, path: &str, extra: &str, body: &[u8]) -> Result<Self> {
        let mut pending = Self {
            stream: connect(host)?,
            received: Vec::new(),
        };
        let length = if method == "GET" {
            String::new()
        } else {
            format!("content-length: {}\r\n", body.len())
        };
        write!(
            pending.stream,
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{length}{extra}\r\n"
        )?;
        pending.stream.write_all(body)?;
        Ok(pending)
    }

    /// Sends the head of a POST and no body.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn half_post(host: &str, path: &str) -> Result<Self> {
        let mut pending = Self {
            stream: connect(host)?,
            received: Vec::new(),
        };
        write!(
            pending.stream,
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 10\r\n\r\n4"
        )?;
        Ok(pending)
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// When none comes, or one that is no HTTP.
    pub fn answer(mut self) -> Result<Answer> {
        let head = read_head(&mut self.stream, &mut self.received)?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let mut answer = Answer {
            status,
            head,
            body: String::new(),
        };
        let length = answer
            .header("content-length")
            .map_or(Ok(0), str::parse::<usize>)?;
        while self.received.len() < length {
            fill(&mut self.stream, &mut self.received)?;
        }
        answer.body = String::from_utf8(self.received[..length].to_vec())?;
        Ok(answer)
    }
}

/// Asks and waits for the answer.
///
/// # Errors
/// As [`Pending::send`] and [`Pending::answer`].
pub fn request(host: &str, method: &str, path: &str, extra: &str, body: &[u8]) -> Result<Answer> {
    Pending::send(host, method, path, extra, body)?.answer()
}

fn read_head(stream: &mut TcpStream, received: &mut Vec<u8>) -> Result<String> {
    loop {
        if let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = received.split_off(end + 4);
            let head = std::mem::replace(received, rest);
            return Ok(String::from_utf8(head)?);
        }
        fill(stream, received)?;
    }
}

fn fill(stream: &mut TcpStream, received: &mut Vec<u8>) -> Result<()> {
    let mut chunk = [0; 65_536];
    let read = stream.read(&mut chunk)?;
    ensure!(read > 0, "the server has hung up");
    received.extend_from_slice(&chunk[..read]);
    Ok(())
}

/// A WebSocket frame of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Opcode 1.
    Text(String),
    /// Opcode 2.
    Binary(Vec<u8>),
    /// Opcode 10.
    Pong(Vec<u8>),
    /// Opcode 8 with its code.
    Close(Option<u16>),
    /// The TCP connection has ended.
    End,
}

/// A WebSocket.
pub struct WebSocket {
    stream: TcpStream,
    received: Vec<u8>,
}

impl WebSocket {
    /// Opens one.
    ///
    /// # Errors
    /// When the server refuses; its answer is told.
    pub fn open(host: &str, path: &str) -> Result<Self> {
        match Self::try_open(host, path, "")? {
            Ok(socket) => Ok(socket),
            Err(answer) => bail!("refused: {answer:?}"),
        }
    }

    /// Opens one, or gives the answer that refuses it.
    ///
    /// # Errors
    /// When the server does not speak HTTP.
    pub fn try_open(host: &str, path: &str, extra: &str) -> Result<Result<Self, Answer>> {
        let headers = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        let mut pending = Pending::send(host, "GET", path, &format!("{headers}{extra}"), b"")?;
        let head = read_head(&mut pending.stream, &mut pending.received)?;
        if !head.starts_with("HTTP/1.1 101") {
            let mut rest = std::mem::take(&mut pending.received);
            let mut received = head.into_bytes();
            received.append(&mut rest);
            return Ok(Err(Pending {
                stream: pending.stream,
                received,
            }
            .answer()?));
        }
        // RFC 6455 section 1.3 has this very pair.
        ensure!(
            head.to_lowercase().contains("s3pplmbitxaq9kygzzhzrbk+xoo="),
            "no accept key in {head}"
        );
        Ok(Ok(Self {
            stream: pending.stream,
            received: pending.received,
        }))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Sends a text frame.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn text(&mut self, text: &str) -> Result<()> {
        self.raw(&frame(0x81, text.as_bytes()))
    }

    /// Sends a binary frame.
    ///
    /// # Errors
    /// When the connection has ended.
    pub fn binary(&mut self, data: &[u8]) -> Result<()> {
        self.raw(&frame(0x82, data))
    }

    /// The next frame.
    ///
    /// # Errors
    /// When none comes in time.
    pub fn receive(&mut self) -> Result<Seen> {
        loop {
            if let Some((opcode, payload)) = self.take() {
                return Ok(match opcode {
                    1 => Seen::Text(String::from_utf8(payload)?),
                    2 => Seen::Binary(payload),
                    8 => Seen::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
                    10 => Seen::Pong(payload),
                    _ => bail!("a frame of opcode {opcode}"),
                });
            }
            match fill(&mut self.stream, &mut self.received) {
                Ok(()) => {}
                Err(error) => {
                    let late = error.downcast_ref::<std::io::Error>();
                    if late.is_some_and(|error| {
                        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                    }) {
                        bail!("nothing comes");
                    }
                    return Ok(Seen::End);
                }
            }
        }
    }

    /// The next text; pings of the heartbeat are answered and passed over.
    ///
    /// # Errors
    /// When something else comes.
    pub fn message(&mut self) -> Result<String> {
        loop {
            match self.receive()? {
                Seen::Text(text) if text == "2" => self.text("3")?,
                Seen::Text(text) => return Ok(text),
                other => bail!("{other:?} instead of a text"),
            }
        }
    }

    /// Waits for the end, whatever comes before; the code of the close frame, if there was one.
    ///
    /// # Errors
    /// When it does not come.
    pub fn closed(&mut self) -> Result<Option<u16>> {
        let mut code = None;
        loop {
            match self.receive()? {
                Seen::Close(close) => code = close,
                Seen::End => return Ok(code),
                Seen::Text(text) if text == "2" => drop(self.text("3")),
                Seen::Text(_) | Seen::Binary(_) | Seen::Pong(_) => {}
            }
        }
    }

    fn take(&mut self) -> Option<(u8, Vec<u8>)> {
        let first = *self.received.first()?;
        let (header, length) = match *self.received.get(1)? {
            126 => (
                4,
                usize::from(u16::from_be_bytes(self.received.get(2..4)?.try_into().ok()?)),
            ),
            127 => (
                10,
                usize::try_from(u64::from_be_bytes(self.received.get(2..10)?.try_into().ok()?)).ok()?,
            ),
            length => (2, usize::from(length)),
        };
        if self.received.len() < header + length {
            return None;
        }
        let payload = self.received[header..header + length].to_vec();
        self.received.drain(..header + length);
        Some((first & 0x0f, payload))
    }
}

/// A masked frame, as clients must send it; `first` is its first byte.
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let mut frame = vec![first];
    match u16::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length.to_be_bytes()[1]),
        Ok(length) => {
            frame.push(0x80 | 126);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 127);
            frame.extend((payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}
