use std::fmt;

use model::{ClientError, ErrorCode};

/// Seconds after which a user with too many connections may look whether one has ended.
const FULL: u64 = 5;

/// Why a CONNECT is refused.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such namespace.
    InvalidNamespace,
    /// A token is needed and there is none.
    AuthenticationRequired,
    /// The token does not hold.
    InvalidToken,
    /// The token has expired.
    TokenExpired,
    /// Neither the password nor the session of an admin page.
    InvalidCredentials,
    /// The identity may not enter this namespace.
    Forbidden,
    /// A service behind the edge does not answer.
    Unavailable,
    /// Too many authentications have failed at this address: for so many seconds nobody there is heard.
    TooManyFailures(u64),
    /// The user has as many connections as may be.
    TooManyConnections,
}

impl Refusal {
    /// One of each kind.
    pub const ALL: [Self; 9] = [
        Self::InvalidNamespace,
        Self::AuthenticationRequired,
        Self::InvalidToken,
        Self::TokenExpired,
        Self::InvalidCredentials,
        Self::Forbidden,
        Self::Unavailable,
        Self::TooManyFailures(0),
        Self::TooManyConnections,
    ];

    /// The message of the `connect_error`.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::InvalidNamespace => "Invalid namespace",
            Self::AuthenticationRequired => "Authentication required",
            Self::InvalidToken => "Invalid token",
            Self::TokenExpired => "Token expired",
            // As @socket.io/admin-ui has it.
            Self::InvalidCredentials => "invalid credentials",
            Self::Forbidden => "Forbidden",
            Self::Unavailable => "Unavailable",
            Self::TooManyFailures(_) => "Too many attempts",
            Self::TooManyConnections => "Too many connections",
        }
    }

    /// The code that goes with it, if one does.
    #[must_use]
    pub fn code(self) -> Option<ErrorCode> {
        match self {
            Self::InvalidNamespace => None,
            Self::AuthenticationRequired
            | Self::InvalidToken
            | Self::TokenExpired
            | Self::InvalidCredentials => Some(ErrorCode::Unauthorized),
            Self::Forbidden => Some(ErrorCode::Forbidden),
            Self::Unavailable => Some(ErrorCode::Unavailable),
            Self::TooManyFailures(_) | Self::TooManyConnections => Some(ErrorCode::RateLimited),
        }
    }

    /// The `data` of the `connect_error`, raw JSON.
    #[must_use]
    pub fn data(self) -> Option<String> {
        let code = self.code()?.as_str();
        Some(match self.retry_after() {
            Some(seconds) => format!(r#"{{"code":"{code}","retryAfter":{seconds}}}"#),
            None => format!(r#"{{"code":"{code}"}}"#),
        })
    }

    /// The same as the error of an event or of a request over HTTP.
    #[must_use]
    pub fn to_error(self) -> ClientError {
        let mut error = ClientError::new(self.code().unwrap_or(ErrorCode::NotFound), self.message());
        error.retry_after = self.retry_after();
        error
    }

    /// Seconds after which it may be tried again, where that is known.
    fn retry_after(self) -> Option<u64> {
        match self {
            Self::TooManyFailures(seconds) => Some(seconds),
            Self::TooManyConnections => Some(FULL),
            Self::InvalidNamespace
            | Self::AuthenticationRequired
            | Self::InvalidToken
            | Self::TokenExpired
            | Self::InvalidCredentials
            | Self::Forbidden
            | Self::Unavailable => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_has_the_message_code_and_status_of_the_contract() {
        for (refusal, message, code, status) in [
            (
                Refusal::AuthenticationRequired,
                "Authentication required",
                "UNAUTHORIZED",
                401,
            ),
            (Refusal::InvalidToken, "Invalid token", "UNAUTHORIZED", 401),
            (Refusal::TokenExpired, "Token expired", "UNAUTHORIZED", 401),
            (Refusal::Forbidden, "Forbidden", "FORBIDDEN", 403),
            (Refusal::Unavailable, "Unavailable", "UNAVAILABLE", 503),
        ] {
            assert_eq!(refusal.message(), message);
            assert_eq!(refusal.to_string(), message);
            assert_eq!(refusal.data().unwrap(), format!(r#"{{"code":"{code}"}}"#));
            let error = refusal.to_error();
            assert_eq!((error.code.as_str(), error.code.http_status()), (code, status));
            assert_eq!(error.message, message);
        }
        assert_eq!(Refusal::InvalidNamespace.data(), None);
        for (later, message, seconds) in [
            (Refusal::TooManyFailures(7), "Too many attempts", 7),
            (Refusal::TooManyConnections, "Too many connections", 5),
        ] {
            let data = format!(r#"{{"code":"RATE_LIMITED","retryAfter":{seconds}}}"#);
            assert_eq!(later.data().unwrap(), data);
            let error = later.to_error();
            assert_eq!(
                (error.code.http_status(), error.retry_after),
                (429, Some(seconds))
            );
            assert_eq!(error.message, message);
        }
    }
}
