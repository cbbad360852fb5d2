// Connection state recovery: connections that break, and what the client finds when it is back.
import assert from "node:assert/strict";
import { test } from "node:test";
import { client, connected, heard, heardOne, members, mode, ok, token, unheard, unique, user, wait } from "./support.mjs";

/** Breaks the connection as a network does, and waits until the client is back. */
async function cut(socket) {
  socket.io.engine.close();
  await heard(socket, "(disconnect)");
  await heard(socket, "(connect)");
}

/** Breaks it and keeps the client away until the answer is called. */
async function away(socket) {
  socket.io.reconnection(false);
  socket.io.engine.close();
  await heard(socket, "(disconnect)");
  return async () => {
    socket.io.reconnection(true);
    socket.connect();
    await heard(socket, "(connect)");
  };
}

/** Contents of the messages, in the order heard. */
async function contents(socket, count) {
  const heardSo = [];
  while (heardSo.length < count) heardSo.push((await heardOne(socket, "message")).content);
  return heardSo;
}

const numbers = (count, from = 0) => Array.from({ length: count }, (_, n) => `${n + from}`);

test("a connection that breaks again and again under load misses nothing and doubles nothing", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  const id = bob.id;
  const sending = (async () => {
    for (let n = 0; n < 300; n += 1) {
      await ok(ada, "message", { roomId, content: `${n}` });
      if (n % 10 === 0) await wait(20);
    }
  })();
  for (let n = 0; n < 5; n += 1) {
    await wait(60);
    await cut(bob);
    assert.equal(bob.recovered, true);
    assert.equal(bob.id, id);
  }
  await sending;
  assert.deepEqual(await contents(bob, 300), numbers(300));
  await wait(200);
  assert.deepEqual(unheard(bob, "message"), []);
});

test("a client that never heard anything gets what was sent since it connected", async () => {
  const roomId = unique("room");
  const [ada] = await members("/chat", roomId, 1);
  const bob = await user("/chat");
  const back = await away(bob);
  // A room of its own that it is in from its first moment: nothing of it was heard before.
  await back();
  assert.equal(bob.recovered, true);
  await ok(bob, "join-room", { roomId });
  const again = await away(bob);
  await ok(ada, "message", { roomId, content: "missed" });
  await again();
  assert.equal(bob.recovered, true);
  assert.deepEqual(await contents(bob, 1), ["missed"]);
});

test("volatile events do not keep a client from recovering", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  await ok(ada, "message", { roomId, content: "0" });
  await ok(ada, "typing", { roomId });
  await heard(bob, "user-typing");
  const back = await away(bob);
  await ok(ada, "message", { roomId, content: "1" });
  await back();
  assert.equal(bob.recovered, true);
  assert.deepEqual(await contents(bob, 2), ["0", "1"]);
});

test("what arrived last may be meant for this client alone", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  await ok(ada, "message", { roomId, content: "0" });
  await heard(bob, "message", (message) => message.content === "0");
  bob.emit("message", { roomId, content: "" });
  await heard(bob, "error");
  const back = await away(bob);
  await ok(ada, "message", { roomId, content: "1" });
  await back();
  assert.equal(bob.recovered, true);
  assert.deepEqual(await contents(bob, 1), ["1"]);
});

test("a room joined while others are talking is replayed from where the client had it", async () => {
  const [first, second] = [unique("room"), unique("room")];
  const [ada, bob] = await members("/chat", first, 2);
  await ok(ada, "join-room", { roomId: second });
  let stop = false;
  const sent = { [first]: 0, [second]: 0 };
  const talking = Promise.all([first, second].map(async (roomId) => {
    while (!stop) {
      await ok(ada, "message", { roomId, content: `${sent[roomId]}` });
      sent[roomId] += 1;
    }
  }));
  await wait(50);
  const { offset } = await ok(bob, "join-room", { roomId: second });
  for (let n = 0; n < 4; n += 1) {
    await wait(30);
    await cut(bob);
    assert.equal(bob.recovered, true);
  }
  stop = true;
  await talking;
  const last = (roomId) => heard(bob, "message", (m) => m.roomId === roomId && m.content === `${sent[roomId] - 1}`);
  const messages = [];
  bob.onAny((event, message) => event === "message" && messages.push(message));
  const before = unheard(bob, "message");
  await Promise.all([last(first), last(second)]);
  const all = [...before, ...messages];
  const of = (roomId) => all.filter((m) => m.roomId === roomId).map((m) => Number(m.content));
  assert.deepEqual(of(first), numbers(sent[first]).map(Number));
  const heardSecond = of(second);
  const begin = heardSecond[0];
  assert.deepEqual(heardSecond, numbers(sent[second] - begin, begin).map(Number));
  assert.ok(all.filter((m) => m.roomId === second).every((m) => Number(m.offset.split("-")[1]) > Number(offset.split("-")[1])));
});

test("who leaves on purpose is not recovered", async () => {
  const bob = await user("/chat");
  const id = bob.id;
  bob.disconnect();
  // Who is back before its goodbye is heard has not gone.
  await wait(300);
  await connected(bob);
  assert.equal(bob.recovered, false);
  assert.notEqual(bob.id, id);
});

test("a session belongs to its user", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  await ok(ada, "message", { roomId, content: "0" });
  await heard(bob, "message");
  await away(bob);
  const stolen = { pid: bob._pid, offset: bob._lastOffset };
  assert.ok(stolen.pid && stolen.offset);
  const eve = client("/chat", { token: token({ sub: unique("eve") }), ...stolen });
  await connected(eve);
  assert.notEqual(eve.id, bob.id);
  await ok(ada, "message", { roomId, content: "1" });
  await wait(200);
  assert.deepEqual(unheard(eve, "message"), []);
});

test("a second claim takes over and closes the first", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  await ok(ada, "message", { roomId, content: "0" });
  await heard(bob, "message");
  const id = bob.id;
  bob.io.reconnection(false);
  const auth = { ...bob.auth, pid: bob._pid, offset: bob._lastOffset };
  const again = await connected(client("/chat", auth));
  assert.equal(again.id, id);
  await heard(bob, "(disconnect)");
  await ok(ada, "message", { roomId, content: "1" });
  assert.deepEqual(await contents(again, 1), ["1"]);
});

test("rubbish for a claim is a fresh connection", async () => {
  for (const claim of [{ pid: "x" }, { pid: "x", offset: "y" }, { pid: 7 }, { pid: "", offset: 7 }, { offset: "z" }]) {
    const socket = await connected(client("/chat", { token: token({ sub: unique("user") }), ...claim }));
    assert.ok(socket.id);
  }
});

test("nothing is recovered in part: too much missed is a fresh connection", { skip: mode !== "websocket" }, async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  await ok(ada, "message", { roomId, content: "0" });
  await heard(bob, "message");
  const back = await away(bob);
  const content = "x".repeat(5000);
  for (let n = 0; n < 250; n += 1) await ok(ada, "message", { roomId, content });
  await back();
  assert.equal(bob.recovered, false);
  await wait(200);
  assert.deepEqual(unheard(bob, "message"), []);
});
