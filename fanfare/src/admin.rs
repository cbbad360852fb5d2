//! Commands that ask a running process through its admin port: `fanfare gateway shed`, `fanfare gateway drain`,
//! `fanfare probe`.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use config::Role;

use crate::cli::{Drain, Probe, Settings, Shed};

/// A process answers at once; what it was asked for takes longer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a probe asks again.
const AGAIN: Duration = Duration::from_millis(500);
/// Whose admin ports a probe looks at: an image does not know which role it runs.
const ROLES: [Role; 4] = [Role::Gateway, Role::Fanout, Role::Presence, Role::Standalone];

/// Asks a gateway to close a share of its connections.
pub(crate) fn shed(settings: &Settings, shed: &Shed) -> ExitCode {
    command(
        settings,
        shed.admin.as_deref(),
        &format!("/shed?percent={}", shed.percent),
    )
}

/// Asks a gateway to drain and end.
pub(crate) fn drain(settings: &Settings, drain: &Drain) -> ExitCode {
    command(settings, drain.admin.as_deref(), "/drain")
}

/// Asks whether a process lives or is ready, until it says so or the time has passed.
pub(crate) fn probe(settings: &Settings, probe: &Probe) -> ExitCode {
    let until = Instant::now() + *probe.within;
    loop {
        let answer = look(settings, probe);
        if answer.is_ok() || Instant::now() + AGAIN > until {
            return told(answer);
        }
        pause(AGAIN);
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command line has no runtime that this could block"
)]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn look(settings: &Settings, probe: &Probe) -> anyhow::Result<String> {
    if let Some(rest) = probe.what.strip_prefix("http://") {
        let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
        return ask(address, "GET", &format!("/{path}"));
    }
    let path = format!("/{}", probe.what);
    if let Some(admin) = &probe.admin {
        return ask(admin, "GET", &path);
    }
    let mut refused = anyhow::anyhow!("no role has a configuration that holds");
    for role in ROLES {
        let Ok(loaded) = settings.read(role) else { continue };
        let admin = here(loaded.config.admin.listen);
        match TcpStream::connect_timeout(&admin, TIMEOUT) {
            Ok(_) => return ask(&admin.to_string(), "GET", &path),
            Err(error) => refused = anyhow::Error::new(error).context(format!("nobody answers at {admin}")),
        }
    }
    Err(refused)
}

fn command(settings: &Settings, admin: Option<&str>, path: &str) -> ExitCode {
    let admin = match admin {
        Some(admin) => admin.to_owned(),
        None => match settings.load(Role::Gateway) {
            Ok(loaded) => here(loaded.config.admin.listen).to_string(),
            Err(code) => return code,
        },
    };
    told(ask(&admin, "POST", path))
}

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to people"
)]
fn told(answer: anyhow::Result<String>) -> ExitCode {
    match answer {
        Ok(words) => {
            println!("{words}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("fanfare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where a listener of this machine is reached from here.
pub(crate) fn here(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    listen
}

/// What the process says, if it says yes.
///
/// # Errors
/// When it does not answer within 5 s, or says no.
pub(crate) fn ask(admin: &str, method: &str, path: &str) -> anyhow::Result<String> {
    let address = admin.to_socket_addrs()?.next();
    let address = address.with_context(|| format!("no address: {admin}"))?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("nobody answers at {admin}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {admin}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, words) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    ensure!(head.starts_with("HTTP/1.1 "), "no HTTP answer");
    if !head.starts_with("HTTP/1.1 2") {
        bail!("{}: {}", head.lines().next().unwrap_or_default(), words.trim());
    }
    Ok(words.trim().to_owned())
}
