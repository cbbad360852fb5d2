//! How others tell the task of a connection that there is something to look at.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;

/// One task waits, anybody wakes. Unlike with `tokio::sync::Notify`, waiting keeps no state in the waiting future.
#[derive(Debug, Default)]
pub(super) struct Wake {
    told: AtomicBool,
    waker: AtomicWaker,
}

impl Wake {
    /// The task looks again, now or when it waits next.
    pub(super) fn tell(&self) {
        self.told.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready once after it was told.
    pub(super) fn poll_told(&self, context: &Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.told.swap(false, Ordering::AcqRel) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Waits until it is told. Cancel safe.
    pub(super) async fn told(&self) {
        poll_fn(|context| self.poll_told(context)).await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_was_told_before_is_not_missed_and_told_once() {
        let wake = Wake::default();
        assert!(wake.told().now_or_never().is_none());
        wake.tell();
        wake.tell();
        wake.told().await;
        assert!(wake.told().now_or_never().is_none());
        tokio::join!(wake.told(), async { wake.tell() });
    }
}
