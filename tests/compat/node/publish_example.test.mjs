// The example of a serverless route, with a browser's client that hears of it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { POST } from "../../../examples/publish/route.mjs";
import { heardOne, unheard, user, wait } from "./support.mjs";

test("a route without a socket tells the user's clients", async () => {
  const [ada, bob] = [await user("/chat"), await user("/chat")];
  const request = () =>
    new Request("http://app/api/orders", { method: "POST", body: JSON.stringify({ orderId: "o-1", userId: ada.userId, total: 42 }) });
  const response = await POST(request());
  assert.equal(response.status, 201);
  const { eventId } = await response.json();
  assert.deepEqual(await heardOne(ada, "order-placed"), { orderId: "o-1", total: 42 });
  assert.equal((await (await POST(request())).json()).eventId, eventId, "run again by the platform");
  await wait(300);
  assert.deepEqual([unheard(ada, "order-placed"), unheard(bob, "order-placed")], [[], []]);
});
