// Servers and the clients that they reach. The rest of the settings are those of support.mjs; besides:
// FANFARE_URLS        where clients connect, comma-separated, in turn
// FANFARE_PUBLISHERS  `http://HOST:PORT` of the publisher API, comma-separated, in turn
import assert from "node:assert/strict";
import { io } from "socket.io-client";
import { connected, keep, token, unique } from "./support.mjs";

const urls = process.env.FANFARE_URLS.split(",");
export const publishers = process.env.FANFARE_PUBLISHERS.split(",");
export const key = process.env.FANFARE_API__KEY;
let turn = 0;

/** A connected user of that name, at the next gateway. */
export async function user(sub = unique("user"), namespace = "/chat", options = {}) {
  const auth = { token: token({ sub, username: `name of ${sub}` }) };
  const socket = keep(
    io(urls[turn++ % urls.length] + namespace, { forceNew: true, autoConnect: false, reconnectionDelay: 50, auth, ...options }),
  );
  socket.userId = sub;
  return connected(socket);
}

/** Several of them. */
export const users = (count) => Promise.all(Array.from({ length: count }, () => user()));

/** The answer of the API: `{status, body}`. */
export async function ask(operation, body, headers = {}) {
  const response = await fetch(`${publishers[turn++ % publishers.length]}/v1/${operation}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }), ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
  return { status: response.status, body: await response.json() };
}

/** The same, of one that must succeed. */
export async function call(operation, body, headers) {
  const answer = await ask(operation, body, headers);
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  return answer.body;
}
