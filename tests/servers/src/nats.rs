use std::{fs, process::Command};

use anyhow::Result;
use tempfile::TempDir;

use crate::{Process, free_port, program, until_open};

/// Which nats-server.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum NatsVersion {
    /// Debian 12's, 2.9.
    Debian,
    /// A current release.
    Current,
}

impl NatsVersion {
    /// All that Fanfare is tested with.
    pub const ALL: [Self; 2] = [Self::Debian, Self::Current];

    fn program(self) -> &'static str {
        match self {
            Self::Debian => "nats-server",
            Self::Current => "nats-server-current",
        }
    }
}

/// A private nats-server with JetStream on file storage.
pub struct Nats {
    process: Option<Process>,
    version: NatsVersion,
    port: u16,
    directory: TempDir,
}

impl Nats {
    /// Starts one and waits until it listens.
    ///
    /// # Errors
    /// When it is not installed or does not come up within 30 s.
    pub fn start(version: NatsVersion) -> Result<Self> {
        Self::start_with(version, "")
    }

    /// Starts one with more lines in its configuration file.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub fn start_with(version: NatsVersion, configuration: &str) -> Result<Self> {
        let directory = TempDir::with_prefix("fanfare-nats-")?;
        let port = free_port()?;
        let store = directory.path().join("store");
        fs::write(
            directory.path().join("nats.conf"),
            format!(
                "listen: \"127.0.0.1:{port}\"\nmax_payload: 16777216\njetstream {{ store_dir: \"{}\" }}\n{configuration}\n",
                store.display()
            ),
        )?;
        let mut nats = Self {
            process: None,
            version,
            port,
            directory,
        };
        nats.start_again()?;
        Ok(nats)
    }

    /// `nats://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where it listens.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process id; `None` while it is down.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Ends it at once (SIGKILL).
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again on the same port with what it had stored.
    ///
    /// # Errors
    /// As [`Nats::start`].
    pub fn start_again(&mut self) -> Result<()> {
        self.process = None;
        let mut command = Command::new(program(self.version.program())?);
        command.arg("-c").arg(self.directory.path().join("nats.conf"));
        let mut process = Process::start("nats-server", &mut command)?;
        until_open(&mut process, self.port)?;
        self.process = Some(process);
        Ok(())
    }
}
