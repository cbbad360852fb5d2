//! Trails in the store: how far the clients of each gateway had got.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bus::{Documents, DocumentsError};
use model::GatewayId;
use parking_lot::Mutex;
use prost::Message;
use proto::v1;

use super::{BUCKET, RACES, claims::unavailable};
use crate::{session::Because, trail::Trail};

/// Another gateway's trail is not read again within this time.
const TRAIL: Duration = Duration::from_secs(5);

/// This gateway's own trail, and those of others as they were read.
pub(crate) struct Trails {
    documents: Arc<dyn Documents>,
    gateway: GatewayId,
    own: tokio::sync::Mutex<Own>,
    others: Mutex<HashMap<Box<str>, Arc<SharedTrail>>>,
}

#[derive(Default)]
struct Own {
    revision: Option<u64>,
    finished: bool,
}

type SharedTrail = tokio::sync::Mutex<Option<(Instant, Arc<Trail>)>>;

impl Trails {
    pub(super) fn new(documents: Arc<dyn Documents>, gateway: GatewayId) -> Self {
        Self {
            documents,
            gateway,
            own: tokio::sync::Mutex::default(),
            others: Mutex::default(),
        }
    }

    /// Leaves the gateway's own trail; the `last` one stays.
    pub(crate) async fn keep(&self, trail: &v1::Trail, last: bool) -> Result<(), DocumentsError> {
        let key = trail_key(self.gateway.as_str());
        let mut own = self.own.lock().await;
        if own.finished {
            return Ok(());
        }
        own.finished = last;
        for _ in 0..RACES {
            let value = trail.encode_to_vec().into();
            match self.documents.put(BUCKET, &key, value, own.revision).await {
                Ok(revision) => {
                    own.revision = Some(revision);
                    return Ok(());
                }
                Err(DocumentsError::Conflict(_)) => {
                    // Nobody else writes it: an own write whose answer was lost.
                    let known = self.documents.get(BUCKET, &key).await?;
                    own.revision = known.map(|document| document.revision);
                }
                Err(error) => return Err(error),
            }
        }
        Err(DocumentsError::Conflict(key))
    }

    /// The trail of another gateway; read once for all who ask within some seconds.
    pub(crate) async fn of(&self, gateway: &str) -> Result<Arc<Trail>, Because> {
        let shared = Arc::clone(self.others.lock().entry(gateway.into()).or_default());
        let mut shared = shared.lock().await;
        if let Some((_, trail)) = shared.as_ref().filter(|_| is_fresh(&shared)) {
            return Ok(Arc::clone(trail));
        }
        let document = self
            .documents
            .get(BUCKET, &trail_key(gateway))
            .await
            .map_err(unavailable)?;
        let trail = v1::Trail::decode(document.ok_or(Because::Unknown)?.value).map_err(unavailable)?;
        let trail = Arc::new(Trail::decode(trail));
        *shared = Some((Instant::now(), Arc::clone(&trail)));
        Ok(trail)
    }

    /// Forgets other gateways' trails.
    pub(crate) fn sweep(&self) {
        self.others.lock().retain(|_, trail| {
            Arc::strong_count(trail) > 1 || trail.try_lock().is_ok_and(|known| is_fresh(&known))
        });
    }
}

fn is_fresh(known: &Option<(Instant, Arc<Trail>)>) -> bool {
    known.as_ref().is_some_and(|(at, _)| at.elapsed() < TRAIL)
}

fn trail_key(gateway: &str) -> String {
    format!("{gateway}.trail")
}
