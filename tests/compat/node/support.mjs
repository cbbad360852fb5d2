// What the scenario files share: clients that write down everything they hear, tokens, answers.
import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { afterEach } from "node:test";
import { io } from "socket.io-client";

export const url = process.env.FANFARE_URL ?? "";
if (!url) throw new Error("FANFARE_URL is not set: the URL of the server under test");
const secret = process.env.JWT_SECRET ?? "";
if (!secret) throw new Error("JWT_SECRET is not set: the secret the server under test checks tokens with");

/** How long the server may announce a lost user late, by its settings. */
export const graceMs = Number(process.env.FANFARE_PRESENCE__GRACE_SECONDS ?? 5) * 1000;

// Long enough for a busy machine; nothing here measures speed.
const WITHIN_MS = 20_000;

/** websocket, polling, or upgrade: polling first, then WebSocket, as clients do by default. */
export const mode = process.env.FANFARE_TRANSPORT ?? "upgrade";
const TRANSPORTS = { websocket: ["websocket"], polling: ["polling"], upgrade: ["polling", "websocket"] };
if (!TRANSPORTS[mode]) throw new Error(`FANFARE_TRANSPORT is ${mode}: one of ${Object.keys(TRANSPORTS)}`);

const sockets = new Set();
afterEach(() => {
  for (const socket of sockets) socket.disconnect();
  sockets.clear();
});

/** A name nobody else uses. */
export const unique = (prefix) => `${prefix}-${randomBytes(6).toString("hex")}`;

/** A token as the application would mint it. */
export function token(claims, { alg = "HS256", key = secret } = {}) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const body = `${part({ alg, typ: "JWT" })}.${part({ exp: Math.floor(Date.now() / 1000) + 3600, ...claims })}`;
  if (alg === "none") return `${body}.`;
  return `${body}.${createHmac("sha256", key).update(body).digest("base64url")}`;
}

/**
 * A client, not yet connected. Every event it ever hears is kept until somebody asks for it with `heard`, so no
 * listener can come too late.
 */
export function client(namespace, auth = {}, options = {}) {
  const socket = io(url + namespace, {
    transports: TRANSPORTS[mode],
    forceNew: true,
    autoConnect: false,
    reconnectionDelay: 50,
    reconnectionDelayMax: 200,
    auth,
    ...options,
  });
  return keep(socket);
}

/** Keeps what a socket hears, and closes it after the test. */
export function keep(socket) {
  sockets.add(socket);
  socket.journal = [];
  socket.waiting = new Set();
  const note = (event, args) => {
    socket.journal.push({ event, args });
    for (const look of socket.waiting) look();
  };
  socket.onAny((event, ...args) => note(event, args));
  for (const event of ["connect", "connect_error", "disconnect"]) socket.on(event, (...args) => note(`(${event})`, args));
  return socket;
}

/** The oldest event of this name that fits and was not asked for before; waits for it. Answers its arguments. */
export function heard(socket, event, fits = () => true) {
  return new Promise((resolve, reject) => {
    const look = () => {
      const at = socket.journal.findIndex((note) => note.event === event && fits(...note.args));
      if (at < 0) return;
      const [note] = socket.journal.splice(at, 1);
      socket.waiting.delete(look);
      clearTimeout(timer);
      resolve(note.args);
    };
    const timer = setTimeout(() => {
      socket.waiting.delete(look);
      const others = socket.journal.map((note) => `${note.event} ${JSON.stringify(note.args)}`.slice(0, 200)).join("\n  ");
      reject(new Error(`no "${event}" that fits in ${WITHIN_MS} ms; heard and not asked for:\n  ${others || "nothing"}`));
    }, WITHIN_MS);
    socket.waiting.add(look);
    look();
  });
}

/** The first argument of it. */
export const heardOne = async (...args) => (await heard(...args))[0];

/** All events of a name heard so far and not asked for. */
export const unheard = (socket, event) => socket.journal.filter((note) => note.event === event).map((note) => note.args[0]);

/** Connects and waits for it. */
export async function connected(socket) {
  socket.connect();
  await heard(socket, "(connect)");
  return socket;
}

/** A connected user of that name, with a token. */
export async function user(namespace, claims = {}, options = {}) {
  const sub = claims.sub ?? unique("user");
  const socket = client(namespace, { token: token({ sub, username: `name of ${sub}`, ...claims }) }, options);
  socket.userId = sub;
  socket.username = claims.username ?? `name of ${sub}`;
  return connected(socket);
}

/** Users in a room, joined one after the other. */
export async function members(namespace, roomId, count) {
  const all = await Promise.all(Array.from({ length: count }, () => user(namespace)));
  for (const socket of all) await ok(socket, "join-room", { roomId });
  return all;
}

/** Emits and waits for the ack. */
export const ask = (socket, event, ...args) => socket.timeout(WITHIN_MS).emitWithAck(event, ...args);

/** The same; the ack must be one of success. */
export async function ok(socket, event, ...args) {
  const answer = await ask(socket, event, ...args);
  assert.equal(answer?.status, "ok", `${event}: ${JSON.stringify(answer)}`);
  return answer;
}

/** The same; the ack must be an error object of this code. */
export async function refused(socket, code, event, ...args) {
  const answer = await ask(socket, event, ...args);
  isError(answer, code);
  return answer;
}

/** Whether it is an error object of this code. */
export function isError(answer, code) {
  assert.equal(answer?.status, "error", `an error was expected: ${JSON.stringify(answer)}`);
  assert.equal(answer.code, code, JSON.stringify(answer));
  assert.equal(typeof answer.message, "string");
  assert.notEqual(answer.message, "");
}

/** The sequence number in an offset "<partition>-<sequence>". */
export function sequence(offset) {
  assert.match(offset, /^\d+-\d+$/);
  return BigInt(offset.split("-")[1]);
}

/** A point in time as the server writes it, and it is about now. */
export function isNow(time) {
  const at = new Date(time).getTime();
  assert.ok(Math.abs(Date.now() - at) < 120_000, `about now was expected: ${time}`);
}

export const wait = (ms) => new Promise((wake) => setTimeout(wake, ms));
