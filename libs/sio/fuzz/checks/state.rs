//! The states of an engine session and of a Socket.IO connection, driven by an arbitrary script against a model.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytestring::ByteString;
use sio::client::{Client, Incoming, ProtocolError};
use sio::engine::{
    CloseReason, Packet as EnginePacket, Received, Session, Timer, Timing, TransportKind, Version,
};
use sio::packet::Packet;

use super::LIMITS;

const NAMESPACES: [&str; 4] = ["/", "/a", "/b", "/chat"];

/// A script: a byte says what is done, the next how long the text is that goes with it.
pub(crate) fn client_session(data: &[u8]) {
    let mut script = data;
    let now = Instant::now();
    let timing = Timing {
        ping_interval: Duration::from_millis(300),
        ping_timeout: Duration::from_millis(200),
        upgrade_timeout: Duration::from_millis(100),
    };
    let mut engine = Engine::new(&timing, now);
    let mut connection = Connection::new(now);
    while let Some((&[what, len], rest)) = script.split_first_chunk() {
        let (text, rest) = rest.split_at(usize::from(len).min(rest.len()));
        script = rest;
        let namespace = NAMESPACES[usize::from(len) % NAMESPACES.len()];
        let goes_on = match what % 10 {
            0 | 1 => connection.text(text),
            2 => connection.binary(text),
            3 => connection.accepted(namespace),
            4 => connection.removed(namespace, len >= 128),
            5 => connection.ask_for_ack(namespace),
            6 => engine.packet(TransportKind::Polling, text, &timing),
            7 => engine.packet(TransportKind::WebSocket, text, &timing),
            8 => engine.wait(Duration::from_millis(u64::from(len)), &timing),
            _ => engine.transport_event(len, &timing),
        };
        if !goes_on {
            return;
        }
    }
}

struct Engine {
    session: Session,
    now: Instant,
    probed: bool,
    polling: bool,
}

impl Engine {
    fn new(timing: &Timing, now: Instant) -> Self {
        let session = Session::new(Version::V4, TransportKind::Polling, timing, now);
        Self {
            session,
            now,
            probed: false,
            polling: false,
        }
    }

    fn packet(&mut self, from: TransportKind, text: &[u8], timing: &Timing) -> bool {
        let Ok(text) = std::str::from_utf8(text) else {
            return true;
        };
        let Ok(packet) = EnginePacket::decode_text(text.into()) else {
            return true;
        };
        let (closed, transport) = (self.session.is_closed(), self.session.transport());
        let received = self.session.on_packet(from, packet.clone(), timing, self.now);
        let probing = from == TransportKind::WebSocket && transport == TransportKind::Polling;
        match &received {
            _ if closed => assert_eq!(received, Ok(Received::Nothing)),
            Ok(Received::Probe) => {
                assert!(probing && self.session.is_upgrading());
                self.probed = true;
            }
            Ok(Received::Upgraded) => {
                assert!(probing && self.probed && packet == EnginePacket::Upgrade);
                assert_eq!(self.session.transport(), TransportKind::WebSocket);
            }
            Ok(Received::UpgradeFailed) => {
                assert!(probing && !self.session.is_upgrading());
                self.probed = false;
            }
            Ok(Received::Text(_) | Received::Binary(_) | Received::ClientClose) => {
                assert_eq!(from, transport)
            }
            Ok(Received::Nothing) => assert!(!probing),
            Ok(Received::Pong(_)) => panic!("v3 only"),
            Err(reason) => {
                assert_eq!((*reason, from), (CloseReason::TransportError, transport));
                assert!(matches!(packet, EnginePacket::Ping(_)));
                self.session.close();
            }
        }
        self.check(transport);
        true
    }

    fn wait(&mut self, span: Duration, timing: &Timing) -> bool {
        self.now += span;
        let transport = self.session.transport();
        for round in 0.. {
            assert!(round < 4, "on_deadline must come to an end");
            match self.session.on_deadline(timing, self.now) {
                None => break,
                Some(Timer::SendPing) => {}
                Some(Timer::UpgradeTimedOut) => self.probed = false,
                Some(Timer::Close(reason)) => {
                    assert_eq!(reason, CloseReason::PingTimeout);
                    self.session.close();
                }
            }
        }
        assert!(self.session.deadline().is_none_or(|deadline| deadline > self.now));
        self.check(transport);
        true
    }

    fn transport_event(&mut self, which: u8, timing: &Timing) -> bool {
        let transport = self.session.transport();
        match which % 5 {
            0 => {
                let free = !self.session.is_closed()
                    && !self.session.is_upgrading()
                    && transport == TransportKind::Polling;
                assert_eq!(self.session.begin_upgrade(timing, self.now), free);
            }
            1 => {
                self.session.end_upgrade();
                self.probed = false;
            }
            2 => {
                assert_eq!(self.session.begin_poll().is_err(), self.polling);
                self.polling = true;
            }
            3 => {
                self.session.end_poll();
                self.polling = false;
            }
            _ => self.session.close(),
        }
        self.check(transport);
        true
    }

    fn check(&self, before: TransportKind) {
        let session = &self.session;
        assert!(
            before == TransportKind::Polling || session.transport() == before,
            "upgrades are for good"
        );
        assert!(!session.is_upgrading() || session.transport() == TransportKind::Polling);
        assert_eq!(session.deadline().is_none(), session.is_closed());
    }
}

struct Connection {
    client: Client,
    /// Namespaces asked for, and whether they are joined.
    namespaces: BTreeMap<String, bool>,
    asked: BTreeMap<String, BTreeSet<u64>>,
    partial: Option<(Packet, usize, Vec<Bytes>)>,
    ever_joined: bool,
}

impl Connection {
    fn new(now: Instant) -> Self {
        Self {
            client: Client::new(now, Duration::from_secs(1)),
            namespaces: BTreeMap::new(),
            asked: BTreeMap::new(),
            partial: None,
            ever_joined: false,
        }
    }

    fn text(&mut self, text: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(text) else {
            return true;
        };
        let text = ByteString::from(text);
        let result = self.client.on_text(text.clone(), &LIMITS);
        if self.partial.is_some() {
            assert_eq!(result, Err(ProtocolError::AttachmentExpected));
            return false;
        }
        match Packet::decode(&text, &LIMITS) {
            Err(error) => {
                assert_eq!(result, Err(ProtocolError::Decode(error)));
                false
            }
            Ok(decoded) if decoded.attachments > 0 => {
                let joined = self.namespaces.get(&**decoded.packet.namespace()) == Some(&true);
                let expected = if joined {
                    Ok(None)
                } else {
                    Err(ProtocolError::NotConnected)
                };
                assert_eq!(result, expected);
                self.partial = Some((decoded.packet, decoded.attachments, Vec::new()));
                joined
            }
            Ok(decoded) => self.decoded(&decoded.packet, &[], result),
        }
    }

    fn binary(&mut self, data: &[u8]) -> bool {
        let data = Bytes::copy_from_slice(data);
        let result = self.client.on_binary(data.clone(), &LIMITS);
        let Some((packet, expected, mut attachments)) = self.partial.take() else {
            assert_eq!(result, Err(ProtocolError::UnexpectedAttachment));
            return false;
        };
        attachments.push(data);
        if attachments.len() < expected {
            assert_eq!(result, Ok(None));
            self.partial = Some((packet, expected, attachments));
            return true;
        }
        self.decoded(&packet, &attachments, result)
    }

    /// The reference's rule: CONNECT if not there yet, anything else but CONNECT_ERROR if joined.
    fn decoded(
        &mut self,
        packet: &Packet,
        received: &[Bytes],
        result: Result<Option<Incoming>, ProtocolError>,
    ) -> bool {
        let namespace = packet.namespace().to_string();
        let state = self.namespaces.get(&namespace).copied();
        match (packet, state) {
            (Packet::Connect { .. }, None) => {
                assert!(matches!(result, Ok(Some(Incoming::Connect { .. }))));
                self.namespaces.insert(namespace, false);
            }
            (Packet::Event { args, .. }, Some(true)) => match result {
                Ok(Some(Incoming::Event {
                    args: got,
                    attachments,
                    ..
                })) => {
                    assert_eq!((&got, attachments.as_slice()), (args, received));
                }
                other => panic!("{other:?}"),
            },
            (Packet::Ack { id, .. }, Some(true)) => {
                let waited_for = self.asked.get_mut(&namespace).is_some_and(|ids| ids.remove(id));
                assert_eq!(matches!(result, Ok(Some(Incoming::Ack { .. }))), waited_for);
                assert!(result.is_ok());
            }
            (Packet::Disconnect { .. }, Some(true)) => {
                assert!(matches!(result, Ok(Some(Incoming::Disconnect { .. }))));
                self.namespaces.remove(&namespace);
                self.asked.remove(&namespace);
            }
            (Packet::Connect { .. }, Some(_)) => assert_eq!(result, Err(ProtocolError::AlreadyConnected)),
            (Packet::ConnectError { .. }, _) => assert_eq!(result, Err(ProtocolError::ServerPacket)),
            (_, None | Some(false)) => assert_eq!(result, Err(ProtocolError::NotConnected)),
        }
        self.check();
        result_goes_on(packet, state)
    }

    fn accepted(&mut self, namespace: &str) -> bool {
        self.client.accepted(namespace);
        if let Some(joined) = self.namespaces.get_mut(namespace) {
            *joined = true;
            self.ever_joined = true;
        }
        self.check();
        true
    }

    fn removed(&mut self, namespace: &str, rejected: bool) -> bool {
        if rejected {
            self.client.rejected(namespace);
        } else {
            self.client.left(namespace);
        }
        self.namespaces.remove(namespace);
        self.asked.remove(namespace);
        self.check();
        true
    }

    fn ask_for_ack(&mut self, namespace: &str) -> bool {
        let id = self.client.next_ack_id(namespace);
        assert_eq!(id.is_some(), self.namespaces.get(namespace) == Some(&true));
        if let Some(id) = id {
            let ids = self.asked.entry(namespace.to_owned()).or_default();
            assert!(ids.insert(id), "an id is given out once");
            if ids.len() > sio::client::MAX_PENDING_ACKS {
                ids.pop_first();
            }
        }
        true
    }

    fn check(&self) {
        let mut joined: Vec<&str> = self.client.namespaces().collect();
        joined.sort_unstable();
        let expected: Vec<&str> = self
            .namespaces
            .iter()
            .filter(|(_, joined)| **joined)
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(joined, expected);
        assert!(joined.iter().all(|name| self.client.is_connected(name)));
        assert_eq!(self.client.deadline().is_none(), self.ever_joined);
    }
}

fn result_goes_on(packet: &Packet, state: Option<bool>) -> bool {
    match packet {
        Packet::Connect { .. } => state.is_none(),
        Packet::ConnectError { .. } => false,
        Packet::Disconnect { .. } | Packet::Event { .. } | Packet::Ack { .. } => state == Some(true),
    }
}
