use std::fmt;

use model::{ClientError, ErrorCode};

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
        Some(match self {
            Self::TooManyFailures(seconds) => format!(r#"{{"code":"{code}","retryAfter":{seconds}}}"#),
            _ => format!(r#"{{"code":"{code}"}}"#),
        })
    }

    /// The same as the error of an event or of a request over HTTP.
    #[must_use]
    pub fn to_error(self) -> ClientError {
        let mut error = ClientError::new(self.code().unwrap_or(ErrorCode::NotFound), self.message());
        if let Self::TooManyFailures(seconds) = self {
            error.retry_after = Some(seconds);
        }
        error
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
            (
                Refusal::TooManyConnections,
                "Too many connections",
                "RATE_LIMITED",
                429,
            ),
        ] {
            assert_eq!(refusal.message(), message);
            assert_eq!(refusal.to_string(), message);
            assert_eq!(refusal.data().unwrap(), format!(r#"{{"code":"{code}"}}"#));
            let error = refusal.to_error();
            assert_eq!((error.code.as_str(), error.code.http_status()), (code, status));
            assert_eq!(error.message, message);
        }
        assert_eq!(Refusal::InvalidNamespace.data(), None);
        let later = Refusal::TooManyFailures(7);
        assert_eq!(later.data().unwrap(), r#"{"code":"RATE_LIMITED","retryAfter":7}"#);
        assert_eq!(later.to_error().retry_after, Some(7));
    }
}
