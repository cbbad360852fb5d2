//! What stands between a request and what is done: who asks, whether they may, what is counted, traced and recorded.

use apikeys::{Caller, Denied, Keys};
use config::Scope;
use model::{ClientError, ErrorCode, TraceContext};
use telemetry::trace::{Receiving, Tracer, number};
use tokio::time::Instant;
use tracing::Instrument;

use super::{
    metrics::Metrics,
    operations::{Operations, Request, Response},
};

pub(super) struct Front {
    operations: Operations,
    keys: Keys,
    metrics: Metrics,
    tracer: Tracer,
}

impl Front {
    pub(super) fn new(operations: Operations, keys: Keys, metrics: Metrics, tracer: Tracer) -> Self {
        Self {
            operations,
            keys,
            metrics,
            tracer,
        }
    }

    /// Who shows this header `Authorization`.
    pub(super) fn identify(&self, authorization: Option<&str>) -> Result<Caller, ClientError> {
        self.keys.identify(authorization).map_err(|denied| {
            self.metrics.unauthenticated.inc();
            refusal(&denied)
        })
    }

    /// Does what is asked, if the caller may. `parent` tells the caller's trace, if there is one.
    pub(super) async fn call(
        &self,
        transport: &'static str,
        caller: &Caller,
        parent: impl FnOnce() -> Option<TraceContext>,
        request: Request,
    ) -> Result<Response, ClientError> {
        let begun = Instant::now();
        let (operation, targets) = (request.operation(), request.targets());
        let namespace = request.namespace().to_owned();
        let result = match caller.allow(request.scope()) {
            Ok(()) => match self.receive(transport, parent, &request) {
                None => self.operations.run(request, None).await,
                Some(trace) => {
                    let span = tracing::info_span!("event", trace_id = %trace.trace_id());
                    self.operations.run(request, Some(&trace)).instrument(span).await
                }
            },
            Err(denied) => Err(refusal(&denied)),
        };
        let outcome = result.as_ref().err().map_or("OK", |error| error.code.as_str());
        caller.audit(operation, &namespace, targets, outcome);
        self.metrics.call(transport, operation, outcome, begun.elapsed());
        result
    }

    /// The trace of what is sent to clients, if it is recorded.
    fn receive(
        &self,
        transport: &'static str,
        parent: impl FnOnce() -> Option<TraceContext>,
        request: &Request,
    ) -> Option<Receiving> {
        if request.scope() != Scope::Publish {
            return None;
        }
        let name = || format!("publisher receive {}", request.operation());
        let trace = self.tracer.receive_from_server(parent, name)?;
        let targets = number(request.targets());
        Some(
            trace
                .with("messaging.system", "fanfare")
                .with("messaging.operation.name", "receive")
                .with("messaging.operation.type", "receive")
                .with("messaging.destination.name", request.namespace().to_owned())
                .with("fanfare.transport", transport)
                .with("fanfare.targets", targets),
        )
    }
}

fn refusal(denied: &Denied) -> ClientError {
    let code = match denied {
        Denied::Unknown => ErrorCode::Unauthorized,
        Denied::Scope { .. } => ErrorCode::Forbidden,
    };
    ClientError::new(code, denied.to_string())
}
