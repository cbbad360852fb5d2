use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::SetupError;

/// Connections are kept shorter than Node does, which closes its idle ones after 5 s: a request must not meet that.
const IDLE: Duration = Duration::from_secs(4);

/// A pool of connections. Redirects are not followed: where a token goes is the operator's to say. Cheap to clone;
/// clones share the connections.
#[derive(Clone)]
pub struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeout: Duration,
}

/// Whose certificates are trusted.
#[derive(Copy, Clone, Debug)]
pub enum Trust<'a> {
    /// Those of the authorities in a file (PEM), which the setting of this key names.
    File(&'static str, &'a Path),
    /// Those of the system's authorities; `setting` would name others.
    System {
        /// The key of that setting.
        setting: &'static str,
    },
    /// No URL that is called needs TLS.
    Nobody,
}

/// Why there is no answer. Shows neither what was sent nor what came.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Not within the time.
    #[error("no answer in {0:?}")]
    Late(Duration),
    /// The connection failed, or what came is no HTTP.
    #[error("{0}")]
    Failed(String),
    /// More than asked for.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

impl Trust<'_> {
    /// The authorities of `ca` if there is one, else the system's if one of `urls` needs them: they are read only then.
    #[must_use]
    pub fn of<'a>(
        setting: &'static str,
        ca: Option<&'a Path>,
        mut urls: impl Iterator<Item = &'a str>,
    ) -> Trust<'a> {
        match ca {
            Some(path) => Trust::File(setting, path),
            None if urls.any(|url| url.starts_with("https:")) => Trust::System { setting },
            None => Trust::Nobody,
        }
    }
}

impl Http {
    /// Without connections yet. A call may take `timeout`.
    ///
    /// # Errors
    /// When there are no authorities where some are needed.
    pub fn new(trust: Trust<'_>, timeout: Duration) -> Result<Self, SetupError> {
        let builder = HttpsConnectorBuilder::new();
        let connector = match trust {
            Trust::File(setting, path) => builder.with_tls_config(tls(setting, roots(setting, path)?)?),
            Trust::System { setting } => builder
                .with_provider_and_native_roots(ring::default_provider())
                .map_err(|error| {
                    SetupError::new(setting, format!("the system has no authorities: {error}"))
                })?,
            Trust::Nobody => builder.with_tls_config(tls("tls", RootCertStore::empty())?),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector.https_or_http().enable_http1().build());
        Ok(Self { client, timeout })
    }

    /// How long a call may take.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Status and body of at most `limit` bytes. Dropped, the connection is closed.
    ///
    /// # Errors
    /// When there is no whole answer in time.
    pub async fn get(&self, url: &Uri, limit: usize) -> Result<(StatusCode, Bytes), CallError> {
        self.call(request(Method::GET, url, Bytes::new()), limit).await
    }

    /// As [`Http::get`], with a JSON body and further headers.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub async fn post(
        &self,
        url: &Uri,
        headers: &[(HeaderName, HeaderValue)],
        json: Bytes,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let mut request = request(Method::POST, url, json);
        request.headers_mut().extend(headers.iter().cloned());
        self.call(request, limit).await
    }

    /// As [`Http::post`], with PATCH; `headers` say what the body is.
    ///
    /// # Errors
    /// As [`Http::get`].
    pub async fn patch(
        &self,
        url: &Uri,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let mut request = request(Method::PATCH, url, body);
        for (name, value) in headers {
            request.headers_mut().insert(name, value.clone());
        }
        self.call(request, limit).await
    }

    async fn call(
        &self,
        request: Request<Full<Bytes>>,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), CallError> {
        let answer = async {
            let answer = self.client.request(request).await;
            let answer = answer.map_err(|error| CallError::Failed(cause(&error)))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), limit).collect().await;
            let body = body.map_err(|error| {
                if error.is::<http_body_util::LengthLimitError>() {
                    CallError::TooLarge(limit)
                } else {
                    CallError::Failed(cause(&*error))
                }
            })?;
            Ok((status, body.to_bytes()))
        };
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::Late(self.timeout)),
        }
    }
}

/// A URL of the configuration.
///
/// # Errors
/// When it is none.
pub fn uri(setting: &str, url: &str) -> Result<Uri, SetupError> {
    url.parse().map_err(|_| SetupError::new(setting, "is no URL"))
}

fn request(method: Method, url: &Uri, body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    if method == Method::POST {
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
    }
    let accepts = HeaderValue::from_static("application/json, application/jwk-set+json");
    request.headers_mut().insert(header::ACCEPT, accepts);
    *request.method_mut() = method;
    *request.uri_mut() = url.clone();
    request
}

/// The innermost error says what happened.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

fn tls(setting: &str, roots: RootCertStore) -> Result<ClientConfig, SetupError> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::new(setting, error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn roots(setting: &str, path: &Path) -> Result<RootCertStore, SetupError> {
    let wrong = |problem: String| SetupError::new(setting, format!("{}: {problem}", path.display()));
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("there is no certificate in it (PEM)".to_owned()));
    }
    Ok(roots)
}
