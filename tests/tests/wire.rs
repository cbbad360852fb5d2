//! Both protocols clause by clause, on the wire: Engine.IO v4 and Socket.IO v5, and everything that is
//! malformed. Sections named in the tests are those of the protocol documents.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

#[path = "wire/engine.rs"]
mod engine;
#[path = "wire/malformed.rs"]
mod malformed;
#[path = "wire/socket.rs"]
mod socket;
#[path = "wire/upgrade.rs"]
mod upgrade;
