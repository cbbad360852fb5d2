// The official page of @socket.io/admin-ui where it may only look.
//
// Environment: FANFARE_URL, ADMIN_PASSWORD, JWT_SECRET.
import assert from "node:assert/strict";
import { test } from "node:test";
import { heard, heardOne, ok, unheard, unique, url, user } from "../node/support.mjs";
import { admin, button, go, raw, row } from "./admin.mjs";
import { shot } from "./page.mjs";

test("the page has no buttons, and its socket does nothing", async () => {
  const room = unique("room");
  const eve = await user("/chat", { sub: "eve" });
  await ok(eve, "join-room", { roomId: room });
  const opened = await admin(url);
  for (const [view, text] of [["Sockets", eve.id], ["Clients", "WebSocket"], ["Rooms", room]]) {
    await go(opened, view);
    await row(opened, text).first().waitFor();
    assert.equal(await button(opened.locator("tbody"), "logout").count(), 0, view);
    assert.equal(await button(opened.locator("tbody"), "tag-off-outline").count(), 0, view);
  }
  await shot(opened, "admin-readonly");

  const desk = await raw();
  assert.deepEqual((await heardOne(desk, "config")).supportedFeatures, ["AGGREGATED_EVENTS", "ALL_EVENTS"]);
  desk.emit("emit", "/chat", null, "forged", 1);
  desk.emit("join", "/chat", "forged", null);
  desk.emit("leave", "/chat", room, null);
  desk.emit("_disconnect", "/chat", true, null);
  // Two looks at all sockets later nothing has changed.
  for (let looks = 0; looks < 3; looks++) await heard(desk, "server_stats");
  await ok(eve, "message", { roomId: room, content: "still here" });
  assert.equal((await heardOne(eve, "message")).content, "still here");
  assert.deepEqual(unheard(eve, "forged"), []);
  assert.deepEqual([...unheard(desk, "room_joined"), ...unheard(desk, "room_left")], []);
  assert.equal(eve.connected, true);
});
