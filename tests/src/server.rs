use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::Process;

/// The secret servers under test check tokens with.
pub const JWT_SECRET: &str = "a secret for tests that nothing else uses, 32 bytes and more";

pub(crate) const START: Duration = Duration::from_secs(30);

/// A private `fanfare standalone` on free ports. Dropping it kills it; `stop` also looks at how it ended.
pub struct Standalone {
    process: Process,
    /// `http://127.0.0.1:PORT` of clients.
    pub url: String,
    /// `http://127.0.0.1:PORT` of `/livez`, `/readyz`, `/metrics`.
    pub admin: String,
    settings: Vec<(String, String)>,
    _file: Option<tempfile::NamedTempFile>,
}

impl Standalone {
    /// Starts it, without limits on events and with a short grace, and waits until it is ready. `settings` are
    /// environment variables on top.
    ///
    /// # Errors
    /// When the binary is missing, ends, or is not ready within 30 s.
    pub fn start(settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_with(None, settings)
    }

    /// The same with a configuration file of this content.
    ///
    /// # Errors
    /// As [`Standalone::start`].
    pub fn start_with(file: Option<&str>, settings: &[(&str, &str)]) -> Result<Self> {
        let defaults = [
            ("FANFARE_GATEWAY__LISTEN", "127.0.0.1:0"),
            ("FANFARE_ADMIN__LISTEN", "127.0.0.1:0"),
            ("FANFARE_FANOUT__GRPC_LISTEN", "127.0.0.1:0"),
            ("FANFARE_FANOUT__HTTP_LISTEN", "127.0.0.1:0"),
            ("FANFARE_PRESENCE__GRPC_LISTEN", "127.0.0.1:0"),
            ("FANFARE_PRESENCE__GRACE_SECONDS", "2"),
            ("FANFARE_LIMITS__EVENTS", "0"),
            ("JWT_SECRET", JWT_SECRET),
            ("RUST_LOG", "info"),
            ("NO_COLOR", "1"),
        ];
        let given = defaults
            .iter()
            .filter(|(name, _)| settings.iter().all(|(other, _)| other != name))
            .chain(settings);
        let settings: Vec<_> = given
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();

        let mut command = Command::new(built("fanfare", "cargo build -p fanfare")?);
        command
            .arg("standalone")
            .envs(settings.iter().map(|(name, value)| (name, value)));
        let mut written = None;
        if let Some(content) = file {
            let file = tempfile::NamedTempFile::with_suffix(".toml")?;
            fs::write(file.path(), content)?;
            command.arg("--config").arg(file.path());
            written = Some(file);
        }
        let process = Process::start("fanfare standalone", &mut command)?;
        let address = |prefix: &'static str| {
            process.line(prefix, START, |line| {
                Some(line.strip_prefix(prefix)?.trim().to_owned())
            })
        };
        let url = address("fanfare listening on ")?;
        let admin = address("fanfare admin on ")?;
        until_ready(&admin)?;
        Ok(Self {
            process,
            url,
            admin,
            settings,
            _file: written,
        })
    }

    /// Where its clients reach it.
    ///
    /// # Errors
    /// When it has told something that is no address.
    pub fn address(&self) -> Result<SocketAddr> {
        let address = self.url.strip_prefix("http://").context("an http URL")?;
        Ok(address.parse()?)
    }

    /// The environment it was started with, for the client programs to know.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// All it has written.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The sum of a metric's values over the lines that have all of `labels`, comma-separated, e.g.
    /// `reason="slow consumer"`.
    ///
    /// # Errors
    /// When the metrics cannot be had.
    pub fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        metric(&self.admin, name, labels)
    }

    /// Stops it as an operator would.
    ///
    /// # Errors
    /// When it does not end well within 30 s, or has logged an error.
    pub fn stop(self) -> Result<()> {
        self.process.stop()
    }
}

/// The gateway's example `protocol_suites` on a free port.
pub struct ProtocolSuites {
    process: Process,
    /// Its URL.
    pub url: String,
}

impl ProtocolSuites {
    /// Starts it with the times the official suites ask for, and waits until it listens.
    ///
    /// # Errors
    /// When the binary is missing, ends, or does not listen within 30 s.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts it with arguments that change its times, as `("--ping-interval", "25000")`.
    ///
    /// # Errors
    /// As [`ProtocolSuites::start`].
    pub fn start_with(arguments: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(built(
            "examples/protocol_suites",
            "cargo build -p gateway --example protocol_suites",
        )?);
        command.args(["--port", "0", "--apart", "0"]);
        for (name, value) in arguments {
            command.args([name, value]);
        }
        let process = Process::start("protocol_suites", &mut command)?;
        let url = process.line("listening on ", START, |line| {
            Some(line.strip_prefix("listening on ")?.to_owned())
        })?;
        Ok(Self { process, url })
    }

    /// All it has written.
    #[must_use]
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Whether it has logged nothing bad; ends it.
    ///
    /// # Errors
    /// When it has ended by itself, panicked or logged an error.
    pub fn stop(mut self) -> Result<()> {
        ensure!(
            self.process.is_running()?,
            "protocol_suites has ended; it wrote:\n{}",
            self.process.output()
        );
        self.process.no_errors()
    }
}

/// A binary of this build: it lies beside the directory of the running test.
///
/// # Errors
/// When it is not built; `how` tells how to.
pub fn built(name: &str, how: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let place = test.parent().context("a program lies somewhere")?;
    // Tests lie in target/<profile>/deps, programs a step above.
    let profile = if place.ends_with("deps") {
        place.parent().context("deps lies in target/<profile>")?
    } else {
        place
    };
    let binary = profile.join(name);
    ensure!(
        binary.exists(),
        "{} is missing: build it first with `{how}`, or use `make test`",
        binary.display()
    );
    Ok(binary)
}

pub(crate) fn until_ready(admin: &str) -> Result<()> {
    let until = Instant::now() + START;
    let mut answer = String::new();
    while Instant::now() < until {
        if let Ok(got) = get(admin, "/readyz") {
            if got.starts_with("HTTP/1.1 200") {
                return Ok(());
            }
            answer = got;
        }
        pause();
    }
    bail!("{admin}/readyz does not say ready: {answer}")
}

/// The sum of a metric's values over the lines that have all of `labels`, comma-separated.
pub(crate) fn metric(admin: &str, name: &str, labels: &str) -> Result<f64> {
    let answer = get(admin, "/metrics")?;
    let lines = answer.lines().filter(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.split(',').all(|label| line.contains(label))
    });
    let values = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    // `sum` of nothing is -0.
    Ok(values.fold(0.0, |sum, value| sum + value))
}

/// The whole answer to a GET.
pub(crate) fn get(url: &str, path: &str) -> Result<String> {
    ask(url, "GET", path)
}

/// The whole answer to a request without a body.
pub(crate) fn ask(url: &str, method: &str, path: &str) -> Result<String> {
    let address = url.strip_prefix("http://").context("not an http URL")?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(START))?;
    stream.write_all(
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        )
        .as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the harness has no runtime that this could block"
)]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}
