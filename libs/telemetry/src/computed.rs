//! Metrics that are read where they are kept when they are asked for, in place of being counted twice.

use std::collections::HashMap;

use prometheus::{
    Registry,
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

/// One series: the values of its labels, and its own.
pub type Series = (Vec<String>, f64);

/// Registers a counter whose series `read` tells at each scrape; `labels` name their labels.
///
/// # Errors
/// When the name is taken or cannot be one.
pub fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    read: impl Fn() -> Vec<Series> + Send + Sync + 'static,
) -> Result<(), prometheus::Error> {
    register(registry, MetricType::COUNTER, name, help, labels, Box::new(read))
}

/// Registers a gauge in the same way.
///
/// # Errors
/// When the name is taken or cannot be one.
pub fn gauge(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    read: impl Fn() -> Vec<Series> + Send + Sync + 'static,
) -> Result<(), prometheus::Error> {
    register(registry, MetricType::GAUGE, name, help, labels, Box::new(read))
}

/// Registers all metrics of `part` at once, under a name that no metric bears. What is put together in several steps
/// collects its metrics in a registry of its own, so that after a step that failed it can begin anew.
///
/// # Errors
/// When there is such a part already.
pub fn nested(registry: &Registry, name: &str, part: Registry) -> Result<(), prometheus::Error> {
    let desc = Desc::new(name.to_owned(), "A part".to_owned(), Vec::new(), HashMap::new())?;
    registry.register(Box::new(Nested { desc, part }))
}

struct Nested {
    desc: Desc,
    part: Registry,
}

impl Collector for Nested {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.part.gather()
    }
}

type Read = Box<dyn Fn() -> Vec<Series> + Send + Sync>;

struct Computed {
    desc: Desc,
    kind: MetricType,
    read: Read,
}

fn register(
    registry: &Registry,
    kind: MetricType,
    name: &str,
    help: &str,
    labels: &[&str],
    read: Read,
) -> Result<(), prometheus::Error> {
    let labels = labels.iter().map(|&label| label.to_owned()).collect();
    let desc = Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())?;
    registry.register(Box::new(Computed { desc, kind, read }))
}

impl Collector for Computed {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = (self.read)().into_iter().map(|(values, value)| {
            let mut metric = Metric::default();
            let labels = self.desc.variable_labels.iter().zip(values);
            let labels = labels.map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name(name.clone());
                pair.set_value(value);
                pair
            });
            metric.set_label(labels.collect());
            if self.kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            metric
        });
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(self.kind);
        family.set_metric(metrics.collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use super::*;

    #[test]
    fn what_is_kept_elsewhere_is_read_at_each_scrape() {
        let registry = crate::registry("test").unwrap();
        let calls = Arc::new(AtomicU64::new(1));
        let read = Arc::clone(&calls);
        let series = move || vec![(vec!["get".to_owned()], read.load(Ordering::Relaxed) as f64)];
        counter(&registry, "calls_total", "Calls", &["call"], series.clone()).unwrap();
        assert!(gauge(&registry, "calls_total", "Calls", &["call"], series).is_err());
        calls.store(7, Ordering::Relaxed);
        let text = crate::render(&registry);
        assert!(
            text.contains("# TYPE calls_total counter\ncalls_total{call=\"get\",environment=\"test\"} 7\n"),
            "{text}"
        );
    }

    #[test]
    fn a_part_is_exported_with_the_labels_that_all_share() {
        let registry = crate::registry("test").unwrap();
        let part = Registry::new();
        gauge(&part, "height", "Height", &[], || vec![(Vec::new(), 3.0)]).unwrap();
        nested(&registry, "part", part).unwrap();
        assert!(nested(&registry, "part", Registry::new()).is_err());
        let text = crate::render(&registry);
        assert!(text.contains("height{environment=\"test\"} 3\n"), "{text}");
    }
}
