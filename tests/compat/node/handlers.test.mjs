// The handlers of examples/handlers, which all do the same, as clients see them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { ask, heardOne, refused, unique, user } from "./support.mjs";

test("an order brings the caller into its room, where everybody hears of it", async () => {
  const [ada, bob] = [await user("/chat"), await user("/chat")];
  const item = unique("item");
  const room = `order-${item}`;
  for (const socket of [ada, bob]) {
    assert.deepEqual(await ask(socket, "order", { item }), { status: "ok", room });
    assert.deepEqual(await heardOne(socket, "order-placed"), { item, by: socket.username });
  }
  assert.deepEqual(await heardOne(ada, "order-placed"), { item, by: bob.username });
});

test("bytes both ways", async () => {
  const ada = await user("/chat");
  const [length, reversed] = await new Promise((resolve) => {
    ada.emit("upload", Buffer.from([1, 2, 3]), (...args) => resolve(args));
  });
  assert.equal(length, 3);
  assert.deepEqual([...reversed], [3, 2, 1]);
});

test("what nobody handles", async () => {
  const ada = await user("/chat");
  await refused(ada, "NO_HANDLER", "something else", 1);
});
