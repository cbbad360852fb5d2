//! Notifications of users (CONTRACT sections 4 and 6). Each user has an inbox, a document that outlives every process;
//! what is put there is then told to the user's sockets through the log.
//!
//! A notification is in the inbox first, then in the log, and then the inbox says where in the log. Whoever finds one
//! that has no place there yet, because a process ended in between, puts it there; its id keeps it from being there
//! twice.

mod channels;
mod inbox;
mod notify;
mod post;
mod rules;

pub use channels::{Channel, Channels};
pub use inbox::{Inbox, Notification};
pub use notify::{MAX_AGE, MAX_DATA, NotifyUser};
pub use post::{BUCKET, EVENT, NAMESPACE, Notifications, Settings};
pub use rules::Rule;
