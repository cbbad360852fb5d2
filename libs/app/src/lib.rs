//! The application behind Fanfare (CONTRACT section 6, "Handle" and "Authorize"): it handles custom events, says who may
//! do what, and is told who came and went.
//!
//! [`App`] is the port; [`nats`] and [`webhook`] are its engines. [`Client`] and [`Authorizer`] speak through it.

mod authorizer;
mod client;
pub mod conformance;
mod dead_letters;
mod feed;
mod first_of;
mod messages;
pub mod nats;
pub mod schema;
pub mod webhook;

use std::sync::Arc;

use async_trait::async_trait;
use bus::Signals;
use bytes::Bytes;
use calls::SetupError;
use config::Config;
use model::{ClientError, ErrorCode};

pub use self::{
    authorizer::{Authorizer, Question, Verdict, Wish},
    client::{Client, ClientSettings, GivenUp, Waiting},
    dead_letters::DeadLetters,
    feed::{Feed, News, Whom},
    first_of::FirstOf,
    messages::{Answer, EventMessage, SocketRef, Trace, Who},
};

/// Port: where the application is.
#[async_trait]
pub trait App: Send + Sync + 'static {
    /// Hands a JSON object over and waits for what the application says to it: JSON, or nothing. The engine does not
    /// look into it. Dropped, nobody waits any more; the application may have got it all the same.
    ///
    /// # Errors
    /// See [`AppError`]; [`AppError::Rubbish`] is none of an engine's.
    async fn ask(&self, topic: Topic<'_>, json: Bytes) -> Result<Bytes, AppError>;
}

/// What it is about. Namespaces and names are as clients know them.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Topic<'a> {
    /// A custom event.
    Event {
        /// Where it was sent.
        namespace: &'a str,
        /// What it is called.
        event: &'a str,
    },
    /// Whether a user may do something in a namespace.
    Authorize {
        /// Which one.
        namespace: &'a str,
    },
    /// That somebody came or went. Whatever is answered, it was heard.
    News {
        /// Where.
        namespace: &'a str,
        /// The type of it, e.g. `connected`.
        kind: &'static str,
    },
}

/// Why the application has not done it. Quotes nothing that was sent or came.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppError {
    /// Nobody handles this.
    #[error("nobody handles it")]
    NoHandler,
    /// No answer in time; it may be done all the same.
    #[error("no answer in time")]
    Late,
    /// It cannot be reached, or says that it cannot do it now.
    #[error("{0}")]
    Unavailable(String),
    /// It can be told so much in no way.
    #[error("too large to be handed over")]
    TooLarge,
    /// It refuses this very question.
    #[error("{0}")]
    Refused(String),
    /// The answer is not of the form that the contract asks for.
    #[error("the answer cannot be used: {0}")]
    Rubbish(String),
}

impl AppError {
    /// Whether it may be done if it is asked again.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Late | Self::Unavailable(_))
    }

    /// What the client is told who sent `event`.
    #[must_use]
    pub fn to_client_error(&self, event: &str) -> ClientError {
        match self {
            Self::NoHandler => {
                // The beginning is enough to know it by.
                let end = event.char_indices().nth(128).map_or(event.len(), |(end, _)| end);
                ClientError::new(
                    ErrorCode::NoHandler,
                    format!("Nobody handles {:?}", &event[..end]),
                )
            }
            Self::TooLarge => ClientError::new(
                ErrorCode::PayloadTooLarge,
                "This is too large for the application",
            ),
            Self::Late | Self::Unavailable(_) | Self::Refused(_) | Self::Rubbish(_) => ClientError::new(
                ErrorCode::Unavailable,
                "The application does not answer as it should",
            ),
        }
    }
}

/// The application of a gateway: whoever listens on NATS is asked first, then the webhook.
///
/// # Errors
/// When a setting of section `app` cannot be used.
pub fn from_config(config: &Config, signals: Arc<dyn Signals>) -> Result<Arc<dyn App>, SetupError> {
    let listeners = Arc::new(nats::SignalsApp::new(signals, config.app.timeout));
    Ok(match webhook::WebhookApp::from_config(config)? {
        Some(webhook) => Arc::new(FirstOf::new(vec![listeners, Arc::new(webhook)])),
        None => listeners,
    })
}
