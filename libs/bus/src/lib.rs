//! Ports of the bus and their engines: [`EventLog`] (the partition logs), [`Signals`] (messages
//! nobody stores) and [`Documents`] (small state that must survive).

pub mod conformance;
pub mod documents;
pub mod event_log;
pub mod fault;
pub mod nats;
pub mod signals;
pub mod subjects;

pub use documents::{Document, Documents, DocumentsError};
pub use event_log::{
    Append, Appended, Entry, EventLog, LogError, LogSubject, NewEntry, Page, PageQuery, Tail,
};
pub use signals::{Signal, Signals, SignalsError, Subscription};
