//! Logs and metrics set-up.

pub mod computed;
pub mod trace;

use std::{io::IsTerminal, time::Instant};

use prometheus::{
    Encoder, Gauge, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter has an error.
    #[error("the log filter cannot be read: {0}")]
    Filter(#[from] ParseError),
    /// Something in the process logs already.
    #[error("logs are set up already")]
    Twice,
    /// The environment's name cannot be a label.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Libraries that log for themselves what we log with the reason; off unless the filter names them.
const OTHERS: [&str; 1] = ["async_nats"];

/// Sends logs to standard error, as text or as one JSON object a line. `filter` is as in `RUST_LOG`.
///
/// # Errors
/// When the filter has an error, or logs are set up already.
pub fn logs(filter: &str, json: bool) -> Result<(), TelemetryError> {
    let mut directives = EnvFilter::try_new(filter)?;
    for library in OTHERS.into_iter().filter(|library| !filter.contains(library)) {
        directives = directives.add_directive(format!("{library}=off").parse()?);
    }
    let builder = fmt()
        .with_env_filter(directives)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let done = if json {
        builder.json().try_init()
    } else {
        builder.try_init()
    };
    done.map_err(|_| TelemetryError::Twice)
}

/// A registry whose metrics all carry the label `environment`; tells how long ago it was made.
///
/// # Errors
/// When the label is refused.
pub fn registry(environment: &str) -> Result<Registry, TelemetryError> {
    let labels = [("environment".to_owned(), environment.to_owned())].into();
    let registry = Registry::new_custom(None, Some(labels))?;
    registry.register(Box::new(Uptime::new()?))?;
    Ok(registry)
}

/// Read when it is asked for.
struct Uptime {
    since: Instant,
    seconds: Gauge,
}

impl Uptime {
    fn new() -> Result<Self, prometheus::Error> {
        Ok(Self {
            since: Instant::now(),
            seconds: Gauge::new(
                "socket_server_uptime_seconds",
                "Seconds since this process started",
            )?,
        })
    }
}

impl Collector for Uptime {
    fn desc(&self) -> Vec<&Desc> {
        self.seconds.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.seconds.set(self.since.elapsed().as_secs_f64());
        self.seconds.collect()
    }
}

/// All metrics in Prometheus' text format.
#[must_use]
pub fn render(registry: &Registry) -> String {
    let mut text = Vec::new();
    // Writing to memory does not fail; a family that cannot be written is left out.
    if let Err(error) = TextEncoder::new().encode(&registry.gather(), &mut text) {
        tracing::error!(%error, "metrics cannot be written");
    }
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_carry_the_environment() {
        let registry = registry("staging").unwrap();
        let counter = prometheus::IntCounter::new("things_total", "Things").unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        counter.inc();
        let text = render(&registry);
        assert!(text.contains("things_total{environment=\"staging\"} 1"), "{text}");
        assert!(
            text.contains("socket_server_uptime_seconds{environment=\"staging\"} "),
            "{text}"
        );
    }
}
