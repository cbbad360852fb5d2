//! SIGHUP: reads the configuration again and hands it to those who can take it while they run.

use std::{io, sync::Arc};

use config::{Config, Errors, Loaded};
use lifecycle::Tasks;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};

/// Reads the configuration of the process as at its start.
pub(crate) type Load = Box<dyn Fn() -> Result<Loaded, Errors> + Send + Sync>;
/// Takes a new configuration, or says why not.
type Reload = Arc<dyn Fn(&Config) -> Result<(), String> + Send + Sync>;

/// Who takes a new configuration. Cheap to clone; clones share them.
#[derive(Clone, Default)]
pub(crate) struct Reloads(Arc<Mutex<Vec<Reload>>>);

impl Reloads {
    /// From now on `reload` is told of a new configuration.
    pub(crate) fn add(&self, reload: impl Fn(&Config) -> Result<(), String> + Send + Sync + 'static) {
        self.0.lock().push(Arc::new(reload));
    }

    fn tell(&self, config: &Config) -> Result<(), String> {
        let reloads = self.0.lock().clone();
        reloads.iter().try_for_each(|reload| reload(config))
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
    match reloads.tell(&config) {
        Ok(()) => {
            tracing::info!(
                "SIGHUP: read again; what is neither key, origin, limit nor policy takes a restart"
            );
        }
        Err(error) => tracing::error!(error, "SIGHUP: the configuration before goes on"),
    }
}
