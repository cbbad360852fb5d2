//! Engine on Redis 6.2 or newer. Each operation is one script, so it is one step for everyone; only a snapshot
//! of more than 500 deltas and a dead gateway with more than 500 sockets and stays are worked off in steps of
//! that size, because Redis serves nobody else during one.
//!
//! A snapshot that is under way keeps a mark in place of the gateway's number: no batch follows it, and a newer
//! snapshot, or the removal of the gateway, ends it. A dead gateway is unknown from the first step on; whoever
//! removes it does the rest, and when he dies, another one. Counts and lists are at any time what has been
//! worked off, and each transition is reported by the step that brought it about.
//!
//! Nothing but a turn to tell expires by itself. Redis must not evict keys (`maxmemory-policy noeviction`): a key that is gone from
//! among the others is noticed by nobody.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use model::{GatewayId, Namespace, RoomName, UserId};
use redis::FromRedisValue;

use super::{
    Applied, Batch, Changes, Delta, Expired, HeldSocket, OnlineUser, Outcome, Page, PageRequest, PageToken,
    Position, PresenceError, PresenceStore, RoomInfo, SnapshotWork, SocketKey, Stats, StatsBreakdown,
    Transition, is_listed, random, snapshot::Wanted,
};
use crate::{
    RegistryError,
    redis::{Redis, Script},
};

mod keys;
mod packed;
mod scripts;

use scripts::Scripts;

/// How much one script does at most: deltas of a snapshot; sockets of a dead gateway and what happens with them.
const STEP: usize = 500;
/// A dead gateway whose removal has not gone on for so long is taken over by another replica.
const STALLED_MS: u64 = 2_000;
/// Elements of one answer at most, whatever is asked for.
const MAX_PAGE: usize = 100_000;

/// Presence in Redis, shared by any number of replicas.
pub struct RedisPresence {
    redis: Redis,
    keys: [String; 20],
    scripts: Scripts,
}

impl RedisPresence {
    /// Presence in that Redis.
    #[must_use]
    pub fn new(redis: Redis) -> Self {
        Self {
            keys: keys::all(redis.keys().prefix()),
            redis,
            scripts: Scripts::new(),
        }
    }

    async fn run<T: FromRedisValue>(&self, script: &Script, args: Vec<String>) -> Result<T, PresenceError> {
        let answer = self.redis.invoke(script, &self.keys[..], &args).await;
        answer.map_err(|RegistryError::Unavailable(why)| PresenceError::Unavailable(why))
    }

    /// One script of a batch or of a part of a snapshot.
    async fn step(
        &self,
        gateway: &GatewayId,
        [number, before, what, now, ends]: [&str; 5],
        deltas: &[Delta],
    ) -> Result<Step, PresenceError> {
        let head = [gateway.as_str(), number, before, what, now, ends];
        let mut args: Vec<String> = head.into_iter().map(str::to_owned).collect();
        for delta in deltas {
            push(&mut args, delta);
        }
        let answer: Vec<redis::Value> = self.run(&self.scripts.apply, args).await?;
        Step::read(answer).ok_or_else(unreadable)
    }

    async fn apply_plain(&self, batch: &Batch, now: &str, ends: &str) -> Result<Outcome, PresenceError> {
        let number = batch.number.to_string();
        let before = batch
            .number
            .checked_sub(1)
            .map_or_else(String::new, |n| n.to_string());
        let head = [&*number, &*before, "plain", now, ends];
        match self.step(&batch.gateway, head, &batch.deltas).await? {
            Step::Applied(applied) => Ok(Outcome::Applied(applied)),
            // What is no number is the mark of a snapshot: that one has not been applied.
            Step::Need(last) => Ok(Outcome::NeedSnapshot {
                applied: last.parse().unwrap_or(0),
            }),
            Step::Overtaken => Err(unreadable()),
        }
    }

    async fn apply_snapshot(
        &self,
        batch: Batch,
        now_ms: u64,
        grace: Duration,
    ) -> Result<Outcome, PresenceError> {
        let mut work = self.begin_snapshot(batch, now_ms).await?;
        let mut result = Applied::default();
        while !work.is_done() {
            let applied = self.snapshot_step(&mut work, now_ms, grace).await?;
            result.users_counts.extend(applied.users_counts);
            result.transitions.extend(applied.transitions);
        }
        Ok(Outcome::Applied(result))
    }

    /// The deltas that take from a gateway what it had and its snapshot does not say. Nobody else changes that
    /// in the meantime: the snapshot's mark is set.
    async fn let_go(
        &self,
        gateway: &GatewayId,
        held: &[String],
        deltas: &[Delta],
    ) -> Result<Vec<Delta>, PresenceError> {
        let wanted = Wanted::new(deltas);
        let (mut lost, mut left) = (Vec::new(), Vec::new());
        for some in held.chunks(STEP) {
            let mut args = vec![gateway.as_str().to_owned()];
            args.extend_from_slice(some);
            let found: Vec<(String, Vec<String>)> = self.run(&self.scripts.held, args).await?;
            for (key, (particulars, rooms)) in some.iter().zip(found) {
                let key = packed::key(key).ok_or_else(unreadable)?;
                let user = packed::user_of(&particulars).ok_or_else(unreadable)?;
                match wanted.rooms(&key, &user) {
                    Some(stay) => {
                        let rooms = rooms.iter().map(|room| RoomName::stored(room));
                        let gone = rooms.filter(|room| !stay.contains(room));
                        left.extend(gone.map(|room| Delta::Left(key.clone(), room)));
                    }
                    None => lost.push(Delta::Disconnected(key)),
                }
            }
        }
        lost.append(&mut left);
        Ok(lost)
    }
}

/// What a script has done.
enum Step {
    Applied(Applied),
    Need(String),
    Overtaken,
}

impl Step {
    fn read(answer: Vec<redis::Value>) -> Option<Self> {
        let mut answer = answer.into_iter();
        let what: String = read(answer.next()?)?;
        match &*what {
            "applied" => Some(Self::Applied(Applied {
                users_counts: read(answer.next()?)?,
                transitions: transitions(read(answer.next()?)?).ok()?,
            })),
            "need" => Some(Self::Need(read(answer.next()?)?)),
            _ => Some(Self::Overtaken),
        }
    }
}

#[async_trait]
impl PresenceStore for RedisPresence {
    async fn apply(&self, batch: Batch, now_ms: u64, grace: Duration) -> Result<Outcome, PresenceError> {
        if batch.snapshot {
            return self.apply_snapshot(batch, now_ms, grace).await;
        }
        let (now, ends) = (now_ms.to_string(), until(now_ms, grace).to_string());
        self.apply_plain(&batch, &now, &ends).await
    }

    async fn begin_snapshot(&self, batch: Batch, now_ms: u64) -> Result<SnapshotWork, PresenceError> {
        let mut work = SnapshotWork::new(batch);
        work.mark = format!("~{:016x}", random());
        let head = [work.gateway.as_str(), &work.mark, &now_ms.to_string()].map(str::to_owned);
        let held: Vec<String> = self.run(&self.scripts.begin, head.to_vec()).await?;
        let mut all = self.let_go(&work.gateway, &held, &work.deltas).await?;
        all.append(&mut work.deltas);
        work.deltas = all;
        Ok(work)
    }

    async fn snapshot_step(
        &self,
        work: &mut SnapshotWork,
        now_ms: u64,
        grace: Duration,
    ) -> Result<Applied, PresenceError> {
        if work.ended {
            return Ok(Applied::default());
        }
        let (number, now) = (work.number.to_string(), now_ms.to_string());
        let ends = until(now_ms, grace).to_string();
        let end = work.deltas.len().min(work.done + STEP);
        let last = end == work.deltas.len();
        let what = if last { "last" } else { "part" };
        let head = [&*number, &*work.mark, what, &*now, &*ends];
        let part = work.deltas.get(work.done..end).unwrap_or_default();
        match self.step(&work.gateway, head, part).await? {
            Step::Applied(applied) => {
                work.done = end;
                work.ended = last;
                Ok(applied)
            }
            Step::Need(_) | Step::Overtaken => {
                let why = format!("the snapshot of {} was overtaken", work.gateway);
                Err(PresenceError::Unavailable(why))
            }
        }
    }

    async fn touch(&self, gateway: &GatewayId, now_ms: u64) -> Result<bool, PresenceError> {
        let args = vec![gateway.as_str().to_owned(), now_ms.to_string()];
        self.run(&self.scripts.touch, args).await
    }

    async fn expire(
        &self,
        now_ms: u64,
        lease: Duration,
        grace: Duration,
    ) -> Result<Vec<Expired>, PresenceError> {
        let lease_ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        // Before a whole lease has passed nobody is dead.
        let heard = now_ms
            .checked_sub(lease_ms)
            .map_or_else(|| "-1".to_owned(), |ms| ms.to_string());
        let ends = until(now_ms, grace).to_string();
        let idle = now_ms.saturating_sub(STALLED_MS).to_string();
        let mut all: Vec<Expired> = Vec::new();
        let mut under_way = String::new();
        loop {
            let mut args = vec![under_way, heard.clone(), now_ms.to_string(), ends.clone()];
            args.extend([STEP.to_string(), idle.clone()]);
            let step: Option<(String, bool, usize, Vec<String>)> =
                self.run(&self.scripts.expire, args).await?;
            let Some((gateway, more, sockets, told)) = step else {
                return Ok(all);
            };
            let gone = Expired {
                gateway: GatewayId::new(&gateway).map_err(|_| unreadable())?,
                sockets,
                transitions: transitions(told)?,
            };
            match all.last_mut().filter(|last| last.gateway == gone.gateway) {
                Some(last) => {
                    last.sockets += gone.sockets;
                    last.transitions.extend(gone.transitions);
                }
                None => all.push(gone),
            }
            under_way = if more { gateway } else { String::new() };
        }
    }

    async fn life(&self) -> Result<String, PresenceError> {
        let name = format!("{:016x}", random());
        self.run(&self.scripts.life, vec![name]).await
    }

    async fn turn_to_tell(
        &self,
        namespace: &Namespace,
        room: &RoomName,
        _now_ms: u64,
        pause: Duration,
    ) -> Result<Option<u32>, PresenceError> {
        let pause = pause.as_millis().max(1).to_string();
        let args = vec![namespace.to_string(), room.to_string(), pause];
        self.run(&self.scripts.turn, args).await
    }

    async fn due(&self, now_ms: u64, limit: usize) -> Result<Vec<Transition>, PresenceError> {
        let args = vec![now_ms.to_string(), limit.min(MAX_PAGE).to_string()];
        transitions(self.run(&self.scripts.due, args).await?)
    }

    async fn room_users(
        &self,
        namespace: &Namespace,
        room: &RoomName,
        page: PageRequest,
    ) -> Result<Page<OnlineUser>, PresenceError> {
        let (after, limit) = asked(page);
        let args = vec![namespace.to_string(), room.to_string(), after, limit.to_string()];
        let found: Vec<(String, u64, String)> = self.run(&self.scripts.room_users, args).await?;
        page_of(found, limit, |(user, ..)| user.clone(), online_user)
    }

    async fn room(&self, namespace: &Namespace, room: &RoomName) -> Result<RoomInfo, PresenceError> {
        let args = vec![namespace.to_string(), room.to_string()];
        let (users_count, sockets_count) = self.run(&self.scripts.room, args).await?;
        Ok(RoomInfo {
            room: room.clone(),
            users_count,
            sockets_count,
        })
    }

    async fn list_rooms(
        &self,
        namespace: &Namespace,
        page: PageRequest,
    ) -> Result<Page<RoomInfo>, PresenceError> {
        let (after, limit) = asked(page);
        let args = vec![namespace.to_string(), after, limit.to_string()];
        let found: Vec<(String, u32, u32)> = self.run(&self.scripts.list_rooms, args).await?;
        page_of(
            found,
            limit,
            |(room, ..)| room.clone(),
            |(room, users_count, sockets_count)| {
                Some(RoomInfo {
                    room: RoomName::stored(&room),
                    users_count,
                    sockets_count,
                })
            },
        )
    }

    async fn online_users(
        &self,
        namespace: &Namespace,
        page: PageRequest,
    ) -> Result<Page<OnlineUser>, PresenceError> {
        let (after, limit) = asked(page);
        let args = vec![namespace.to_string(), after, limit.to_string()];
        let found: Vec<(String, u64, String)> = self.run(&self.scripts.online_users, args).await?;
        page_of(found, limit, |(user, ..)| user.clone(), online_user)
    }

    async fn users_online(
        &self,
        namespace: &Namespace,
        users: &[UserId],
    ) -> Result<Vec<Option<OnlineUser>>, PresenceError> {
        let mut args = vec![namespace.to_string()];
        args.extend(users.iter().map(UserId::to_string));
        let found: Vec<Option<(u64, String)>> = self.run(&self.scripts.users_online, args).await?;
        let online = users.iter().zip(found).map(|(user, found)| {
            found.map(|(connected_at_ms, username)| OnlineUser {
                user: user.clone(),
                username: username.into(),
                connected_at_ms,
            })
        });
        Ok(online.collect())
    }

    async fn user_sockets(
        &self,
        namespace: &Namespace,
        user: &UserId,
    ) -> Result<Vec<HeldSocket>, PresenceError> {
        let args = vec![namespace.to_string(), user.to_string()];
        let found: Vec<(String, String, String)> = self.run(&self.scripts.user_sockets, args).await?;
        let sockets = found
            .iter()
            .map(|(gateway, id, particulars)| packed::held_socket(gateway, namespace, id, particulars));
        sockets.collect::<Option<_>>().ok_or_else(unreadable)
    }

    async fn user_rooms(&self, namespace: &Namespace, user: &UserId) -> Result<Vec<RoomName>, PresenceError> {
        let args = vec![namespace.to_string(), user.to_string()];
        let mut rooms: Vec<String> = self.run(&self.scripts.user_rooms, args).await?;
        rooms.sort();
        Ok(rooms.iter().map(|room| RoomName::stored(room)).collect())
    }

    async fn stats(&self) -> Result<Stats, PresenceError> {
        Ok(stats(self.run(&self.scripts.stats, Vec::new()).await?))
    }

    async fn stats_breakdown(&self) -> Result<StatsBreakdown, PresenceError> {
        type Counts = Vec<(String, u64, u64, u64)>;
        type Answer = ((u64, u64, u64), Counts, Counts);
        let (all, namespaces, gateways): Answer = self.run(&self.scripts.breakdown, Vec::new()).await?;
        let namespaces = namespaces
            .into_iter()
            .map(|(name, connections, users, rooms)| {
                Some((Namespace::new(&name).ok()?, stats((connections, users, rooms))))
            })
            .collect::<Option<Vec<_>>>();
        let gateways = gateways
            .into_iter()
            .map(|(name, connections, users, rooms)| {
                Some((GatewayId::new(&name).ok()?, stats((connections, users, rooms))))
            })
            .collect::<Option<Vec<_>>>();
        let (mut namespaces, mut gateways) = namespaces.zip(gateways).ok_or_else(unreadable)?;
        namespaces.sort_by(|(a, _), (b, _)| a.cmp(b));
        gateways.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(StatsBreakdown {
            all: stats(all),
            namespaces,
            gateways,
        })
    }

    async fn changes_end(&self) -> Result<Position, PresenceError> {
        Ok(Position(self.run(&self.scripts.changes_end, Vec::new()).await?))
    }

    async fn changes(&self, after: &Position, limit: usize) -> Result<Changes, PresenceError> {
        let number = |part: &str| part.parse::<u64>().is_ok();
        if !after
            .0
            .split_once('-')
            .is_some_and(|(ms, seq)| number(ms) && number(seq))
        {
            return Ok(Changes::Forgotten);
        }
        let args = vec![after.0.clone(), limit.min(MAX_PAGE).to_string()];
        let next: Option<Vec<(String, HashMap<String, String>)>> =
            self.run(&self.scripts.changes, args).await?;
        let Some(next) = next else {
            return Ok(Changes::Forgotten);
        };
        let next = next.into_iter().map(|(id, fields)| {
            let transition = fields.get("t").and_then(|packed| packed::transition(packed));
            Ok((Position(id), transition.ok_or_else(unreadable)?))
        });
        Ok(Changes::Next(next.collect::<Result<_, PresenceError>>()?))
    }
}

fn push(args: &mut Vec<String>, delta: &Delta) {
    let mut head = |letter: &str, key: &SocketKey| {
        args.extend([
            letter.to_owned(),
            key.namespace.to_string(),
            key.id.as_ref().to_owned(),
        ]);
    };
    match delta {
        Delta::Connected(socket) => {
            head("c", &socket.key);
            args.push(packed::socket(socket));
        }
        Delta::Disconnected(key) => head("d", key),
        Delta::Joined(key, room)
        | Delta::Stays(key, room)
        | Delta::Restored(key, room)
        | Delta::Left(key, room) => {
            let letter = match delta {
                Delta::Joined(..) => "j",
                Delta::Stays(..) => "s",
                Delta::Restored(..) => "r",
                _ => "l",
            };
            head(letter, key);
            args.extend([room.to_string(), u8::from(is_listed(room)).to_string()]);
        }
    }
}

fn asked(page: PageRequest) -> (String, usize) {
    (
        page.after.map_or_else(String::new, |token| token.0),
        page.limit.clamp(1, MAX_PAGE),
    )
}

/// A page of up to `limit` elements; one more says that there is more.
fn page_of<R, T>(
    mut found: Vec<R>,
    limit: usize,
    name: impl Fn(&R) -> String,
    item: impl Fn(R) -> Option<T>,
) -> Result<Page<T>, PresenceError> {
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| PageToken(name(last)));
    let items = found
        .into_iter()
        .map(item)
        .collect::<Option<_>>()
        .ok_or_else(unreadable)?;
    Ok(Page { items, next })
}

fn online_user((user, connected_at_ms, username): (String, u64, String)) -> Option<OnlineUser> {
    Some(OnlineUser {
        user: UserId::new(&user).ok()?,
        username: username.into(),
        connected_at_ms,
    })
}

fn stats((connections, users, rooms): (u64, u64, u64)) -> Stats {
    Stats {
        connections,
        users,
        rooms,
    }
}

fn transitions(packed: Vec<String>) -> Result<Vec<Transition>, PresenceError> {
    let read = packed.iter().map(|packed| packed::transition(packed));
    read.collect::<Option<_>>().ok_or_else(unreadable)
}

fn read<T: FromRedisValue>(value: redis::Value) -> Option<T> {
    T::from_redis_value(value).ok()
}

fn until(now_ms: u64, wait: Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

fn unreadable() -> PresenceError {
    PresenceError::Unavailable("what is kept there cannot be read".to_owned())
}
