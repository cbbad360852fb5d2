//! What a page knows of sockets, and what has to be told to it.

use std::collections::{BTreeMap, BTreeSet};

use model::ClientError;
use proto::v1::{ConnectedSocket, SocketsOf};
use publisher::{Place, Sockets};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::NAMESPACE;
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
    sockets: Option<BTreeMap<Key, BTreeSet<String>>>,
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
    /// What the page calls a client: all sockets of a user.
    client_id: &'a str,
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
        let now: BTreeMap<Key, BTreeSet<String>> = found
            .iter()
            .map(|socket| {
                let own = std::iter::once(&socket.id);
                let rooms = own.chain(&socket.rooms).cloned().collect();
                ((socket.namespace.clone(), socket.id.clone()), rooms)
            })
            .collect();
        let shown = |socket: &ConnectedSocket| {
            let rooms = now.get(&(socket.namespace.clone(), socket.id.clone()));
            rooms.map(|rooms| show(socket, rooms)).unwrap_or_default()
        };
        let Some(before) = self.sockets.replace(BTreeMap::new()) else {
            let all: Vec<_> = found.iter().map(shown).collect();
            self.sockets = Some(now);
            return vec![("all_sockets", to_json(&all))];
        };
        let mut told = Vec::new();
        for ((namespace, id), _) in before.iter().filter(|(key, _)| !now.contains_key(*key)) {
            told.push(("socket_disconnected", args(&[namespace, id, "gone"])));
        }
        for socket in found {
            let key = (socket.namespace.clone(), socket.id.clone());
            let (Some(rooms), known) = (now.get(&key), before.get(&key)) else {
                continue;
            };
            let Some(known) = known else {
                told.push(("socket_connected", to_json(&shown(socket))));
                continue;
            };
            let (namespace, id) = (&key.0, &key.1);
            for room in rooms.difference(known) {
                told.push(("room_joined", args(&[namespace, room, id])));
            }
            for room in known.difference(rooms) {
                told.push(("room_left", args(&[namespace, room, id])));
            }
        }
        self.sockets = Some(now);
        told
    }
}

fn show(socket: &ConnectedSocket, rooms: &BTreeSet<String>) -> Value {
    let issued = socket
        .connected_at
        .map_or(0, |at| at.seconds * 1000 + i64::from(at.nanos) / 1_000_000);
    json!(Shown {
        id: &socket.id,
        client_id: &socket.user_id,
        nsp: &socket.namespace,
        rooms,
        data: json!({ "userId": socket.user_id, "username": socket.username, "gateway": socket.gateway }),
        handshake: json!({ "address": "", "headers": {}, "query": {}, "issued": issued, "time": issued, "url": "", "secure": false, "xdomain": false }),
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
            user_id: format!("user of {id}"),
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
        assert_eq!(all[1]["clientId"], "user of b");

        let told = view.told(&[socket("a", &["hall"]), socket("c", &[])]);
        let names: Vec<_> = told.iter().map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "socket_disconnected",
                "room_joined",
                "room_left",
                "socket_connected"
            ]
        );
        assert_eq!(told[0].1, r#""/chat","b","gone""#);
        assert_eq!(told[1].1, r#""/chat","hall","a""#);
        assert!(view.told(&[socket("a", &["hall"]), socket("c", &[])]).is_empty());
    }
}
