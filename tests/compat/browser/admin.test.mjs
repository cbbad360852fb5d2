// The official page of @socket.io/admin-ui on a cluster of two gateways: what it shows, and what it does.
//
// Environment: FANFARE_URL (the first gateway), FANFARE_GATEWAYS (both, comma-separated), ADMIN_PASSWORD, JWT_SECRET.
import assert from "node:assert/strict";
import { test } from "node:test";
import { io } from "socket.io-client";
import { connected, heard, heardOne, keep, ok, token, unheard, unique, user } from "../node/support.mjs";
import { admin, button, go, raw, row } from "./admin.mjs";
import { shot } from "./page.mjs";

const [, second] = process.env.FANFARE_GATEWAYS.split(",");

/** A user at the second gateway; `user` is at the first. */
function there(sub, options = {}) {
  const auth = { token: token({ sub }) };
  return connected(keep(io(`${second}/chat`, { transports: ["websocket"], forceNew: true, autoConnect: false, auth, ...options })));
}

const gone = async (socket) => assert.equal((await heard(socket, "(disconnect)"))[0], "io server disconnect");

test("the page shows servers, sockets and rooms of the cluster", async () => {
  const room = unique("room");
  const [eve, fay] = await Promise.all([user("/chat", { sub: "eve" }), there("fay", { transports: ["polling"] })]);
  await ok(eve, "join-room", { roomId: room });

  const opened = await admin(second, { refused: true });
  await go(opened, "Servers");
  await opened.locator("tbody tr").nth(1).waitFor();
  assert.equal(await opened.locator("tbody tr").count(), 2, "both gateways");
  await shot(opened, "admin-servers");

  await go(opened, "Sockets");
  await row(opened, eve.id).getByText("WebSocket").waitFor();
  await row(opened, fay.id).getByText("HTTP long-polling").waitFor();
  await shot(opened, "admin-sockets");
  await go(opened, "Rooms");
  await opened.getByText(room).waitFor();
  await ok(fay, "join-room", { roomId: room });
  await row(opened, room).getByText("2", { exact: true }).waitFor();
  await shot(opened, "admin-rooms");
});

test("its actions on one socket", async () => {
  const other = unique("other");
  const [eve, fay] = await Promise.all([user("/chat", { sub: "eve" }), there("fay")]);
  await ok(fay, "join-room", { roomId: other });
  const opened = await admin(second);

  // A socket forgets its id when it is gone.
  const { id } = eve;
  const details = async () => {
    await go(opened, "Sockets");
    await row(opened, id).click();
    await opened.getByText("Initial HTTP request").waitFor();
  };
  await details();
  const rooms = opened.locator(".v-card", { has: opened.locator(".v-card__title", { hasText: "Rooms" }) });
  await opened.getByLabel("Join a room").fill(other);
  await rooms.locator("form button[type=submit]").click();
  await row(rooms, other).waitFor();
  await ok(fay, "message", { roomId: other, content: "brought together" });
  assert.equal((await heardOne(eve, "message")).content, "brought together");
  await shot(opened, "admin-socket");

  await button(row(rooms, other), "tag-off-outline").click();
  await details();
  await row(rooms, id).waitFor();
  await row(rooms, other).waitFor({ state: "detached" });
  await ok(fay, "message", { roomId: other, content: "among ourselves" });
  await ok(eve, "ping");
  assert.deepEqual(unheard(eve, "message"), []);

  await go(opened, "Sockets");
  await button(row(opened, id), "logout").click();
  await gone(eve);
  await go(opened, "Sockets");
  await row(opened, fay.id).waitFor();
  await row(opened, id).waitFor({ state: "detached" });
  assert.equal(fay.connected, true);
});

test("a client is disconnected with all its sockets", async () => {
  const chat = await user("/chat", { sub: "eve" });
  const auth = { token: token({ sub: "eve" }) };
  const notifications = await connected(keep(chat.io.socket("/notifications", { auth })));
  const opened = await admin(second);
  await go(opened, "Clients");
  const client = opened.locator("tbody tr").filter({ has: opened.getByRole("cell", { name: "2", exact: true }) });
  await client.waitFor();
  await shot(opened, "admin-clients");
  await button(client, "logout").click();
  await Promise.all([gone(chat), gone(notifications)]);
  await go(opened, "Clients");
  await client.waitFor({ state: "detached" });
});

test("its actions on a room, on both gateways", async () => {
  const [hall, lobby] = [unique("hall"), unique("lobby")];
  const [eve, fay, guy] = await Promise.all([user("/chat", { sub: "eve" }), there("fay"), there("guy")]);
  for (const socket of [eve, fay]) {
    await ok(socket, "join-room", { roomId: hall });
    await ok(socket, "join-room", { roomId: lobby });
  }
  const opened = await admin(second);
  await go(opened, "Rooms");
  await row(opened, hall).getByText("2", { exact: true }).waitFor();
  await button(row(opened, hall), "tag-off-outline").click();
  await go(opened, "Rooms");
  await row(opened, lobby).waitFor();
  await row(opened, hall).waitFor({ state: "detached" });
  await ok(guy, "message", { roomId: hall, content: "to nobody" });
  await ok(guy, "message", { roomId: lobby, content: "to both" });
  for (const socket of [eve, fay]) assert.equal((await heardOne(socket, "message")).content, "to both");

  await button(row(opened, lobby), "logout").click();
  await Promise.all([gone(eve), gone(fay)]);
  await go(opened, "Rooms");
  await row(opened, lobby).waitFor({ state: "detached" });
  assert.equal(guy.connected, true);
});

test("its socket emits to one, to a room and to a namespace, and acts on all of it", async () => {
  const room = unique("room");
  const [eve, fay, guy] = await Promise.all([user("/chat", { sub: "eve" }), there("fay"), there("guy")]);
  const desk = await raw();
  assert.deepEqual((await heardOne(desk, "config")).supportedFeatures, [
    "EMIT", "JOIN", "LEAVE", "DISCONNECT", "MJOIN", "MLEAVE", "MDISCONNECT", "AGGREGATED_EVENTS", "ALL_EVENTS",
  ]);
  const args = [{ title: "Tonight" }, 2, "three"];

  desk.emit("emit", "/chat", fay.id, "for-one", ...args);
  assert.deepEqual((await heard(fay, "for-one")).slice(0, 3), args);
  for (const socket of [eve, fay]) await ok(socket, "join-room", { roomId: room });
  // Whom that means nobody knows, so it means nobody.
  desk.emit("_disconnect", "/chat", false, { id: eve.id });
  desk.emit("emit", "/chat", room, "for-room", ...args);
  for (const socket of [eve, fay]) assert.deepEqual((await heard(socket, "for-room")).slice(0, 3), args);
  desk.emit("emit", "/chat", null, "for-all", ...args);
  for (const socket of [eve, fay, guy]) assert.deepEqual((await heard(socket, "for-all")).slice(0, 3), args);
  assert.deepEqual([eve, guy].flatMap((socket) => unheard(socket, "for-one")), []);
  assert.deepEqual(unheard(guy, "for-room"), []);

  const all = unique("all");
  await heard(desk, "all_sockets");
  desk.emit("join", "/chat", all, null);
  await heard(desk, "room_joined", (namespace, name, id) => name === all && id === guy.id);
  await ok(eve, "message", { roomId: all, content: "everybody" });
  for (const socket of [fay, guy]) assert.equal((await heardOne(socket, "message")).content, "everybody");
  desk.emit("_disconnect", "/chat", false, null);
  await Promise.all([eve, fay, guy].map(gone));
  assert.equal(desk.connected, true);
});

test("events of the cluster are listed and counted", async () => {
  const room = unique("room");
  const [eve, fay] = await Promise.all([user("/chat", { sub: "eve" }), there("fay")]);
  for (const socket of [eve, fay]) await ok(socket, "join-room", { roomId: room });
  const opened = await admin(second);
  const desk = await raw();
  await heard(desk, "all_sockets", (sockets) => [eve, fay].every(({ id }) => sockets.some((socket) => socket.id === id)));
  await go(opened, "Events");
  // Gateways show events as soon as they know that a page is open.
  const asked = setInterval(() => eve.emit("ping"), 300);
  await row(opened, eve.id).filter({ hasText: "ping" }).first().waitFor();
  clearInterval(asked);

  const content = unique("content");
  await ok(fay, "message", { roomId: room, content });
  const [, , sent] = await heard(desk, "event_received", (namespace, id, [name]) => id === fay.id && name === "message");
  assert.deepEqual(sent, ["message", { roomId: room, content }]);
  for (const { id } of [eve, fay]) {
    const [namespace, , [, message], time] = await heard(desk, "event_sent", (_, to, [name]) => to === id && name === "message");
    assert.deepEqual([namespace, message.content, message.userId], ["/chat", content, "fay"]);
    assert.ok(!Number.isNaN(Date.parse(time)));
  }
  const shown = (type, { id }) => row(opened, id).filter({ hasText: type }).filter({ hasText: "message" }).first();
  await shown("Event received", fay).waitFor();
  await shown("Event sent", fay).waitFor();
  await shown("Event sent", eve).locator("button").click();
  await opened.locator("pre", { hasText: content }).waitFor();
  await shot(opened, "admin-events");

  await ok(fay, "message", { roomId: room, content: "long ".repeat(600) });
  const [, , [, cut]] = await heard(desk, "event_received", (_, id, [name]) => id === fay.id && name === "message");
  assert.match(cut, /^\{"roomId".* bytes\)$/);
  const fresh = token({ sub: "eve" });
  await ok(eve, "refresh-token", { token: fresh });
  const [, , refreshed] = await heard(desk, "event_received", (_, id, [name]) => id === eve.id && name === "refresh-token");
  assert.deepEqual(refreshed, ["refresh-token", "(not shown)"]);
  assert.ok(!JSON.stringify(desk.journal).includes(fresh));

  const { id } = eve;
  eve.disconnect();
  await row(opened, id).filter({ hasText: "Disconnection" }).getByText("client namespace disconnect").waitFor();
  const counted = new Set();
  while (!["rawConnection", "rawDisconnection", "bytesIn", "bytesOut"].every((type) => counted.has(type))) {
    for (const { type, count } of (await heardOne(desk, "server_stats")).aggregatedEvents) count > 0 && counted.add(type);
    if (!counted.has("rawConnection")) (await there("guy")).disconnect();
  }
  await go(opened, "Dashboard");
  await opened.getByText("Bytes received and sent").waitFor();
  await shot(opened, "admin-dashboard");
});
