use std::time::Duration;

use async_nats::{
    Client, HeaderMap,
    jetstream::{
        Message,
        consumer::{AckPolicy, DeliverPolicy, pull},
    },
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use model::TraceContext;

use super::{Shared, unavailable};
use crate::{Entry, LogError, nats::trace_of, subjects};

/// Messages asked for at a time.
const BATCH: usize = 500;
/// Bytes asked for at a time, when the largest record is not larger: a server closes a connection that has more
/// than 64 MiB to take (`max_pending`), and all partitions share one.
const BATCH_BYTES: usize = 1 << 20;
/// Subject, headers and reply of the largest record.
const OVERHEAD: usize = 16 * 1024;
/// A consumer that is not read any more goes by itself after this.
const UNUSED: Duration = Duration::from_secs(15);
/// The server says so often that a consumer is there.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A request for messages lasts so long.
const EXPIRES: Duration = Duration::from_secs(30);

/// Reads a stream, or one subject of it, forwards by a consumer that lives only as long as this does. It does
/// not mend itself: after an error it is to be opened anew.
pub(super) struct Reader {
    client: Client,
    /// Where the consumer is deleted.
    delete: String,
    messages: pull::Stream,
    delivered: u64,
    /// Messages that lay ahead when it was opened.
    pub(super) pending: u64,
}

impl Reader {
    pub(super) async fn open(
        shared: &Shared,
        partition: u16,
        first: u64,
        filter: Option<&str>,
    ) -> Result<Self, LogError> {
        let stream = shared.stream(partition)?;
        let config = pull::Config {
            filter_subject: filter.unwrap_or_default().to_owned(),
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: first.max(1),
            },
            // Nothing is acknowledged: the position is the reader's own.
            ack_policy: AckPolicy::None,
            inactive_threshold: UNUSED,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let open = || {
            let config = config.clone();
            async move {
                let consumer = stream.create_consumer(config).await.map_err(unavailable)?;
                let messages = consumer
                    .stream()
                    .max_messages_per_batch(BATCH)
                    .max_bytes_per_batch(BATCH_BYTES.max(shared.config.max_record_bytes + OVERHEAD))
                    .heartbeat(HEARTBEAT)
                    .expires(EXPIRES)
                    .messages()
                    .await
                    .map_err(unavailable)?;
                let info = consumer.cached_info();
                Ok(Self {
                    client: shared.client.clone(),
                    delete: format!(
                        "$JS.API.CONSUMER.DELETE.{}.{}",
                        subjects::log_stream(partition),
                        info.name
                    ),
                    messages,
                    delivered: 0,
                    pending: info.num_pending,
                })
            }
        };
        shared.ask(open).await
    }

    /// The next message; waits for it. Cancellation safe.
    pub(super) async fn next(&mut self) -> Result<Message, LogError> {
        let message = self.messages.next().await;
        let message = message
            .ok_or_else(|| LogError::Unavailable("reading broke off".to_owned()))?
            .map_err(unavailable)?;
        let number = message.info().map_err(unavailable)?.consumer_sequence;
        self.delivered += 1;
        if number != self.delivered {
            return Err(LogError::Unavailable("a message was lost on its way".to_owned()));
        }
        Ok(message)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // So that it does not lie about on the server; a client that is busy leaves it to its end.
        let delete = self
            .client
            .publish(std::mem::take(&mut self.delete), Bytes::new());
        let _ = delete.now_or_never();
    }
}

/// The entry in a message; `None` when its subject is none of ours.
pub(super) fn entry(message: &Message) -> Option<Entry> {
    let info = message.info().ok()?;
    let Some(subject) = subjects::entry_of(&message.subject) else {
        tracing::warn!(subject = %message.subject, "the log holds an entry that is none");
        return None;
    };
    Some(Entry {
        seq: info.stream_sequence,
        subject,
        time_ms: millis(info.published.unix_timestamp_nanos()),
        payload: message.payload.clone(),
        trace: trace(message.headers.as_ref()),
    })
}

/// The context of an entry whose trace is recorded.
pub(super) fn trace(headers: Option<&HeaderMap>) -> Option<Box<TraceContext>> {
    // Nearly all entries have their id alone, so that nothing is looked up.
    let headers = headers.filter(|headers| headers.len() > 1)?;
    trace_of(headers).filter(|context| context.sampled())
}

/// Unix milliseconds; 0 for what lies before.
pub(super) fn millis(nanoseconds: i128) -> u64 {
    u64::try_from(nanoseconds / 1_000_000).unwrap_or_default()
}
