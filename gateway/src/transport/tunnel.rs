//! Bytes both ways between two streams: an upgraded connection whose session is another gateway's.

use std::{
    cell::RefCell,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Once one side has ended, the other gets so long to end too.
const LINGER: Duration = Duration::from_secs(5);
const SCRATCH: usize = 16 * 1024;

thread_local! {
    /// One read buffer a thread: an idle tunnel keeps none.
    static READ_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Copies until both sides have ended, one breaks, or one lingers for more than 5 s after the other's end.
/// An end of one direction is passed on alone. What one side does not take is not read from the other:
/// at most one read is kept. `early_a` and `early_b` were read from `a` and `b` already.
///
/// Dropped, it closes both.
pub(super) async fn run<A, B>(mut a: A, early_a: Bytes, mut b: B, early_b: Bytes)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut there = Way::new(early_a);
    let mut back = Way::new(early_b);
    let mut linger = pin!(None);
    std::future::poll_fn(|context| {
        let one = there.poll(context, &mut a, &mut b);
        let other = back.poll(context, &mut b, &mut a);
        match (one, other) {
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => Poll::Ready(()),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(()),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
            _ => {
                if linger.is_none() {
                    linger.set(Some(tokio::time::sleep(LINGER)));
                }
                match linger.as_mut().as_pin_mut() {
                    Some(sleep) => sleep.poll(context),
                    None => Poll::Pending,
                }
            }
        }
    })
    .await;
}

/// One direction.
struct Way {
    /// Read, but not yet taken by the other side.
    rest: Bytes,
    /// Something was written and may sit in a buffer of the stream.
    unflushed: bool,
    state: State,
}

#[derive(Copy, Clone, PartialEq, Eq)]
enum State {
    Open,
    /// The reading side has ended; the writing side is being told.
    Ending,
    Ended,
}

impl Way {
    fn new(early: Bytes) -> Self {
        Self {
            rest: early,
            unflushed: false,
            state: State::Open,
        }
    }

    fn poll(
        &mut self,
        context: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        loop {
            while !self.rest.is_empty() {
                let written = ready!(Pin::new(&mut *to).poll_write(context, &self.rest))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.unflushed = true;
                let _ = self.rest.split_to(written);
            }
            self.rest = Bytes::new();
            match self.state {
                State::Open => match self.read(context, from, to)? {
                    Poll::Ready(()) => {}
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(Pin::new(&mut *to).poll_flush(context))?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(context))?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    /// Reads once and writes what was read; what is not taken becomes `rest`.
    fn read(
        &mut self,
        context: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<Poll<()>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            match Pin::new(from).poll_read(context, &mut buffer)? {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(()) => {}
            }
            let read = buffer.filled();
            if read.is_empty() {
                self.state = State::Ending;
                return Ok(Poll::Ready(()));
            }
            let written = match Pin::new(to).poll_write(context, read)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => written,
                Poll::Pending => 0,
            };
            self.unflushed |= written > 0;
            if written < read.len() {
                self.rest = Bytes::copy_from_slice(&read[written..]);
            }
            Ok(Poll::Ready(()))
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn bytes_go_both_ways_and_one_end_is_passed_on_alone() {
        let (mut client, a) = duplex(64);
        let (mut owner, b) = duplex(64);
        let copy = run(a, Bytes::from_static(b"early "), b, Bytes::from_static(b"hello "));
        let talk = async {
            client.write_all(&[b'x'; 1000]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let serve = async {
            let mut asked = Vec::new();
            owner.read_to_end(&mut asked).await.unwrap();
            owner.write_all(b"answer").await.unwrap();
            drop(owner);
            asked
        };
        let ((), answer, asked) = tokio::join!(copy, talk, serve);
        assert_eq!(answer, b"hello answer");
        assert_eq!(asked.len(), 1006);
        assert!(asked.starts_with(b"early xx"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_taken_is_not_read() {
        let (mut client, a) = duplex(64);
        let (owner, b) = duplex(64);
        let mut copy = pin!(run(a, Bytes::new(), b, Bytes::new()));
        let mut taken = 0;
        loop {
            tokio::select! {
                biased;
                () = &mut copy => panic!("the tunnel ended"),
                written = client.write(&[0; 16]) => taken += written.unwrap(),
                () = tokio::time::sleep(Duration::from_secs(1)) => break,
            }
        }
        assert!(
            taken <= 3 * 64,
            "{taken} bytes were taken for a reader that does not read"
        );
        drop(owner);
        copy.await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_end_is_cut() {
        let (_client, a) = duplex(64);
        let (owner, b) = duplex(64);
        drop(owner);
        run(a, Bytes::new(), b, Bytes::new()).await;
    }
}
