// The page where the network is not as it should be.
import assert from "node:assert/strict";
import { test } from "node:test";
import { delivered, emitted, inside, messages, say, shot, shows, tab, texts, unique } from "./page.mjs";

const SOCKETS = /\/socket\.io\//;

async function goOffline(opened) {
  opened.expected = true; // the browser reports the lost connections
  await opened.context().setOffline(true);
  await opened.evaluate(() => window.dispatchEvent(new Event("offline")));
  await opened.locator('#link[data-state="waiting"]').waitFor();
}

const blockWebSocket = (opened) => opened.routeWebSocket(SOCKETS, (socket) => socket.close());

/** As a proxy that lets through neither WebSocket nor long-polling. */
async function blockSockets(opened) {
  await blockWebSocket(opened);
  await opened.route(SOCKETS, (route) => route.abort());
}

test("messages written offline are sent once when the connection is back", async () => {
  const room = unique("room");
  const ada = await tab("Ada", room);
  let sent;
  const bob = await tab("Bob", room, { before: (opened) => { sent = emitted(opened); } });
  await goOffline(bob);
  await say(bob, "from the tunnel");
  await say(bob, "still there");
  assert.equal(await bob.locator("#log .waiting").count(), 2);
  await shot(bob, "offline");
  await say(ada, "while you were away");
  await bob.context().setOffline(false);
  await inside(bob);
  await bob.locator("#link-text", { hasText: "Back, nothing missed" }).waitFor();
  await shows(bob, "while you were away");
  await shows(ada, "from the tunnel");
  await shows(ada, "still there");
  await delivered(bob, "still there");
  const expected = ["while you were away", "from the tunnel", "still there"];
  assert.deepEqual(await texts(bob), expected);
  assert.deepEqual(await texts(ada), expected);
  assert.equal(sent().filter(([event]) => event === "join-room").length, 1, "recovered, not joined again");
});

test("a message written offline outlives the page", async () => {
  const room = unique("room");
  const name = unique("Bob");
  const ada = await tab("Ada", room);
  const bob = await tab(name, room);
  await goOffline(bob);
  await say(bob, "a last word");
  await bob.locator("#log .waiting").waitFor();
  await bob.waitForFunction(() => new Promise((resolve) => {
    const opening = indexedDB.open("fanfare");
    opening.onsuccess = () => {
      const all = opening.result.transaction("outgoing").objectStore("outgoing").getAll();
      all.onsuccess = () => { opening.result.close(); resolve(all.result.length === 1); };
    };
  }));
  await bob.context().setOffline(false);
  await bob.close({ runBeforeUnload: false });
  const again = await bob.context().newPage();
  await again.goto(`${bob.url().split("#")[0]}#${new URLSearchParams({ room, name })}`);
  await delivered(again, "a last word");
  await shows(ada, "a last word");
  await again.reload();
  await shows(again, "a last word");
  assert.deepEqual(await texts(ada), ["a last word"]);
  assert.deepEqual(await texts(again), ["a last word"]);
});

test("a message whose acknowledgement was lost with its page is not sent again when the server has forgotten it", async () => {
  const room = unique("room");
  const name = unique("Bob");
  const ada = await tab("Ada", room);
  let deaf = false;
  const bob = await tab(name, room, {
    before: (opened) => opened.routeWebSocket(SOCKETS, (socket) => {
      const server = socket.connectToServer();
      server.onMessage((packet) => deaf || socket.send(packet));
    }),
  });
  await bob.locator("#link-detail", { hasText: "websocket" }).waitFor();
  deaf = true;
  await say(bob, "said once");
  await shows(ada, "said once");
  assert.equal(await bob.locator("#log .sending").count(), 1);
  await bob.close({ runBeforeUnload: false });
  const again = await bob.context().newPage();
  await again.clock.setFixedTime(Date.now() + 180_000);
  const sent = emitted(again);
  await again.goto(`${bob.url().split("#")[0]}#${new URLSearchParams({ room, name })}`);
  await delivered(again, "said once");
  await say(again, "and another");
  await delivered(again, "and another");
  assert.deepEqual(sent().filter(([event]) => event === "message").map(([, { content }]) => content), ["and another"]);
  assert.deepEqual(await texts(ada), ["said once", "and another"]);
});

test("where WebSocket is blocked, long-polling goes on", async () => {
  const room = unique("room");
  const ada = await tab("Ada", room);
  const bob = await tab("Bob", room, { expected: true, before: blockWebSocket });
  await say(bob, "by letter");
  await shows(ada, "by letter");
  await say(ada, "by wire");
  await shows(bob, "by wire");
  assert.equal(await bob.locator("#link-detail").textContent(), "polling");
});

test("where sockets are blocked, messages go over HTTP, and sockets take over when they can", async () => {
  const room = unique("room");
  const ada = await tab("Ada", room);
  await say(ada, "before");
  await delivered(ada, "before");
  const bob = await tab("Bob", room, { expected: true, before: blockSockets, state: "fallback" });
  await shows(bob, "before");
  await say(bob, "over the fence");
  await delivered(bob, "over the fence");
  await shows(ada, "over the fence");
  await say(ada, "caught");
  await shows(bob, "caught");
  await shot(bob, "fallback");
  await bob.unrouteAll({ behavior: "ignoreErrors" });
  await inside(bob);
  await say(ada, "by socket again");
  await shows(bob, "by socket again");
  const expected = ["before", "over the fence", "caught", "by socket again"];
  assert.deepEqual(await texts(bob), expected);
  assert.deepEqual(await texts(ada), expected);
  assert.equal(await messages(bob).count(), 4);
});
