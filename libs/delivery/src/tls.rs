//! Mutual TLS between the roles: each shows a certificate and asks for one, of one authority.
//!
//! Whoever holds a certificate of that authority is one of the roles: it should sign nothing else. A
//! certificate is used as server and as client, so an extended key usage, where there is one, must name
//! both. A server's certificate must carry the host of the address it is reached at as a subject
//! alternative name (DNS or IP), or the one [server name](InternalTls::with_server_name) that all carry.
//! A renewed certificate is taken up by [`Identity::reload`]; another authority needs a restart.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use lifecycle::tls::{self, Identity, certificates};
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::ServerName,
        server::{VerifierBuilderError, WebPkiClientVerifier},
    },
};

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Certificate, key and authority of a role.
#[derive(Clone)]
pub struct InternalTls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    http2: TlsConnector,
    name: Option<ServerName<'static>>,
    identity: Arc<Identity>,
}

/// Why the files cannot be used. Says which one.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificate or key.
    #[error(transparent)]
    Identity(#[from] tls::TlsError),
    /// The authority cannot be used.
    #[error("{}: {source}", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: VerifierBuilderError,
    },
    /// Neither a DNS name nor an IP address.
    #[error("{name:?} is neither a DNS name nor an IP address")]
    Name {
        /// The name.
        name: String,
    },
}

impl InternalTls {
    /// Reads the role's certificate (with intermediate ones behind it), its key, and the authority of all
    /// the roles' certificates: PEM files.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(cert: &Path, key: &Path, ca: &Path) -> Result<Self, TlsError> {
        let identity = Arc::new(Identity::load(cert, key)?);
        let mut roots = RootCertStore::empty();
        for authority in certificates(ca)? {
            roots.add(authority).map_err(|source| tls::TlsError::Unusable {
                path: ca.to_owned(),
                source,
            })?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let unusable = |source| tls::TlsError::Unusable {
            path: cert.to_owned(),
            source,
        };
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|source| TlsError::Authority {
                path: ca.to_owned(),
                source,
            })?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::<Identity>::clone(&identity));
        server.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::<Identity>::clone(&identity));
        let mut http2 = client.clone();
        http2.alpn_protocols = vec![HTTP2.to_vec()];
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            http2: TlsConnector::from(Arc::new(http2)),
            name: None,
            identity,
        })
    }

    /// What the role shows, to be [reloaded](Identity::reload) when its files change.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity)
    }

    /// Expects this name in every server's certificate instead of the host of its address: for roles that
    /// are reached at addresses which no certificate can know, such as those of pods.
    ///
    /// # Errors
    /// [`TlsError::Name`].
    pub fn with_server_name(mut self, name: &str) -> Result<Self, TlsError> {
        self.name = Some(server_name(name)?);
        Ok(self)
    }

    /// For listeners: asks for a certificate of the authority, offers HTTP/2 and HTTP/1.1 (ALPN).
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// [`InternalTls::server_config`], ready to accept.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.server_config())
    }

    /// For connections to other roles: shows the certificate, trusts the authority alone, names no protocol
    /// (ALPN). The name to expect is [`InternalTls::server_name`].
    #[must_use]
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    /// The name to expect in the certificate of the server at `address` (`host:port`).
    ///
    /// # Errors
    /// [`TlsError::Name`].
    pub fn server_name(&self, address: &str) -> Result<ServerName<'static>, TlsError> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => server_name(host(address)),
        }
    }

    /// Speaks HTTP/2 over TLS to the server at `address` (`host:port`), which `stream` is connected to.
    ///
    /// # Errors
    /// When the server's certificate is not of the authority or names another host, when the server refuses
    /// this one, or when it does not speak HTTP/2.
    pub async fn connect_http2(&self, address: &str, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let name = self.server_name(address).map_err(io::Error::other)?;
        let stream = self.http2.connect(name, stream).await?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(io::Error::other("the server does not speak HTTP/2 over TLS"));
        }
        Ok(stream)
    }
}

/// Without secrets.
impl fmt::Debug for InternalTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("InternalTls");
        shown.field("name", &self.name).finish_non_exhaustive()
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::Name {
        name: name.to_owned(),
    })
}

/// The host of `host:port`; an IPv6 address without its brackets.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host)
}
