//! Who may call.

use apikeys::{Denied, Keys, Scope};
use tonic::{Request, Status, service::Interceptor};

use super::Metrics;

/// Lets calls through that show a key with scope `read`, or all when there are no keys.
#[derive(Clone)]
pub(super) struct Key {
    keys: Keys,
    metrics: Metrics,
}

impl Key {
    pub(super) fn new(keys: Keys, metrics: Metrics) -> Self {
        Self { keys, metrics }
    }
}

impl Interceptor for Key {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let shown = request.metadata().get("authorization");
        let shown = shown.and_then(|value| value.to_str().ok());
        let allowed = self
            .keys
            .identify(shown)
            .and_then(|caller| caller.allow(Scope::Read));
        match allowed {
            Ok(()) => Ok(request),
            Err(denied @ Denied::Unknown) => {
                self.metrics.unauthenticated.inc();
                Err(Status::unauthenticated(denied.to_string()))
            }
            Err(denied @ Denied::Scope { .. }) => Err(Status::permission_denied(denied.to_string())),
        }
    }
}
