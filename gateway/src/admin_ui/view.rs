//! What a page knows of sockets, and what has to be told to it.

use std::collections::{BTreeMap, BTreeSet};

use model::ClientError;
use proto::v1::{ConnectedSocket, SocketsOf};
use publisher::{Place, Sockets};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{DISCONNECTED, NAMESPACE, Sample};
use crate::session::json as to_json;

/// So many sockets are shown at most; the counts are of all.
const MAX_SHOWN: usize = 5_000;
const PAGE: usize = 500;

type Key = (String, String);
/// An event for the page: its name and its raw arguments.
type Told = (&'static str, String);

/// What was told to one page.
#[derive(Default)]
pub(super) struct View {
    namespaces: BTreeSet<String>,
    /// Sockets by namespace and id, with their rooms. `None` before the first look.
    sockets: Option<BTreeMap<Key, Known>>,
    /// What is to be told of those that are gone, once they are not found any more.
    gone: BTreeMap<Key, String>,
}

/// What may change of a socket.
#[derive(PartialEq)]
struct Known {
    rooms: BTreeSet<String>,
    transport: String,
}

#[derive(Deserialize)]
struct Report {
    namespaces: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// A socket as the page names it. Headers are not shown: they hold cookies and tokens.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    id: &'a str,
    /// What the page calls a client: all sockets of a connection.
    client_id: &'a str,
    transport: &'a str,
    nsp: &'a str,
    rooms: &'a BTreeSet<String>,
    data: Value,
    handshake: Value,
}

impl View {
    /// A gateway has told which namespaces it has sockets in.
    pub(super) fn heard(&mut self, report: &str) {
        if let Ok(report) = serde_json::from_str::<Report>(report) {
            let names = report.namespaces.into_iter().map(|named| named.name);
            self.namespaces.extend(names.filter(|name| name != NAMESPACE));
        }
    }

    /// Why a socket is gone. Who comes back under its id is not gone.
    pub(super) fn gone(&mut self, sample: &Sample<'_>) {
        if self.gone.len() < MAX_SHOWN {
            let key = (sample.namespace.to_owned(), sample.id.to_owned());
            self.gone.insert(key, sample.args.to_owned());
        }
    }

    /// What is different from the last look; all sockets, the first time there are gateways.
    ///
    /// # Errors
    /// When a gateway does not answer.
    pub(super) async fn look(&mut self, of: &Sockets) -> Result<Vec<Told>, ClientError> {
        if self.namespaces.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for namespace in &self.namespaces {
            let of_namespace = SocketsOf {
                namespace: namespace.clone(),
                ..SocketsOf::default()
            };
            let mut place = Some(Place::default());
            while let Some(from) = place.filter(|_| found.len() < MAX_SHOWN) {
                let (sockets, next) = of.page(&of_namespace, from, PAGE).await?;
                found.extend(sockets);
                place = next;
            }
        }
        found.truncate(MAX_SHOWN);
        Ok(self.told(&found))
    }

    fn told(&mut self, found: &[ConnectedSocket]) -> Vec<Told> {
        let now: BTreeMap<Key, Known> = found
            .iter()
            .map(|socket| (key(socket), Known::of(socket)))
            .collect();
        let shown = |socket| now.get(&key(socket)).map(|known| show(socket, known));
        let gone = std::mem::take(&mut self.gone);
        let Some(before) = self.sockets.take() else {
            let all: Vec<_> = found.iter().filter_map(shown).collect();
            self.sockets = Some(now);
            return vec![("all_sockets", to_json(&all))];
        };
        let mut told = Vec::new();
        for (key, was) in before.iter().filter(|(key, _)| !now.contains_key(*key)) {
            // The page keeps those that are gone in their rooms until it is told.
            let left = was
                .rooms
                .iter()
                .map(|room| ("room_left", args(&[&key.0, room, &key.1])));
            told.extend(left);
            let known = gone.get(key).cloned();
            let gone = known.unwrap_or_else(|| args(&[&key.0, &key.1, "gone"]));
            told.push((DISCONNECTED, gone));
        }
        for socket in found {
            let key = key(socket);
            let (Some(known), was) = (now.get(&key), before.get(&key)) else {
                continue;
            };
            let Some(was) = was else {
                told.push(("socket_connected", to_json(&show(socket, known))));
                continue;
            };
            let (namespace, id) = (&key.0, &key.1);
            if known.transport != was.transport {
                let update = json!({ "nsp": namespace, "id": id, "transport": known.transport });
                told.push(("socket_updated", update.to_string()));
            }
            for room in known.rooms.difference(&was.rooms) {
                told.push(("room_joined", args(&[namespace, room, id])));
            }
            for room in was.rooms.difference(&known.rooms) {
                told.push(("room_left", args(&[namespace, room, id])));
            }
        }
        self.sockets = Some(now);
        told
    }
}

impl Known {
    fn of(socket: &ConnectedSocket) -> Self {
        let own = std::iter::once(&socket.id);
        Self {
            rooms: own.chain(&socket.rooms).cloned().collect(),
            transport: socket.transport.clone(),
        }
    }
}

fn key(socket: &ConnectedSocket) -> Key {
    (socket.namespace.clone(), socket.id.clone())
}

fn show(socket: &ConnectedSocket, known: &Known) -> Value {
    let issued = socket
        .connected_at
        .map_or(0, |at| at.seconds * 1000 + i64::from(at.nanos) / 1_000_000);
    json!(Shown {
        id: &socket.id,
        client_id: &socket.connection,
        transport: &socket.transport,
        nsp: &socket.namespace,
        rooms: &known.rooms,
        data: json!({ "userId": socket.user_id, "username": socket.username, "gateway": socket.gateway }),
        handshake: json!({ "address": socket.address, "headers": {}, "query": {}, "issued": issued, "time": issued, "url": "", "secure": false, "xdomain": false }),
    })
}

/// Texts as the arguments of an event.
fn args(texts: &[&str]) -> String {
    let texts: Vec<_> = texts.iter().map(to_json).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(id: &str, rooms: &[&str]) -> ConnectedSocket {
        ConnectedSocket {
            id: id.to_owned(),
            namespace: "/chat".to_owned(),
            connection: format!("connection of {id}"),
            rooms: rooms.iter().map(|&room| room.to_owned()).collect(),
            ..ConnectedSocket::default()
        }
    }

    #[test]
    fn a_page_is_told_what_has_changed() {
        let mut view = View::default();
        let told = view.told(&[socket("a", &["lobby"]), socket("b", &[])]);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].0, "all_sockets");
        let all: Value = serde_json::from_str(&told[0].1).unwrap();
        assert_eq!(all[0]["rooms"], json!(["a", "lobby"]));
        assert_eq!(all[1]["clientId"], "connection of b");

        view.gone(&Sample {
            kind: DISCONNECTED,
            namespace: "/chat",
            id: "b",
            args: r#""/chat","b","transport close""#,
        });
        let told = view.told(&[socket("a", &["hall"]), socket("c", &[])]);
        let names: Vec<_> = told.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "room_left",
                "socket_disconnected",
                "room_joined",
                "room_left",
                "socket_connected"
            ]
        );
        assert_eq!(told[0].1, r#""/chat","b","b""#);
        assert_eq!(told[1].1, r#""/chat","b","transport close""#);
        assert_eq!(told[2].1, r#""/chat","hall","a""#);
        let upgraded = ConnectedSocket {
            transport: "websocket".to_owned(),
            ..socket("c", &[])
        };
        let told = view.told(std::slice::from_ref(&upgraded));
        let names: Vec<_> = told.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            ["room_left", "room_left", "socket_disconnected", "socket_updated"]
        );
        assert_eq!(told[2].1, r#""/chat","a","gone""#);
        let update: Value = serde_json::from_str(&told[3].1).unwrap();
        assert_eq!(update["transport"], "websocket");
        assert!(view.told(&[upgraded]).is_empty());
    }
}
