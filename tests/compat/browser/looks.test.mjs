// How the page looks and can be used: light and dark, wide and narrow, by keyboard, with a screen reader.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { page, say, shot, shows, tab, unique, url } from "./page.mjs";

const axe = readFileSync(new URL("../node_modules/axe-core/axe.min.js", import.meta.url), "utf8");

/** What axe finds, the serious and the critical. */
async function findings(opened) {
  // The page's own policy allows no foreign script; the tool comes in beside it.
  await opened.evaluate(axe);
  const { violations } = await opened.evaluate(() => globalThis.axe.run(document));
  return violations
    .filter(({ impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join("; ")}`);
}

for (const dark of [false, true]) {
  for (const [size, width, height] of [["wide", 1280, 800], ["narrow", 390, 780]]) {
    const look = `${dark ? "dark" : "light"}-${size}`;
    test(`axe finds nothing serious, and nothing is cut off: ${look}`, async () => {
      const room = unique("room");
      const how = { dark, width, height };
      const door = await page(how);
      await door.goto(url);
      await door.getByRole("button", { name: "Sign in" }).waitFor();
      assert.deepEqual(await findings(door), []);

      const ada = await tab("Ada", room, how);
      const bob = await tab("Bob", room, how);
      await say(ada, "Good morning, brass section!");
      await say(ada, "Second trumpet, please look at bar 42: the crescendo begins one beat later than in the print.");
      await say(bob, "Morning. On the train, will look at it this evening.");
      await shows(ada, "On the train");
      await bob.locator("#log .seen", { hasText: "Seen by Ada" }).waitFor();
      await say(ada, "y".repeat(5001));
      await ada.locator("#log .failed").waitFor();
      await ada.getByRole("button", { name: /^Notifications/ }).click();
      await ada.locator("#notifications").waitFor();
      assert.deepEqual(await findings(ada), []);
      await shot(ada, `failed-${look}`);
      await ada.keyboard.press("Escape");
      await ada.locator("#notifications").waitFor({ state: "detached" });
      await ada.getByRole("button", { name: "Discard" }).click();
      await bob.getByLabel("Message", { exact: true }).pressSequentially("one mom");
      await ada.locator("#typing", { hasText: "Bob is typing…" }).waitFor();
      assert.deepEqual(await findings(ada), []);
      await shot(ada, `chat-${look}`);
      for (const opened of [door, ada]) {
        assert.equal(await opened.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), true);
      }
      for (const name of ["Send", "Join", "Sign out"]) {
        assert.equal(await ada.getByRole("button", { name, exact: true }).isVisible(), true, name);
      }
    });
  }
}

test("everything can be done by keyboard, and the focus can be seen", async () => {
  const ada = await tab("Ada", unique("room"));
  await tab("Bob", await ada.locator("#room-title").textContent());
  await ada.locator("#members li", { hasText: "Bob" }).waitFor();
  await say(ada, "first");
  await ada.keyboard.press("Escape");
  assert.equal(await ada.evaluate(() => document.activeElement === document.body), true);
  const reached = new Set();
  for (let n = 0; n < 20; n += 1) {
    await ada.keyboard.press("Tab");
    const { name, outlined } = await ada.evaluate(() => {
      const node = document.activeElement;
      const name = node.getAttribute("aria-label") ?? node.labels?.[0]?.textContent ?? node.textContent;
      return { name: node === document.body ? "" : name, outlined: getComputedStyle(node).outlineStyle !== "none" };
    });
    if (name) assert.ok(outlined, `the focus on ${name} can be seen`);
    reached.add(name);
  }
  for (const name of ["Notifications", "Name of the room to join", "Join", "Sign out", "Leave", "Messages, scrollable", "Message", "Send", "Message Bob"]) {
    assert.ok(reached.has(name), `${name} of ${[...reached]}`);
  }
});
