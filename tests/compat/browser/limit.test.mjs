// The page at a limit of few events a window (FANFARE_LIMITS__EVENTS, __WINDOW_SECONDS).
import assert from "node:assert/strict";
import { test } from "node:test";
import { delivered, say, shot, tab, texts, unique } from "./page.mjs";

const events = Number(process.env.FANFARE_LIMITS__EVENTS);

test("at the limit the page counts down, and sends the rest by itself, in order", async () => {
  const ada = await tab(unique("Ada"), unique("room"));
  const said = Array.from({ length: events + 2 }, (_, n) => `message number ${n + 1}.`);
  for (const text of said) await say(ada, text);
  await ada.locator("#limit .reached", { hasText: /\d+ s/ }).waitFor();
  assert.ok(await ada.locator("#log .waiting").count());
  await shot(ada, "limit");
  await delivered(ada, said.at(-1));
  await ada.locator("#limit .reached").waitFor({ state: "detached" });
  assert.deepEqual(await texts(ada), said);
});
