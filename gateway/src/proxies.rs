//! Which address a client has: the peer's, or what a trusted proxy in front of it says.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use config::Network;
use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncRead, AsyncReadExt};

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// Bytes of the longest header of version 1, its end included.
const V1_LONGEST: usize = 107;
const V1: &[u8] = b"PROXY ";
const V2: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of addresses and further fields of a header of version 2; more is taken for an attack.
const V2_LONGEST: u16 = 4096;

/// The proxies whose word counts.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    trusted: Vec<Network>,
    /// They say the client's address in a PROXY header before anything else.
    protocol: bool,
}

impl Proxies {
    /// `trusted` proxies; with `protocol` they begin each connection with a PROXY header, of version 1 or 2, and others
    /// do not.
    #[must_use]
    pub fn new(trusted: Vec<Network>, protocol: bool) -> Self {
        Self { trusted, protocol }
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.trusted.iter().any(|network| network.contains(ip))
    }

    /// Whose connection it is, for a new one from `peer`. Reads the PROXY header and nothing behind it.
    ///
    /// # Errors
    /// When a header is due and does not come within `timeout`, or is none. The connection is then to be dropped.
    pub(crate) async fn origin(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        peer: IpAddr,
        timeout: Duration,
    ) -> io::Result<IpAddr> {
        if !self.protocol || !self.trusts(peer) {
            return Ok(peer);
        }
        let header = tokio::time::timeout(timeout, read_header(stream)).await;
        Ok(header.map_err(io::Error::from)??.unwrap_or(peer))
    }

    /// Whose request it is, on a connection of `origin`: from the right, the first address in `X-Forwarded-For` that is
    /// no trusted proxy's, because what stands left of it anybody may have written.
    pub(crate) fn client(&self, origin: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = origin;
        if self.trusted.is_empty() || !self.trusts(client) {
            return client;
        }
        let values: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
        let said = values
            .iter()
            .rev()
            .flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        for said in said {
            let Some(ip) = address(said.trim()) else {
                return client;
            };
            client = ip;
            if !self.trusts(client) {
                break;
            }
        }
        client
    }

    /// Whether a request on a connection of `origin` came by https to a trusted proxy, which says so.
    pub(crate) fn ended_tls(&self, origin: IpAddr, headers: &HeaderMap) -> bool {
        let is_https = |proto: &HeaderValue| proto.as_bytes().eq_ignore_ascii_case(b"https");
        headers.get(FORWARDED_PROTO).is_some_and(is_https) && self.trusts(origin)
    }
}

/// An address, alone or with a port, as proxies write it.
fn address(text: &str) -> Option<IpAddr> {
    let ip = text.parse().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|addr| addr.ip());
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    ip.or_else(with_port).or_else(in_brackets)
}

/// The address in a PROXY header; `None` when the proxy speaks for itself.
async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let mut begin = [0; V2.len()];
    stream.read_exact(&mut begin).await?;
    if begin == V2 {
        return read_v2(stream).await;
    }
    if !begin.starts_with(V1) {
        return Err(broken("no PROXY header"));
    }
    let mut line = begin.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() >= V1_LONGEST {
            return Err(broken("a PROXY header without end"));
        }
        line.push(stream.read_u8().await?);
    }
    v1(&line).ok_or_else(|| broken("a PROXY header that says nothing"))
}

fn v1(line: &[u8]) -> Option<Option<IpAddr>> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix("\r\n")?;
    let mut words = text.split(' ').skip(1);
    match words.next()? {
        "TCP4" => Some(Some(words.next()?.parse::<Ipv4Addr>().ok()?.into())),
        "TCP6" => Some(Some(words.next()?.parse::<Ipv6Addr>().ok()?.into())),
        "UNKNOWN" => Some(None),
        _ => None,
    }
}

async fn read_v2(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<IpAddr>> {
    let (command, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let length = stream.read_u16().await?;
    if length > V2_LONGEST {
        return Err(broken("a PROXY header that is too long"));
    }
    let mut rest = vec![0; usize::from(length)];
    stream.read_exact(&mut rest).await?;
    v2(command, family, &rest).ok_or_else(|| broken("a PROXY header that says nothing"))
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Option<Option<IpAddr>> {
    match (command, family >> 4) {
        // LOCAL: a check of the proxy's own. An unknown family says nothing about whom it is for.
        (0x20, _) | (0x21, 0 | 3) => Some(None),
        (0x21, 1) => Some(Some(
            Ipv4Addr::from(<[u8; 4]>::try_from(rest.get(..4)?).ok()?).into(),
        )),
        (0x21, 2) => Some(Some(
            Ipv6Addr::from(<[u8; 16]>::try_from(rest.get(..16)?).ok()?).into(),
        )),
        _ => None,
    }
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn trusting(networks: &[&str]) -> Proxies {
        Proxies::new(networks.iter().map(|text| text.parse().unwrap()).collect(), false)
    }

    #[test]
    fn a_trusted_proxy_alone_says_that_it_ended_tls() {
        let proxies = trusting(&["10.0.0.0/8"]);
        for (peer, proto, expected) in [
            ("10.0.0.1", Some("https"), true),
            ("::ffff:10.0.0.1", Some("HTTPS"), true),
            ("10.0.0.1", Some("http"), false),
            ("10.0.0.1", None, false),
            ("6.6.6.6", Some("https"), false),
        ] {
            let proto = proto.map(|proto| {
                (
                    http::HeaderName::from_static(FORWARDED_PROTO),
                    HeaderValue::from_static(proto),
                )
            });
            let headers = proto.into_iter().collect();
            assert_eq!(
                proxies.ended_tls(ip(peer), &headers),
                expected,
                "{peer} {headers:?}"
            );
        }
    }

    #[test]
    fn table_of_forwarded_for() {
        let proxies = trusting(&["10.0.0.0/8", "fd00::/8"]);
        for (peer, headers, client) in [
            ("10.0.0.1", &[][..], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6, 1.2.3.4, 10.9.9.9"], "1.2.3.4"),
            ("10.0.0.1", &["6.6.6.6", "1.2.3.4,10.9.9.9"], "1.2.3.4"),
            ("10.0.0.1", &["1.2.3.4:5678"], "1.2.3.4"),
            ("fd00::1", &["[2001:db8::7]:5678"], "2001:db8::7"),
            ("fd00::1", &["[2001:db8::7]"], "2001:db8::7"),
            ("::ffff:10.0.0.1", &["1.2.3.4"], "1.2.3.4"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["1.2.3.4, unknown, 10.2.2.2"], "10.2.2.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &["10.1.1.1"], "10.1.1.1"),
            ("6.6.6.6", &["1.2.3.4"], "6.6.6.6"),
        ] {
            let mut map = HeaderMap::new();
            for value in headers {
                map.append(FORWARDED_FOR, HeaderValue::from_static(value));
            }
            assert_eq!(proxies.client(ip(peer), &map), ip(client), "{peer} {headers:?}");
            assert_eq!(Proxies::default().client(ip(peer), &map), ip(peer));
        }
    }

    #[test]
    fn table_of_proxy_headers() {
        for (line, says) in [
            ("PROXY TCP4 1.2.3.4 10.0.0.1 5 80\r\n", Some(Some(ip("1.2.3.4")))),
            (
                "PROXY TCP6 2001:db8::7 ::1 5 80\r\n",
                Some(Some(ip("2001:db8::7"))),
            ),
            ("PROXY UNKNOWN\r\n", Some(None)),
            ("PROXY UNKNOWN ff:: ff:: 1 1\r\n", Some(None)),
            ("PROXY TCP4 ::1 ::1 5 80\r\n", None),
            ("PROXY TCP4\r\n", None),
            ("PROXY UDP4 1.2.3.4 10.0.0.1 5 80\r\n", None),
        ] {
            assert_eq!(v1(line.as_bytes()), says, "{line:?}");
        }
        let v6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        for (command, family, rest, says) in [
            (
                0x21,
                0x11,
                &[1, 2, 3, 4, 10, 0, 0, 1, 0, 5, 0, 80][..],
                Some(Some(ip("1.2.3.4"))),
            ),
            (
                0x21,
                0x21,
                &[&v6[..], &v6, &[0; 4]].concat(),
                Some(Some(ip("2001:db8::7"))),
            ),
            (0x20, 0x00, &[], Some(None)),
            (0x21, 0x00, &[], Some(None)),
            (0x21, 0x31, &[0; 216], Some(None)),
            (0x21, 0x11, &[1, 2, 3], None),
            (0x22, 0x11, &[1, 2, 3, 4], None),
            (0x11, 0x11, &[1, 2, 3, 4], None),
        ] {
            assert_eq!(v2(command, family, rest), says, "{command:x} {family:x}");
        }
    }
}
