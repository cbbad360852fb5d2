use serde::Serialize;

/// The closed table of codes that a client can see (CONTRACT section 4).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// The input breaks a rule; `details` says which.
    ValidationError,
    /// No identity, or one that does not hold.
    Unauthorized,
    /// The identity may not do this.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// Over a limit; `retryAfter` says when to come back.
    RateLimited,
    /// Larger than allowed.
    PayloadTooLarge,
    /// Nobody handles this event.
    NoHandler,
    /// A service behind the edge does not answer now.
    Unavailable,
    /// A bug of ours.
    Internal,
}

impl ErrorCode {
    /// The code as it is on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ValidationError => "VALIDATION_ERROR",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::RateLimited => "RATE_LIMITED",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::NoHandler => "NO_HANDLER",
            Self::Unavailable => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
        }
    }

    /// The HTTP status that stands for it.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::ValidationError => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound | Self::NoHandler => 404,
            Self::PayloadTooLarge => 413,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }
}

/// One broken rule of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Detail {
    /// Dotted path of the field, e.g. `participants.2`; empty for the whole input.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// The error object a client gets, in an acknowledgement or as event `error`:
/// `{status: "error", code, message, details?, retryAfter?}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{}: {message}", .code.as_str())]
#[serde(rename_all = "camelCase")]
pub struct ClientError {
    status: &'static str,
    /// Which of the closed table.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// Broken rules, with `VALIDATION_ERROR`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Detail>,
    /// Seconds, with `RATE_LIMITED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl ClientError {
    /// An error without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            status: "error",
            code,
            message: message.into(),
            details: Vec::new(),
            retry_after: None,
        }
    }

    /// `VALIDATION_ERROR` with every broken rule.
    #[must_use]
    pub fn invalid(details: Vec<Detail>) -> Self {
        Self {
            details,
            ..Self::new(ErrorCode::ValidationError, "Invalid payload")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_written_as_the_contract_names_it() {
        for code in [
            ErrorCode::ValidationError,
            ErrorCode::Unauthorized,
            ErrorCode::Forbidden,
            ErrorCode::NotFound,
            ErrorCode::RateLimited,
            ErrorCode::PayloadTooLarge,
            ErrorCode::NoHandler,
            ErrorCode::Unavailable,
            ErrorCode::Internal,
        ] {
            let json = serde_json::to_string(&ClientError::new(code, "m")).unwrap();
            assert_eq!(
                json,
                format!(r#"{{"status":"error","code":"{}","message":"m"}}"#, code.as_str())
            );
        }
    }
}
