//! `fanfare gateway`: the order of start and stop.

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::Context;
use delivery::{grpc, tls::InternalTls};
use gateway::{BuildError, Cluster, Deps, Gateway, health, new_id};
use lifecycle::{admin::Command, phase};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{self, RECORD_OVERHEAD, advertised, internal_tls},
    metrics,
    process::{Process, bind, scheme},
    reload::POLICIES,
};

const CLOSE_BUDGET: Duration = Duration::from_secs(5);
const LEAVE_BUDGET: Duration = Duration::from_secs(10);
const STOP_BUDGET: Duration = Duration::from_secs(3);
/// Pause before the gateway is built again while the log does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// A drain that is late is given up.
const MARGIN: Duration = Duration::from_secs(2);

#[expect(
    clippy::print_stdout,
    reason = "says where it listens, for people and for scripts"
)]
pub(crate) async fn run(process: Process) -> anyhow::Result<()> {
    let open = process.readiness.condition("accepting clients");
    let listener = bind(process.config.gateway.listen, "the public address").await?;
    let internal = bind(process.config.gateway.grpc_listen, "the internal address").await?;
    let public = listener.local_addr()?;
    let behind = CancellationToken::new();
    let starting = Box::pin(start(&process, internal, behind.clone()));
    let Some(gateway) = process.stop.run_until_cancelled(starting).await else {
        return Ok(());
    };
    let gateway = gateway?;

    let (serves, refuse) = (Arc::clone(&gateway), CancellationToken::new());
    let others = health(&process.config.environment, public.port(), process.stop.clone());
    let accepting = refuse.clone();
    process.tasks.spawn("accept", async move {
        serves.serve(listener, others, accepting).await;
    });
    process.commands.add("shed", shed(&process, &gateway));
    let reloads = Arc::clone(&gateway);
    process.reloads.set(POLICIES, move |config| {
        reloads.reload(config).map_err(|error| error.to_string())
    });
    open.met();
    println!("fanfare listening on {}://{public}", scheme(&process.config));

    process.stop.cancelled().await;
    open.missing("draining");
    let window = process.config.gateway.drain;
    let drain = gateway.drain(window, || refuse.cancel());
    phase("drain", window + MARGIN, drain).await;
    phase("close connections", CLOSE_BUDGET, gateway.close()).await;
    phase("leave sessions", LEAVE_BUDGET, gateway.leave_sessions()).await;
    behind.cancel();
    let late = process.tasks.shutdown(STOP_BUDGET).await;
    tracing::info!(late, "stopped");
    Ok(())
}

/// `POST /shed?percent=N` at the admin port.
fn shed(process: &Process, gateway: &Arc<Gateway>) -> Command {
    let (gateway, tasks) = (Arc::clone(gateway), process.tasks.clone());
    let window = process.config.gateway.drain;
    Arc::new(move |parameters: &HashMap<String, String>| {
        let percent = parameters.get("percent").and_then(|percent| percent.parse().ok());
        let percent: u8 = percent
            .filter(|percent| (1..=100).contains(percent))
            .ok_or("percent must be a number from 1 to 100")?;
        let gateway = Arc::clone(&gateway);
        let connections = gateway.connections();
        tasks.background("shed", async move {
            gateway.shed(percent, window).await;
        });
        Ok(format!(
            "closing {percent} % of {connections} connections over {} s",
            window.as_secs()
        ))
    })
}

/// The gateway, reachable by the other roles; it accepts no clients yet.
async fn start(
    process: &Process,
    internal: TcpListener,
    stop: CancellationToken,
) -> anyhow::Result<Arc<Gateway>> {
    let config = &process.config;
    let tls = internal_tls(process)?;
    let id = new_id();
    let bus = cluster::bus(process, &format!("gateway-{id}")).await?;
    let address = advertised(config, internal.local_addr()?)?;
    tracing::info!(%id, address, "gateway");
    let limiters = cluster::limiters(process);
    let gateway = loop {
        let max_record = config.gateway.max_payload + RECORD_OVERHEAD;
        let (routes, links) = grpc::server(id.as_str(), config.bus.partitions, max_record);
        let meter = links.meter();
        let deps = Deps {
            log: bus.log.clone(),
            signals: bus.signals.clone(),
            documents: bus.documents.clone(),
            links: Box::new(links),
            cluster: Some(Cluster {
                address: address.clone(),
                tls: tls.as_ref().map(InternalTls::client_config),
            }),
            limiters: limiters.clone(),
            tasks: process.tasks.clone(),
            registry: process.registry.clone(),
            tracer: process.tracer.clone(),
        };
        match Gateway::build(config, id.clone(), deps).await {
            Ok(gateway) => {
                metrics::links(&process.registry, &meter)?;
                break (Arc::new(gateway), routes);
            }
            Err(error @ (BuildError::Metrics(_) | BuildError::Setup(_) | BuildError::Tls(_))) => {
                return Err(error).context("the gateway cannot start");
            }
            Err(error) => {
                tracing::warn!(%error, "the gateway waits");
                tokio::time::sleep(RETRY).await;
            }
        }
    };
    let (gateway, routes) = gateway;
    gateway.bury_in(Arc::clone(&bus.work));
    let serves = Arc::clone(&gateway);
    let tls = tls.as_ref().map(InternalTls::server_config);
    process.tasks.spawn("internal", async move {
        serves
            .serve_internal(internal, routes.into_axum_router(), tls, stop)
            .await;
    });
    Ok(gateway)
}
