//! What budgets do in the background: fetch shares, give back those that are not used, forget the idle.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use super::{Budget, Budgets, Rule};

/// How often it is looked for shares that nobody uses, and for the limiter while it is away.
const SWEEP: Duration = Duration::from_secs(1);
/// A share that is not touched for this part of the window goes back, but not within a second.
const HOLD: u32 = 8;
/// Calls under way at a time.
const CALLS: usize = 64;

/// The background work of [`Budgets`] with a limiter in common.
pub struct Upkeep {
    budgets: Arc<Budgets>,
    refills: mpsc::Receiver<Arc<Budget>>,
}

type Calls = FuturesUnordered<BoxFuture<'static, ()>>;

impl Upkeep {
    pub(super) fn new(budgets: Arc<Budgets>, refills: mpsc::Receiver<Arc<Budget>>) -> Self {
        Self { budgets, refills }
    }

    /// Works until it is dropped; then the shares held here come back to the others with time.
    pub async fn run(mut self) {
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut calls = Calls::new();
        loop {
            tokio::select! {
                Some(budget) = self.refills.recv(), if calls.len() < CALLS => {
                    calls.push(Box::pin(refill(budget)));
                }
                Some(()) = calls.next(), if !calls.is_empty() => {}
                _ = sweep.tick() => {
                    if self.budgets.is_alone() {
                        calls.push(Box::pin(look_for(Arc::clone(&self.budgets.rule))));
                    }
                    self.sweep(&mut calls).await;
                }
            }
        }
    }

    async fn sweep(&self, calls: &mut Calls) {
        for unused in self.budgets.sweep() {
            if calls.len() >= CALLS {
                calls.next().await;
            }
            calls.push(Box::pin(give_back(unused)));
        }
    }
}

/// A share that goes back.
struct Unused {
    budget: Arc<Budget>,
    share: u32,
}

impl Budgets {
    /// Forgets budgets that cannot be told from new ones; the shares that nobody uses.
    fn sweep(&self) -> Vec<Unused> {
        let now = self.rule.now();
        let hold = (self.rule.limit.window() / HOLD).max(SWEEP);
        let mut unused = Vec::new();
        for shard in &self.shards {
            shard.lock().budgets.retain(|_, budget| {
                let held = Arc::strong_count(budget) > 1;
                let mut state = budget.state.lock();
                let idle = self.rule.time(now.saturating_sub(state.used_at));
                if state.share > 0 && (!held || idle >= hold) {
                    let share = std::mem::take(&mut state.share);
                    let budget = Arc::clone(budget);
                    unused.push(Unused { budget, share });
                    return true;
                }
                held || state.full_at > now || state.refused_until > now
            });
        }
        unused
    }
}

async fn look_for(rule: Arc<Rule>) {
    if let Some(common) = &rule.common {
        common.look().await;
    }
}

async fn refill(budget: Arc<Budget>) {
    let rule = &*budget.rule;
    let Some(common) = &rule.common else {
        return;
    };
    let lease = common.lease(&budget.key, 0).await;
    if let Some(lease) = lease {
        rule.take(&mut budget.state.lock(), rule.now(), &lease);
    }
}

async fn give_back(unused: Unused) {
    let Unused { budget, share } = unused;
    if let Some(common) = &budget.rule.common
        && let Err(error) = common.limiter.give_back(&budget.key, share).await
    {
        tracing::debug!(%error, "a share of a limit comes back only with time");
    }
}
