//! Errors as they go from gateways to those who sent a command, and to callers over gRPC.

use model::{ClientError, Detail, ErrorCode};
use proto::v1::{BrokenRule, PublisherError};

const CODES: [ErrorCode; 9] = [
    ErrorCode::ValidationError,
    ErrorCode::Unauthorized,
    ErrorCode::Forbidden,
    ErrorCode::NotFound,
    ErrorCode::RateLimited,
    ErrorCode::PayloadTooLarge,
    ErrorCode::NoHandler,
    ErrorCode::Unavailable,
    ErrorCode::Internal,
];

/// An error as a message.
#[must_use]
pub fn to_message(error: ClientError) -> PublisherError {
    let details = error.details.into_iter().map(|detail| BrokenRule {
        path: detail.path,
        message: detail.message,
    });
    PublisherError {
        code: error.code.as_str().to_owned(),
        message: error.message,
        details: details.collect(),
        retry_after: error.retry_after.unwrap_or_default(),
    }
}

/// The reverse of [`to_message`]; an unknown code is `INTERNAL`.
#[must_use]
pub fn from_message(error: PublisherError) -> ClientError {
    let code = CODES.into_iter().find(|code| code.as_str() == error.code);
    let details = error.details.into_iter().map(|rule| Detail {
        path: rule.path,
        message: rule.message,
    });
    let mut read = ClientError::new(code.unwrap_or(ErrorCode::Internal), error.message);
    read.details = details.collect();
    read.retry_after = (error.retry_after > 0).then_some(error.retry_after);
    read
}

/// Something behind Fanfare's face does not answer.
pub(crate) fn unavailable(error: impl std::fmt::Display) -> ClientError {
    tracing::warn!(%error, "what servers asked for cannot be done now");
    ClientError::new(ErrorCode::Unavailable, "Try again later")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_go_there_and_back() {
        for code in CODES {
            let mut error = ClientError::new(code, "text");
            error.retry_after = Some(3);
            error.details = vec![Detail {
                path: "a.1".to_owned(),
                message: "m".to_owned(),
            }];
            assert_eq!(from_message(to_message(error.clone())), error);
        }
    }
}
