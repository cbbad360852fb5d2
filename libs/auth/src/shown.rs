//! What a handshake request shows of who sends it.

use std::fmt;

use http::{HeaderMap, HeaderName, header};

/// Where a token may stand besides the CONNECT packet and `Authorization`, and what the session endpoint is told.
pub(crate) struct Sources {
    pub(crate) cookie: Option<String>,
    pub(crate) query: Option<String>,
    /// Whether the headers are kept.
    pub(crate) headers: bool,
}

/// What a handshake request shows of who sends it. Its `Debug` shows nothing of that.
#[derive(Clone, Default)]
pub struct Shown(Option<Box<Parts>>);

#[derive(Clone)]
struct Parts {
    token: Option<Box<str>>,
    headers: Vec<(HeaderName, String)>,
}

/// Of one connection and no use to the application; the token is told apart.
const NOT_TOLD: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::SEC_WEBSOCKET_ACCEPT,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
];

impl Shown {
    /// A bearer token alone.
    #[must_use]
    pub fn bearer(headers: &HeaderMap) -> Self {
        let none = Sources {
            cookie: None,
            query: None,
            headers: false,
        };
        Self::of(headers, None, &none)
    }

    pub(crate) fn of(headers: &HeaderMap, query: Option<&str>, sources: &Sources) -> Self {
        let token = bearer(headers)
            .or_else(|| cookie(headers, sources.cookie.as_deref()?))
            .or_else(|| parameter(query?, sources.query.as_deref()?));
        let headers: Vec<_> = headers
            .keys()
            .filter(|name| sources.headers && !NOT_TOLD.contains(name))
            .map(|name| {
                let values = headers
                    .get_all(name)
                    .iter()
                    .filter_map(|value| value.to_str().ok());
                (name.clone(), values.collect::<Vec<_>>().join(", "))
            })
            .collect();
        if token.is_none() && headers.is_empty() {
            return Self(None);
        }
        Self(Some(Box::new(Parts { token, headers })))
    }

    /// The token, if it shows one.
    #[must_use]
    pub fn token(&self) -> Option<&str> {
        self.0.as_ref()?.token.as_deref()
    }

    /// Its headers where the session endpoint is told of them.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.0.iter().flat_map(|parts| &parts.headers);
        headers.map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.token().is_some() {
            "********"
        } else {
            "nothing"
        })
    }
}

fn bearer(headers: &HeaderMap) -> Option<Box<str>> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().into())
}

fn cookie(headers: &HeaderMap, name: &str) -> Option<Box<str>> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, value)| *key == name && !value.is_empty())
        .map(|(_, value)| value.trim_matches('"').into())
}

/// Tokens are of characters that a URL does not escape, but clients may escape all the same.
fn parameter(query: &str, name: &str) -> Option<Box<str>> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, value)| *key == name && !value.is_empty())?;
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        bytes.push(match byte {
            b'%' => u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?,
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn table_of_places() {
        let sources = Sources {
            cookie: Some("session".to_owned()),
            query: Some("token".to_owned()),
            headers: true,
        };
        let none = Sources {
            cookie: None,
            query: None,
            headers: false,
        };
        let cookies = [(header::COOKIE, "a=b; session=from-cookie; session=second")];
        let both = [
            (header::AUTHORIZATION, "bearer  from-header "),
            (header::COOKIE, "session=from-cookie"),
        ];
        let basic = [(header::AUTHORIZATION, "Basic dTpw")];
        for (headers, query, sources, token) in [
            (&cookies[..], None, &sources, Some("from-cookie")),
            (&cookies[..], None, &none, None),
            (&both[..], Some("token=x"), &sources, Some("from-header")),
            (&both[..], None, &none, Some("from-header")),
            (&basic[..], None, &sources, None),
            (&[], Some("EIO=4&token=a%2Eb&token=c"), &sources, Some("a.b")),
            (&[], Some("EIO=4&token=a"), &none, None),
            (&[], Some("token=%zz"), &sources, None),
            (&[], Some("token=%c3"), &sources, None),
            (&[], Some("token="), &sources, None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(name, HeaderValue::from_static(value));
            }
            let shown = Shown::of(&map, query, sources);
            assert_eq!(shown.token(), token, "{headers:?} {query:?}");
            let printed = format!("{shown:?}");
            assert!(printed == "nothing" || printed == "********", "{printed}");
            assert!(shown.headers().all(|(name, _)| name != "authorization"));
        }
    }
}
