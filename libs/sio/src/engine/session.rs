use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;

use super::{CloseReason, Packet, Timing, TransportKind, Version};
use crate::later;

/// One engine session: its transport, heartbeat, upgrade and polling rules. It is memory per connection, so it holds
/// no configuration.
///
/// A method that gives a [`CloseReason`] asks for the session to be closed; only [`Session::close`] closes it, so that
/// the caller has one place where a session ends. A closed session gives nothing any more.
#[derive(Clone, Debug)]
pub struct Session {
    heartbeat_at: Instant,
    upgrade_until: Option<Instant>,
    heartbeat: Heartbeat,
    version: Version,
    transport: TransportKind,
    probed: bool,
    polling: bool,
    posting: bool,
    closed: bool,
}

/// What a received packet means for the owner of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A text message.
    Text(ByteString),
    /// A binary message.
    Binary(Bytes),
    /// Nothing to do.
    Nothing,
    /// Answer `3probe` on the WebSocket and release a pending poll with a noop.
    Probe,
    /// The transport is the WebSocket now; what waits is sent there.
    Upgraded,
    /// The probing WebSocket broke the upgrade: close that WebSocket; the session stays on polling.
    UpgradeFailed,
    /// Answer with a pong carrying this payload (protocol v3, where the client pings).
    Pong(ByteString),
    /// The client closes the session: "transport close".
    ClientClose,
}

/// What has become due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Send a ping packet.
    SendPing,
    /// Close the session.
    Close(CloseReason),
    /// The probing WebSocket did not finish the upgrade: close that WebSocket; the session stays on polling.
    UpgradeTimedOut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heartbeat {
    /// v4: the next ping is sent then.
    PingDue,
    /// v4: the pong, v3: the ping, has come by then.
    AnswerDue,
    /// The time-out has been reported.
    TimedOut,
}

const PROBE: &str = "probe";

/// So late a timer may be without it being a stall.
const TIMER_SLACK: Duration = Duration::from_millis(10);

impl Session {
    /// A session that has just been opened (its open packet is about to be sent).
    #[must_use]
    pub fn new(version: Version, transport: TransportKind, timing: &Timing, now: Instant) -> Self {
        let mut session = Self {
            heartbeat_at: now,
            upgrade_until: None,
            heartbeat: Heartbeat::PingDue,
            version,
            transport,
            probed: false,
            polling: false,
            posting: false,
            closed: false,
        };
        session.arm_heartbeat(timing, now);
        session
    }

    /// The protocol revision the client speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The transport packets go over now.
    #[must_use]
    pub fn transport(&self) -> TransportKind {
        self.transport
    }

    /// Whether [`Session::close`] has been called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether a WebSocket is probing; another one for this session is closed.
    #[must_use]
    pub fn is_upgrading(&self) -> bool {
        self.upgrade_until.is_some()
    }

    /// The next instant at which [`Session::on_deadline`] must be called; `None` when there is none.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        if self.closed {
            return None;
        }
        match (self.heartbeat, self.upgrade_until) {
            (Heartbeat::TimedOut, upgrade) => upgrade,
            (Heartbeat::PingDue | Heartbeat::AnswerDue, None) => Some(self.heartbeat_at),
            (Heartbeat::PingDue | Heartbeat::AnswerDue, Some(upgrade)) => {
                Some(self.heartbeat_at.min(upgrade))
            }
        }
    }

    /// What has become due by `now`; call until `None`. Each thing is reported once.
    pub fn on_deadline(&mut self, timing: &Timing, now: Instant) -> Option<Timer> {
        if self.closed {
            return None;
        }
        if self.upgrade_until.is_some_and(|until| until <= now) {
            self.end_upgrade();
            return Some(Timer::UpgradeTimedOut);
        }
        if now < self.heartbeat_at {
            return None;
        }
        match self.heartbeat {
            Heartbeat::PingDue => {
                self.heartbeat = Heartbeat::AnswerDue;
                // A timer that is a moment late must not add up: the time-out runs from when the ping was due. After
                // a stall it runs from now, so that nobody is closed for what the server slept through.
                let due = self.heartbeat_at;
                let late = now.saturating_duration_since(due) > TIMER_SLACK;
                self.heartbeat_at = later(if late { now } else { due }, timing.ping_timeout);
                Some(Timer::SendPing)
            }
            Heartbeat::AnswerDue => {
                self.heartbeat = Heartbeat::TimedOut;
                Some(Timer::Close(CloseReason::PingTimeout))
            }
            Heartbeat::TimedOut => None,
        }
    }

    /// A WebSocket with this session's id has been opened. `false`: it must be closed at once, because the session is
    /// closed, already on a WebSocket, or being upgraded by another one (protocol v4, "WebSocket").
    ///
    /// The upgrade time-out runs from here. A probe from a WebSocket not announced so starts the upgrade itself.
    pub fn begin_upgrade(&mut self, timing: &Timing, now: Instant) -> bool {
        if self.closed || self.is_upgrading() || self.transport == TransportKind::WebSocket {
            return false;
        }
        self.upgrade_until = Some(later(now, timing.upgrade_timeout));
        true
    }

    /// The probing WebSocket is gone; the session stays on polling. Idempotent.
    pub fn end_upgrade(&mut self) {
        self.upgrade_until = None;
        self.probed = false;
    }

    /// Takes a packet that came over `from`.
    ///
    /// From a probing WebSocket (the session is on polling) only the probe and then the upgrade packet are legal.
    /// A packet from polling after the upgrade, and any packet of a closed session, is ignored, as are stray open,
    /// upgrade and noop packets.
    ///
    /// # Errors
    /// The reason to close the session: a heartbeat in the wrong direction is "transport error", as the reference says.
    pub fn on_packet(
        &mut self,
        from: TransportKind,
        packet: Packet,
        timing: &Timing,
        now: Instant,
    ) -> Result<Received, CloseReason> {
        if self.closed {
            return Ok(Received::Nothing);
        }
        match (from, self.transport) {
            (TransportKind::WebSocket, TransportKind::Polling) => {
                Ok(self.on_probing_packet(&packet, timing, now))
            }
            (TransportKind::Polling, TransportKind::WebSocket) => Ok(Received::Nothing),
            (TransportKind::Polling, TransportKind::Polling)
            | (TransportKind::WebSocket, TransportKind::WebSocket) => {
                self.on_current_packet(packet, timing, now)
            }
        }
    }

    /// A GET begins to wait for packets.
    ///
    /// # Errors
    /// "transport error" when another one is waiting (protocol v4, "Receiving data"): answer 400 and close.
    pub fn begin_poll(&mut self) -> Result<(), CloseReason> {
        begin(&mut self.polling)
    }

    /// The waiting GET has been answered or is gone.
    pub fn end_poll(&mut self) {
        self.polling = false;
    }

    /// A POST begins to be read.
    ///
    /// # Errors
    /// "transport error" when another one is being read (protocol v4, "Sending data"): answer 400 and close.
    pub fn begin_post(&mut self) -> Result<(), CloseReason> {
        begin(&mut self.posting)
    }

    /// The POST has been answered or is gone.
    pub fn end_post(&mut self) {
        self.posting = false;
    }

    /// Closes the session. Idempotent.
    pub fn close(&mut self) {
        self.closed = true;
        self.end_upgrade();
    }

    fn on_current_packet(
        &mut self,
        packet: Packet,
        timing: &Timing,
        now: Instant,
    ) -> Result<Received, CloseReason> {
        match (packet, self.version) {
            (Packet::Text(text), _) => Ok(Received::Text(text)),
            (Packet::Binary(data), _) => Ok(Received::Binary(data)),
            (Packet::Close, _) => Ok(Received::ClientClose),
            (Packet::Pong(_), Version::V4) => {
                self.arm_heartbeat(timing, now);
                Ok(Received::Nothing)
            }
            (Packet::Ping(payload), Version::V3) => {
                self.arm_heartbeat(timing, now);
                Ok(Received::Pong(payload))
            }
            (Packet::Ping(_), Version::V4) | (Packet::Pong(_), Version::V3) => {
                Err(CloseReason::TransportError)
            }
            (Packet::Open(_) | Packet::Upgrade | Packet::Noop, _) => Ok(Received::Nothing),
        }
    }

    fn on_probing_packet(&mut self, packet: &Packet, timing: &Timing, now: Instant) -> Received {
        match packet {
            Packet::Ping(payload) if *payload == PROBE => {
                self.begin_upgrade(timing, now);
                self.probed = true;
                Received::Probe
            }
            Packet::Upgrade if self.probed => {
                self.end_upgrade();
                self.transport = TransportKind::WebSocket;
                if self.heartbeat == Heartbeat::AnswerDue && self.version == Version::V4 {
                    // The ping may have been read with the last poll: its pong gets its full time on the new way.
                    self.heartbeat_at = later(now, timing.ping_timeout);
                }
                Received::Upgraded
            }
            Packet::Open(_)
            | Packet::Close
            | Packet::Ping(_)
            | Packet::Pong(_)
            | Packet::Text(_)
            | Packet::Binary(_)
            | Packet::Upgrade
            | Packet::Noop => {
                self.end_upgrade();
                Received::UpgradeFailed
            }
        }
    }

    fn arm_heartbeat(&mut self, timing: &Timing, now: Instant) {
        (self.heartbeat, self.heartbeat_at) = match self.version {
            Version::V3 => {
                let patience = timing.ping_interval.saturating_add(timing.ping_timeout);
                (Heartbeat::AnswerDue, later(now, patience))
            }
            Version::V4 => (Heartbeat::PingDue, later(now, timing.ping_interval)),
        };
    }
}

fn begin(active: &mut bool) -> Result<(), CloseReason> {
    if *active {
        return Err(CloseReason::TransportError);
    }
    *active = true;
    Ok(())
}
