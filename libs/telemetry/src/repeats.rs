//! What one place in the code says again and again is logged a few times, then counted.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::{Event, Level, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::{
    Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    layer::Context,
    registry::LookupSpan,
};

/// So often in [`WINDOW`] a place is heard.
const HEARD: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Drops what is said too often. DEBUG and below is for who asked for it, and never dropped. Clones share the counts.
#[derive(Clone)]
pub(crate) struct Repeats {
    /// As many as there are places in the code that log.
    places: Arc<Mutex<HashMap<Identifier, Place>>>,
}

struct Place {
    since: Instant,
    said: u32,
    dropped: u64,
    /// Dropped in the window before, and not told yet: by how many sinks that is still to be done.
    rest: u64,
}

impl Repeats {
    pub(crate) fn new() -> Self {
        Self {
            places: Arc::default(),
        }
    }

    fn hears(&self, place: Identifier, now: Instant) -> bool {
        let mut places = self.places.lock();
        let place = places.entry(place).or_insert(Place {
            since: now,
            said: 0,
            dropped: 0,
            rest: 0,
        });
        if now.duration_since(place.since) >= WINDOW {
            *place = Place {
                since: now,
                said: 0,
                dropped: 0,
                rest: place.dropped,
            };
        }
        place.said = place.said.saturating_add(1);
        let heard = place.said <= HEARD;
        if !heard {
            place.dropped += 1;
        }
        // Told with the first line of a window alone.
        if place.said > 1 {
            place.rest = 0;
        }
        heard
    }

    /// What was dropped before the line that is being written.
    fn rest(&self, place: &Identifier) -> u64 {
        self.places.lock().get(place).map_or(0, |place| place.rest)
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        *metadata.level() > Level::INFO || self.hears(metadata.callsite(), Instant::now())
    }
}

/// Writes how often something was not logged, behind the line that says it again.
pub(crate) struct Rest {
    repeats: Repeats,
    json: bool,
}

impl Rest {
    pub(crate) fn new(repeats: Repeats, json: bool) -> Self {
        Self { repeats, json }
    }

    pub(crate) fn after<F>(self, format: F) -> After<F> {
        After { format, rest: self }
    }

    fn write(&self, mut writer: Writer<'_>, metadata: &Metadata<'_>, count: u64) -> fmt::Result {
        let (file, line) = (
            metadata.file().unwrap_or_default(),
            metadata.line().unwrap_or_default(),
        );
        if self.json {
            write!(writer, r#"{{"timestamp":""#)?;
            SystemTime.format_time(&mut writer)?;
            let level = metadata.level();
            writeln!(
                writer,
                r#"","level":"{level}","fields":{{"message":"the same was not logged","times":{count},"place":"{file}:{line}"}},"target":"telemetry"}}"#
            )
        } else {
            SystemTime.format_time(&mut writer)?;
            let level = metadata.level();
            writeln!(
                writer,
                " {level:>5} telemetry: the same was not logged times={count} place={file}:{line}"
            )
        }
    }
}

/// A format, and what was dropped.
pub(crate) struct After<F> {
    format: F,
    rest: Rest,
}

impl<S, N, F> FormatEvent<S, N> for After<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        self.format.format_event(context, writer.by_ref(), event)?;
        let metadata = event.metadata();
        match self.rest.repeats.rest(&metadata.callsite()) {
            0 => Ok(()),
            count => self.rest.write(writer, metadata, count),
        }
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
        let format = Rest::new(repeats.clone(), false).after(tracing_subscriber::fmt::format());
        let layer = tracing_subscriber::fmt::layer()
            .with_writer(kept.clone())
            .with_ansi(false)
            .event_format(format);
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
