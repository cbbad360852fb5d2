use std::time::Duration;

use futures_util::StreamExt;
use redis::{
    Cmd, RedisResult,
    aio::{MultiplexedConnection, PubSub, PubSubSink, PubSubStream},
};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{ConnectError, REMIND, RedisConfig, connection::describe, keeper, target::Target};

/// Messages that have come and were not asked for yet; whoever follows a feed is to ask at once.
const WAITING: usize = 4096;
/// Messages to be published.
const OUTGOING: usize = 64;
/// How often a sign of life is asked for.
const PROBE: Duration = Duration::from_secs(1);

/// What others publish in Redis, from a connection of its own that is made again when it is lost. It ends when it is
/// dropped.
///
/// Redis keeps nothing: what is published while there is no connection never comes. A login needs `PSUBSCRIBE`,
/// `SUBSCRIBE` and `PUBLISH` for the channels, and `PING`; behind sentinels also `ROLE`.
pub struct Feed {
    news: mpsc::Receiver<FeedNews>,
    outgoing: mpsc::Sender<(String, Vec<u8>)>,
    task: AbortHandle,
}

/// Which channels are followed.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Glob-style patterns of channels; a message whose channel fits several comes as often.
    pub patterns: Vec<String>,
    /// Channels.
    pub channels: Vec<String>,
}

/// What happens to a [`Feed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedNews {
    /// From now on every message comes.
    Subscribed,
    /// One was published.
    Message {
        /// Where; `?` when its name is not UTF-8.
        channel: String,
        /// What.
        payload: Vec<u8>,
    },
    /// The connection is lost: messages are missed from now on, and [`FeedNews::Subscribed`] says until when.
    Lost,
}

impl Feed {
    /// Begins to connect; nothing is waited for.
    ///
    /// # Errors
    /// [`ConnectError::Config`] when the settings cannot be used.
    pub fn start(config: &RedisConfig, wanted: Wanted) -> Result<Self, ConnectError> {
        let target = Target::new(config)?;
        let (sender, news) = mpsc::channel(WAITING);
        let (outgoing, to_publish) = mpsc::channel(OUTGOING);
        let follow = Follow {
            target,
            wanted,
            news: sender,
            outgoing: to_publish,
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "owned: it ends with the feed, and a panic in it is seen as the end of the news"
        )]
        let task = tokio::spawn(follow.run()).abort_handle();
        Ok(Self { news, outgoing, task })
    }

    /// What happens next; `None` only after a bug. Cancelling loses nothing.
    pub async fn next(&mut self) -> Option<FeedNews> {
        self.news.recv().await
    }

    /// Publishes at the server that the messages come from, if there is one: `false` when it is known at once that
    /// nothing comes of it. Messages of one feed are published in order.
    pub fn publish(&self, channel: &str, payload: Vec<u8>) -> bool {
        self.outgoing.try_send((channel.to_owned(), payload)).is_ok()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Follow {
    target: Target,
    wanted: Wanted,
    news: mpsc::Sender<FeedNews>,
    outgoing: mpsc::Receiver<(String, Vec<u8>)>,
}

/// Nobody listens any more.
struct Ended;

impl Follow {
    async fn run(mut self) {
        loop {
            let (sink, stream, publisher) = self.connect().await;
            // What was to be said before is old.
            while self.outgoing.try_recv().is_ok() {}
            let Ok(reason) = self.follow(sink, stream, publisher).await else {
                return;
            };
            tracing::warn!(
                "the subscription at Redis {} is lost: {reason}; subscribing again",
                self.target.shown()
            );
            if self.news.send(FeedNews::Lost).await.is_err() {
                return;
            }
        }
    }

    /// Subscribes, trying for ever.
    async fn connect(&self) -> (PubSubSink, PubSubStream, MultiplexedConnection) {
        let mut attempt = 1;
        let mut told: Option<Instant> = None;
        loop {
            let error = match self.subscribe().await {
                Ok((subscriber, publisher)) => {
                    tracing::info!("subscribed at Redis {}", self.target.shown());
                    let (sink, stream) = subscriber.split();
                    return (sink, stream, publisher);
                }
                Err(error) => error,
            };
            if told.is_none_or(|at| at.elapsed() >= REMIND) {
                tracing::warn!(attempts = attempt, "no subscription at Redis yet: {error}");
                told = Some(Instant::now());
            }
            attempt += 1;
            tokio::time::sleep(keeper::pause(attempt)).await;
        }
    }

    async fn subscribe(&self) -> Result<(PubSub, MultiplexedConnection), ConnectError> {
        let (mut subscriber, publisher) = self.target.open_feed().await?;
        let subscribing = async {
            let Wanted { patterns, channels } = &self.wanted;
            if !patterns.is_empty() {
                subscriber.psubscribe(patterns).await?;
            }
            if !channels.is_empty() {
                subscriber.subscribe(channels).await?;
            }
            Ok(())
        };
        let subscribed = self.in_time(subscribing).await;
        subscribed.map_err(|reason| ConnectError::Unreachable {
            servers: self.target.shown().to_owned(),
            reason,
        })?;
        Ok((subscriber, publisher))
    }

    /// Hands messages on until the connection breaks: why it does.
    async fn follow(
        &mut self,
        mut sink: PubSubSink,
        mut stream: PubSubStream,
        mut publisher: MultiplexedConnection,
    ) -> Result<String, Ended> {
        self.news.send(FeedNews::Subscribed).await.map_err(|_| Ended)?;
        let mut probe = interval(PROBE);
        probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                message = stream.next() => {
                    let Some(message) = message else {
                        return Ok("it has hung up".to_owned());
                    };
                    let message = FeedNews::Message {
                        channel: message.get_channel_name().to_owned(),
                        payload: message.get_payload_bytes().to_vec(),
                    };
                    self.news.send(message).await.map_err(|_| Ended)?;
                    Ok(())
                }
                Some((channel, payload)) = self.outgoing.recv() => {
                    let publish = Cmd::publish(channel, payload);
                    self.in_time(publish.query_async::<()>(&mut publisher)).await
                }
                _ = probe.tick() => self.in_time(async { sink.ping::<()>().await }).await,
            };
            if let Err(reason) = done {
                return Ok(reason);
            }
        }
    }

    async fn in_time<T>(&self, call: impl Future<Output = RedisResult<T>>) -> Result<T, String> {
        match timeout(self.target.response_timeout(), call).await {
            Ok(answer) => answer.map_err(|error| describe(&error)),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}
