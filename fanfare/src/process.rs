//! What every role's process has: logs, metrics, the admin server, an orderly end.

use std::{
    collections::HashMap, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration,
};

use anyhow::Context;
use config::{Config, Loaded, LogFormat, Role};
use lifecycle::{
    Readiness, Tasks,
    admin::{self, Commands},
    phase, stop_signal,
    tls::ServerTls,
};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics,
    reload::{self, Load, Reloads},
};

const ADMIN_BUDGET: Duration = Duration::from_secs(1);
/// What is offered by ALPN.
const HTTP: &[&[u8]] = &[b"h2", b"http/1.1"];

/// A role's surroundings.
pub(crate) struct Process {
    pub(crate) config: Config,
    pub(crate) tasks: Tasks,
    pub(crate) readiness: Readiness,
    pub(crate) registry: Registry,
    /// Cancelled by the first signal that asks the process to stop.
    pub(crate) stop: CancellationToken,
    /// What may be asked for at the admin port.
    pub(crate) commands: Commands,
    pub(crate) reloads: Reloads,
}

/// Runs a role until it has ended by itself or was asked to; `work` ends soon after [`Process::stop`].
#[expect(clippy::print_stderr, reason = "a command line speaks to people")]
pub(crate) fn main(
    role: Role,
    loaded: Loaded,
    load: Load,
    work: impl AsyncFnOnce(Process) -> anyhow::Result<()>,
) -> ExitCode {
    let run = || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(run(role, loaded, load, work));
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
async fn run(
    role: Role,
    Loaded { config, warnings }: Loaded,
    load: Load,
    work: impl AsyncFnOnce(Process) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    telemetry::logs(&config.log.filter, config.log.format == LogFormat::Json)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let registry = telemetry::registry(&config.environment)?;
    metrics::process(&registry, role)?;
    let listener = bind(config.admin.listen, "the admin address").await?;
    let address = listener.local_addr()?;
    let tasks = Tasks::new();
    let stop = stop_signal(&tasks)?;
    let reloads = Reloads::default();
    reload::on_hangup(&tasks, load, reloads.clone())?;
    let readiness = Readiness::new();

    // Not among the tasks: the admin server outlives them.
    let admin_tasks = Tasks::new();
    let admin_stop = CancellationToken::new();
    let scraped = registry.clone();
    let commands = Commands::new();
    let stops = stop.clone();
    let drain = move |_: &HashMap<String, String>| {
        if !stops.is_cancelled() {
            tracing::info!("asked to drain");
            stops.cancel();
        }
        Ok("draining, as after SIGTERM".to_owned())
    };
    commands.add("drain", Arc::new(drain));
    let tls = listener_tls(&config.admin.tls_cert, &config.admin.tls_key, &tasks)?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let router = admin::router(
        readiness.clone(),
        Arc::new(move || telemetry::render(&scraped)),
        commands.clone(),
    );
    let (connections, until) = (admin_tasks.clone(), admin_stop.clone());
    admin_tasks.spawn("admin", async move {
        lifecycle::serve(listener, router, tls, &connections, until).await;
    });
    println!("fanfare admin on {scheme}://{address}");

    let process = Process {
        config,
        tasks,
        readiness,
        registry,
        stop,
        commands,
        reloads,
    };
    let result = work(process).await;
    admin_stop.cancel();
    phase(
        "close the admin server",
        ADMIN_BUDGET,
        admin_tasks.shutdown(ADMIN_BUDGET),
    )
    .await;
    result
}

/// Of the public address.
pub(crate) fn scheme(config: &Config) -> &'static str {
    if config.gateway.tls_cert.is_some() {
        "https"
    } else {
        "http"
    }
}

/// TLS of a listener, as configured: the certificate is read again when it was renewed, as long as the process runs.
///
/// # Errors
/// When a file cannot be used.
pub(crate) fn listener_tls(
    cert: &Option<PathBuf>,
    key: &Option<PathBuf>,
    tasks: &Tasks,
) -> anyhow::Result<Option<ServerTls>> {
    let (Some(cert), Some(key)) = (cert, key) else {
        return Ok(None);
    };
    let tls = ServerTls::load(cert, key, HTTP)?;
    tls.identity().keep_renewed(tasks);
    Ok(Some(tls))
}

/// Listens on an address of the configuration, which `what` names.
///
/// # Errors
/// When the address cannot be used; says which.
pub(crate) async fn bind(address: SocketAddr, what: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("{what} {address} cannot be used"))
}
