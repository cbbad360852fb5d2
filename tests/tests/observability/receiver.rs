//! Takes spans as an OpenTelemetry collector does, and keeps them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
};
use parking_lot::Mutex;
use prost::Message;
use tests::until;
use tokio::runtime::Runtime;
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

const WITHIN: Duration = Duration::from_secs(30);

/// A span that has come.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) name: String,
    /// Of whom: `service.name` and `service.instance.id`.
    pub(crate) process: (String, String),
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Empty for none.
    pub(crate) parent: String,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    pub(crate) time: (u64, u64),
}

/// What has come so far.
#[derive(Clone, Default)]
pub(crate) struct Spans(Arc<Mutex<Vec<Span>>>);

/// A collector. Dropping it ends the one over gRPC.
pub(crate) struct Receiver {
    pub(crate) spans: Spans,
    pub(crate) url: String,
    _runtime: Option<Runtime>,
}

impl Receiver {
    pub(crate) fn grpc() -> Result<Self> {
        Self::start("http", Server::builder())
    }

    /// Over TLS, with a certificate whose authority (PEM) it hands over.
    pub(crate) fn tls() -> Result<(Self, String)> {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let authority = own.cert.pem();
        let identity = Identity::from_pem(&authority, own.signing_key.serialize_pem());
        let server = Server::builder().tls_config(ServerTlsConfig::new().identity(identity))?;
        Ok((Self::start("https", server)?, authority))
    }

    fn start(scheme: &str, mut server: Server) -> Result<Self> {
        let spans = Spans::default();
        let address: SocketAddr = ([127, 0, 0, 1], tests::servers::free_port()?).into();
        let runtime = crate::runtime()?;
        let service = TraceServiceServer::new(spans.clone());
        runtime.spawn(server.add_service(service).serve(address));
        Ok(Self {
            spans,
            url: format!("{scheme}://{address}"),
            _runtime: Some(runtime),
        })
    }

    /// Over HTTP/1.1; its thread ends with the process.
    pub(crate) fn http() -> Result<Self> {
        let spans = Spans::default();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let taken = spans.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let taken = taken.clone();
                thread::spawn(move || requests(&stream, &taken));
            }
        });
        Ok(Self {
            spans,
            url,
            _runtime: None,
        })
    }
}

/// Answers the requests of one connection.
fn requests(stream: &TcpStream, spans: &Spans) -> Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        reader.read_line(&mut line)?;
        ensure!(line.starts_with("POST /v1/traces "), "{line:?}");
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.split_once(':') else {
                break;
            };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        spans.take(ExportTraceServiceRequest::decode(&body[..])?);
        let mut answer = stream;
        answer.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n",
        )?;
    }
}

#[tonic::async_trait]
impl TraceService for Spans {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Spans {
    fn take(&self, request: ExportTraceServiceRequest) {
        let mut spans = self.0.lock();
        for of_process in request.resource_spans {
            let resource = texts(&of_process.resource.unwrap_or_default().attributes);
            let value = |key: &str| resource.get(key).cloned().unwrap_or_default();
            let process = (value("service.name"), value("service.instance.id"));
            for span in of_process.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Span {
                    name: span.name,
                    process: process.clone(),
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    attributes: texts(&span.attributes),
                    time: (span.start_time_unix_nano, span.end_time_unix_nano),
                });
            }
        }
    }

    pub(crate) fn all(&self) -> Vec<Span> {
        self.0.lock().clone()
    }

    /// The spans of a trace, once there are so many.
    pub(crate) fn of_trace(&self, trace: &str, count: usize) -> Result<Vec<Span>> {
        let found = || -> Vec<Span> {
            let spans = self.0.lock();
            spans.iter().filter(|span| span.trace == trace).cloned().collect()
        };
        until("the spans of the trace come", WITHIN, || {
            Ok(found().len() >= count)
        })
        .with_context(|| format!("{count} of {trace}: {:#?}", self.all()))?;
        Ok(found())
    }
}

/// The tree below a span, as an indented list: name, process, and how long it took in µs.
pub(crate) fn tree(spans: &[Span], parent: &str) -> String {
    let mut text = String::new();
    draw(spans, parent, 0, &mut text);
    text
}

fn draw(spans: &[Span], parent: &str, depth: usize, text: &mut String) {
    let mut children: Vec<_> = spans.iter().filter(|span| span.parent == parent).collect();
    children.sort_by_key(|span| span.time);
    for span in children {
        let took = span.time.1.saturating_sub(span.time.0) / 1000;
        let _ = writeln!(
            text,
            "{}{} [{}] {took} µs",
            "  ".repeat(depth),
            span.name,
            span.process.0
        );
        draw(spans, &span.id, depth + 1, text);
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pairs = attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), text(attribute)));
    pairs.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
