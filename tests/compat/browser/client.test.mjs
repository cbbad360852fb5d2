// The client module in Node: against a server that errs on demand, and over HTTP against Fanfare. The packages of `web`
// are installed.
//
// Environment: FANFARE_URL, where a name alone makes a guest.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, mock, test } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { edge } from "./edge.mjs";

const require = createRequire(import.meta.url);
const web = new URL("../../../web/", import.meta.url);
const WITHIN_MS = 30_000;

const { Fanfare } = load();

function load() {
  const { buildSync } = require(fileURLToPath(new URL("node_modules/esbuild", web)));
  const directory = mkdtempSync(join(tmpdir(), "fanfare-client-"));
  try {
    const outfile = join(directory, "client.cjs");
    buildSync({ entryPoints: [fileURLToPath(new URL("client/src/index.ts", web))], bundle: true, platform: "node", format: "cjs", outfile });
    return require(outfile);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const unique = (prefix) => `${prefix}-${Math.random().toString(36).slice(2, 10)}`;

const clients = [];
afterEach(async () => {
  mock.restoreAll();
  await Promise.all(clients.splice(0).map((client) => client.close()));
});

/** A client, and what it has told: `[event, first argument, second]`. */
async function client(options) {
  const manager = { transports: ["websocket"], reconnectionDelay: 50, reconnectionDelayMax: 100, ...options.manager };
  const fanfare = new Fanfare({ owner: "ada", token: () => "ada's", ...options, manager });
  clients.push(fanfare);
  const told = [];
  for (const event of ["status", "joined", "refused", "message", "outgoing", "unread", "error"]) {
    fanfare.on(event, (...what) => told.push([event, ...what.map((one) => (typeof one === "object" ? { ...one } : one))]));
  }
  const until = async (what, holds) => {
    for (const end = performance.now() + WITHIN_MS; !holds(); await wait(10)) {
      assert.ok(performance.now() < end, `never ${what}; told:\n${told.map((one) => JSON.stringify(one)).join("\n")}`);
    }
  };
  await fanfare.connect();
  return {
    fanfare,
    told,
    until,
    is: (state) => until(state, () => fanfare.status.state === state),
    isIn: (roomId) => until(`in ${roomId}`, () => told.some(([event, joined]) => event === "joined" && joined.roomId === roomId)),
    allDelivered: () => until("delivered", () => fanfare.outbox.items.length === 0),
    /** The messages that are gone, as the server has them. */
    gone: () => told.filter(([event, , gone]) => event === "outgoing" && gone).map(([, item, gone]) => ({ ...item, ...gone })),
    /** A room's messages, in the order they were told. */
    contents: (roomId) => told
      .flatMap(([event, what]) => (event === "joined" ? what.messages : event === "message" ? [what] : []))
      .filter((message) => message.roomId === roomId)
      .map(({ content }) => content),
  };
}

test("a message whose acknowledgement was lost is looked for once the server has forgotten it", async () => {
  const server = await edge();
  const ada = await client({ url: server.url });
  await ada.is("connected");
  server.open = false;
  server.once("message", { cut: true });
  ada.fanfare.send("lobby", "only once");
  await ada.is("waiting");
  for (let n = 0; n < 250; n += 1) server.publish("lobby", `other ${n}`);
  const later = Date.now() + 180_000;
  mock.method(Date, "now", () => later);
  server.open = true;
  await ada.allDelivered();
  assert.equal(server.count("message"), 1);
  assert.deepEqual(ada.gone().map(({ content, offset }) => [content, offset]), [["only once", "3-1"]]);
  ada.fanfare.send("lobby", "the next");
  await ada.allDelivered();
  assert.equal(server.contents("lobby").at(-1), "the next");
});

test("what was tried long ago and never came is sent", async () => {
  const server = await edge();
  const ada = await client({ url: server.url });
  await ada.is("connected");
  server.once("message", { error: { code: "UNAVAILABLE", retryAfter: 0.1 } });
  ada.fanfare.send("lobby", "at last");
  await ada.until("tried", () => server.count("message") === 1);
  const later = Date.now() + 180_000;
  mock.method(Date, "now", () => later);
  await ada.allDelivered();
  assert.equal(server.count("getMessages"), 1);
  assert.deepEqual(server.contents("lobby"), ["at last"]);
});

test("a message that its room tells is delivered without an acknowledgement", async () => {
  const server = await edge();
  const ada = await client({ url: server.url });
  ada.fanfare.join("lobby");
  await ada.isIn("lobby");
  server.once("message", { unanswered: true });
  ada.fanfare.send("lobby", "heard");
  ada.fanfare.send("lobby", "next");
  await ada.allDelivered();
  assert.deepEqual(server.contents("lobby"), ["heard", "next"]);
  assert.deepEqual(ada.gone().map(({ content }) => content), ["heard", "next"]);
});

test("rooms joined and left without a connection are so after a recovered session", async () => {
  const server = await edge();
  const ada = await client({ url: server.url });
  for (const room of ["kept", "left", "again"]) {
    ada.fanfare.join(room);
    await ada.isIn(room);
  }
  server.publish("kept", "a position to recover from");
  await ada.until("told", () => ada.contents("kept").length === 1);
  server.open = false;
  server.cut();
  await ada.is("waiting");
  ada.fanfare.join("new");
  await ada.fanfare.leave("left");
  await ada.fanfare.leave("again");
  ada.fanfare.join("again");
  for (const room of ["kept", "left", "new"]) server.publish(room, `to ${room}`);
  server.open = true;
  await ada.isIn("new");
  assert.equal(ada.fanfare.status.recovered, true);
  await ada.until("out of the room that was left", () => server.members("left") === 0);
  assert.deepEqual(["kept", "new", "again"].map(server.members), [1, 1, 1]);
  await ada.until("told what was missed", () => ada.contents("kept").length === 2 && ada.contents("new").length === 1);
  assert.deepEqual(server.asked.filter(({ payload }) => payload.roomId === "kept").map(({ event }) => event), ["join-room"]);
});

/** A client in the room, which then misses more than the history it asks for, and what is to be told in all. */
async function away(server) {
  const ada = await client({ url: server.url });
  ada.fanfare.join("lobby", 2);
  await ada.isIn("lobby");
  server.publish("lobby", "before");
  await ada.until("told", () => ada.contents("lobby").length === 1);
  server.open = false;
  server.cut();
  await ada.is("waiting");
  server.forget();
  for (let n = 0; n < 5; n += 1) server.publish("lobby", `missed ${n}`);
  return ada;
}

/** Everything was told, once and in order, also what comes now. */
async function knowsAll(ada, server) {
  server.publish("lobby", "after");
  await ada.until("told everything", () => ada.contents("lobby").includes("after"));
  assert.deepEqual(ada.contents("lobby"), server.contents("lobby"));
}

test("what was missed is read again after a failure, and what comes meanwhile stands behind it", async () => {
  const server = await edge();
  const ada = await away(server);
  server.once("getMessages", { error: { code: "UNAVAILABLE", retryAfter: 0.2 } });
  server.open = true;
  await ada.until("a failure", () => server.count("getMessages") === 1);
  server.publish("lobby", "meanwhile");
  await knowsAll(ada, server);
  assert.equal(server.count("getMessages"), 2);
});

test("what was missed is read after another loss of the connection, which is recovered", async () => {
  const server = await edge();
  const ada = await away(server);
  server.once("getMessages", { cut: true });
  server.once("join-room", { then: () => server.publish("lobby", "meanwhile") });
  server.open = true;
  await ada.until("a second attempt", () => server.count("getMessages") === 2);
  await knowsAll(ada, server);
  assert.equal(ada.fanfare.status.recovered, true);
});

test("what may not be read does not keep out what comes", async () => {
  const server = await edge();
  const ada = await away(server);
  server.once("getMessages", { error: { code: "FORBIDDEN" } });
  server.open = true;
  await ada.until("told why", () => ada.told.some(([event, error]) => event === "error" && error.code === "FORBIDDEN"));
  server.publish("lobby", "after");
  await ada.until("told what comes", () => ada.contents("lobby").includes("after"));
  assert.deepEqual(ada.contents("lobby"), ["before", "missed 3", "missed 4", "after"]);
});

test("notifications come back after refusals that pass", async () => {
  const server = await edge();
  server.once("/notifications connect", { error: { code: "UNAVAILABLE", retryAfter: 0.1 } });
  server.once("subscribe", { error: { code: "RATE_LIMITED", retryAfter: 0.1 } });
  const ada = await client({ url: server.url });
  await ada.until("subscribed", () => ada.told.some(([event, unread]) => event === "unread" && unread === 7));
  assert.equal(server.count("subscribe", "/notifications"), 2);
  assert.deepEqual(ada.told.filter(([event]) => event === "error"), []);
});

test("a new token is shown wherever we are connected", async () => {
  const server = await edge();
  const ada = await client({ url: server.url });
  await ada.is("connected");
  await ada.until("subscribed", () => ada.told.some(([event]) => event === "unread"));
  await ada.fanfare.refresh("a new one");
  for (const namespace of ["/chat", "/notifications"]) assert.equal(server.count("refresh-token", namespace), 1, namespace);
});

test("over HTTP a guest's message whose answer was lost is stored once", async () => {
  const { fetch } = globalThis;
  const keys = [];
  mock.method(globalThis, "fetch", async (target, options) => {
    // It is not found before the second attempt, as if it were stored only then: the key alone tells that both are one.
    if (options.method === "GET" && keys.length === 1) return Response.json({ messages: [], hasMore: false });
    const answer = await fetch(target, options);
    if (options.method === "POST" && keys.push(options.headers["idempotency-key"]) === 1) throw new TypeError("lost");
    return answer;
  });
  const roomId = unique("room");
  const guest = await client({ url: process.env.FANFARE_URL, token: undefined, username: "Gus", owner: "guest Gus", manager: { path: "/blocked" } });
  await guest.is("fallback");
  const { clientId } = guest.fanfare.send(roomId, "over the fence");
  await guest.allDelivered();
  assert.deepEqual(keys, [clientId, clientId]);
  const { messages } = await guest.fanfare.messages({ roomId });
  assert.deepEqual(messages.map(({ content }) => content), ["over the fence"]);
});
