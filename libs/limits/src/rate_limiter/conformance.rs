//! What every engine of [`RateLimiter`] must do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a check reports by panicking")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::{Decision, Limit, LimitsError, RateLimiter};

/// Long enough that nothing comes back while a check runs, on an engine with a clock of its own too.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// Short enough to be waited for.
const SHORT: Duration = Duration::from_millis(400);

/// An engine and its clock.
#[async_trait]
pub trait Stage: Send + Sync {
    /// A limiter on which nothing has been spent.
    async fn limiter(&self, limit: Limit) -> Arc<dyn RateLimiter>;

    /// Lets at least as much time pass for the limiters: a clock that is set, or a wait.
    async fn pass(&self, time: Duration);
}

/// Runs every check, each on limiters of its own.
///
/// # Panics
/// When the engine does not conform.
pub async fn all(stage: &dyn Stage) {
    the_limit_is_what_may_be_spent_at_once(stage).await;
    a_refusal_spends_nothing(stage).await;
    keys_are_independent(stage).await;
    a_cost_of_nothing_asks(stage).await;
    more_than_the_limit_is_an_error(stage).await;
    without_a_future_it_is_the_same_limit(stage).await;
    a_race_spends_the_limit_once(stage).await;
    what_was_spent_comes_back_evenly(stage).await;
    waiting_as_told_is_enough(stage).await;
    a_lease_leaves_the_others_most(stage).await;
    what_is_given_back_can_be_spent(stage).await;
    the_largest_limit_holds(stage).await;
}

async fn limiter(stage: &dyn Stage, events: u32, window: Duration) -> Arc<dyn RateLimiter> {
    stage.limiter(Limit::new(events, window).unwrap()).await
}

async fn check(limiter: &Arc<dyn RateLimiter>, key: &str, cost: u32) -> Decision {
    limiter.check(key, cost).await.unwrap()
}

async fn the_limit_is_what_may_be_spent_at_once(stage: &dyn Stage) {
    let limiter = limiter(stage, 3, LONG).await;
    for remaining in [2, 1, 0] {
        let decision = check(&limiter, "a", 1).await;
        assert!(decision.allowed);
        assert_eq!((decision.limit, decision.remaining), (3, remaining));
        assert_eq!(decision.retry_after, Duration::ZERO);
        let spent = LONG / 3 * (3 - remaining);
        assert!(decision.reset_in <= spent && decision.reset_in > spent - LONG / 6);
    }
    let decision = check(&limiter, "a", 1).await;
    assert!(!decision.allowed);
    assert_eq!((decision.limit, decision.remaining), (3, 0));
    assert!(decision.retry_after <= LONG / 3 && decision.retry_after > LONG / 6);
    assert!(decision.reset_in <= LONG && decision.reset_in > LONG / 6 * 5);
}

async fn a_refusal_spends_nothing(stage: &dyn Stage) {
    let limiter = limiter(stage, 10, LONG).await;
    assert!(check(&limiter, "a", 7).await.allowed);
    for _ in 0..3 {
        let decision = check(&limiter, "a", 4).await;
        assert!(!decision.allowed);
        assert_eq!(decision.remaining, 3);
    }
    assert!(check(&limiter, "a", 3).await.allowed);
}

async fn keys_are_independent(stage: &dyn Stage) {
    let limiter = limiter(stage, 1, LONG).await;
    let odd = "x".repeat(1000);
    for key in ["", "a", "A", "a ", "a:b", "{a}", "ä\n", &odd] {
        assert!(check(&limiter, key, 1).await.allowed, "{key:?}");
        assert!(!check(&limiter, key, 1).await.allowed, "{key:?}");
    }
    let other = stage.limiter(Limit::new(1, LONG).unwrap()).await;
    assert!(check(&other, "a", 1).await.allowed, "limiters are independent");
}

async fn a_cost_of_nothing_asks(stage: &dyn Stage) {
    let limiter = limiter(stage, 2, LONG).await;
    let fresh = check(&limiter, "a", 0).await;
    assert!(fresh.allowed);
    assert_eq!((fresh.remaining, fresh.reset_in), (2, Duration::ZERO));
    assert_eq!(check(&limiter, "a", 2).await.remaining, 0);
    let spent = check(&limiter, "a", 0).await;
    assert!(spent.allowed);
    assert_eq!((spent.remaining, spent.retry_after), (0, Duration::ZERO));
}

async fn more_than_the_limit_is_an_error(stage: &dyn Stage) {
    let limiter = limiter(stage, 5, LONG).await;
    match limiter.check("a", 6).await {
        Err(LimitsError::TooCostly { cost, limit }) => assert_eq!((cost, limit), (6, 5)),
        other => panic!("{other:?}"),
    }
    assert_eq!(check(&limiter, "a", 5).await.remaining, 0, "it has spent nothing");
}

/// An engine that would have to wait says so and spends nothing.
async fn without_a_future_it_is_the_same_limit(stage: &dyn Stage) {
    let limiter = limiter(stage, 3, LONG).await;
    let spent = match limiter.try_check("a", 2) {
        None => 0,
        Some(decision) => {
            let decision = decision.unwrap();
            assert!(decision.allowed);
            assert_eq!((decision.limit, decision.remaining), (3, 1));
            assert!(!limiter.try_check("a", 2).unwrap().unwrap().allowed);
            let costly = limiter.try_check("a", 4).unwrap();
            assert!(matches!(
                costly,
                Err(LimitsError::TooCostly { cost: 4, limit: 3 })
            ));
            2
        }
    };
    assert_eq!(check(&limiter, "a", 0).await.remaining, 3 - spent);
}

async fn a_race_spends_the_limit_once(stage: &dyn Stage) {
    let limiter = limiter(stage, 20, LONG).await;
    let mut checks = JoinSet::new();
    for _ in 0..64 {
        let limiter = Arc::clone(&limiter);
        checks.spawn(async move { limiter.check("a", 1).await.unwrap().allowed });
    }
    let allowed = checks.join_all().await.into_iter().filter(|allowed| *allowed);
    assert_eq!(allowed.count(), 20);
}

async fn what_was_spent_comes_back_evenly(stage: &dyn Stage) {
    let limiter = limiter(stage, 1000, SHORT * 1000).await;
    assert!(check(&limiter, "a", 1000).await.allowed);
    stage.pass(SHORT).await;
    assert!(
        check(&limiter, "a", 1).await.allowed,
        "one after its share of the window"
    );
    let decision = check(&limiter, "a", 900).await;
    assert!(!decision.allowed, "not all at the window's end");
}

async fn waiting_as_told_is_enough(stage: &dyn Stage) {
    let limiter = limiter(stage, 4, SHORT).await;
    check(&limiter, "a", 4).await;
    let decision = check(&limiter, "a", 3).await;
    // On an engine with a clock of its own enough time may have passed already.
    if !decision.allowed {
        assert!(decision.retry_after > Duration::ZERO && decision.retry_after <= SHORT);
        stage.pass(decision.retry_after).await;
        assert!(check(&limiter, "a", 3).await.allowed);
    }
    let decision = check(&limiter, "a", 0).await;
    stage.pass(decision.reset_in).await;
    assert_eq!(check(&limiter, "a", 0).await.remaining, 4);
}

async fn a_lease_leaves_the_others_most(stage: &dyn Stage) {
    let limiter = limiter(stage, 20, LONG).await;
    let lease = limiter.lease("a", 4, 3).await.unwrap();
    assert!(lease.decision.allowed);
    assert_eq!((lease.spare, lease.decision.remaining), (3, 13));
    let lease = limiter.lease("a", 1, 20).await.unwrap();
    assert_eq!((lease.spare, lease.decision.remaining), (3, 9), "a quarter of 12");
    let lease = limiter.lease("a", 0, 20).await.unwrap();
    assert_eq!((lease.spare, lease.decision.remaining), (2, 7));
    let refused = limiter.lease("a", 8, 20).await.unwrap();
    assert!(!refused.decision.allowed);
    assert_eq!((refused.spare, refused.decision.remaining), (0, 7));
    let lease = limiter.lease("a", 7, 20).await.unwrap();
    assert_eq!((lease.spare, lease.decision.remaining), (0, 0));
}

async fn what_is_given_back_can_be_spent(stage: &dyn Stage) {
    let limiter = limiter(stage, 10, LONG).await;
    limiter.give_back("a", 3).await.unwrap();
    assert_eq!(
        check(&limiter, "a", 10).await.remaining,
        0,
        "nobody gets more than all"
    );
    limiter.give_back("a", 4).await.unwrap();
    assert_eq!(check(&limiter, "a", 0).await.remaining, 4);
    assert!(check(&limiter, "a", 4).await.allowed);
    limiter.give_back("a", 100).await.unwrap();
    assert_eq!(check(&limiter, "a", 10).await.remaining, 0);
}

async fn the_largest_limit_holds(stage: &dyn Stage) {
    let limiter = limiter(stage, u32::MAX, LONG).await;
    assert!(check(&limiter, "a", u32::MAX).await.allowed);
    assert!(!check(&limiter, "a", u32::MAX).await.allowed);
}
