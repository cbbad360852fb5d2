"""The presence API by stubs that grpcio-tools makes of the published .proto, as an application would.

Environment:
FANFARE_PRESENCE   addresses of the replicas, comma-separated
FANFARE_PROTO      directory that fanfare/v1/presence_api.proto lies under
FANFARE_MEMBERS    how many members the room "hall" of /chat has
"""

import os
import sys
import tempfile
from importlib.resources import files

import grpc
from grpc_tools import protoc

MEMBERS = int(os.environ["FANFARE_MEMBERS"])

made = tempfile.TemporaryDirectory()
arguments = [
    f"--proto_path={os.environ['FANFARE_PROTO']}",
    f"--proto_path={files('grpc_tools') / '_proto'}",
    f"--python_out={made.name}",
    f"--grpc_python_out={made.name}",
    "fanfare/v1/presence_api.proto",
]
assert protoc.main(["protoc", *arguments]) == 0
sys.path.insert(0, made.name)

from fanfare.v1 import presence_api_pb2 as api  # noqa: E402
from fanfare.v1 import presence_api_pb2_grpc  # noqa: E402

for address in os.environ["FANFARE_PRESENCE"].split(","):
    presence = presence_api_pb2_grpc.PresenceStub(grpc.insecure_channel(address))
    room = presence.GetRoom(api.GetRoomRequest(namespace="/chat", room="hall"), timeout=20)
    assert room.users_count == MEMBERS, room
    page = presence.ListRoomMembers(
        api.ListRoomMembersRequest(namespace="/chat", room="hall", page_size=7), timeout=20
    )
    assert len(page.members) == 7 and page.next_page_token, page
    user = page.members[0].user_id
    online = presence.IsOnline(api.IsOnlineRequest(namespace="/chat", user_id=user), timeout=20)
    assert online.online, online
    changes = presence.Watch(api.WatchRequest(namespace="/chat", rooms=["hall"]), timeout=20)
    assert next(changes).WhichOneof("event") == "snapshot"
    changes.cancel()
print("ok")
