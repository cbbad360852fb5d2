// Existing emitters reach clients: the stock @socket.io/redis-emitter publishes in Redis, with clients at every gateway.
// The rest of the settings are those of support.mjs; besides:
// FANFARE_URLS   where clients connect, comma-separated, in turn
// FANFARE_REDIS  `redis://HOST:PORT` that the emitters publish in
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createClient } from "@redis/client";
import { Emitter } from "@socket.io/redis-emitter";
import { io } from "socket.io-client";
import { connected, heard, heardOne, keep, ok, token, unheard, unique } from "./support.mjs";

const urls = process.env.FANFARE_URLS.split(",");
const redis = createClient({ url: process.env.FANFARE_REDIS });
const emitter = new Emitter(redis, undefined, "/chat");
let turn = 0;

before(() => redis.connect());
after(() => redis.close());

/** A connected user, at the next gateway. */
async function user(namespace = "/chat") {
  const sub = unique("user");
  const auth = { token: token({ sub, username: `name of ${sub}` }) };
  const socket = keep(io(urls[turn++ % urls.length] + namespace, { forceNew: true, autoConnect: false, auth }));
  socket.userId = sub;
  return connected(socket);
}

/** Several of them, all in the room. */
async function members(room, count) {
  const sockets = await Promise.all(Array.from({ length: count }, () => user()));
  for (const socket of sockets) await ok(socket, "join-room", { roomId: room });
  return sockets;
}

/** Everything published for the room until now has come to its members. */
async function settle(room, sockets) {
  const mark = unique("mark");
  emitter.to(room).emit("mark", mark);
  await Promise.all(sockets.map((socket) => heard(socket, "mark", (text) => text === mark)));
}

test("events for a room, several, all but some, and everybody, once each and in order", async () => {
  const [room, other, muted] = [unique("room"), unique("other"), unique("muted")];
  const [ada, bob] = await members(room, 2);
  const [eve] = await members(other, 1);
  await ok(bob, "join-room", { roomId: other });
  await ok(bob, "join-room", { roomId: muted });

  for (let n = 0; n < 200; n++) emitter.to(room).emit("n", n);
  emitter.to([room, other]).emit("several", { deep: [true] });
  emitter.in(room).except(muted).emit("hush", 1);
  emitter.emit("all", 1, "2", null);
  for (const socket of [ada, bob, eve]) {
    assert.deepEqual(await heardOne(socket, "several"), { deep: [true] });
    assert.deepEqual((await heard(socket, "all")).slice(0, 3), [1, "2", null]);
  }
  await settle(room, [ada, bob]);
  await settle(other, [bob, eve]);
  for (const socket of [ada, bob]) assert.deepEqual(unheard(socket, "n"), [...Array(200).keys()]);
  assert.deepEqual(unheard(ada, "hush"), [1]);
  assert.deepEqual(unheard(bob, "hush"), []);
  assert.deepEqual(unheard(eve, "n"), []);
  for (const socket of [ada, bob, eve]) assert.deepEqual([...unheard(socket, "several"), ...unheard(socket, "all")], []);
});

test("events for a socket, for all of a user, and in another namespace", async () => {
  const [ada, bob] = await members(unique("room"), 2);
  const root = await user("/");
  emitter.to(ada.id).emit("to-socket", 1);
  emitter.to(`user:${bob.userId}`).emit("to-user", 2);
  emitter.except(bob.id).emit("but-one", 3);
  emitter.of("/").emit("root", 4);
  assert.equal(await heardOne(ada, "to-socket"), 1);
  assert.equal(await heardOne(bob, "to-user"), 2);
  assert.equal(await heardOne(ada, "but-one"), 3);
  assert.equal(await heardOne(root, "root"), 4);
  emitter.emit("last");
  await heard(bob, "last");
  assert.deepEqual([...unheard(bob, "to-socket"), ...unheard(bob, "but-one"), ...unheard(bob, "root")], []);
});

test("binary data, dates, volatile events and compress", async () => {
  const room = unique("room");
  const [ada] = await members(room, 1);
  const date = new Date(1709186816789);
  emitter.to(room).compress(false).emit("file", "name", Buffer.from("bytes"), { parts: [new Uint8Array([1, 2])], date });
  const [name, bytes, { parts, date: told }] = await heard(ada, "file");
  assert.equal(name, "name");
  assert.equal(Buffer.from(bytes).toString(), "bytes");
  assert.deepEqual([...new Uint8Array(parts[0])], [1, 2]);
  assert.equal(told, date.toISOString());
  emitter.to(room).volatile.emit("soon", 1);
  assert.equal(await heardOne(ada, "soon"), 1);
});

test("sockets join, leave and are disconnected", async () => {
  const [room, more] = [unique("room"), unique("more")];
  const [ada, bob] = await members(room, 2);
  // Behind a join stands what is published after it.
  emitter.in(room).except(bob.id).socketsJoin(more);
  emitter.to(more).emit("joined", 1);
  assert.equal(await heardOne(ada, "joined"), 1);
  emitter.in(bob.id).socketsJoin([more, unique("third")]);
  emitter.to(more).emit("joined", 2);
  assert.equal(await heardOne(bob, "joined"), 2);
  assert.equal(await heardOne(ada, "joined"), 2);

  emitter.in(ada.id).socketsLeave(more);
  emitter.to(more).emit("left", 3);
  assert.equal(await heardOne(bob, "left"), 3);
  await settle(room, [ada]);
  assert.deepEqual(unheard(ada, "left"), []);

  emitter.in(room).except(ada.id).disconnectSockets();
  assert.equal(await heardOne(bob, "(disconnect)"), "io server disconnect");
  assert.equal(ada.connected, true);
  emitter.in(ada.id).disconnectSockets(true);
  await heard(ada, "(disconnect)");
});

test("what is no message of an emitter harms nobody", async () => {
  const room = unique("room");
  const [ada] = await members(room, 1);
  const channel = "socket.io#/chat#";
  for (const payload of ["", "hello", Buffer.from([0x93, 0xc0, 0xc1]), Buffer.alloc(3_000_000, 0x91)]) {
    await redis.publish(channel, payload);
    await redis.publish("socket.io-request#/chat#", payload);
  }
  await redis.publish("socket.io-request#/chat#", JSON.stringify({ type: 2, opts: { rooms: [""] }, rooms: ["a"] }));
  emitter.serverSideEmit("hello", 1);
  emitter.to(`${room}\n`).emit("no room");
  emitter.to(room).emit("y".repeat(1000));
  emitter.to(room).emit("fine", 1);
  assert.equal(await heardOne(ada, "fine"), 1);
});
