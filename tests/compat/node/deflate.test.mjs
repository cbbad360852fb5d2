// Clients that compress, as Node's and browsers' do, beside those that do not, in the same room
// (FANFARE_GATEWAY__COMPRESS_FROM_BYTES=1024).
import assert from "node:assert/strict";
import { test } from "node:test";
import WebSocket from "ws";
import { heardOne, mode, ok, unique, url, user } from "./support.mjs";

const long = `${"the same again, ".repeat(250)}€`;

test("large messages pass both ways, compressed or not", async () => {
  const room = unique("room");
  const threshold = { perMessageDeflate: { threshold: 0 } };
  const squeezed = await user("/chat", {}, threshold);
  const eager = await user("/chat", {}, threshold);
  const plain = await user("/chat", {}, { perMessageDeflate: false });
  const all = [squeezed, eager, plain];
  for (const socket of all) await ok(socket, "join-room", { roomId: room });
  for (const [n, socket] of all.entries()) {
    for (const content of [`${n} short`, `${n} ${long}`]) {
      await ok(socket, "message", { roomId: room, content });
      const messages = await Promise.all(all.map((one) => heardOne(one, "message")));
      for (const message of messages) assert.equal(message.content, content);
    }
  }
  const { messages } = await ok(squeezed, "getMessages", { roomId: room });
  assert.equal(messages.length, 6);
  if (mode !== "polling") assert.match(squeezed.io.engine.transport.ws.extensions, /permessage-deflate/);
});

test("what is on the wire is small, and what breaks the extension ends the connection", async () => {
  const open = (options) => new WebSocket(`${url.replace("http", "ws")}/socket.io/?EIO=4&transport=websocket`, options);
  const none = open({ perMessageDeflate: false });
  await new Promise((done) => { none.once("open", done); });
  assert.equal(none.extensions, "");
  none.close();
  const agreed = open({ perMessageDeflate: true });
  await new Promise((done) => { agreed.once("open", done); });
  assert.equal(agreed.extensions, "permessage-deflate");
  const closed = new Promise((done) => { agreed.once("close", done); });
  // A text frame of the extension, masked with zeros, whose payload is no deflate.
  agreed._socket.write(Buffer.from([0xc1, 0x83, 0, 0, 0, 0, 0xff, 0xff, 0xff]));
  assert.equal(await closed, 1007);
});
