//! Acknowledgements that a socket's client owes.

use bytes::Bytes;
use parking_lot::Mutex;
use sio::packet::RawArgs;
use tokio::sync::oneshot;

/// What a client acknowledged an event with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) args: RawArgs,
    pub(crate) attachments: Vec<Bytes>,
}

/// Who waits for acknowledgements, by id.
#[derive(Default)]
pub(crate) struct Asked(Mutex<Vec<(u64, oneshot::Sender<Answer>)>>);

impl Asked {
    pub(super) fn wait(&self, id: u64) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().push((id, sender));
        receiver
    }

    /// The client has acknowledged.
    pub(super) fn answer(&self, id: u64, answer: Answer) {
        let waiting = self.take(id);
        if let Some(waiting) = waiting {
            // Whoever asked may have gone.
            let _ = waiting.send(answer);
        }
    }

    /// Nobody waits any more.
    pub(super) fn forget(&self, id: u64) {
        drop(self.take(id));
    }

    /// Nothing more comes.
    pub(super) fn end(&self) {
        self.0.lock().clear();
    }

    fn take(&self, id: u64) -> Option<oneshot::Sender<Answer>> {
        let mut waiting = self.0.lock();
        let index = waiting.iter().position(|(known, _)| *known == id)?;
        Some(waiting.swap_remove(index).1)
    }
}
