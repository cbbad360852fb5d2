//! Load generator: measures a server it starts itself.
//!
//! `cargo run --release -p bench -- idle` and `-- room`; the server is `target/release/fanfare`.

mod client;
mod idle;
mod room;
mod server;

use clap::{Parser, Subcommand};

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
    },
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Cli::parse().scenario {
        Scenario::Idle { clients } => idle::run(clients).await,
        Scenario::Room { members, publishers, messages, in_flight } => {
            room::run(members, publishers, messages, in_flight).await
        }
    }
}
