// The page on a cluster: two people in browsers of their own, each at a gateway of its own.
//
// Environment: FANFARE_GATEWAYS (their URLs, comma-separated), JWT_SECRET.
import assert from "node:assert/strict";
import { test } from "node:test";
import { token } from "../node/support.mjs";
import { host } from "./host.mjs";
import { delivered, page, say, shows, texts, unique } from "./page.mjs";

const gateways = process.env.FANFARE_GATEWAYS.split(",");

async function signedIn(site, name) {
  // No development tokens and no counts here: the browser reports the requests for them.
  const opened = await page({ expected: true });
  await opened.goto(site);
  await opened.locator("summary", { hasText: "token" }).click();
  await opened.locator("#token").fill(token({ sub: unique(name.toLowerCase()), username: name }));
  await opened.getByRole("button", { name: "Sign in" }).click();
  await opened.locator('#link[data-state="connected"]').waitFor();
  return opened;
}

test("login, room, message, read: two browsers on two gateways", async () => {
  const room = unique("room");
  const sites = await Promise.all(gateways.map(host));
  assert.ok(sites.length >= 2);
  const [ada, bob] = await Promise.all(["Ada", "Bob"].map((name, n) => signedIn(sites[n], name)));
  for (const opened of [ada, bob]) {
    await opened.getByLabel("Name of the room to join").fill(room);
    await opened.getByRole("button", { name: "Join" }).click();
    await opened.getByRole("heading", { name: room }).waitFor();
  }
  await ada.locator("#members li", { hasText: "Bob" }).waitFor();
  await say(ada, "Good morning, brass section!");
  await shows(bob, "Good morning, brass section!");
  await delivered(ada, "Good morning, brass section!");
  await ada.locator("#log .seen", { hasText: "Seen by Bob" }).waitFor();
  await bob.getByLabel("Message", { exact: true }).pressSequentially("one mom");
  await ada.locator("#typing", { hasText: "Bob is typing…" }).waitFor();
  await bob.keyboard.press("Enter");
  await shows(ada, "one mom");

  await ada.locator("#members li", { hasText: "Bob" }).getByRole("button", { name: "Message Bob" }).click();
  await ada.getByRole("heading", { name: "Bob" }).waitFor();
  await say(ada, "Do you have the key?");
  await delivered(ada, "Do you have the key?");
  await bob.locator("#members li", { hasText: "Ada" }).getByRole("button", { name: "Message Ada" }).click();
  await shows(bob, "Do you have the key?");
  await say(bob, "In my pocket.");
  await shows(ada, "In my pocket.");
  assert.deepEqual(await texts(ada), await texts(bob));
});
