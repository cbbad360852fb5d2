"""Handles events of `/chat` over NATS: `pip install nats-py`, then `NATS_URL=nats://localhost:4222 python handler.py`.

Run as many as you like: each event goes to one of them.
"""

import asyncio
import base64
import json
import logging
import os

import nats


async def order(event):
    """`order {item}`: the caller joins the order's room, where everybody hears of it."""
    item, user = event["args"][0]["item"], event["user"]
    room = f"order-{item}"
    return {
        "ack": [{"status": "ok", "room": room}],
        "join": [room],
        "emit": [{"rooms": [room], "event": "order-placed", "args": [{"item": item, "by": user["username"]}]}],
    }


async def upload(event):
    """`upload <bytes>`: answers how many they are, and the bytes in reverse."""
    data = base64.b64decode(event["args"][0]["$binary"])
    return {"ack": [len(data), {"$binary": base64.b64encode(data[::-1]).decode()}]}


def answering(handle):
    async def answer(message):
        try:
            answer = await handle(json.loads(message.data))
        except Exception:
            logging.exception("%s", message.subject)
            answer = {"ack": [{"status": "error", "code": "INTERNAL", "message": "Something went wrong"}]}
        await message.respond(json.dumps(answer).encode())

    return answer


async def main():
    connection = await nats.connect(os.environ.get("NATS_URL", "nats://localhost:4222"))
    for handle in (order, upload):
        await connection.subscribe(f"fanfare.app.chat.{handle.__name__}", queue="handlers", cb=answering(handle))
    await connection.flush()
    print("handling", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
