//! The worker's end.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::Stream;
use http::{Request, Uri};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use proto::v1::{LinkAcknowledgement, LinkFrame, LinkHello, gateway_link_client::GatewayLinkClient};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, body::Body};

use super::{
    MAX_RECORD, PROTOCOL,
    stats::{LinkMeter, Meter},
    wire::{Framer, counts},
};
use crate::{
    Batch, Connector, GatewayLink, LinkError, LinkLimits, VolatileEvent, Waiting,
    positions::Positions,
    queue::{Queue, Room},
    tls::InternalTls,
};

/// A gateway that has not taken the link within this time is not there.
const CONNECT: Duration = Duration::from_secs(2);
/// A gateway that sends nothing for this time is asked for a sign of life, which it has as long again to
/// give.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// After the worker let go of a link, what was queued may take so long to go out.
const LINGER: Duration = Duration::from_secs(5);
/// And a connection that is done with, to end in good order.
const GOODBYE: Duration = Duration::from_secs(1);
/// The other direction carries acknowledgements only.
const WINDOW: u32 = 64 << 10;

/// Makes links to gateways over gRPC, each on a connection of its own.
pub struct GrpcConnector {
    worker: Arc<str>,
    partitions: u16,
    limits: LinkLimits,
    max_record: usize,
    tls: Option<InternalTls>,
    meter: Arc<Meter>,
}

impl GrpcConnector {
    /// For the worker of that id, whose log has so many partitions. `limits` are those of each link. With
    /// `tls` gateways must show a certificate of the same authority and are shown one; without, connections
    /// are plain.
    #[must_use]
    pub fn new(worker: &str, partitions: u16, limits: LinkLimits, tls: Option<InternalTls>) -> Self {
        Self {
            worker: worker.into(),
            partitions,
            limits,
            max_record: MAX_RECORD,
            tls,
            meter: Arc::default(),
        }
    }

    /// Records of at most so many bytes go over the wire, instead of [`MAX_RECORD`]; gateways must take as
    /// much. A batch with a larger one is refused as [`LinkError::Full`]: the gateway reads the gap from
    /// the log.
    #[must_use]
    pub fn max_record(mut self, bytes: usize) -> Self {
        self.max_record = bytes;
        self
    }

    /// Counts what is sent.
    #[must_use]
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    async fn open(&self, gateway: &str, address: &str) -> Result<GrpcLink, ConnectError> {
        let authority = Uri::builder()
            .scheme(if self.tls.is_some() { "https" } else { "http" })
            .authority(address)
            .path_and_query("/")
            .build()?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Io> = match &self.tls {
            Some(tls) => Box::new(tls.connect_http2(address, stream).await?),
            None => Box::new(stream),
        };
        let tasks = Tasks(CancellationToken::new());
        let cut = tasks.0.clone().drop_guard();
        let (sender, connection) = http2::Builder::new(tasks)
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await?;
        let mut connection = Box::pin(connection);

        let shared = Arc::new(Shared {
            queue: Queue::new(self.limits),
            acknowledged: Positions::new(self.partitions),
            max_record: self.max_record,
            let_go: Notify::new(),
        });
        let outgoing = Outgoing {
            hello: Some(LinkHello {
                protocol: PROTOCOL,
                worker: self.worker.to_string(),
                gateway: gateway.to_owned(),
                partitions: self.partitions.into(),
            }),
            framer: Framer::default(),
            shared: Arc::clone(&shared),
            meter: self.meter.link(gateway),
        };
        let requests = tower::service_fn(move |request: Request<Body>| sender.clone().send_request(request));
        let mut client = GatewayLinkClient::with_origin(requests, authority);
        let answer = tokio::select! {
            answer = client.deliver(outgoing) => answer?,
            result = &mut connection => return Err(result.err().map_or(ConnectError::Ended, Into::into)),
        };
        let running = Arc::clone(&shared);
        let gateway = gateway.to_owned();
        spawn(async move {
            let reason = tokio::select! {
                ended = running.read(answer.into_inner()) => ended.map_or_else(|| "it ended".to_owned(), |status| status.to_string()),
                result = connection => result.err().map_or_else(|| "it ended".to_owned(), |error| causes(&error)),
                () = running.lingered() => "the gateway took nothing more".to_owned(),
            };
            running.queue.close();
            tracing::debug!(gateway, reason, "a link is closed");
            // Says goodbye, if the other end is still there to hear it, and is cut.
            drop(client);
            sleep(GOODBYE).await;
            drop(cut);
        });
        Ok(GrpcLink { shared })
    }
}

#[async_trait]
impl Connector for GrpcConnector {
    /// Waits for 2 s at most. Why it failed is logged.
    async fn connect(&self, gateway: &str, address: &str) -> Result<Arc<dyn GatewayLink>, LinkError> {
        let error = match timeout(CONNECT, self.open(gateway, address)).await {
            Ok(Ok(link)) => return Ok(Arc::new(link)),
            Ok(Err(error)) => causes(&error),
            Err(_) => format!("no answer within {CONNECT:?}"),
        };
        tracing::warn!(gateway, address, error, "no link to the gateway");
        Err(LinkError::Closed)
    }
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("the address cannot be one")]
    Address(#[from] http::Error),
    #[error("connecting failed")]
    Connect(#[from] io::Error),
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
    #[error("the connection ended")]
    Ended,
    #[error("refused as {:?}: {}", .0.code(), .0.message())]
    Refused(#[from] Status),
}

/// An error with what is behind it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

struct Shared {
    queue: Queue,
    acknowledged: Positions,
    max_record: usize,
    /// The worker has let go of the link.
    let_go: Notify,
}

impl Shared {
    /// Until the gateway ends the stream; with its reason, or that of the connection.
    async fn read(&self, mut acknowledgements: Streaming<LinkAcknowledgement>) -> Option<Status> {
        loop {
            match acknowledgements.message().await {
                Ok(Some(acknowledgement)) => {
                    for position in acknowledgement.positions {
                        // Those of partitions that do not exist change nothing.
                        if let Ok(partition) = u16::try_from(position.partition) {
                            self.acknowledged.raise(partition, position.seq);
                        }
                    }
                }
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    }

    async fn lingered(&self) {
        self.let_go.notified().await;
        sleep(LINGER).await;
    }
}

struct GrpcLink {
    shared: Arc<Shared>,
}

impl GatewayLink for GrpcLink {
    fn deliver(&self, batch: Batch) -> Result<(), LinkError> {
        let max = self.shared.max_record;
        if let Some(delivery) = batch
            .deliveries
            .iter()
            .find(|delivery| delivery.record.len() > max)
        {
            if self.shared.queue.is_closed() {
                return Err(LinkError::Closed);
            }
            tracing::error!(
                partition = batch.partition,
                seq = delivery.seq,
                bytes = delivery.record.len(),
                max,
                "a record is too large for the links; gateways read it from the log"
            );
            return Err(LinkError::Full);
        }
        self.shared.queue.push_batch(batch)
    }

    fn signal(&self, signal: VolatileEvent) {
        if signal.record.len() <= self.shared.max_record {
            self.shared.queue.push_signal(signal);
        }
    }

    fn acknowledged(&self, partition: u16) -> u64 {
        self.shared.acknowledged.get(partition)
    }

    fn waiting(&self) -> Waiting {
        self.shared.queue.waiting()
    }
}

impl Drop for GrpcLink {
    fn drop(&mut self) {
        self.shared.queue.end();
        self.shared.let_go.notify_one();
    }
}

/// The frames of a link, asked for one by one as HTTP/2 has room for them.
struct Outgoing {
    hello: Option<LinkHello>,
    framer: Framer,
    shared: Arc<Shared>,
    meter: LinkMeter,
}

impl Stream for Outgoing {
    type Item = LinkFrame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<LinkFrame>> {
        let this = &mut *self;
        if let Some(hello) = this.hello.take() {
            return Poll::Ready(Some(LinkFrame {
                hello: Some(hello),
                items: Vec::new(),
            }));
        }
        loop {
            if let Some((frame, weight)) = this.framer.frame() {
                this.shared.queue.release(weight);
                this.meter.add(counts(&frame));
                return Poll::Ready(Some(frame));
            }
            let mut arrivals = Vec::new();
            if !ready!(this.shared.queue.poll_take(context, &mut arrivals, Room::Later)) {
                return Poll::Ready(None);
            }
            this.framer.fill(arrivals);
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // Nobody sends what is queued any more.
        self.shared.queue.close();
    }
}

/// Runs what HTTP/2 needs for a connection until it is cut: a stream that the other end does not read would
/// hold it for ever.
#[derive(Clone)]
struct Tasks(CancellationToken);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let cut = self.0.clone();
        spawn(async move {
            cut.run_until_cancelled_owned(task).await;
        });
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "belongs to a link and ends with it: when the gateway ends the stream, when the connection \
              breaks, or soon after the worker let go of it"
)]
fn spawn(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future);
}
