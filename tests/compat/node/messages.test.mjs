// Messages: who gets them, in which order, how often; typing.
import assert from "node:assert/strict";
import { test } from "node:test";
import { heard, heardOne, isNow, members, ok, sequence, unheard, unique, user } from "./support.mjs";

test("a message is acknowledged and reaches every member, the sender included", async () => {
  const roomId = unique("room");
  const [ada, bob, cyrus] = await members("/chat", roomId, 3);
  const { status, ...answer } = await ok(ada, "message", { roomId, content: "hello" });
  assert.deepEqual(Object.keys(answer).sort(), ["id", "offset", "roomId", "timestamp"]);
  assert.equal(answer.roomId, roomId);
  sequence(answer.offset);
  isNow(answer.timestamp);
  const wanted = { ...answer, userId: ada.userId, username: ada.username, content: "hello", type: "text" };
  for (const socket of [ada, bob, cyrus]) assert.deepEqual(await heardOne(socket, "message"), wanted);
});

test("sendMessage is another name of message", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  const { id } = await ok(ada, "sendMessage", { roomId, content: "hello", type: "image" });
  const message = await heardOne(bob, "message");
  assert.equal(message.id, id);
  assert.equal(message.type, "image");
  assert.deepEqual(unheard(bob, "sendMessage"), []);
});

test("sending needs no acknowledgement and no join", async () => {
  const roomId = unique("room");
  const [ada] = await members("/chat", roomId, 1);
  const bob = await user("/chat");
  bob.emit("message", { roomId, content: "from outside" });
  assert.equal((await heardOne(ada, "message")).userId, bob.userId);
  await ok(bob, "ping");
  assert.deepEqual(unheard(bob, "message"), []);
});

test("a retry with the same clientId is the same message, delivered once", async () => {
  const roomId = unique("room");
  const clientId = unique("client");
  const [ada, bob] = await members("/chat", roomId, 2);
  const payload = { roomId, content: "once", clientId };
  const [one, two] = await Promise.all([ok(ada, "message", payload), ok(ada, "message", payload)]);
  const three = await ok(ada, "message", payload);
  assert.equal(two.id, one.id);
  assert.equal(three.id, one.id);
  assert.equal(three.offset, one.offset);
  await ok(ada, "message", { roomId, content: "end" });
  for (const socket of [ada, bob]) {
    await heard(socket, "message", (m) => m.content === "end");
    const [message, ...others] = unheard(socket, "message");
    assert.deepEqual(others, []);
    assert.equal(message.clientId, clientId);
    assert.equal(message.id, one.id);
  }
  // The same word of somebody else is another message.
  assert.notEqual((await ok(bob, "message", payload)).id, one.id);
  const { messages } = await ok(bob, "getMessages", { roomId });
  assert.equal(messages.length, 3);
});

test("a retry over a new connection is still the same message", async () => {
  const roomId = unique("room");
  const [ada] = await members("/chat", roomId, 1);
  const payload = { roomId, content: "once", clientId: unique("client") };
  const before = await ok(ada, "message", payload);
  ada.io.engine.close();
  await heard(ada, "(connect)");
  assert.equal((await ok(ada, "message", payload)).id, before.id);
});

test("20 members see the messages of 10 senders in one order", async () => {
  const roomId = unique("room");
  const all = await members("/chat", roomId, 20);
  const senders = all.slice(0, 10);
  const rounds = 10;
  const acks = (await Promise.all(senders.map(async (socket, s) => Promise.all(
    Array.from({ length: rounds }, (_, n) => ok(socket, "message", { roomId, content: `${s}:${n}` })),
  )))).flat();
  const count = senders.length * rounds;
  const orders = await Promise.all(all.map(async (socket) => {
    const messages = [];
    while (messages.length < count) messages.push(await heardOne(socket, "message"));
    return messages.map(({ id, offset, content }) => ({ id, offset, content }));
  }));
  for (const order of orders) assert.deepEqual(order, orders[0]);
  const order = orders[0];
  for (let i = 1; i < order.length; i += 1) assert.ok(sequence(order[i].offset) > sequence(order[i - 1].offset));
  assert.deepEqual(new Set(order.map((m) => m.id)), new Set(acks.map((a) => a.id)));
  for (let s = 0; s < senders.length; s += 1) {
    const own = order.filter((m) => m.content.startsWith(`${s}:`)).map((m) => m.content);
    assert.deepEqual(own, Array.from({ length: rounds }, (_, n) => `${s}:${n}`), "each sender's own order is kept");
  }
});

test("content is counted in characters and comes back as it was", async () => {
  const roomId = unique("room");
  const [ada] = await members("/chat", roomId, 1);
  for (const content of ["🎺".repeat(5000), "\u0000\u001e\u2028\\\"</script>", " leading\n\ttrailing ", "𝄞é", "x".repeat(5000)]) {
    await ok(ada, "message", { roomId, content });
    assert.equal((await heardOne(ada, "message")).content, content);
  }
});

test("namespaces do not hear each other", async () => {
  const roomId = unique("room");
  const sub = unique("user");
  const [chat, root] = [await user("/chat", { sub }), await user("/", { sub })];
  await ok(chat, "join-room", { roomId });
  await ok(root, "join-room", { roomId });
  await ok(chat, "message", { roomId, content: "chat only" });
  await ok(root, "message", { roomId, content: "root only" });
  assert.equal((await heardOne(root, "message")).content, "root only");
  assert.deepEqual(unheard(root, "message"), []);
  const { messages } = await ok(root, "getMessages", { roomId });
  assert.deepEqual(messages.map((m) => m.content), ["root only"]);
});

test("typing is told to the others and ends when said so", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  await ok(ada, "typing", { roomId });
  const about = { roomId, userId: ada.userId, username: ada.username };
  assert.deepEqual(await heardOne(bob, "user-typing"), { ...about, isTyping: true });
  await ok(ada, "typing", { roomId, isTyping: false });
  assert.deepEqual(await heardOne(bob, "user-typing"), { ...about, isTyping: false });
  await ok(bob, "message", { roomId, content: "end" });
  await heard(ada, "message");
  assert.deepEqual(unheard(ada, "user-typing"), [], "the typist is not told");
});

test("typing ends by itself after 5 seconds", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  const began = Date.now();
  ada.emit("typing", { roomId, isTyping: true });
  assert.equal((await heardOne(bob, "user-typing")).isTyping, true);
  assert.equal((await heardOne(bob, "user-typing")).isTyping, false);
  assert.ok(Date.now() - began >= 4900, "not before 5 seconds");
});
