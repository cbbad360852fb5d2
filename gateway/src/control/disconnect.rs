//! Servers end sockets.

use std::collections::HashSet;

use proto::v1::{DisconnectCommand, disconnect_request::Mode};
use sio::engine::CloseReason;

use super::Control;

impl Control {
    /// Ends sockets, or cuts their connections so that they come back. Those who are away do not come back either,
    /// unless they are only to reconnect.
    pub(super) fn disconnect(&self, command: DisconnectCommand) -> u64 {
        let mode = command.mode();
        let of = command.of.unwrap_or_default();
        let sockets = self.finder.find(&of);
        let mut count = sockets.len() as u64;
        if mode != Mode::Reconnect {
            let mut ended = Vec::new();
            self.core
                .sessions
                .each_away_of(&of, |pid, _| ended.push(pid.to_owned()));
            count += ended.len() as u64;
            for pid in ended {
                self.core.end_away(&pid);
            }
        }
        let mut conns = HashSet::new();
        for socket in &sockets {
            let conn = socket.conn();
            match mode {
                Mode::Unspecified | Mode::Namespace => self.core.put_out(socket),
                Mode::Connection if conns.insert(conn.sid()) => {
                    let all: Vec<_> = conn.sockets.lock().iter().cloned().collect();
                    for socket in &all {
                        self.core.put_out(socket);
                    }
                    conn.close(CloseReason::ForcedServerClose);
                }
                Mode::Reconnect if conns.insert(conn.sid()) => conn.close(CloseReason::ForcedServerClose),
                Mode::Connection | Mode::Reconnect => {}
            }
        }
        count
    }
}
