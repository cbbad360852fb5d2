//! Whole-system tests: the harness they share. It starts real servers on free ports, as processes of their own,
//! keeps what they log, and runs the programs of stock clients against them.

mod clients;
mod server;

pub use clients::{Mode, chromium, node, python, scenario};
pub use server::{JWT_SECRET, ProtocolSuites, Standalone};
pub use servers::{self, Process};
