//! Some of the events of clients, for pages that are open.
//!
//! Each gateway has a share of so many a second, which it gets only while a page says that it looks: whoever handles
//! events otherwise reads one number, which is 0.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use bus::{Signals, Subscription, subjects};
use model::Namespace;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::EVERY;
use crate::session::json as to_json;

/// So many of each kind until the shares are filled again.
const SHARE: u32 = 100;
/// A page that has said nothing for this time is closed.
const LOOKS: Duration = Duration::from_secs(6);
/// Arguments with more bytes are cut.
const MAX_ARGS: usize = 1024;
/// Longer names are not shown.
const MAX_NAME: usize = 128;
/// Of an event for many, so many of those who get it are named.
pub(crate) const RECEIVERS: usize = 10;
/// Its argument is what others could sign in with.
const SECRET: &str = "refresh-token";

/// What is left to be shown until the shares are filled again.
pub(crate) struct Samples {
    received: AtomicU32,
    sent: AtomicU32,
    gone: AtomicU32,
    signals: Arc<dyn Signals>,
}

impl Samples {
    /// Nothing is shown but for what [`Samples::follow`] allows.
    pub(crate) fn new(signals: Arc<dyn Signals>) -> Arc<Self> {
        Arc::new(Self {
            received: AtomicU32::new(0),
            sent: AtomicU32::new(0),
            gone: AtomicU32::new(0),
            signals,
        })
    }

    /// Fills the shares while pages say that they are open.
    pub(crate) async fn follow(&self, mut looks: Box<dyn Subscription>) {
        let mut looked_at: Option<Instant> = None;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                look = looks.next() => {
                    if look.is_none() {
                        return self.fill(0);
                    }
                    if looked_at.replace(Instant::now()).is_none() {
                        self.fill(SHARE);
                    }
                }
                _ = ticks.tick() => {
                    looked_at = looked_at.filter(|at| at.elapsed() < LOOKS);
                    self.fill(if looked_at.is_some() { SHARE } else { 0 });
                }
            }
        }
    }

    fn fill(&self, share: u32) {
        for left in [&self.received, &self.sent, &self.gone] {
            left.store(share, Ordering::Relaxed);
        }
    }

    /// Whether what clients get is still shown.
    #[inline]
    pub(crate) fn shows_sent(&self) -> bool {
        self.sent.load(Ordering::Relaxed) > 0
    }

    /// A client has sent an event; `args` is raw JSON without the array's brackets.
    #[inline]
    pub(super) fn received(&self, namespace: &Namespace, id: &str, event: &str, args: &str) {
        if self.received.load(Ordering::Relaxed) > 0 {
            self.show(&self.received, "event_received", namespace, id, || {
                with_args(event, args)
            });
        }
    }

    /// A client gets an event.
    #[inline]
    pub(crate) fn sent(&self, namespace: &Namespace, id: &str, event: &str, args: &str) {
        if self.shows_sent() {
            self.show(&self.sent, "event_sent", namespace, id, || with_args(event, args));
        }
    }

    /// A client is gone.
    pub(super) fn gone(&self, namespace: &Namespace, id: &str, reason: &str) {
        if self.gone.load(Ordering::Relaxed) > 0 {
            self.show(&self.gone, super::DISCONNECTED, namespace, id, || {
                to_json(&reason)
            });
        }
    }

    #[cold]
    fn show(
        &self,
        left: &AtomicU32,
        kind: &str,
        namespace: &Namespace,
        id: &str,
        what: impl FnOnce() -> String,
    ) {
        let one_less = |left: u32| left.checked_sub(1);
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
            .is_err()
        {
            return;
        }
        let sample = Sample {
            kind,
            namespace: namespace.as_str(),
            id,
            args: &format!(
                "{},{},{},{}",
                json!(namespace.as_str()),
                json!(id),
                what(),
                json!(humantime::format_rfc3339_millis(SystemTime::now()).to_string())
            ),
        };
        if let Err(error) = self
            .signals
            .publish(subjects::ADMIN_SAMPLE, sample.write().into())
        {
            tracing::debug!(%error, "admin pages are not shown an event");
        }
    }
}

/// One of them on its way to the pages: its kind, the socket's id, its namespace and the arguments of the page's event, a line each.
pub(super) struct Sample<'a> {
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) id: &'a str,
    pub(super) args: &'a str,
}

impl<'a> Sample<'a> {
    fn write(&self) -> String {
        let Self {
            kind,
            namespace,
            id,
            args,
        } = self;
        format!("{kind}\n{id}\n{namespace}\n{args}")
    }

    /// None where it is not one.
    pub(super) fn read(written: &'a str) -> Option<Self> {
        let mut parts = written.splitn(4, '\n');
        Some(Self {
            kind: parts.next()?,
            id: parts.next()?,
            namespace: parts.next()?,
            args: parts.next()?,
        })
    }
}

/// The event as the page lists it: a JSON array of its name and its arguments, which are cut where they are long.
fn with_args(event: &str, args: &str) -> String {
    let name = match event.char_indices().nth(MAX_NAME) {
        Some((end, _)) => &event[..end],
        None => event,
    };
    let name = json!(name);
    if event == SECRET {
        format!(r#"[{name},"(not shown)"]"#)
    } else if args.is_empty() {
        format!("[{name}]")
    } else if args.len() <= MAX_ARGS {
        format!("[{name},{args}]")
    } else {
        let beginning = &args[..args.floor_char_boundary(MAX_ARGS)];
        format!(
            "[{name},{}]",
            json!(format!("{beginning}… ({} bytes)", args.len()))
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn long_arguments_are_cut_and_tokens_not_shown() {
        let shown = |event: &str, args: &str| serde_json::from_str::<Value>(&with_args(event, args)).unwrap();
        assert_eq!(shown("message", r#"{"a":1},2"#), json!(["message", {"a": 1}, 2]));
        assert_eq!(shown("ping", ""), json!(["ping"]));
        assert_eq!(
            shown("refresh-token", r#"{"token":"eyJ"}"#),
            json!(["refresh-token", "(not shown)"])
        );
        let long = json!("ä".repeat(1000)).to_string();
        let cut = shown(&"n".repeat(1000), &long);
        assert_eq!(cut[0].as_str().unwrap().len(), MAX_NAME);
        let cut = cut[1].as_str().unwrap();
        assert!(
            cut.len() < MAX_ARGS + 32 && cut.ends_with("… (2002 bytes)"),
            "{cut}"
        );
    }

    #[tokio::test]
    async fn nothing_is_shown_without_a_page_and_only_a_share_with_one() {
        let signals: Arc<dyn Signals> = Arc::new(bus::signals::memory::MemorySignals::new());
        let mut shown = signals.subscribe(subjects::ADMIN_SAMPLE, None).await.unwrap();
        let samples = Samples::new(Arc::clone(&signals));
        let namespace = Namespace::new("/chat").unwrap();
        let send = || samples.received(&namespace, "s", "message", r#""hello""#);
        send();
        samples.fill(SHARE);
        for _ in 0..2 * SHARE {
            send();
        }
        samples.gone(&namespace, "s", "transport close");
        for _ in 0..SHARE {
            let sample = shown.next().await.unwrap();
            let sample = Sample::read(std::str::from_utf8(&sample.payload).unwrap()).unwrap();
            assert_eq!(sample.kind, "event_received");
            let args: Value = serde_json::from_str(&format!("[{}]", sample.args)).unwrap();
            assert_eq!(args[2], json!(["message", "hello"]));
        }
        let sample = shown.next().await.unwrap();
        let sample = Sample::read(std::str::from_utf8(&sample.payload).unwrap()).unwrap();
        assert_eq!(
            (sample.kind, sample.namespace, sample.id),
            (super::super::DISCONNECTED, "/chat", "s")
        );
    }
}
