//! How the trace of an event begins here, and where it ends.
//!
//! A client may have a trace already. It says so by `traceparent` in its `auth`, for all events of the socket, or by
//! `{"traceparent": "…"}` as an event's last argument, behind its payload.

use std::sync::Arc;

use futures_util::FutureExt;
use model::{Namespace, TraceContext};
use serde::Deserialize;
use telemetry::trace::{Kind, Receiving, Span, Tracer, number};
use tracing::Instrument;

use crate::{
    metrics::EventLabel,
    session::{EventPacket, Socket},
    transport::Step,
};

/// A longer text is no metadata.
const MAX_METADATA: usize = 128;
/// The messaging system that clients speak.
const SYSTEM: &str = "socketio";

#[derive(Deserialize)]
struct Auth<'a> {
    #[serde(borrow)]
    traceparent: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata<'a> {
    #[serde(borrow)]
    traceparent: &'a str,
}

/// What a client's `auth` says, if it says it right.
pub(crate) fn of_auth(auth: &str) -> Option<TraceContext> {
    // Most have none, and are not read for it.
    let auth = auth.contains("traceparent").then_some(auth)?;
    let auth: Auth<'_> = serde_json::from_str(auth).ok()?;
    auth.traceparent?.parse().ok()
}

/// What an event's last argument says: an object with nothing else in it.
fn of_args(args: &str) -> Option<TraceContext> {
    // An object that ends where the arguments end, and holds no other, is the last of them.
    let object = &args[args.rfind('{')?..];
    if object.len() > MAX_METADATA || !object.contains("traceparent") {
        return None;
    }
    let metadata: Metadata<'_> = serde_json::from_str(object).ok()?;
    metadata.traceparent.parse().ok()
}

/// The trace of a socket's event, if it is recorded.
pub(crate) fn receive(tracer: &Tracer, socket: &Socket, event: &EventPacket) -> Option<Arc<Receiving>> {
    let args = event.args.as_str();
    let parent = || of_args(args).or_else(|| socket.trace.get().map(|trace| **trace));
    let receiving = begin(
        tracer,
        parent,
        event.name.as_str(),
        socket.namespace(),
        args.len(),
    )?;
    Some(Arc::new(
        receiving.with("messaging.client.id", socket.id().to_owned()),
    ))
}

/// The trace of an event that came as a request, whose header `traceparent` is `parent`.
pub(crate) fn receive_request(
    tracer: &Tracer,
    parent: Option<&str>,
    event: &str,
    namespace: &Namespace,
    size: usize,
) -> Option<Arc<Receiving>> {
    let parent = || parent?.parse().ok();
    begin(tracer, parent, event, namespace, size).map(Arc::new)
}

fn begin(
    tracer: &Tracer,
    parent: impl FnOnce() -> Option<TraceContext>,
    event: &str,
    namespace: &Namespace,
    size: usize,
) -> Option<Receiving> {
    let name = || format!("gateway receive {}", EventLabel::of(event).as_str());
    let receiving = tracer.receive(parent, name)?;
    Some(
        receiving
            .with("messaging.system", SYSTEM)
            .with("messaging.operation.name", "receive")
            .with("messaging.operation.type", "receive")
            .with("messaging.destination.name", namespace.to_string())
            .with("messaging.message.body.size", number(size)),
    )
}

/// Handles an event with the id of its trace in what is logged, if it has one.
pub(crate) fn logged(trace: Option<&Receiving>, handle: impl FnOnce() -> Step) -> Step {
    match trace {
        None => handle(),
        Some(trace) => {
            // Whatever is logged of it has its id, so it is no less than an error.
            let span = tracing::error_span!("event", trace_id = %trace.trace_id());
            let step = span.in_scope(handle);
            instrumented(step, span)
        }
    }
}

fn instrumented(step: Step, span: tracing::Span) -> Step {
    match step {
        Step::Done => Step::Done,
        Step::Later(work) => Step::Later(Box::pin(work.instrument(span))),
        Step::Wait(work) => {
            let inside = span.clone();
            Step::Wait(Box::pin(
                work.instrument(span).map(|step| instrumented(step, inside)),
            ))
        }
    }
}

/// The hand-over of an event to the sockets here, below the span of the worker that sent it.
pub(crate) fn deliver(tracer: &Tracer, parent: &TraceContext, room: &str, receivers: usize) -> Option<Span> {
    let span = tracer.span("gateway deliver", Kind::Consumer, parent)?;
    Some(
        span.with("messaging.system", SYSTEM)
            .with("messaging.operation.name", "deliver")
            .with("messaging.operation.type", "process")
            .with("messaging.destination.name", room.to_owned())
            .with("fanfare.receivers", number(receivers)),
    )
}

/// A context of no trace that is recorded.
pub(crate) fn unrecorded() -> String {
    format!(
        "00-{:032x}-{:016x}-00",
        rand::random::<u128>(),
        rand::random::<u64>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn metadata_is_the_last_argument_and_nothing_else() {
        let read = |args: &str| of_args(&args.replace("PARENT", PARENT)).is_some();
        for args in [
            r#"{"roomId":"a"},{"traceparent":"PARENT"}"#,
            r#"{"traceparent":"PARENT"}"#,
            r#"1, { "traceparent" : "PARENT" }"#,
            r#"[{"traceparent":"none"}],{"traceparent":"PARENT"}"#,
        ] {
            assert!(read(args), "{args}");
        }
        for args in [
            "",
            "1",
            r#"{"traceparent":"none"}"#,
            r#"{"roomId":"a","traceparent":"PARENT"}"#,
            r#"{"traceparent":"PARENT"},1"#,
            r#"[{"traceparent":"PARENT"}]"#,
            r#"{"a":{"traceparent":"PARENT"}}"#,
            r#"{"traceparent":"PARENT","traceparent":"PARENT"}"#,
            r#""{\"traceparent\":\"PARENT\"}""#,
        ] {
            assert!(!read(args), "{args}");
        }
    }

    #[test]
    fn a_socket_s_trace_stands_beside_its_token() {
        let read = |auth: &str| of_auth(&auth.replace("PARENT", PARENT)).is_some();
        assert!(read(r#"{"token":"a","traceparent":"PARENT"}"#));
        for auth in [
            "{}",
            r#"{"traceparent":1}"#,
            r#"{"traceparent":"none"}"#,
            r#"{"token":"traceparent"}"#,
            r#"["PARENT"]"#,
        ] {
            assert!(!read(auth), "{auth}");
        }
    }
}
