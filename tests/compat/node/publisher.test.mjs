// Servers reach clients over HTTP: every operation, with clients at every gateway. Settings: see publisher.mjs.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, call, key, publishers, user, users } from "./publisher.mjs";
import { connected, heard, heardOne, keep, ok, token, unheard, unique, wait } from "./support.mjs";

/** Everything sent to a socket until now has come: a last event has, which each gets once. */
async function settle(sockets) {
  const mark = unique("mark");
  await call("emit", { namespace: "/chat", sockets: sockets.map((socket) => socket.id), event: "mark", args: [mark] });
  await Promise.all(sockets.map((socket) => heard(socket, "mark", (text) => text === mark)));
}

test("emit to rooms, users, sockets and everybody, once each", async () => {
  const [ada, bob, eve] = await users(3);
  const room = unique("room");
  await ok(ada, "join-room", { roomId: room });
  await ok(bob, "join-room", { roomId: room });

  const toRoom = await call("emit", { namespace: "/chat", rooms: [room], event: "news", args: [1, { deep: [true] }] });
  assert.match(toRoom.offset, /^\d+-\d+$/);
  for (const socket of [ada, bob]) assert.deepEqual((await heard(socket, "news")).slice(0, 2), [1, { deep: [true] }]);

  const twice = { namespace: "/chat", rooms: [room, room], users: [ada.userId, eve.userId], sockets: [bob.id, ada.id] };
  const several = await call("emit", { ...twice, event: "several", args: ["x"] });
  assert.equal(several.offset, undefined);
  const everybody = await call("emit", { namespace: "/chat", event: "all", args: [] });
  assert.match(everybody.offset, /^\d+-\d+$/);
  await settle([ada, bob, eve]);
  for (const socket of [ada, bob, eve]) {
    assert.deepEqual(unheard(socket, "several"), ["x"], "once, though it matches several times");
    assert.equal(unheard(socket, "all").length, 1);
  }
  assert.equal(unheard(eve, "news").length, 0);
});

test("except rooms, users and sockets", async () => {
  const [ada, bob, eve] = await users(3);
  const [room, muted] = [unique("room"), unique("muted")];
  for (const socket of [ada, bob, eve]) await ok(socket, "join-room", { roomId: room });
  await ok(bob, "join-room", { roomId: muted });
  for (const except of [{ rooms: [muted] }, { users: [bob.userId] }, { sockets: [bob.id] }]) {
    await call("emit", { namespace: "/chat", rooms: [room], except, event: "hush", args: [] });
  }
  await settle([ada, bob, eve]);
  assert.equal(unheard(ada, "hush").length, 3);
  assert.equal(unheard(bob, "hush").length, 0);
  assert.equal(unheard(eve, "hush").length, 3);
});

test("binary arguments, camel case, volatile", async () => {
  const ada = await user();
  const args = ["pic", { data: { $binary: Buffer.from("bytes").toString("base64") } }];
  await call("emit", { namespace: "/chat", users: [ada.userId], event: "pic", args });
  const [, { data }] = await heard(ada, "pic");
  assert.equal(Buffer.from(data).toString(), "bytes");
  const key = unique("key");
  const emit = { namespace: "/chat", users: [ada.userId], event: "once", args: [], idempotencyKey: key };
  const first = await call("emit", emit);
  assert.deepEqual(await call("emit", emit), first);
  assert.deepEqual(await call("emit", { ...emit, idempotencyKey: undefined }, { "Idempotency-Key": key }), first);
  const { offset } = await call("emit", { namespace: "/chat", users: [ada.userId], event: "soon", args: [], volatile: true });
  assert.equal(offset, undefined);
  await heard(ada, "soon");
  await settle([ada]);
  assert.equal(unheard(ada, "once").length, 1);
});

test("a batch keeps its order, and tells of each", async () => {
  const ada = await user();
  const emits = Array.from({ length: 100 }, (_, n) => ({ namespace: "/chat", users: [ada.userId], event: "n", args: [n] }));
  emits[50].event = "";
  const { results } = await call("batch", { emits });
  assert.equal(results.length, 100);
  assert.equal(results[50].code, "VALIDATION_ERROR");
  assert.equal(results[50].details[0].path, "emits.50.event");
  await settle([ada]);
  assert.deepEqual(unheard(ada, "n"), [...Array(100).keys()].filter((n) => n !== 50));
});

test("events with acknowledgements of clients", async () => {
  const [ada, bob, eve] = await users(3);
  ada.on("question", (text, answer) => answer(`${text} yes`, Buffer.from("b")));
  bob.on("question", (_text, answer) => answer());
  const sockets = [ada, bob, eve].map((socket) => socket.id);
  const asked = await call("emit-with-ack", { namespace: "/chat", sockets, event: "question", args: ["ready?"], timeout_ms: 1500 });
  assert.deepEqual(asked.missing, [eve.id]);
  const acks = new Map(asked.acks.map((ack) => [ack.socket_id, ack]));
  assert.deepEqual(acks.get(ada.id), {
    socket_id: ada.id,
    user_id: ada.userId,
    args: ["ready? yes", { $binary: Buffer.from("b").toString("base64") }],
  });
  assert.deepEqual(acks.get(bob.id).args, []);
  const nobody = await call("emit-with-ack", { namespace: "/chat", users: [unique("nobody")], event: "question", args: [], timeoutMs: 60000 });
  assert.deepEqual(nobody, { acks: [], missing: [] });

  const named = { namespace: "/chat", sockets: [ada.id], event: "question", args: ["once?"] };
  const headers = { "idempotency-key": unique("question") };
  const [first, ...others] = await Promise.all([1, 2, 3].map(() => call("emit-with-ack", named, headers)));
  for (const other of [...others, await call("emit-with-ack", named, headers)]) assert.deepEqual(other, first);
  assert.equal(unheard(ada, "question").filter((text) => text === "once?").length, 1);
});

test("important events are sent until they are acknowledged", async () => {
  const [ada, sub] = [await user(), unique("later")];
  const heardBy = { [ada.userId]: 0, [sub]: 0 };
  // The first time ada does not answer, and loses its connection instead.
  ada.on("important", (text, answer) => {
    assert.equal(text, "read this");
    heardBy[ada.userId] += 1;
    if (heardBy[ada.userId] === 1) ada.io.engine.close();
    else answer("read");
  });
  const emit = { namespace: "/chat", users: [ada.userId, sub], event: "important", args: ["read this"] };
  const idempotency_key = unique("key");
  const { id, offset } = await call("emit", { ...emit, acknowledge_within: 600, idempotency_key });
  assert.equal(offset, undefined);
  assert.equal((await call("emit", { ...emit, acknowledge_within: 600, idempotency_key })).id, id);
  while (heardBy[ada.userId] < 2) await wait(50);
  const later = await user(sub);
  const got = new Promise((resolve) => {
    later.on("important", (_text, answer) => {
      heardBy[sub] += 1;
      answer();
      resolve();
    });
  });
  await got;
  await wait(3000);
  assert.deepEqual(heardBy, { [ada.userId]: 2, [sub]: 1 }, "not again once it is acknowledged");
  for (const wrong of [{ rooms: ["r"] }, { volatile: true }, { users: [] }, { acknowledge_within: 604801 }]) {
    assert.equal((await ask("emit", { ...emit, acknowledge_within: 9, ...wrong })).status, 400, JSON.stringify(wrong));
  }
  const soon = await call("emit", { namespace: "/chat", users: [unique("nobody")], event: "e", args: [], acknowledgeWithin: 1 });
  assert.ok(soon.id);
});

test("rooms are joined and left for sockets and users", async () => {
  const [ada, bob, watcher] = await users(3);
  const room = unique("room");
  await ok(watcher, "join-room", { roomId: room });
  const joined = await call("join-rooms", { namespace: "/chat", users: [ada.userId], sockets: [bob.id], rooms: [room] });
  assert.deepEqual(joined, { sockets: 2 });
  await call("emit", { namespace: "/chat", rooms: [room], event: "in", args: [] });
  for (const socket of [ada, bob]) await heard(socket, "in");
  for (const socket of [ada, bob]) await heard(watcher, "room-presence", (p) => p.userId === socket.userId && p.action === "joined");

  const { sockets } = await call("fetch-sockets", { namespace: "/chat", rooms: [room] });
  assert.deepEqual(sockets.map((socket) => socket.id).sort(), [ada.id, bob.id, watcher.id].sort());
  const shown = sockets.find((socket) => socket.id === ada.id);
  assert.equal(shown.user_id, ada.userId);
  assert.equal(shown.username, `name of ${ada.userId}`);
  assert.deepEqual(shown.rooms, [room]);

  assert.deepEqual(await call("leave-rooms", { namespace: "/chat", users: [ada.userId], rooms: [room] }), { sockets: 1 });
  await heard(watcher, "room-presence", (p) => p.userId === ada.userId && p.action === "left");
  await call("emit", { namespace: "/chat", rooms: [room], event: "later", args: [] });
  await settle([ada, bob]);
  assert.equal(unheard(ada, "later").length, 0);
  assert.equal(unheard(bob, "later").length, 1);
});

test("a room joined by the server outlives a lost connection", async () => {
  const ada = await user();
  const room = unique("room");
  await call("join-rooms", { namespace: "/chat", users: [ada.userId], rooms: [room] });
  await call("emit", { namespace: "/chat", rooms: [room], event: "one", args: [] });
  await heard(ada, "one");
  assert.deepEqual(await call("disconnect", { namespace: "/chat", sockets: [ada.id], mode: "reconnect" }), { sockets: 1 });
  await heard(ada, "(disconnect)");
  await call("emit", { namespace: "/chat", rooms: [room], event: "two", args: [] });
  await heard(ada, "(connect)");
  assert.equal(ada.recovered, true);
  await heard(ada, "two");
});

test("sockets and connections are ended for good", async () => {
  const [ada, bob] = await users(2);
  assert.deepEqual(await call("disconnect", { namespace: "/chat", users: [ada.userId], mode: "namespace" }), { sockets: 1 });
  assert.equal(await heardOne(ada, "(disconnect)"), "io server disconnect");
  const other = keep(bob.io.socket("/", { auth: { token: token({ sub: bob.userId }) } }));
  await connected(other);
  assert.deepEqual(await call("disconnect", { users: [bob.userId], mode: "connection" }), { sockets: 2 });
  for (const socket of [bob, other]) await heard(socket, "(disconnect)");
  await wait(500);
  assert.equal(ada.connected || bob.connected || other.connected, false);
  const { sockets } = await call("fetch-sockets", { namespace: "/chat", users: [ada.userId, bob.userId] });
  assert.deepEqual(sockets, []);
});

test("sockets in pages", async () => {
  const room = unique("room");
  const all = await users(7);
  await call("join-rooms", { namespace: "/chat", sockets: all.map((socket) => socket.id), rooms: [room] });
  const found = [];
  let page_token = "";
  do {
    const page = await call("fetch-sockets", { namespace: "/chat", rooms: [room], page_size: 2, page_token });
    assert.ok(page.sockets.length <= 2);
    found.push(...page.sockets.map((socket) => socket.id));
    page_token = page.next_page_token;
  } while (page_token);
  assert.deepEqual(found.toSorted(), all.map((socket) => socket.id).toSorted());
});

test("history", async () => {
  const ada = await user();
  const room = unique("room");
  await ok(ada, "join-room", { roomId: room });
  const sent = [];
  for (let n = 0; n < 5; n++) sent.push(await ok(ada, "message", { roomId: room, content: `${n}` }));
  const last = await call("history", { namespace: "/chat", room, limit: 2 });
  assert.deepEqual(last.messages.map((message) => message.content), ["3", "4"]);
  assert.equal(last.has_more, true);
  assert.equal(last.messages[1].offset, sent[4].offset);
  const after = await call("history", { namespace: "/chat", room, after: sent[2].offset });
  assert.deepEqual(after.messages.map((message) => message.content), ["3", "4"]);
  assert.equal(after.has_more, false);
});

test("what is wrong is said", async () => {
  const wrong = await ask("emit", { namespace: "chat", users: [""], event: "disconnect", args: [{ $binary: "?" }] });
  assert.equal(wrong.status, 400);
  assert.equal(wrong.body.status, "error");
  assert.equal(wrong.body.code, "VALIDATION_ERROR");
  assert.deepEqual(wrong.body.details.map((detail) => detail.path), ["namespace", "users.0", "event", "args.0"]);
  assert.equal((await ask("emit", "{")).status, 400);
  assert.equal((await ask("emit", { namespace: "/chat", event: "e", room: "r" })).body.details[0].path, "room");
  const large = { namespace: "/chat", event: "e", args: ["x".repeat(1_100_000)] };
  assert.equal((await ask("emit", large)).body.code, "PAYLOAD_TOO_LARGE");
  assert.equal((await ask("nothing", {})).status, 404);
  assert.equal((await fetch(`${publishers[0]}/v1/emit`)).status, 405);
  assert.equal((await ask("join-rooms", { namespace: "/chat", rooms: ["r"] })).body.details[0].path, "users");
  assert.equal((await ask("disconnect", { namespace: "/chat", rooms: ["r"], mode: "kill" })).body.details[0].path, "mode");
  assert.equal((await ask("history", { namespace: "/chat", room: "r", before: "9" })).body.details[0].path, "before");
  assert.equal((await ask("fetch-sockets", { namespace: "/chat", page_token: "?" })).body.details[0].path, "page_token");
});

test("a key and its scopes", { skip: !key }, async () => {
  const emit = { namespace: "/chat", event: "e", args: [] };
  for (const authorization of ["", "Bearer wrong", `Basic ${key}`]) {
    const refused = await ask("emit", emit, { authorization });
    assert.equal(refused.status, 401, JSON.stringify(refused));
    assert.equal(refused.body.code, "UNAUTHORIZED");
  }
});

test("overlapping rooms while connections are lost: nothing twice, nothing lost", async () => {
  const rooms = [unique("a"), unique("b"), unique("c")];
  const sockets = await users(4);
  await call("join-rooms", { namespace: "/chat", sockets: sockets.map((socket) => socket.id), rooms });
  const COUNT = 200;
  for (let n = 0; n < COUNT; n += 10) {
    const emits = Array.from({ length: 10 }, (_, i) => ({ namespace: "/chat", rooms, event: "count", args: [n + i] }));
    const cut = sockets[(n / 10) % sockets.length];
    // One cut before its CONNECT is answered: the client keeps what was replayed, and forgets the position.
    while (!cut.connected) await wait(5);
    await Promise.all([
      call("batch", { emits }),
      call("disconnect", { namespace: "/chat", users: [cut.userId], mode: "reconnect" }),
    ]);
  }
  await Promise.all(sockets.map((socket) => heard(socket, "count", (n) => n === COUNT - 1)));
  await wait(1500);
  for (const socket of sockets) {
    assert.equal(socket.recovered, true);
    const counted = [...unheard(socket, "count"), COUNT - 1];
    assert.equal(counted.length, new Set(counted).size, "nothing twice");
    assert.equal(counted.length, COUNT, "nothing lost");
  }
});

test("overlapping rooms while sockets join and leave: nothing twice, nothing lost", async () => {
  const rooms = [unique("a"), unique("b"), unique("c")];
  const sockets = await users(6);
  // The first three are in two rooms for all the time, and come and go in the third.
  for (const [n, socket] of sockets.entries()) {
    const stays = n < 3 ? rooms.filter((_, r) => r !== n) : [rooms[n - 3]];
    for (const roomId of stays) await ok(socket, "join-room", { roomId });
  }
  let going = true;
  const movers = sockets.slice(0, 3).map(async (socket, n) => {
    while (going) {
      await ok(socket, "join-room", { roomId: rooms[n] });
      await ok(socket, "leave-room", { roomId: rooms[n] });
    }
  });
  const COUNT = 300;
  for (let n = 0; n < COUNT; n += 20) {
    const emits = Array.from({ length: 20 }, (_, i) => ({ namespace: "/chat", rooms, event: "count", args: [n + i] }));
    const { results } = await call("batch", { emits });
    assert.ok(results.every((result) => result.id), JSON.stringify(results));
  }
  going = false;
  await Promise.all(movers);
  await Promise.all(sockets.map((socket) => heard(socket, "count", (n) => n === COUNT - 1).then(() => settle([socket]))));
  await wait(500);
  for (const socket of sockets) {
    const counted = [...unheard(socket, "count"), COUNT - 1];
    assert.equal(counted.length, new Set(counted).size, "nothing twice");
    assert.equal(counted.length, COUNT, "nothing lost");
  }
});
