//! `fanfare gateway shed`: asks a running gateway through its admin port.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use config::Role;

use crate::cli::{Settings, Shed};

/// The gateway answers at once; what it was asked for takes longer.
const TIMEOUT: Duration = Duration::from_secs(5);

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to people"
)]
pub(crate) fn ask(settings: &Settings, shed: &Shed) -> ExitCode {
    let admin = match &shed.admin {
        Some(admin) => admin.clone(),
        None => match settings.load(Role::Gateway) {
            Ok(loaded) => here(loaded.config.admin.listen).to_string(),
            Err(code) => return code,
        },
    };
    match post(&admin, shed.percent) {
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
fn here(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    listen
}

fn post(admin: &str, percent: u8) -> anyhow::Result<String> {
    let address = admin.to_socket_addrs()?.next();
    let address = address.with_context(|| format!("no address: {admin}"))?;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .with_context(|| format!("no gateway answers at {admin}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "POST /shed?percent={percent} HTTP/1.1\r\nhost: {admin}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, words) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    if !head.starts_with("HTTP/1.1 202") {
        bail!("{}: {}", head.lines().next().unwrap_or_default(), words.trim());
    }
    Ok(words.trim().to_owned())
}
