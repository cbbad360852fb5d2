// Clients of Socket.IO v2 (Engine.IO v3), as they come from npm, beside those of v4 in the same rooms
// (FANFARE_GATEWAY__ALLOW_EIO3=true, FANFARE_AUTH__QUERY=token).
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import io2 from "socket.io-client-2";
import { heardOne, mode, ok, token, unique, url, user } from "./support.mjs";

const TRANSPORTS = { websocket: ["websocket"], polling: ["polling"], upgrade: ["polling", "websocket"] };

const sockets = [];
afterEach(() => {
  for (const socket of sockets.splice(0)) socket.disconnect();
});

/** As `client`, of v2. */
function older(namespace, query = {}, options = {}) {
  const socket = io2(url + namespace, { transports: TRANSPORTS[mode], forceNew: true, autoConnect: false, query, ...options });
  sockets.push(socket);
  return socket;
}

const event = (socket, name) => new Promise((resolve) => { socket.once(name, resolve); });
const asked = (socket, name, payload) => new Promise((resolve) => { socket.emit(name, payload, resolve); });

async function connected(socket) {
  const done = event(socket, "connect");
  const failed = event(socket, "error").then((error) => { throw new Error(JSON.stringify(error)); });
  socket.connect();
  await Promise.race([done, failed]);
  return socket;
}

test("a client of v2 chats with one of v4", async () => {
  const room = unique("room");
  const old = await connected(older("/", { token: token({ sub: "old", username: "Old" }) }));
  const young = await user("/", { sub: "young", username: "Young" });
  assert.equal((await asked(old, "join-room", { roomId: room })).status, "ok");
  await ok(young, "join-room", { roomId: room });
  const heard = event(old, "message");
  await ok(young, "message", { roomId: room, content: "hé 😀" });
  assert.equal((await heard).content, "hé 😀");
  assert.equal((await asked(old, "message", { roomId: room, content: "back: 😀" })).status, "ok");
  const { content } = await heardOne(young, "message", (message) => message.userId === "old");
  assert.equal(content, "back: 😀");
});

test("namespaces, their authentication by query, and why they refuse", async () => {
  const chat = await connected(older(`/chat?token=${token({ sub: "old", username: "Old" })}`));
  const answer = await asked(chat, "join-room", { roomId: unique("room") });
  assert.equal(answer.status, "ok");
  const refused = older("/chat?token=nonsense");
  const error = event(refused, "error");
  refused.connect();
  assert.deepEqual(await error, { code: "UNAUTHORIZED" });
});

test("the heartbeat is the client's", async () => {
  const old = older("/", { token: token({ sub: "old" }) });
  let pongs = 0;
  let lost = 0;
  old.on("pong", () => { pongs += 1; });
  old.on("disconnect", () => { lost += 1; });
  await connected(old);
  const deadline = Date.now() + 20_000;
  while (pongs < 3 && Date.now() < deadline) await new Promise((wake) => { setTimeout(wake, 50); });
  assert.ok(pongs >= 3 && lost === 0, `${pongs} pongs, lost ${lost} times`);
});

test("many messages arrive in order, whatever the transport", async () => {
  const room = unique("room");
  const old = await connected(older("/", { token: token({ sub: "old" }) }));
  await asked(old, "join-room", { roomId: room });
  const heard = [];
  const all = new Promise((resolve) => {
    old.on("message", (message) => { if (heard.push(message.content) === 100) resolve(); });
  });
  for (let n = 0; n < 100; n += 1) old.emit("message", { roomId: room, content: `n ${n} €` });
  await all;
  assert.deepEqual(heard, Array.from({ length: 100 }, (_, n) => `n ${n} €`));
});
