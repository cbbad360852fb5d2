//! A client that can also say what no client should: HTTP requests and WebSocket frames by hand, on blocking sockets.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::ProtocolSuites;

/// Nothing that must come takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const ENGINE: &str = "/engine.io/";
pub(crate) const SOCKET: &str = "/socket.io/";

/// First bytes of frames that are whole messages (RFC 6455 section 5.2).
pub(crate) const TEXT: u8 = 0x81;
pub(crate) const BINARY: u8 = 0x82;
pub(crate) const CLOSE: u8 = 0x88;
pub(crate) const PING: u8 = 0x89;
pub(crate) const PONG: u8 = 0x8a;

/// The key and the answer to it are the example of RFC 6455 section 1.3.
pub(crate) const HANDSHAKE: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The server of `protocol_suites` with times so long that only what a test does ends a session.
const CALM: [(&str, &str); 4] = [
    ("--ping-interval", "60000"),
    ("--ping-timeout", "60000"),
    ("--upgrade-timeout", "60000"),
    ("--connect-timeout", "60000"),
];

/// Where a server is, and what is asked of it again and again.
#[derive(Clone)]
pub(crate) struct Server {
    address: String,
}

/// Runs a test against a server whose timers do not matter, and looks at the server's log.
pub(crate) fn calm(run: impl FnOnce(&Server) -> Result<()>) -> Result<()> {
    with(&CALM, run)
}

/// Runs a test against a server with these times, the rest as the official suites ask for.
pub(crate) fn with(times: &[(&str, &str)], run: impl FnOnce(&Server) -> Result<()>) -> Result<()> {
    let process = ProtocolSuites::start_with(times)?;
    if let Err(error) = run(&Server::at(&process.url)?) {
        return Err(error.context(format!("the server wrote:\n{}", process.output())));
    }
    process.stop()
}

impl Server {
    pub(crate) fn at(url: &str) -> Result<Self> {
        let address = url.strip_prefix("http://").context("an http URL")?.to_owned();
        Ok(Self { address })
    }

    pub(crate) fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection {
            stream,
            unread: Vec::new(),
        })
    }

    /// One request on a connection of its own, and its answer.
    pub(crate) fn ask(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer> {
        let mut connection = self.connect()?;
        connection.request(method, target, headers, body)?;
        connection.answer()
    }

    /// That somebody else is still served: a message goes there and back on either path and transport.
    pub(crate) fn is_healthy(&self) -> Result<()> {
        let mut engine = WebSocket::session(self, ENGINE)?.0;
        engine.text("4well?")?;
        engine.expect("4well?")?;
        let mut socket = WebSocket::joined(self)?;
        socket.text(r#"421["message-with-ack","well?"]"#)?;
        socket.expect(r#"431["well?"]"#)?;
        let polling = Polling::open(self, ENGINE)?;
        polling.send(b"4well?")?;
        ensure!(polling.packets()? == ["4well?"]);
        Ok(())
    }
}

/// A TCP connection and what of it has not been looked at yet.
pub(crate) struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes)?;
        Ok(())
    }

    pub(crate) fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<()> {
        let mut request = head(method, target, headers);
        if method == "POST" {
            request += &format!("content-length: {}\r\n", body.len());
        }
        let request = [request.as_bytes(), b"\r\n", body].concat();
        self.write(&request)
    }

    /// The next answer, body included.
    pub(crate) fn answer(&mut self) -> Result<Answer> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            ensure!(
                self.fill()?,
                "the connection ended before an answer, after {:?}",
                String::from_utf8_lossy(&self.unread)
            );
        };
        let head: Vec<u8> = self.unread.drain(..end).collect();
        let head = String::from_utf8(head)?;
        let (first, rest) = head.split_once("\r\n").context("a status line")?;
        let status = first.split(' ').nth(1).context("a status")?.parse()?;
        let headers = rest.lines().filter_map(|line| line.split_once(": "));
        let headers = headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Answer {
            status,
            headers,
            body: Vec::new(),
        };
        ensure!(
            answer.header("transfer-encoding").is_none(),
            "an answer in chunks"
        );
        if let Some(length) = answer.header("content-length") {
            answer.body = self.take(length.parse()?)?;
        }
        Ok(answer)
    }

    /// Waits until the server has nothing more to say and hangs up; what it said until then.
    pub(crate) fn rest(&mut self) -> Result<Vec<u8>> {
        while self.fill()? {}
        Ok(std::mem::take(&mut self.unread))
    }

    /// Whether nothing has come for a while.
    pub(crate) fn is_silent(&mut self) -> Result<bool> {
        self.stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        let mut byte = [0];
        let silent = match self.stream.peek(&mut byte) {
            Ok(_) => false,
            Err(error) if is_timeout(&error) => true,
            Err(error) => return Err(error.into()),
        };
        self.stream.set_read_timeout(Some(PATIENCE))?;
        Ok(silent && self.unread.is_empty())
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        while self.unread.len() < count {
            ensure!(self.fill()?, "the connection ended inside what it was sending");
        }
        Ok(self.unread.drain(..count).collect())
    }

    /// `false` at the connection's end, orderly or not.
    fn fill(&mut self) -> Result<bool> {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(read) => {
                self.unread.extend_from_slice(&buffer[..read]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                Ok(false)
            }
            Err(error) if is_timeout(&error) => bail!("nothing came for {PATIENCE:?}"),
            Err(error) => Err(error.into()),
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// The head of a request, without the empty line that ends it.
pub(crate) fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: fanfare.test\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.body
    }

    pub(crate) fn text(&self) -> Result<&str> {
        Ok(std::str::from_utf8(&self.body)?)
    }

    /// That it is a refusal with this code of the reference's `Server.errors`.
    pub(crate) fn is_refusal(&self, status: u16, code: u8, message: &str) -> Result<()> {
        let body = format!(r#"{{"code":{code},"message":"{message}"}}"#);
        ensure!(self.status == status && self.text()? == body, "{self:?}");
        ensure!(self.header("content-type") == Some("application/json"));
        Ok(())
    }
}

/// A session on long-polling; each request goes over a connection of its own.
pub(crate) struct Polling<'a> {
    server: &'a Server,
    path: &'static str,
    pub(crate) sid: String,
}

impl<'a> Polling<'a> {
    pub(crate) fn open(server: &'a Server, path: &'static str) -> Result<Self> {
        let answer = server.ask("GET", &format!("{path}?EIO=4&transport=polling"), &[], b"")?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(Self {
            server,
            path,
            sid: opened(answer.text()?)?.0,
        })
    }

    /// The target of its requests with another transport or the same.
    pub(crate) fn target(&self, transport: &str) -> String {
        format!("{}?EIO=4&transport={transport}&sid={}", self.path, self.sid)
    }

    pub(crate) fn poll(&self) -> Result<Answer> {
        self.begin_poll()?.answer()
    }

    /// A GET whose answer is not waited for.
    pub(crate) fn begin_poll(&self) -> Result<Connection> {
        let mut connection = self.server.connect()?;
        connection.request("GET", &self.target("polling"), &[], b"")?;
        Ok(connection)
    }

    pub(crate) fn post(&self, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
        self.server.ask("POST", &self.target("polling"), headers, body)
    }

    /// A POST whose body is `of` bytes long and of which only `part` has been sent.
    pub(crate) fn begin_post(&self, part: &[u8], of: usize) -> Result<Connection> {
        let mut connection = self.server.connect()?;
        let head = head("POST", &self.target("polling"), &[]);
        let head = format!("{head}content-length: {of}\r\n\r\n");
        connection.write(&[head.as_bytes(), part].concat())?;
        Ok(connection)
    }

    /// Sends packets that are in order.
    pub(crate) fn send(&self, body: &[u8]) -> Result<()> {
        let answer = self.post(&[("content-type", "text/plain;charset=UTF-8")], body)?;
        ensure!(answer.status == 200 && answer.text()? == "ok", "{answer:?}");
        Ok(())
    }

    /// The packets of one poll.
    pub(crate) fn packets(&self) -> Result<Vec<String>> {
        packets(&self.poll()?)
    }

    /// Polls until so many packets have come.
    pub(crate) fn packets_of(&self, count: usize) -> Result<Vec<String>> {
        let mut all = self.packets()?;
        while all.len() < count {
            all.extend(self.packets()?);
        }
        Ok(all)
    }

    /// That the server knows it no more.
    pub(crate) fn is_gone(&self) -> Result<()> {
        is_gone(self.server, self.path, &self.sid)
    }

    /// Opens a WebSocket for this session.
    pub(crate) fn websocket(&self) -> Result<WebSocket> {
        WebSocket::open(self.server, &self.target("websocket"))
    }
}

/// The packets in the answer to a poll.
pub(crate) fn packets(answer: &Answer) -> Result<Vec<String>> {
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.text()?.split('\u{1e}').map(str::to_owned).collect())
}

/// That a request for a session is refused as one for an unknown id is.
pub(crate) fn is_gone(server: &Server, path: &str, sid: &str) -> Result<()> {
    let target = format!("{path}?EIO=4&transport=polling&sid={sid}");
    let answer = server.ask("GET", &target, &[], b"")?;
    answer.is_refusal(400, 1, "Session ID unknown")
}

/// Sid and all of an open packet.
pub(crate) fn opened(packet: &str) -> Result<(String, Value)> {
    let json = packet.strip_prefix('0').context("an open packet")?;
    let value: Value = serde_json::from_str(json)?;
    let sid = value["sid"].as_str().context("a sid")?.to_owned();
    Ok((sid, value))
}

/// What comes from a WebSocket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    /// The end of the TCP connection.
    End,
}

pub(crate) struct WebSocket {
    connection: Connection,
}

impl WebSocket {
    pub(crate) fn open(server: &Server, target: &str) -> Result<Self> {
        let mut connection = server.connect()?;
        connection.request("GET", target, &HANDSHAKE, b"")?;
        let answer = connection.answer()?;
        ensure!(answer.status == 101, "{answer:?}");
        ensure!(answer.header("sec-websocket-accept") == Some(ACCEPT));
        ensure!(
            answer
                .header("upgrade")
                .is_some_and(|to| to.eq_ignore_ascii_case("websocket"))
        );
        ensure!(
            answer
                .header("connection")
                .is_some_and(|what| what.eq_ignore_ascii_case("upgrade"))
        );
        Ok(Self { connection })
    }

    /// What comes behind a 101 that has been read.
    pub(crate) fn after(connection: Connection) -> Self {
        Self { connection }
    }

    /// A session of its own, and its id.
    pub(crate) fn session(server: &Server, path: &str) -> Result<(Self, String)> {
        let mut socket = Self::open(server, &format!("{path}?EIO=4&transport=websocket"))?;
        let open = socket.next_text()?;
        Ok((socket, opened(&open)?.0))
    }

    /// A session that has joined the main namespace.
    pub(crate) fn joined(server: &Server) -> Result<Self> {
        let mut socket = Self::session(server, SOCKET)?.0;
        socket.text("40")?;
        let answer = socket.next_text()?;
        ensure!(answer.starts_with(r#"40{"sid":""#), "{answer}");
        socket.expect(r#"42["auth",{}]"#)?;
        Ok(socket)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.connection.write(bytes)
    }

    pub(crate) fn text(&mut self, text: &str) -> Result<()> {
        self.write(&frame(TEXT, text.as_bytes()))
    }

    pub(crate) fn binary(&mut self, data: &[u8]) -> Result<()> {
        self.write(&frame(BINARY, data))
    }

    /// The next frame, which must be as a server's frames are: whole, not masked, its length in the shortest form.
    pub(crate) fn next(&mut self) -> Result<Seen> {
        if self.connection.unread.is_empty() && !self.connection.fill()? {
            return Ok(Seen::End);
        }
        let head = self.connection.take(2)?;
        let (first, short) = (head[0], head[1]);
        ensure!(
            first & 0xf0 == 0x80,
            "not final, or with reserved bits: {first:#x}"
        );
        ensure!(short & 0x80 == 0, "a masked frame");
        let length = match short {
            126 => {
                let length = self.connection.take(2)?;
                let length = u16::from_be_bytes([length[0], length[1]]);
                ensure!(length > 125, "a length not in the shortest form");
                usize::from(length)
            }
            127 => {
                let length = self.connection.take(8)?;
                let length = length
                    .iter()
                    .fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
                ensure!(
                    length > usize::from(u16::MAX),
                    "a length not in the shortest form"
                );
                length
            }
            length => usize::from(length),
        };
        let payload = self.connection.take(length)?;
        Ok(match first {
            TEXT => Seen::Text(String::from_utf8(payload)?),
            BINARY => Seen::Binary(payload),
            CLOSE => Seen::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
            PONG => Seen::Pong(payload),
            _ => bail!("a server sends no frame of this kind: {first:#x}"),
        })
    }

    pub(crate) fn next_text(&mut self) -> Result<String> {
        match self.next()? {
            Seen::Text(text) => Ok(text),
            other => bail!("{other:?} instead of a text"),
        }
    }

    /// That this text comes next.
    pub(crate) fn expect(&mut self, text: &str) -> Result<()> {
        let seen = self.next_text()?;
        ensure!(seen == text, "{seen:?} instead of {text:?}");
        Ok(())
    }

    pub(crate) fn expect_binary(&mut self, data: &[u8]) -> Result<()> {
        let seen = self.next()?;
        ensure!(
            seen == Seen::Binary(data.to_vec()),
            "{seen:?} instead of {data:?}"
        );
        Ok(())
    }

    /// That the server says nothing more but goodbye and hangs up; the code it gave.
    pub(crate) fn closed(&mut self) -> Result<Option<u16>> {
        match self.next()? {
            Seen::End => Ok(None),
            Seen::Close(code) => {
                let last = self.next()?;
                ensure!(last == Seen::End, "{last:?} after the close frame");
                Ok(code)
            }
            other => bail!("{other:?} instead of the end"),
        }
    }

    pub(crate) fn is_silent(&mut self) -> Result<bool> {
        self.connection.is_silent()
    }
}

/// A frame of a client as it should be: masked, its length in the shortest form.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        short @ 0..=125 => frame.push(0x80 | short as u8),
        middle @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((middle as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}
