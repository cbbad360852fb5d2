// Events of a stock @socket.io/redis-emitter while workers come and go: each comes once, in order, to clients at every
// gateway. Settings as for redis_emitter.test.mjs.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "@redis/client";
import { Emitter } from "@socket.io/redis-emitter";
import { io } from "socket.io-client";
import { connected, keep, ok, token, unheard, unique, wait } from "./support.mjs";

const COUNT = 3000;
const urls = process.env.FANFARE_URLS.split(",");

test("every event comes once", async () => {
  const redis = createClient({ url: process.env.FANFARE_REDIS });
  await redis.connect();
  const room = unique("room");
  const sockets = [];
  for (const url of urls) {
    const auth = { token: token({ sub: unique("user") }) };
    const socket = await connected(keep(io(`${url}/chat`, { forceNew: true, autoConnect: false, auth })));
    await ok(socket, "join-room", { roomId: room });
    sockets.push(socket);
  }
  const emitter = new Emitter(redis, undefined, "/chat");
  for (let n = 0; n < COUNT; n++) {
    emitter.to(room).emit("n", n);
    await wait(5);
  }
  const until = Date.now() + 60_000;
  const lacks = () => sockets.some((socket) => unheard(socket, "n").at(-1) !== COUNT - 1);
  while (lacks() && Date.now() < until) await wait(50);
  for (const socket of sockets) {
    const told = unheard(socket, "n");
    const missing = [...Array(COUNT).keys()].filter((n) => !told.includes(n));
    assert.deepEqual(missing, [], "nothing is missing");
    assert.deepEqual(told, [...Array(COUNT).keys()], "once each, in order");
  }
  await redis.close();
});
