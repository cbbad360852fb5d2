use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hmac::{Hmac, Mac};
use http::{HeaderName, HeaderValue, StatusCode, Uri};
use sha2::Sha256;

use crate::{CallError, Http};

/// Header of a signed webhook (CONTRACT section 6): `t=<unix seconds>,v1=<hex>`.
pub const SIGNATURE: HeaderName = HeaderName::from_static("fanfare-signature");

/// A URL that is told things by POST, with JSON bodies.
#[derive(Clone)]
pub struct Webhook {
    http: Http,
    url: Uri,
    secret: Option<Box<str>>,
}

impl Webhook {
    /// Signed where there is a secret.
    #[must_use]
    pub fn new(http: Http, url: Uri, secret: Option<&str>) -> Self {
        Self {
            http,
            url,
            secret: secret.map(Into::into),
        }
    }

    /// Sends `json` and waits for the answer: its status, and its body of at most `limit` bytes.
    /// Dropped, the connection is closed; the other side may have got it all the same.
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub async fn post(&self, json: Bytes, limit: usize) -> Result<(StatusCode, Bytes), CallError> {
        let signature = self.secret.as_deref().map(|secret| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            signature(secret, now.as_secs(), &json)
        });
        // Digits, letters, `,` and `=`.
        let header = signature.and_then(|signature| HeaderValue::try_from(signature).ok());
        let headers = header.map(|header| (SIGNATURE, header));
        self.http.post(&self.url, headers.as_slice(), json, limit).await
    }
}

/// `t=<time>,v1=<hex HMAC-SHA256(secret, t + "." + body)>`; `time` in Unix seconds.
#[must_use]
pub fn signature(secret: &str, time: u64, body: &[u8]) -> String {
    #[expect(
        clippy::expect_used,
        reason = "HMAC takes keys of any length (RFC 2104 section 2)"
    )]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length");
    let time = time.to_string();
    for part in [time.as_bytes(), b".", body] {
        mac.update(part);
    }
    let mut text = format!("t={time},v1=");
    for byte in mac.finalize().into_bytes() {
        text.extend(
            [byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or_default()),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `printf '%s' '1700000000.{"a":1}' | openssl dgst -sha256 -hmac secret`.
    #[test]
    fn golden_signature() {
        assert_eq!(signature("secret", 1_700_000_000, br#"{"a":1}"#), GOLDEN);
    }

    const GOLDEN: &str = "t=1700000000,v1=49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686";
}
