//! The link between processes: one bidirectional gRPC stream a worker and gateway, `fanfare.v1.GatewayLink`.
//!
//! The worker's end keeps the queue. Whatever waits while the previous frame is written goes into one
//! frame, up to 256 KiB; a larger batch goes as several that cover its range together. The gateway's end
//! keeps nothing but what HTTP/2's windows of its listener let through: a gateway that does not read fills
//! the worker's queue, which then refuses.
//!
//! A link never comes back: when its stream ends, whoever ends it, it is closed for good, and the worker
//! makes a new one. What was on the way is lost with it; the next batch shows the gateway the gap.
//! A peer that is gone without a word is noticed within 4 seconds by HTTP/2 pings.

mod gateway;
mod standard;
mod stats;
mod wire;
mod worker;

pub use gateway::{GrpcLinks, server};
pub use stats::{LinkStats, Meter};
pub use worker::GrpcConnector;

/// Bytes of one encoded record at most, unless said otherwise; far more than a gateway takes from a client
/// or the log holds. Both ends must be told the same.
pub const MAX_RECORD: usize = 16 << 20;

/// Of the stream; the worker says it first.
const PROTOCOL: u32 = 1;
