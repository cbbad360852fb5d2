//! `standalone`: the order of start and stop.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use config::{Config, Loaded, LogFormat};
use lifecycle::{Readiness, Tasks, admin, phase, stop_signal};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::assembly::Assembly;

const ADMIN_BUDGET: Duration = Duration::from_secs(1);

#[expect(clippy::print_stderr, reason = "a command line speaks to people")]
pub(crate) fn main(loaded: Loaded) -> ExitCode {
    let run = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(run(loaded));
        // Whoever is late ends with the process.
        runtime.shutdown_background();
        result
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fanfare: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "says where it listens, for people and for scripts"
)]
async fn run(Loaded { config, warnings }: Loaded) -> anyhow::Result<()> {
    telemetry::logs(&config.log.filter, config.log.format == LogFormat::Json)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let registry = telemetry::registry(&config.environment)?;
    let listener = bind(config.gateway.listen, "the public address").await?;
    let admin_listener = bind(config.admin.listen, "the admin address").await?;
    let (public, private) = (listener.local_addr()?, admin_listener.local_addr()?);

    let tasks = Tasks::new();
    let stop = stop_signal(&tasks)?;
    let readiness = Readiness::new();
    let open = readiness.condition("accepting clients");
    let admin_stop = CancellationToken::new();
    let metrics = registry.clone();
    let admin = admin::serve(
        admin_listener,
        readiness,
        Arc::new(move || telemetry::render(&metrics)),
        admin_stop.clone(),
    );
    // Not among the tasks: the admin server outlives them.
    let admin_tasks = Tasks::new();
    admin_tasks.spawn("admin", async move {
        if let Err(error) = admin.await {
            tracing::error!(%error, "the admin server has ended");
        }
    });

    let assembly = Assembly::start(&config, &tasks, &registry).await?;
    assembly.open(&config, listener, stop.clone())?;
    open.met();
    println!("fanfare admin on http://{private}");
    println!("fanfare listening on http://{public}");
    say_what_holds(&config);

    stop.cancelled().await;
    open.missing("stopping");
    assembly.stop().await;
    admin_stop.cancel();
    phase(
        "close the admin server",
        ADMIN_BUDGET,
        admin_tasks.shutdown(ADMIN_BUDGET),
    )
    .await;
    Ok(())
}

fn say_what_holds(config: &Config) {
    tracing::info!("standalone: everything is kept in memory and gone when the process ends");
    if config.auth.jwt_secret.is_none() {
        tracing::info!("no JWT_SECRET: guests only, tokens are refused");
    }
}

async fn bind(address: std::net::SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{what} {address} cannot be used"))
}
