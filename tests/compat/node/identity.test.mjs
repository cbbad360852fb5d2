// The end of a token and a new one in time, as the stock client sees them.
import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { test } from "node:test";
import { client, connected, heard, heardOne, isError, ok, refused, token, unheard, unique, user } from "./support.mjs";

const now = () => Math.floor(Date.now() / 1000);

for (const bits of [384, 512]) {
  test(`a token may be signed with HS${bits}`, async () => {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const body = `${part({ alg: `HS${bits}` })}.${part({ sub: unique("user") })}`;
    const signature = createHmac(`sha${bits}`, process.env.JWT_SECRET).update(body).digest("base64url");
    await connected(client("/chat", { token: `${body}.${signature}` }));
  });
}

for (const [what, make] of [
  ["of 100,000 characters", () => "x".repeat(100_000)],
  ["with a critical header nobody knows", () => {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
    const body = `${part({ alg: "HS256", crit: ["exp"], exp: 1 })}.${part({ sub: "mallory" })}`;
    return `${body}.${createHmac("sha256", process.env.JWT_SECRET).update(body).digest("base64url")}`;
  }],
]) {
  test(`a token ${what} is refused`, async () => {
    const socket = client("/chat", { token: make() });
    socket.connect();
    const error = await heardOne(socket, "(connect_error)");
    assert.equal(error.message, "Invalid token");
    assert.deepEqual(error.data, { code: "UNAUTHORIZED" });
  });
}

async function ends() {
  const exp = now() + 8;
  const socket = await user("/chat", { exp });
  const error = await heardOne(socket, "error");
  assert.ok(now() >= exp, "not before");
  isError(error, "UNAUTHORIZED");
  assert.equal(error.message, "Token expired");
  assert.equal((await heard(socket, "(disconnect)"))[0], "io server disconnect");
  assert.equal(socket.active, false);
  socket.auth = { token: token({ sub: socket.userId }) };
  await connected(socket);
  await ok(socket, "ping");
}

async function staysByANewToken() {
  const [first, second] = [now() + 8, now() + 600];
  const socket = await user("/chat", { exp: first });
  const { id } = socket;
  const roomId = unique("room");
  await ok(socket, "join-room", { roomId });
  const answer = await ok(socket, "refresh-token", { token: token({ sub: socket.userId, exp: second }) });
  assert.equal(answer.expiresAt, second * 1000);
  while (now() < first + 3) await new Promise((wake) => setTimeout(wake, 200));
  await ok(socket, "message", { roomId, content: "still here" });
  assert.equal((await heardOne(socket, "message")).content, "still here");
  assert.equal(socket.id, id);
  assert.deepEqual(unheard(socket, "error"), []);
}

test("at its end a token disconnects the socket, and the client does not come back by itself; a new one in time keeps it, in place", async () => {
  await Promise.all([ends(), staysByANewToken()]);
});

test("a new token must hold and be of the same user", async () => {
  const socket = await user("/chat");
  await refused(socket, "FORBIDDEN", "refresh-token", { token: token({ sub: unique("other") }) });
  await refused(socket, "UNAUTHORIZED", "refresh-token", { token: token({ sub: socket.userId, exp: now() - 60 }) });
  await refused(socket, "UNAUTHORIZED", "refresh-token", { token: token({ sub: socket.userId }, { alg: "none" }) });
  await refused(socket, "VALIDATION_ERROR", "refresh-token", {});
  await ok(socket, "ping");
});
