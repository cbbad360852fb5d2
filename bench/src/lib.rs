//! Load generator: light clients and what they count.

pub mod client;
pub mod room;
