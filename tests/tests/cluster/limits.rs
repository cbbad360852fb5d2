//! A user has one budget, at however many gateways.

use std::{
    net::SocketAddr,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bench::client::{Reader, Writer, open};
use serde_json::{Value, json};
use tests::{Cluster, JWT_SECRET, Role, Size, built, until};

use crate::runtime;

const EVENTS: u32 = 100;
const WITHIN: Duration = Duration::from_secs(30);
/// Nothing comes back while a test runs.
const LONG: &str = "86400";

/// A signed-in user in `/chat`.
struct User {
    reader: Reader,
    writer: Writer,
    next: u64,
    warnings: usize,
}

impl User {
    async fn connect(address: SocketAddr, token: &str) -> Result<Self> {
        let (mut reader, mut writer) = open(address).await?;
        writer
            .text(&format!("40/chat,{}", json!({ "token": token })))
            .await?;
        let connected = reader.text().await?;
        ensure!(connected.starts_with("40/chat"), "{connected}");
        Ok(Self {
            reader,
            writer,
            next: 0,
            warnings: 0,
        })
    }

    /// Sends events that are answered at once, without waiting between them. The answers, which must come in the order
    /// of the events.
    async fn ping(&mut self, count: usize) -> Result<Vec<Value>> {
        let first = self.next;
        for _ in 0..count {
            self.writer
                .text(&format!("42/chat,{}[\"ping\"]", self.next))
                .await?;
            self.next += 1;
        }
        let mut answers = Vec::new();
        while answers.len() < count {
            let text = tokio::time::timeout(WITHIN, self.reader.text()).await??;
            self.warnings += usize::from(text.starts_with("42/chat,[\"rate-limit-warning\""));
            let Some(answer) = text.strip_prefix("43/chat,") else {
                continue;
            };
            let (number, json) = answer.split_once('[').context("an ack")?;
            let due = first + answers.len() as u64;
            ensure!(number == due.to_string(), "{number} was answered before {due}");
            let answer: Value = serde_json::from_str(json.trim_end_matches(']'))?;
            answers.push(answer);
        }
        Ok(answers)
    }

    /// How many of so many events pass; the others must be refused by the limit.
    async fn passes(&mut self, count: usize) -> Result<u32> {
        let mut passed = 0;
        for answer in self.ping(count).await? {
            match answer["status"].as_str() {
                Some("ok") => passed += 1,
                _ => ensure!(
                    answer["code"] == "RATE_LIMITED" && answer["retryAfter"].as_u64() >= Some(1),
                    "{answer}"
                ),
            }
        }
        Ok(passed)
    }
}

/// A token of the tests' secret.
pub(crate) fn token(sub: &str) -> Result<String> {
    let output = Command::new(built("fanfare", "cargo build -p fanfare")?)
        .args(["token", "--sub", sub])
        .env("JWT_SECRET", JWT_SECRET)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn size() -> Size {
    Size {
        gateways: 2,
        workers: 1,
        ..Size::default()
    }
}

/// 100 events a day, which come back much too slowly to matter.
const LIMITED: [(&str, &str); 3] = [
    ("FANFARE_LIMITS__EVENTS", "100"),
    ("FANFARE_LIMITS__WINDOW_SECONDS", LONG),
    ("FANFARE_LIMITS__CUT_AFTER", "0"),
];

/// Each gateway asks Redis, so that what it leases counts for all.
fn until_shared(cluster: &Cluster) -> Result<()> {
    until("limits hold for all gateways", WITHIN, || {
        let alone = cluster.metric("fanfare_rate_limits_alone", "")?;
        Ok(alone == 0.0)
    })
}

#[test]
fn a_user_at_two_gateways_has_one_budget() -> Result<()> {
    Cluster::run(size(), &LIMITED, |cluster| {
        let gateways = cluster.addresses()?;
        until_shared(cluster)?;
        let runtime = runtime()?;
        // One event here, one there; and all at once, at both.
        for (name, burst) in [("ada", 1), ("bob", 10), ("eve", 150)] {
            let token = token(name)?;
            let passed = runtime.block_on(async {
                let mut one = User::connect(gateways[0], &token).await?;
                let mut two = User::connect(gateways[1], &token).await?;
                let mut passed = 0;
                for _ in 0..150 / burst {
                    let (a, b) = tokio::try_join!(one.passes(burst), two.passes(burst))?;
                    passed += a + b;
                }
                ensure!(
                    one.warnings + two.warnings >= 1 && one.warnings <= 1 && two.warnings <= 1,
                    "{} and {} warnings",
                    one.warnings,
                    two.warnings
                );
                anyhow::Ok(passed)
            })?;
            ensure!(
                (EVENTS * 9 / 10..=EVENTS).contains(&passed),
                "{passed} events of {name} passed, in bursts of {burst}"
            );
        }
        let refused = cluster.metric("fanfare_rate_limits_total", "limit=\"user\",outcome=\"refused\"")?;
        ensure!(refused >= 600.0, "{refused} were refused");
        Ok(())
    })
}

/// Without Redis each gateway goes on by itself; nobody waits for it, and it is found again.
#[test]
fn limits_hold_without_redis_too() -> Result<()> {
    // The other roles log that Redis is away, so how they end is not looked at.
    let mut cluster = Cluster::start(size(), &LIMITED)?;
    goes_on_without_redis(&mut cluster).map_err(|error| error.context(cluster.logs()))
}

fn goes_on_without_redis(cluster: &mut Cluster) -> Result<()> {
    let gateways = cluster.addresses()?;
    until_shared(cluster)?;
    let runtime = runtime()?;
    cluster.redis.kill();
    let token_of = token("ada")?;
    runtime.block_on(async {
        for gateway in &gateways {
            let mut user = User::connect(*gateway, &token_of).await?;
            // The first may find out that Redis is away.
            user.ping(1).await?;
            let begun = Instant::now();
            let passed = user.passes(150).await?;
            ensure!(passed == EVENTS - 1, "{passed}");
            ensure!(begun.elapsed() < WITHIN, "events wait for Redis");
        }
        anyhow::Ok(())
    })?;
    until("it is told", WITHIN, || {
        Ok(cluster.metric("fanfare_rate_limits_alone", "")? == 2.0)
    })?;
    cluster.redis.start_again()?;
    let bob = token("bob")?;
    until("limits hold for all gateways again", WITHIN, || {
        runtime.block_on(async {
            for gateway in &gateways {
                User::connect(*gateway, &bob).await?.ping(1).await?;
            }
            anyhow::Ok(())
        })?;
        Ok(cluster.metric("fanfare_rate_limits_alone", "")? == 0.0)
    })?;
    for gateway in &cluster.gateways {
        ensure!(gateway.is_ready(), "a gateway does without Redis");
    }
    Ok(())
}

/// A gateway starts and serves where Redis cannot be reached.
#[test]
fn a_gateway_starts_without_redis() -> Result<()> {
    let mut cluster = Cluster::servers(servers_version(), &LIMITED)?;
    cluster.redis.kill();
    cluster.add(Role::Gateway)?;
    cluster.until_ready()?;
    let gateways = cluster.addresses()?;
    let token = token("ada")?;
    let answers = runtime()?.block_on(async {
        let mut user = User::connect(gateways[0], &token).await?;
        user.ping(2).await
    });
    // Without workers nobody is connected; being answered is enough.
    ensure!(answers?.len() == 2);
    cluster.stop()
}

fn servers_version() -> tests::servers::NatsVersion {
    Size::default().nats
}
