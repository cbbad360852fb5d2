//! Engine.IO v4 and v3, Socket.IO v5 and v4 on the server's side: codec and session state machines.
//!
//! Sans-IO: bytes and `now` go in, packets and decisions come out. There is no runtime, no clock and no randomness
//! in here, so every rule can be tested and fuzzed without a socket.
//!
//! - [`ws`]: RFC 6455 frames,
//! - [`engine`]: Engine.IO packets, long-polling payloads, heartbeat, upgrade, handshake answers,
//! - [`packet`]: Socket.IO packets; outgoing ones are encoded once for all receivers,
//! - [`client`]: which namespaces a connection is in, reassembly of attachments, acknowledgements.
//!
//! Nothing here panics, whatever the input, and a limit is checked before the memory it guards is taken.
//! What is sent is encoded for Engine.IO v4 and Socket.IO v5 first; [`packet::Dialect`] gives others their form of it.
#![forbid(unsafe_code)]

pub mod client;
pub mod engine;
mod json;
pub mod packet;
pub mod ws;

/// `now + span`, with a span too long for an [`std::time::Instant`] cut to a century.
fn later(now: std::time::Instant, span: std::time::Duration) -> std::time::Instant {
    const CENTURY: std::time::Duration = std::time::Duration::from_secs(100 * 365 * 24 * 60 * 60);
    now.checked_add(span)
        .or_else(|| now.checked_add(CENTURY))
        .unwrap_or(now)
}
