// What the transport must carry: binary, large payloads, bursts, and coming back after it was cut.
import assert from "node:assert/strict";
import { test } from "node:test";
import { client, heard, heardOne, members, mode, ok, unheard, unique, url, user } from "./support.mjs";

test("a client whose transport is cut comes back by itself", async () => {
  const socket = await user("/chat");
  const [id, sid] = [socket.id, socket.io.engine.id];
  socket.io.engine.close();
  assert.equal((await heard(socket, "(disconnect)"))[0], "forced close");
  await heard(socket, "(connect)");
  assert.equal(socket.recovered, true);
  assert.equal(socket.id, id);
  assert.notEqual(socket.io.engine.id, sid);
  const roomId = unique("room");
  await ok(socket, "join-room", { roomId });
  await ok(socket, "message", { roomId, content: "back" });
  assert.equal((await heardOne(socket, "message")).content, "back");
});

test("what was emitted while away is sent on coming back", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  bob.io.engine.close();
  await heard(bob, "(disconnect)");
  for (let n = 0; n < 5; n += 1) bob.emit("message", { roomId, content: `${n}` });
  for (let n = 0; n < 5; n += 1) assert.equal((await heardOne(ada, "message")).content, `${n}`);
});

test("large arguments, text and binary, up to the limit", async () => {
  const socket = await user("/chat");
  for (const size of [1_000, 60_000, 70_000, 900_000]) {
    await ok(socket, "ping", "x".repeat(size));
    await ok(socket, "ping", "ü".repeat(size / 2));
    // On polling binary travels as base64, four thirds of its size.
    await ok(socket, "ping", Buffer.alloc(Math.floor(size * 0.7), 1), { deep: [Buffer.alloc(10)] });
  }
});

test("ten attachments are taken", async () => {
  const socket = await user("/chat");
  await ok(socket, "ping", ...Array.from({ length: 10 }, (_, n) => Buffer.alloc(n * 100, n)));
});

test("more than the limit ends the connection, and the client comes back", async () => {
  const socket = await user("/chat");
  socket.emit("ping", "x".repeat(1_100_000));
  const [reason] = await heard(socket, "(disconnect)");
  assert.ok(["transport close", "transport error"].includes(reason), reason);
  await heard(socket, "(connect)");
  await ok(socket, "ping");
});

test("a burst is answered in its order", async () => {
  const roomId = unique("room");
  const [ada] = await members("/chat", roomId, 1);
  const answered = [];
  const count = 300;
  await Promise.all(Array.from({ length: count }, async (_, n) => {
    await ok(ada, "message", { roomId, content: `${n}` });
    answered.push(n);
  }));
  assert.deepEqual(answered, [...answered].sort((a, b) => a - b));
  for (let n = 0; n < count; n += 1) assert.equal((await heardOne(ada, "message")).content, `${n}`);
});

test("nothing is lost or overtaken while the transport is upgraded", { skip: mode !== "upgrade" }, async () => {
  const roomId = unique("room");
  const [ada] = await members("/chat", roomId, 1);
  for (let round = 0; round < 5; round += 1) {
    const socket = client("/chat");
    socket.connect();
    const upgraded = new Promise((resolve) => socket.io.once("open", () => socket.io.engine.once("upgrade", resolve)));
    await heard(socket, "(connect)");
    const joined = ok(socket, "join-room", { roomId });
    let n = 0;
    let done = false;
    upgraded.then(() => { done = true; });
    await joined;
    for (; !done || n < 20; n += 1) {
      ada.emit("message", { roomId, content: `${round}:${n}` });
      await ok(socket, "ping", n);
    }
    for (let m = 0; m < n; m += 1) assert.equal((await heardOne(socket, "message")).content, `${round}:${m}`);
    assert.equal(socket.io.engine.transport.name, "websocket");
    socket.disconnect();
  }
});

test("the handshake tells the documented heartbeat and limit", async () => {
  const answer = await fetch(`${url}/socket.io/?EIO=4&transport=polling`);
  const open = await answer.text();
  assert.equal(open[0], "0");
  const { sid, ...rest } = JSON.parse(open.slice(1));
  assert.match(sid, /^[\w-]{20}$/);
  assert.deepEqual(rest, { upgrades: ["websocket"], pingInterval: 25_000, pingTimeout: 20_000, maxPayload: 1_000_000 });
});

test("50 clients come and go", async () => {
  const roomId = unique("room");
  const [ada] = await members("/chat", roomId, 1);
  const others = await members("/chat", roomId, 50);
  await ok(ada, "message", { roomId, content: "all" });
  await Promise.all(others.map((socket) => heard(socket, "message")));
  for (const socket of others) socket.disconnect();
  for (const socket of others) await heard(ada, "user-left", (p) => p.userId === socket.userId);
  const { users } = await ok(ada, "getOnlineUsers", { roomId });
  assert.deepEqual(users.map((u) => u.userId), [ada.userId]);
  assert.deepEqual(unheard(ada, "error"), []);
});
