//! SIGHUP: reads the configuration again and hands it to those who can take it while they run.

use std::{io, sync::Arc};

use apikeys::Keys;
use config::{Config, Errors, Loaded};
use lifecycle::Tasks;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

/// Reads the configuration of the process as at its start.
pub(crate) type Load = Box<dyn Fn() -> Result<Loaded, Errors> + Send + Sync>;
/// Takes a new configuration, or says why not.
type Reload = Arc<dyn Fn(&Config) -> Result<(), String> + Send + Sync>;
/// What gateways take of it.
pub(crate) const POLICIES: &str = "keys of tokens, policies, origins, limits (but limits.memory_mb)";
/// What the APIs for servers take of it.
pub(crate) const API_KEYS: &str = "keys of the APIs";

/// Who takes a new configuration, once the role is there. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Reloads(Arc<Mutex<Option<(String, Reload)>>>);

impl Reloads {
    /// From now on `reload` is told of a new configuration, of which it takes what `takes` says.
    pub(crate) fn set(
        &self,
        takes: impl Into<String>,
        reload: impl Fn(&Config) -> Result<(), String> + Send + Sync + 'static,
    ) {
        *self.0.lock() = Some((takes.into(), Arc::new(reload)));
    }

    /// From now on these are the keys that a new configuration has.
    pub(crate) fn set_keys(&self, keys: Keys) {
        self.set(API_KEYS, move |config| {
            let renew = keys.renewed(&config.api).map_err(|error| error.to_string())?;
            renew();
            Ok(())
        });
    }
}

/// A configuration that does not hold changes nothing and is told in the log.
///
/// # Errors
/// When the signal cannot be caught.
pub(crate) fn on_hangup(tasks: &Tasks, load: Load, reloads: Reloads) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tasks.background("reload", async move {
        while hangup.recv().await.is_some() {
            reload(&load, &reloads);
        }
    });
    Ok(())
}

fn reload(load: &Load, reloads: &Reloads) {
    let Loaded { config, warnings } = match load() {
        Ok(loaded) => loaded,
        Err(errors) => {
            let errors = errors.to_string();
            tracing::error!(
                errors,
                "SIGHUP: the configuration does not hold; the one before goes on"
            );
            return;
        }
    };
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let Some((takes, reload)) = reloads.0.lock().clone() else {
        tracing::error!("SIGHUP: the role has not started yet; it goes on with what it was started with");
        return;
    };
    match reload(&config) {
        Ok(()) => tracing::info!(takes, "SIGHUP: read again; everything else takes a restart"),
        Err(error) => tracing::error!(error, "SIGHUP: the configuration before goes on"),
    }
}
