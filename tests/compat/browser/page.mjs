// The page in Chromium, for the tests of this directory: tabs of their own people, and what they see.
//
// Environment: FANFARE_URL, CHROMIUM (path of the browser), SCREENSHOTS (a directory; none are taken without).
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, afterEach, before } from "node:test";
import { chromium } from "playwright-core";

export const url = process.env.FANFARE_URL;
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

export const unique = (prefix) => `${prefix}-${Math.random().toString(36).slice(2, 10)}`;

/** A page of a browser of its own. `expected`: complaints of the browser are part of the test. */
export async function page({ dark = false, width = 1200, height = 760, expected = false } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: dark ? "dark" : "light" });
  context.setDefaultTimeout(WITHIN);
  contexts.push(context);
  const opened = await context.newPage();
  opened.expected = expected;
  opened.on("pageerror", (error) => complaints.push(error.stack));
  opened.on("console", (line) => {
    if (["error", "warning"].includes(line.type()) && !opened.expected) complaints.push(`${line.text()} ${line.location().url}`);
  });
  return opened;
}

/** A tab of its own person, signed in by name, in a room. */
export async function tab(name, room, how = {}) {
  const opened = await page(how);
  await how.before?.(opened);
  await opened.goto(`${url}/#${new URLSearchParams({ room, name })}`);
  await inside(opened, how.state);
  return opened;
}

/** Waits until a page is connected and in its room. */
export async function inside(opened, state = "connected") {
  await opened.locator(`#link[data-state="${state}"]`).waitFor();
  if (state === "connected") await opened.locator("#room-count", { hasText: /\d/ }).waitFor();
}

/** What a page emits in /chat from now on, over either transport: answers `[event, payload]` of each so far. */
export function emitted(opened) {
  const packets = [];
  opened.on("websocket", (socket) => socket.on("framesent", ({ payload }) => packets.push(String(payload))));
  opened.on("request", (request) => request.url().includes("/socket.io/") && packets.push(...(request.postData() ?? "").split("\x1e")));
  return () => packets.map((packet) => /^42\/chat,\d*(\[.*)$/s.exec(packet)).filter(Boolean).map(([, json]) => JSON.parse(json));
}

export async function say(opened, text) {
  await opened.getByLabel("Message", { exact: true }).fill(text);
  await opened.keyboard.press("Enter");
}

export const messages = (opened) => opened.locator("#log .message");
export const shows = (opened, text) => messages(opened).filter({ hasText: text }).first().waitFor();
export const texts = (opened) => opened.locator("#log .text").allTextContents();
export const delivered = (opened, text) => messages(opened).filter({ hasText: text }).locator(".delivered").waitFor();
export const shot = async (opened, name) => screenshots && opened.screenshot({ path: join(screenshots, `${name}.png`) });
