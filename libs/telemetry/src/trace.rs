//! Spans of sampled traces, sent to an OpenTelemetry collector.
//!
//! Whether a trace is recorded is decided once, where it begins ([`Tracer::receive`]). What is not recorded has no span
//! and no context: the rest of the way looks at an `Option` that is `None`.

mod export;
mod ids;
mod resource;
mod sampler;

use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use model::TraceContext;
use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId, Value,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceState, Tracer as _,
        TracerProvider as _,
    },
};
use opentelemetry_sdk::trace::{Sampler as Sdk, SdkTracer, SdkTracerProvider};
use prometheus::Registry;

pub use self::{
    export::Protocol,
    sampler::{Sampler, SamplerError},
};
use self::{ids::Ids, sampler::Clients};

/// Name of what makes the spans.
const SCOPE: &str = "fanfare";

/// How traces are recorded and where they go.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Base URL of the collector: `http://` or `https://`.
    pub endpoint: String,
    /// How to speak to it.
    pub protocol: Protocol,
    /// `service.name`.
    pub service: String,
    /// Further attributes of the process.
    pub attributes: Vec<(String, String)>,
    /// Which traces are recorded.
    pub sampler: Sampler,
    /// Events for more receivers than this are recorded less often, as their number has it: what a trace costs grows
    /// with its receivers' gateways, and what it tells does not.
    pub large: usize,
    /// So many traces a second are recorded because clients ask for it; beyond that the wish is not heard.
    pub from_clients: u32,
}

/// Why traces cannot be recorded.
#[derive(Debug, thiserror::Error)]
#[error("traces cannot be exported to {endpoint}: {reason}")]
pub struct SetupError {
    endpoint: String,
    reason: String,
}

/// Makes spans. Cheap to clone; without an exporter it makes none.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

struct Inner {
    tracer: SdkTracer,
    sampler: Sampler,
    large: usize,
    clients: Clients,
}

/// Sends what [`Tracer`]s record, in the background.
pub struct Exporter {
    provider: SdkTracerProvider,
}

/// Begins to record. Call it within a tokio runtime, which must live until [`Exporter::shutdown`] is done.
///
/// Spans wait in a bounded queue (`OTEL_BSP_MAX_QUEUE_SIZE`, 2048) and are dropped when it is full.
///
/// # Errors
/// When the endpoint cannot be one. One that does not answer is no error: that is logged, and counted in `registry`.
pub fn start(settings: Settings, registry: &Registry) -> Result<(Tracer, Exporter), SetupError> {
    let failed = |reason: String| SetupError {
        endpoint: settings.endpoint.clone(),
        reason,
    };
    let exporter = export::build(&settings, registry).map_err(failed)?;
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        // The decision has been made before a span begins.
        .with_sampler(Sdk::AlwaysOn)
        .with_id_generator(Ids)
        .with_resource(resource::resource(&settings.service, &settings.attributes))
        .build();
    let tracer = Tracer(Some(Arc::new(Inner {
        tracer: provider.tracer(SCOPE),
        sampler: settings.sampler,
        large: settings.large.max(1),
        clients: Clients::new(settings.from_clients),
    })));
    Ok((tracer, Exporter { provider }))
}

impl Exporter {
    /// Sends what waits, within `budget`. Blocks for so long.
    pub fn shutdown(self, budget: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(budget) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// What a span stands for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The answer to a client's request.
    Server,
    /// Hands a message to somebody.
    Producer,
    /// Takes a message from somebody.
    Consumer,
}

impl Tracer {
    /// Records nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Whether anything may be recorded.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a trace, or goes on with a client's, if it is to be recorded. `parent` tells the client's, if it has one;
    /// it is asked for only where it matters.
    pub fn receive(
        &self,
        parent: impl FnOnce() -> Option<TraceContext>,
        name: impl FnOnce() -> String,
    ) -> Option<Receiving> {
        let inner = self.0.as_ref()?;
        let mut parent = parent();
        // A wish beyond what clients may ask for is none.
        if inner.sampler.hears(parent.as_ref()) && !inner.clients.may_ask() {
            parent = None;
        }
        Self::begin(inner, parent, name)
    }

    /// As [`Tracer::receive`], for an event of a server: whether it is recorded was decided there, however often it is.
    pub fn receive_from_server(
        &self,
        parent: impl FnOnce() -> Option<TraceContext>,
        name: impl FnOnce() -> String,
    ) -> Option<Receiving> {
        let inner = self.0.as_ref()?;
        Self::begin(inner, parent(), name)
    }

    fn begin(
        inner: &Arc<Inner>,
        parent: Option<TraceContext>,
        name: impl FnOnce() -> String,
    ) -> Option<Receiving> {
        let trace_id = parent.map_or_else(ids::random_trace, |parent| parent.trace_id());
        let forced = inner.sampler.decide(parent.as_ref(), trace_id)?;
        Some(Receiving {
            inner: Arc::clone(inner),
            name: name(),
            started: SystemTime::now(),
            trace_id,
            parent,
            forced,
            attributes: Vec::new(),
            span: OnceLock::new(),
        })
    }

    /// A span of a trace that is recorded.
    pub fn span(&self, name: &'static str, kind: Kind, parent: &TraceContext) -> Option<Span> {
        let inner = self.0.as_ref().filter(|_| parent.sampled())?;
        Some(Span::begin(
            inner,
            SpanBuilder::from_name(name),
            kind,
            Some(parent),
        ))
    }
}

/// The first span of a trace, which was begun by a client's event. It ends when it is dropped.
pub struct Receiving {
    inner: Arc<Inner>,
    name: String,
    started: SystemTime,
    trace_id: [u8; 16],
    parent: Option<TraceContext>,
    /// Recorded whatever its receivers.
    forced: bool,
    attributes: Vec<KeyValue>,
    /// `None` inside once it is known that there are too many receivers.
    span: OnceLock<Option<Span>>,
}

/// A number as an attribute has it; 2^63 - 1 for larger ones.
pub fn number(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

impl Receiving {
    /// Adds an attribute; before the span has children.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push(KeyValue::new(key, value));
        self
    }

    /// The trace.
    #[must_use]
    pub fn trace_id(&self) -> impl fmt::Display + use<> {
        TraceId::from_bytes(self.trace_id)
    }

    /// A child, of an event for about so many receivers. The first call decides whether the trace is recorded: with
    /// many receivers only a share of those is that were to be.
    pub fn child(&self, name: &'static str, kind: Kind, receivers: usize) -> Option<Span> {
        let parent = self.span(receivers)?.context();
        Some(Span::begin(
            &self.inner,
            SpanBuilder::from_name(name),
            kind,
            Some(&parent),
        ))
    }

    /// Where this span stands, for those who go on elsewhere.
    pub fn context(&self) -> Option<TraceContext> {
        self.span(1).map(Span::context)
    }

    fn span(&self, receivers: usize) -> Option<&Span> {
        let inner = &self.inner;
        let begin = || {
            let share = inner.large as f64 / receivers.max(1) as f64;
            if !self.forced && !inner.sampler.keeps(self.trace_id, share) {
                return None;
            }
            if self.parent.is_none() {
                ids::preset(self.trace_id);
            }
            let builder = SpanBuilder::from_name(self.name.clone())
                .with_start_time(self.started)
                .with_attributes(self.attributes.iter().cloned());
            Some(Span::begin(inner, builder, Kind::Server, self.parent.as_ref()))
        };
        self.span.get_or_init(begin).as_ref()
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // What had no children is recorded all the same.
        self.span(1);
    }
}

/// A span under way. It ends when it is dropped.
pub struct Span(opentelemetry_sdk::trace::Span);

impl Span {
    fn begin(inner: &Inner, builder: SpanBuilder, kind: Kind, parent: Option<&TraceContext>) -> Self {
        let kind = match kind {
            Kind::Server => SpanKind::Server,
            Kind::Producer => SpanKind::Producer,
            Kind::Consumer => SpanKind::Consumer,
        };
        let parent = parent.map_or_else(Context::new, |parent| {
            Context::new().with_remote_span_context(SpanContext::new(
                TraceId::from_bytes(parent.trace_id()),
                SpanId::from_bytes(parent.span_id()),
                TraceFlags::SAMPLED,
                true,
                TraceState::NONE,
            ))
        });
        Self(inner.tracer.build_with_context(builder.with_kind(kind), &parent))
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    /// Adds an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// What it stands for has failed.
    pub fn fail(&mut self, why: impl Into<Cow<'static, str>>) {
        self.0.set_status(Status::error(why));
    }

    /// Where it stands, for its children elsewhere.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the ids of a recorded span are not zero")]
    pub fn context(&self) -> TraceContext {
        let context = self.0.span_context();
        TraceContext::new(context.trace_id().to_bytes(), context.span_id().to_bytes(), true)
            .expect("a recorded span has ids")
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        trace::{SpanData, SpanExporter},
    };
    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().extend(batch);
            Ok(())
        }
    }

    /// A tracer whose spans are kept.
    fn tracer(sampler: &str, large: usize, from_clients: u32) -> (Tracer, Kept) {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(kept.clone())
            .with_sampler(Sdk::AlwaysOn)
            .with_id_generator(Ids)
            .build();
        let tracer = Tracer(Some(Arc::new(Inner {
            tracer: provider.tracer(SCOPE),
            sampler: Sampler::new(sampler, 1.0).unwrap(),
            large,
            clients: Clients::new(from_clients),
        })));
        (tracer, kept)
    }

    const CLIENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_first_span_has_the_id_it_told_before_and_its_children_stand_below() {
        let (tracer, kept) = tracer("always_on", 1000, 0);
        let first = tracer
            .receive(|| None, || "receive".to_owned())
            .unwrap()
            .with("a", 1);
        let trace = first.trace_id().to_string();
        let child = first.child("publish", Kind::Producer, 3).unwrap();
        let below = tracer.span("process", Kind::Consumer, &child.context()).unwrap();
        drop((below, child, first));
        let spans = kept.0.lock();
        let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
        assert_eq!(names, ["process", "publish", "receive"]);
        assert!(
            spans
                .iter()
                .all(|span| span.span_context.trace_id().to_string() == trace)
        );
        assert_eq!(spans[0].parent_span_id, spans[1].span_context.span_id());
        assert_eq!(spans[1].parent_span_id, spans[2].span_context.span_id());
        assert_eq!(spans[2].parent_span_id, SpanId::INVALID);
        assert!(spans[2].start_time <= spans[1].start_time);
    }

    #[test]
    fn a_client_s_trace_goes_on() {
        let (tracer, kept) = tracer("parentbased_always_off", 1, 10);
        assert!(tracer.receive(|| None, String::new).is_none());
        let unsampled = format!("{}00", &CLIENT[..53]);
        assert!(tracer.receive(|| unsampled.parse().ok(), String::new).is_none());
        let first = tracer
            .receive(|| CLIENT.parse().ok(), || "receive".to_owned())
            .unwrap();
        // Asked for, so whatever its receivers.
        drop(first.child("publish", Kind::Producer, 1_000_000).unwrap());
        drop(first);
        let spans = kept.0.lock();
        assert_eq!(spans.len(), 2);
        assert_eq!(spans[1].parent_span_id.to_string(), &CLIENT[36..52]);
        assert_eq!(spans[1].span_context.trace_id().to_string(), &CLIENT[3..35]);
    }

    #[test]
    fn clients_cannot_ask_for_more_than_they_may() {
        let (tracer, _) = tracer("parentbased_always_off", 1, 5);
        let heard = (0..1000)
            .filter(|_| tracer.receive(|| CLIENT.parse().ok(), String::new).is_some())
            .count();
        assert!((5..50).contains(&heard), "{heard}");
        let of_a_server = tracer.receive_from_server(|| CLIENT.parse().ok(), String::new);
        assert!(of_a_server.is_some(), "nobody counts what servers have decided");
    }

    #[test]
    fn many_receivers_thin_traces_out() {
        let (tracer, kept) = tracer("always_on", 10, 0);
        let recorded = (0..2000)
            .filter(|_| {
                let first = tracer.receive(|| None, String::new).unwrap();
                first.child("publish", Kind::Producer, 100).is_some()
            })
            .count();
        assert!((100..320).contains(&recorded), "a tenth of 2000: {recorded}");
        // Nothing of the others, not even the first span.
        assert_eq!(kept.0.lock().len(), 2 * recorded);
    }

    #[test]
    fn without_an_exporter_there_is_nothing() {
        let tracer = Tracer::off();
        assert!(tracer.receive(|| unreachable!(), || unreachable!()).is_none());
        assert!(
            tracer
                .span("x", Kind::Consumer, &CLIENT.parse().unwrap())
                .is_none()
        );
    }
}
