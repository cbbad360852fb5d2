// Rooms: joining, leaving, who is there, who was lost.
import assert from "node:assert/strict";
import { test } from "node:test";
import { graceMs, heard, heardOne, isError, members, ok, refused, sequence, unheard, unique, user, wait } from "./support.mjs";

test("joining is acknowledged and announced", async () => {
  const roomId = unique("room");
  const [ada, bob] = [await user("/chat"), await user("/chat")];

  const first = await ok(ada, "join-room", { roomId });
  assert.equal(first.roomId, roomId);
  assert.equal(first.usersCount, 1);
  sequence(first.offset);
  assert.equal(first.messages, undefined, "history only when asked for");
  assert.deepEqual(await heardOne(ada, "room-joined"), { roomId });
  assert.deepEqual(await heardOne(ada, "room-presence"), { roomId, usersCount: 1, userId: ada.userId, action: "joined" });

  assert.equal((await ok(bob, "join-room", { roomId })).usersCount, 2);
  for (const socket of [ada, bob]) {
    const presence = await heardOne(socket, "room-presence", (p) => p.userId === bob.userId);
    assert.deepEqual(presence, { roomId, usersCount: 2, userId: bob.userId, action: "joined" });
  }
});

test("joining twice is one membership", async () => {
  const roomId = unique("room");
  const [ada] = await members("/chat", roomId, 1);
  assert.equal((await ok(ada, "join-room", { roomId })).usersCount, 1);
  await ok(ada, "message", { roomId, content: "once" });
  await ok(ada, "message", { roomId, content: "end" });
  await heard(ada, "message", (m) => m.content === "end");
  assert.equal(unheard(ada, "message").length, 1);
});

test("users are counted, not sockets", async () => {
  const roomId = unique("room");
  const sub = unique("user");
  const [one, two] = [await user("/chat", { sub }), await user("/chat", { sub })];
  const [bob] = await members("/chat", roomId, 1);
  assert.equal((await ok(one, "join-room", { roomId })).usersCount, 2);
  assert.equal((await ok(two, "join-room", { roomId })).usersCount, 2);
  const { users } = await ok(bob, "getOnlineUsers", { roomId });
  assert.deepEqual(users.map((u) => u.userId).sort(), [sub, bob.userId].sort());

  await ok(one, "leave-room", { roomId });
  await ok(bob, "message", { roomId, content: "still two" });
  assert.equal((await heardOne(two, "message")).content, "still two");
  await heard(bob, "message");
  assert.deepEqual(unheard(bob, "user-left"), [], "the user has another socket in the room");
  await ok(two, "leave-room", { roomId });
  assert.equal((await heardOne(bob, "user-left")).userId, sub);
});

test("leaving is acknowledged and announced at once", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  const answer = await ok(bob, "leave-room", { roomId });
  assert.equal(answer.roomId, roomId);
  const presence = await heardOne(ada, "room-presence", (p) => p.action === "left");
  assert.deepEqual(presence, { roomId, usersCount: 1, userId: bob.userId, action: "left" });
  assert.deepEqual(await heardOne(ada, "user-left"), { roomId, userId: bob.userId, username: bob.username });

  await ok(ada, "message", { roomId, content: "without bob" });
  await heard(ada, "message");
  await ok(bob, "ping");
  assert.deepEqual(unheard(bob, "message"), []);
  const { users } = await ok(ada, "getOnlineUsers", { roomId });
  assert.deepEqual(users.map((u) => u.userId), [ada.userId]);
});

test("a lost user is announced after the grace", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  bob.io.reconnection(false);
  const lost = Date.now();
  bob.io.engine.close();
  assert.deepEqual(await heardOne(ada, "user-left"), { roomId, userId: bob.userId, username: bob.username });
  assert.ok(Date.now() - lost >= graceMs * 0.9, "not before the grace is over");
  const presence = await heardOne(ada, "room-presence", (p) => p.action === "left");
  assert.deepEqual(presence, { roomId, usersCount: 1, userId: bob.userId, action: "left" });
});

test("a client that disconnects is gone from its rooms", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  bob.disconnect();
  assert.equal((await heardOne(ada, "user-left")).userId, bob.userId);
  assert.equal((await heardOne(ada, "room-presence", (p) => p.action === "left")).usersCount, 1);
});

test("who is back within the grace was never away", async (t) => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  const lost = Date.now();
  bob.io.engine.close();
  await heard(bob, "(connect)");
  await ok(bob, "join-room", { roomId });
  if (Date.now() - lost > graceMs / 2) return t.skip("the machine is too busy to be back in time");
  await wait(graceMs * 1.5);
  await ok(bob, "message", { roomId, content: "here" });
  await heard(ada, "message");
  assert.deepEqual(unheard(ada, "user-left"), []);
});

test("several rooms stay apart", async () => {
  const [red, blue] = [unique("red"), unique("blue")];
  const ada = await user("/chat");
  const bob = await user("/chat");
  await ok(ada, "join-room", { roomId: red });
  await ok(ada, "join-room", { roomId: blue });
  await ok(bob, "join-room", { roomId: blue });
  await ok(ada, "message", { roomId: red, content: "red" });
  await ok(ada, "message", { roomId: blue, content: "blue" });
  assert.equal((await heardOne(bob, "message")).content, "blue");
  assert.equal((await heardOne(ada, "message", (m) => m.roomId === red)).content, "red");
  assert.deepEqual(unheard(bob, "message"), []);
});

test("a room's name may be any text", async () => {
  for (const name of ["a", "Räume & Ähnliches/…?*>.", "🎺".repeat(100), "constructor", "__proto__", "x".repeat(115)]) {
    const roomId = name.length < 20 ? `${name}${unique("")}` : name;
    const [ada] = await members("/chat", roomId, 1);
    await ok(ada, "message", { roomId, content: "hello" });
    assert.equal((await heardOne(ada, "message")).roomId, roomId);
  }
});

test("a user's own room is nobody else's", async () => {
  const [ada, mallory] = [await user("/chat"), await user("/chat")];
  const roomId = `user:${ada.userId}`;
  for (const [event, payload] of [
    ["join-room", { roomId }],
    ["message", { roomId, content: "psst" }],
    ["getMessages", { roomId }],
    ["getOnlineUsers", { roomId }],
  ]) {
    await refused(mallory, "FORBIDDEN", event, payload);
  }
  await ok(ada, "getMessages", { roomId });
});

test("who is online everywhere is told to those who may know", async () => {
  const ada = await user("/chat");
  await refused(ada, "FORBIDDEN", "getOnlineUsers", {});
  for (const role of ["admin", "moderator"]) {
    const { users } = await ok(await user("/chat", { role }), "getOnlineUsers", {});
    assert.ok(users.some((u) => u.userId === ada.userId));
  }
  const { users } = await ok(await user("/chat", { permissions: ["presence:read"] }), "getOnlineUsers", {});
  assert.ok(users.some((u) => u.userId === ada.userId));
  ada.emit("getOnlineUsers", {});
  isError(await heardOne(ada, "error"), "FORBIDDEN");
});
