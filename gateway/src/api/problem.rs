//! Errors of the HTTP fallback: the error object of the events under the status that fits.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use model::{ClientError, ErrorCode};

use crate::{
    session::{Refusal, json},
    transport::reply,
};

/// Seconds after which what was away may be there again.
const AGAIN: u64 = 1;

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    pub(super) error: ClientError,
    /// A token was shown, and it does not hold (RFC 6750 section 3.1).
    bad_token: bool,
}

impl Problem {
    /// What is wrong with the request as such, under a status of HTTP's own.
    pub(super) fn of(status: StatusCode, message: &str) -> Self {
        Self {
            status,
            error: ClientError::new(ErrorCode::ValidationError, message),
            bad_token: false,
        }
    }
}

impl From<ClientError> for Problem {
    fn from(error: ClientError) -> Self {
        let status = StatusCode::from_u16(error.code.http_status());
        Self {
            status: status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            error,
            bad_token: false,
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self {
            bad_token: matches!(refusal, Refusal::InvalidToken | Refusal::TokenExpired),
            ..refusal.to_error().into()
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = reply::with_body(self.status, "application/json", json(&self.error));
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let after = match self.error.code {
            ErrorCode::RateLimited => Some(self.error.retry_after.unwrap_or(AGAIN)),
            ErrorCode::Unavailable => Some(AGAIN),
            _ => None,
        };
        if let Some(after) = after {
            headers.insert(header::RETRY_AFTER, after.into());
        }
        if self.error.code == ErrorCode::Unauthorized {
            let challenge = match self.bad_token {
                true => r#"Bearer realm="fanfare", error="invalid_token""#,
                false => r#"Bearer realm="fanfare""#,
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        response
    }
}

pub(crate) async fn not_found() -> Response {
    Problem::from(ClientError::new(ErrorCode::NotFound, "There is nothing here")).into_response()
}

/// `Allow` is added by the router.
pub(super) async fn wrong_method() -> Response {
    Problem::of(StatusCode::METHOD_NOT_ALLOWED, "This cannot be done here").into_response()
}
