//! The delivery journal: in which order events went to the sockets of this gateway, so that a client that
//! comes back gets exactly what it missed (DESIGN, "Recovery").
//!
//! Every event that goes to a client ends with a **position**. Positions of one gateway are numbers in one
//! order, and every socket gets its events in that order: whoever sends events to clients holds the
//! [`Lane`] while it does. What a client has received is then a prefix of the journal, which one position
//! names, and the same bytes serve all members of a room.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use model::{GatewayId, Offset, RoomToken};
use parking_lot::{Mutex, MutexGuard};
use proto::v1::Publish;
use sio::packet::Encoded;

use crate::{copies::Copies, deliver::encode};

/// Bytes of events that are kept for those who come back.
const MAX_BYTES: usize = 64 << 20;
/// What keeping an entry costs besides its arguments and attachments, roughly.
const OVERHEAD: usize = 512;
/// What an event has besides them on the wire, roughly: its name, its namespace, its position.
const HEAD: usize = 100;

/// The journal of a gateway; off when clients cannot recover.
pub(crate) struct Journal {
    gateway: GatewayId,
    window: Duration,
    lane: Mutex<Lane>,
}

/// The right to send events to clients.
pub(crate) struct Lane {
    on: bool,
    position: Position,
    /// The position as text, as events carry it.
    text: Arc<str>,
    /// Ascending by number.
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Number of each room's newest entry that was given up, so that a quiet room's members are not late
    /// because others talk.
    floors: HashMap<RoomToken, u64>,
    /// Rooms that nobody comes back to, each with the number behind which none of its entries stands, ascending: once
    /// those up to it are given up, the room has no floor any more.
    forgotten: VecDeque<(u64, RoomToken)>,
    /// Who has got events that stand in several rooms.
    pub(crate) copies: Copies,
}

/// A client's position: everything up to it has been received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Whose journal.
    pub(crate) gateway: GatewayId,
    /// The place in it.
    pub(crate) number: u64,
    /// The place in the log of the last durable event before it.
    pub(crate) offset: Offset,
    /// Unix milliseconds at which the gateway of its sender took that event.
    pub(crate) time_ms: u64,
}

struct Entry {
    at: Instant,
    room: RoomToken,
    event: Journaled,
    receivers: Receivers,
}

/// An event with its places in journal and log.
#[derive(Clone, Debug)]
pub(crate) struct Journaled {
    pub(crate) number: u64,
    pub(crate) offset: Offset,
    pub(crate) publish: Arc<Publish>,
}

impl Journaled {
    /// Bytes on the wire, roughly.
    pub(crate) fn size(&self) -> usize {
        let attached: usize = self.publish.attachments.iter().map(bytes::Bytes::len).sum();
        self.publish.args.len() + attached + HEAD
    }
}

/// Who got an event.
pub(crate) enum Receivers {
    /// The room's members but for these sockets and users.
    Members {
        except: Arc<Except>,
        /// Sockets that were held: they got it later, by an entry of their own.
        held: Vec<Box<str>>,
    },
    /// One member that had been held.
    Socket(Box<str>),
}

/// Who must not get an event.
#[derive(Debug, Default)]
pub(crate) struct Except {
    pub(crate) sockets: HashSet<Box<str>>,
    pub(crate) users: Vec<String>,
    /// Rooms whose members that are here are among the sockets; those that are away are not.
    pub(crate) rooms: Vec<RoomToken>,
}

impl Except {
    /// Everybody gets it.
    pub(crate) fn is_empty(&self) -> bool {
        self.sockets.is_empty() && self.users.is_empty() && self.rooms.is_empty()
    }

    pub(crate) fn names(&self, socket: &str, user: &str) -> bool {
        self.sockets.contains(socket) || self.users.iter().any(|excepted| excepted == user)
    }
}

/// Who comes back, and the rooms it is in, each with the position from which on.
pub(crate) struct Returning<'a> {
    pub(crate) socket: &'a str,
    pub(crate) user: &'a str,
    pub(crate) rooms: &'a [(RoomToken, u64)],
}

impl Returning<'_> {
    fn is_in(&self, room: RoomToken) -> bool {
        self.rooms.iter().any(|(known, _)| *known == room)
    }
}

impl Journal {
    /// An empty journal that remembers for `window`; zero turns it off.
    pub(crate) fn new(gateway: &GatewayId, window: Duration) -> Arc<Self> {
        let position = Position {
            gateway: gateway.clone(),
            number: 0,
            offset: Offset { partition: 0, seq: 0 },
            time_ms: 0,
        };
        Arc::new(Self {
            gateway: gateway.clone(),
            window,
            lane: Mutex::new(Lane {
                on: !window.is_zero(),
                text: position.to_string().into(),
                position,
                entries: VecDeque::new(),
                bytes: 0,
                floors: HashMap::new(),
                forgotten: VecDeque::new(),
                copies: Copies::default(),
            }),
        })
    }

    /// Whose it is.
    pub(crate) fn gateway(&self) -> &GatewayId {
        &self.gateway
    }

    /// Held while an event is sent, taken before any room's lock. Nothing is awaited meanwhile.
    pub(crate) fn lane(&self) -> MutexGuard<'_, Lane> {
        self.lane.lock()
    }

    /// Forgets what nobody may ask for any more.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut lane = self.lane.lock();
        lane.copies.sweep(now, self.window);
        while let Some(entry) = lane.entries.front() {
            if now.duration_since(entry.at) < self.window {
                return;
            }
            lane.give_up();
        }
    }
}

impl Lane {
    /// The position of an event without a place in the journal, behind everything sent so far.
    pub(crate) fn position(&self) -> Option<Arc<str>> {
        self.on.then(|| Arc::clone(&self.text))
    }

    /// The number of the last event.
    pub(crate) fn number(&self) -> u64 {
        self.position.number
    }

    /// The position of the next event, which stands at `offset` in the log since `time_ms`. To be
    /// followed by [`Lane::sent`].
    pub(crate) fn next(&mut self, offset: Offset, time_ms: u64) -> Option<Arc<str>> {
        if !self.on {
            return None;
        }
        self.position.number += 1;
        self.position.offset = offset;
        self.position.time_ms = time_ms;
        self.text = self.position.to_string().into();
        self.position()
    }

    /// The event of the last [`Lane::next`] was sent.
    pub(crate) fn sent(&mut self, room: RoomToken, publish: Arc<Publish>, receivers: Receivers) -> Journaled {
        let event = Journaled {
            number: self.position.number,
            offset: self.position.offset,
            publish,
        };
        if self.on {
            self.bytes += event.size() + OVERHEAD;
            self.entries.push_back(Entry {
                at: Instant::now(),
                room,
                event: event.clone(),
                receivers,
            });
            while self.bytes > MAX_BYTES {
                self.give_up();
            }
        }
        event
    }

    /// An event as it was sent, or would have been.
    pub(crate) fn encode(&self, event: &Journaled) -> Encoded {
        let position = Position {
            gateway: self.position.gateway.clone(),
            number: event.number,
            offset: event.offset,
            time_ms: event.publish.time_ms,
        };
        encode(&event.publish, Some(event.offset), Some(&position.to_string()))
    }

    fn give_up(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.event.size() + OVERHEAD;
            self.floors.insert(entry.room, entry.event.number);
        }
        let first = self.entries.front().map(|entry| entry.event.number);
        while let Some((last, room)) = self.forgotten.front().copied()
            && first.is_none_or(|first| first > last)
        {
            self.forgotten.pop_front();
            if self.floor(room) <= last {
                self.floors.remove(&room);
            }
        }
    }

    /// Events of the room up to this number are no longer known.
    pub(crate) fn floor(&self, room: RoomToken) -> u64 {
        self.floors.get(&room).copied().unwrap_or_default()
    }

    /// Nobody comes back to this room; whoever joins it from now on has no part in what it got.
    pub(crate) fn forget(&mut self, room: RoomToken) {
        self.floors.remove(&room);
        if !self.entries.is_empty() {
            self.forgotten.push_back((self.position.number, room));
        }
    }

    /// Number and place in the log of every event that went to the members of a room, in order.
    pub(crate) fn steps(&self) -> Vec<(u64, Offset)> {
        let common = self
            .entries
            .iter()
            .filter(|entry| matches!(entry.receivers, Receivers::Members { .. }));
        common
            .map(|entry| (entry.event.number, entry.event.offset))
            .collect()
    }

    /// The same of the events that went to one socket alone, by socket.
    pub(crate) fn own_steps(&self) -> HashMap<&str, Vec<(u64, Offset)>> {
        let mut own: HashMap<&str, Vec<_>> = HashMap::new();
        for Entry { event, receivers, .. } in &self.entries {
            if let Receivers::Socket(socket) = receivers {
                own.entry(socket).or_default().push((event.number, event.offset));
            }
        }
        own
    }

    /// What was sent to one socket behind `after`; `None` when some of it is no longer known.
    pub(crate) fn missed(&self, after: u64, returning: &Returning<'_>) -> Option<Vec<Journaled>> {
        let is_late = |(room, since): &(RoomToken, u64)| after.max(*since) < self.floor(*room);
        if after > self.position.number || returning.rooms.iter().any(is_late) {
            return None;
        }
        let first = self.entries.partition_point(|entry| entry.event.number <= after);
        let missed = self.entries.range(first..).filter(|entry| {
            let since = returning.rooms.iter().find(|(room, _)| *room == entry.room);
            match (&entry.receivers, since) {
                (Receivers::Socket(socket), Some(_)) => **socket == *returning.socket,
                (Receivers::Members { except, held }, Some((_, since))) => {
                    entry.event.number > *since
                        && !except.names(returning.socket, returning.user)
                        && !except.rooms.iter().any(|room| returning.is_in(*room))
                        && held.iter().all(|held| **held != *returning.socket)
                }
                (_, None) => false,
            }
        });
        let mut copies = HashSet::new();
        let is_first = |entry: &&Entry| {
            let Publish {
                id, several_rooms, ..
            } = &*entry.event.publish;
            // One before `after` has been received, one behind it is among these.
            let has = || {
                self.copies
                    .given(id, returning.socket)
                    .is_some_and(|number| number <= after)
            };
            !several_rooms || (!has() && copies.insert(id.clone()))
        };
        Some(missed.filter(is_first).map(|entry| entry.event.clone()).collect())
    }

    /// Ids of events in several rooms of which a socket got a copy at or before a place.
    pub(crate) fn given(&self, socket: &str, through: u64) -> Vec<String> {
        let given = self.copies.all_given(socket);
        let received = given.filter(|(_, number)| *number <= through);
        received.map(|(event, _)| event.to_owned()).collect()
    }

    /// The event of the last [`Lane::next`] is one for this socket: it has not got a copy from another room.
    pub(crate) fn is_first(&mut self, publish: &Publish, socket: &str) -> bool {
        !publish.several_rooms || self.copies.is_first(&publish.id, socket, self.position.number)
    }
}

impl fmt::Display for Position {
    /// The gateway's id, then the numbers in base 128, together as URL-safe base 64.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 4 * 10];
        let mut length = 0;
        let numbers = [
            self.number,
            u64::from(self.offset.partition),
            self.offset.seq,
            self.time_ms,
        ];
        for mut number in numbers {
            while number >= 0x80 {
                bytes[length] = number.to_le_bytes()[0] | 0x80;
                length += 1;
                number >>= 7;
            }
            bytes[length] = number.to_le_bytes()[0];
            length += 1;
        }
        f.write_str(self.gateway.as_str())?;
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(&bytes[..length]))
    }
}

/// A text that is no position.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no position")]
pub(crate) struct NoPosition;

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let (gateway, numbers) = text.split_at_checked(GatewayId::LEN).ok_or(NoPosition)?;
        let gateway = GatewayId::new(gateway).map_err(|_| NoPosition)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(numbers).map_err(|_| NoPosition)?;
        let mut bytes = bytes.into_iter();
        let mut number = || {
            let mut number = 0u64;
            for shift in (0..64).step_by(7) {
                let byte = bytes.next().ok_or(NoPosition)?;
                number |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(NoPosition)?;
                if byte & 0x80 == 0 {
                    return Ok(number);
                }
            }
            Err(NoPosition)
        };
        let position = Self {
            gateway,
            number: number()?,
            offset: Offset {
                partition: u16::try_from(number()?).map_err(|_| NoPosition)?,
                seq: number()?,
            },
            time_ms: number()?,
        };
        match bytes.next() {
            None => Ok(position),
            Some(_) => Err(NoPosition),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn gateway() -> GatewayId {
        GatewayId::new("abc-_9").unwrap()
    }

    fn token(number: u8) -> RoomToken {
        RoomToken::from_bytes(&[number; 16]).unwrap()
    }

    fn publish(text: &str) -> Arc<Publish> {
        Arc::new(Publish {
            event: text.to_owned(),
            ..Publish::default()
        })
    }

    fn names(missed: Option<Vec<Journaled>>) -> Option<Vec<String>> {
        missed.map(|missed| missed.iter().map(|event| event.publish.event.clone()).collect())
    }

    fn members() -> Receivers {
        Receivers::Members {
            except: Arc::default(),
            held: Vec::new(),
        }
    }

    fn send(journal: &Journal, room: u8, text: &str, receivers: Receivers) -> u64 {
        let mut lane = journal.lane();
        let offset = Offset { partition: 1, seq: 1 };
        lane.next(offset, 1).unwrap();
        lane.sent(token(room), publish(text), receivers);
        lane.number()
    }

    proptest! {
        #[test]
        fn positions_survive_their_text(number: u64, partition: u16, seq: u64, time_ms: u64) {
            let position = Position { gateway: gateway(), number, offset: Offset { partition, seq }, time_ms };
            prop_assert_eq!(position.to_string().parse::<Position>(), Ok(position));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}|[A-Za-z0-9_-]{0,60}") {
            if let Ok(position) = text.parse::<Position>() {
                prop_assert!(position.to_string().len() <= text.len().max(10));
            }
        }
    }

    #[test]
    fn who_comes_back_gets_what_it_missed_and_nothing_else() {
        let journal = Journal::new(&gateway(), Duration::from_secs(120));
        let first = send(&journal, 1, "received", members());
        send(&journal, 1, "missed", members());
        send(&journal, 2, "of another room", members());
        let except = Arc::new(Except {
            users: vec!["ada".to_owned()],
            ..Except::default()
        });
        let held = Vec::new();
        send(&journal, 1, "not for ada", Receivers::Members { except, held });
        let held = Receivers::Members {
            except: Arc::default(),
            held: vec!["s".into()],
        };
        send(&journal, 1, "while held", held);
        send(&journal, 1, "for another", Receivers::Socket("t".into()));
        send(&journal, 1, "when let go", Receivers::Socket("s".into()));
        send(&journal, 3, "before it came", members());
        let since = journal.lane().number();
        send(&journal, 3, "since it came", members());
        let rooms = [(token(1), 0), (token(3), since)];
        let returning = Returning {
            socket: "s",
            user: "ada",
            rooms: &rooms,
        };
        let missed = names(journal.lane().missed(first, &returning)).unwrap();
        assert_eq!(missed, ["missed", "when let go", "since it came"]);
        let last = journal.lane().number();
        assert_eq!(names(journal.lane().missed(last, &returning)), Some(Vec::new()));
        let beyond = names(journal.lane().missed(last + 1, &returning));
        assert_eq!(beyond, None, "nobody was told that");
    }

    #[test]
    fn of_copies_in_several_rooms_one_is_missed() {
        let journal = Journal::new(&gateway(), Duration::from_secs(120));
        let send = |room: u8, id: &str, is_here: bool| {
            let mut lane = journal.lane();
            lane.next(Offset { partition: 1, seq: 1 }, 1);
            let publish = Arc::new(Publish {
                id: id.to_owned(),
                event: format!("{id}{room}"),
                several_rooms: true,
                ..Publish::default()
            });
            let is_first = is_here && lane.is_first(&publish, "s");
            lane.sent(token(room), publish, members());
            (lane.number(), is_first)
        };
        let (received, is_first) = send(1, "a", true);
        assert!(is_first);
        assert!(!send(2, "a", true).1, "it has the other copy");
        let (last, is_first) = send(2, "b", true);
        assert!(is_first);
        send(1, "b", false);
        send(1, "c", false);
        send(2, "c", false);
        let rooms = [(token(1), 0), (token(2), 0)];
        let returning = Returning {
            socket: "s",
            user: "ada",
            rooms: &rooms,
        };
        let missed = |after| names(journal.lane().missed(after, &returning)).unwrap();
        assert_eq!(missed(0), ["a1", "b2", "c1"]);
        assert_eq!(missed(received), ["b2", "c1"]);
        assert_eq!(
            missed(last),
            ["c1"],
            "the copy that came while it was away is no second one"
        );
        assert_eq!(journal.lane().given("s", received), ["a"]);
    }

    #[test]
    fn of_rooms_that_nobody_comes_back_to_nothing_stays() {
        let journal = Journal::new(&gateway(), Duration::from_millis(1));
        send(&journal, 1, "of one that is forgotten", members());
        send(&journal, 2, "of one that begins anew", members());
        send(&journal, 3, "of one that stays", members());
        for room in [1, 2] {
            journal.lane().forget(token(room));
        }
        let new = send(&journal, 2, "anew", members());
        journal.sweep(Instant::now() + Duration::from_secs(1));
        let lane = journal.lane();
        let mut floors: Vec<_> = lane.floors.iter().map(|(room, floor)| (*room, *floor)).collect();
        floors.sort_unstable();
        assert_eq!(floors, [(token(2), new), (token(3), 3)]);
        assert!(lane.forgotten.is_empty());
    }

    #[test]
    fn what_was_given_up_is_not_replayed_in_part() {
        let journal = Journal::new(&gateway(), Duration::ZERO);
        assert_eq!(journal.lane().position(), None, "off");
        let journal = Journal::new(&gateway(), Duration::from_millis(1));
        let first = send(&journal, 1, "one", members());
        let second = send(&journal, 1, "two", members());
        journal.sweep(Instant::now() + Duration::from_secs(1));
        let rooms = [(token(1), 0)];
        let returning = Returning {
            socket: "s",
            user: "ada",
            rooms: &rooms,
        };
        assert_eq!(names(journal.lane().missed(first, &returning)), None);
        assert_eq!(names(journal.lane().missed(second, &returning)), Some(Vec::new()));
        let quiet = Returning {
            rooms: &[(token(2), 0)],
            ..returning
        };
        assert_eq!(
            names(journal.lane().missed(0, &quiet)),
            Some(Vec::new()),
            "its room was silent all the time"
        );
    }
}
