//! Between what a link carries and the frames of the stream.

use std::mem::size_of;

use model::RoomToken;
use prost::Message;
use proto::v1::{LinkBatch, LinkDelivery, LinkFrame, LinkItem, LinkTrace, link_item::Kind};

use super::stats::Counts;
use crate::{Arrival, Batch, Delivery, Traced, VolatileEvent, queue::Weight};

/// So many bytes of items are put into one frame; a single record may be larger.
const FRAME: usize = 256 << 10;
/// What a delivery, a signal or a batch takes beside its records, at most.
const OVERHEAD: usize = 64;
/// What the trace of a delivery takes beside, at most.
const TRACE: usize = 96;

/// What a message may take when a record takes up to `max_record`.
pub(super) fn max_message(max_record: usize) -> usize {
    max_record.saturating_add(FRAME + 2 * OVERHEAD)
}

/// Cuts what waits into frames.
#[derive(Default)]
pub(super) struct Framer {
    waiting: std::vec::IntoIter<Arrival>,
    /// Found no room in the frame before.
    next: Option<Arrival>,
}

impl Framer {
    /// What comes next; only when all before is out.
    pub(super) fn fill(&mut self, arrivals: Vec<Arrival>) {
        self.waiting = arrivals.into_iter();
    }

    /// The next frame, and what it makes room for; `None` when nothing waits.
    pub(super) fn frame(&mut self) -> Option<(LinkFrame, Weight)> {
        let (mut items, mut weight, mut size) = (Vec::new(), Weight::default(), 0);
        while let Some(arrival) = self.next.take().or_else(|| self.waiting.next()) {
            let arrives = size_of_arrival(&arrival);
            if !items.is_empty() && size + arrives > FRAME {
                self.next = Some(arrival);
                break;
            }
            size += arrives;
            let mut traceparent = String::new();
            let kind = match arrival {
                Arrival::Signal(signal) => {
                    weight.signals += 1;
                    weight.signal_bytes += signal.record.len();
                    if let Some(trace) = &signal.trace {
                        traceparent = trace.to_string();
                    }
                    Kind::Signal(delivery_to_wire(Delivery {
                        seq: 0,
                        room: signal.room,
                        record: signal.record,
                    }))
                }
                Arrival::Batch(mut batch) => {
                    match split(&mut batch) {
                        Some(rest) => self.next = Some(Arrival::Batch(rest)),
                        None => weight.batches += 1,
                    }
                    weight.batch_bytes += batch.record_bytes();
                    Kind::Batch(batch_to_wire(batch))
                }
            };
            items.push(LinkItem {
                kind: Some(kind),
                traceparent,
            });
            if self.next.is_some() {
                break;
            }
        }
        (!items.is_empty()).then_some((LinkFrame { hello: None, items }, weight))
    }
}

/// Leaves of a batch what goes into a frame of its own; the rest of its range, if there is one.
fn split(batch: &mut Batch) -> Option<Batch> {
    let mut size = OVERHEAD;
    let fits = batch
        .deliveries
        .iter()
        .take_while(|delivery| {
            size += delivery.record.len() + OVERHEAD;
            size <= FRAME
        })
        .count()
        .max(1);
    if fits >= batch.deliveries.len() {
        return None;
    }
    let deliveries = batch.deliveries.split_off(fits);
    let through = std::mem::replace(&mut batch.through, batch.deliveries[fits - 1].seq);
    let traced = batch.traces.partition_point(|traced| traced.seq <= batch.through);
    Some(Batch {
        traces: batch.traces.split_off(traced),
        partition: batch.partition,
        epoch: batch.epoch,
        after: batch.through,
        through,
        deliveries,
    })
}

fn size_of_arrival(arrival: &Arrival) -> usize {
    match arrival {
        Arrival::Batch(batch) => {
            let traces = TRACE * batch.traces.len();
            OVERHEAD * (1 + batch.deliveries.len()) + batch.record_bytes() + traces
        }
        Arrival::Signal(signal) => {
            OVERHEAD + signal.record.len() + signal.trace.as_ref().map_or(0, |_| TRACE)
        }
    }
}

/// What there is to count of a frame.
pub(super) fn counts(frame: &LinkFrame) -> Counts {
    let mut counts = Counts {
        bytes: frame.encoded_len() as u64,
        ..Counts::default()
    };
    for item in &frame.items {
        match &item.kind {
            Some(Kind::Batch(batch)) => counts.deliveries += batch.deliveries.len() as u64,
            Some(Kind::Signal(_)) => counts.signals += 1,
            None => {}
        }
    }
    counts
}

/// Adds what a frame holds.
///
/// # Errors
/// When a partition cannot be one.
pub(super) fn arrivals(
    frame: LinkFrame,
    partitions: u16,
    into: &mut Vec<Arrival>,
) -> Result<(), NoPartition> {
    into.reserve(frame.items.len());
    for item in frame.items {
        match item.kind {
            Some(Kind::Batch(batch)) => {
                let partition = u16::try_from(batch.partition)
                    .ok()
                    .filter(|partition| *partition < partitions)
                    .ok_or(NoPartition(batch.partition))?;
                into.push(Arrival::Batch(Batch {
                    partition,
                    epoch: batch.epoch,
                    after: batch.after,
                    through: batch.through,
                    deliveries: batch.deliveries.into_iter().map(delivery_from_wire).collect(),
                    traces: batch.traces.iter().filter_map(trace_from_wire).collect(),
                }));
            }
            Some(Kind::Signal(signal)) => {
                let Delivery { room, record, .. } = delivery_from_wire(signal);
                into.push(Arrival::Signal(VolatileEvent {
                    room,
                    record,
                    // Nearly none has one; what is no context is none.
                    trace: item.traceparent.parse().ok().map(Box::new),
                }));
            }
            // Of a later protocol that adds kinds: nothing that was promised to be understood.
            None => {}
        }
    }
    Ok(())
}

/// A batch of a partition that the log does not have.
#[derive(Copy, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no partition {0}")]
pub(super) struct NoPartition(u32);

fn batch_to_wire(batch: Batch) -> LinkBatch {
    LinkBatch {
        partition: batch.partition.into(),
        epoch: batch.epoch,
        after: batch.after,
        through: batch.through,
        deliveries: batch.deliveries.into_iter().map(delivery_to_wire).collect(),
        traces: batch.traces.iter().map(trace_to_wire).collect(),
    }
}

fn trace_to_wire(traced: &Traced) -> LinkTrace {
    LinkTrace {
        seq: traced.seq,
        traceparent: traced.context.to_string(),
    }
}

/// What is no context is none.
fn trace_from_wire(trace: &LinkTrace) -> Option<Traced> {
    Some(Traced {
        seq: trace.seq,
        context: trace.traceparent.parse().ok()?,
    })
}

// Both have the same size, so that a vector of one becomes one of the other where it is.
const _: () = assert!(size_of::<Delivery>() == size_of::<LinkDelivery>());

fn delivery_to_wire(delivery: Delivery) -> LinkDelivery {
    let room = u128::from_be_bytes(*delivery.room.as_bytes());
    LinkDelivery {
        seq: delivery.seq,
        room_high: (room >> 64) as u64,
        room_low: room as u64,
        record: delivery.record,
    }
}

#[expect(clippy::expect_used, reason = "16 bytes are a room's token")]
fn delivery_from_wire(delivery: LinkDelivery) -> Delivery {
    let room = u128::from(delivery.room_high) << 64 | u128::from(delivery.room_low);
    Delivery {
        seq: delivery.seq,
        room: RoomToken::from_bytes(&room.to_be_bytes()).expect("16 bytes"),
        record: delivery.record,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const CONTEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn room() -> RoomToken {
        RoomToken::from_bytes(&(0..16).collect::<Vec<u8>>()).unwrap()
    }

    fn batch(after: u64, through: u64, records: &[(u64, usize)]) -> Batch {
        Batch {
            partition: 3,
            epoch: 9,
            after,
            through,
            deliveries: records
                .iter()
                .map(|(seq, bytes)| Delivery {
                    seq: *seq,
                    room: room(),
                    record: Bytes::from(vec![1; *bytes]),
                })
                .collect(),
            traces: Vec::new(),
        }
    }

    /// Everything through frames and their bytes; what each frame held, and the weight of all.
    fn through_the_wire(arrivals_in: Vec<Arrival>) -> (Vec<Vec<Arrival>>, Weight) {
        let mut framer = Framer::default();
        framer.fill(arrivals_in);
        let (mut frames, mut all) = (Vec::new(), Weight::default());
        while let Some((frame, weight)) = framer.frame() {
            all.batches += weight.batches;
            all.signals += weight.signals;
            all.batch_bytes += weight.batch_bytes;
            all.signal_bytes += weight.signal_bytes;
            let bytes = frame.encode_to_vec();
            assert_eq!(counts(&frame).bytes, bytes.len() as u64);
            assert!(bytes.len() <= max_message(1 << 20), "{}", bytes.len());
            let mut held = Vec::new();
            arrivals(LinkFrame::decode(&bytes[..]).unwrap(), 4, &mut held).unwrap();
            frames.push(held);
        }
        (frames, all)
    }

    #[test]
    fn what_waits_goes_into_one_frame_in_its_order() {
        let arrivals = vec![
            Arrival::Batch(batch(0, 5, &[(2, 10), (5, 0)])),
            Arrival::Signal(VolatileEvent {
                room: room(),
                record: Bytes::from_static(b"typing"),
                trace: Some(Box::new(CONTEXT.parse().unwrap())),
            }),
            Arrival::Batch(batch(5, u64::MAX, &[])),
        ];
        let (frames, weight) = through_the_wire(arrivals.clone());
        assert_eq!(frames, [arrivals]);
        let expected = Weight {
            batches: 2,
            signals: 1,
            batch_bytes: 10,
            signal_bytes: 6,
        };
        assert_eq!(weight, expected);
    }

    #[test]
    fn frames_are_bounded_and_nothing_is_lost_between_them() {
        let arrivals: Vec<_> = (0..100)
            .map(|n| Arrival::Batch(batch(n, n + 1, &[(n + 1, 10_000)])))
            .collect();
        let (frames, weight) = through_the_wire(arrivals.clone());
        assert_eq!(frames.len(), 4);
        assert_eq!(frames.concat(), arrivals);
        assert_eq!((weight.batches, weight.batch_bytes), (100, 1_000_000));
    }

    #[test]
    fn a_large_batch_goes_as_several_that_cover_its_range() {
        let records = [(11, 200_000), (15, 200_000), (16, 1 << 20), (20, 5), (30, 5)];
        let whole = batch(10, 40, &records);
        let small = batch(40, 41, &[]);
        let (frames, weight) =
            through_the_wire(vec![Arrival::Batch(whole.clone()), Arrival::Batch(small.clone())]);
        let expected = [
            vec![Arrival::Batch(batch(10, 11, &records[..1]))],
            vec![Arrival::Batch(batch(11, 15, &records[1..2]))],
            vec![Arrival::Batch(batch(15, 16, &records[2..3]))],
            vec![
                Arrival::Batch(batch(16, 40, &records[3..])),
                Arrival::Batch(small),
            ],
        ];
        assert_eq!(frames, expected);
        assert_eq!((weight.batches, weight.batch_bytes), (2, whole.record_bytes()));
    }

    #[test]
    fn traces_go_with_their_deliveries() {
        let traced = |seq: u64| Traced {
            seq,
            context: format!("00-{:032x}-{:016x}-01", 77, seq).parse().unwrap(),
        };
        let mut whole = batch(0, 9, &[(1, 200_000), (2, 200_000), (3, 1), (4, 1)]);
        whole.traces = vec![traced(1), traced(3), traced(4)];
        let (frames, _) = through_the_wire(vec![Arrival::Batch(whole)]);
        let parts: Vec<_> = frames.concat();
        let traces: Vec<_> = parts
            .iter()
            .map(|arrival| match arrival {
                Arrival::Batch(batch) => batch.traces.clone(),
                Arrival::Signal(_) => Vec::new(),
            })
            .collect();
        assert_eq!(traces, [vec![traced(1)], vec![traced(3), traced(4)]]);
    }

    #[test]
    fn a_partition_that_does_not_exist_is_an_error() {
        let mut framer = Framer::default();
        framer.fill(vec![Arrival::Batch(batch(0, 1, &[]))]);
        let (frame, _) = framer.frame().unwrap();
        assert_eq!(arrivals(frame, 3, &mut Vec::new()), Err(NoPartition(3)));
    }
}
