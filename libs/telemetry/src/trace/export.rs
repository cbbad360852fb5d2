use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    SpanExporter as Otlp, WithExportConfig, WithHttpConfig, WithTonicConfig,
    tonic_types::transport::ClientTlsConfig,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter},
};
use prometheus::Registry;
use tokio::runtime::Handle;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use super::Settings;
use crate::computed::counter;

/// A collector that takes longer is taken for gone.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Answers hold no more than an error's text.
const MAX_ANSWER: usize = 64 * 1024;

/// How spans are sent (OpenTelemetry Protocol).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`.
    Grpc,
    /// `http/protobuf`.
    Http,
}

/// The exporter of the settings, counted in `registry`.
pub(super) fn build(settings: &Settings, registry: &Registry) -> Result<Reporting, String> {
    let endpoint = settings.endpoint.trim_end_matches('/');
    let exporter = match settings.protocol {
        Protocol::Grpc => {
            let exporter = Otlp::builder().with_tonic().with_endpoint(endpoint);
            let exporter = exporter.with_timeout(TIMEOUT);
            // By itself it trusts nobody.
            if endpoint.starts_with("https:") {
                exporter
                    .with_tls_config(ClientTlsConfig::new().with_enabled_roots())
                    .build()
            } else {
                exporter.build()
            }
        }
        Protocol::Http => {
            let client = Http::new(endpoint)?;
            let exporter = Otlp::builder().with_http().with_http_client(client);
            let endpoint = format!("{endpoint}/v1/traces");
            exporter.with_endpoint(endpoint).with_timeout(TIMEOUT).build()
        }
    };
    let counts = Arc::new(Counts::default());
    let read = Arc::clone(&counts);
    counter(
        registry,
        "fanfare_spans_total",
        "Spans of traces, by what became of them: sent, or failed when the collector did not take them",
        &["result"],
        move || {
            [("sent", &read.sent), ("failed", &read.failed)]
                .map(|(result, count)| (vec![result.to_owned()], count.load(Ordering::Relaxed) as f64))
                .to_vec()
        },
    )
    .map_err(|error| error.to_string())?;
    Ok(Reporting {
        exporter: exporter.map_err(|error| error.to_string())?,
        endpoint: endpoint.to_owned(),
        counts,
        failing: AtomicBool::new(false),
    })
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
}

/// Says once that the collector takes nothing, and once that it does again.
#[derive(Debug)]
pub(super) struct Reporting {
    exporter: Otlp,
    endpoint: String,
    counts: Arc<Counts>,
    failing: AtomicBool,
}

impl SpanExporter for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let done = self.exporter.export(batch).await;
        let failed = done.is_err();
        let counter = if failed {
            &self.counts.failed
        } else {
            &self.counts.sent
        };
        counter.fetch_add(count, Ordering::Relaxed);
        let failed_before = self.failing.swap(failed, Ordering::Relaxed);
        match &done {
            Err(error) if !failed_before => {
                tracing::warn!(%error, endpoint = self.endpoint, "traces are lost: the collector does not take them");
            }
            Ok(()) if failed_before => {
                tracing::info!(endpoint = self.endpoint, "the collector takes traces again");
            }
            _ => {}
        }
        done
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Requests are made on the runtime: whoever exports has a thread without one.
struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Handle,
}

impl Http {
    fn new(endpoint: &str) -> Result<Self, String> {
        let builder = HttpsConnectorBuilder::new();
        // The system's authorities are read only where they are needed.
        let builder = if endpoint.starts_with("https:") {
            builder
                .with_provider_and_native_roots(ring::default_provider())
                .map_err(|error| format!("the system has no authorities: {error}"))?
        } else {
            let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
            let config = config.with_safe_default_protocol_versions();
            let config = config.map_err(|error| error.to_string())?;
            builder.with_tls_config(
                config
                    .with_root_certificates(RootCertStore::empty())
                    .with_no_client_auth(),
            )
        };
        Ok(Self {
            client: Client::builder(TokioExecutor::new())
                .build(builder.https_or_http().enable_http1().build()),
            runtime: Handle::try_current().map_err(|error| error.to_string())?,
        })
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http")
    }
}

#[async_trait]
impl HttpClient for Http {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let answer = self.runtime.spawn(async move {
            let answer = async {
                let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
                let body = Limited::new(body, MAX_ANSWER).collect().await?;
                Ok(Response::from_parts(head, body.to_bytes()))
            };
            tokio::time::timeout(TIMEOUT, answer).await?
        });
        answer.await?
    }
}
