//! Which gateways have members of which rooms of a partition.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use bytes::{Buf, BufMut};
use model::RoomToken;
use smallvec::SmallVec;

/// The interest table of one partition.
///
/// A gateway counts once it has **stated** its rooms: only then is the table known to hold all of them, and
/// only then may a batch say that it holds everything of its range. Until then its rooms are noted and
/// nobody is told of them.
#[derive(Debug, Default)]
pub(crate) struct Interest {
    /// Of gateways that have stated their rooms.
    rooms: HashMap<RoomToken, SmallVec<[u32; 2]>>,
    /// Rooms by gateway, so that a gateway that goes costs its own rooms only.
    gateways: HashMap<u32, Rooms>,
}

#[derive(Debug, Default)]
struct Rooms {
    tokens: HashSet<RoomToken>,
    stated: bool,
}

impl Interest {
    pub(crate) fn begin(&mut self, gateway: u32, room: RoomToken) {
        let rooms = self.gateways.entry(gateway).or_default();
        if rooms.tokens.insert(room) && rooms.stated {
            self.rooms.entry(room).or_default().push(gateway);
        }
    }

    pub(crate) fn end(&mut self, gateway: u32, room: RoomToken) {
        if let Some(rooms) = self.gateways.get_mut(&gateway)
            && rooms.tokens.remove(&room)
            && rooms.stated
        {
            self.forget(gateway, room);
        }
    }

    /// The table holds all rooms of the gateway; `false` when it did before.
    pub(crate) fn state(&mut self, gateway: u32) -> bool {
        let rooms = self.gateways.entry(gateway).or_default();
        if std::mem::replace(&mut rooms.stated, true) {
            return false;
        }
        for room in &rooms.tokens {
            self.rooms.entry(*room).or_default().push(gateway);
        }
        true
    }

    pub(crate) fn is_stated(&self, gateway: u32) -> bool {
        self.gateways.get(&gateway).is_some_and(|rooms| rooms.stated)
    }

    pub(crate) fn end_gateway(&mut self, gateway: u32) {
        let Some(rooms) = self.gateways.remove(&gateway).filter(|rooms| rooms.stated) else {
            return;
        };
        for room in rooms.tokens {
            self.forget(gateway, room);
        }
    }

    fn forget(&mut self, gateway: u32, room: RoomToken) {
        if let Some(gateways) = self.rooms.get_mut(&room) {
            gateways.retain(|known| *known != gateway);
            if gateways.is_empty() {
                self.rooms.remove(&room);
            }
        }
    }

    /// The gateways that must get an event of the room.
    pub(crate) fn of(&self, room: RoomToken) -> &[u32] {
        self.rooms.get(&room).map_or(&[], |gateways| gateways)
    }

    /// Gateways that are in the table, stated or not.
    pub(crate) fn gateways(&self) -> Vec<u32> {
        self.gateways.keys().copied().collect()
    }

    /// Rooms with interest.
    pub(crate) fn len(&self) -> usize {
        self.rooms.len()
    }

    /// The table as bytes, `name` telling a gateway's id: for each gateway that has stated its rooms the
    /// length of its id (one byte), the id, the number of its rooms (four bytes, big-endian) and their
    /// tokens.
    pub(crate) fn encode(&self, name: impl Fn(u32) -> Option<Arc<str>>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (gateway, rooms) in self.gateways.iter().filter(|(_, rooms)| rooms.stated) {
            let Some(id) = name(*gateway) else { continue };
            let (Ok(length), Ok(count)) = (u8::try_from(id.len()), u32::try_from(rooms.tokens.len())) else {
                continue;
            };
            bytes.put_u8(length);
            bytes.put_slice(id.as_bytes());
            bytes.put_u32(count);
            for room in &rooms.tokens {
                bytes.put_slice(room.as_bytes());
            }
        }
        bytes
    }

    /// A table written by [`Interest::encode`]; `None` when the bytes are none.
    pub(crate) fn decode(mut bytes: &[u8], mut number: impl FnMut(&str) -> u32) -> Option<Self> {
        let mut table = Self::default();
        while bytes.has_remaining() {
            let length = usize::from(bytes.try_get_u8().ok()?);
            let (id, rest) = bytes.split_at_checked(length)?;
            let gateway = number(std::str::from_utf8(id).ok()?);
            table.state(gateway);
            bytes = rest;
            for _ in 0..bytes.try_get_u32().ok()? {
                let (token, rest) = bytes.split_at_checked(16)?;
                table.begin(gateway, RoomToken::from_bytes(token)?);
                bytes = rest;
            }
        }
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(number: u8) -> RoomToken {
        RoomToken::from_bytes(&[number; 16]).unwrap()
    }

    fn stated(gateways: &[u32]) -> Interest {
        let mut interest = Interest::default();
        for gateway in gateways {
            assert!(interest.state(*gateway));
        }
        interest
    }

    #[test]
    fn a_gateway_counts_once_it_has_stated_its_rooms() {
        let mut interest = Interest::default();
        interest.begin(1, room(1));
        interest.begin(1, room(2));
        interest.end(1, room(2));
        assert_eq!(interest.len(), 0);
        assert!(!interest.is_stated(1));
        let bytes = interest.encode(|_| Some(Arc::from("one")));
        assert!(bytes.is_empty(), "another owner has to ask as well");
        assert!(interest.state(1));
        assert!(!interest.state(1));
        assert_eq!(interest.of(room(1)), [1]);
        assert_eq!(interest.len(), 1);
        interest.end_gateway(1);
        assert!(!interest.is_stated(1));
        assert_eq!(interest.len(), 0);
    }

    #[test]
    fn a_gateway_that_goes_takes_its_interest_with_it() {
        let mut interest = stated(&[1, 2]);
        interest.begin(1, room(1));
        interest.begin(2, room(1));
        interest.begin(1, room(1));
        interest.begin(1, room(2));
        assert_eq!(interest.of(room(1)), [1, 2]);
        interest.end(2, room(2));
        interest.end_gateway(1);
        assert_eq!(interest.of(room(1)), [2]);
        assert_eq!(interest.of(room(2)), [] as [u32; 0]);
        interest.end(2, room(1));
        assert_eq!(interest.len(), 0);
    }

    #[test]
    fn the_table_survives_its_bytes() {
        let mut interest = stated(&[0, 1, 2]);
        interest.begin(0, room(1));
        interest.begin(0, room(2));
        interest.begin(1, room(1));
        let names = ["one", "two", "three"];
        let bytes = interest.encode(|gateway| names.get(gateway as usize).map(|name| Arc::from(*name)));
        let number = |id: &str| match id {
            "one" => 10,
            "two" => 11,
            _ => 12,
        };
        let read = Interest::decode(&bytes, number).unwrap();
        let mut gateways = read.of(room(1)).to_vec();
        gateways.sort_unstable();
        assert_eq!(gateways, [10, 11]);
        assert_eq!(read.of(room(2)), [10]);
        assert!(read.is_stated(12), "also without rooms");
        for cut in 1..bytes.len() {
            // Whatever was cut off: no panic, and no more than was there.
            if let Some(read) = Interest::decode(&bytes[..cut], number) {
                assert!(read.len() <= 2);
            }
        }
    }
}
