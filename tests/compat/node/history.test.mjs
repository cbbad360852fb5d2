// History, read marks, rooms of a given set of people.
import assert from "node:assert/strict";
import { test } from "node:test";
import { heard, heardOne, isNow, members, ok, refused, sequence, unheard, unique, user } from "./support.mjs";

async function filled(count) {
  const roomId = unique("room");
  const [ada] = await members("/chat", roomId, 1);
  const messages = [];
  for (let n = 0; n < count; n += 1) {
    await ok(ada, "message", { roomId, content: `${n}`, clientId: `client-${n}` });
    messages.push(await heardOne(ada, "message"));
  }
  return { roomId, ada, messages };
}

test("join-room brings the last messages, each as it was delivered", async () => {
  const { roomId, messages } = await filled(12);
  const bob = await user("/chat");
  const answer = await ok(bob, "join-room", { roomId, history: 5 });
  assert.deepEqual(answer.messages, messages.slice(-5));
  assert.ok(sequence(answer.offset) >= sequence(messages.at(-1).offset));
  const all = await ok(await user("/chat"), "join-room", { roomId, history: 100 });
  assert.deepEqual(all.messages, messages);
});

test("getMessages pages forwards and backwards, exclusive of its bound", async () => {
  const { roomId, ada, messages } = await filled(12);
  const page = async (query) => {
    const answer = await ok(ada, "getMessages", { roomId, ...query });
    return [answer.messages, answer.hasMore];
  };
  assert.deepEqual(await page({}), [messages, false]);
  assert.deepEqual(await page({ limit: 5 }), [messages.slice(-5), true]);
  assert.deepEqual(await page({ limit: 12 }), [messages, false]);
  assert.deepEqual(await page({ before: messages[5].offset }), [messages.slice(0, 5), false]);
  assert.deepEqual(await page({ before: messages[5].offset, limit: 2 }), [messages.slice(3, 5), true]);
  assert.deepEqual(await page({ before: messages[0].offset }), [[], false]);
  assert.deepEqual(await page({ after: messages[5].offset }), [messages.slice(6), false]);
  assert.deepEqual(await page({ after: messages[5].offset, limit: 2 }), [messages.slice(6, 8), true]);
  assert.deepEqual(await page({ after: messages[11].offset }), [[], false]);
});

test("a page holds 50 messages, at most 200", async () => {
  const { roomId, ada, messages } = await filled(60);
  const answer = await ok(ada, "getMessages", { roomId });
  assert.deepEqual(answer.messages, messages.slice(-50));
  assert.equal(answer.hasMore, true);
  assert.equal((await ok(ada, "getMessages", { roomId, limit: 200 })).messages.length, 60);
  for (const limit of [0, 201, -1, 1.5, "50"]) {
    const error = await refused(ada, "VALIDATION_ERROR", "getMessages", { roomId, limit });
    assert.deepEqual(error.details.map((d) => d.path), ["limit"]);
  }
  const error = await refused(ada, "VALIDATION_ERROR", "getMessages", { roomId, before: "yesterday" });
  assert.deepEqual(error.details.map((d) => d.path), ["before"]);
});

test("a room without messages has an empty history", async () => {
  const ada = await user("/chat");
  const roomId = unique("room");
  const { messages, hasMore } = await ok(ada, "getMessages", { roomId });
  assert.deepEqual([messages, hasMore], [[], false]);
  assert.deepEqual((await ok(ada, "join-room", { roomId, history: 10 })).messages, []);
});

test("history and what follows have neither gap nor overlap", async () => {
  const roomId = unique("room");
  const ada = await user("/chat");
  const total = 150;
  let sent = 0;
  const sending = (async () => {
    for (; sent < total; sent += 1) await ok(ada, "message", { roomId, content: `${sent}` });
  })();
  const joiners = [];
  for (let n = 0; n < 5; n += 1) {
    const socket = await user("/chat");
    const { messages } = await ok(socket, "join-room", { roomId, history: 200 });
    joiners.push({ socket, messages });
  }
  await sending;
  await ok(ada, "message", { roomId, content: "end" });
  for (const { socket, messages } of joiners) {
    await heard(socket, "message", (m) => m.content === "end");
    const seen = [...messages, ...unheard(socket, "message")].map((m) => m.content);
    assert.deepEqual(seen, Array.from({ length: total }, (_, n) => `${n}`));
  }
});

test("reading is told to the room, and what is left is counted", async () => {
  const roomId = unique("room");
  const [ada, bob] = await members("/chat", roomId, 2);
  const ids = [];
  for (let n = 0; n < 4; n += 1) ids.push((await ok(ada, "message", { roomId, content: `${n}` })).id);
  await ok(bob, "message", { roomId, content: "bob's own does not count" });
  const { status, ...answer } = await ok(bob, "markMessagesRead", { roomId, messageId: ids[1] });
  assert.deepEqual(answer, { roomId, messageId: ids[1], unread: 2 });
  for (const socket of [ada, bob]) {
    const { readAt, ...mark } = await heardOne(socket, "messagesRead");
    assert.deepEqual(mark, { roomId, userId: bob.userId, messageId: ids[1] });
    isNow(readAt);
  }
  assert.equal((await ok(bob, "markMessagesRead", { roomId, messageId: ids[3] })).unread, 0);
  await refused(bob, "NOT_FOUND", "markMessagesRead", { roomId, messageId: unique("no-such") });
});

test("the same participants get the same room, whoever asks and in whatever order", async () => {
  const [ada, bob, cyrus] = await Promise.all([user("/chat"), user("/chat"), user("/chat")]);
  const all = [ada.userId, bob.userId];
  const first = await ok(ada, "getOrCreateRoom", { participants: [bob.userId], name: "the two of us" });
  assert.equal(first.created, true);
  assert.deepEqual([...first.participants].sort(), [...all].sort(), "the caller is always one of them");
  const again = await ok(bob, "getOrCreateRoom", { participants: [ada.userId, bob.userId, ada.userId] });
  assert.equal(again.created, false);
  assert.equal(again.roomId, first.roomId);
  const three = await ok(ada, "getOrCreateRoom", { participants: [bob.userId, cyrus.userId] });
  assert.notEqual(three.roomId, first.roomId);

  const { roomId } = first;
  await ok(ada, "join-room", { roomId });
  await ok(bob, "join-room", { roomId });
  await ok(ada, "message", { roomId, content: "just us" });
  assert.equal((await heardOne(bob, "message")).content, "just us");
});

test("many who ask at once get one room", async () => {
  const sub = unique("user");
  const sockets = await Promise.all(Array.from({ length: 4 }, () => user("/chat", { sub })));
  const answers = await Promise.all(sockets.map((s) => ok(s, "getOrCreateRoom", { participants: ["someone-else"] })));
  assert.equal(new Set(answers.map((a) => a.roomId)).size, 1);
  assert.equal(answers.filter((a) => a.created).length, 1);
});

test("a room of participants belongs to its namespace", async () => {
  const sub = unique("user");
  const [chat, root] = [await user("/chat", { sub }), await user("/", { sub })];
  await ok(chat, "getOrCreateRoom", { participants: ["bob"] });
  assert.equal((await ok(root, "getOrCreateRoom", { participants: ["bob"] })).created, true);
});
