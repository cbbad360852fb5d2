"""Every call of the presence API (CONTRACT section 7) with grpcio, which learns the messages by reflection.

Environment:
FANFARE_PRESENCE   addresses of the replicas, comma-separated; calls go round
FANFARE_TRUTH      JSON: {"sockets": n, "rooms": {name: members}, "gateways": [[sockets, users, rooms]]}: what the
                   clients hold, all in /chat and each socket a user of its own, and what each gateway says it holds
"""

import itertools
import json
import os
import time

import grpc

from presence_replica import Replica

TRUTH = json.loads(os.environ["FANFARE_TRUTH"])
# CONTRACT section 10, G6.
HEALED_WITHIN = 15
NAMESPACE = "/chat"


REPLICAS = [Replica(address) for address in os.environ["FANFARE_PRESENCE"].split(",")]
ROUND = itertools.cycle(REPLICAS)
CALLED = set()


def ask(method, /, **fields):
    CALLED.add(method)
    return next(ROUND).call("fanfare.v1.Presence", method, **fields)


def refused(method, code, **fields):
    try:
        ask(method, **fields)
    except grpc.RpcError as error:
        assert error.code() == code, error
    else:
        raise AssertionError(f"{method} {fields} was answered")


def pages(method, of, page_size, **fields):
    """All of a list, page by page, each page from another replica."""
    found, token = [], ""
    while True:
        page = ask(method, namespace=NAMESPACE, page_size=page_size, page_token=token, **fields)
        assert len(getattr(page, of)) <= page_size
        found += getattr(page, of)
        token = page.next_page_token
        if not token:
            return found


def until_healed():
    """Until counts and rooms are what the gateways hold; members within their grace are none of that."""
    until = time.monotonic() + HEALED_WITHIN
    while True:
        stats = ask("GetStats")
        counts = {"sockets": stats.connections, "users": stats.users}
        counts["rooms"] = {room.room: room.users_count for room in pages("ListRooms", "rooms", 7)}
        counts["gateways"] = sorted([it.connections, it.users, it.rooms] for it in stats.gateways)
        if counts == TRUTH | {"users": TRUTH["sockets"], "gateways": sorted(TRUTH["gateways"])}:
            print(f"# equal: {json.dumps(counts)}")
            return stats
        assert time.monotonic() < until, f"presence has not healed: {counts}, not {TRUTH}"
        time.sleep(0.1)


def stats_and_rooms():
    stats = until_healed()
    chat = next(part for part in stats.namespaces if part.namespace == NAMESPACE)
    assert (chat.connections, chat.rooms) == (TRUTH["sockets"], len(TRUTH["rooms"])), stats
    assert stats.rooms == len(TRUTH["rooms"]), stats
    assert sum(gateway.connections for gateway in stats.gateways) == TRUTH["sockets"], stats
    rooms = pages("ListRooms", "rooms", 7)
    assert all(room.sockets_count == room.users_count for room in rooms), rooms
    for name, members in TRUTH["rooms"].items():
        assert ask("GetRoom", namespace=NAMESPACE, room=name).users_count == members
    assert ask("GetRoom", namespace=NAMESPACE, room="nobody's").users_count == 0


def lists_by_page():
    """Answers somebody who is online."""
    began = time.monotonic()
    online = pages("ListOnlineUsers", "users", 500)
    assert len(online) == TRUTH["sockets"], len(online)
    assert len({user.user_id for user in online}) == TRUTH["sockets"]
    assert all(user.online and not user.sockets for user in online)
    for name, expected in TRUTH["rooms"].items():
        members = pages("ListRoomMembers", "members", 333, room=name)
        assert len(members) == len({member.user_id for member in members}) == expected, (name, len(members))
        assert {member.user_id for member in members} <= {user.user_id for user in online}
    print(f"# lists of {TRUTH} by page in {time.monotonic() - began:.2f} s")
    return online


def users(online):
    some = online[len(online) // 2]
    whole = ask("GetUser", namespace=NAMESPACE, user_id=some.user_id)
    assert (whole.online, whole.username) == (True, some.username), whole
    (socket,) = whole.sockets
    assert socket.gateway and socket.socket_id and socket.ip == "127.0.0.1" and socket.namespace == NAMESPACE, socket
    named = ask("GetUser", namespace=NAMESPACE, user_id=some.user_id, read_mask={"paths": ["username"]})
    assert named.username == some.username and not named.sockets and not named.online, named
    assert ask("IsOnline", namespace=NAMESPACE, user_id=some.user_id).online
    assert not ask("IsOnline", namespace=NAMESPACE, user_id="nobody").online
    wanted = [user.user_id for user in online[:999]] + ["nobody"]
    batch = ask("BatchGetUsers", namespace=NAMESPACE, user_ids=wanted).users
    assert [user.user_id for user in batch] == wanted
    assert [user.online for user in batch] == [True] * (len(wanted) - 1) + [False]
    rooms = set()
    for user in online[:50]:
        rooms |= set(ask("ListUserRooms", namespace=NAMESPACE, user_id=user.user_id).rooms)
    assert rooms and rooms <= TRUTH["rooms"].keys(), rooms


def watch():
    room = max(TRUTH["rooms"], key=TRUTH["rooms"].get)
    stream = ask("Watch", namespace=NAMESPACE, rooms=[room])
    members = set()
    for response in stream:
        part = response.snapshot
        members |= {member.user_id for watched in part.rooms for member in watched.members}
        if part.last:
            break
    assert len(members) == TRUTH["rooms"][room], len(members)
    token = response.resume_token
    stream.cancel()
    assert token
    # At the other replica it goes on without a snapshot.
    stream = ask("Watch", namespace=NAMESPACE, rooms=[room], resume_token=token)
    assert next(stream).WhichOneof("event") == "resumed"
    stream.cancel()


def bad_input():
    bad = grpc.StatusCode.INVALID_ARGUMENT
    refused("GetUser", bad, namespace="chat", user_id="ada")
    refused("GetUser", bad, namespace=NAMESPACE, user_id="")
    refused("ListOnlineUsers", bad, namespace=NAMESPACE, page_size=1001)
    refused("ListRoomMembers", bad, namespace=NAMESPACE, room="r", page_token="no token")


def throughput(online):
    """For the record; what is measured is this client as much as the service."""
    began, count = time.monotonic(), 0
    for user in itertools.islice(itertools.cycle(online), 1000):
        ask("IsOnline", namespace=NAMESPACE, user_id=user.user_id)
        count += 1
    print(f"# {count / (time.monotonic() - began):.0f} queries a second, one after the other")


for replica in REPLICAS:
    served = replica.reflected.get_services()
    assert "fanfare.v1.Presence" in served, served
    health = replica.call("grpc.health.v1.Health", "Check", service="fanfare.v1.Presence")
    assert health.status == 1, health
stats_and_rooms()
everybody = lists_by_page()
users(everybody)
watch()
bad_input()
throughput(everybody)
methods = REPLICAS[0].pool.FindServiceByName("fanfare.v1.Presence").methods_by_name.keys()
assert CALLED == set(methods), set(methods) - CALLED
print(f"ok - {len(CALLED)} calls")
