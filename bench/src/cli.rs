//! The command line: `fanfare bench <scenario>`.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;

use crate::{
    compare,
    deploy::{self, Deployment, Settings, Size},
    dialect::Kind,
    procs::{self, Process},
    report::{Report, median, merge},
    run, scenarios, shares,
};

/// Measures a server: one it starts itself, or those at `--url`.
#[derive(Clone, Debug, Parser)]
pub struct Bench {
    /// What to do.
    #[command(subcommand)]
    pub scenario: Scenario,
    /// What to do it to.
    #[command(flatten)]
    pub common: Common,
}

/// What every scenario takes.
#[derive(Clone, Debug, Args, Serialize)]
pub struct Common {
    /// A server, as http://HOST:PORT; may be given again: connections take turns.
    #[arg(long = "url", global = true, value_parser = address)]
    pub urls: Vec<SocketAddr>,
    /// A server process to be measured; may be given again.
    #[arg(long = "pid", global = true, value_name = "NAME=PID", value_parser = process)]
    #[serde(skip)]
    pub pids: Vec<Process>,
    /// What to start when there is no URL.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub deploy: Deploy,
    /// Gateways of a cluster.
    #[arg(long, global = true, default_value_t = 2)]
    pub gateways: usize,
    /// Workers of a cluster.
    #[arg(long, global = true, default_value_t = 1)]
    pub workers: usize,
    /// Presence services of a cluster.
    #[arg(long, global = true, default_value_t = 1)]
    pub presences: usize,
    /// The core that servers started here run on; `none` pins nothing.
    #[arg(long, global = true, default_value = "0", value_parser = core)]
    pub server_cpu: Core,
    /// The core that this generator runs on; `none` pins nothing.
    #[arg(long, global = true, default_value = "1", value_parser = core)]
    pub pin: Core,
    /// What the servers speak.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub dialect: Kind,
    /// Namespace of all events.
    #[arg(long, global = true, default_value = "/chat")]
    pub namespace: String,
    /// Path of the Engine.IO endpoint.
    #[arg(long, global = true, default_value = "/socket.io/")]
    pub path: String,
    /// Signs a token for each connection (HS256); a server started here asks for one then.
    #[arg(long, global = true)]
    #[serde(skip)]
    pub jwt_secret: Option<String>,
    /// Bytes of an event's content.
    #[arg(long, global = true, default_value_t = 128)]
    pub size: usize,
    /// Whether another order among the members of a room makes a run invalid.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub order: Order,
    /// Seconds of load before the measured part.
    #[arg(long, global = true, default_value_t = 2.0)]
    pub warm_up: f64,
    /// Seconds of the measured part.
    #[arg(long, global = true, default_value_t = 10.0)]
    pub seconds: f64,
    /// Events of the measured part, instead of seconds.
    #[arg(long, global = true)]
    pub messages: Option<u64>,
    /// Seconds to wait when everybody is connected.
    #[arg(long, global = true)]
    pub settle: Option<f64>,
    /// Connections opened at a time.
    #[arg(long, global = true, default_value_t = 128)]
    pub at_once: usize,
    /// Processes of the generator; one holds about 19,000 connections.
    #[arg(long, global = true, default_value_t = 1)]
    pub processes: u32,
    /// How often; each run has a deployment of its own.
    #[arg(long, global = true, default_value_t = 1)]
    pub repeat: usize,
    /// Writes the report there, as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// What to start.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deploy {
    /// All roles in one process.
    #[default]
    Standalone,
    /// nats-server, redis-server, and the roles as processes.
    Cluster,
}

/// What becomes of a run in which members of a room saw different orders.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// It does not count.
    #[default]
    Check,
    /// It is told.
    Report,
}

/// A core, or none.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Core(pub Option<usize>);

impl std::fmt::Display for Core {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(core) => core.fmt(out),
            None => out.write_str("none"),
        }
    }
}

/// What to do.
#[derive(Clone, Debug, Subcommand, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scenario {
    /// Many clients that do little: memory, CPU of a connect, flatness.
    Idle(scenarios::Idle),
    /// One room of many members.
    Fanout(scenarios::Fanout),
    /// Many small rooms, everybody publishes.
    Rooms(scenarios::Rooms),
    /// Acknowledged round trips.
    Echo(scenarios::Echo),
    /// Clients that come, publish and go.
    Churn(scenarios::Churn),
    /// All clients lose their connection at once and come back.
    Storm(scenarios::Storm),
    /// An idle mass, rooms, a large room and churn at once.
    Mixed(scenarios::Mixed),
    /// Fanfare beside its peers, all scenarios: the table, the ratios, RESULTS.md and its plots.
    Compare(compare::Compare),
    /// A share of a run, for the process that started this one.
    #[command(hide = true)]
    Share,
}

/// Runs a command and prints its table. `set` and `config` are settings for the servers that are started.
/// Exit code 1 when a run does not count or something failed.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]
#[must_use]
pub fn main(bench: &Bench, set: Vec<(String, String)>, config: Option<PathBuf>) -> ExitCode {
    let outcome = match &bench.scenario {
        Scenario::Share => pin(bench.common.pin)
            .and_then(|()| run::run_share())
            .map(|()| true),
        Scenario::Compare(compare) => {
            deploy::end_with_this_process().and_then(|()| compare::run(compare, &bench.common))
        }
        _ => deploy::end_with_this_process()
            .and_then(|()| measure(bench, set, config))
            .and_then(|report| {
                print!("{}", report.table());
                if let Some(file) = &bench.common.json {
                    std::fs::write(file, serde_json::to_string_pretty(&report)?)?;
                }
                Ok(report.is_valid())
            }),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a command as often as it says.
///
/// # Errors
/// When a server does not come up, clients are refused, or nothing comes any more.
pub fn measure(bench: &Bench, set: Vec<(String, String)>, config: Option<PathBuf>) -> Result<Report> {
    let common = &bench.common;
    ensure!(common.repeat > 0 && common.processes > 0, "nothing to do");
    let settings = Settings {
        set,
        config,
        jwt_secret: common.jwt_secret.clone(),
        core: common.server_cpu.0,
    };
    let mut runs = Vec::new();
    for number in 0..common.repeat {
        let deployment = match common.deploy {
            _ if !common.urls.is_empty() => None,
            Deploy::Standalone => Some(Deployment::standalone(settings.clone())?),
            Deploy::Cluster => Some(Deployment::cluster(
                Size {
                    gateways: common.gateways,
                    workers: common.workers,
                    presences: common.presences,
                },
                settings.clone(),
            )?),
        };
        let (targets, processes) = match &deployment {
            Some(deployment) => (deployment.targets.clone(), deployment.processes()),
            None => (common.urls.clone(), common.pids.clone()),
        };
        let mut spec = scenarios::spec(bench)?;
        spec.targets = targets;
        spec.prefix = format!("b{:x}-{number}", std::process::id());
        let (raws, samples) = if common.processes == 1 {
            pin(common.pin)?;
            let (raw, samples) = run::run_alone(&spec, &processes)?;
            (vec![raw], samples)
        } else {
            shares::run_shares(&spec, &processes, common.processes, common.pin)?
        };
        runs.push(merge(&raws, &samples, common.order == Order::Check));
    }
    Ok(Report {
        scenario: bench.scenario.name().to_owned(),
        target: target(common),
        parameters: serde_json::json!({
            "scenario": &bench.scenario,
            "common": common,
        }),
        median: median(&runs),
        runs,
    })
}

impl Scenario {
    /// As on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Idle(_) => "idle",
            Self::Fanout(_) => "fanout",
            Self::Rooms(_) => "rooms",
            Self::Echo(_) => "echo",
            Self::Churn(_) => "churn",
            Self::Storm(_) => "storm",
            Self::Mixed(_) => "mixed",
            Self::Compare(_) => "compare",
            Self::Share => "share",
        }
    }
}

fn target(common: &Common) -> String {
    if !common.urls.is_empty() {
        let urls: Vec<_> = common.urls.iter().map(ToString::to_string).collect();
        return urls.join(", ");
    }
    match common.deploy {
        Deploy::Standalone => "fanfare standalone".to_owned(),
        Deploy::Cluster => format!(
            "fanfare cluster: gateways {}, workers {}, presences {}",
            common.gateways, common.workers, common.presences
        ),
    }
}

fn pin(core: Core) -> Result<()> {
    match core.0 {
        Some(core) => procs::pin(None, core),
        None => Ok(()),
    }
}

fn address(url: &str) -> Result<SocketAddr> {
    let host = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = host.trim_end_matches('/');
    host.to_socket_addrs()?
        .next()
        .with_context(|| format!("{host} has no address"))
}

fn process(text: &str) -> Result<Process> {
    let (name, pid) = text.split_once('=').context("must be NAME=PID")?;
    Ok(Process {
        name: name.to_owned(),
        pid: pid.parse()?,
    })
}

fn core(text: &str) -> Result<Core, std::num::ParseIntError> {
    Ok(Core(match text {
        "none" => None,
        number => Some(number.parse()?),
    }))
}
