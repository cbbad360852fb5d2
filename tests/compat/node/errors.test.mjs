// Bad input: the error object, in the ack or as event `error`, and the socket lives on.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, heardOne, isError, ok, refused, unheard, unique, url, user } from "./support.mjs";

const roomId = "room";
const long = "x".repeat(129);
const BAD = [
  ["join-room", {}, ["roomId"]],
  ["join-room", { roomId: "" }, ["roomId"]],
  ["join-room", { roomId: long }, ["roomId"]],
  ["join-room", { roomId: "🎺".repeat(129) }, ["roomId"]],
  ["join-room", { roomId: "a\u0000b" }, ["roomId"]],
  ["join-room", { roomId: 7 }, ["roomId"]],
  ["join-room", { roomId: null }, ["roomId"]],
  ["join-room", { roomId, history: -1 }, ["history"]],
  ["join-room", { roomId, history: "many" }, ["history"]],
  ["leave-room", { roomId: [] }, ["roomId"]],
  ["message", {}, ["content", "roomId"]],
  ["message", { roomId }, ["content"]],
  ["message", { roomId, content: "" }, ["content"]],
  ["message", { roomId, content: "x".repeat(5001) }, ["content"]],
  ["message", { roomId, content: "🎺".repeat(5001) }, ["content"]],
  ["message", { roomId, content: { text: "x" } }, ["content"]],
  ["message", { roomId, content: "x", type: "song" }, ["type"]],
  ["message", { roomId, content: "x", clientId: 5 }, ["clientId"]],
  ["sendMessage", { roomId: long, content: "" }, ["content", "roomId"]],
  ["typing", { roomId, isTyping: "yes" }, ["isTyping"]],
  ["typing", {}, ["roomId"]],
  ["getOrCreateRoom", {}, ["participants"]],
  ["getOrCreateRoom", { participants: "bob" }, ["participants"]],
  ["getOrCreateRoom", { participants: ["bob", 7] }, ["participants.1"]],
  ["getOrCreateRoom", { participants: [""] }, ["participants.0"]],
  ["getMessages", {}, ["roomId"]],
  ["markMessagesRead", {}, ["messageId", "roomId"]],
  ["markMessagesRead", { roomId, messageId: 7 }, ["messageId"]],
  ["getOnlineUsers", { roomId: 7 }, ["roomId"]],
];

for (const [event, payload, paths] of BAD) {
  const shown = JSON.stringify(payload).replace(/(.)\1{20,}/gu, "$1…");
  test(`${event} ${shown} is a validation error at ${paths}`, async () => {
    const socket = await user("/chat");
    const answer = await refused(socket, "VALIDATION_ERROR", event, payload);
    assert.deepEqual(answer.details.map((d) => d.path).sort(), paths);
    assert.ok(answer.details.every((d) => typeof d.message === "string" && d.message !== ""));
    socket.emit(event, payload);
    assert.deepEqual(await heardOne(socket, "error"), answer, "the same object without an ack");
    await ok(socket, "ping");
  });
}

test("a payload that is no object is a validation error", async () => {
  const socket = await user("/chat");
  for (const args of [[], [null], ["room"], [7], [true], [["room"]], [Buffer.from("room")]]) {
    const answer = await refused(socket, "VALIDATION_ERROR", "join-room", ...args);
    assert.ok(answer.details.length > 0);
  }
});

test("further fields and arguments are ignored", async () => {
  const socket = await user("/chat");
  const room = unique("room");
  const answer = await ask(socket, "join-room", { roomId: room, colour: "red" }, "more", 7);
  assert.equal(answer.status, "ok");
  assert.equal(answer.roomId, room);
});

test("an event without a handler is told so", async () => {
  const socket = await user("/chat");
  for (const event of ["no-such-event", "toString", "", "x".repeat(128), "Ünïcode 🎺"]) {
    const answer = await refused(socket, "NO_HANDLER", event, { any: "thing" }, 7);
    socket.emit(event, { any: "thing" });
    assert.deepEqual(await heardOne(socket, "error"), answer);
  }
  await ok(socket, "ping");
  assert.deepEqual(unheard(socket, "error"), []);
});

test("an event's name is bounded", async () => {
  const socket = await user("/chat");
  for (const event of ["x".repeat(129), "🎺".repeat(100_000)]) {
    const { details } = await refused(socket, "VALIDATION_ERROR", event, { any: "thing" });
    assert.equal(details[0].path, "event");
  }
  await ok(socket, "ping");
});

test("an event of the server is nothing a client may say", async () => {
  const socket = await user("/chat");
  for (const event of ["room-presence", "user-left", "messagesRead", "user-typing", "error"]) {
    isError(await ask(socket, event, { roomId }), "NO_HANDLER");
  }
});

test("binary arguments of an unknown event are taken whole before it is refused", async () => {
  const socket = await user("/chat");
  await refused(socket, "NO_HANDLER", "upload", Buffer.alloc(1000, 7), { nested: [Buffer.from("x")] });
  await ok(socket, "ping");
});

test("Engine.IO 3 is refused where it is not allowed", async () => {
  const answer = await fetch(`${url}/socket.io/?EIO=3&transport=polling`);
  assert.equal(answer.status, 400);
  assert.deepEqual(await answer.json(), { code: 5, message: "Unsupported protocol version" });
});
