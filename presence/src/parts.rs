//! Snapshots that come in parts are put aside until they are whole.

use std::{collections::HashMap, time::Duration};

use model::GatewayId;
use registry::presence_store::Delta;
use tokio::time::Instant;

/// A snapshot whose next part does not come for so long is given up.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes of all parts that are put aside, as they came; about three times as much memory.
const MAX_BYTES: usize = 256 << 20;

/// The snapshots that are not whole yet.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    begun: HashMap<GatewayId, Begun>,
    bytes: usize,
}

#[derive(Debug)]
struct Begun {
    number: u64,
    next: u32,
    deltas: Vec<Delta>,
    bytes: usize,
    touched: Instant,
}

/// A part of a snapshot.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) number: u64,
    pub(crate) part: u32,
    pub(crate) more: bool,
    pub(crate) deltas: Vec<Delta>,
    /// Its size as it came.
    pub(crate) bytes: usize,
}

/// What becomes of a part.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It waits for the next one.
    Aside,
    /// It was the last one of these.
    Whole(Vec<Delta>),
    /// It does not follow, or there is no place: the snapshot must begin anew.
    Refused,
}

impl Parts {
    pub(crate) fn put(&mut self, gateway: &GatewayId, part: Part, now: Instant) -> Put {
        let begun = self.take(gateway);
        let mut begun = match begun {
            // A first part begins anew, whatever was there.
            _ if part.part == 0 => Begun {
                number: part.number,
                next: 0,
                deltas: Vec::new(),
                bytes: 0,
                touched: now,
            },
            Some(begun) if begun.number == part.number && begun.next == part.part => begun,
            _ => return Put::Refused,
        };
        begun.deltas.extend(part.deltas);
        if !part.more {
            return Put::Whole(begun.deltas);
        }
        begun.next += 1;
        begun.bytes += part.bytes;
        begun.touched = now;
        if self.bytes + begun.bytes > MAX_BYTES {
            return Put::Refused;
        }
        self.bytes += begun.bytes;
        self.begun.insert(gateway.clone(), begun);
        Put::Aside
    }

    /// Forgets the snapshots of gateways that have given up, or died.
    pub(crate) fn tidy(&mut self, now: Instant) {
        let bytes = &mut self.bytes;
        self.begun.retain(|_, begun| {
            let keep = now.duration_since(begun.touched) < PATIENCE;
            if !keep {
                *bytes -= begun.bytes;
            }
            keep
        });
    }

    fn take(&mut self, gateway: &GatewayId) -> Option<Begun> {
        let begun = self.begun.remove(gateway)?;
        self.bytes -= begun.bytes;
        Some(begun)
    }
}

#[cfg(test)]
mod tests {
    use model::Namespace;
    use registry::presence_store::SocketKey;

    use super::*;

    fn part(number: u64, part: u32, more: bool) -> Part {
        let key = SocketKey {
            namespace: Namespace::new("/chat").unwrap(),
            id: part.to_string().into(),
        };
        Part {
            number,
            part,
            more,
            deltas: vec![Delta::Disconnected(key)],
            bytes: 100 << 20,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_parts_that_follow_make_a_whole() {
        let mut parts = Parts::default();
        let (a, now) = (GatewayId::new("gate-a").unwrap(), Instant::now());
        let whole = |put| match put {
            Put::Whole(deltas) => deltas.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!(whole(parts.put(&a, part(1, 0, false), now)), 1);
        assert_eq!(parts.put(&a, part(2, 1, true), now), Put::Refused);
        assert_eq!(parts.put(&a, part(3, 0, true), now), Put::Aside);
        assert_eq!(parts.put(&a, part(3, 1, true), now), Put::Aside);
        assert_eq!(whole(parts.put(&a, part(3, 2, false), now)), 3);
        assert_eq!(parts.put(&a, part(3, 2, false), now), Put::Refused);
        assert_eq!(parts.put(&a, part(4, 0, true), now), Put::Aside);
        assert_eq!(parts.put(&a, part(5, 1, false), now), Put::Refused);
        assert_eq!((parts.bytes, parts.begun.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_put_aside_is_bounded_and_forgotten() {
        let mut parts = Parts::default();
        let now = Instant::now();
        let [a, b, c] = ["gate-a", "gate-b", "gate-c"].map(|id| GatewayId::new(id).unwrap());
        assert_eq!(parts.put(&a, part(1, 0, true), now), Put::Aside);
        assert_eq!(parts.put(&b, part(1, 0, true), now), Put::Aside);
        assert_eq!(parts.put(&c, part(1, 0, true), now), Put::Refused);
        parts.tidy(now + PATIENCE);
        assert_eq!((parts.bytes, parts.begun.len()), (0, 0));
        assert_eq!(parts.put(&c, part(1, 0, true), now), Put::Aside);
    }
}
