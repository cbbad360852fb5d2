//! The standard health service: serving while the store answers.

use std::{sync::Arc, time::Duration};

use proto::v1::presence_server::SERVICE_NAME;
use registry::presence_store::PresenceStore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::ticks;

/// How old the word may be.
const PERIOD: Duration = Duration::from_secs(1);
/// A store that does not answer within this time does not answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// Says how it is, of the server and of the service.
pub(super) async fn report(reporter: &HealthReporter, serving: bool) {
    let status = if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    };
    reporter.set_service_status("", status).await;
    reporter.set_service_status(SERVICE_NAME, status).await;
}

/// Asks the store again and again, until `stop`.
pub(super) async fn follow(reporter: HealthReporter, store: Arc<dyn PresenceStore>, stop: CancellationToken) {
    let mut period = ticks(PERIOD);
    let mut serving = false;
    loop {
        let asked = stop.run_until_cancelled(timeout(PATIENCE, store.stats())).await;
        let Some(answer) = asked else { break };
        let answers = matches!(answer, Ok(Ok(_)));
        if answers != serving {
            serving = answers;
            report(&reporter, serving).await;
            if serving {
                tracing::info!("the presence API is serving");
            } else {
                tracing::warn!("the presence API is not serving: the store does not answer");
            }
        }
        if stop.run_until_cancelled(period.tick()).await.is_none() {
            break;
        }
    }
    report(&reporter, false).await;
}
