use std::sync::{Arc, atomic::Ordering};

use sio::packet::Encoded;
use tokio::sync::oneshot;

use super::{
    Rooms,
    room::{Confirmed, Hold, Room, Waiting},
    variants::Variants,
};
use crate::{interest::InterestError, journal::Receivers, session::Socket, transport::Cork};

/// A join under way. Dropped before it is released, it is taken back.
pub(crate) struct Joining {
    rooms: Arc<Rooms>,
    room: Arc<Room>,
    socket: Arc<Socket>,
    slot: u32,
    /// Its member's number: after a leave the slot may be another's, or the socket's own again.
    member: u64,
    new: bool,
    released: bool,
    confirmed: Confirmed,
}

impl Joining {
    pub(super) fn new(
        rooms: &Arc<Rooms>,
        room: &Arc<Room>,
        socket: &Arc<Socket>,
        slot: u32,
        new: bool,
        hold: Hold,
    ) -> Self {
        Self {
            rooms: Arc::clone(rooms),
            room: Arc::clone(room),
            socket: Arc::clone(socket),
            slot,
            member: hold.member,
            new,
            released: false,
            confirmed: hold.confirmed,
        }
    }

    pub(crate) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Whether the socket was not in the room before.
    pub(crate) fn is_new(&self) -> bool {
        self.new
    }

    /// Waits until every later event of the room is sure to come. The position: what the member gets
    /// from now on is exactly what stands behind it.
    pub(crate) async fn confirmed(&mut self) -> Result<u64, InterestError> {
        let result = match &mut self.confirmed {
            Ok(position) => return Ok(*position),
            Err(receiver) => receiver.await.unwrap_or(Err(InterestError::Stopped)),
        };
        // Asked again, it fails again.
        self.confirmed = result.clone().map_err(|_| oneshot::channel().1);
        result
    }

    /// The member has everything up to `seq`, so it gets what stands behind that. To be called once everything up to
    /// there has been delivered here.
    pub(crate) fn has(&mut self, seq: u64) {
        self.confirmed = Ok(seq);
    }

    /// Sends the answer, which is told the position of events, then what was held, then lets the member go.
    pub(crate) fn release(mut self, answer: impl FnOnce(Option<&str>) -> Vec<Encoded>) {
        self.finish(answer);
    }

    fn finish(&mut self, answer: impl FnOnce(Option<&str>) -> Vec<Encoded>) {
        self.released = true;
        self.send(answer);
        let joining = self.rooms.joining(self.room.token);
        joining.fetch_sub(1, Ordering::SeqCst);
    }

    fn send(&self, answer: impl FnOnce(Option<&str>) -> Vec<Encoded>) {
        let mut lane = self.rooms.journal.lane();
        let mut inner = self.room.inner.lock();
        // Under the room's lock, so that no event overtakes the answer.
        let position = lane.position().filter(|_| self.socket.pid().is_some());
        for packet in answer(position.as_deref()) {
            self.socket.conn().send(&packet);
        }
        let Some(Some(member)) = inner.members.get_mut(self.slot as usize) else {
            return;
        };
        if member.number != self.member {
            return;
        }
        let Some(held) = &mut member.held else { return };
        held.joins -= 1;
        if held.joins > 0 {
            return;
        }
        let conn = self.socket.conn();
        let before = *self.confirmed.as_ref().unwrap_or(&0);
        for Waiting { publish, offset } in std::mem::take(&mut held.events) {
            // The answer tells where the member begins.
            if offset.is_some_and(|offset| offset.seq <= before) {
                continue;
            }
            let position = match offset {
                // It comes later than to the others, so it has a position of its own.
                Some(offset) => lane.next(offset, publish.time_ms),
                None => lane.position(),
            };
            if !lane.is_first(&publish, self.socket.id()) {
                continue;
            }
            let variants = Variants::new(&publish, offset, position);
            let packet = variants.of(&self.socket);
            conn.send_corked(packet, publish.volatile, &mut Cork::new(false));
            if offset.is_some() && self.socket.pid().is_some() {
                let receivers = Receivers::Socket(self.socket.id().into());
                lane.sent(self.room.token, publish, receivers);
            }
        }
        member.held = None;
        member.since.get_or_insert(lane.number());
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        // First, so that what was held does not go out: without what lies before it, it would be a gap.
        if self.new {
            self.rooms.leave(&self.socket, self.room.token);
        }
        self.finish(|_| Vec::new());
    }
}
