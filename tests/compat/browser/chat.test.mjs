// The page against one server: people chat with each other.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { delivered, messages, page, say, shot, shows, tab, texts, unique, url } from "./page.mjs";

test("a name signs in, and is remembered over a reload", async () => {
  const ada = await page();
  await ada.goto(url);
  await shot(ada, "door");
  await ada.getByLabel("Your name").fill("Ada Lovelace");
  await ada.getByRole("button", { name: "Sign in" }).click();
  await ada.locator('#link[data-state="connected"]').waitFor();
  assert.equal(await ada.locator("#me").textContent(), "Ada Lovelace");
  assert.equal(await ada.locator("#me-kind").textContent(), "user");
  await ada.reload();
  await ada.locator('#link[data-state="connected"]').waitFor();
  assert.equal(await ada.locator("#me").textContent(), "Ada Lovelace");
  await ada.getByRole("button", { name: "Sign out" }).click();
  await ada.getByRole("button", { name: "Sign in" }).waitFor();
});

test("two tabs chat with each other", async () => {
  const room = unique("room");
  const ada = await tab("Ada", room);
  const bob = await tab("Bob", room, { dark: true });

  await ada.locator("#members li", { hasText: "Bob" }).waitFor();
  await bob.locator("#members li", { hasText: "Ada" }).waitFor();
  await ada.locator("#log .system", { hasText: "Bob joined" }).waitFor();
  assert.equal(await ada.locator("#room-count").textContent(), "2 people");

  await say(ada, "Good morning, brass section!");
  await shows(bob, "Good morning, brass section!");
  await say(bob, "Morning. Is the new arrangement up?");
  await shows(ada, "Is the new arrangement up?");
  await say(ada, "Since last night.");
  await shows(bob, "Since last night.");
  await delivered(ada, "Since last night.");
  assert.equal(await messages(ada).count(), 3);
  assert.equal(await ada.locator("#log .mine").count(), 2);
  assert.equal(await bob.locator("#log .mine").count(), 1);
  assert.deepEqual(await texts(ada), await texts(bob));

  await ada.locator("#log .seen", { hasText: "Seen by Bob" }).waitFor();
  const dot = (which) => messages(ada).filter({ hasText: "Morning. Is" }).locator(`.presence${which}`);
  assert.equal(await dot(".online").count(), 1);
  assert.equal(await ada.locator("#members .presence.online").count(), 2);

  await bob.getByLabel("Message", { exact: true }).pressSequentially("one mom");
  await ada.locator("#typing", { hasText: "Bob is typing…" }).waitFor();
  await shot(ada, "two-tabs-light");
  await shot(bob, "two-tabs-dark");
  await bob.keyboard.press("Enter");
  await shows(ada, "one mom");
  await ada.waitForFunction(() => document.getElementById("typing").textContent === "");

  await bob.close();
  await ada.locator("#log .system", { hasText: "Bob left" }).waitFor();
  await dot(":not(.online)").waitFor({ state: "attached" });
  assert.equal(await dot(".online").count(), 0);
  assert.equal(await ada.locator("#members .presence.online").count(), 1);
  assert.equal(await ada.locator("#members li").count(), 1);
});

test("history is there after a reload, and earlier messages come by scrolling", async () => {
  const room = unique("room");
  const ada = await tab("Ada", room);
  for (let n = 1; n <= 120; n += 1) await say(ada, `message number ${n}.`);
  await delivered(ada, "message number 120.");
  await ada.reload();
  await shows(ada, "message number 120.");
  assert.equal(await ada.locator("#log .mine").count(), await messages(ada).count(), "one's own messages are known again");
  const expected = Array.from({ length: 120 }, (_, n) => `message number ${n + 1}.`);
  while ((await messages(ada).count()) < expected.length) {
    const before = await messages(ada).count();
    await ada.locator("#scroll").evaluate((box) => { box.scrollTop = 0; });
    await ada.waitForFunction((before) => document.querySelectorAll("#log .message").length > before, before);
    const kept = await ada.locator("#scroll").evaluate((box) => box.scrollTop);
    assert.ok(kept > 200, `what was before one's eyes stays there: ${kept}`);
  }
  assert.deepEqual(await texts(ada), expected);
  await ada.getByRole("button", { name: "Load earlier" }).waitFor({ state: "hidden" });
});

test("rooms are joined, counted and left", async () => {
  const [first, second] = [unique("first"), unique("second")];
  const ada = await tab(unique("Ada"), first);
  const bob = await tab("Bob", first);
  for (const opened of [ada, bob]) {
    await opened.getByLabel("Name of the room to join").fill(second);
    await opened.getByRole("button", { name: "Join" }).click();
    await opened.getByRole("heading", { name: second }).waitFor();
  }
  await ada.locator("#members li", { hasText: "Bob" }).waitFor();
  await ada.getByRole("button", { name: first }).click();
  await say(bob, "are you there?");
  await ada.locator("#rooms .room", { hasText: second }).locator(".badge", { hasText: "1" }).waitFor();
  assert.equal(await ada.title(), "(1) Fanfare");
  await ada.getByRole("button", { name: second }).click();
  await shows(ada, "are you there?");
  await ada.getByRole("button", { name: "Leave" }).click();
  await bob.locator("#log .system", { hasText: "left" }).waitFor();
  assert.deepEqual(await ada.locator("#rooms .room .name").allTextContents(), [first]);
});

test("who is written to directly is told by the bell, and finds the conversation behind it", async () => {
  const room = unique("room");
  const names = [unique("Ada"), unique("Bob")];
  const ada = await tab(names[0], room);
  const bob = await tab(names[1], room);
  await ada.getByRole("button", { name: `Message ${names[1]}` }).click();
  await ada.getByRole("heading", { name: names[1] }).waitFor();
  await say(ada, "Do you have the key?");
  await bob.getByRole("button", { name: "Notifications, 1 unread" }).waitFor();
  await bob.reload();
  await bob.getByRole("button", { name: "Notifications, 1 unread" }).click();
  await shot(bob, "notifications");
  await bob.locator("#notifications .notification.new", { hasText: names[0] }).click();
  await shows(bob, "Do you have the key?");
  await say(bob, "In my pocket.");
  await shows(ada, "In my pocket.");
  await bob.getByRole("button", { name: "Notifications", exact: true }).waitFor();
  await bob.reload();
  await bob.getByRole("button", { name: names[0] }).waitFor();
  // What was read is not told again.
  await bob.getByRole("button", { name: "Notifications", exact: true }).click();
  await bob.locator("#notifications", { hasText: "No notifications." }).waitFor();
  const other = ada.locator("#direct .room", { hasText: names[1] });
  await other.locator(".presence.online").waitFor();
  await bob.close();
  await other.locator(".presence:not(.online)").waitFor();
});

test("what others write stays text", async () => {
  const room = unique("room");
  const evil = `<img src=x onerror="document.title='pwned'"><script>document.title='pwned'</script>`;
  const ada = await tab("<b>Ada</b>", room);
  const bob = await tab("Bob", room);
  await say(ada, evil);
  await shows(bob, "onerror");
  assert.equal(await bob.locator("#log .text").first().textContent(), evil);
  assert.equal(await bob.locator("#log img, #log script, #log b b, #members b").count(), 0);
  assert.equal(await bob.title(), "Fanfare");
});

test("errors are told in words, and a refused message can be sent again or given up", async () => {
  const ada = await tab(unique("Ada"), unique("room"));
  await ada.getByLabel("Name of the room to join").fill("x".repeat(200));
  await ada.keyboard.press("Enter");
  await ada.locator("#notices .notice", { hasText: "VALIDATION_ERROR" }).waitFor();
  await ada.locator("#notices .notice", { hasText: "roomId" }).waitFor();
  await ada.getByRole("button", { name: "Dismiss" }).click();
  await say(ada, "y".repeat(5001));
  const failed = ada.locator("#log .failed");
  await failed.waitFor();
  assert.match(await failed.locator(".state").textContent(), /content.*VALIDATION_ERROR/);
  await shot(ada, "errors");
  await ada.reload();
  await failed.getByRole("button", { name: "Try again" }).click();
  await failed.getByRole("button", { name: "Discard" }).click();
  await failed.waitFor({ state: "detached" });
  await say(ada, "shorter");
  await delivered(ada, "shorter");
});

test("a message that was refused is delivered by trying again, also after a reload", async () => {
  const room = unique("room");
  let refusing = true;
  const ada = await tab(unique("Ada"), room, {
    // As if the server had refused for a reason that goes away.
    before: (opened) => opened.routeWebSocket(/\/socket\.io\//, (socket) => {
      const server = socket.connectToServer();
      socket.onMessage((packet) => {
        const id = refusing && /^42\/chat,(\d+)\["message"/.exec(packet)?.[1];
        if (id) socket.send(`43/chat,${id}${JSON.stringify([{ status: "error", code: "FORBIDDEN", message: "the hall is closed" }])}`);
        else server.send(packet);
      });
    }),
  });
  const bob = await tab("Bob", room);
  await ada.locator("#link-detail", { hasText: "websocket" }).waitFor();
  await say(ada, "first");
  await say(ada, "second");
  const failed = ada.locator("#log .failed");
  await failed.nth(1).waitFor();
  assert.match(await failed.first().locator(".state").textContent(), /FORBIDDEN/);
  refusing = false;
  await failed.filter({ hasText: "first" }).getByRole("button", { name: "Try again" }).click();
  await delivered(ada, "first");
  await shows(bob, "first");
  await ada.reload();
  await failed.filter({ hasText: "second" }).getByRole("button", { name: "Try again" }).click();
  await delivered(ada, "second");
  await failed.waitFor({ state: "detached" });
  await shows(bob, "second");
  for (const opened of [ada, bob]) assert.deepEqual(await texts(opened), ["first", "second"]);
});

test("a bad token is refused in words", async () => {
  const ada = await page({ expected: true }); // the browser reports connections closed while they open
  await ada.goto(url);
  await ada.locator("summary", { hasText: "token" }).click();
  await ada.locator("#token").fill("nonsense");
  await ada.getByRole("button", { name: "Sign in" }).click();
  await ada.locator("#notices .notice", { hasText: "Invalid token (UNAUTHORIZED)" }).waitFor();
  assert.equal(await ada.locator("#link").getAttribute("data-state"), "down");
  await shot(ada, "refused");
});

test("the server's counts are shown", async () => {
  const ada = await tab("Ada", unique("room"));
  await ada.waitForFunction(() => Number(document.getElementById("stat-connections")?.textContent) >= 1);
  for (const name of ["users", "rooms", "messages"]) {
    assert.match(await ada.locator(`#stat-${name}`).textContent(), /^\d/);
  }
  assert.match(await ada.locator("#stat-uptime").textContent(), /^\d+ (s|min|h|d)$/);
});

test("the page asks for nothing inline and nothing foreign", async () => {
  const answer = await fetch(`${url}/`);
  const html = await answer.text();
  assert.match(answer.headers.get("content-security-policy") ?? "", /default-src 'self'/);
  assert.doesNotMatch(html, /<style|style=|<script>|\son\w+=|https?:/);
});

test("the served client is the stock one", async () => {
  const served = await (await fetch(`${url}/socket.io/socket.io.min.js`)).text();
  const stock = readFileSync(new URL("../node_modules/socket.io-client/dist/socket.io.min.js", import.meta.url), "utf8");
  assert.equal(served, stock);
});
