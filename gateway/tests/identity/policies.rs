//! Who may use which rooms and send which events.

use config::AuthMode;
use serde_json::{Value, json};

use crate::stage::{Client, start, token};

#[tokio::test]
async fn rooms_are_closed_unless_a_claim_or_a_policy_opens_them() {
    let edge = start(|config| {
        let chat = &mut config.namespaces[1];
        chat.public_rooms = vec!["lobby-*".to_owned()];
        chat.join_rooms = [
            ("team-{claims.team}-*".to_owned(), vec!["user".to_owned()]),
            (
                "staff".to_owned(),
                vec!["moderator".to_owned(), "permission:staff".to_owned()],
            ),
        ]
        .into();
    })
    .await;
    for (claims, allowed, denied) in [
        (
            json!({}),
            &["lobby-1", "user:ada"][..],
            &["team-red-1", "staff", "other", "user:bob", "*"][..],
        ),
        (
            json!({ "team": "red" }),
            &["team-red-1"],
            &["team-blue-1", "team-red", "staff"],
        ),
        (
            json!({ "team": ["red", "blue"] }),
            &["team-red-1", "team-blue-1"],
            &["team-green-1"],
        ),
        // A claim is no pattern.
        (json!({ "team": "*" }), &["team-*-1"], &["team-red-1"]),
        (json!({ "team": "" }), &[], &["team--1", "team-red-1"]),
        (json!({ "team": "red", "role": "admin" }), &[], &["team-red-1"]),
        (json!({ "role": "moderator" }), &["staff"], &[]),
        (json!({ "permissions": ["staff"] }), &["staff"], &[]),
        (
            json!({ "rooms": ["other", "x-*"] }),
            &["other", "x-1"],
            &["others", "staff"],
        ),
        (
            json!({ "rooms": ["*", "user:*"], "role": "admin" }),
            &["other", "staff"],
            &["user:bob"],
        ),
    ] {
        let mut client = Client::join(&edge, &claims).await;
        for room in allowed {
            assert!(client.may_use(room).await, "{claims} {room}");
        }
        for room in denied {
            for event in ["join-room", "getMessages", "typing", "markMessagesRead"] {
                let payload = json!({ "roomId": room, "messageId": "m" });
                assert_eq!(
                    client.outcome(event, &payload).await,
                    "FORBIDDEN",
                    "{claims} {event} {room}"
                );
            }
            let message = json!({ "roomId": room, "content": "x" });
            assert_eq!(
                client.outcome("message", &message).await,
                "FORBIDDEN",
                "{claims} {room}"
            );
        }
    }
    edge.stop().await;
}

#[tokio::test]
async fn guests_use_public_rooms_alone_and_members_theirs() {
    let edge = start(|config| {
        config.auth.mode = AuthMode::Guest;
        config.rooms.public = vec!["lobby".to_owned()];
    })
    .await;
    let mut guest = Client::open(&edge).await;
    assert!(guest.connect("/chat", &json!({})).await.starts_with("40"));
    let mut ada = Client::join(&edge, &json!({})).await;
    let room = |client: serde_json::Value| client["roomId"].as_str().unwrap().to_owned();
    let own = room(
        ada.ask("getOrCreateRoom", &json!({ "participants": ["bob"] }))
            .await,
    );
    assert!(ada.may_use(&own).await && ada.may_use("lobby").await);
    let of_guest = room(
        guest
            .ask("getOrCreateRoom", &json!({ "participants": ["ada"] }))
            .await,
    );
    assert!(guest.may_use("lobby").await);
    for name in [&own, &of_guest, "other"] {
        assert!(!guest.may_use(name).await, "{name}");
    }
    let mut eve = Client::join(&edge, &json!({ "sub": "eve" })).await;
    assert!(!eve.may_use(&own).await);
    edge.stop().await;
}

/// Whatever its id and role, who has a token is a user with memberships and sessions of its own.
#[tokio::test]
async fn a_guest_by_token_is_not_anonymous() {
    let edge = start(|_| {}).await;
    let auth = |sub: &str, pid: &Value| {
        let token = token(&json!({ "sub": sub, "role": "guest" }));
        json!({ "token": token, "pid": pid })
    };
    let mut guest = Client::open(&edge).await;
    let first = guest.enter(&auth("guest-42", &Value::Null)).await;
    let room = guest
        .ask("getOrCreateRoom", &json!({ "participants": ["ada"] }))
        .await;
    assert!(guest.may_use(room["roomId"].as_str().unwrap()).await);

    drop(guest);
    while edge.gateway.connections() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let mut other = Client::open(&edge).await;
    let fresh = other.enter(&auth("guest-43", &first["pid"])).await;
    assert_ne!(fresh["sid"], first["sid"], "the session is another user's");
    let mut again = Client::open(&edge).await;
    let back = again.enter(&auth("guest-42", &first["pid"])).await;
    assert_eq!(back["sid"], first["sid"]);
    edge.stop().await;
}

#[tokio::test]
async fn events_are_for_those_whom_the_policy_names() {
    let edge = start(|config| {
        config.rooms.public = vec!["*".to_owned()];
        let chat = &mut config.namespaces[1];
        chat.emit_listed_only = true;
        chat.emit_roles = [
            (
                "getMessages".to_owned(),
                vec!["user".to_owned(), "admin".to_owned()],
            ),
            ("announce".to_owned(), vec!["permission:announce".to_owned()]),
            ("message".to_owned(), vec!["moderator".to_owned()]),
        ]
        .into();
    })
    .await;
    for (claims, event, expected) in [
        (json!({}), "getMessages", "ok"),
        (json!({ "role": "guest" }), "getMessages", "FORBIDDEN"),
        (json!({}), "message", "FORBIDDEN"),
        (json!({ "role": "admin" }), "message", "FORBIDDEN"),
        (json!({}), "sendMessage", "FORBIDDEN"),
        (json!({ "role": "moderator" }), "sendMessage", "ok"),
        (json!({ "role": "admin" }), "announce", "FORBIDDEN"),
        (json!({ "permissions": ["announce"] }), "announce", "NO_HANDLER"),
        (json!({ "role": "admin" }), "room-presence", "FORBIDDEN"),
    ] {
        let mut client = Client::join(&edge, &claims).await;
        let payload = json!({ "roomId": "r", "content": "x" });
        assert_eq!(
            client.outcome(event, &payload).await,
            expected,
            "{claims} {event}"
        );
        let refreshed = json!({ "token": crate::stage::token(&claims) });
        assert_eq!(
            client.outcome("refresh-token", &refreshed).await,
            "ok",
            "is about no event"
        );
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_join_with_history_reads_messages() {
    let edge = start(|config| {
        config.rooms.public = vec!["*".to_owned()];
        config.namespaces[1].emit_roles = [("getMessages".to_owned(), vec!["user".to_owned()])].into();
    })
    .await;
    for (role, expected) in [("guest", "FORBIDDEN"), ("user", "ok")] {
        let mut client = Client::join(&edge, &json!({ "role": role })).await;
        let join = json!({ "roomId": "r", "history": 1 });
        assert_eq!(client.outcome("join-room", &join).await, expected, "{role}");
        let join = json!({ "roomId": "r", "history": 0 });
        assert_eq!(client.outcome("join-room", &join).await, "ok", "{role}");
    }
    edge.stop().await;
}

#[tokio::test]
async fn a_namespace_may_show_less_than_the_log_keeps() {
    let edge = start(|config| {
        config.rooms.public = vec!["*".to_owned()];
        config.namespaces[1].history = Some(3);
    })
    .await;
    let mut client = Client::join(&edge, &json!({})).await;
    let mut offsets = Vec::new();
    for content in ["1", "2", "3", "4", "5"] {
        let sent = client
            .ask("message", &json!({ "roomId": "r", "content": content }))
            .await;
        offsets.push(sent["offset"].clone());
    }
    let mut shown = async |query: Value| {
        let mut query = query;
        query["roomId"] = json!("r");
        let page = client.ask("getMessages", &query).await;
        let contents = page["messages"].as_array().unwrap().iter();
        let contents: String = contents
            .map(|message| message["content"].as_str().unwrap())
            .collect();
        (contents, page["hasMore"].as_bool().unwrap())
    };
    assert_eq!(shown(json!({})).await, ("345".to_owned(), false));
    assert_eq!(shown(json!({ "limit": 2 })).await, ("45".to_owned(), true));
    assert_eq!(
        shown(json!({ "before": offsets[3] })).await,
        ("3".to_owned(), false)
    );
    assert_eq!(
        shown(json!({ "after": offsets[0], "limit": 2 })).await,
        ("34".to_owned(), true)
    );
    edge.stop().await;
}
