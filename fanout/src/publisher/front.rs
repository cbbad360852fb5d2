//! What stands between a request and what is done: who asks, whether they may, what is counted and recorded.

use apikeys::{Caller, Denied, Keys};
use model::{ClientError, ErrorCode};
use tokio::time::Instant;

use super::{
    metrics::Metrics,
    operations::{Operations, Request, Response},
};

pub(super) struct Front {
    operations: Operations,
    keys: Keys,
    metrics: Metrics,
}

impl Front {
    pub(super) fn new(operations: Operations, keys: Keys, metrics: Metrics) -> Self {
        Self {
            operations,
            keys,
            metrics,
        }
    }

    /// Who shows this header `Authorization`.
    pub(super) fn identify(&self, authorization: Option<&str>) -> Result<Caller, ClientError> {
        self.keys.identify(authorization).map_err(|denied| {
            self.metrics.unauthenticated.inc();
            refusal(&denied)
        })
    }

    /// Does what is asked, if the caller may.
    pub(super) async fn call(
        &self,
        transport: &'static str,
        caller: &Caller,
        request: Request,
    ) -> Result<Response, ClientError> {
        let begun = Instant::now();
        let (operation, targets) = (request.operation(), request.targets());
        let namespace = request.namespace().to_owned();
        let result = match caller.allow(request.scope()) {
            Ok(()) => self.operations.run(request).await,
            Err(denied) => Err(refusal(&denied)),
        };
        let outcome = result.as_ref().err().map_or("OK", |error| error.code.as_str());
        caller.audit(operation, &namespace, targets, outcome);
        self.metrics.call(transport, operation, outcome, begun.elapsed());
        result
    }
}

fn refusal(denied: &Denied) -> ClientError {
    let code = match denied {
        Denied::Unknown => ErrorCode::Unauthorized,
        Denied::Scope { .. } => ErrorCode::Forbidden,
    };
    ClientError::new(code, denied.to_string())
}
