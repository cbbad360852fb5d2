"""The same as members.mjs with the stock python-socketio client: same environment, same lines."""

import asyncio
import json
import os
import sys

import socketio

URLS = os.environ["FANFARE_URLS"].split(",")
ROOMS = os.environ["FANFARE_ROOMS"].split(",")
CLIENTS = int(os.environ["FANFARE_CLIENTS"])
MESSAGES = int(os.environ["FANFARE_MESSAGES"])
NAME = os.environ["FANFARE_NAME"]
MODES = os.environ["FANFARE_TRANSPORTS"].split(",")
TRANSPORTS = {"websocket": ["websocket"], "polling": ["polling"], "upgrade": ["polling", "websocket"]}
WITHIN = 60
CHAT = "/chat"


def say(**what):
    print(json.dumps(what), flush=True)


class Member:
    def __init__(self, mode, called):
        self.mode = mode
        self.called = called
        self.acknowledged = []
        self.received = []
        self.open = set(ROOMS)
        self.controlled = asyncio.Event()
        self.ended = asyncio.Event()
        self.leaving = False
        self.sio = socketio.AsyncClient()
        self.sio.on("message", self.message, namespace=CHAT)
        for event in ("connect_error", "disconnect", "error"):
            self.sio.on(event, self.trouble(event), namespace=CHAT)

    def trouble(self, event):
        async def note(*args):
            if not self.leaving:
                say(trouble=f"{self.called} ({self.mode}): {event}: {args}")

        return note

    async def message(self, message):
        room, content = message["roomId"], message["content"]
        if room == "control":
            self.controlled.set()
            return
        self.received.append({"room": room, "id": message["id"], "offset": message["offset"], "content": content})
        if content == "end":
            self.open.discard(room)
        if not self.open:
            self.ended.set()

    async def ok(self, event, payload):
        answer = await self.sio.call(event, payload, namespace=CHAT, timeout=WITHIN)
        assert answer["status"] == "ok", f"{event} {payload}: {answer}"
        return answer

    async def join(self, url):
        await self.sio.connect(url, transports=TRANSPORTS[self.mode], namespaces=[CHAT], wait_timeout=WITHIN)
        for room in [*ROOMS, "control"]:
            await self.ok("join-room", {"roomId": room})

    async def publish(self):
        await self.controlled.wait()
        for number in range(1, MESSAGES + 1):
            room = ROOMS[number % len(ROOMS)]
            content = f"{self.called}:{number}"
            payload = {"roomId": room, "content": content, "clientId": f"{self.called}-{number}"}
            answer = await self.ok("message", payload)
            self.acknowledged.append({"room": room, "id": answer["id"], "offset": answer["offset"], "content": content})

    async def finish(self):
        await self.ended.wait()
        # What comes twice may come a moment later.
        await asyncio.sleep(0.3)
        self.leaving = True
        await self.sio.disconnect()
        say(client=self.called, acknowledged=self.acknowledged, received=self.received)


async def main():
    places = [(url, at, n) for at, url in enumerate(URLS) for n in range(CLIENTS)]
    members = [(Member(MODES[n % len(MODES)], f"{NAME}-{at}-{n}"), url) for url, at, n in places]
    await asyncio.gather(*(member.join(url) for member, url in members))
    say(joined=len(members))
    await asyncio.gather(*(member.publish() for member, _ in members))
    say(published=len(members) * MESSAGES)
    await asyncio.gather(*(member.finish() for member, _ in members))


sys.exit(asyncio.run(main()))
