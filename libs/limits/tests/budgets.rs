//! Budgets of one process and of several that share a limiter.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use limits::{
    Budget, Budgets, Lease, Limit, LimitsError, RateLimiter, Spent,
    budget::Upkeep,
    rate_limiter::memory::{Clock, MemoryLimiter},
};
use tokio::task::AbortHandle;

const WINDOW: Duration = Duration::from_secs(60);

#[derive(Clone, Default)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn clock(&self) -> Clock {
        let nanos = Arc::clone(&self.0);
        Arc::new(move || Duration::from_nanos(nanos.load(Ordering::Relaxed)))
    }

    fn pass(&self, time: Duration) {
        self.0
            .fetch_add(u64::try_from(time.as_nanos()).unwrap(), Ordering::Relaxed);
    }
}

/// A limiter in common that counts its calls and may be away.
struct Common {
    limiter: MemoryLimiter,
    away: AtomicBool,
    calls: AtomicU32,
}

impl Common {
    fn new(events: u32, time: &Time) -> Arc<Self> {
        let limit = Limit::new(events, WINDOW).unwrap();
        Arc::new(Self {
            limiter: MemoryLimiter::new(limit, NonZeroUsize::MAX, time.clock()),
            away: AtomicBool::new(false),
            calls: AtomicU32::new(0),
        })
    }

    fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }

    fn called(&self) -> Result<(), LimitsError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.away.load(Ordering::Relaxed) {
            return Err(LimitsError::Unavailable("away".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl RateLimiter for Common {
    async fn lease(&self, key: &str, cost: u32, spare: u32) -> Result<Lease, LimitsError> {
        self.called()?;
        self.limiter.lease(key, cost, spare).await
    }

    async fn give_back(&self, key: &str, count: u32) -> Result<(), LimitsError> {
        self.called()?;
        self.limiter.give_back(key, count).await
    }
}

/// A process of several.
struct Process {
    budgets: Arc<Budgets>,
    upkeep: AbortHandle,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.upkeep.abort();
    }
}

#[expect(clippy::disallowed_methods, reason = "aborted when the process is dropped")]
fn run(upkeep: Upkeep) -> AbortHandle {
    tokio::spawn(upkeep.run()).abort_handle()
}

async fn process(events: u32, time: &Time, common: &Arc<Common>) -> Process {
    let limit = Limit::new(events, WINDOW).unwrap();
    let (budgets, upkeep) = Budgets::in_common(
        limit,
        80,
        NonZeroUsize::MAX,
        time.clock(),
        Arc::clone(common) as _,
    );
    let process = Process {
        budgets,
        upkeep: run(upkeep),
    };
    rest().await;
    assert!(!process.budgets.is_alone());
    process
}

fn alone(events: u32, time: &Time) -> Arc<Budgets> {
    Budgets::new(
        Limit::new(events, WINDOW).unwrap(),
        80,
        NonZeroUsize::MAX,
        time.clock(),
    )
}

async fn spend(budget: &Arc<Budget>) -> Spent {
    match budget.spend() {
        Some(spent) => spent,
        None => budget.ask().await,
    }
}

fn allowed(spent: Spent) -> bool {
    !matches!(spent, Spent::Refused(_))
}

/// Lets the background work go on.
async fn rest() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn alone_it_is_the_rule_of_the_limiters() {
    let time = Time::default();
    let budgets = alone(10, &time);
    let budget = budgets.budget("a");
    for _ in 0..7 {
        assert_eq!(budget.spend(), Some(Spent::Allowed));
    }
    for (left, used) in [(2, 8), (1, 9), (0, 10)] {
        let Some(Spent::Near(decision)) = budget.spend() else {
            panic!("80 % and more are near the limit");
        };
        assert!(decision.allowed);
        assert_eq!((decision.limit, decision.remaining), (10, left));
        assert_eq!(decision.reset_in, WINDOW / 10 * used);
    }
    let Some(Spent::Refused(decision)) = budget.spend() else {
        panic!("it is spent");
    };
    assert_eq!((decision.remaining, decision.retry_after), (0, WINDOW / 10));
    assert!(
        allowed(budgets.budget("b").spend().unwrap()),
        "users are independent"
    );
    time.pass(decision.retry_after);
    assert!(allowed(budgets.budget("a").spend().unwrap()));
    assert!(!allowed(budget.spend().unwrap()));
}

#[test]
fn who_is_held_is_not_forgotten() {
    let time = Time::default();
    let few = NonZeroUsize::new(64).unwrap();
    let budgets = Budgets::new(Limit::new(1, WINDOW).unwrap(), 80, few, time.clock());
    let held: Vec<_> = (0..200)
        .map(|user| budgets.budget(&format!("held {user}")))
        .collect();
    for budget in &held {
        assert!(allowed(budget.spend().unwrap()));
    }
    for user in 0..10_000 {
        assert!(allowed(
            budgets.budget(&format!("passing {user}")).spend().unwrap()
        ));
        assert!(budgets.len() < 200 * 4);
    }
    for (user, budget) in held.iter().enumerate() {
        let again = budgets.budget(&format!("held {user}"));
        assert!(Arc::ptr_eq(budget, &again) && !allowed(again.spend().unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn several_hold_one_limit_together() {
    for (events, processes) in [(100, 2), (100, 3), (1000, 2), (20, 2)] {
        let time = Time::default();
        let common = Common::new(events, &time);
        let mut all = Vec::new();
        for _ in 0..processes {
            all.push(process(events, &time, &common).await);
        }
        let budgets: Vec<_> = all.iter().map(|process| process.budgets.budget("a")).collect();
        let mut passed = 0;
        for _ in 0..events {
            for budget in &budgets {
                passed += u32::from(allowed(spend(budget).await));
                rest().await;
            }
        }
        assert!(passed <= events, "{passed} of {events}");
        assert!(
            passed >= events * 9 / 10,
            "{passed} of {events}, {processes} processes"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_holds_a_share_does_not_keep_the_others_short() {
    let time = Time::default();
    let common = Common::new(100, &time);
    let (one, two) = (
        process(100, &time, &common).await,
        process(100, &time, &common).await,
    );
    let idle = one.budgets.budget("a");
    assert!(allowed(spend(&idle).await));
    let budget = two.budgets.budget("a");
    let mut passed = 1;
    while allowed(spend(&budget).await) {
        passed += 1;
        rest().await;
    }
    assert!((90..=100).contains(&passed), "{passed}");
    // What the idle one held comes back to all when nobody uses it.
    let before = common.limiter.check("a", 0).await.unwrap().remaining;
    time.pass(WINDOW / 8);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = common.limiter.check("a", 0).await.unwrap().remaining;
    assert!(after >= before + 100 / 8 + 4, "{before}, then {after}");
}

#[tokio::test(start_paused = true)]
async fn most_events_ask_nobody_and_none_waits() {
    let time = Time::default();
    let common = Common::new(1000, &time);
    let one = process(1000, &time, &common).await;
    let budget = one.budgets.budget("a");
    assert_eq!(budget.spend(), None, "the first must ask");
    assert_eq!(budget.ask().await, Spent::Allowed);
    for event in 1..500 {
        assert!(budget.spend().is_some_and(allowed), "event {event} waits");
        rest().await;
    }
    assert!(common.calls() < 500 / 15, "{} calls", common.calls());
}

#[tokio::test(start_paused = true)]
async fn a_refused_user_costs_no_calls() {
    let time = Time::default();
    let common = Common::new(10, &time);
    let (one, two) = (
        process(10, &time, &common).await,
        process(10, &time, &common).await,
    );
    let (budget, other) = (one.budgets.budget("a"), two.budgets.budget("a"));
    while allowed(spend(&budget).await) {}
    let Spent::Refused(decision) = spend(&other).await else {
        panic!("the other process knows");
    };
    assert!(decision.retry_after > Duration::ZERO && decision.retry_after <= WINDOW / 10);
    let before = common.calls();
    for _ in 0..1000 {
        assert!(matches!(other.spend(), Some(Spent::Refused(_))));
        assert!(matches!(budget.spend(), Some(Spent::Refused(_))));
    }
    assert_eq!(common.calls(), before);
    time.pass(decision.retry_after);
    assert!(allowed(spend(&other).await), "waiting as told is enough");
}

#[tokio::test(start_paused = true)]
async fn near_the_limit_is_told_by_what_all_have_spent() {
    let time = Time::default();
    let common = Common::new(100, &time);
    let (one, two) = (
        process(100, &time, &common).await,
        process(100, &time, &common).await,
    );
    let budget = one.budgets.budget("a");
    for _ in 0..85 {
        assert!(allowed(spend(&budget).await));
        rest().await;
    }
    let Spent::Near(decision) = spend(&two.budgets.budget("a")).await else {
        panic!("its first event, and the limit is near");
    };
    assert!(
        decision.remaining <= 14 && decision.remaining >= 8,
        "{decision:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn each_goes_on_by_itself_while_the_limiter_is_away() {
    let time = Time::default();
    let common = Common::new(100, &time);
    let one = process(100, &time, &common).await;
    let budget = one.budgets.budget("a");
    for _ in 0..30 {
        assert!(allowed(spend(&budget).await));
        rest().await;
    }
    common.away.store(true, Ordering::Relaxed);
    let mut passed = 30;
    while allowed(spend(&budget).await) {
        passed += 1;
    }
    assert_eq!(passed, 100, "what was spent before counts");
    assert!(one.budgets.is_alone());
    let before = common.calls();
    let other = one.budgets.budget("b");
    for _ in 0..50 {
        assert!(other.spend().is_some_and(allowed), "nobody waits");
        rest().await;
    }
    assert!(common.calls() <= before + 1, "it is not asked for every event");
    common.away.store(false, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!one.budgets.is_alone());
    assert!(common.calls() > before);
}

#[tokio::test(start_paused = true)]
async fn the_idle_are_forgotten() {
    let time = Time::default();
    let common = Common::new(100, &time);
    let one = process(100, &time, &common).await;
    for user in 0..1000 {
        assert!(allowed(spend(&one.budgets.budget(&user.to_string())).await));
    }
    assert_eq!(one.budgets.len(), 1000);
    time.pass(WINDOW);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(one.budgets.is_empty(), "{}", one.budgets.len());
}
