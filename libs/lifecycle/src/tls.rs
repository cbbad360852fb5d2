//! Certificates that are read again when they are renewed, and TLS for listeners.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        self, ServerConfig, SignatureScheme,
        client::ResolvesClientCert,
        crypto::ring,
        pki_types::{
            CertificateDer, PrivateKeyDer,
            pem::{self, PemObject},
        },
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
};

use crate::Tasks;

/// Files are read again so often.
const RENEWAL: Duration = Duration::from_secs(60);

/// TLS of a listener that asks nobody for a certificate. Clones show the same one.
#[derive(Clone, Debug)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    identity: Arc<Identity>,
}

impl ServerTls {
    /// Reads the certificate (with intermediate ones behind it) and its key: PEM files. TLS 1.2 and 1.3; `protocols` are
    /// offered by ALPN, best first.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(cert: &Path, key: &Path, protocols: &[&[u8]]) -> Result<Self, TlsError> {
        let identity = Arc::new(Identity::load(cert, key)?);
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| TlsError::Unusable {
                path: cert.to_owned(),
                source,
            })?
            .with_no_client_auth()
            .with_cert_resolver(Arc::<Identity>::clone(&identity));
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(Self {
            config: Arc::new(config),
            identity,
        })
    }

    /// Ready to accept.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// What is shown, to be [reloaded](Identity::reload) when its files change.
    #[must_use]
    pub fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity)
    }
}

/// A certificate and its key, as server and as client.
#[derive(Debug)]
pub struct Identity {
    cert: PathBuf,
    key: PathBuf,
    current: RwLock<Arc<CertifiedKey>>,
}

impl Identity {
    /// Reads a certificate (with intermediate ones behind it) and its key: PEM files.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(certified_key(cert, key)?));
        Ok(Self {
            cert: cert.to_owned(),
            key: key.to_owned(),
            current,
        })
    }

    /// Takes renewed files up, once a minute, as long as `tasks` run in the background.
    pub fn keep_renewed(self: &Arc<Self>, tasks: &Tasks) {
        let identity = Arc::clone(self);
        tasks.background("certificate", async move {
            loop {
                tokio::time::sleep(RENEWAL).await;
                match identity.reload() {
                    Ok(true) => tracing::info!("the renewed certificate is shown from now on"),
                    Ok(false) => {}
                    Err(error) => {
                        tracing::error!(%error, "the certificate cannot be read again; the one before is shown on");
                    }
                }
            }
        });
    }

    /// Reads certificate and key again; handshakes from now on show them. `true` when the certificate is another one.
    ///
    /// # Errors
    /// As [`Identity::load`]; what was there is shown on.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let read = certified_key(&self.cert, &self.key)?;
        let mut current = self.current.write();
        let renewed = current.cert != read.cert;
        if renewed {
            *current = Arc::new(read);
        }
        Ok(renewed)
    }

    fn current(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.current.read())
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Why the files cannot be used. Says which one.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or is no PEM.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// There is no certificate in the file.
    #[error("{}: there is no certificate in it (PEM)", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// There is no private key in the file.
    #[error("{}: there is no private key in it (PEM, without a passphrase)", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// A certificate, or the key, is of a kind that cannot be used.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The key belongs to another certificate.
    #[error("{}: this is not the key of the certificate in {}", key.display(), cert.display())]
    Mismatch {
        /// File of the key.
        key: PathBuf,
        /// File of the certificate.
        cert: PathBuf,
    },
}

fn certified_key(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let (chain, secret) = (certificates(cert)?, private_key(key)?);
    CertifiedKey::from_der(chain, secret, &ring::default_provider()).map_err(|source| match source {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
            key: key.to_owned(),
            cert: cert.to_owned(),
        },
        // Of the two it is the key that comes in many kinds.
        rustls::Error::General(_) => TlsError::Unusable {
            path: key.to_owned(),
            source,
        },
        source => TlsError::Unusable {
            path: cert.to_owned(),
            source,
        },
    })
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// Names the file and what is wrong with it.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let certificates: Vec<_> = read.map_err(|source| TlsError::File {
        path: path.to_owned(),
        source,
    })?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_owned(),
        });
    }
    Ok(certificates)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|source| match source {
        pem::Error::NoItemsFound => TlsError::NoKey {
            path: path.to_owned(),
        },
        source => TlsError::File {
            path: path.to_owned(),
            source,
        },
    })
}
