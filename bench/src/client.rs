//! A client light enough that the server is what is measured.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

const HANDSHAKE: &str = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n\
    Host: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

/// What comes from the server.
pub struct Reader {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
    /// Complete frames begin here.
    start: usize,
}

/// What goes to the server.
pub struct Writer {
    stream: OwnedWriteHalf,
}

/// Connects to the server and opens the namespace.
///
/// # Errors
/// When the server refuses.
pub async fn connect(addr: SocketAddr, namespace: &str) -> Result<(Reader, Writer)> {
    let (mut reader, mut writer) = open(addr).await?;
    writer.text(&format!("40{namespace},")).await?;
    let connected = reader.text().await?;
    ensure!(
        connected.starts_with(&format!("40{namespace}")),
        "not connected: {connected}"
    );
    Ok((reader, writer))
}

/// Connects to the server, and opens no namespace yet.
///
/// # Errors
/// When the server refuses.
pub async fn open(addr: SocketAddr) -> Result<(Reader, Writer)> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (stream, mut writer) = stream.into_split();
    writer.write_all(HANDSHAKE.as_bytes()).await?;
    let mut reader = Reader {
        stream,
        buffer: Vec::new(),
        start: 0,
    };
    let writer = Writer { stream: writer };
    loop {
        reader.fill().await?;
        if let Some(end) = reader.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            ensure!(
                reader.buffer.starts_with(b"HTTP/1.1 101"),
                "the handshake was refused: {}",
                String::from_utf8_lossy(
                    reader
                        .buffer
                        .split(|byte| *byte == b'\r')
                        .next()
                        .unwrap_or_default()
                )
            );
            reader.start = end + 4;
            break;
        }
    }
    let open = reader.text().await?;
    ensure!(open.starts_with('0'), "no open packet: {open}");
    Ok((reader, writer))
}

impl Reader {
    /// The next message, as text.
    ///
    /// # Errors
    /// When the connection ends, or for a message that is no text.
    pub async fn text(&mut self) -> Result<String> {
        loop {
            if let Some((header, length)) = self.frame() {
                // RFC 6455 section 5.2: opcode 8 is a close.
                ensure!(
                    self.buffer[self.start] & 0x0f != 8,
                    "the server has closed the WebSocket"
                );
                let payload = &self.buffer[self.start + header..self.start + header + length];
                let text = std::str::from_utf8(payload)
                    .context("text that is none")?
                    .to_owned();
                self.start += header + length;
                if self.start == self.buffer.len() {
                    self.buffer = Vec::new();
                    self.start = 0;
                }
                return Ok(text);
            }
            self.fill().await?;
        }
    }

    /// Header and payload lengths of the first frame, once it is complete. Servers do not mask.
    fn frame(&self) -> Option<(usize, usize)> {
        let frame = &self.buffer[self.start..];
        let (header, length) = match frame.get(1)? & 0x7f {
            126 => (
                4,
                usize::from(u16::from_be_bytes(frame.get(2..4)?.try_into().ok()?)),
            ),
            127 => (
                10,
                usize::try_from(u64::from_be_bytes(frame.get(2..10)?.try_into().ok()?)).ok()?,
            ),
            length => (2, usize::from(length)),
        };
        (frame.len() >= header + length).then_some((header, length))
    }

    async fn fill(&mut self) -> Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        // Room is taken only once there is something to read.
        self.stream.readable().await?;
        self.buffer.reserve(16 * 1024);
        let read = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(read > 0, "the server has closed the connection");
        Ok(())
    }
}

impl Writer {
    /// Sends a text message, masked with zeros.
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn text(&mut self, text: &str) -> Result<()> {
        let mut frame = vec![0x81];
        match u16::try_from(text.len()) {
            Ok(length) if length < 126 => frame.push(0x80 | length.to_be_bytes()[1]),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend((text.len() as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(text.as_bytes());
        self.stream.write_all(&frame).await?;
        Ok(())
    }
}
