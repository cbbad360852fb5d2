use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Result;
use parking_lot::{Condvar, Mutex};

/// A TCP proxy on a free port that can refuse, cut, stall and delay what goes through it.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    targets: Vec<SocketAddr>,
    next: usize,
    mode: Mode,
    delay: Duration,
    connections: Vec<TcpStream>,
    ended: bool,
}

#[derive(Copy, Clone, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Open,
    /// New connections are closed at once.
    Cut,
    /// Nothing goes through; connections stay.
    Stalled,
}

impl Proxy {
    /// In front of one or more targets, which take new connections in turn (round robin).
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(targets: impl IntoIterator<Item = SocketAddr>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared::default());
        shared.state.lock().targets = targets.into_iter().collect();
        let accepts = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepts.state.lock().ended {
                    return;
                }
                accepts.connect(client);
            }
        });
        Ok(Self { port, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Other targets, for connections from now on.
    pub fn retarget(&self, targets: impl IntoIterator<Item = SocketAddr>) {
        self.shared.state.lock().targets = targets.into_iter().collect();
    }

    /// Resets every connection and refuses new ones until [`Proxy::open`].
    pub fn cut(&self) {
        self.set(Mode::Cut);
        self.reset();
    }

    /// Resets every connection; new ones are welcome.
    pub fn reset(&self) {
        for connection in self.shared.state.lock().connections.drain(..) {
            // Gone already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Lets nothing through, without closing anything, until [`Proxy::open`]: what a lost route looks like.
    pub fn stall(&self) {
        self.set(Mode::Stalled);
    }

    /// Lets everything through again, what was stalled included.
    pub fn open(&self) {
        self.set(Mode::Open);
    }

    /// Delays what goes through, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.shared.state.lock().delay = delay;
    }

    fn set(&self, mode: Mode) {
        self.shared.state.lock().mode = mode;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, client: TcpStream) {
        let target = {
            let mut state = self.state.lock();
            if state.mode == Mode::Cut || state.targets.is_empty() {
                return;
            }
            state.next += 1;
            state.targets[state.next % state.targets.len()]
        };
        let Ok(server) = TcpStream::connect_timeout(&target, Duration::from_secs(5)) else {
            return;
        };
        let ends = [&client, &server].map(|stream| {
            // Small writes are the rule here.
            let _ = stream.set_nodelay(true);
            stream.try_clone()
        });
        let [Ok(client_again), Ok(server_again)] = ends else {
            return;
        };
        {
            let mut state = self.state.lock();
            state.connections.retain(|stream| stream.peer_addr().is_ok());
            state
                .connections
                .extend([client.try_clone(), server.try_clone()].into_iter().flatten());
        }
        for (from, to) in [(client, server_again), (server, client_again)] {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.copy(from, to));
        }
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let delay = {
                let mut state = self.state.lock();
                while state.mode == Mode::Stalled && !state.ended {
                    self.changed.wait(&mut state);
                }
                state.delay
            };
            if !delay.is_zero() {
                crate::pause(delay);
            }
            if to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        // Either may be gone already. The other direction goes on: one end may have closed its half only.
        let _ = to.shutdown(Shutdown::Write);
        let _ = from.shutdown(Shutdown::Read);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.changed.notify_all();
        self.reset();
        // Wakes the thread that accepts, so that it ends.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
