//! Answers of the session endpoint, a bounded number of them.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use model::User;

use super::Hash;

pub(super) struct Cache {
    capacity: usize,
    known: HashMap<Hash, Known>,
    /// By when they came, oldest first; those that were replaced stand in it once more.
    order: VecDeque<(Hash, u64)>,
    /// How many have come.
    count: u64,
}

struct Known {
    user: Arc<User>,
    until: Instant,
    number: u64,
}

impl Cache {
    /// The oldest goes for one more than `capacity`; 0 keeps none.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            known: HashMap::new(),
            order: VecDeque::new(),
            count: 0,
        }
    }

    pub(super) fn get(&self, hash: &Hash, now: Instant) -> Option<Arc<User>> {
        let known = self.known.get(hash)?;
        (known.until > now).then(|| Arc::clone(&known.user))
    }

    pub(super) fn put(&mut self, hash: Hash, user: &Arc<User>, ttl: Duration, now: Instant) {
        if self.capacity == 0 || ttl.is_zero() {
            self.known.remove(&hash);
            return;
        }
        self.count += 1;
        let known = Known {
            user: Arc::clone(user),
            until: now + ttl,
            number: self.count,
        };
        self.known.insert(hash, known);
        self.order.push_back((hash, self.count));
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
    use model::UserId;

    use super::*;

    #[test]
    fn keeps_as_long_as_told_and_no_more_than_it_may() {
        let user = Arc::new(crate::named_guest(UserId::new("a").unwrap(), "a"));
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let mut cache = Cache::new(2);
        cache.put([1; 32], &user, second, now);
        assert!(cache.get(&[1; 32], now).is_some());
        assert!(cache.get(&[1; 32], now + second).is_none());
        cache.put([2; 32], &user, second, now);
        cache.put([1; 32], &user, second * 2, now);
        cache.put([3; 32], &user, second, now);
        let known = |cache: &Cache| [1, 2, 3].map(|n| cache.get(&[n; 32], now).is_some());
        assert_eq!(
            known(&cache),
            [true, false, true],
            "what was replaced counts as new"
        );
        for _ in 0..100 {
            cache.put([3; 32], &user, second, now);
        }
        assert!(cache.known.len() <= 2 && cache.order.len() <= 4);
        assert!(cache.get(&[3; 32], now).is_some());
        cache.put([3; 32], &user, Duration::ZERO, now);
        assert!(cache.get(&[3; 32], now).is_none());
        let mut none = Cache::new(0);
        none.put([1; 32], &user, second, now);
        assert!(none.get(&[1; 32], now).is_none());
    }
}
