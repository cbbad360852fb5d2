//! A real gateway on engines in memory, and clients on loopback, all on one thread.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use axum::Router;
use bus::{
    documents::memory::MemoryDocuments,
    event_log::memory::{MemoryLog, MemoryLogConfig},
    signals::memory::MemorySignals,
};
use config::{Config, Role};
use delivery::Links;
use gateway::{Deps, Gateway, new_id};
use lifecycle::Tasks;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

pub(crate) const NAMESPACE: &str = "/chat";
pub(crate) const ROOM: &str = "team-42";

const HANDSHAKE: &str = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n\
    Host: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A gateway that accepts clients.
pub(crate) struct Edge {
    pub(crate) log: MemoryLog,
    pub(crate) address: SocketAddr,
    _gateway: Arc<Gateway>,
}

impl Edge {
    /// `links`: what it takes for the workers.
    pub(crate) async fn start(links: Box<dyn Links>) -> Result<Self> {
        let mut config = Config::for_tests(Role::Standalone);
        config.limits.events = 0;
        let log = MemoryLog::new(MemoryLogConfig {
            partitions: config.bus.partitions,
            ..MemoryLogConfig::default()
        });
        let tasks = Tasks::new();
        let deps = Deps {
            log: Arc::new(log.clone()),
            signals: Arc::new(MemorySignals::new()),
            documents: Arc::new(MemoryDocuments::new()),
            links,
            cluster: None,
            limiters: None,
            tasks: tasks.clone(),
            registry: prometheus::Registry::new(),
            tracer: telemetry::trace::Tracer::off(),
        };
        let gateway = Arc::new(Gateway::build(&config, new_id(), deps).await?);
        let listener = TcpListener::bind(config.gateway.listen).await?;
        let address = listener.local_addr()?;
        let serving = Arc::clone(&gateway);
        tasks.background("serve", async move {
            serving
                .serve(listener, Router::new(), CancellationToken::new())
                .await;
        });
        Ok(Self {
            log,
            address,
            _gateway: gateway,
        })
    }
}

/// A client that does little, so that little of it is counted.
pub(crate) struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// In the namespace.
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(HANDSHAKE.as_bytes()).await?;
        let mut client = Self {
            stream,
            received: Vec::new(),
        };
        client.receive("\"maxPayload\"").await?;
        client.send(&format!("40{NAMESPACE},")).await?;
        client.receive(&format!("40{NAMESPACE},{{")).await?;
        Ok(client)
    }

    /// Sends a text message.
    pub(crate) async fn send(&mut self, text: &str) -> Result<()> {
        self.stream.write_all(&frame(text)).await?;
        Ok(())
    }

    /// Something has come.
    pub(crate) async fn ready(&self) -> Result<()> {
        self.stream.readable().await?;
        Ok(())
    }

    /// Takes what comes until `wanted` is in it, and forgets it.
    pub(crate) async fn receive(&mut self, wanted: &str) -> Result<()> {
        let wanted = wanted.as_bytes();
        loop {
            let found = self
                .received
                .windows(wanted.len())
                .position(|window| window == wanted);
            if let Some(found) = found {
                self.received.drain(..found + wanted.len());
                return Ok(());
            }
            let read = self.stream.read_buf(&mut self.received).await?;
            ensure!(
                read > 0,
                "the gateway has closed the connection; it had sent {}",
                String::from_utf8_lossy(&self.received)
            );
        }
    }
}

/// A `message` for the room, with an acknowledgement asked for.
pub(crate) fn message(ack: usize) -> String {
    format!(
        r#"42{NAMESPACE},{ack}["message",{{"roomId":"{ROOM}","content":"Good morning, everybody! Coffee is ready.","type":"text"}}]"#
    )
}

/// A text message as a client sends it, masked.
pub(crate) fn frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    // RFC 6455 section 5.2; nothing here is longer than 64 KiB.
    match text.len() {
        length @ 0..126 => frame.push(0x80 | length.to_be_bytes()[size_of::<usize>() - 1]),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&length.to_be_bytes()[size_of::<usize>() - 2..]);
        }
    }
    frame.extend(MASK);
    frame.extend(
        text.bytes()
            .zip(MASK.into_iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

/// Runs `work` on this thread alone, so that a run counts what the last one counted.
pub(crate) fn alone(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?
        .block_on(work)
}
