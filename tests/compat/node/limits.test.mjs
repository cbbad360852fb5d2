// Over the limit: a warning, a refusal that says when to come back, and after that time it works again. The server under
// test allows 10 events a minute and cuts who is refused 20 times.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, client, connected, heard, heardOne, isError, ok, token, unheard, unique, user, wait } from "./support.mjs";

const LIMIT = 10;
const EVERY_S = 6; // one comes back

/** Sends events until one is refused; the refusal, and how many passed before. */
async function exhaust(socket) {
  for (let passed = 0; passed < 10 * LIMIT; passed++) {
    const answer = await ask(socket, "ping");
    if (answer.status !== "ok") return { passed, answer };
  }
  throw new Error("nothing was refused");
}

test("warned, refused, and well again after the time it was told", async () => {
  const socket = await user("/chat");
  const { passed, answer } = await exhaust(socket);
  assert.ok(passed >= LIMIT && passed < 2 * LIMIT, `${passed} passed`);
  const warning = await heardOne(socket, "rate-limit-warning");
  assert.equal(warning.event, "ping");
  assert.equal(warning.limit, LIMIT);
  assert.ok(warning.remaining <= 2, JSON.stringify(warning));
  assert.ok(Number.isInteger(warning.resetIn) && warning.resetIn >= 1 && warning.resetIn <= 60, JSON.stringify(warning));
  assert.deepEqual(Object.keys(warning).sort(), ["event", "limit", "remaining", "resetIn"]);
  isError(answer, "RATE_LIMITED");
  assert.ok(Number.isInteger(answer.retryAfter) && answer.retryAfter >= 1 && answer.retryAfter <= EVERY_S, JSON.stringify(answer));
  await wait(answer.retryAfter * 1000);
  await ok(socket, "ping");
  assert.deepEqual(unheard(socket, "rate-limit-warning"), [], "one warning is enough");
});

test("without an ack the refusal is an event, and nothing else happens", async () => {
  const socket = await user("/chat");
  await exhaust(socket);
  socket.emit("join-room", { roomId: unique("room") });
  const error = await heardOne(socket, "error");
  isError(error, "RATE_LIMITED");
  assert.equal(typeof error.retryAfter, "number");
  assert.deepEqual(unheard(socket, "room-joined"), []);
});

test("a user's sockets share the limit, other users do not", async () => {
  const sub = unique("user");
  const [one, two, other] = [await user("/chat", { sub }), await user("/chat", { sub }), await user("/chat")];
  await exhaust(one);
  // Meanwhile one may have come back.
  const answers = [await ask(two, "ping"), await ask(two, "ping")];
  isError(answers[1], "RATE_LIMITED");
  await ok(other, "ping");
});

test("who goes on is disconnected, and may come back", async () => {
  const sub = unique("user");
  const socket = await user("/chat", { sub });
  for (let event = 0; event < LIMIT + 30; event++) socket.emit("ping");
  const [reason] = await heard(socket, "(disconnect)");
  assert.equal(reason, "io server disconnect");
  assert.equal(socket.active, false, "the client does not come back by itself");
  assert.ok(unheard(socket, "error").length >= 20);
  const again = await connected(client("/chat", { token: token({ sub }) }));
  const answer = await ask(again, "ping");
  assert.ok(["ok", "error"].includes(answer.status), "it is connected");
});
