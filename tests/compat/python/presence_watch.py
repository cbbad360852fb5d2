"""A watch whose replica is killed goes on at another one: every change once, in order, and no new snapshot.

Environment:
FANFARE_PRESENCE   addresses of two replicas, comma-separated
FANFARE_PID        process of the first one, which this program kills
Meanwhile one user joins and leaves the room "hall" in turn.
"""

import os
import signal

import grpc

from presence_replica import Replica

CHANGES = 20
FIRST, SECOND = (Replica(address) for address in os.environ["FANFARE_PRESENCE"].split(","))


def watch(replica, **fields):
    return replica.call("fanfare.v1.Presence", "Watch", namespace="/chat", rooms=["hall"], **fields)


def kinds(stream, count):
    """What so many changes say, and the token after the last of them."""
    told = []
    while True:
        response = next(stream)
        event = response.WhichOneof("event")
        assert event in ("room", "progress"), response
        if event == "room":
            told.append((response.room.kind, response.room.users_count))
            if len(told) == count:
                return told, response.resume_token


# So that it is known before the first is gone.
SECOND.call("grpc.health.v1.Health", "Check", service="fanfare.v1.Presence")
stream = watch(FIRST)
while not next(stream).snapshot.last:
    pass
told, token = kinds(stream, CHANGES)
os.kill(int(os.environ["FANFARE_PID"]), signal.SIGKILL)
try:
    while True:
        response = next(stream)
        if response.WhichOneof("event") == "room":
            told.append((response.room.kind, response.room.users_count))
        token = response.resume_token
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
stream = watch(SECOND, resume_token=token)
assert next(stream).WhichOneof("event") == "resumed"
more, _ = kinds(stream, CHANGES)
stream.cancel()
told += more
JOINED, LEFT = (1, 1), (2, 0)
expected = [JOINED, LEFT] if told[0] == JOINED else [LEFT, JOINED]
assert told == [expected[at % 2] for at in range(len(told))], told
print(f"ok - {len(told)} changes, of which {len(more)} after the kill")
