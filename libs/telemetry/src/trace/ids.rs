use std::cell::Cell;

use opentelemetry::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};

thread_local! {
    /// Id of the trace that begins next on this thread.
    static NEXT: Cell<Option<[u8; 16]>> = const { Cell::new(None) };
}

/// Makes ids at random, but for a trace whose id was told before its first span began.
#[derive(Debug, Default)]
pub(super) struct Ids;

/// The next span without a parent that this thread begins is of that trace.
pub(super) fn preset(trace: [u8; 16]) {
    NEXT.set(Some(trace));
}

/// An id that is not zero.
pub(super) fn random_trace() -> [u8; 16] {
    RandomIdGenerator::default().new_trace_id().to_bytes()
}

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEXT.take()
            .map_or_else(|| TraceId::from_bytes(random_trace()), TraceId::from_bytes)
    }

    fn new_span_id(&self) -> SpanId {
        RandomIdGenerator::default().new_span_id()
    }
}
