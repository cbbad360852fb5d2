//! Members of whom there may be thousands: they count what presence tells them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use bench::client::{Reader, Writer, connect};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(30);

/// A guest in `/chat`.
pub(crate) struct Member {
    reader: Reader,
    writer: Writer,
}

impl Member {
    pub(crate) async fn connect(gateway: SocketAddr) -> Result<Self> {
        let (reader, writer) = connect(gateway, "/chat").await?;
        Ok(Self { reader, writer })
    }

    /// Asks something about a room and waits for the acknowledgement.
    pub(crate) async fn ask(&mut self, event: &str, room: &str) -> Result<()> {
        let packet = format!("42/chat,0[\"{event}\",{{\"roomId\":\"{room}\"}}]");
        self.writer.text(&packet).await?;
        loop {
            let text = tokio::time::timeout(PATIENCE, self.next()).await??;
            if text.starts_with("43/chat,0[") {
                ensure!(text.contains("\"status\":\"ok\""), "{text}");
                return Ok(());
            }
        }
    }

    async fn next(&mut self) -> Result<String> {
        let text = self.reader.text().await?;
        if text == "2" {
            self.writer.text("3").await?;
        }
        Ok(text)
    }
}

/// Counts what presence tells the member; it ends when the connection does.
pub(crate) fn listen(mut member: Member, listening: &mut JoinSet<Result<()>>) -> Arc<AtomicU32> {
    let heard = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&heard);
    listening.spawn(async move {
        loop {
            let text = member.next().await?;
            if ["room-presence", "user-left", "user-online", "user-offline"]
                .iter()
                .any(|event| text.starts_with(&format!("42/chat,[\"{event}\"")))
            {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    heard
}
