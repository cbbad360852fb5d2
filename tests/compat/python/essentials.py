"""The essentials with the stock python-socketio client.

Usage: essentials.py (websocket | polling | upgrade)
Environment: FANFARE_URL, JWT_SECRET, FANFARE_PRESENCE__GRACE_SECONDS.
Prints TAP; ends with 1 at the first failure.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import secrets
import sys
import time
import traceback

import socketio

URL = os.environ["FANFARE_URL"]
SECRET = os.environ["JWT_SECRET"].encode()
GRACE = float(os.environ.get("FANFARE_PRESENCE__GRACE_SECONDS", "5"))
WITHIN = 20
MODE = sys.argv[1]
TRANSPORTS = {"websocket": ["websocket"], "polling": ["polling"], "upgrade": ["polling", "websocket"]}[MODE]


def unique(prefix):
    return f"{prefix}-{secrets.token_hex(6)}"


def token(**claims):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    body = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"exp": int(time.time()) + 3600, **claims})
    signature = base64.urlsafe_b64encode(hmac.new(SECRET, body, hashlib.sha256).digest()).rstrip(b"=")
    return (body + b"." + signature).decode()


class User:
    """A client in some namespaces; everything it hears is kept until somebody asks for it."""

    def __init__(self, *namespaces, auth=None, **options):
        self.namespaces = list(namespaces) or ["/chat"]
        self.id = unique("user")
        self.auth = auth or {"token": token(sub=self.id, username=f"name of {self.id}")}
        self.journal = []
        self.news = asyncio.Condition()
        self.sio = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.2, **options)
        for namespace in self.namespaces:
            for event in ("connect", "disconnect", "connect_error"):
                self.sio.on(event, self.noting(f"({event})", namespace), namespace=namespace)
            self.sio.on("*", self.any(namespace), namespace=namespace)

    def noting(self, name, namespace):
        async def note(*args):
            await self.note(name, namespace, args)

        return note

    def any(self, namespace):
        async def note(event, *args):
            await self.note(event, namespace, args)

        return note

    async def note(self, event, namespace, args):
        async with self.news:
            self.journal.append((event, namespace, args))
            self.news.notify_all()

    async def connect(self):
        await self.sio.connect(
            URL, transports=TRANSPORTS, auth=self.auth, namespaces=self.namespaces, wait_timeout=WITHIN
        )
        for namespace in self.namespaces:
            await self.heard("(connect)", namespace=namespace)
        return self

    async def heard(self, event, fits=lambda *args: True, namespace=None):
        """The oldest event of this name that fits and was not asked for before; waits for it."""
        namespace = namespace or self.namespaces[0]

        def find():
            for at, (name, where, args) in enumerate(self.journal):
                if name == event and where == namespace and fits(*args):
                    return at
            return None

        async with self.news:
            try:
                await asyncio.wait_for(self.news.wait_for(lambda: find() is not None), WITHIN)
            except asyncio.TimeoutError:
                raise AssertionError(f"no {event!r} that fits; heard: {self.journal}") from None
            return self.journal.pop(find())[2]

    def unheard(self, event):
        return [args for name, _, args in self.journal if name == event]

    async def ask(self, event, payload=None, namespace=None):
        return await self.sio.call(event, payload, namespace=namespace or self.namespaces[0], timeout=WITHIN)

    async def ok(self, event, payload=None, namespace=None):
        answer = await self.ask(event, payload, namespace)
        assert answer.get("status") == "ok", f"{event}: {answer}"
        return answer


TESTS = []


def scenario(run):
    TESTS.append(run)
    return run


@scenario
async def connects_with_the_transport_asked_for(users):
    ada = await users()
    assert ada.sio.transport() == ("polling" if MODE == "polling" else "websocket")
    assert "time" in await ada.ok("ping", {"any": "thing"})


@scenario
async def namespaces_share_a_connection(users):
    ada = await users("/", "/chat")
    assert ada.sio.get_sid("/") != ada.sio.get_sid("/chat")
    room = unique("room")
    for namespace in ("/", "/chat"):
        await ada.ok("join-room", {"roomId": room}, namespace)
    await ada.ok("message", {"roomId": room, "content": "chat"}, "/chat")
    await ada.ok("message", {"roomId": room, "content": "root"}, "/")
    assert (await ada.heard("message", namespace="/"))[0]["content"] == "root"
    assert (await ada.heard("message", namespace="/chat"))[0]["content"] == "chat"


@scenario
async def a_bad_token_is_refused(users):
    mallory = User("/chat", auth={"token": "nonsense"}, reconnection=False)
    try:
        await mallory.connect()
    except socketio.exceptions.ConnectionError:
        pass
    else:
        raise AssertionError("connected with a bad token")
    finally:
        await mallory.sio.disconnect()
    (error,) = await mallory.heard("(connect_error)")
    assert error == {"message": "Invalid token", "data": {"code": "UNAUTHORIZED"}}, error


@scenario
async def an_unknown_namespace_is_refused(users):
    lost = User("/no-such", reconnection=False)
    try:
        await lost.connect()
    except socketio.exceptions.ConnectionError:
        pass
    else:
        raise AssertionError("connected to an unknown namespace")
    finally:
        await lost.sio.disconnect()
    (error,) = await lost.heard("(connect_error)")
    assert error["message"] == "Invalid namespace", error


@scenario
async def rooms_messages_and_history(users):
    room = unique("room")
    ada, bob = await users(), await users()
    assert (await ada.ok("join-room", {"roomId": room}))["usersCount"] == 1
    assert (await bob.ok("join-room", {"roomId": room}))["usersCount"] == 2
    (presence,) = await ada.heard("room-presence", lambda p: p["userId"] == bob.id)
    assert presence == {"roomId": room, "usersCount": 2, "userId": bob.id, "action": "joined"}, presence
    sent = [await ada.ok("message", {"roomId": room, "content": f"{n} 🎺"}) for n in range(5)]
    for user in (ada, bob):
        got = [(await user.heard("message"))[0] for _ in sent]
        assert [m["id"] for m in got] == [m["id"] for m in sent]
        assert [m["content"] for m in got] == [f"{n} 🎺" for n in range(5)]
    page = await bob.ok("getMessages", {"roomId": room, "limit": 2})
    assert [m["id"] for m in page["messages"]] == [m["id"] for m in sent[3:]] and page["hasMore"]
    mark = await bob.ok("markMessagesRead", {"roomId": room, "messageId": sent[2]["id"]})
    assert mark["unread"] == 2, mark
    assert (await ada.heard("messagesRead"))[0]["userId"] == bob.id
    await ada.sio.emit("typing", {"roomId": room}, namespace="/chat")
    assert (await bob.heard("user-typing"))[0]["isTyping"] is True
    await bob.ok("leave-room", {"roomId": room})
    (left,) = await ada.heard("user-left")
    assert left == {"roomId": room, "userId": bob.id, "username": f"name of {bob.id}"}, left


@scenario
async def a_retry_is_delivered_once(users):
    room = unique("room")
    ada = await users()
    await ada.ok("join-room", {"roomId": room})
    payload = {"roomId": room, "content": "once", "clientId": unique("client")}
    first, second = await ada.ok("message", payload), await ada.ok("message", payload)
    assert first["id"] == second["id"]
    await ada.ok("message", {"roomId": room, "content": "end"})
    await ada.heard("message", lambda m: m["content"] == "end")
    assert len(ada.unheard("message")) == 1


@scenario
async def errors_come_in_the_ack_and_as_event(users):
    ada = await users()
    answer = await ada.ask("join-room", {"roomId": ""})
    assert answer["status"] == "error" and answer["code"] == "VALIDATION_ERROR", answer
    assert [d["path"] for d in answer["details"]] == ["roomId"], answer
    await ada.sio.emit("join-room", {"roomId": ""}, namespace="/chat")
    assert (await ada.heard("error"))[0] == answer
    assert (await ada.ask("no-such-event", {}))["code"] == "NO_HANDLER"


@scenario
async def binary_arguments(users):
    ada = await users()
    await ada.ok("ping", {"deep": [b"\x00\x01\xff" * 1000], "text": "ü"})
    await ada.ok("ping", b"x" * 600_000)
    assert (await ada.ask("upload", b"\x00" * 1000))["code"] == "NO_HANDLER"


@scenario
async def twenty_clients_see_one_order(users):
    room = unique("room")
    everybody = [await users() for _ in range(20)]
    for user in everybody:
        await user.ok("join-room", {"roomId": room})
    # This client takes at most 16 packets from one polling answer, so there the rounds stay below.
    rounds = [range(10)] if MODE != "polling" else [[n] for n in range(10)]
    for numbers in rounds:
        await asyncio.gather(
            *(u.ok("message", {"roomId": room, "content": f"{s}:{n}"}) for s, u in enumerate(everybody[:5]) for n in numbers)
        )
    orders = [[(await u.heard("message"))[0]["id"] for _ in range(50)] for u in everybody]
    assert all(order == orders[0] for order in orders)
    assert len(set(orders[0])) == 50


@scenario
async def comes_back_after_its_transport_was_cut(users):
    room = unique("room")
    ada, bob = await users(), await users()
    for user in (ada, bob):
        await user.ok("join-room", {"roomId": room})
    before = bob.sio.get_sid("/chat")
    if MODE == "polling":
        await bob.sio.eio.http.close()
    else:
        await bob.sio.eio.ws.close()
    await bob.heard("(connect)")
    assert bob.sio.get_sid("/chat") != before
    await bob.ok("join-room", {"roomId": room})
    await ada.ok("message", {"roomId": room, "content": "again"})
    await bob.heard("message")


@scenario
async def a_client_that_leaves_is_announced(users):
    room = unique("room")
    ada, bob = await users(), await users()
    for user in (ada, bob):
        await user.ok("join-room", {"roomId": room})
    await bob.sio.disconnect()
    assert (await ada.heard("user-left"))[0]["userId"] == bob.id


async def main():
    print(f"1..{len(TESTS)}")
    for number, run in enumerate(TESTS, 1):
        made = []

        async def users(*namespaces):
            user = User(*namespaces)
            made.append(user)
            return await user.connect()

        name = f"{number} - {run.__name__.replace('_', ' ')} ({MODE})"
        try:
            await asyncio.wait_for(run(users), 120)
            print(f"ok {name}", flush=True)
        except Exception:  # whatever it was, it is the failure to tell
            print(f"not ok {name}")
            print("".join(f"  # {line}\n" for line in traceback.format_exc().splitlines()))
            return 1
        finally:
            for user in made:
                if user.sio.connected:
                    await user.sio.disconnect()
    return 0


sys.exit(asyncio.run(main()))
