//! Spans of handing events to the bus (OpenTelemetry, semantic conventions of messaging).

use bus::{Appended, LogError};
use model::{Namespace, RoomName};
use telemetry::trace::{Span, number};

/// What its span is called.
pub const PUBLISH: &str = "publish";

/// An event that is published.
#[derive(Copy, Clone, Debug)]
pub struct Published<'a> {
    /// Its namespace.
    pub namespace: &'a Namespace,
    /// Its room.
    pub room: &'a RoomName,
    /// The partition of its room.
    pub partition: u16,
    /// What it is called for good.
    pub id: &'a str,
    /// Bytes of its arguments.
    pub size: usize,
}

/// Says in `span` what is published.
pub fn describe(span: &mut Span, event: &Published<'_>) {
    span.set("messaging.system", "nats");
    span.set("messaging.operation.name", PUBLISH);
    span.set("messaging.operation.type", "send");
    span.set("messaging.destination.name", event.room.to_string());
    span.set("messaging.destination.partition.id", event.partition.to_string());
    span.set("messaging.message.id", event.id.to_owned());
    span.set("messaging.message.body.size", number(event.size));
    span.set("fanfare.namespace", event.namespace.to_string());
}

/// Says in `span` what the log answered.
pub fn appended(span: &mut Span, appended: &Result<Appended, LogError>) {
    match appended {
        Ok(appended) => span.set("fanfare.sequence", number(appended.seq)),
        Err(error) => span.fail(error.to_string()),
    }
}
