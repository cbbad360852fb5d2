use std::io::{self, IsTerminal};

use tracing_subscriber::{
    EnvFilter, Layer,
    filter::ParseError,
    fmt::{self, writer::BoxMakeWriter},
    layer::SubscriberExt,
    registry,
    util::SubscriberInitExt,
};

use crate::{
    files::{DailyFile, Files},
    repeats::Repeats,
};

/// What is logged, and where it goes besides standard error.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// As in `RUST_LOG`.
    pub filter: String,
    /// One JSON object a line, in place of text.
    pub json: bool,
    /// Files, if there are to be any.
    pub files: Option<Files>,
}

/// Why logs or metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter has an error.
    #[error("the log filter cannot be read: {0}")]
    Filter(#[from] ParseError),
    /// Something in the process logs already.
    #[error("logs are set up already")]
    Twice,
    /// The log cannot be written to its directory.
    #[error("the log cannot be written to {0}: {1}")]
    Files(String, io::Error),
    /// The environment's name cannot be a label.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Libraries that log for themselves what we log with the reason; off unless the filter names them.
const OTHERS: [&str; 1] = ["async_nats"];

/// Sends logs to standard error, as text or as one JSON object a line, and to files. Levels above DEBUG are for
/// operators; what one place says again and again there is counted, and told by what is returned ([`Repeats::tell`]).
///
/// # Errors
/// When the filter has an error, files cannot be written, or logs are set up already.
pub fn logs(settings: &LogSettings) -> Result<Repeats, TelemetryError> {
    let mut filter = EnvFilter::try_new(&settings.filter)?;
    for library in OTHERS
        .into_iter()
        .filter(|library| !settings.filter.contains(library))
    {
        filter = filter.add_directive(format!("{library}=off").parse()?);
    }
    let mut sinks = vec![(BoxMakeWriter::new(io::stderr), io::stderr().is_terminal())];
    if let Some(files) = &settings.files {
        let file = DailyFile::open(files.clone())
            .map_err(|error| TelemetryError::Files(files.directory.display().to_string(), error))?;
        sinks.push((BoxMakeWriter::new(file), false));
    }
    let repeats = Repeats::new();
    let layers: Vec<_> = sinks
        .into_iter()
        .map(|(writer, ansi)| {
            let layer = fmt::layer().with_writer(writer).with_ansi(ansi);
            if settings.json {
                layer.json().boxed()
            } else {
                layer.boxed()
            }
        })
        .collect();
    let done = registry()
        .with(layers)
        .with(filter)
        .with(repeats.clone())
        .try_init();
    done.map_err(|_| TelemetryError::Twice)?;
    Ok(repeats)
}
