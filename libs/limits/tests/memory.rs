//! The memory engine: the port's list, a naive model, its bound on keys.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use limits::{
    Decision, Limit, RateLimiter,
    rate_limiter::{
        conformance::{self, Stage},
        memory::{Clock, MemoryLimiter},
    },
};
use proptest::prelude::*;

/// A clock that is set.
#[derive(Clone, Default)]
struct Hands(Arc<AtomicU64>);

impl Hands {
    fn clock(&self) -> Clock {
        let nanos = Arc::clone(&self.0);
        Arc::new(move || Duration::from_nanos(nanos.load(Ordering::Relaxed)))
    }

    fn pass(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap();
        self.0.fetch_add(nanos, Ordering::Relaxed);
    }
}

#[async_trait]
impl Stage for Hands {
    async fn limiter(&self, limit: Limit) -> Arc<dyn RateLimiter> {
        Arc::new(MemoryLimiter::new(limit, keys(1000), self.clock()))
    }

    async fn pass(&self, time: Duration) {
        Hands::pass(self, time);
    }
}

fn keys(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).unwrap()
}

fn limit(events: u32, window: Duration) -> Limit {
    Limit::new(events, window).unwrap()
}

fn check(limiter: &MemoryLimiter, key: &str, cost: u32) -> Decision {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(limiter.check(key, cost)).unwrap()
}

/// A bucket that drips: another wording of the same rule, in parts of an event as small as the window has
/// nanoseconds.
struct Bucket {
    parts: u128,
    filled_at: u128,
}

struct Model {
    limit: Limit,
    buckets: HashMap<String, Bucket>,
}

impl Model {
    fn check(&mut self, now: u128, key: &str, cost: u32) -> (bool, u32) {
        let (events, event) = (u128::from(self.limit.events()), self.limit.window().as_nanos());
        let bucket = self.buckets.entry(key.to_owned()).or_insert(Bucket {
            parts: events * event,
            filled_at: now,
        });
        bucket.parts = (bucket.parts + (now - bucket.filled_at) * events).min(events * event);
        bucket.filled_at = now;
        let cost = u128::from(cost) * event;
        let allowed = cost <= bucket.parts;
        if allowed {
            bucket.parts -= cost;
        }
        (allowed, u32::try_from(bucket.parts / event).unwrap())
    }
}

#[derive(Clone, Debug)]
struct Step {
    /// Nanoseconds before it.
    wait: u64,
    key: u8,
    cost: u32,
}

fn steps(keys: u8, window: u64) -> impl Strategy<Value = Vec<Step>> {
    let wait = prop_oneof![
        3 => Just(0),
        4 => 0..=window / 4,
        1 => 0..=window * 3,
    ];
    let step = (wait, 0..keys, 0_u32..6).prop_map(|(wait, key, cost)| Step { wait, key, cost });
    prop::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn it_decides_as_the_naive_model(
        events in 1_u32..8,
        window in 1_u64..50,
        steps in steps(5, 50),
    ) {
        let hands = Hands::default();
        let limit = limit(events, Duration::from_nanos(window));
        let limiter = MemoryLimiter::new(limit, keys(5), hands.clock());
        let mut model = Model { limit, buckets: HashMap::new() };
        let mut now = 0;
        for Step { wait, key, cost } in steps {
            hands.pass(Duration::from_nanos(wait));
            now += u128::from(wait);
            let (key, cost) = (key.to_string(), cost.min(events));
            let decision = check(&limiter, &key, cost);
            prop_assert_eq!((decision.allowed, decision.remaining), model.check(now, &key, cost));
            prop_assert_eq!(decision.allowed, decision.retry_after.is_zero());
        }
    }

    #[test]
    fn no_stretch_of_time_has_more_than_its_share_and_one_burst(
        events in 1_u32..8,
        window in 1_u64..50,
        steps in steps(1, 50),
    ) {
        let hands = Hands::default();
        let limiter = MemoryLimiter::new(limit(events, Duration::from_nanos(window)), keys(1), hands.clock());
        let mut now = 0;
        let mut spent: Vec<(u64, u32)> = Vec::new();
        for Step { wait, cost, .. } in steps {
            hands.pass(Duration::from_nanos(wait));
            now += wait;
            let cost = cost.min(events);
            if check(&limiter, "a", cost).allowed {
                spent.push((now, cost));
            }
        }
        for (index, (begin, _)) in spent.iter().enumerate() {
            let mut sum = 0;
            for (end, cost) in &spent[index..] {
                sum += u64::from(*cost);
                let share = (end - begin) * u64::from(events) / window;
                prop_assert!(sum <= u64::from(events) + share, "{sum} from {begin} to {end}");
            }
        }
    }

    #[test]
    fn retry_after_and_reset_in_are_exact(
        events in 1_u32..8,
        window in 1_u64..1000,
        spent in 1_u32..8,
        rest in 0_u64..1000,
        cost in 1_u32..8,
    ) {
        let hands = Hands::default();
        let limiter = MemoryLimiter::new(limit(events, Duration::from_nanos(window)), keys(1), hands.clock());
        check(&limiter, "a", spent.min(events));
        hands.pass(Duration::from_nanos(rest));
        let cost = cost.min(events);
        let refused = check(&limiter, "a", cost);
        if !refused.allowed {
            hands.pass(refused.retry_after - Duration::from_nanos(1));
            prop_assert!(!check(&limiter, "a", cost).allowed);
            hands.pass(Duration::from_nanos(1));
            prop_assert!(check(&limiter, "a", cost).allowed);
        }
        let asked = check(&limiter, "a", 0);
        if !asked.reset_in.is_zero() {
            hands.pass(asked.reset_in - Duration::from_nanos(1));
            prop_assert!(check(&limiter, "a", 0).remaining < events);
            hands.pass(Duration::from_nanos(1));
        }
        prop_assert_eq!(check(&limiter, "a", 0).remaining, events);
    }

    #[test]
    fn keys_never_outnumber_their_bound(bound in 1_usize..12, steps in steps(40, 50)) {
        let hands = Hands::default();
        let limiter = MemoryLimiter::new(limit(5, Duration::from_nanos(50)), keys(bound), hands.clock());
        for Step { wait, key, cost } in steps {
            hands.pass(Duration::from_nanos(wait));
            check(&limiter, &key.to_string(), cost);
            prop_assert!(limiter.keys() <= bound);
        }
    }
}

#[tokio::test]
async fn conforms() {
    conformance::all(&Hands::default()).await;
}

#[test]
fn it_never_has_to_wait() {
    let hands = Hands::default();
    let limiter = MemoryLimiter::new(limit(1, Duration::from_secs(1)), keys(1), hands.clock());
    assert!(limiter.try_check("a", 1).unwrap().unwrap().allowed);
    assert!(!check(&limiter, "a", 1).allowed);
}

#[test]
fn zero_is_no_limit() {
    assert_eq!(Limit::new(0, Duration::from_secs(1)), None);
    assert_eq!(Limit::new(1, Duration::ZERO), None);
}

#[test]
fn idle_keys_are_forgotten_two_a_check() {
    const WINDOW: Duration = Duration::from_secs(60);
    let hands = Hands::default();
    let limiter = MemoryLimiter::new(limit(10, WINDOW), keys(10_000), hands.clock());
    for key in 0..1000 {
        check(&limiter, &key.to_string(), 1);
    }
    assert_eq!(limiter.keys(), 1000);
    hands.pass(WINDOW);
    check(&limiter, "one that asks", 0);
    assert_eq!(limiter.keys(), 998, "never all in one check");
    for _ in 0..499 {
        check(&limiter, "one that asks", 0);
    }
    assert_eq!(limiter.keys(), 0, "asking keeps nothing");
}

#[test]
fn a_busy_key_outlives_its_looks() {
    const WINDOW: Duration = Duration::from_secs(60);
    let hands = Hands::default();
    let limiter = MemoryLimiter::new(limit(10, WINDOW), keys(10), hands.clock());
    assert_eq!(check(&limiter, "busy", 10).remaining, 0);
    for _ in 0..100 {
        hands.pass(WINDOW / 10);
        assert!(check(&limiter, "busy", 1).allowed);
        assert!(!check(&limiter, "busy", 1).allowed);
    }
}

#[test]
fn a_flood_of_new_keys_does_not_free_who_is_limited() {
    let hands = Hands::default();
    let limiter = MemoryLimiter::new(limit(100, Duration::from_secs(60)), keys(64), hands.clock());
    let limited = ["a", "b", "c", "d", "e"];
    for key in limited {
        check(&limiter, key, 100);
    }
    for key in 0..10_000 {
        check(&limiter, &format!("flood {key}"), 1);
    }
    assert_eq!(limiter.keys(), 64);
    for key in limited {
        assert!(!check(&limiter, key, 1).allowed, "{key}");
    }
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let hands = Hands::default();
    hands.pass(Duration::from_secs(100));
    let limiter = MemoryLimiter::new(limit(2, Duration::from_secs(10)), keys(4), hands.clock());
    check(&limiter, "a", 2);
    hands.0.store(0, Ordering::Relaxed);
    let refused = check(&limiter, "a", 1);
    assert!(!refused.allowed);
    assert_eq!(refused.retry_after, Duration::from_secs(5));
}
