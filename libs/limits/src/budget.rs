//! What users may spend of one limit, without asking anybody for each event.
//!
//! A [`Budget`] counts by itself, by the same rule as the limiters. Where the limit holds for several processes it
//! also leases shares from a limiter they have in common: an event takes from the share, a new share is fetched in
//! the background when half of one is left, and what is not used goes back after a while. So what one process holds
//! and others lack is a 16th of the limit or one event at most, and nobody ever has more than the limit.
//!
//! Only when there is no share, as at somebody's first event, the limiter must be [asked](Budget::ask), which takes
//! 100 ms at most. When it does not answer, each process goes on by its own count, which waits for nothing and lets
//! somebody who is at several processes spend the limit at each, until the limiter answers again. It is tried once a
//! second.

mod upkeep;

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

pub use self::upkeep::Upkeep;
use crate::rate_limiter::{Decision, Lease, Limit, LimitsError, RateLimiter, memory::Clock};

/// A share is this part of the limit.
const SHARES: u32 = 25;
/// An event waits so long for the limiter.
const ASK_TIMEOUT: Duration = Duration::from_millis(100);
/// So many locks share the budgets between them.
const SHARDS: usize = 64;
/// Shares that may wait to be fetched. Who finds no room asks when the share is used up.
const REFILLS: usize = 1024;

/// Time in nanoseconds × events: an event is worth `window` exactly, whatever the window divides by.
type Ticks = u128;

/// The budgets of one limit in this process.
pub struct Budgets {
    rule: Arc<Rule>,
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
}

/// Some of the budgets, and how many there may be before the idle are forgotten.
struct Shard {
    budgets: HashMap<Arc<str>, Arc<Budget>>,
    room: usize,
}

/// What holds for all budgets of a limit.
struct Rule {
    limit: Limit,
    /// What an event is worth.
    event: Ticks,
    /// What the limit is worth.
    whole: Ticks,
    /// Who has spent more is near the limit.
    near: Ticks,
    clock: Clock,
    common: Option<Common>,
}

/// The limiter that several processes have in common.
struct Common {
    limiter: Arc<dyn RateLimiter>,
    share: u32,
    refills: mpsc::Sender<Arc<Budget>>,
    /// One of the three below.
    reach: AtomicU8,
}

/// It has not been asked yet.
const UNKNOWN: u8 = 0;
/// It answers.
const THERE: u8 = 1;
/// It does not answer.
const AWAY: u8 = 2;

/// What one user may spend. Kept by whoever spends for the user, so that nothing is looked up.
pub struct Budget {
    rule: Arc<Rule>,
    key: Arc<str>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When everything spent here will have come back.
    full_at: Ticks,
    /// The same for what all processes have spent, as it was known last, `share` included.
    common_full_at: Ticks,
    /// Spent ahead at the limiter in common.
    share: u32,
    /// The limiter in common has nothing before that.
    refused_until: Ticks,
    /// Last spent of.
    used_at: Ticks,
}

/// What became of an event.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Spent {
    /// It may pass.
    Allowed,
    /// It may pass, and the limit is near.
    Near(Decision),
    /// It may not pass.
    Refused(Decision),
}

impl Budgets {
    /// Budgets of this process alone. At `near_percent` of the limit and more it is told that it is near. Beside
    /// those that somebody holds, `idle` are remembered until they are full again.
    #[must_use]
    pub fn new(limit: Limit, near_percent: u8, idle: NonZeroUsize, clock: Clock) -> Arc<Self> {
        Self::build(limit, near_percent, idle, clock, None)
    }

    /// The same for a limit that several processes hold together by `limiter`. [`Upkeep::run`] must run.
    #[must_use]
    pub fn in_common(
        limit: Limit,
        near_percent: u8,
        idle: NonZeroUsize,
        clock: Clock,
        limiter: Arc<dyn RateLimiter>,
    ) -> (Arc<Self>, Upkeep) {
        let (refills, queue) = mpsc::channel(REFILLS);
        let common = Common {
            limiter,
            share: (limit.events() / SHARES).max(1),
            refills,
            reach: AtomicU8::new(UNKNOWN),
        };
        let budgets = Self::build(limit, near_percent, idle, clock, Some(common));
        (Arc::clone(&budgets), Upkeep::new(budgets, queue))
    }

    fn build(
        limit: Limit,
        near_percent: u8,
        idle: NonZeroUsize,
        clock: Clock,
        common: Option<Common>,
    ) -> Arc<Self> {
        let event = limit.window().as_nanos();
        let whole = event * Ticks::from(limit.events());
        let rule = Rule {
            limit,
            event,
            whole,
            near: near(limit, near_percent),
            clock,
            common,
        };
        let shard = || {
            Mutex::new(Shard {
                budgets: HashMap::new(),
                room: idle.get().div_ceil(SHARDS),
            })
        };
        Arc::new(Self {
            rule: Arc::new(rule),
            hasher: RandomState::new(),
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
        })
    }

    /// The budget of `key`, to be kept by who spends for it.
    #[must_use]
    pub fn budget(&self, key: &str) -> Arc<Budget> {
        let shard = usize::try_from(self.hasher.hash_one(key)).unwrap_or_default() % SHARDS;
        let mut shard = self.shards[shard].lock();
        let Shard { budgets, room } = &mut *shard;
        if let Some(budget) = budgets.get(key) {
            return Arc::clone(budget);
        }
        if budgets.len() >= *room {
            // Who is held stays: there are never more of them than there are holders.
            budgets.retain(|_, budget| Arc::strong_count(budget) > 1);
            *room = (*room).max(2 * budgets.len());
        }
        let key = Arc::<str>::from(key);
        let budget = Arc::new(Budget {
            rule: Arc::clone(&self.rule),
            key: Arc::clone(&key),
            state: Mutex::default(),
        });
        budgets.insert(key, Arc::clone(&budget));
        budget
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().budgets.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this process counts for itself: it does not hold the limit in common, or the limiter does not answer.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.rule.common.as_ref().is_none_or(|common| !common.is_there())
    }
}

impl Budget {
    /// Spends one event. `None`, with nothing spent, when the limiter in common must be [asked](Budget::ask): never
    /// where there is none.
    ///
    /// Takes a lock of its own and the time; allocates nothing.
    #[must_use]
    pub fn spend(self: &Arc<Self>) -> Option<Spent> {
        let rule = &*self.rule;
        let now = rule.now();
        let mut state = self.state.lock();
        state.used_at = now;
        if let Some(until) = rule.wait(&state, now) {
            return Some(Spent::Refused(rule.refusal(&state, now, until)));
        }
        let Some(common) = &rule.common else {
            return Some(rule.spent(&mut state, now));
        };
        if !common.is_there() {
            return Some(rule.spent(&mut state, now));
        }
        state.share = state.share.checked_sub(1)?;
        let refill = state.share == common.share / 2;
        let spent = rule.spent(&mut state, now);
        drop(state);
        if refill {
            common.refill(self);
        }
        Some(spent)
    }

    /// Spends one event after asking the limiter in common, or by the count of this process where that does not
    /// answer within 100 ms. Dropping the future leaves it open whether the event is spent.
    pub async fn ask(self: &Arc<Self>) -> Spent {
        let rule = &*self.rule;
        let lease = match &rule.common {
            Some(common) => common.lease(&self.key, 1).await,
            None => None,
        };
        let now = rule.now();
        let mut state = self.state.lock();
        if let Some(lease) = lease {
            rule.take(&mut state, now, &lease);
        }
        match rule.wait(&state, now) {
            Some(until) => Spent::Refused(rule.refusal(&state, now, until)),
            None => rule.spent(&mut state, now),
        }
    }
}

/// What may be spent before the limit is near. In whole events, as they are shown: who has spent 8 of 10 has a little
/// less than 8 on its account a moment later, and is near all the same.
fn near(limit: Limit, percent: u8) -> Ticks {
    let spent = (Ticks::from(limit.events()) * Ticks::from(percent)).div_ceil(100);
    spent.saturating_sub(1) * limit.window().as_nanos()
}

impl Rule {
    fn now(&self) -> Ticks {
        (self.clock)().as_nanos() * Ticks::from(self.limit.events())
    }

    /// Until when nothing may be spent, if so.
    fn wait(&self, state: &State, now: Ticks) -> Option<Ticks> {
        let until = (state.full_at + self.event).saturating_sub(self.whole);
        let until = until.max(state.refused_until);
        (until > now).then_some(until)
    }

    /// Spends one event, which is allowed.
    fn spent(&self, state: &mut State, now: Ticks) -> Spent {
        state.full_at = state.full_at.max(now) + self.event;
        if self.used(state, now) <= self.near {
            Spent::Allowed
        } else {
            Spent::Near(self.decision(state, now, Duration::ZERO))
        }
    }

    fn used(&self, state: &State, now: Ticks) -> Ticks {
        let held = self.event * Ticks::from(state.share);
        let common = state.common_full_at.saturating_sub(now).saturating_sub(held);
        let here = state.full_at.saturating_sub(now);
        common.max(here).min(self.whole)
    }

    fn refusal(&self, state: &State, now: Ticks, until: Ticks) -> Decision {
        Decision {
            allowed: false,
            ..self.decision(state, now, self.time(until - now))
        }
    }

    fn decision(&self, state: &State, now: Ticks, retry_after: Duration) -> Decision {
        let used = self.used(state, now);
        let left = if retry_after.is_zero() {
            (self.whole - used) / self.event
        } else {
            0
        };
        Decision {
            allowed: true,
            limit: self.limit.events(),
            remaining: u32::try_from(left).unwrap_or(self.limit.events()),
            retry_after,
            reset_in: self.time(used),
        }
    }

    /// What the limiter in common says.
    fn take(&self, state: &mut State, now: Ticks, lease: &Lease) {
        let ticks = |time: Duration| time.as_nanos() * Ticks::from(self.limit.events());
        state.common_full_at = now + ticks(lease.decision.reset_in);
        if lease.decision.allowed {
            state.share = state.share.saturating_add(lease.spare);
            state.refused_until = 0;
        } else {
            state.refused_until = now + ticks(lease.decision.retry_after);
        }
    }

    fn time(&self, ticks: Ticks) -> Duration {
        let nanos = ticks.div_ceil(Ticks::from(self.limit.events()));
        u64::try_from(nanos).map_or(Duration::MAX, Duration::from_nanos)
    }
}

impl Common {
    fn refill(&self, budget: &Arc<Budget>) {
        let _ = self.refills.try_send(Arc::clone(budget));
    }

    fn is_there(&self) -> bool {
        self.reach.load(Ordering::Relaxed) == THERE
    }

    /// `cost` and a share; notes whether the limiter answers.
    async fn lease(&self, key: &str, cost: u32) -> Option<Lease> {
        self.ask(key, cost, self.share).await
    }

    /// Notes whether the limiter answers.
    async fn look(&self) {
        self.ask("", 0, 0).await;
    }

    async fn ask(&self, key: &str, cost: u32, spare: u32) -> Option<Lease> {
        let asked = tokio::time::timeout(ASK_TIMEOUT, self.limiter.lease(key, cost, spare));
        let error = match asked.await {
            Ok(Ok(lease)) => {
                if self.reach.swap(THERE, Ordering::Relaxed) == AWAY {
                    tracing::info!("rate limits hold for all gateways together again");
                }
                return Some(lease);
            }
            Ok(Err(error)) => error,
            Err(late) => LimitsError::Unavailable(late.into()),
        };
        if self.reach.swap(AWAY, Ordering::Relaxed) != AWAY {
            tracing::warn!(%error, "rate limits hold for each gateway by itself");
        }
        None
    }
}
