//! How much clients may do (CONTRACT sections 3 and 4): events of a user, of one kind, of a socket.

mod addresses;
mod attempts;
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
use model::Namespace;
use parking_lot::RwLock;
use smallvec::SmallVec;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use self::{
    addresses::{Addresses, Place, UserConnections, visitor},
    memory::Memory,
};
use crate::{events::matches, session::Socket};

/// From here on a limit is near (CONTRACT section 4).
const NEAR_PERCENT: u8 = 80;
/// What users without sockets have spent is remembered for so many.
const REMEMBERED: NonZeroUsize = NonZeroUsize::MIN.saturating_add(100_000);

/// The limits of events, which may be set anew under way.
pub(crate) struct EventLimits {
    clock: Clock,
    /// Counts for all gateways; without, this one counts for itself.
    common: Option<Arc<dyn Limiters>>,
    tasks: Tasks,
    current: RwLock<Arc<Current>>,
}

/// The limits as they are now.
struct Current {
    elsewhere: Arc<Limits>,
    /// By pattern; of several that match the first counts.
    namespaces: Vec<(String, Arc<Limits>)>,
    /// Refusals a window after which a connection is cut; 0 for never.
    cut_after: u32,
    window: Duration,
}

/// The limits of a namespace.
struct Limits {
    /// Of a socket, whatever it sends.
    socket: Option<Arc<Counted>>,
    /// Of a user across the gateways, for all events without a limit of their own.
    user: Option<Arc<Counted>>,
    /// Of a user across the gateways for one event; free where nothing is counted.
    by_event: Vec<(String, Option<Arc<Counted>>)>,
}

/// The budgets of one limit. What the gateways count together is kept up as long as this is there.
struct Counted {
    name: String,
    limit: Limit,
    budgets: Arc<Budgets>,
    _upkeep: DropGuard,
}

/// What is left to one socket; made at its first event under the limits that hold.
pub(crate) struct Allowance {
    limits: Arc<Limits>,
    socket: Option<Arc<Purse>>,
    user: Option<Arc<Purse>>,
    /// In the order of the limits' own list; made when the event is sent first.
    by_event: SmallVec<[Numbered; 1]>,
    refused: Refused,
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
    pub(crate) fn new(config: &config::Config, common: Option<Arc<dyn Limiters>>, tasks: &Tasks) -> Self {
        let clock = system_clock();
        let making = Making {
            clock: &clock,
            common: common.as_deref(),
            tasks,
            known: Vec::new(),
        };
        let current = RwLock::new(Arc::new(making.current(config)));
        Self {
            clock,
            common,
            tasks: tasks.clone(),
            current,
        }
    }

    /// From now on these limits hold. Of a limit that stays the same it is remembered who has spent what.
    pub(crate) fn reload(&self, config: &config::Config) {
        let before = self.current();
        let making = Making {
            clock: &self.clock,
            common: self.common.as_deref(),
            tasks: &self.tasks,
            known: before.all().cloned().collect(),
        };
        *self.current.write() = Arc::new(making.current(config));
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read())
    }

    /// Whether `socket` may send one more event of this name now. Allocates nothing but at the first.
    pub(crate) fn admit(&self, socket: &Socket, event: &str) -> Admitted {
        let limits = Arc::clone(self.current.read().of(socket.namespace()));
        if limits.are_none() {
            return Admitted::Now(Verdict::Yes(None));
        }
        let mut allowance = socket.allowance.lock();
        let allowance = match &mut *allowance {
            Some(allowance) if Arc::ptr_eq(&allowance.limits, &limits) => allowance,
            old => old.insert(Box::new(Allowance::new(limits, socket))),
        };
        let mut notice = None;
        if let Some(purse) = &allowance.socket {
            match purse.spend(&self.clock, None) {
                Admitted::Now(Verdict::Yes(near)) => notice = near,
                other => return other,
            }
        }
        let own = allowance
            .limits
            .by_event
            .iter()
            .position(|(name, _)| name == event);
        let purse = match own {
            Some(index) => allowance.for_event(index, socket),
            None => allowance.user.clone(),
        };
        match purse {
            Some(purse) => purse.spend(&self.clock, notice),
            None => Admitted::Now(Verdict::Yes(notice)),
        }
    }

    /// Whether somebody without a socket may do what an event of this name does in the namespace; `key` is the user's
    /// id. Waits 100 ms at most.
    pub(crate) async fn admit_visitor(
        &self,
        namespace: &Namespace,
        key: &str,
        event: &str,
    ) -> Result<(), Notice> {
        let limits = Arc::clone(self.current.read().of(namespace));
        let own = limits.by_event.iter().find(|(name, _)| name == event);
        let (kind, counted) = match own {
            Some((_, counted)) => (Kind::Event, counted),
            None => (Kind::User, &limits.user),
        };
        let Some(counted) = counted else { return Ok(()) };
        let budget = counted.budgets.budget(key);
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
        let current = self.current();
        let mut allowance = socket.allowance.lock();
        let Some(allowance) = allowance.as_mut().filter(|_| current.cut_after > 0) else {
            return false;
        };
        let now = (self.clock)();
        let refused = &mut allowance.refused;
        if now.saturating_sub(refused.since) > current.window {
            *refused = Refused { since: now, count: 0 };
        }
        refused.count = refused.count.saturating_add(1);
        refused.count == current.cut_after
    }

    /// Whether a limit of users is counted by this gateway alone, although it has one in common with others.
    pub(crate) fn are_alone(&self) -> bool {
        self.common.is_some() && self.current().all().any(|counted| counted.budgets.is_alone())
    }
}

impl Current {
    fn of(&self, namespace: &Namespace) -> &Arc<Limits> {
        let own = self.namespaces.iter();
        let mut own = own.filter(|(pattern, _)| matches(pattern, namespace.as_str()));
        own.next().map_or(&self.elsewhere, |(_, limits)| limits)
    }

    /// What users share.
    fn all(&self) -> impl Iterator<Item = &Arc<Counted>> {
        let limits = self.namespaces.iter().map(|(_, limits)| limits);
        limits.chain([&self.elsewhere]).flat_map(|limits| {
            let by_event = limits.by_event.iter().filter_map(|(_, counted)| counted.as_ref());
            limits.user.iter().chain(&limits.socket).chain(by_event)
        })
    }
}

impl Limits {
    fn are_none(&self) -> bool {
        self.socket.is_none() && self.user.is_none() && self.by_event.is_empty()
    }
}

/// Limits in the making.
struct Making<'a> {
    clock: &'a Clock,
    common: Option<&'a dyn Limiters>,
    tasks: &'a Tasks,
    /// Counted already.
    known: Vec<Arc<Counted>>,
}

impl Making<'_> {
    fn current(mut self, config: &config::Config) -> Current {
        let config::Limits {
            window,
            events,
            events_per_socket,
            ..
        } = config.limits;
        let named = |making: &mut Self, by_event: &[(String, u32)], of: &str| {
            let named = by_event.iter().map(|(event, events)| {
                let name = format!("event:{event}{of}");
                (event.clone(), making.counted(name, *events, window, true))
            });
            named.collect::<Vec<_>>()
        };
        let elsewhere = Arc::new(Limits {
            socket: self.counted("socket".to_owned(), events_per_socket, window, false),
            user: self.counted("events".to_owned(), events, window, true),
            by_event: named(&mut self, &config.limits.by_event, ""),
        });
        let mut namespaces = Vec::new();
        for namespace in &config.namespaces {
            let own = &namespace.limits;
            if own.is_empty() {
                // Of several that match the first counts, also where it says nothing of limits.
                namespaces.push((namespace.pattern.clone(), Arc::clone(&elsewhere)));
                continue;
            }
            let of = format!(":{}", namespace.pattern);
            let mut by_event = named(&mut self, &own.by_event, &of);
            by_event.extend(elsewhere.by_event.iter().cloned());
            let socket = match own.events_per_socket {
                Some(events) => self.counted(format!("socket{of}"), events, window, false),
                None => elsewhere.socket.clone(),
            };
            let user = match own.events {
                Some(events) => self.counted(format!("events{of}"), events, window, true),
                None => elsewhere.user.clone(),
            };
            let limits = Limits {
                socket,
                user,
                by_event,
            };
            namespaces.push((namespace.pattern.clone(), Arc::new(limits)));
        }
        Current {
            elsewhere,
            namespaces,
            cut_after: config.limits.cut_after,
            window,
        }
    }

    /// The budgets of a limit, for all gateways together if it is `shared`.
    fn counted(&mut self, name: String, events: u32, window: Duration, shared: bool) -> Option<Arc<Counted>> {
        let limit = Limit::new(events, window)?;
        let mut known = self.known.iter();
        if let Some(same) = known.find(|known| known.name == name && known.limit == limit) {
            return Some(Arc::clone(same));
        }
        let stop = CancellationToken::new();
        let budgets = match self.common.filter(|_| shared) {
            None => Budgets::new(limit, NEAR_PERCENT, REMEMBERED, Arc::clone(self.clock)),
            Some(common) => {
                let limiter = common.limiter(&name, limit);
                let (budgets, upkeep) =
                    Budgets::in_common(limit, NEAR_PERCENT, REMEMBERED, Arc::clone(self.clock), limiter);
                let until = stop.clone();
                self.tasks.background("rate limit", async move {
                    until.run_until_cancelled(upkeep.run()).await;
                });
                budgets
            }
        };
        Some(Arc::new(Counted {
            name,
            limit,
            budgets,
            _upkeep: stop.drop_guard(),
        }))
    }
}

impl Allowance {
    fn new(limits: Arc<Limits>, socket: &Socket) -> Self {
        let purse = |kind, counted: &Option<Arc<Counted>>, key: &str| {
            let counted = counted.as_ref()?;
            Some(Arc::new(Purse::new(kind, counted.budgets.budget(key))))
        };
        Self {
            socket: purse(Kind::Socket, &limits.socket, socket.id()),
            user: purse(Kind::User, &limits.user, socket.user().id.as_str()),
            by_event: SmallVec::new(),
            refused: Refused::default(),
            limits,
        }
    }

    /// `None` when the event is free.
    fn for_event(&mut self, index: usize, socket: &Socket) -> Option<Arc<Purse>> {
        let counted = self.limits.by_event.get(index)?.1.as_ref()?;
        let number = u16::try_from(index).ok()?;
        if let Some((_, purse)) = self.by_event.iter().find(|(known, _)| *known == number) {
            return Some(Arc::clone(purse));
        }
        let budget = counted.budgets.budget(socket.user().id.as_str());
        let purse = Arc::new(Purse::new(Kind::Event, budget));
        self.by_event.push((number, Arc::clone(&purse)));
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
