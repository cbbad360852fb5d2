//! Load generator: measures a server it starts itself.
//!
//! `cargo run --release -p bench -- idle` and `-- room`; the server is `target/release/fanfare`.

mod idle;
mod server;

use anyhow::ensure;
use bench::room::{self, Load};
use clap::{Parser, Subcommand};

use crate::server::Server;

#[derive(Parser)]
#[command(about = "Measures a server it starts itself", version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// What an idle client in one namespace and one room costs the server in memory.
    Idle {
        /// How many clients.
        #[arg(long, default_value_t = 10_000)]
        clients: usize,
    },
    /// One room: throughput, order, loss and repetition.
    Room {
        /// How many members.
        #[arg(long, default_value_t = 200)]
        members: usize,
        /// How many of them publish.
        #[arg(long, default_value_t = 10)]
        publishers: usize,
        /// How many messages in all.
        #[arg(long, default_value_t = 10_000)]
        messages: usize,
        /// How many messages of one publisher may wait for their acknowledgement.
        #[arg(long, default_value_t = 16)]
        in_flight: usize,
        /// Characters of a message.
        #[arg(long, default_value_t = 60)]
        content: usize,
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().scenario {
        Scenario::Idle { clients } => idle::run(clients).await,
        Scenario::Room {
            members,
            publishers,
            messages,
            in_flight,
            content,
        } => {
            measure_room(Load {
                members,
                publishers,
                messages,
                in_flight,
                content,
            })
            .await
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command-line tool")]
async fn measure_room(load: Load) -> anyhow::Result<()> {
    let server = Server::start().await?;
    let mut before = 0.0;
    let report = room::run(server.addr, load, || {
        before = server.cpu_seconds()?;
        Ok(())
    })
    .await?;
    let cpu = server.cpu_seconds()? - before;
    let deliveries = (report.messages * load.members) as f64;
    println!(
        "members / publishers / messages   {} / {} / {}",
        load.members, load.publishers, report.messages
    );
    println!(
        "lost / repeated / other order     {} / {} / {}",
        report.lost, report.repeated, report.other_order
    );
    println!(
        "deliveries a second               {:.0}",
        deliveries / report.elapsed.as_secs_f64()
    );
    println!(
        "server CPU a million deliveries   {:.2} s",
        cpu * 1e6 / deliveries
    );
    println!("server memory resident            {} bytes", server.resident()?);
    ensure!(
        report.is_clean(),
        "a figure with loss, repetition or disorder does not count"
    );
    Ok(())
}
