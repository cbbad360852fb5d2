use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::Key;

/// A bounded number of answers, each kept as long as it says.
pub struct Cache<T> {
    capacity: usize,
    known: HashMap<Key, Known<T>>,
    /// By when they came, oldest first; those that were replaced stand in it once more.
    order: VecDeque<(Key, u64)>,
    /// How many have come.
    count: u64,
}

struct Known<T> {
    answer: T,
    until: Instant,
    number: u64,
}

impl<T: Clone> Cache<T> {
    /// The oldest goes for one more than `capacity`; 0 keeps none.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            known: HashMap::new(),
            order: VecDeque::new(),
            count: 0,
        }
    }

    /// What is kept at `now`.
    pub fn get(&self, key: &Key, now: Instant) -> Option<T> {
        let known = self.known.get(key)?;
        (known.until > now).then(|| known.answer.clone())
    }

    /// Keeps an answer from `now` on for `ttl`, in place of the one before.
    pub fn put(&mut self, key: Key, answer: T, ttl: Duration, now: Instant) {
        if self.capacity == 0 || ttl.is_zero() {
            self.known.remove(&key);
            return;
        }
        self.count += 1;
        let known = Known {
            answer,
            until: now + ttl,
            number: self.count,
        };
        self.known.insert(key, known);
        self.order.push_back((key, self.count));
        while self.known.len() > self.capacity || self.order.len() > 2 * self.capacity {
            let Some((oldest, number)) = self.order.pop_front() else {
                return;
            };
            // Unless it was replaced since.
            if self
                .known
                .get(&oldest)
                .is_some_and(|known| known.number == number)
            {
                self.known.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_as_long_as_told_and_no_more_than_it_may() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut cache = Cache::new(2);
        cache.put([1; 32], (), second, now);
        assert!(cache.get(&[1; 32], now).is_some());
        assert!(cache.get(&[1; 32], now + second).is_none());
        cache.put([2; 32], (), second, now);
        cache.put([1; 32], (), second * 2, now);
        cache.put([3; 32], (), second, now);
        let known = |cache: &Cache<()>| [1, 2, 3].map(|n| cache.get(&[n; 32], now).is_some());
        assert_eq!(
            known(&cache),
            [true, false, true],
            "what was replaced counts as new"
        );
        for _ in 0..100 {
            cache.put([3; 32], (), second, now);
        }
        assert!(cache.known.len() <= 2 && cache.order.len() <= 4);
        assert!(cache.get(&[3; 32], now).is_some());
        cache.put([3; 32], (), Duration::ZERO, now);
        assert!(cache.get(&[3; 32], now).is_none());
        let mut none = Cache::new(0);
        none.put([1; 32], (), second, now);
        assert!(none.get(&[1; 32], now).is_none());
    }
}
