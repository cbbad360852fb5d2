//! Requests to the two places that are asked: a JWKS, and the application's session endpoint.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use config::Config;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
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

/// A pool of connections. Redirects are not followed: where a token goes is the operator's to say.
#[derive(Clone)]
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    pub(crate) timeout: Duration,
}

/// Why there is no answer. Shows neither what was sent nor what came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("no answer in {0:?}")]
    Late(Duration),
    #[error("{0}")]
    Failed(String),
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
}

impl Http {
    /// The system's authorities are read only where a URL needs them.
    pub(crate) fn new(config: &Config) -> Result<Self, SetupError> {
        let auth = &config.auth;
        let issuers = config.issuers.iter().map(|issuer| issuer.jwks_url.as_deref());
        let urls = issuers.chain([auth.jwks_url.as_deref(), auth.session_url.as_deref()]);
        let needs_tls = urls.flatten().any(|url| url.starts_with("https:"));
        let builder = HttpsConnectorBuilder::new();
        let connector = match &auth.tls_ca {
            Some(path) => builder.with_tls_config(tls(roots(path)?)?),
            None if needs_tls => builder
                .with_provider_and_native_roots(ring::default_provider())
                .map_err(|error| setup("auth.tls_ca", format!("the system has no authorities: {error}")))?,
            None => builder.with_tls_config(tls(RootCertStore::empty())?),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector.https_or_http().enable_http1().build());
        Ok(Self {
            client,
            timeout: auth.timeout,
        })
    }

    /// Status and body of at most `limit` bytes.
    pub(crate) async fn get(&self, url: &Uri, limit: usize) -> Result<(StatusCode, Bytes), CallError> {
        self.call(request(Method::GET, url, Bytes::new()), limit).await
    }

    /// As [`Http::get`], with a JSON body.
    pub(crate) async fn post(
        &self,
        url: &Uri,
        json: Vec<u8>,
        limit: usize,
    ) -> Result<(StatusCode, Bytes), CallError> {
        self.call(request(Method::POST, url, json.into()), limit).await
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
pub(crate) fn uri(setting: &str, url: &str) -> Result<Uri, SetupError> {
    url.parse().map_err(|_| setup(setting, "is no URL".to_owned()))
}

pub(crate) fn setup(setting: &str, problem: String) -> SetupError {
    SetupError {
        setting: setting.to_owned(),
        problem,
    }
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

fn tls(roots: RootCertStore) -> Result<ClientConfig, SetupError> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| setup("auth.tls_ca", error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

fn roots(path: &Path) -> Result<RootCertStore, SetupError> {
    let wrong = |problem: String| setup("auth.tls_ca", format!("{}: {problem}", path.display()));
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
