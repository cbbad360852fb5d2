// Users whom servers bring into rooms that are closed. Settings: see publisher.mjs.
import assert from "node:assert/strict";
import { test } from "node:test";
import { call, user, users } from "./publisher.mjs";
import { heardOne, ok, refused, unique } from "./support.mjs";

const everything = (roomId) => [["message", { roomId, content: "in?" }], ["getMessages", { roomId }], ["join-room", { roomId }]];
const isClosed = async (socket, roomId) => {
  for (const [event, payload] of everything(roomId)) await refused(socket, "FORBIDDEN", event, payload);
};

test("a user whom a server has brought in may use the room until it takes the user out", async () => {
  const [ada, bob] = await users(2);
  const room = unique("room");
  await isClosed(ada, room);
  await call("join-rooms", { namespace: "/chat", users: [ada.userId, bob.userId], rooms: [room] });
  for (const [event, payload] of everything(room)) await ok(ada, event, payload);
  assert.equal((await heardOne(bob, "message")).content, "in?");

  // Somebody who was not there meanwhile, too.
  const away = unique("user");
  await call("join-rooms", { namespace: "/chat", users: [away], rooms: [room] });
  const cleo = await user(away);
  for (const [event, payload] of everything(room)) await ok(cleo, event, payload);
  const elsewhere = await user(ada.userId, "/");
  await isClosed(elsewhere, room);

  await call("leave-rooms", { namespace: "/chat", users: [ada.userId, away], rooms: [room] });
  for (const socket of [ada, cleo]) await isClosed(socket, room);
  await ok(bob, "message", { roomId: room, content: "still in" });
});

test("a socket that is brought in hears the room, and its user gets no rights by that", async () => {
  const [ada, bob] = await users(2);
  const room = unique("room");
  await call("join-rooms", { namespace: "/chat", users: [bob.userId], sockets: [ada.id], rooms: [room] });
  await ok(bob, "message", { roomId: room, content: "listen" });
  assert.equal((await heardOne(ada, "message")).content, "listen");
  await isClosed(ada, room);
});

test("participants of a conversation stay what they are", async () => {
  const [ada, bob] = await users(2);
  const { roomId } = await ok(ada, "getOrCreateRoom", { participants: [bob.userId] });
  await call("leave-rooms", { namespace: "/chat", users: [bob.userId], rooms: [roomId] });
  await ok(bob, "join-room", { roomId });
});
