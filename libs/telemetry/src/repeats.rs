//! What one place in the code says again and again is logged a few times, then counted.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{Event, Level, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::{Layer, layer::Context};

/// So often in [`WINDOW`] a place is heard.
const HEARD: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// How often it is looked for windows that have ended.
const LOOK: Duration = Duration::from_secs(1);

/// Drops what is said too often. DEBUG and below is for who asked for it, and never dropped. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Repeats {
    /// As many as there are places in the code that log.
    places: Arc<Mutex<HashMap<Identifier, Place>>>,
}

#[derive(Debug)]
struct Place {
    metadata: &'static Metadata<'static>,
    since: Instant,
    said: u32,
    /// In this window.
    dropped: u64,
    /// Dropped in windows that have ended, and not told yet.
    rest: u64,
}

impl Place {
    /// Ends the window if its time is over.
    fn end(&mut self, now: Instant) {
        if now.duration_since(self.since) >= WINDOW {
            self.since = now;
            self.said = 0;
            self.rest += std::mem::take(&mut self.dropped);
        }
    }
}

impl Repeats {
    pub(crate) fn new() -> Self {
        Self {
            places: Arc::default(),
        }
    }

    /// Logs how often something was not logged, within a second after ten in which it was said too often. Never ends.
    pub async fn tell(self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.tell_ended(Instant::now());
        }
    }

    fn tell_ended(&self, now: Instant) {
        let mut ended = Vec::new();
        for place in self.places.lock().values_mut() {
            place.end(now);
            if place.rest > 0 {
                ended.push((place.metadata, std::mem::take(&mut place.rest)));
            }
        }
        for (metadata, times) in ended {
            let (file, line) = (
                metadata.file().unwrap_or_default(),
                metadata.line().unwrap_or_default(),
            );
            let place = format_args!("{file}:{line}");
            match *metadata.level() {
                Level::ERROR => {
                    tracing::error!(target: "telemetry", times, %place, "the same was not logged")
                }
                Level::WARN => tracing::warn!(target: "telemetry", times, %place, "the same was not logged"),
                _ => tracing::info!(target: "telemetry", times, %place, "the same was not logged"),
            }
        }
    }

    fn hears(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let mut places = self.places.lock();
        let place = places.entry(metadata.callsite()).or_insert(Place {
            metadata,
            since: now,
            said: 0,
            dropped: 0,
            rest: 0,
        });
        place.end(now);
        place.said = place.said.saturating_add(1);
        let heard = place.said <= HEARD;
        if !heard {
            place.dropped += 1;
        }
        heard
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() > Level::INFO || self.hears(metadata, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tracing_subscriber::{fmt::MakeWriter, layer::SubscriberExt, registry};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_flood_is_counted_and_others_are_heard() {
        let (kept, repeats) = (Kept::default(), Repeats::new());
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(kept.clone())
            .with_ansi(false);
        let logs = registry().with(layer).with(repeats.clone());
        let flood = |count: usize| {
            for _ in 0..count {
                tracing::warn!("flood");
                tracing::debug!("detail");
            }
        };
        tracing::subscriber::with_default(logs, || {
            flood(100);
            tracing::warn!("other");
            // The window passes.
            for place in repeats.places.lock().values_mut() {
                place.since -= WINDOW;
            }
            // Nobody needs to say it again.
            repeats.tell_ended(Instant::now());
            repeats.tell_ended(Instant::now());
            flood(2);
        });
        let text = String::from_utf8(kept.0.lock().clone()).unwrap();
        let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
        assert_eq!(count("flood"), HEARD as usize + 2, "{text}");
        assert_eq!(count("detail"), 102);
        assert_eq!(count("other"), 1);
        assert_eq!(count("the same was not logged times=80"), 1, "{text}");
    }
}
