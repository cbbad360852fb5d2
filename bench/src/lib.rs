//! Load generator: light clients, what they count, and what it costs the servers.

mod checks;
pub mod cli;
pub mod client;
pub mod compare;
pub mod deploy;
mod dialect;
mod load;
mod net;
pub mod procs;
pub mod report;
pub mod room;
mod run;
pub mod scenarios;
mod shares;
mod spec;
mod wire;
