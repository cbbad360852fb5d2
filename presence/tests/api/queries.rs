//! Every call but the watch.

use std::{collections::BTreeSet, time::Duration};

use presence::api::Settings;
use prost_types::{FieldMask, Timestamp};
use proto::v1::*;
use tonic::{Code, Request};

use crate::{
    stage::{Stage, connected, connected_in, disconnected, joined},
    store::Mode,
};

const GRACE: Duration = Duration::from_secs(3_600);

fn chat() -> String {
    "/chat".to_owned()
}

fn mask(paths: &[&str]) -> Option<FieldMask> {
    let paths = paths.iter().map(|&path| path.to_owned()).collect();
    Some(FieldMask { paths })
}

fn nobody(user_id: &str) -> PresenceUser {
    PresenceUser {
        user_id: user_id.to_owned(),
        ..PresenceUser::default()
    }
}

const SINCE: Option<Timestamp> = Some(Timestamp {
    seconds: 1_700_000_000,
    nanos: 123_000_000,
});

/// ada has two sockets on two gateways and one in `/`, bob one; ada and bob are in `lobby`, ada in `attic`; cyd was
/// in `lobby` and is lost.
async fn company() -> Stage {
    let mut stage = Stage::set(GRACE).await;
    let deltas = vec![
        connected("a1", "ada"),
        joined("a1", "lobby"),
        joined("a1", "user:ada"),
        joined("a1", "\u{1}all"),
        connected("b1", "bob"),
        joined("b1", "lobby"),
        connected("c1", "cyd"),
        joined("c1", "lobby"),
        disconnected("c1"),
    ];
    stage.report("gate-1", deltas).await;
    let deltas = vec![
        connected("a2", "ada"),
        joined("a2", "lobby"),
        joined("a2", "attic"),
        connected_in("/", "a3", "ada"),
    ];
    stage.report("gate-2", deltas).await;
    stage
}

#[tokio::test]
async fn users_and_their_sockets() {
    let stage = company().await;
    let replica = stage.replica(Settings::default()).await;
    let mut client = replica.client().await;
    let mut ask = async |user: &str, read_mask| {
        let request = GetUserRequest {
            namespace: chat(),
            user_id: user.to_owned(),
            read_mask,
        };
        client.get_user(request).await.unwrap().into_inner()
    };
    let socket = |id: &str, gateway: &str| PresenceSocket {
        socket_id: id.to_owned(),
        gateway: gateway.to_owned(),
        connected_at: SINCE,
        ip: "192.0.2.7".to_owned(),
        user_agent: "test/1".to_owned(),
        namespace: chat(),
    };
    let mut ada = ask("ada", None).await;
    ada.sockets.sort_by(|a, b| a.socket_id.cmp(&b.socket_id));
    let whole = PresenceUser {
        user_id: "ada".to_owned(),
        username: "ADA".to_owned(),
        online: true,
        connected_at: SINCE,
        sockets: vec![socket("a1", "gate-1"), socket("a2", "gate-2")],
    };
    assert_eq!(ada, whole);
    let brief = PresenceUser {
        sockets: Vec::new(),
        ..whole.clone()
    };
    assert_eq!(
        ask("ada", mask(&["username", "online", "connected_at"])).await,
        brief
    );
    let online = PresenceUser {
        online: true,
        ..nobody("ada")
    };
    assert_eq!(ask("ada", mask(&["user_id", "online"])).await, online);
    assert_eq!(ask("ada", mask(&["sockets"])).await.sockets.len(), 2);
    assert!(!ask("ada", mask(&["sockets"])).await.online, "not asked for");
    assert_eq!(ask("ada", mask(&["*"])).await.sockets.len(), 2);
    assert_eq!(ask("cyd", None).await, nobody("cyd"));
    assert_eq!(ask("nobody", None).await, nobody("nobody"));
    assert_eq!(ask("nobody", mask(&["online"])).await, nobody("nobody"));

    let mut batch = async |users: &[&str], read_mask| {
        let request = BatchGetUsersRequest {
            namespace: chat(),
            user_ids: users.iter().map(|&user| user.to_owned()).collect(),
            read_mask,
        };
        client.batch_get_users(request).await.unwrap().into_inner().users
    };
    let who = batch(
        &["nobody", "ada", "cyd", "ada"],
        mask(&["username", "online", "connected_at"]),
    )
    .await;
    assert_eq!(who, [nobody("nobody"), brief.clone(), nobody("cyd"), brief]);
    let who = batch(&["nobody", "ada"], None).await;
    assert_eq!((who[0].sockets.len(), who[1].sockets.len()), (0, 2));
    assert_eq!(batch(&[], None).await, []);

    let mut online = async |namespace: &str, user: &str| {
        let request = IsOnlineRequest {
            namespace: namespace.to_owned(),
            user_id: user.to_owned(),
        };
        client.is_online(request).await.unwrap().into_inner().online
    };
    assert!(online("/chat", "ada").await && online("/", "ada").await && online("/chat", "bob").await);
    assert!(!online("/", "bob").await, "elsewhere only");
    assert!(!online("/chat", "cyd").await && !online("/chat", "nobody").await);
    stage.strike().await;
}

#[tokio::test]
async fn rooms_and_their_members() {
    let stage = company().await;
    let replica = stage.replica(Settings::default()).await;
    let mut client = replica.client().await;
    let room = |name: &str, users_count, sockets_count| PresenceRoom {
        room: name.to_owned(),
        namespace: chat(),
        users_count,
        sockets_count,
    };
    for (name, users, sockets) in [("lobby", 3, 3), ("attic", 1, 1), ("nowhere", 0, 0)] {
        let request = GetRoomRequest {
            namespace: chat(),
            room: name.to_owned(),
        };
        let got = client.get_room(request).await.unwrap().into_inner();
        assert_eq!(got, room(name, users, sockets));
    }
    let request = ListRoomsRequest {
        namespace: chat(),
        ..ListRoomsRequest::default()
    };
    let got = client.list_rooms(request).await.unwrap().into_inner();
    assert_eq!(got.rooms, [room("attic", 1, 1), room("lobby", 3, 3)]);
    assert_eq!(got.next_page_token, "");
    let mut rooms_of = async |user: &str| {
        let request = ListUserRoomsRequest {
            namespace: chat(),
            user_id: user.to_owned(),
        };
        client.list_user_rooms(request).await.unwrap().into_inner().rooms
    };
    assert_eq!(
        rooms_of("ada").await,
        ["attic", "lobby"],
        "not those that are ours"
    );
    assert_eq!(rooms_of("cyd").await, [""; 0]);
    assert_eq!(rooms_of("nobody").await, [""; 0]);

    let mut members = async |room: &str, read_mask| {
        let request = ListRoomMembersRequest {
            namespace: chat(),
            room: room.to_owned(),
            read_mask,
            ..ListRoomMembersRequest::default()
        };
        let got = client.list_room_members(request).await.unwrap().into_inner();
        assert_eq!(got.next_page_token, "");
        got.members
    };
    let lobby = members("lobby", None).await;
    let seen: Vec<_> = lobby
        .iter()
        .map(|member| (member.user_id.as_str(), member.username.as_str(), member.online))
        .collect();
    let wanted = [("ada", "ADA", true), ("bob", "BOB", true), ("cyd", "CYD", false)];
    assert_eq!(seen, wanted, "cyd is within the grace");
    assert!(
        lobby
            .iter()
            .all(|member| member.connected_at == SINCE && member.sockets.is_empty())
    );
    let sockets: Vec<_> = members("lobby", mask(&["sockets"])).await;
    let sockets: Vec<_> = sockets
        .iter()
        .map(|member| (member.online, member.sockets.len()))
        .collect();
    assert_eq!(sockets, [(false, 2), (false, 1), (false, 0)]);
    let names: Vec<_> = members("lobby", mask(&["username"])).await;
    assert!(
        names
            .iter()
            .all(|member| !member.online && member.connected_at.is_none())
    );
    assert_eq!(members("nowhere", None).await, []);
    stage.strike().await;
}

#[tokio::test]
async fn counts() {
    let stage = company().await;
    let replica = stage.replica(Settings::default()).await;
    let got = replica
        .client()
        .await
        .get_stats(GetStatsRequest {})
        .await
        .unwrap()
        .into_inner();
    let of = |namespace: &str, connections, users, rooms| NamespaceStats {
        namespace: namespace.to_owned(),
        connections,
        users,
        rooms,
    };
    let at = |gateway: &str, connections, users, rooms| GatewayStats {
        gateway: gateway.to_owned(),
        connections,
        users,
        rooms,
    };
    let wanted = GetStatsResponse {
        connections: 4,
        users: 2,
        rooms: 2,
        namespaces: vec![of("/", 1, 1, 0), of("/chat", 3, 2, 2)],
        gateways: vec![at("gate-1", 2, 2, 1), at("gate-2", 2, 1, 2)],
    };
    assert_eq!(got, wanted);
    stage.strike().await;
}

#[tokio::test]
async fn ten_thousand_members_by_page() {
    let mut stage = Stage::set(GRACE).await;
    for some in 0..10 {
        let users = some * 1_000..(some + 1) * 1_000;
        let deltas = users.flat_map(|n| {
            let (socket, user) = (format!("s{n}"), format!("user-{n:05}"));
            [
                connected(&socket, &user),
                joined(&socket, "stadium"),
                joined(&socket, &format!("room-{n}")),
            ]
        });
        stage.report("gate-1", deltas.collect()).await;
    }
    // Pages may be asked of different replicas.
    let replicas = [
        stage.replica(Settings::default()).await,
        stage.replica(Settings::default()).await,
    ];
    let mut clients = [replicas[0].client().await, replicas[1].client().await];

    let mut request = ListRoomMembersRequest {
        namespace: chat(),
        room: "stadium".to_owned(),
        page_size: 997,
        ..ListRoomMembersRequest::default()
    };
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = clients[pages % 2]
            .list_room_members(request.clone())
            .await
            .unwrap()
            .into_inner();
        assert!(page.members.len() <= 997);
        assert!(page.members.iter().all(|member| member.online));
        seen.extend(page.members.into_iter().map(|member| member.user_id));
        pages += 1;
        // Others come and go between the pages.
        let deltas = vec![
            disconnected(&format!("x{}", pages - 1)),
            connected(&format!("x{pages}"), &format!("guest-{pages}")),
            joined(&format!("x{pages}"), "stadium"),
        ];
        stage.report("gate-1", deltas).await;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    let stayed: Vec<_> = seen.iter().filter(|user| user.starts_with("user-")).collect();
    assert_eq!(stayed.len(), 10_000);
    assert_eq!(stayed.into_iter().collect::<BTreeSet<_>>().len(), 10_000);
    assert!(pages >= 11);

    let client = &mut clients[0];
    let (mut users, mut token) = (BTreeSet::new(), String::new());
    loop {
        let request = ListOnlineUsersRequest {
            namespace: chat(),
            page_size: 1_000,
            page_token: token,
            read_mask: None,
        };
        let page = client.list_online_users(request).await.unwrap().into_inner();
        users.extend(page.users.into_iter().map(|user| user.user_id));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(
        users.iter().filter(|user| user.starts_with("user-")).count(),
        10_000
    );

    let (mut rooms, mut pages, mut token) = (BTreeSet::new(), 0, String::new());
    loop {
        let request = ListRoomsRequest {
            namespace: chat(),
            page_size: 0,
            page_token: token,
        };
        let page = client.list_rooms(request).await.unwrap().into_inner();
        assert!(page.rooms.len() <= 100, "the default");
        rooms.extend(page.rooms.into_iter().map(|room| room.room));
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(rooms.len(), 10_001);
    assert!(pages >= 101);

    // With sockets a page is as large as without.
    let request = ListOnlineUsersRequest {
        namespace: chat(),
        page_size: 200,
        page_token: String::new(),
        read_mask: mask(&["*"]),
    };
    let page = client.list_online_users(request).await.unwrap().into_inner();
    assert_eq!(page.users.len(), 200);
    assert!(
        page.users
            .iter()
            .all(|user| user.online && user.sockets.len() == 1)
    );
    stage.strike().await;
}

#[tokio::test]
async fn bad_input_names_the_field() {
    let stage = company().await;
    let replica = stage.replica(Settings::default()).await;
    let mut client = replica.client().await;
    let long = "x".repeat(129);
    let mut got = Vec::new();
    macro_rules! bad {
        ($field:literal, $call:ident($request:ident: $($given:ident),*)) => {
            #[allow(clippy::needless_update, reason = "some requests have no more fields")]
            let request = $request { $($given: $given.clone(),)* ..$request::default() };
            got.push(($field, client.$call(request).await.map(|_| ()).unwrap_err()));
        };
    }
    let [namespace, user_id, room] = ["/chat", "ada", "attic"].map(str::to_owned);
    for namespace in ["", "chat", &format!("/{long}"), "/a\nb"].map(str::to_owned) {
        bad!("namespace", get_user(GetUserRequest: namespace, user_id));
        bad!("namespace", batch_get_users(BatchGetUsersRequest: namespace));
        bad!("namespace", is_online(IsOnlineRequest: namespace, user_id));
        bad!("namespace", list_online_users(ListOnlineUsersRequest: namespace));
        bad!("namespace", list_room_members(ListRoomMembersRequest: namespace, room));
        bad!("namespace", list_user_rooms(ListUserRoomsRequest: namespace, user_id));
        bad!("namespace", get_room(GetRoomRequest: namespace, room));
        bad!("namespace", list_rooms(ListRoomsRequest: namespace));
        bad!("namespace", watch(WatchRequest: namespace));
    }
    for user_id in ["", &long, "a\u{7f}"].map(str::to_owned) {
        bad!("user_id", get_user(GetUserRequest: namespace, user_id));
        bad!("user_id", is_online(IsOnlineRequest: namespace, user_id));
        bad!("user_id", list_user_rooms(ListUserRoomsRequest: namespace, user_id));
        let user_ids = vec!["ada".to_owned(), user_id];
        bad!("user_ids[1]", batch_get_users(BatchGetUsersRequest: namespace, user_ids));
        bad!("user_ids[1]", watch(WatchRequest: namespace, user_ids));
    }
    let user_ids = vec!["ada".to_owned(); 1_001];
    bad!("user_ids", batch_get_users(BatchGetUsersRequest: namespace, user_ids));
    bad!("user_ids", watch(WatchRequest: namespace, user_ids));
    for room in ["", &long, "\u{1}all"].map(str::to_owned) {
        bad!("room", get_room(GetRoomRequest: namespace, room));
        bad!("room", list_room_members(ListRoomMembersRequest: namespace, room));
        let rooms = vec!["lobby".to_owned(), room];
        bad!("rooms[1]", watch(WatchRequest: namespace, rooms));
    }
    let rooms = vec!["user:ada".to_owned()];
    bad!("rooms[0]", watch(WatchRequest: namespace, rooms));
    let rooms = vec!["lobby".to_owned(); 1_001];
    bad!("rooms", watch(WatchRequest: namespace, rooms));
    for path in ["password", "", "sockets.ip"] {
        let read_mask = mask(&["online", path]);
        bad!("read_mask", get_user(GetUserRequest: namespace, user_id, read_mask));
        bad!("read_mask", batch_get_users(BatchGetUsersRequest: namespace, read_mask));
        bad!("read_mask", list_online_users(ListOnlineUsersRequest: namespace, read_mask));
        bad!("read_mask", list_room_members(ListRoomMembersRequest: namespace, room, read_mask));
    }
    for page_size in [-1, 1_001, i32::MIN, i32::MAX] {
        bad!("page_size", list_online_users(ListOnlineUsersRequest: namespace, page_size));
        bad!("page_size", list_room_members(ListRoomMembersRequest: namespace, room, page_size));
        bad!("page_size", list_rooms(ListRoomsRequest: namespace, page_size));
    }
    // A good token, but not here.
    let request = ListRoomMembersRequest {
        namespace: chat(),
        room: "lobby".to_owned(),
        page_size: 1,
        ..ListRoomMembersRequest::default()
    };
    let page = client.list_room_members(request).await.unwrap();
    let good = page.into_inner().next_page_token;
    assert_ne!(good, "");
    for page_token in ["x", "é", &good, &good[1..], &format!("{good}AAAA")].map(str::to_owned) {
        bad!("page_token", list_online_users(ListOnlineUsersRequest: namespace, page_token));
        bad!("page_token", list_room_members(ListRoomMembersRequest: namespace, room, page_token));
        bad!("page_token", list_rooms(ListRoomsRequest: namespace, page_token));
        let resume_token = page_token;
        bad!("resume_token", watch(WatchRequest: namespace, resume_token));
    }
    for (field, status) in got {
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
        assert!(
            status.message().starts_with(&format!("{field}: ")),
            "{field}: {}",
            status.message()
        );
    }
    stage.strike().await;
}

#[tokio::test]
async fn deadlines_end_calls() {
    let stage = company().await;
    let replica = stage.replica(Settings::default()).await;
    let mut client = replica.client().await;
    stage.store.set(Mode::Stalls);
    let mut request = Request::new(GetStatsRequest {});
    request.set_timeout(Duration::from_millis(300));
    let status = client.get_stats(request).await.unwrap_err();
    // The client's own timer says the latter.
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
    let mut request = Request::new(WatchRequest {
        namespace: chat(),
        ..WatchRequest::default()
    });
    request.set_timeout(Duration::from_millis(300));
    let status = client.watch(request).await.unwrap_err();
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
    stage.store.set(Mode::There);
    stage.strike().await;
}
