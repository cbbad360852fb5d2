//! Logs, metrics and traces: how they are set up and where they go.

pub mod computed;
mod files;
mod logs;
mod repeats;
pub mod trace;

use std::time::Instant;

use prometheus::{
    Encoder, Gauge, Registry, TextEncoder,
    core::{Collector, Desc},
    proto::MetricFamily,
};

pub use self::{
    files::Files,
    logs::{LogSettings, TelemetryError, logs},
    repeats::Repeats,
};

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
