"""The publisher API by stubs that grpcio-tools makes of the published .proto, as an application would.

Environment:
FANFARE_URL        where clients connect
FANFARE_PUBLISHER  HOST:PORT of the publisher's gRPC
FANFARE_PROTO      directory that fanfare/v1/publisher.proto lies under
FANFARE_API__KEY   the API's key; FANFARE_READ_KEY: one for reading only
"""

import asyncio
import json
import os
import sys
import tempfile
from importlib.resources import files

import grpc
import socketio
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_tools import protoc

made = tempfile.TemporaryDirectory()
arguments = [
    f"--proto_path={os.environ['FANFARE_PROTO']}",
    f"--proto_path={files('grpc_tools') / '_proto'}",
    f"--python_out={made.name}",
    f"--grpc_python_out={made.name}",
    "fanfare/v1/publisher.proto",
]
assert protoc.main(["protoc", *arguments]) == 0
sys.path.insert(0, made.name)

from fanfare.v1 import publisher_pb2 as api  # noqa: E402
from fanfare.v1 import publisher_pb2_grpc  # noqa: E402

channel = grpc.insecure_channel(os.environ["FANFARE_PUBLISHER"])
publisher = publisher_pb2_grpc.PublisherStub(channel)
WITH_KEY = {"metadata": (("authorization", f"Bearer {os.environ['FANFARE_API__KEY']}"),), "timeout": 30}
READ_ONLY = {"metadata": (("authorization", f"Bearer {os.environ['FANFARE_READ_KEY']}"),), "timeout": 30}


def refused(call, request, options, code):
    try:
        call(request, **options)
    except grpc.RpcError as error:
        assert error.code() == code, error
        details = dict(error.trailing_metadata()).get("fanfare-error-bin")
        return json.loads(details)
    raise AssertionError(f"{code} was expected")


def text(value):
    return api.Argument(json=json.dumps(value))


async def main():
    served = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert "fanfare.v1.Publisher" in served, served

    client = socketio.AsyncClient()
    heard = asyncio.Queue()

    @client.on("news", namespace="/chat")
    async def news(*args):
        await heard.put(args)

    @client.on("question", namespace="/chat")
    async def question(what):
        return what, b"\x01\x02"

    await client.connect(os.environ["FANFARE_URL"], namespaces=["/chat"])
    sid = client.get_sid("/chat")
    run = asyncio.to_thread

    emit = api.EmitRequest(namespace="/chat", sockets=[sid], event="news", args=[text({"a": [1]}), api.Argument(binary=b"xyz")])
    emitted = await run(publisher.Emit, emit, **WITH_KEY)
    assert "-" in emitted.offset and emitted.id, emitted
    assert await asyncio.wait_for(heard.get(), 30) == ({"a": [1]}, b"xyz")

    ask = api.EmitWithAckRequest(
        emit=api.EmitRequest(namespace="/chat", sockets=[sid], event="question", args=[text("why")]), timeout_ms=20000
    )
    asked = await run(publisher.EmitWithAck, ask, **WITH_KEY)
    assert len(asked.acks) == 1 and not asked.missing, asked
    assert asked.acks[0].args == [text("why"), api.Argument(binary=b"\x01\x02")] or asked.acks[0].args[1].binary, asked

    joined = await run(publisher.JoinRooms, api.JoinRoomsRequest(namespace="/chat", sockets=[sid], rooms=["hall"]), **WITH_KEY)
    assert joined.sockets == 1
    batch = api.BatchRequest(
        emits=[
            api.EmitRequest(namespace="/chat", rooms=["hall"], event="news", args=[text(1)]),
            api.EmitRequest(namespace="/chat", rooms=["hall"]),
            api.EmitRequest(namespace="/chat", rooms=["hall"], event="news", args=[text(2)]),
        ]
    )
    results = (await run(publisher.Batch, batch, **WITH_KEY)).results
    assert [result.WhichOneof("outcome") for result in results] == ["ok", "error", "ok"], results
    assert results[1].error.details[0].path == "emits.1.event", results
    assert [(await asyncio.wait_for(heard.get(), 30))[0] for _ in range(2)] == [1, 2]

    page = await run(publisher.FetchSockets, api.FetchSocketsRequest(namespace="/chat", rooms=["hall"]), **READ_ONLY)
    assert [socket.id for socket in page.sockets] == [sid] and page.sockets[0].connected_at.seconds > 0, page

    await client.emit("message", {"roomId": "hall", "content": "hello"}, namespace="/chat")
    for _ in range(100):
        history = await run(publisher.History, api.HistoryRequest(namespace="/chat", room="hall"), **READ_ONLY)
        if history.messages:
            break
        await asyncio.sleep(0.1)
    assert json.loads(history.messages[0])["content"] == "hello", history

    left = await run(publisher.LeaveRooms, api.LeaveRoomsRequest(namespace="/chat", sockets=[sid], rooms=["hall"]), **WITH_KEY)
    assert left.sockets == 1

    error = refused(publisher.Emit, api.EmitRequest(namespace="chat", event="e"), WITH_KEY, grpc.StatusCode.INVALID_ARGUMENT)
    assert error["code"] == "VALIDATION_ERROR" and error["details"][0]["path"] == "namespace", error
    refused(publisher.Emit, emit, {"timeout": 30}, grpc.StatusCode.UNAUTHENTICATED)
    error = refused(publisher.Emit, emit, READ_ONLY, grpc.StatusCode.PERMISSION_DENIED)
    assert "publish" in error["message"], error

    ended = asyncio.Event()
    client.on("disconnect", lambda *_: ended.set(), namespace="/chat")
    gone = api.DisconnectRequest(namespace="/chat", sockets=[sid], mode=api.DisconnectRequest.NAMESPACE)
    assert (await run(publisher.Disconnect, gone, **WITH_KEY)).sockets == 1
    await asyncio.wait_for(ended.wait(), 30)
    await client.disconnect()


asyncio.run(main())
