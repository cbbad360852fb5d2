//! Sections `trace` and `log`.

use super::Reader;
use crate::{Log, LogFormat, Trace, TraceProtocol, check};

/// As OpenTelemetry names them (`OTEL_TRACES_SAMPLER`).
const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

impl Reader {
    pub(super) fn trace(&mut self) -> Trace {
        Trace {
            endpoint: self.optional_as(
                "trace.endpoint",
                "must be a URL that begins with http:// or https://",
                |text| check::is_url(text, &["http", "https"]),
            ),
            protocol: self.one_of(
                "trace.protocol",
                &[
                    ("grpc", TraceProtocol::Grpc),
                    ("http/protobuf", TraceProtocol::Http),
                ],
            ),
            service_name: self.optional("trace.service_name"),
            resource_attributes: self.attributes("trace.resource_attributes"),
            sampler: self
                .one_of("trace.sampler", &SAMPLERS.map(|name| (name, name)))
                .to_owned(),
            sampler_arg: self.number("trace.sampler_arg", 0.0, 1.0),
            large_room: self.number("trace.large_room", 1, u32::MAX),
            from_clients: self.number("trace.from_clients", 0, u32::MAX),
        }
    }

    pub(super) fn log(&mut self) -> Log {
        Log {
            filter: self.log_filter("log.filter"),
            format: self.one_of(
                "log.format",
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            ),
            directory: self.optional("log.directory").map(Into::into),
            keep_days: self.number("log.keep_days", 1, 3650),
            max_mb: self.number("log.max_mb", 1, u32::MAX),
        }
    }

    /// `key=value`, comma-separated.
    fn attributes(&mut self, key: &str) -> Vec<(String, String)> {
        let mut attributes = Vec::new();
        for item in self.list(key) {
            match item.split_once('=') {
                Some((name, value)) if !name.trim().is_empty() => {
                    attributes.push((name.trim().to_owned(), value.trim().to_owned()));
                }
                _ => self.wrong(key, format!("{item:?} is not of the form key=value")),
            }
        }
        attributes
    }
}
