// One script of the stock client and of raw packets, run against npm's socket.io and against Fanfare; the
// transcripts are the same, but for the differences that differences.mjs names with their reasons.
//
// Environment: FANFARE_URL, the URL of Fanfare's example `protocol_suites`.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { cases } from "./cases.mjs";
import { differences } from "./differences.mjs";
import { reference } from "./reference.mjs";

const url = process.env.FANFARE_URL;
if (!url) throw new Error("FANFARE_URL is not set: the URL of the example protocol_suites");

let theirs;
before(async () => { theirs = await reference(); });
after(() => theirs.close());

async function transcript(at, run) {
  const lines = [];
  await run(at, (line) => lines.push(line));
  return lines;
}

for (const [name, run] of cases) {
  test(name, { timeout: 60_000 }, async () => {
    const [expected, seen] = await Promise.all([transcript(theirs.url, run), transcript(url, run)]);
    const known = differences.get(name);
    if (!known) return assert.deepEqual(seen, expected);
    assert.deepEqual(seen, known.fanfare, `a known difference: ${known.reason}`);
    assert.notDeepEqual(seen, expected, "no difference any more: take it off the list");
  });
}

test("every known difference belongs to a case and has a reason", () => {
  for (const [name, { reason }] of differences) {
    assert.ok(cases.has(name), name);
    assert.ok(reason);
  }
});
