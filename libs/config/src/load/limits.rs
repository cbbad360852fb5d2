//! Section `limits`, and lists of more than words.

use super::Reader;
use crate::{Limits, Network};

impl Reader {
    pub(super) fn limits(&mut self) -> Limits {
        Limits {
            events: self.number("limits.events", 0, u32::MAX),
            window: self.seconds("limits.window_seconds", 1, 86_400),
            by_event: self.counts("limits.by_event"),
            events_per_socket: self.number("limits.events_per_socket", 0, u32::MAX),
            cut_after: self.number("limits.cut_after", 0, u32::MAX),
            connections_per_ip: self.number("limits.connections_per_ip", 0, u32::MAX),
            connections_per_user: self.number("limits.connections_per_user", 0, u32::MAX),
            handshakes_per_ip: self.number("limits.handshakes_per_ip", 0, u32::MAX),
            handshakes_per_second: self.number("limits.handshakes_per_second", 0, u32::MAX),
            auth_failures_per_ip: self.number("limits.auth_failures_per_ip", 0, u32::MAX),
            memory_mb: self.number("limits.memory_mb", 0, u32::MAX),
        }
    }

    pub(super) fn networks(&mut self, key: &str) -> Vec<Network> {
        let mut networks = Vec::new();
        for item in self.list(key) {
            match item.parse() {
                Ok(network) => networks.push(network),
                Err(error) => self.wrong(key, format!("{item:?} {error}")),
            }
        }
        networks
    }

    /// `name=number` pairs, each name once.
    fn counts(&mut self, key: &str) -> Vec<(String, u32)> {
        let mut counts: Vec<(String, u32)> = Vec::new();
        for item in self.list(key) {
            let count = item
                .rsplit_once('=')
                .and_then(|(name, count)| Some((name.trim(), count.trim().parse().ok()?)));
            match count {
                Some(("", _)) | None => self.wrong(key, format!("{item:?} is no name=number")),
                Some((name, _)) if counts.iter().any(|(known, _)| known == name) => {
                    self.wrong(key, format!("{name:?} stands there twice"));
                }
                Some((name, count)) => counts.push((name.to_owned(), count)),
            }
        }
        counts
    }
}
