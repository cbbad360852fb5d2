//! Peers that ask and never read what they are answered.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// A stream whose writes fail with [`io::ErrorKind::TimedOut`] when the peer takes nothing of them for a time. TCP alone
/// waits for ever for a peer that is there and reads nothing. Nothing is measured while nothing is to be written.
#[derive(Debug)]
pub struct WriteTimeout<S> {
    stream: S,
    limit: Duration,
    /// There while a write makes no progress.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    /// Writes to `stream` may make no progress for so long.
    pub fn new(stream: S, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            stalled: None,
        }
    }

    /// The stream by itself, which waits for its peer.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// What came of an attempt to write.
    fn watch<T>(&mut self, context: &mut Context<'_>, attempt: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.stalled = None;
            return attempt;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.limit)));
        stalled
            .as_mut()
            .poll(context)
            .map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, attempt)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(context, attempt)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::Instant,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_peer_may_read_slowly_but_not_stop() {
        let (stream, mut peer) = duplex(64);
        let mut stream = WriteTimeout::new(stream, LIMIT);
        let reading = async {
            for _ in 0..10 {
                tokio::time::sleep(LIMIT * 4 / 5).await;
                peer.read_exact(&mut [0; 16]).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let begun = Instant::now();
        tokio::select! {
            written = stream.write_all(&[0; 1000]) => {
                assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
            }
            () = reading => {}
        }
        let took = begun.elapsed();
        assert!(took >= LIMIT * 9 && took < LIMIT * 10, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_nothing_to_write_waits_for_ever() {
        let (stream, mut peer) = duplex(64);
        let mut stream = WriteTimeout::new(stream, LIMIT);
        for _ in 0..3 {
            stream.write_all(&[0; 64]).await.unwrap();
            let next = tokio::time::timeout(LIMIT * 10, stream.read_u8());
            next.await.unwrap_err();
            peer.read_exact(&mut [0; 64]).await.unwrap();
        }
    }
}
