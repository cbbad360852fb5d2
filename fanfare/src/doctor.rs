//! `fanfare doctor`: whether a deployment is what Fanfare needs, looked at from this machine.

mod files;

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bus::nats::{self, NatsHealth};
use config::{Config, Errors, Role};
use registry::redis;
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::{
    cli::{Doctor, Settings},
    cluster::{RECORD_OVERHEAD, nats_settings, redis_settings},
};

/// Older servers lack what the log is made of.
const NATS: (u32, u32) = (2, 9);
const REDIS: (u32, u32) = (6, 2);
/// Times in events, and what is too late to be recovered, are compared between machines.
const SKEW: Duration = Duration::from_millis(500);
/// A gateway without a limit of connections should have room for so many.
const DESCRIPTORS: u64 = 65_536;
/// What a process needs besides its clients.
const SPARE: u64 = 1024;
/// A certificate that ends sooner is told.
const RENEW: Duration = Duration::from_secs(14 * 24 * 3600);

/// How bad something is.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: String,
    level: Level,
    text: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &str, level: Level, text: impl Into<String>) {
        self.0.push(Finding {
            check: check.to_owned(),
            level,
            text: text.into(),
        });
    }

    /// `fine` when it holds, else `wrong` at that level.
    fn check(&mut self, check: &str, holds: bool, level: Level, fine: String, wrong: String) {
        if holds {
            self.add(check, Level::Ok, fine);
        } else {
            self.add(check, level, wrong);
        }
    }

    fn are_errors(&self) -> bool {
        self.0.iter().any(|finding| finding.level == Level::Error)
    }
}

/// Looks, tells what it found, and ends with 1 when something is wrong.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line speaks to people"
)]
pub(crate) fn run(settings: &Settings, options: &Doctor) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("fanfare: {error}");
            return ExitCode::FAILURE;
        }
    };
    let role = options.role.into();
    let findings = runtime.block_on(examine(settings.read(role), role, *options.idle_timeout));
    if options.json {
        let json = serde_json::json!({ "ok": !findings.are_errors(), "findings": findings.0 });
        println!("{json:#}");
    } else {
        for Finding { check, level, text } in &findings.0 {
            let level = match level {
                Level::Ok => "ok     ",
                Level::Warning => "WARNING",
                Level::Error => "ERROR  ",
            };
            println!("{level}  {check}: {text}");
        }
    }
    ExitCode::from(u8::from(findings.are_errors()))
}

async fn examine(loaded: Result<config::Loaded, Errors>, role: Role, idle_timeout: Duration) -> Findings {
    let mut findings = Findings::default();
    let config = match loaded {
        Ok(loaded) => {
            for warning in loaded.warnings {
                findings.add("configuration", Level::Warning, warning);
            }
            findings.add("configuration", Level::Ok, format!("holds for {}", role.as_str()));
            loaded.config
        }
        Err(errors) => {
            for problem in errors.0 {
                findings.add(
                    "configuration",
                    Level::Error,
                    format!("{}: {}", problem.key, problem.problem),
                );
            }
            return findings;
        }
    };
    if role != Role::Standalone {
        look_at_nats(&config, &mut findings).await;
        look_at_redis(&config, role, &mut findings).await;
    }
    if matches!(role, Role::Standalone | Role::Gateway) {
        look_at_balancer(&config, idle_timeout, &mut findings);
    }
    look_at_descriptors(&config, role, &mut findings);
    files::look_at_certificates(&config, &mut findings);
    findings
}

async fn look_at_nats(config: &Config, findings: &mut Findings) {
    let client = match nats::connect(&nats_settings(config, "doctor"), &NatsHealth::new()).await {
        Ok(client) => client,
        Err(error) => return findings.add("NATS", Level::Error, error.to_string()),
    };
    let report = nats::examine(&client).await;
    version("NATS", &report.version, NATS, findings);
    findings.check(
        "NATS JetStream",
        report.jetstream,
        Level::Error,
        "answers".to_owned(),
        "does not answer: start nats-server with -js, or enable it for the account".to_owned(),
    );
    let needed = (config.gateway.max_payload + RECORD_OVERHEAD) * 3 / 2;
    findings.check(
        "NATS max_payload",
        report.max_payload >= needed,
        Level::Error,
        format!("{} bytes", report.max_payload),
        format!(
            "{} bytes, {needed} are needed: raise max_payload of nats-server, or lower gateway.max_payload_bytes",
            report.max_payload
        ),
    );
    match report.clock {
        Some((time, took)) => match humantime::parse_rfc3339(&time) {
            Ok(time) => {
                let time = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                clock("NATS clock", time, took, findings);
            }
            Err(_) => findings.add("NATS clock", Level::Warning, format!("{time:?} is no time")),
        },
        None => findings.add(
            "NATS clock",
            Level::Ok,
            "not known: an older server, and no role has made the log yet",
        ),
    }
}

async fn look_at_redis(config: &Config, role: Role, findings: &mut Findings) {
    if config.redis.url.is_none() {
        let text = "no redis.url: rate limits hold for each gateway by itself";
        return findings.add("Redis", Level::Warning, text);
    }
    // A gateway goes on without.
    let level = if role == Role::Gateway {
        Level::Warning
    } else {
        Level::Error
    };
    let redis = match redis::connect(&redis_settings(&config.redis)).await {
        Ok(redis) => redis,
        Err(error) => return findings.add("Redis", level, error.to_string()),
    };
    let report = match redis.examine().await {
        Ok(report) => report,
        Err(error) => return findings.add("Redis", level, error.to_string()),
    };
    version("Redis", &report.version, REDIS, findings);
    match report.eviction.as_str() {
        "" => findings.add(
            "Redis maxmemory-policy",
            Level::Warning,
            "it does not tell; it must be noeviction",
        ),
        policy => findings.check(
            "Redis maxmemory-policy",
            policy == "noeviction",
            Level::Error,
            policy.to_owned(),
            format!("is {policy}, must be noeviction: presence and leases would vanish one by one"),
        ),
    }
    clock("Redis clock", report.clock.0, report.clock.1, findings);
}

fn version(server: &str, version: &str, least: (u32, u32), findings: &mut Findings) {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    let found = numbers.next().flatten().zip(numbers.next().flatten());
    let (major, minor) = least;
    match found {
        Some(found) => findings.check(
            server,
            found >= least,
            Level::Error,
            format!("version {version}"),
            format!("version {version} is too old: {major}.{minor} or later"),
        ),
        None => findings.add(
            server,
            Level::Warning,
            format!("reached; its version is not known ({version:?})"),
        ),
    }
}

/// Compares the server's time, asked for within `took`, with ours.
fn clock(check: &str, theirs: Duration, took: Duration, findings: &mut Findings) {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let skew = ours.abs_diff(theirs).saturating_sub(took);
    let shown = humantime::format_duration(Duration::from_millis(
        u64::try_from(skew.as_millis()).unwrap_or(u64::MAX),
    ));
    findings.check(
        check,
        skew < SKEW,
        Level::Error,
        format!("differs by less than {shown} and the {took:.0?} of the question"),
        format!("differs by {shown}: synchronize the clocks"),
    );
}

fn look_at_balancer(config: &Config, idle_timeout: Duration, findings: &mut Findings) {
    let interval = config.gateway.ping_interval;
    findings.check(
        "idle timeout of the balancer",
        idle_timeout > interval,
        Level::Error,
        format!("{idle_timeout:?}, longer than the ping interval of {interval:?}"),
        format!(
            "{idle_timeout:?} is not longer than the ping interval of {interval:?}: it cuts clients that are silent; raise it, or lower gateway.ping_interval_ms"
        ),
    );
}

fn look_at_descriptors(config: &Config, role: Role, findings: &mut Findings) {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let clients = config.gateway.max_connections as u64;
    let has_clients = matches!(role, Role::Standalone | Role::Gateway);
    let needed = match clients {
        0 if has_clients => DESCRIPTORS,
        clients if has_clients => clients.saturating_add(SPARE),
        _ => SPARE,
    };
    // Without a limit of connections it is a recommendation.
    let level = if has_clients && clients == 0 {
        Level::Warning
    } else {
        Level::Error
    };
    findings.check(
        "file descriptors",
        limit >= needed,
        level,
        format!("{limit} may be open"),
        format!("{limit} may be open, {needed} should be: ulimit -n, LimitNOFILE of systemd"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(findings: &Findings) -> Vec<Level> {
        findings.0.iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        let mut findings = Findings::default();
        for text in ["2.10.7", "2.9.0-beta", "2.8.4", "10.0.0", "", "unknown"] {
            version("NATS", text, (2, 9), &mut findings);
        }
        let (ok, warning) = (Level::Ok, Level::Warning);
        assert_eq!(levels(&findings), [ok, ok, Level::Error, ok, warning, warning]);
    }

    #[test]
    fn the_time_of_the_question_is_no_skew() {
        let mut findings = Findings::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let second = Duration::from_secs(1);
        clock("clock", now - second, second, &mut findings);
        clock("clock", now + 2 * second, Duration::ZERO, &mut findings);
        clock("clock", now - 2 * second, second, &mut findings);
        assert_eq!(levels(&findings), [Level::Ok, Level::Error, Level::Error]);
        assert!(findings.are_errors());
    }
}
