"""A reconnect within the grace: the room hears neither of the leaving nor of the joining; one after it, of both.

Environment: FANFARE_URLS (two gateways, comma-separated), JWT_SECRET, FANFARE_PRESENCE__GRACE_SECONDS.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import time

import socketio

HERE, THERE = os.environ["FANFARE_URLS"].split(",")
SECRET = os.environ["JWT_SECRET"].encode()
GRACE = float(os.environ["FANFARE_PRESENCE__GRACE_SECONDS"])
WITHIN = 20
NAMESPACE, ROOM = "/chat", "room"


def token(user):
    def part(value):
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    body = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"exp": int(time.time()) + 3600, "sub": user})
    signature = base64.urlsafe_b64encode(hmac.new(SECRET, body, hashlib.sha256).digest()).rstrip(b"=")
    return (body + b"." + signature).decode()


async def member(url, user):
    client = socketio.AsyncClient(reconnection=False)
    client.heard = []
    client.on("*", lambda event, *args: client.heard.append((event, args)), namespace=NAMESPACE)
    await client.connect(
        url, transports=["websocket"], auth={"token": token(user)}, namespaces=[NAMESPACE], wait_timeout=WITHIN
    )
    joined = await client.call("join-room", {"roomId": ROOM}, namespace=NAMESPACE, timeout=WITHIN)
    assert joined["status"] == "ok" and joined["usersCount"] == 2 - (user == "observer"), joined
    return client


async def lost(client):
    """As when a cable is pulled: no packet says goodbye."""
    await client.eio.ws.close()


def about(client, user):
    events = ("room-presence", "user-left", "user-online", "user-offline")
    told = [(event, args[0]) for event, args in client.heard if event in events]
    return [args.get("action", event) for event, args in told if args["userId"] == user]


async def until(what, holds):
    end = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.05)


async def main():
    observer = await member(HERE, "observer")
    user = await member(HERE, "user")
    await until("the first join", lambda: about(observer, "user") == ["joined", "user-online"])
    for url in (THERE, HERE, THERE):
        await lost(user)
        await asyncio.sleep(GRACE / 4)
        user = await member(url, "user")
        await until("the joiner hears of itself", lambda: "joined" in about(user, "user"))
    await asyncio.sleep(GRACE * 2)
    assert about(observer, "user") == ["joined", "user-online"], observer.heard
    assert "user-online" not in about(user, "user"), user.heard
    before = time.time()
    await lost(user)
    heard = ["joined", "user-online", "left", "user-left", "user-offline"]
    await until("the end", lambda: about(observer, "user") == heard)
    offline = next(args[0] for event, args in observer.heard if event == "user-offline")
    assert offline.keys() == {"userId", "username", "lastSeen"}, offline
    assert abs(offline["lastSeen"] / 1000 - before) < GRACE, (offline, before)
    await observer.disconnect()
    print("ok - a reconnect within the grace")


asyncio.run(main())
