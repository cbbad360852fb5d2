//! Private servers for tests. Each is a process of its own on a free port of the loopback, keeps its data in a
//! directory of its own, and ends when it is dropped.

mod nats;
mod process;
mod proxy;
mod redis;

use std::{
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

pub use nats::{Nats, NatsVersion};
pub use process::Process;
pub use proxy::Proxy;
pub use redis::{Redis, RedisCluster, RedisSentinel};
pub use rustix::process::Signal;

const START: Duration = Duration::from_secs(30);

/// A port of the loopback that is free now.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits until something accepts connections on the port.
fn until_open(process: &mut Process, port: u16) -> Result<()> {
    let until = Instant::now() + START;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if !process.is_running()? || Instant::now() > until {
            bail!("nothing listens on port {port}; it wrote:\n{}", process.output());
        }
        pause(Duration::from_millis(10));
    }
    Ok(())
}

/// A program from the tools of this checkout, else from `PATH`.
///
/// # Errors
/// When it is not installed.
pub fn program(name: &str) -> Result<PathBuf> {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(tools)
        .chain(std::env::split_paths(&path))
        .chain([PathBuf::from("/usr/sbin")])
        .map(|directory| directory.join(name))
        .find(|file| file.exists())
        .with_context(|| format!("{name} is not installed: run tests/deps.sh"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the harness has no runtime that this could block"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
