//! How much clients may do (CONTRACT sections 3 and 4): events of a user, of one kind, of a socket.

mod addresses;
mod memory;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ::limits::{
    Budget, Budgets, Decision, Limit, Limiters, Spent,
    rate_limiter::memory::{Clock, system_clock},
};
use lifecycle::Tasks;
use parking_lot::Mutex;
use smallvec::SmallVec;

pub(crate) use self::{
    addresses::{Addresses, Place, UserConnections, visitor},
    memory::Memory,
};
use crate::session::Socket;

/// From here on a limit is near (CONTRACT section 4).
const NEAR_PERCENT: u8 = 80;
/// What users without sockets have spent is remembered for so many.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(100_000);

/// The limits of events.
pub(crate) struct EventLimits {
    clock: Clock,
    /// Of a socket, whatever it sends.
    socket: Option<Arc<Budgets>>,
    /// Of a user across the gateways, for all events without a limit of their own.
    user: Option<Arc<Budgets>>,
    /// Of a user across the gateways for one event; free where there are no budgets.
    by_event: Vec<(String, Option<Arc<Budgets>>)>,
    /// Refusals a window after which a connection is cut; 0 for never.
    cut_after: u32,
    window: Duration,
    in_common: bool,
}

/// What is left to one socket; made at its first event.
#[derive(Default)]
pub(crate) struct Allowance {
    socket: Option<Arc<Purse>>,
    user: Option<Arc<Purse>>,
    /// In the order of the limits' own list; made when the event is sent first.
    by_event: Mutex<SmallVec<[Numbered; 1]>>,
    refused: Mutex<Refused>,
}

type Numbered = (u16, Arc<Purse>);

/// A budget and whether its owner knows that it is nearly spent.
struct Purse {
    kind: Kind,
    budget: Arc<Budget>,
    /// Nanoseconds of the clock.
    warned_until: AtomicU64,
}

/// What a limit is about.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    User,
    Event,
    Socket,
}

/// How often a socket was refused, since when.
#[derive(Default)]
struct Refused {
    since: Duration,
    count: u32,
}

/// A limit is near, or over.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Notice {
    pub(crate) kind: Kind,
    pub(crate) decision: Decision,
}

/// What becomes of an event.
pub(crate) enum Admitted {
    Now(Verdict),
    /// The limit must be [asked](Ask::answer) first.
    Ask(Ask),
}

/// Whether an event passes.
pub(crate) enum Verdict {
    /// It does. A notice is to be handed on to the client.
    Yes(Option<Notice>),
    No(Notice),
}

/// An event of somebody who has no share of the common limit here yet.
pub(crate) struct Ask {
    clock: Clock,
    purse: Arc<Purse>,
    notice: Option<Notice>,
}

impl Ask {
    /// The answer, within 100 ms.
    pub(crate) async fn answer(self) -> Verdict {
        let spent = self.purse.budget.ask().await;
        self.purse.verdict(&self.clock, spent, self.notice)
    }
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Event => "event",
            Self::Socket => "socket",
        }
    }
}

impl EventLimits {
    /// Those of the configuration. Without `common` they hold for this gateway alone.
    pub(crate) fn new(config: &config::Limits, common: Option<&dyn Limiters>, tasks: &Tasks) -> Self {
        let clock = system_clock();
        let alone = |events| {
            let limit = Limit::new(events, config.window)?;
            Some(Budgets::new(limit, NEAR_PERCENT, REMEMBERED, Arc::clone(&clock)))
        };
        let shared = |name: &str, events| {
            let Some(common) = common else {
                return alone(events);
            };
            let limit = Limit::new(events, config.window)?;
            let limiter = common.limiter(name, limit);
            let (budgets, upkeep) =
                Budgets::in_common(limit, NEAR_PERCENT, REMEMBERED, Arc::clone(&clock), limiter);
            tasks.background("rate limit", upkeep.run());
            Some(budgets)
        };
        Self {
            socket: alone(config.events_per_socket),
            user: shared("events", config.events),
            by_event: config
                .by_event
                .iter()
                .map(|(event, events)| (event.clone(), shared(&format!("event:{event}"), *events)))
                .collect(),
            cut_after: config.cut_after,
            window: config.window,
            in_common: common.is_some(),
            clock,
        }
    }

    /// Whether `socket` may send one more event of this name now. Allocates nothing but at the first.
    pub(crate) fn admit(&self, socket: &Socket, event: &str) -> Admitted {
        if self.socket.is_none() && self.user.is_none() && self.by_event.is_empty() {
            return Admitted::Now(Verdict::Yes(None));
        }
        let allowance = socket.allowance.get_or_init(|| Box::new(self.allowance(socket)));
        let mut notice = None;
        if let Some(purse) = &allowance.socket {
            match purse.spend(&self.clock, None) {
                Admitted::Now(Verdict::Yes(near)) => notice = near,
                other => return other,
            }
        }
        let own = self.by_event.iter().position(|(name, _)| name == event);
        let purse = match own {
            Some(index) => allowance.for_event(self, index, socket),
            None => allowance.user.clone(),
        };
        match purse {
            Some(purse) => purse.spend(&self.clock, notice),
            None => Admitted::Now(Verdict::Yes(notice)),
        }
    }

    /// Whether somebody without a socket may do what an event of this name does; `key` is the user's id. Waits 100 ms
    /// at most.
    pub(crate) async fn admit_visitor(&self, key: &str, event: &str) -> Result<(), Notice> {
        let own = self.by_event.iter().find(|(name, _)| name == event);
        let (kind, budgets) = match own {
            Some((_, budgets)) => (Kind::Event, budgets),
            None => (Kind::User, &self.user),
        };
        let Some(budgets) = budgets else { return Ok(()) };
        let budget = budgets.budget(key);
        let spent = match budget.spend() {
            Some(spent) => spent,
            None => budget.ask().await,
        };
        match spent {
            Spent::Allowed | Spent::Near(_) => Ok(()),
            Spent::Refused(decision) => Err(Notice { kind, decision }),
        }
    }

    /// Notes that an event of `socket` was refused; whether it has gone on for so long that it is to be cut, said once.
    pub(crate) fn refused(&self, socket: &Socket) -> bool {
        let Some(allowance) = socket.allowance.get().filter(|_| self.cut_after > 0) else {
            return false;
        };
        let now = (self.clock)();
        let mut refused = allowance.refused.lock();
        if now.saturating_sub(refused.since) > self.window {
            *refused = Refused { since: now, count: 0 };
        }
        refused.count = refused.count.saturating_add(1);
        refused.count == self.cut_after
    }

    /// Whether a limit of users is counted by this gateway alone, although it has one in common with others.
    pub(crate) fn are_alone(&self) -> bool {
        let by_event = self.by_event.iter().filter_map(|(_, budgets)| budgets.as_ref());
        self.in_common && self.user.iter().chain(by_event).any(|budgets| budgets.is_alone())
    }

    fn allowance(&self, socket: &Socket) -> Allowance {
        let purse = |kind, budgets: &Option<Arc<Budgets>>, key: &str| {
            let budgets = budgets.as_ref()?;
            Some(Arc::new(Purse::new(kind, budgets.budget(key))))
        };
        Allowance {
            socket: purse(Kind::Socket, &self.socket, socket.id()),
            user: purse(Kind::User, &self.user, socket.user().id.as_str()),
            ..Allowance::default()
        }
    }
}

impl Allowance {
    /// `None` when the event is free.
    fn for_event(&self, limits: &EventLimits, index: usize, socket: &Socket) -> Option<Arc<Purse>> {
        let budgets = limits.by_event.get(index)?.1.as_ref()?;
        let number = u16::try_from(index).ok()?;
        let mut purses = self.by_event.lock();
        if let Some((_, purse)) = purses.iter().find(|(known, _)| *known == number) {
            return Some(Arc::clone(purse));
        }
        let budget = budgets.budget(socket.user().id.as_str());
        let purse = Arc::new(Purse::new(Kind::Event, budget));
        purses.push((number, Arc::clone(&purse)));
        Some(purse)
    }
}

impl Purse {
    fn new(kind: Kind, budget: Arc<Budget>) -> Self {
        Self {
            kind,
            budget,
            warned_until: AtomicU64::new(0),
        }
    }

    fn spend(self: &Arc<Self>, clock: &Clock, notice: Option<Notice>) -> Admitted {
        match self.budget.spend() {
            Some(spent) => Admitted::Now(self.verdict(clock, spent, notice)),
            None => Admitted::Ask(Ask {
                clock: Arc::clone(clock),
                purse: Arc::clone(self),
                notice,
            }),
        }
    }

    fn verdict(&self, clock: &Clock, spent: Spent, notice: Option<Notice>) -> Verdict {
        match spent {
            Spent::Allowed => Verdict::Yes(notice),
            Spent::Near(decision) => Verdict::Yes(self.warn(clock, decision).or(notice)),
            Spent::Refused(decision) => Verdict::No(Notice {
                kind: self.kind,
                decision,
            }),
        }
    }

    /// One notice until everything would have come back: who stays near the limit knows.
    fn warn(&self, clock: &Clock, decision: Decision) -> Option<Notice> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let now = clock();
        if nanos(now) < self.warned_until.load(Ordering::Relaxed) {
            return None;
        }
        self.warned_until
            .store(nanos(now + decision.reset_in), Ordering::Relaxed);
        Some(Notice {
            kind: self.kind,
            decision,
        })
    }
}
