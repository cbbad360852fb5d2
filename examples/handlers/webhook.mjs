// Handles events of `/chat` behind a webhook: `WEBHOOK_SECRET=… PORT=8080 node webhook.mjs`, and Fanfare with
// FANFARE_APP__WEBHOOK_URL=http://localhost:8080/ and FANFARE_APP__WEBHOOK_SECRET=….
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const secret = process.env.WEBHOOK_SECRET;
if (!secret) throw new Error("WEBHOOK_SECRET is not set");
// Older requests may be somebody else's copies.
const WINDOW_S = 300;

function isGenuine(signature, body) {
  const [, time, hex] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(signature ?? "") ?? [];
  if (!time || Math.abs(Date.now() / 1000 - Number(time)) > WINDOW_S) return false;
  const expected = createHmac("sha256", secret).update(`${time}.`).update(body).digest();
  return timingSafeEqual(expected, Buffer.from(hex, "hex"));
}

const handlers = {
  /** `order {item}`: the caller joins the order's room, where everybody hears of it. */
  order({ args: [{ item }], user }) {
    const room = `order-${item}`;
    return {
      ack: [{ status: "ok", room }],
      join: [room],
      emit: [{ rooms: [room], event: "order-placed", args: [{ item, by: user.username }] }],
    };
  },
  /** `upload <bytes>`: answers how many they are, and the bytes in reverse. */
  upload({ args: [{ $binary }] }) {
    const data = Buffer.from($binary, "base64");
    return { ack: [data.length, { $binary: Buffer.from(data).reverse().toString("base64") }] };
  },
};

async function answer(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const body = Buffer.concat(chunks);
  if (!isGenuine(request.headers["fanfare-signature"], body)) return [401, {}];
  const message = JSON.parse(body);
  const handle = message.type === "event" && Object.hasOwn(handlers, message.event) && handlers[message.event];
  return handle ? [200, handle(message)] : [404, {}];
}

const server = createServer(async (request, response) => {
  const [status, body] = await answer(request).catch((error) => {
    console.error(error);
    return [500, {}];
  });
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
});
server.listen(Number(process.env.PORT ?? 8080), () => console.log(`listening on ${server.address().port}`));
