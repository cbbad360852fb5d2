use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use parking_lot::{Condvar, Mutex};
use rustix::process::Signal;

/// What a process has written so far, both streams together.
#[derive(Default)]
struct Log {
    state: Mutex<LogState>,
    news: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: Vec<String>,
    streams_ended: usize,
}

const STREAMS: usize = 2;

impl Log {
    fn follow(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            // Not `lines()`: a byte that is no UTF-8 must not end the reading, or the process blocks on a full pipe.
            while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                log.state.lock().lines.push(text);
                log.news.notify_all();
            }
            log.state.lock().streams_ended += 1;
            log.news.notify_all();
        });
    }
}

/// A running program whose output is kept. Dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Log>,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        let log = Arc::new(Log::default());
        log.follow(child.stdout.take().context("stdout is piped")?);
        log.follow(child.stderr.take().context("stderr is piped")?);
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has written.
    #[must_use]
    pub fn output(&self) -> String {
        self.log.state.lock().lines.join("\n")
    }

    /// Waits for a line in which `find` finds something, past lines included.
    ///
    /// # Errors
    /// When the process ends before, or `within` is over.
    pub fn line<T>(&self, what: &str, within: Duration, find: impl Fn(&str) -> Option<T>) -> Result<T> {
        let until = Instant::now() + within;
        let mut state = self.log.state.lock();
        let mut read = 0;
        loop {
            if let Some(found) = state.lines[read..].iter().find_map(|line| find(line)) {
                return Ok(found);
            }
            read = state.lines.len();
            let ended = state.streams_ended == STREAMS;
            if ended || self.log.news.wait_until(&mut state, until).timed_out() {
                let why = if ended { "ended" } else { "took too long" };
                bail!(
                    "{} {why} before {what}; it wrote:\n{}",
                    self.name,
                    state.lines.join("\n")
                );
            }
        }
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When `within` is over; it is killed then.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + within;
        let mut state = self.log.state.lock();
        while state.streams_ended < STREAMS {
            if self.log.news.wait_until(&mut state, until).timed_out() {
                let written = state.lines.join("\n");
                drop(state);
                self.child.kill()?;
                bail!(
                    "{} did not end within {within:?}; it wrote:\n{written}",
                    self.name
                );
            }
        }
        drop(state);
        Ok(self.child.wait()?)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).with_context(|| format!("{signal:?} for {}", self.name))
    }

    /// Asks it to stop (SIGTERM), waits for its end, and looks at its log.
    ///
    /// # Errors
    /// When it does not end within 30 s, does not end well, or has logged an error.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM)?;
        let status = self.wait(Duration::from_secs(30))?;
        ensure!(
            status.success(),
            "{} ended with {status}; it wrote:\n{}",
            self.name,
            self.output()
        );
        self.no_errors()
    }

    /// Whether it has logged no line of level ERROR.
    ///
    /// # Errors
    /// When it has; the lines are told.
    pub fn no_errors(&self) -> Result<()> {
        let state = self.log.state.lock();
        let errors: Vec<_> = state
            .lines
            .iter()
            .filter(|line| is_error(line))
            .map(String::as_str)
            .collect();
        ensure!(
            errors.is_empty(),
            "{} logged errors:\n{}",
            self.name,
            errors.join("\n")
        );
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Neither can fail in a way that matters here: it has ended, or it ends now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The level stands right behind the time, in text and in JSON.
fn is_error(line: &str) -> bool {
    line.split_whitespace().take(3).any(|word| word == "ERROR")
        || line.contains(r#""level":"ERROR""#)
        || line.contains("panicked at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_other_lines() {
        assert!(is_error("2026-01-01T00:00:00Z ERROR gateway: no"));
        assert!(is_error(r#"{"timestamp":"2026","level":"ERROR","fields":{}}"#));
        assert!(is_error("thread 'main' (17) panicked at src/main.rs:1:1:"));
        assert!(!is_error(
            "2026-01-01T00:00:00Z  WARN gateway: the client said ERROR"
        ));
    }

    #[test]
    fn output_is_kept_and_waited_for() -> Result<()> {
        let mut process = Process::start(
            "sh",
            Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]),
        )?;
        process.line("two", Duration::from_secs(10), |line| {
            (line == "two").then_some(())
        })?;
        assert_eq!(process.wait(Duration::from_secs(10))?.code(), Some(3));
        assert!(
            process
                .line("three", Duration::from_secs(10), |line| (line == "three")
                    .then_some(()))
                .is_err()
        );
        assert!(process.output().contains("one"));
        Ok(())
    }
}
