//! What every role's process has: logs, metrics, the admin server, an orderly end.

use std::{
    collections::HashMap, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration,
};

use anyhow::Context;
use config::{Config, Loaded, LogFormat, Role, TraceProtocol};
use lifecycle::{
    Readiness, Tasks,
    admin::{self, Commands},
    phase, stop_signal,
    tls::ServerTls,
};
use prometheus::Registry;
use telemetry::{
    Files, LogSettings,
    trace::{self, Exporter, Sampler, Tracer},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    metrics,
    reload::{self, Load, Reloads},
};

const ADMIN_BUDGET: Duration = Duration::from_secs(1);
/// A collector that does not answer must not hold the process up.
const TRACES_BUDGET: Duration = Duration::from_secs(2);
const MARGIN: Duration = Duration::from_millis(500);
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
    /// Makes the spans of traces that are recorded.
    pub(crate) tracer: Tracer,
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
    let repeats = telemetry::logs(&log_settings(role, &config))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let registry = telemetry::registry(&config.environment)?;
    metrics::process(&registry, role)?;
    let (tracer, exporter) = traces(role, &config, &registry)?;
    let listener = bind(config.admin.listen, "the admin address").await?;
    let address = listener.local_addr()?;
    let tasks = Tasks::new();
    tasks.background("repeated logs", repeats.tell());
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
        tracer,
    };
    let result = work(process).await;
    if let Some(exporter) = exporter {
        let sent = tokio::task::spawn_blocking(move || exporter.shutdown(TRACES_BUDGET));
        phase("send the last spans", TRACES_BUDGET + MARGIN, sent).await;
    }
    admin_stop.cancel();
    phase(
        "close the admin server",
        ADMIN_BUDGET,
        admin_tasks.shutdown(ADMIN_BUDGET),
    )
    .await;
    result
}

fn log_settings(role: Role, config: &Config) -> LogSettings {
    let log = &config.log;
    LogSettings {
        filter: log.filter.clone(),
        json: log.format == LogFormat::Json,
        files: log.directory.clone().map(|directory| Files {
            directory,
            name: format!("fanfare-{}", role.as_str()),
            keep_days: log.keep_days,
            max_bytes: u64::from(log.max_mb) << 20,
        }),
    }
}

/// Makes spans, and sends them, where there is a collector.
fn traces(role: Role, config: &Config, registry: &Registry) -> anyhow::Result<(Tracer, Option<Exporter>)> {
    let settings = &config.trace;
    let Some(endpoint) = settings.endpoint.clone() else {
        return Ok((Tracer::off(), None));
    };
    let service = settings.service_name.clone();
    let attributes = [
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", Uuid::new_v4().to_string()),
        ("deployment.environment.name", config.environment.clone()),
    ];
    let attributes = attributes.map(|(key, value)| (key.to_owned(), value));
    let settings = trace::Settings {
        endpoint,
        protocol: match settings.protocol {
            TraceProtocol::Grpc => trace::Protocol::Grpc,
            TraceProtocol::Http => trace::Protocol::Http,
        },
        service: service.unwrap_or_else(|| format!("fanfare-{}", role.as_str())),
        attributes: attributes
            .into_iter()
            .chain(settings.resource_attributes.iter().cloned())
            .collect(),
        sampler: Sampler::new(&settings.sampler, settings.sampler_arg)?,
        large: settings.large_room as usize,
        from_clients: settings.from_clients,
    };
    let (tracer, exporter) = trace::start(settings, registry)?;
    Ok((tracer, Some(exporter)))
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
