//! Who may call.

use config::Secret;
use tonic::{Request, Status, service::Interceptor};

use super::Metrics;

const SCHEME: &str = "bearer";

/// Lets calls through that show the key, or all when there is none.
#[derive(Clone)]
pub(super) struct Key {
    /// Hashes are compared in constant time, and of one length.
    wanted: Option<blake3::Hash>,
    metrics: Metrics,
}

impl Key {
    pub(super) fn new(key: Option<&Secret>, metrics: Metrics) -> Self {
        let wanted = key.map(|key| blake3::hash(key.expose().as_bytes()));
        Self { wanted, metrics }
    }
}

impl Interceptor for Key {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(wanted) = self.wanted else {
            return Ok(request);
        };
        let shown = request.metadata().get("authorization");
        let shown = shown.and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, key) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case(SCHEME).then_some(key.trim())
        });
        if shown.is_some_and(|key| blake3::hash(key.as_bytes()) == wanted) {
            return Ok(request);
        }
        self.metrics.unauthenticated.inc();
        Err(Status::unauthenticated(
            "the API key is missing or wrong: authorization: Bearer <api.key>",
        ))
    }
}
