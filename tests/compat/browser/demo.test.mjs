// The demo page in Chromium: two tabs chat with each other.
//
// Environment: FANFARE_URL, CHROMIUM (path of the browser), SCREENSHOTS (a directory; none are taken without).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { chromium } from "playwright-core";

const url = process.env.FANFARE_URL;
const screenshots = process.env.SCREENSHOTS;
const WITHIN = 20_000;

let browser;
const contexts = [];
const complaints = [];
before(async () => {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
});
after(() => browser.close());
afterEach(async () => {
  await Promise.all(contexts.splice(0).map((context) => context.close()));
  assert.deepEqual(complaints.splice(0), [], "the pages complained on their consoles");
});

const unique = (prefix) => `${prefix}-${Math.random().toString(36).slice(2, 10)}`;

/** A tab of its own person. */
async function tab(name, room, { dark = false, width = 1200, height = 760 } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light" });
  context.setDefaultTimeout(WITHIN);
  contexts.push(context);
  const page = await context.newPage();
  page.expected = false;
  page.on("pageerror", (error) => complaints.push(`${name}: ${error.message}`));
  page.on("console", (line) => {
    if (["error", "warning"].includes(line.type()) && !page.expected) complaints.push(`${name}: ${line.text()}`);
  });
  await page.goto(`${url}/#${new URLSearchParams({ room, name })}`);
  await page.locator('#link[data-state="connected"]').waitFor();
  await page.locator("#room-count", { hasText: /\d/ }).waitFor();
  return page;
}

async function say(page, text) {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
}

const messages = (page) => page.locator("#log .message");
const shows = (page, text) => messages(page).filter({ hasText: text }).first().waitFor();
const shot = async (page, name) => screenshots && page.screenshot({ path: join(screenshots, `${name}.png`) });

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
  assert.equal(await messages(ada).count(), 3);
  assert.equal(await ada.locator("#log .mine").count(), 2);
  assert.equal(await bob.locator("#log .mine").count(), 1);
  assert.deepEqual(await ada.locator("#log .text").allTextContents(), await bob.locator("#log .text").allTextContents());

  await ada.locator("#log .seen", { hasText: "Seen by Bob" }).waitFor();

  await bob.getByLabel("Message", { exact: true }).pressSequentially("one mom");
  await ada.locator("#typing", { hasText: "Bob is typing…" }).waitFor();
  await shot(ada, "two-tabs-light");
  await shot(bob, "two-tabs-dark");
  await bob.keyboard.press("Enter");
  await shows(ada, "one mom");
  await ada.waitForFunction(() => document.getElementById("typing").textContent === "");

  await bob.close();
  await ada.locator("#log .system", { hasText: "Bob left" }).waitFor();
  assert.equal(await ada.locator("#members li").count(), 1);
});

test("history is there after a reload, and earlier pages on demand", async () => {
  const room = unique("room");
  const ada = await tab("Ada", room);
  for (let n = 1; n <= 60; n += 1) await say(ada, `message number ${n}.`);
  await shows(ada, "message number 60.");
  await ada.locator("#log .sending").first().waitFor({ state: "detached" });
  await ada.reload();
  await shows(ada, "message number 60.");
  assert.equal(await messages(ada).count(), 50);
  assert.equal(await ada.locator("#log .mine").count(), 50, "one's own messages are known again");
  await ada.getByRole("button", { name: "Load earlier" }).click();
  await shows(ada, "message number 1.");
  const expected = Array.from({ length: 60 }, (_, n) => `message number ${n + 1}.`);
  assert.deepEqual(await ada.locator("#log .text").allTextContents(), expected);
  await ada.getByRole("button", { name: "Load earlier" }).waitFor({ state: "hidden" });
  await shot(ada, "history");
});

test("rooms are joined, counted and left", async () => {
  const [first, second] = [unique("first"), unique("second")];
  const ada = await tab("Ada", first);
  const bob = await tab("Bob", first);
  for (const page of [ada, bob]) {
    await page.getByLabel("Name of the room to join").fill(second);
    await page.getByRole("button", { name: "Join" }).click();
    await page.getByRole("heading", { name: second }).waitFor();
  }
  await ada.locator("#members li", { hasText: "Bob" }).waitFor();
  await ada.getByRole("button", { name: first }).click();
  await say(bob, "are you there?");
  await ada.locator("#rooms .room", { hasText: second }).locator(".badge", { hasText: "1" }).waitFor();
  assert.equal(await ada.title(), "(1) Fanfare");
  await ada.getByRole("button", { name: second }).click();
  await shows(ada, "are you there?");
  await ada.getByRole("button", { name: "Leave" }).click();
  await bob.locator("#log .system", { hasText: "Ada left" }).waitFor();
  assert.deepEqual(await ada.locator("#rooms .room .name").allTextContents(), [first]);
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

test("errors are told in words, and the draft survives", async () => {
  const ada = await tab("Ada", unique("room"));
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
});

test("a bad token is refused in words, a guest's name can be changed", async () => {
  const ada = await tab("Ada", unique("room"));
  ada.expected = true; // the browser reports connections closed while they open
  await ada.locator("#identity summary").click();
  await ada.locator("#token").fill("nonsense");
  await ada.getByRole("button", { name: "Use" }).click();
  await ada.locator("#notices .notice", { hasText: "Invalid token (UNAUTHORIZED)" }).waitFor();
  assert.equal(await ada.locator("#link").getAttribute("data-state"), "down");
  await shot(ada, "refused");
  await ada.locator("#token").fill("");
  await ada.locator("#name").fill("Ada Lovelace");
  await ada.getByRole("button", { name: "Use" }).click();
  await ada.locator('#link[data-state="connected"]').waitFor();
  await ada.locator("#members li", { hasText: "Ada Lovelace" }).waitFor();
});

test("a message written offline is sent when the connection is back", async () => {
  const room = unique("room");
  const ada = await tab("Ada", room);
  const bob = await tab("Bob", room);
  bob.expected = true; // the browser reports the lost connections
  await bob.context().setOffline(true);
  await bob.evaluate(() => window.dispatchEvent(new Event("offline")));
  await bob.locator('#link[data-state="waiting"]').waitFor();
  await say(bob, "from the tunnel");
  await bob.locator("#log .waiting").waitFor();
  await shot(bob, "offline");
  await say(ada, "while you were away");
  await bob.context().setOffline(false);
  await bob.locator('#link[data-state="connected"]').waitFor();
  await shows(bob, "while you were away");
  await shows(ada, "from the tunnel");
  await bob.locator("#log .waiting").waitFor({ state: "detached" });
  assert.deepEqual(await bob.locator("#log .text").allTextContents(), ["while you were away", "from the tunnel"]);
});

test("the server's counts are shown", async () => {
  const ada = await tab("Ada", unique("room"));
  await ada.waitForFunction(() => Number(document.getElementById("stat-connections").textContent) >= 1);
  for (const name of ["users", "rooms", "messages"]) {
    assert.match(await ada.locator(`#stat-${name}`).textContent(), /^\d/);
  }
  assert.match(await ada.locator("#stat-uptime").textContent(), /^\d+ (s|min|h|d)$/);
});

test("everything can be done by keyboard, and everything has a name", async () => {
  const ada = await tab("Ada", unique("room"));
  await say(ada, "first");
  await ada.keyboard.press("Escape");
  assert.equal(await ada.evaluate(() => document.activeElement === document.body), true);
  const unnamed = await ada.locator("button, input, textarea, a, summary").evaluateAll((nodes) => nodes
    .filter((node) => !node.textContent.trim() && !node.labels?.length && !node.getAttribute("aria-label"))
    .map((node) => node.outerHTML));
  assert.deepEqual(unnamed, []);
  const reached = new Set();
  await ada.evaluate(() => document.body.focus());
  for (let n = 0; n < 20; n += 1) {
    await ada.keyboard.press("Tab");
    const { id, outlined } = await ada.evaluate(() => {
      const node = document.activeElement;
      return { id: node.id || node.className || node.tagName, outlined: getComputedStyle(node).outlineStyle !== "none" };
    });
    if (id !== "BODY") assert.ok(outlined, `the focus on ${id} can be seen`);
    reached.add(id);
  }
  for (const id of ["room", "join-name", "SUMMARY", "leave", "scroll", "text", "send"]) assert.ok(reached.has(id), `${id} of ${[...reached]}`);
});

test("it fits a telephone", async () => {
  const ada = await tab("Ada", unique("room"), { width: 390, height: 780 });
  await say(ada, "from the train");
  await shows(ada, "from the train");
  assert.equal(await ada.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), true);
  assert.equal(await ada.getByRole("button", { name: "Send" }).isVisible(), true);
  await shot(ada, "narrow");
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
