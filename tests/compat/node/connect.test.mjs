// Connecting: namespaces, several of them on one connection, who may and who may not.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Manager } from "socket.io-client";
import { client, connected, heard, heardOne, isNow, keep, mode, ok, token, unique, unheard, url, user } from "./support.mjs";

test("connects to / and to /chat", async () => {
  for (const namespace of ["/", "/chat", "/notifications"]) {
    const socket = await connected(client(namespace));
    assert.equal(typeof socket.id, "string");
    assert.notEqual(socket.id, "");
    // The engine's sid is a secret of the client; the socket id is what others may see.
    assert.notEqual(socket.id, socket.io.engine.id);
  }
});

test("uses the transport that was asked for", async () => {
  const socket = client("/");
  const engine = new Promise((resolve) => socket.io.once("open", () => resolve(socket.io.engine)));
  await connected(socket);
  const opened = await engine;
  if (mode === "upgrade" && opened.transport.name !== "websocket") {
    await new Promise((resolve) => opened.once("upgrade", resolve));
  }
  assert.equal(opened.transport.name, mode === "polling" ? "polling" : "websocket");
  await ok(socket, "ping");
});

test("several namespaces share one connection and stay apart", async () => {
  const auth = { token: token({ sub: unique("user") }) };
  const manager = new Manager(url, { transports: mode === "polling" ? ["polling"] : ["websocket"], autoConnect: false });
  const [root, chat] = ["/", "/chat"].map((namespace) => keep(manager.socket(namespace, { auth })));
  await Promise.all([connected(root), connected(chat)]);
  assert.notEqual(root.id, chat.id);
  assert.equal(root.io.engine, chat.io.engine);

  const roomId = unique("room");
  await ok(chat, "join-room", { roomId });
  await ok(root, "join-room", { roomId });
  await ok(chat, "message", { roomId, content: "in chat" });
  await ok(root, "message", { roomId, content: "in root" });
  assert.equal((await heardOne(chat, "message")).content, "in chat");
  assert.equal((await heardOne(root, "message")).content, "in root");

  chat.disconnect();
  await heard(chat, "(disconnect)");
  await ok(root, "ping");
  await connected(chat);
  await ok(chat, "ping");
});

test("an unknown namespace is refused, the others on the connection go on", async () => {
  const manager = new Manager(url, { transports: mode === "polling" ? ["polling"] : ["websocket"], autoConnect: false });
  const [root, unknown] = ["/", "/no-such"].map((namespace) => keep(manager.socket(namespace)));
  await connected(root);
  unknown.connect();
  const error = await heardOne(unknown, "(connect_error)");
  assert.equal(error.message, "Invalid namespace");
  assert.equal(unknown.connected, false);
  await ok(root, "ping");
});

const minute = 60;
const now = () => Math.floor(Date.now() / 1000);
for (const [what, make, message] of [
  ["a token that is none", () => "nonsense", "Invalid token"],
  ["a wrong signature", () => token({ sub: "mallory" }, { key: "another secret, not the server's" }), "Invalid token"],
  ["no signature at all", () => token({ sub: "mallory" }, { alg: "none" }), "Invalid token"],
  ["no subject", () => token({}), "Invalid token"],
  ["a subject of 129 characters", () => token({ sub: "s".repeat(129) }), "Invalid token"],
  ["a control character in the subject", () => token({ sub: "a\nb" }), "Invalid token"],
  ["a past expiry", () => token({ sub: "late", exp: now() - 10 * minute }), "Token expired"],
  ["a validity not yet begun", () => token({ sub: "early", nbf: now() + 10 * minute }), "Invalid token"],
]) {
  test(`a token with ${what} is refused: ${message}`, async () => {
    const socket = client("/chat", { token: make() });
    socket.connect();
    const error = await heardOne(socket, "(connect_error)");
    assert.equal(error.message, message);
    assert.deepEqual(error.data, { code: "UNAUTHORIZED" });
    assert.equal(socket.active, false, "the client does not try again by itself");
  });
}

test("a refused client may come back with a good token", async () => {
  const socket = client("/chat", { token: "nonsense" });
  socket.connect();
  await heard(socket, "(connect_error)");
  socket.auth = { token: token({ sub: unique("user") }) };
  await connected(socket);
});

test("the token may come in the Authorization header", async () => {
  const sub = unique("user");
  const socket = await connected(client("/chat", {}, { extraHeaders: { Authorization: `Bearer ${token({ sub })}` } }));
  const roomId = unique("room");
  await ok(socket, "join-room", { roomId });
  const { users } = await ok(socket, "getOnlineUsers", { roomId });
  assert.deepEqual(users.map((one) => one.userId), [sub]);
});

test("a guest is named by the server, and may choose a username", async () => {
  const roomId = unique("room");
  const [nameless, ada] = await Promise.all([connected(client("/chat")), connected(client("/chat", { username: "Ada" }))]);
  await ok(nameless, "join-room", { roomId });
  await ok(ada, "join-room", { roomId });
  const { users } = await ok(ada, "getOnlineUsers", { roomId });
  assert.equal(users.length, 2);
  assert.equal(new Set(users.map((one) => one.userId)).size, 2);
  assert.ok(users.every((one) => one.userId && one.username));
  assert.ok(users.some((one) => one.username === "Ada"));
});

test("a token says who somebody is", async () => {
  const roomId = unique("room");
  const sub = unique("müller/ö");
  const socket = await user("/chat", { sub, username: "Jürgen 🎺" });
  await ok(socket, "join-room", { roomId });
  const { users } = await ok(socket, "getOnlineUsers", { roomId });
  assert.equal(users.length, 1);
  const [{ connectedAt, ...rest }] = users;
  assert.deepEqual(rest, { userId: sub, username: "Jürgen 🎺" });
  isNow(connectedAt);
});

test("ping is answered with the time", async () => {
  const socket = await user("/");
  for (const args of [[], [1], ["text", { a: [null, true] }], [null]]) {
    const { time } = await ok(socket, "ping", ...args);
    isNow(time);
  }
  socket.emit("ping");
  await ok(socket, "ping");
  assert.deepEqual(unheard(socket, "error"), []);
});

test("disconnecting ends the socket, connecting again gives a new one", async () => {
  const socket = await user("/chat");
  const before = socket.id;
  // What leaves and what comes use connections of their own, and the server has to read the first before the second.
  await ok(socket, "ping");
  const { engine } = socket.io;
  const closed = new Promise((resolve) => engine.once("close", resolve));
  socket.disconnect();
  assert.deepEqual((await heard(socket, "(disconnect)"))[0], "io client disconnect");
  await closed;
  await connected(socket);
  assert.notEqual(socket.id, before);
  await ok(socket, "ping");
});
