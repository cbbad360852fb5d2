//! The gateway's end.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, fence},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{Stream, task::AtomicWaker};
use proto::v1::{
    LinkAcknowledgement, LinkFrame, LinkHello, LinkPosition,
    gateway_link_server::{GatewayLink, GatewayLinkServer},
};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep, timeout},
};
use tonic::{Request, Response, Status, Streaming, service::Routes};

use super::{
    PROTOCOL, standard,
    stats::{LinkMeter, Meter},
    wire::{arrivals, counts, max_message},
};
use crate::{Arrival, Links, Receiver, positions::Positions};

/// A worker says who it is within this time.
const HELLO: Duration = Duration::from_secs(5);
/// A worker is told at most so often how far a gateway is: nothing waits for it, and a message for each batch would
/// cost as much as the batch.
const TOLD_EVERY: Duration = Duration::from_millis(100);
/// Links that may wait to be accepted.
const WAITING: usize = 16;

/// The service for the gateway of that id, whose log has so many partitions, with the standard health and
/// reflection services beside it, and the workers that connect to it. Records of up to `max_record` bytes are taken, see [`MAX_RECORD`](super::MAX_RECORD).
///
/// The service is mounted on a listener that speaks HTTP/2 (`into_axum_router`); the windows of its streams
/// and connections are what may be under way to this gateway beyond the workers' queues. When [`GrpcLinks`]
/// is dropped, workers are told `UNAVAILABLE`; links that were accepted go on.
#[must_use]
pub fn server(gateway: &str, partitions: u16, max_record: usize) -> (Routes, GrpcLinks) {
    let (connected, waiting) = mpsc::channel(WAITING);
    let meter = Arc::new(Meter::default());
    let service = Service {
        gateway: gateway.into(),
        partitions,
        connected,
        meter: Arc::clone(&meter),
    };
    let service = GatewayLinkServer::new(service).max_decoding_message_size(max_message(max_record));
    let routes = standard::with_health_and_reflection(Routes::new(service));
    (routes, GrpcLinks { waiting, meter })
}

/// The workers that connect to a gateway over gRPC.
pub struct GrpcLinks {
    waiting: mpsc::Receiver<GrpcReceiver>,
    meter: Arc<Meter>,
}

impl GrpcLinks {
    /// Counts what is received.
    #[must_use]
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }
}

#[async_trait]
impl Links for GrpcLinks {
    async fn accept(&mut self) -> Option<Box<dyn Receiver>> {
        let receiver = self.waiting.recv().await?;
        Some(Box::new(receiver))
    }
}

struct Service {
    gateway: Arc<str>,
    partitions: u16,
    connected: mpsc::Sender<GrpcReceiver>,
    meter: Arc<Meter>,
}

impl Service {
    fn check(&self, hello: &LinkHello) -> Result<(), Status> {
        let LinkHello {
            protocol,
            worker,
            gateway,
            partitions,
        } = hello;
        if *protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "gateway {} speaks version {PROTOCOL} of the link's protocol, worker {worker} version {protocol}",
                self.gateway
            )));
        }
        if *gateway != *self.gateway {
            return Err(Status::not_found(format!(
                "this is gateway {}, not {gateway}",
                self.gateway
            )));
        }
        if *partitions != u32::from(self.partitions) {
            return Err(Status::failed_precondition(format!(
                "gateway {} has {} partitions, worker {worker} has {partitions}",
                self.gateway, self.partitions
            )));
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl GatewayLink for Service {
    type DeliverStream = Acknowledgements;

    async fn deliver(
        &self,
        request: Request<Streaming<LinkFrame>>,
    ) -> Result<Response<Acknowledgements>, Status> {
        let mut frames = request.into_inner();
        let first = timeout(HELLO, frames.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the worker did not say who it is"))??;
        let hello = first
            .and_then(|frame| frame.hello)
            .ok_or_else(|| Status::invalid_argument("the first frame does not say who the worker is"))?;
        if let Err(status) = self.check(&hello) {
            tracing::warn!(worker = hello.worker, %status, "a worker is refused");
            return Err(status);
        }
        let positions = Arc::new(Acknowledged {
            positions: Positions::new(self.partitions),
            idle: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            ended: AtomicBool::new(false),
        });
        let receiver = GrpcReceiver {
            frames: Some(frames),
            partitions: self.partitions,
            acknowledged: Arc::clone(&positions),
            meter: self.meter.link(&hello.worker),
            worker: hello.worker.into(),
        };
        let worker = Arc::clone(&receiver.worker);
        self.connected
            .send(receiver)
            .await
            .map_err(|_| Status::unavailable(format!("gateway {} stops", self.gateway)))?;
        tracing::info!(%worker, "a worker is connected");
        Ok(Response::new(Acknowledgements {
            sent: vec![0; usize::from(self.partitions)],
            acknowledged: positions,
            pause: Box::pin(sleep(Duration::ZERO)),
        }))
    }
}

/// Reads the stream itself: what is not read stays with the worker, but for HTTP/2's window.
struct GrpcReceiver {
    /// `None` once they have ended.
    frames: Option<Streaming<LinkFrame>>,
    partitions: u16,
    acknowledged: Arc<Acknowledged>,
    worker: Arc<str>,
    meter: LinkMeter,
}

impl GrpcReceiver {
    fn end(&mut self) {
        self.frames = None;
        self.acknowledged.end();
    }
}

#[async_trait]
impl Receiver for GrpcReceiver {
    async fn recv_many(&mut self, into: &mut Vec<Arrival>) -> bool {
        let before = into.len();
        while let Some(frames) = &mut self.frames {
            let frame = match frames.message().await {
                Ok(Some(frame)) => frame,
                Ok(None) => {
                    tracing::info!(worker = %self.worker, "a worker ended its link");
                    self.end();
                    break;
                }
                Err(status) => {
                    tracing::warn!(worker = %self.worker, %status, "the link of a worker broke");
                    self.end();
                    break;
                }
            };
            self.meter.add(counts(&frame));
            if let Err(error) = arrivals(frame, self.partitions, into) {
                tracing::error!(worker = %self.worker, %error, "a worker's frame is not understood; its link is closed");
                self.end();
            }
            if into.len() > before {
                return true;
            }
        }
        false
    }

    fn acknowledge(&self, partition: u16, seq: u64) {
        let acknowledged = &*self.acknowledged;
        if acknowledged.positions.raise(partition, seq) {
            // With the one of the stream: one of the two sees what the other wrote.
            fence(Ordering::SeqCst);
            if acknowledged.idle.load(Ordering::Acquire) {
                acknowledged.waker.wake();
            }
        }
    }
}

impl Drop for GrpcReceiver {
    fn drop(&mut self) {
        self.end();
    }
}

struct Acknowledged {
    positions: Positions,
    /// Everything has been told, and the next one has to wake the stream.
    idle: AtomicBool,
    waker: AtomicWaker,
    ended: AtomicBool,
}

impl Acknowledged {
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// What was acknowledged since the message before, as one message.
struct Acknowledgements {
    acknowledged: Arc<Acknowledged>,
    /// By partition.
    sent: Vec<u64>,
    /// Until the next message.
    pause: Pin<Box<Sleep>>,
}

impl Stream for Acknowledgements {
    type Item = Result<LinkAcknowledgement, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self {
            acknowledged,
            sent,
            pause,
        } = &mut *self;
        acknowledged.waker.register(context.waker());
        // Looked at first, so that what was acknowledged before the end goes out before it.
        let ended = acknowledged.ended.load(Ordering::Acquire);
        if !ended && pause.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        // What is acknowledged from now on wakes the stream.
        acknowledged.idle.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        let mut positions = Vec::new();
        for ((partition, seq), sent) in acknowledged.positions.iter().zip(sent) {
            if seq > *sent {
                *sent = seq;
                positions.push(LinkPosition {
                    partition: partition.into(),
                    seq,
                });
            }
        }
        if !positions.is_empty() {
            acknowledged.idle.store(false, Ordering::Release);
            pause.as_mut().reset(Instant::now() + TOLD_EVERY);
            return Poll::Ready(Some(Ok(LinkAcknowledgement { positions })));
        }
        if ended { Poll::Ready(None) } else { Poll::Pending }
    }
}
