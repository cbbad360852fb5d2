//! A client that says exactly what a test wants, one connection a request.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Nothing that must come takes longer, however busy the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    fn parse(head: &str, body: String) -> Self {
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Self {
            status,
            headers,
            body,
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(header, _)| header == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} is there twice");
        value
    }

    /// Everything but what changes from answer to answer.
    pub(crate) fn stable(&self) -> (u16, Vec<(String, String)>, &str) {
        let mut headers = self.headers.clone();
        headers.retain(|(name, _)| name != "date");
        headers.sort();
        (self.status, headers, &self.body)
    }

    pub(crate) fn is_unknown_session(&self) -> bool {
        let body = self.body.as_str();
        self.status == 400
            && matches!(
                body,
                r#"{"code":1,"message":"Session ID unknown"}"# | "Session ID unknown"
            )
    }
}

/// Sends a request and leaves its answer to be read.
pub(crate) async fn send(
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut head = format!("{method} /engine.io/?EIO=4{target} HTTP/1.1\r\nhost: edge.example\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let chunked = headers.iter().any(|(name, _)| *name == "transfer-encoding");
    if method == "POST" && !chunked {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // Who is told off early may not take all of it.
    let _ = stream.write_all(body).await;
    stream
}

pub(crate) async fn answer(stream: &mut TcpStream) -> Answer {
    let mut read = Vec::new();
    let reading = async {
        loop {
            let end = read.windows(4).position(|window| window == b"\r\n\r\n");
            if let Some(end) = end {
                let head = String::from_utf8(read[..end].to_vec()).unwrap();
                let answer = Answer::parse(&head, String::new());
                let length: usize = answer
                    .header("content-length")
                    .map_or(0, |length| length.parse().unwrap());
                assert_eq!(answer.header("transfer-encoding"), None);
                if read.len() >= end + 4 + length {
                    let body = String::from_utf8(read[end + 4..end + 4 + length].to_vec()).unwrap();
                    return Answer::parse(&head, body);
                }
            }
            assert_ne!(
                stream.read_buf(&mut read).await.unwrap(),
                0,
                "the answer ends early: {}",
                String::from_utf8_lossy(&read)
            );
        }
    };
    timeout(PATIENCE, reading).await.unwrap()
}

pub(crate) async fn ask(
    to: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    answer(&mut send(to, method, target, headers, body).await).await
}

pub(crate) async fn get(to: SocketAddr, sid: &str) -> Answer {
    ask(to, "GET", &format!("&transport=polling&sid={sid}"), &[], b"").await
}

pub(crate) async fn post(to: SocketAddr, sid: &str, body: &str) -> Answer {
    let target = format!("&transport=polling&sid={sid}");
    ask(to, "POST", &target, &[], body.as_bytes()).await
}

/// Opens a polling session; its id.
pub(crate) async fn open(at: SocketAddr) -> String {
    let answer = ask(at, "GET", "&transport=polling", &[], b"").await;
    assert_eq!(answer.status, 200);
    sid_of(&answer.body)
}

pub(crate) fn sid_of(open: &str) -> String {
    let rest = open.split("\"sid\":\"").nth(1).unwrap();
    rest.split('"').next().unwrap().to_owned()
}

pub(crate) const UPGRADE: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// A WebSocket whose server has switched protocols.
pub(crate) struct WebSocket {
    stream: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Text(String),
    Closed,
}

impl WebSocket {
    /// Upgrades the session `sid`; the answer where that is refused.
    pub(crate) async fn attach(to: SocketAddr, sid: &str) -> Result<Self, Answer> {
        let target = format!("&transport=websocket&sid={sid}");
        let mut stream = send(to, "GET", &target, &UPGRADE, b"").await;
        let mut head = Vec::new();
        // Byte by byte: what is behind the head belongs to the WebSocket.
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let answer = Answer::parse(&head, String::new());
        if answer.status == 101 {
            assert_eq!(
                answer.header("sec-websocket-accept"),
                Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
            );
            return Ok(Self {
                stream,
                read: Vec::new(),
            });
        }
        let mut body = String::new();
        stream.read_to_string(&mut body).await.unwrap();
        Err(Answer::parse(&head, body))
    }

    pub(crate) async fn send(&mut self, text: &str) {
        let mut frame = vec![0x81];
        match text.len() {
            length @ 0..126 => frame.push(0x80 | length as u8),
            length => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.stream.write_all(&frame).await.unwrap();
    }

    /// The next message but heartbeats.
    pub(crate) async fn next(&mut self) -> Said {
        timeout(PATIENCE, async {
            loop {
                match self.frame().await {
                    Said::Text(text) if text == "2" => self.send("3").await,
                    said => return said,
                }
            }
        })
        .await
        .unwrap()
    }

    pub(crate) async fn expect(&mut self, text: &str) {
        assert_eq!(self.next().await, Said::Text(text.to_owned()));
    }

    async fn frame(&mut self) -> Said {
        loop {
            let header = match self.read.get(1) {
                Some(126) => 4,
                Some(127) => 10,
                _ => 2,
            };
            if self.read.len() >= header {
                let length = match header {
                    4 => u16::from_be_bytes([self.read[2], self.read[3]]).into(),
                    10 => u64::from_be_bytes(self.read[2..10].try_into().unwrap()) as usize,
                    _ => self.read[1].into(),
                };
                if self.read[0] == 0x88 {
                    return Said::Closed;
                }
                if self.read.len() >= header + length {
                    let frame: Vec<u8> = self.read.drain(..header + length).collect();
                    return Said::Text(String::from_utf8(frame[header..].to_vec()).unwrap());
                }
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(1..) => {}
                _ => return Said::Closed,
            }
        }
    }
}

/// An upgrade as clients do it: the probe on the WebSocket, a poll released meanwhile, then the switch.
/// `polls` is where the client polls at that moment.
pub(crate) async fn upgrade(to: SocketAddr, polls: SocketAddr, sid: &str) -> WebSocket {
    let target = format!("&transport=polling&sid={sid}");
    let mut poll = send(polls, "GET", &target, &[], b"").await;
    let mut socket = WebSocket::attach(to, sid).await.ok().unwrap();
    socket.send("2probe").await;
    socket.expect("3probe").await;
    // A heartbeat may have come first.
    let released = answer(&mut poll).await;
    assert_eq!(released.status, 200, "{}", released.body);
    assert!(matches!(released.body.as_str(), "6" | "2"), "{}", released.body);
    socket.send("5").await;
    if released.body == "2" {
        socket.send("3").await;
    }
    socket
}
