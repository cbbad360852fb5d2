//! What waits in a link: bounded in batches and bytes, never waiting itself.

use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::{Arrival, Batch, LinkError, LinkLimits, VolatileEvent, Waiting};

/// Filled by any number of tasks, emptied by one.
pub(crate) struct Queue {
    limits: LinkLimits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    arrivals: Vec<Arrival>,
    /// What is in `arrivals`, or was taken and not released yet.
    held: Weight,
    /// Of who empties the queue, while it waits.
    waker: Option<Waker>,
    /// Who empties it is gone.
    closed: bool,
    /// Who fills it is gone.
    ended: bool,
}

/// What a queue counts.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    pub(crate) batches: usize,
    pub(crate) signals: usize,
    /// Of records in batches.
    pub(crate) batch_bytes: usize,
    /// Of records in signals: these never take the room of what must not be lost.
    pub(crate) signal_bytes: usize,
}

/// Whether what is taken makes room at once.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Room {
    Now,
    /// When it is [released](Queue::release).
    Later,
}

impl Queue {
    pub(crate) fn new(limits: LinkLimits) -> Self {
        Self {
            limits,
            state: Mutex::default(),
        }
    }

    pub(crate) fn push_batch(&self, batch: Batch) -> Result<(), LinkError> {
        let bytes = batch.record_bytes();
        let waker = {
            let mut state = self.state.lock();
            if state.closed {
                return Err(LinkError::Closed);
            }
            let held = &mut state.held;
            let full = held.batches >= self.limits.batches || held.batch_bytes + bytes > self.limits.bytes;
            if full && held.batches > 0 {
                return Err(LinkError::Full);
            }
            held.batches += 1;
            held.batch_bytes += bytes;
            state.arrivals.push(Arrival::Batch(batch));
            state.waker.take()
        };
        wake(waker);
        Ok(())
    }

    pub(crate) fn push_signal(&self, signal: VolatileEvent) {
        let bytes = signal.record.len();
        let waker = {
            let LinkLimits {
                batches: max_arrivals,
                bytes: max_bytes,
            } = self.limits;
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            let held = &mut state.held;
            // A gateway that has half a queue before it does not keep up.
            let (arrivals, waiting) = (held.batches + held.signals, held.batch_bytes + held.signal_bytes);
            if arrivals >= max_arrivals / 2 || waiting + bytes > max_bytes / 2 {
                return;
            }
            held.signals += 1;
            held.signal_bytes += bytes;
            state.arrivals.push(Arrival::Signal(signal));
            state.waker.take()
        };
        wake(waker);
    }

    /// Adds all that waits to `arrivals`; into an empty vector it swaps it. `false` once the queue has
    /// ended, or was closed, and is empty.
    pub(crate) fn poll_take(
        &self,
        context: &mut Context<'_>,
        arrivals: &mut Vec<Arrival>,
        room: Room,
    ) -> Poll<bool> {
        let mut state = self.state.lock();
        if state.arrivals.is_empty() {
            if state.ended || state.closed {
                return Poll::Ready(false);
            }
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        if room == Room::Now {
            state.held = Weight::default();
        }
        if arrivals.is_empty() {
            std::mem::swap(&mut state.arrivals, arrivals);
        } else {
            arrivals.append(&mut state.arrivals);
        }
        Poll::Ready(true)
    }

    /// Makes the room of what was taken.
    pub(crate) fn release(&self, weight: Weight) {
        let held = &mut self.state.lock().held;
        held.batches -= weight.batches;
        held.signals -= weight.signals;
        held.batch_bytes -= weight.batch_bytes;
        held.signal_bytes -= weight.signal_bytes;
    }

    /// Nobody takes any more: what waits is dropped.
    pub(crate) fn close(&self) {
        let (waiting, waker) = {
            let mut state = self.state.lock();
            state.closed = true;
            (std::mem::take(&mut state.arrivals), state.waker.take())
        };
        wake(waker);
        // Freed without the lock, which a worker may be waiting for.
        drop(waiting);
    }

    pub(crate) fn waiting(&self) -> Waiting {
        let held = self.state.lock().held;
        Waiting {
            arrivals: held.batches + held.signals,
            bytes: held.batch_bytes + held.signal_bytes,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Nothing more is put in.
    pub(crate) fn end(&self) {
        let waker = {
            let mut state = self.state.lock();
            state.ended = true;
            state.waker.take()
        };
        wake(waker);
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
