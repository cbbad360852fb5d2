//! What texts must look like that are more than a word or a number.

/// `scheme://host…` with one of `schemes`, and nothing that a URL has to escape.
pub(crate) fn is_url(text: &str, schemes: &[&str]) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let is_local = scheme.ends_with("unix") && rest.len() > 1;
    schemes.contains(&scheme) && is_one_word(text) && (is_local || is_host(host))
}

/// `host:port`, the port not 0: others call it.
pub(crate) fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && is_one_word(text)
            && !host.contains('/')
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// `host` or `host:port`.
fn is_host(text: &str) -> bool {
    let is_port_free = !text.contains(':') || text.ends_with(']');
    is_host_port(text) || is_port_free && !text.is_empty() && is_one_word(text)
}

/// One or more servers, comma-separated: URLs with one of `schemes`, or hosts where those may stand alone.
pub(crate) fn are_servers(text: &str, schemes: &[&str], bare_hosts: bool) -> bool {
    text.split(',')
        .map(str::trim)
        .all(|server| is_url(server, schemes) || bare_hosts && !server.contains('/') && is_host(server))
}

fn is_one_word(text: &str) -> bool {
    !text.contains(|char: char| char.is_whitespace() || char.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        for good in [
            "https://a",
            "http://a.example:80/x?y=z",
            "https://[::1]:8443/x",
            "https://u:p@a/x",
        ] {
            assert!(is_url(good, &["http", "https"]), "{good}");
        }
        for bad in [
            "a",
            "https://",
            "https:///x",
            "ftp://a",
            "https://a b",
            "https://a:b",
            "https://a:0",
            "https://a\n",
        ] {
            assert!(!is_url(bad, &["http", "https"]), "{bad:?}");
        }
    }

    #[test]
    fn servers() {
        let nats = ["nats", "tls"];
        for good in [
            "nats://a:4222",
            "nats://a:4222, nats://b:4222",
            "a:4222",
            "a",
            "nats://u:p@a",
        ] {
            assert!(are_servers(good, &nats, true), "{good}");
        }
        for bad in ["", "a,,b", "http://a", "a b", "nats://a:x"] {
            assert!(!are_servers(bad, &nats, true), "{bad:?}");
        }
        assert!(are_servers(
            "redis+unix:///run/redis.sock",
            &["redis+unix"],
            false
        ));
        assert!(!are_servers("a:6379", &["redis"], false));
    }

    #[test]
    fn addresses() {
        for good in ["a:1", "10.0.0.1:7001", "[::1]:7001"] {
            assert!(is_host_port(good), "{good}");
        }
        for bad in ["a", ":1", "a:", "a:0", "a:65536", "a b:1", "http://a:1"] {
            assert!(!is_host_port(bad), "{bad}");
        }
    }
}
