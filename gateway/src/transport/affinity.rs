//! What load balancers hash, so that requests of one client keep coming to one gateway. Only a help: any
//! gateway takes any request and forwards what is another's.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderMap, HeaderValue, header};

use super::server::push_random;

/// Name of the affinity cookie.
pub const COOKIE: &str = "fanfare";
/// Characters of the cookie's value, all URL-safe.
const VALUE_LEN: usize = 20;

/// The key that decides where a request goes if it is up to hashing: the session id, else the affinity
/// cookie, else the client's address.
///
/// Load balancers are configured with the same order (`deploy/`). Inside the cluster,
/// `model::rendezvous(session_key(…), gateways)` is the gateway that takes a session over.
#[must_use]
pub fn session_key<'a>(sid: Option<&'a str>, headers: &'a HeaderMap, ip: IpAddr) -> Cow<'a, str> {
    let sid = sid.filter(|sid| !sid.is_empty());
    match (sid, cookie(headers)) {
        (Some(sid), _) => Cow::Borrowed(sid),
        (None, Some(value)) => Cow::Borrowed(value),
        (None, None) => Cow::Owned(ip.to_canonical().to_string()),
    }
}

/// The client's affinity cookie, if it is one of ours: 20 URL-safe characters.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, value)| *name == COOKIE && value.len() == VALUE_LEN && value.bytes().all(url_safe))
        .map(|(_, value)| value)
}

/// `Set-Cookie` for the answer to a handshake; `None` when the client has a good one, which it keeps.
///
/// The value is random: nothing of the session id, which is a secret, can be read from it. A page of
/// another site sends a cookie along only with `SameSite=None`, which browsers take over TLS alone; so a
/// handshake that came by https gets that.
pub(super) fn issue(request: &HeaderMap, is_https: bool) -> Option<HeaderValue> {
    if cookie(request).is_some() {
        return None;
    }
    let mut line = String::with_capacity(96);
    line.push_str(COOKIE);
    line.push('=');
    push_random(&mut line, VALUE_LEN);
    line.push_str("; Path=/; HttpOnly; ");
    line.push_str(if is_https {
        "Secure; SameSite=None"
    } else {
        "SameSite=Lax"
    });
    HeaderValue::try_from(line).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "abcdefghijABCDEFGH_-";

    fn headers(cookies: &[&str]) -> HeaderMap {
        let lines = cookies.iter().map(|line| HeaderValue::from_str(line).unwrap());
        lines.map(|line| (header::COOKIE, line)).collect()
    }

    #[test]
    fn the_key_is_the_session_else_the_cookie_else_the_address() {
        let ip: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
        let with = headers(&["theme=dark", &format!("x=1; fanfare={GOOD}; y=2")]);
        let without = headers(&["notfanfare=1; fanfare=short"]);
        assert_eq!(session_key(Some("S"), &with, ip), "S");
        assert_eq!(session_key(Some(""), &with, ip), GOOD);
        assert_eq!(session_key(None, &with, ip), GOOD);
        assert_eq!(session_key(None, &without, ip), "192.0.2.7");
    }

    #[test]
    fn a_good_cookie_is_kept_and_a_malformed_one_replaced() {
        assert_eq!(issue(&headers(&[&format!("fanfare={GOOD}")]), false), None);
        for bad in [
            "fanfare=",
            "fanfare=short",
            "fanfare=abcdefghijABCDEFGH_;",
            "fanfare=abcdefghijABCDEFGH_!",
        ] {
            assert!(issue(&headers(&[bad]), false).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_cookie_for_https_works_across_sites() {
        let plain = issue(&HeaderMap::new(), false).unwrap();
        let plain = plain.to_str().unwrap();
        assert!(plain.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{plain}");
        let mut said = HeaderMap::new();
        said.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        let told = issue(&said, false).unwrap();
        assert!(
            told.to_str().unwrap().ends_with("; SameSite=Lax"),
            "whose word counts is not decided here"
        );
        let secure = issue(&said, true).unwrap();
        let secure = secure.to_str().unwrap();
        assert!(
            secure.ends_with("; Path=/; HttpOnly; Secure; SameSite=None"),
            "{secure}"
        );
        said.insert(header::COOKIE, secure.split(';').next().unwrap().parse().unwrap());
        assert_eq!(issue(&said, true), None, "what was issued is good");
    }
}
