//! What places in a gateway's journal mean in the log, so that others can go on where it ended.
//!
//! A running gateway leaves **marks**: "at this place, everything of the partition up to there had been sent".
//! The last mark at or before a client's position is a lower bound of what that client has. Older marks are
//! thinned out, so that a client that heard nothing for hours still finds one. A gateway that was drained leaves
//! a step for every event instead.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use model::Offset;
use proto::v1;

/// Two neighbouring marks of age `a` may lie `a / SPACING` apart.
const SPACING: u32 = 10;

/// The marks of a gateway that runs.
pub(crate) struct Marks {
    base: Vec<u64>,
    marks: VecDeque<Mark>,
    /// What the newest mark says of each partition.
    newest: Vec<u64>,
}

struct Mark {
    at: Instant,
    number: u64,
    /// Partitions that have come further since the mark before.
    through: BTreeMap<u16, u64>,
}

impl Marks {
    /// None yet; `base`: how far each partition was at number 0.
    pub(crate) fn new(base: Vec<u64>) -> Self {
        Self {
            newest: base.clone(),
            base,
            marks: VecDeque::new(),
        }
    }

    /// At `number`, everything of each partition up to `through` had been sent; none where that is not sure.
    /// Whether that is news.
    pub(crate) fn add(&mut self, at: Instant, number: u64, through: &[Option<u64>]) -> bool {
        let mut further = BTreeMap::new();
        for ((partition, newest), through) in (0..).zip(&mut self.newest).zip(through) {
            if let Some(through) = through.filter(|through| through > newest) {
                *newest = through;
                further.insert(partition, through);
            }
        }
        if further.is_empty() {
            return false;
        }
        self.thin(at);
        self.marks.push_back(Mark {
            at,
            number,
            through: further,
        });
        true
    }

    /// Drops marks whose neighbours lie near enough to each other for their age.
    fn thin(&mut self, now: Instant) {
        let mut index = 1;
        while index + 1 < self.marks.len() {
            let (before, after) = (self.marks[index - 1].at, self.marks[index + 1].at);
            if after.duration_since(before) * SPACING > now.duration_since(after) {
                index += 1;
                continue;
            }
            // What it says holds at the next one, too.
            if let Some(dropped) = self.marks.remove(index)
                && let Some(next) = self.marks.get_mut(index)
            {
                for (partition, through) in dropped.through {
                    next.through.entry(partition).or_insert(through);
                }
            }
        }
    }

    /// As the store keeps them.
    pub(crate) fn trail(&self) -> v1::Trail {
        let steps = self.marks.iter().flat_map(|mark| {
            let through = mark.through.iter();
            through.map(|(partition, seq)| {
                let offset = Offset {
                    partition: *partition,
                    seq: *seq,
                };
                (mark.number, offset)
            })
        });
        encode(self.base.clone(), steps)
    }
}

/// The trail of a gateway that was drained: `steps` is every event, `end` how far each partition is.
pub(crate) fn exact(mut end: Vec<u64>, steps: &[(u64, Offset)]) -> v1::Trail {
    // Before the first event of a partition, everything in front of it had been sent.
    for (_, offset) in steps.iter().rev() {
        if let Some(base) = end.get_mut(usize::from(offset.partition)) {
            *base = offset.seq.saturating_sub(1);
        }
    }
    encode(end, steps.iter().copied())
}

fn encode(base: Vec<u64>, steps: impl Iterator<Item = (u64, Offset)>) -> v1::Trail {
    let mut trail = v1::Trail::default();
    let (mut last, mut seqs) = (0, base.clone());
    for (number, Offset { partition, seq }) in steps {
        let Some(before) = seqs.get_mut(usize::from(partition)) else {
            continue;
        };
        trail.numbers.push(number.saturating_sub(last));
        trail.partitions.push(partition.into());
        trail.seqs.push(seq.saturating_sub(*before));
        (last, *before) = (number, seq.max(*before));
    }
    trail.base = base;
    trail
}

/// The trail of another gateway.
pub(crate) struct Trail {
    base: Vec<u64>,
    /// By partition, number and sequence, ascending.
    steps: Vec<Vec<(u64, u64)>>,
}

impl Trail {
    /// Reads what the store kept.
    pub(crate) fn decode(trail: v1::Trail) -> Self {
        let mut steps = vec![Vec::new(); trail.base.len()];
        let (mut number, mut seqs) = (0_u64, trail.base.clone());
        let all = trail.numbers.iter().zip(&trail.partitions).zip(&trail.seqs);
        for ((more, partition), further) in all {
            number = number.saturating_add(*more);
            let partition = usize::try_from(*partition).unwrap_or(usize::MAX);
            if let (Some(seq), Some(steps)) = (seqs.get_mut(partition), steps.get_mut(partition)) {
                *seq = seq.saturating_add(*further);
                steps.push((number, *seq));
            }
        }
        Self {
            base: trail.base,
            steps,
        }
    }

    /// How far a client at `number` has at least got in a partition; `None` for one that is not known.
    pub(crate) fn through(&self, partition: u16, number: u64) -> Option<u64> {
        let steps = self.steps.get(usize::from(partition))?;
        let behind = steps.partition_point(|(at, _)| *at <= number);
        match behind.checked_sub(1).and_then(|last| steps.get(last)) {
            Some((_, seq)) => Some(*seq),
            None => self.base.get(usize::from(partition)).copied(),
        }
    }
}

/// How often a running gateway leaves a mark.
pub(crate) const INTERVAL: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(partition: u16, seq: u64) -> Offset {
        Offset { partition, seq }
    }

    #[test]
    fn marks_are_lower_bounds_however_old() {
        let begun = Instant::now();
        let mut marks = Marks::new(vec![10, 20]);
        for n in 1..=20_000_u64 {
            // The second partition stands still for most of the time.
            let through = [Some(10 + n * 3), Some(20 + n / 1000)];
            assert!(marks.add(begun + INTERVAL * u32::try_from(n).unwrap(), n * 5, &through));
        }
        assert!(
            !marks.add(begun + INTERVAL * 30_000, 1, &[Some(1), None]),
            "no news"
        );
        let trail = Trail::decode(marks.trail());
        assert!(trail.steps[0].len() < 200, "{}", trail.steps[0].len());
        for number in (0..100_000).step_by(7) {
            let n = number / 5;
            let first = trail.through(0, number).unwrap();
            assert!(first <= 10 + n * 3, "never more than was sent");
            let age = 20_000 - n;
            assert!(
                first + 3 * (age / 4 + 3) >= 10 + n * 3,
                "and not far less: {number} {first}"
            );
            assert!(trail.through(1, number).unwrap() <= 20 + n / 1000);
        }
        assert_eq!(trail.through(1, 100_000), Some(40));
        assert_eq!(trail.through(2, 1), None);
    }

    #[test]
    fn every_step_of_a_drained_gateway() {
        let steps = [(5, offset(0, 50)), (6, offset(1, 7)), (9, offset(0, 55))];
        let trail = Trail::decode(exact(vec![60, 9, 3], &steps));
        for (number, partition, expected) in [
            (4, 0, 49),
            (5, 0, 50),
            (8, 0, 50),
            (9, 0, 55),
            (5, 1, 6),
            (6, 1, 7),
            (1, 2, 3),
        ] {
            assert_eq!(
                trail.through(partition, number),
                Some(expected),
                "{number} {partition}"
            );
        }
    }
}
