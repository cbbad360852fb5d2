use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::Tasks;

/// A token that SIGTERM or SIGINT cancels. A second such signal ends the process at once, with exit
/// code 130.
///
/// # Errors
/// When the signals cannot be caught.
pub fn stop_signal(tasks: &Tasks) -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let cancels = stop.clone();
    tasks.background("signals", async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if cancels.is_cancelled() {
                tracing::warn!("told to stop twice: ending at once");
                std::process::exit(130);
            }
            tracing::info!("stopping");
            cancels.cancel();
        }
    });
    Ok(stop)
}
