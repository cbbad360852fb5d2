// Clients with socket.io-msgpack-parser, beside those with the default one in the same rooms
// (FANFARE_GATEWAY__ALLOW_MSGPACK=true).
import assert from "node:assert/strict";
import { test } from "node:test";
import { createRequire } from "node:module";
import { ask, client, heard, heardOne, isError, ok, unique, user } from "./support.mjs";

const parser = createRequire(import.meta.url)("socket.io-msgpack-parser");

test("messages pass between the parsers, and acknowledgements both ways", async () => {
  const room = unique("room");
  const packed = await user("/chat", {}, { parser });
  const plain = await user("/chat");
  await ok(packed, "join-room", { roomId: room });
  await ok(plain, "join-room", { roomId: room });
  const sent = await ok(packed, "message", { roomId: room, content: "hé 😀" });
  const [at, ...tail] = [await heardOne(packed, "message"), await heardOne(plain, "message")];
  assert.deepEqual(tail, [at], "both get the same");
  assert.equal(at.id, sent.id);
  assert.equal(at.content, "hé 😀");
  assert.equal(Number.isSafeInteger(at.timestamp), true);
  const long = "x".repeat(4000);
  for (let n = 0; n < 50; n += 1) plain.emit("message", { roomId: room, content: `${n} ${long}` });
  for (let n = 0; n < 50; n += 1) assert.equal((await heardOne(packed, "message")).content, `${n} ${long}`);
  const { messages } = await ok(packed, "getMessages", { roomId: room, limit: 3 });
  assert.equal(messages.length, 3);
});

test("refusals are the same", async () => {
  const refused = client("/chat", { token: "nonsense" }, { parser });
  refused.connect();
  const [error] = await heard(refused, "(connect_error)");
  assert.equal(error.message, "Invalid token");
  assert.deepEqual(error.data, { code: "UNAUTHORIZED" });
  const packed = await user("/chat", {}, { parser });
  isError(await ask(packed, "message", { roomId: 1, content: new Date() }), "VALIDATION_ERROR");
  isError(await ask(packed, "own-event", Buffer.from([1, 2]), undefined, NaN), "NO_HANDLER");
});

test("a lost connection is recovered", async () => {
  const room = unique("room");
  const packed = await user("/chat", {}, { parser });
  const plain = await user("/chat");
  for (const socket of [packed, plain]) await ok(socket, "join-room", { roomId: room });
  await ok(plain, "message", { roomId: room, content: "before" });
  await heard(packed, "message");
  packed.io.engine.close();
  await ok(plain, "message", { roomId: room, content: "meanwhile" });
  await heard(packed, "(connect)");
  assert.equal(packed.recovered, true);
  assert.equal((await heardOne(packed, "message")).content, "meanwhile");
});
