//! When identities end.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::Socket;

/// Sockets whose identity ends, by when: Unix seconds, and where the socket lies, which tells them apart.
#[derive(Default)]
pub(crate) struct Expiries(Mutex<BTreeMap<(u64, usize), Weak<Socket>>>);

impl Expiries {
    /// The socket is told of by [`Expiries::due`] when its identity ends, if it does.
    pub(crate) fn watch(&self, socket: &Arc<Socket>) {
        if let Some(at) = socket.rights().expires_at {
            let place = Arc::as_ptr(socket).addr();
            self.0.lock().insert((at, place), Arc::downgrade(socket));
        }
    }

    /// The socket is not told of any more.
    pub(crate) fn forget(&self, socket: &Arc<Socket>) {
        if let Some(at) = socket.rights().expires_at {
            self.0.lock().remove(&(at, Arc::as_ptr(socket).addr()));
        }
    }

    /// Those whose identity has ended at `now`, Unix seconds; each once.
    pub(crate) fn due(&self, now: u64) -> Vec<Arc<Socket>> {
        let mut watched = self.0.lock();
        let later = watched.split_off(&(now.saturating_add(1), 0));
        let due = std::mem::replace(&mut *watched, later);
        due.into_values().filter_map(|socket| socket.upgrade()).collect()
    }
}
