//! Ports of the bus and their engines: [`EventLog`] (the partition logs), [`Signals`] (messages
//! nobody stores), [`Documents`] (small state that must survive) and [`WorkQueue`] (work that must be done).

pub mod conformance;
pub mod documents;
pub mod event_log;
pub mod fault;
pub mod nats;
pub mod signals;
pub mod subjects;
pub mod work_queue;

pub use documents::{Document, Documents, DocumentsError};
pub use event_log::{
    Append, Appended, Entry, EventLog, LogError, LogSubject, NewEntry, Page, PageQuery, Tail,
};
pub use signals::{Signal, Signals, SignalsError, Subscription};
pub use work_queue::{Buried, DeadLetter, Job, NewJob, WorkError, WorkQueue, WorkSettings};
