//! Calls to services of others: an HTTP client, signed webhooks, a circuit breaker, and answers that are asked for once
//! and kept.

mod breaker;
mod cache;
mod http;
mod inquiries;
mod webhook;

pub use self::{
    breaker::Breaker,
    cache::Cache,
    http::{CallError, Http, Trust, uri},
    inquiries::{Inquiries, InquirySettings, Outcome, ttl},
    webhook::{SIGNATURE, Webhook, signature},
};

/// What an answer is kept under: a hash of everything that it depends on.
pub type Key = [u8; 32];

/// Why settings cannot be used. Shows no secret.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct SetupError {
    /// The key of the setting.
    pub setting: String,
    /// What is wrong with it.
    pub problem: String,
}

impl SetupError {
    /// Something is wrong with the setting of this key.
    #[must_use]
    pub fn new(setting: &str, problem: impl Into<String>) -> Self {
        Self {
            setting: setting.to_owned(),
            problem: problem.into(),
        }
    }
}
