use std::time::{Duration, Instant};

/// Runs one phase of a start or stop within its budget and logs how long it took, or that it was late.
/// A phase that is late is given up: its future is dropped. `None` then.
pub async fn phase<T>(name: &'static str, budget: Duration, work: impl Future<Output = T>) -> Option<T> {
    let begun = Instant::now();
    match tokio::time::timeout(budget, work).await {
        Ok(value) => {
            tracing::debug!(phase = name, elapsed = ?begun.elapsed(), "phase done");
            Some(value)
        }
        Err(_) => {
            tracing::warn!(phase = name, ?budget, "phase is late and given up");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_late_phase_is_given_up() {
        assert_eq!(phase("quick", Duration::from_secs(1), async { 1 }).await, Some(1));
        assert_eq!(
            phase("slow", Duration::from_secs(1), std::future::pending::<()>()).await,
            None
        );
    }
}
