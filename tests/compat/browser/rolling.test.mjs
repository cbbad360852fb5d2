// Every role is replaced while two people type: nothing is lost, nothing comes twice, and a draft stays.
//
// Environment: FANFARE_URL (something before the gateways), JWT_SECRET; DIRECTORY, where the file `ready` asks for the
// restart and the file `restarted` tells of its end.
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { token } from "../node/support.mjs";
import { host } from "./host.mjs";
import { delivered, page, say, texts, unique, url } from "./page.mjs";

const file = (name) => join(process.env.DIRECTORY, name);
const restarted = () => existsSync(file("restarted"));

test("a rolling restart while people type", async () => {
  const site = await host(url);
  const room = unique("room");
  const people = await Promise.all(["Ada", "Bob"].map(async (name) => {
    const opened = await page({ expected: true });
    await opened.goto(`${site}/#${new URLSearchParams({ room })}`);
    await opened.locator("summary", { hasText: "token" }).click();
    await opened.locator("#token").fill(token({ sub: unique(name.toLowerCase()), username: name }));
    await opened.getByRole("button", { name: "Sign in" }).click();
    await opened.locator('#link[data-state="connected"]').waitFor();
    return opened;
  }));
  await people[0].locator("#members li", { hasText: "Bob" }).waitFor();
  writeFileSync(file("ready"), "");
  const said = [[], []];
  let rounds = 0;
  for (let after = 0; after < 3; after += restarted() ? 1 : 0) {
    rounds += 1;
    for (const [n, opened] of people.entries()) {
      const text = `round ${rounds} of ${["Ada", "Bob"][n]}.`;
      await opened.getByLabel("Message", { exact: true }).pressSequentially(text);
      assert.equal(await opened.getByLabel("Message", { exact: true }).inputValue(), text, "the draft stays");
      await opened.keyboard.press("Enter");
      said[n].push(text);
    }
  }
  for (const [n, opened] of people.entries()) await delivered(opened, said[n].at(-1));
  for (const [n, opened] of people.entries()) await opened.locator("#log .text", { hasText: said[1 - n].at(-1) }).waitFor();
  const [ada, bob] = await Promise.all(people.map(texts));
  assert.deepEqual(ada, bob, "both see one order");
  for (const own of said) assert.deepEqual(ada.filter((text) => own.includes(text)), own, "each once, in the order written");
  assert.equal(ada.length, 2 * rounds);
  await say(people[0], "after all");
  await delivered(people[0], "after all");
});
