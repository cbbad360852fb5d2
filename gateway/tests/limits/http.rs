//! Requests by hand.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Nothing that must come takes longer, however busy the machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// An answer: its status, its head in lower case, its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

pub(crate) const POLLING: &str = "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\n";

/// Sends bytes and reads one answer with a length.
pub(crate) async fn raw(addr: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    answer(&mut stream).await
}

/// The next answer; `None` when the connection is closed instead.
pub(crate) async fn answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut read = Vec::new();
    let whole = async {
        loop {
            if let Some(answer) = parse(&read) {
                return Some(answer);
            }
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    };
    tokio::time::timeout(PATIENCE, whole).await.unwrap()
}

fn parse(read: &[u8]) -> Option<Answer> {
    let end = read.windows(4).position(|window| window == b"\r\n\r\n")?;
    // Behind the head of an upgrade there are frames.
    let (head, body) = (String::from_utf8_lossy(&read[..end]), &read[end + 4..]);
    let mut answer = Answer {
        status: head.split(' ').nth(1)?.parse().ok()?,
        head: head.to_lowercase(),
        body: String::new(),
    };
    let length = answer
        .header("content-length")
        .map_or(0, |length| length.parse().unwrap());
    answer.body = String::from_utf8_lossy(body.get(..length)?).into_owned();
    Some(answer)
}

/// A handshake for long-polling, with further lines of its head.
pub(crate) async fn polling(addr: SocketAddr, lines: &str) -> Answer {
    raw(addr, format!("{POLLING}{lines}\r\n").as_bytes())
        .await
        .unwrap()
}

/// A handshake for a WebSocket.
pub(crate) async fn websocket(addr: SocketAddr, lines: &str) -> Answer {
    let request = format!(
        "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{lines}\r\n"
    );
    raw(addr, request.as_bytes()).await.unwrap()
}
