use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// An id that is not of the form its type asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?}: {problem}")]
pub struct IdError {
    what: &'static str,
    value: String,
    problem: &'static str,
}

impl IdError {
    pub(crate) fn new(what: &'static str, value: &str, problem: &'static str) -> Self {
        Self {
            what,
            value: value.chars().take(64).collect(),
            problem,
        }
    }
}

/// Names one run of a gateway: six URL-safe characters (`A–Z a–z 0–9 _ -`), 36 bits of randomness,
/// chosen at start. Every Engine.IO `sid` begins with it, so that any gateway can tell the owner of
/// a session (DESIGN, "Gateways").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GatewayId(Arc<str>);

impl GatewayId {
    /// Length in characters.
    pub const LEN: usize = 6;

    /// Checks the form.
    ///
    /// # Errors
    /// When it is not exactly six URL-safe characters.
    pub fn new(id: &str) -> Result<Self, IdError> {
        let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if id.len() != Self::LEN || !id.bytes().all(url_safe) {
            return Err(IdError::new("gateway id", id, "must be six URL-safe characters"));
        }
        Ok(Self(id.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The gateway that a session id names; `None` when `sid` is none of ours.
    #[must_use]
    pub fn of_sid(sid: &str) -> Option<&str> {
        (sid.len() > Self::LEN).then(|| sid.get(..Self::LEN)).flatten()
    }
}

impl fmt::Display for GatewayId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The place of a durable event in the log: `"<partition>-<sequence>"` (CONTRACT section 4).
///
/// Sequences of a partition begin at 1 and grow; offsets of different partitions have no order.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offset {
    /// Index of the partition.
    pub partition: u16,
    /// Sequence number in the partition; 0 stands before the first record.
    pub seq: u64,
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.partition, self.seq)
    }
}

impl FromStr for Offset {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        text.split_once('-')
            .filter(|(partition, seq)| plain(partition) && plain(seq))
            .and_then(|(partition, seq)| {
                Some(Self {
                    partition: partition.parse().ok()?,
                    seq: seq.parse().ok()?,
                })
            })
            .ok_or_else(|| IdError::new("offset", text, "must be \"<partition>-<sequence>\""))
    }
}

impl Serialize for Offset {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_round_trips_and_refuses_what_it_would_not_print() {
        let offset = Offset {
            partition: 15,
            seq: u64::MAX,
        };
        assert_eq!(offset.to_string().parse::<Offset>().unwrap(), offset);
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "+1-2",
            "1-+2",
            "1--2",
            "65536-1",
            "1-18446744073709551616",
            "a-1",
            "1-1 ",
        ] {
            assert!(bad.parse::<Offset>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sid_names_its_gateway() {
        assert_eq!(GatewayId::of_sid("abc_-9XXXXXXXXXXXXXX"), Some("abc_-9"));
        assert_eq!(GatewayId::of_sid("abc"), None);
        assert_eq!(GatewayId::of_sid("ééééééé"), Some("ééé"));
        assert!(GatewayId::new("ééé").is_err());
        assert!(GatewayId::new("abc.ef").is_err());
    }
}
