//! Which pages may talk to us: the Origin check and the CORS headers.

use http::{HeaderMap, HeaderValue, Method, header};

/// Origins from configuration.
#[derive(Clone, Debug)]
pub(crate) struct Origins {
    any: bool,
    list: Vec<String>,
}

impl Origins {
    /// `["*"]` allows any origin, without credentials.
    pub(crate) fn new(origins: &[String]) -> Self {
        Self {
            any: origins.iter().any(|origin| origin == "*"),
            list: origins
                .iter()
                .map(|origin| origin.trim_end_matches('/').to_ascii_lowercase())
                .collect(),
        }
    }

    /// Whether a request may open a session: its `Origin` is listed, is the server's own (same host and
    /// port), or is not there at all (not a browser).
    pub(crate) fn allow(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return true;
        };
        let Ok(origin) = origin.to_str() else { return false };
        self.any || self.lists(origin) || is_own(origin, headers)
    }

    fn lists(&self, origin: &str) -> bool {
        self.list.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
    }

    /// Adds the CORS headers for `request` to an answer's headers.
    pub(crate) fn decorate(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        let Some(origin) = request.get(header::ORIGIN) else {
            return;
        };
        if self.any {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            return;
        }
        answer.append(header::VARY, HeaderValue::from_static("Origin"));
        let allowed = origin
            .to_str()
            .is_ok_and(|text| self.lists(text) || is_own(text, request));
        if allowed {
            answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            answer.insert(
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
    }

    /// The headers that answer a preflight.
    pub(crate) fn preflight(&self, request: &HeaderMap, answer: &mut HeaderMap) {
        self.decorate(request, answer);
        if !answer.contains_key(header::ACCESS_CONTROL_ALLOW_ORIGIN) {
            return;
        }
        let methods = [
            Method::GET,
            Method::HEAD,
            Method::PUT,
            Method::PATCH,
            Method::POST,
            Method::DELETE,
        ];
        let methods = methods.each_ref().map(Method::as_str).join(",");
        if let Ok(methods) = HeaderValue::from_str(&methods) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        if let Some(asked) = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.append(
                header::VARY,
                HeaderValue::from_static("Access-Control-Request-Headers"),
            );
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        }
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
}

fn is_own(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    matches!((host, authority), (Some(host), Some(authority)) if host.eq_ignore_ascii_case(authority))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(origin: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("chat.example:3001"));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        headers
    }

    #[test]
    fn table_of_origins() {
        let listed = Origins::new(&["https://app.example".to_owned()]);
        let any = Origins::new(&["*".to_owned()]);
        for (origins, origin, allowed) in [
            (&listed, None, true),
            (&listed, Some("https://app.example"), true),
            (&listed, Some("https://APP.example"), true),
            (&listed, Some("http://app.example"), false),
            (&listed, Some("https://app.example.evil"), false),
            (&listed, Some("https://evil"), false),
            (&listed, Some("null"), false),
            (&listed, Some("http://chat.example:3001"), true),
            (&listed, Some("http://chat.example:3002"), false),
            (&any, Some("https://evil"), true),
        ] {
            assert_eq!(origins.allow(&request(origin)), allowed, "{origin:?}");
        }
    }

    #[test]
    fn credentials_are_allowed_to_named_origins_only() {
        let mut answer = HeaderMap::new();
        Origins::new(&["https://app.example".to_owned()])
            .decorate(&request(Some("https://app.example")), &mut answer);
        assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
        assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(answer[header::VARY], "Origin");

        let mut answer = HeaderMap::new();
        Origins::new(&["*".to_owned()]).decorate(&request(Some("https://app.example")), &mut answer);
        assert_eq!(answer[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
        assert!(!answer.contains_key(header::ACCESS_CONTROL_ALLOW_CREDENTIALS));
    }
}
