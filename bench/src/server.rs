//! The server under test: a private process, measured through the kernel.

use std::{net::SocketAddr, process::Stdio};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pid: u32,
    /// Killed when dropped.
    _child: Child,
}

impl Server {
    /// Starts `fanfare standalone`, the binary beside this one.
    pub(crate) async fn start() -> Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("fanfare");
        let mut child = Command::new(&binary)
            .env("FANFARE_GATEWAY__LISTEN", "127.0.0.1:0")
            .env("FANFARE_ADMIN__LISTEN", "127.0.0.1:0")
            .env("FANFARE_PRESENCE__GRPC_LISTEN", "127.0.0.1:0")
            .env("FANFARE_LIMITS__EVENTS", "0")
            .env("RUST_LOG", "warn")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "{} does not start; build it: cargo build --release",
                    binary.display()
                )
            })?;
        let pid = child.id().context("the server has ended")?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        while let Some(line) = lines.next_line().await? {
            if let Some(addr) = line.strip_prefix("fanfare listening on http://") {
                return Ok(Self {
                    addr: addr.parse()?,
                    pid,
                    _child: child,
                });
            }
        }
        anyhow::bail!("the server ended before it listened")
    }

    /// Bytes of memory the kernel counts as resident.
    pub(crate) fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .context("no VmRSS")?;
        Ok(kib.parse::<u64>()? * 1024)
    }

    /// Seconds of CPU the server has used, user and system.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name may have spaces; what follows its bracket does not.
        let rest = stat.rsplit_once(')').context("no name in stat")?.1;
        let mut fields = rest.split_ascii_whitespace().skip(11);
        let mut ticks = || anyhow::Ok(fields.next().context("stat is short")?.parse::<f64>()?);
        // USER_HZ is 100 on every Linux that Rust supports.
        Ok((ticks()? + ticks()?) / 100.0)
    }
}
