// The chat itself: the connection, the rooms and what the server says about them. It knows nothing of the page
// but the hooks that `attach` sets.

const HISTORY = 50;           // messages a page
const ANSWER_MS = 10000;      // how long an ack may take
const TYPING_EVERY_MS = 2500; // the server ends "typing" after 5 s
const READ_AFTER_MS = 1000;   // read marks are events too: at most one a second
const MEMBERS_EVERY_MS = 1000;

/* What the page hears: changed(room, how), link(state, text), notice(text), refused(), and is asked: reading(room). */
let page;

// ---- what this tab remembers over a reload (sessionStorage: two tabs are two people) ----

const memory = {
  get(key, otherwise) {
    try { return JSON.parse(sessionStorage.getItem(key)) ?? otherwise; } catch { return otherwise; }
  },
  set(key, value) {
    try { sessionStorage.setItem(key, JSON.stringify(value)); } catch { /* private mode: forget */ }
  },
};

export const me = {
  name: memory.get("name", "") || inventedName(),
  token: "",
  ids: new Set(memory.get("ids", [])),   // user ids this tab has had: a guest's may change
  sent: new Set(memory.get("sent", [])), // clientIds of messages sent from here
  is(userId) { return this.ids.has(userId); },
  wrote(message) { return this.ids.has(message.userId) || this.sent.has(message.clientId); },
  know(userId) {
    if (!userId || this.ids.has(userId)) return;
    this.ids.add(userId);
    memory.set("ids", [...this.ids].slice(-20));
  },
};

function inventedName() {
  const pick = (list) => list[crypto.getRandomValues(new Uint32Array(1))[0] % list.length];
  return `${pick(["Amber", "Brave", "Calm", "Clear", "Copper", "Early", "Gentle", "Golden", "Lively", "Lucky", "Mellow",
    "Misty", "Quiet", "Rapid", "Silver", "Sunny", "Velvet", "Vivid"])} ${pick(["Bugle", "Cello", "Clarinet", "Cornet",
    "Drum", "Fiddle", "Flute", "Gong", "Harp", "Horn", "Lute", "Oboe", "Organ", "Piccolo", "Trumpet", "Tuba", "Viola"])}`;
}

// randomUUID exists on secure origins only, and the demo may be opened by its address in the local network.
function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
}

/** The claims of a token, for showing only: the server alone judges it. */
export function claims(jwt) {
  try {
    const part = jwt.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
  } catch { return {}; }
}

// ---- rooms and messages ----

export const rooms = new Map(); // roomId → Room, in the order joined
export const names = new Map(); // userId → username

class Room {
  constructor(id) {
    this.id = id;
    this.messages = [];        // in the log's order, those not yet in it at the end
    this.members = new Map();  // userId → {userId, username, connectedAt}
    this.typing = new Map();   // userId → {username, timer}
    this.reads = new Map();    // userId → id of the last message read
    this.count = 0;
    this.unread = 0;
    this.hasEarlier = false;
    this.draft = "";
    this.marked = "";          // the message of our own read mark
    this.markingSoon = false;
    this.expected = new Map(); // userId → place in the log, for those announced whose names are not known yet
    this.ask = false;          // somebody came since the members were last asked for
    this.asking = false;
  }

  /** Takes a message as the server tells it; answers whether it was new. */
  take(message) {
    names.set(message.userId, message.username);
    if (message.clientId && me.sent.has(message.clientId)) me.know(message.userId);
    const known = this.messages.find((m) => m.id === message.id || (m.state && m.clientId === message.clientId));
    if (known) Object.assign(known, message, { state: undefined, error: undefined });
    else this.messages.push({ ...message });
    this.sort();
    return !known;
  }

  /** The place in the log where something said now belongs. */
  now() {
    const last = this.last();
    return last ? sequence(last.offset) + 0.5 : 0;
  }

  say(text, place = this.now()) {
    this.messages.push({ system: text, place });
    this.sort();
  }

  sort() {
    const place = (m) => m.place ?? (m.offset ? sequence(m.offset) : Number.MAX_SAFE_INTEGER);
    this.messages.sort((a, b) => place(a) - place(b));
  }

  first() { return this.messages.find((m) => m.offset); }
  last() { return this.messages.findLast((m) => m.offset); }
}

// An offset is "<partition>-<sequence>", and a room stays in one partition.
function sequence(offset) {
  return Number(offset.slice(offset.lastIndexOf("-") + 1));
}

const rememberRooms = () => memory.set("rooms", [...rooms.keys()]);

// ---- the connection ----

export const socket = window.io("/chat", {
  autoConnect: false,
  auth: (give) => give(me.token ? { token: me.token } : { username: me.name }),
});

/** Emits and waits for the ack; a failure is thrown as the error object the server sends. */
function request(event, payload) {
  return new Promise((resolve, reject) => {
    socket.timeout(ANSWER_MS).emit(event, payload, (error, answer) => {
      if (error) reject({ code: socket.connected ? "NO_ANSWER" : "OFFLINE" });
      else if (answer?.status === "ok") resolve(answer);
      else reject(answer ?? {});
    });
  });
}

/** Sets the hooks, brings back what this tab remembers, connects. */
export function attach(hooks) {
  page = hooks;
  memory.set("name", me.name);
  for (const roomId of memory.get("rooms", [])) rooms.set(roomId, new Room(roomId));
}

export function connect() {
  page.link("connecting", "Connecting…");
  socket.connect();
}

/** Connects anew as somebody else. */
export function becomes(name, token) {
  me.name = name;
  me.token = token;
  memory.set("name", name);
  socket.disconnect();
  connect();
}

socket.on("connect", () => {
  page.link("connected", "Connected");
  socket.io.engine.once("upgrade", () => page.link("connected", "Connected"));
  for (const room of rooms.values()) enter(room);
});
socket.on("disconnect", (reason) => {
  for (const room of rooms.values()) for (const userId of [...room.typing.keys()]) setTyping(room, userId, "", false);
  if (socket.active) page.link("waiting", "Connection lost, reconnecting…");
  else if (reason !== "io client disconnect") page.link("down", "Disconnected by the server");
});
socket.on("connect_error", (error) => {
  if (socket.active) return page.link("waiting", "No connection, trying again…");
  page.link("down", "Refused");
  page.notice(`The server refused: ${error.message}${error.data?.code ? ` (${error.data.code})` : ""}`);
  page.refused();
});
socket.io.on("reconnect_attempt", (attempt) => page.link("waiting", `Reconnecting, attempt ${attempt}…`));

// ---- what the server says ----

/** Hears an event of a room this tab is in. */
function hear(event, take) {
  socket.on(event, (payload) => {
    const room = rooms.get(payload.roomId);
    if (!room) return;
    take(room, payload);
    page.changed(room);
  });
}

hear("message", (room, message) => {
  const fresh = room.take(message);
  setTyping(room, message.userId, "", false);
  if (fresh && !me.wrote(message) && !page.reading(room)) room.unread += 1;
  markRead(room);
});
hear("user-typing", (room, { userId, username, isTyping }) => {
  if (!me.is(userId)) setTyping(room, userId, username, isTyping);
});
hear("messagesRead", (room, { userId, messageId }) => room.reads.set(userId, messageId));
hear("room-presence", (room, { usersCount, userId, action }) => {
  room.count = usersCount;
  if (action === "left") {
    room.members.delete(userId);
  } else if (userId && !room.members.has(userId)) {
    room.expected.set(userId, room.now());
    refreshMembers(room);
  }
});
hear("user-left", (room, { userId, username }) => {
  room.members.delete(userId);
  setTyping(room, userId, "", false);
  if (!me.is(userId)) room.say(`${username} left`);
});
socket.on("error", (error) => page.notice(explain(error)));
socket.on("rate-limit-warning", ({ event, remaining, limit, resetIn }) => {
  page.notice(`Close to the limit: ${remaining} of ${limit} left${event ? ` for ${event}` : ""}, more in ${resetIn} s.`);
});

const WORDS = {
  VALIDATION_ERROR: "The server did not accept this",
  UNAUTHORIZED: "The server does not know who you are",
  FORBIDDEN: "You may not do this",
  NOT_FOUND: "There is no such thing",
  RATE_LIMITED: "Too many events",
  PAYLOAD_TOO_LARGE: "This is too large",
  NO_HANDLER: "The server has no handler for this event",
  UNAVAILABLE: "The server cannot do this right now",
  INTERNAL: "The server failed",
  NO_ANSWER: "The server did not answer in time",
  OFFLINE: "The connection was lost",
};

/** The error object in words. */
export function explain({ code, message, details, retryAfter }) {
  const parts = [WORDS[code] ?? "This failed"];
  if (message) parts[0] += `: ${message}`;
  for (const { path, message: why } of details ?? []) parts.push(path ? `${path}: ${why}` : why);
  if (retryAfter) parts.push(`Try again in ${retryAfter} s`);
  return `${parts.map((part) => part.replace(/\.$/, "")).join(". ")}.${code ? ` (${code})` : ""}`;
}

// ---- rooms: joining, leaving, members, history ----

/** The room of that name, joined if it was not. */
export function join(roomId) {
  let room = rooms.get(roomId);
  if (!room) {
    room = new Room(roomId);
    rooms.set(roomId, room);
    rememberRooms();
    if (socket.connected) enter(room);
  }
  return room;
}

async function enter(room) {
  const before = room.last();
  try {
    const answer = await request("join-room", { roomId: room.id, history: HISTORY });
    const found = answer.messages ?? [];
    room.count = answer.usersCount;
    // After an absence longer than a page the rest is read from where we were.
    if (before && found.length === HISTORY && sequence(found[0].offset) > sequence(before.offset)) {
      await catchUp(room, before.offset, found[0].offset);
    }
    if (!before) room.hasEarlier = found.length === HISTORY;
    for (const message of found) room.take(message);
    refreshMembers(room);
    for (const message of room.messages.filter((m) => m.state === "waiting")) transmit(room, message);
    page.changed(room, { quiet: !before, toEnd: !before });
    markRead(room);
  } catch (error) {
    if (error.code === "OFFLINE") return;
    const short = room.id.length > 40 ? `${[...room.id].slice(0, 40).join("")}…` : room.id;
    page.notice(`Joining “${short}”: ${explain(error)}`);
    forget(room);
  }
}

async function catchUp(room, after, until) {
  for (let more = true; more;) {
    const answer = await request("getMessages", { roomId: room.id, after, limit: 200 });
    for (const message of answer.messages) room.take(message);
    after = answer.messages.at(-1)?.offset ?? until;
    more = answer.hasMore && sequence(after) < sequence(until);
  }
}

/** Reads the page of history before what is here. */
export async function loadEarlier(room) {
  const first = room.first();
  if (!first) return;
  try {
    const answer = await request("getMessages", { roomId: room.id, before: first.offset, limit: HISTORY });
    for (const message of answer.messages) room.take(message);
    room.hasEarlier = answer.hasMore;
    page.changed(room, { quiet: true, keepPlace: true });
  } catch (error) {
    page.notice(explain(error));
  }
}

export async function leave(room) {
  forget(room);
  if (!socket.connected) return;
  try {
    await request("leave-room", { roomId: room.id });
  } catch (error) {
    page.notice(explain(error));
  }
}

function forget(room) {
  rooms.delete(room.id);
  rememberRooms();
  page.changed(room);
}

// At most one question a second, and one more if something happened meanwhile.
async function refreshMembers(room) {
  room.ask = true;
  if (room.asking) return;
  room.asking = true;
  while (room.ask && socket.connected && rooms.get(room.id) === room) {
    room.ask = false;
    try {
      const { users } = await request("getOnlineUsers", { roomId: room.id });
      takeMembers(room, users);
    } catch (error) {
      if (error.code !== "OFFLINE") page.notice(explain(error));
    }
    await new Promise((wake) => setTimeout(wake, MEMBERS_EVERY_MS));
  }
  room.asking = false;
}

function takeMembers(room, users) {
  for (const user of users) names.set(user.userId, user.username);
  const namesakes = users.filter((user) => user.username === me.name);
  if (me.token) me.know(claims(me.token).sub);
  else if (namesakes.length === 1) me.know(namesakes[0].userId);
  room.members = new Map(users.map((user) => [user.userId, user]));
  room.count = users.length;
  for (const [userId, place] of room.expected) {
    const member = room.members.get(userId);
    if (member && !me.is(userId)) room.say(`${member.username} joined`, place);
  }
  room.expected.clear();
  page.changed(room);
}

// ---- sending, typing, reading ----

export function send(room, content) {
  const message = { clientId: newId(), content, username: me.name, type: "text", timestamp: Date.now(), state: "sending" };
  me.sent.add(message.clientId);
  memory.set("sent", [...me.sent].slice(-200));
  room.messages.push(message);
  transmit(room, message);
  page.changed(room, { toEnd: true });
}

/** Sends it, or again. The clientId stays the same, so a message whose ack was lost is still stored once. */
export async function transmit(room, message) {
  message.error = undefined;
  message.state = socket.connected ? "sending" : "waiting";
  page.changed(room);
  if (!socket.connected) return;
  try {
    const { clientId, content } = message;
    const { id, offset, timestamp } = await request("message", { roomId: room.id, content, type: "text", clientId });
    if (message.state) Object.assign(message, { id, offset, timestamp, state: undefined });
    room.sort();
  } catch (error) {
    if (!message.state) return; // its echo came, only the ack was lost
    message.state = error.code === "OFFLINE" ? "waiting" : "failed";
    message.error = message.state === "failed" ? explain(error) : undefined;
  }
  page.changed(room);
}

function setTyping(room, userId, username, isTyping) {
  clearTimeout(room.typing.get(userId)?.timer);
  room.typing.delete(userId);
  if (!isTyping) return;
  // The server ends it after 5 s; this only covers a lost last word.
  const timer = setTimeout(() => { room.typing.delete(userId); page.changed(room); }, 6500);
  room.typing.set(userId, { username, timer });
}

let typingSince = 0;
export function tellTyping(room, isTyping) {
  if (!room || !socket.connected) return;
  const now = Date.now();
  if (isTyping ? now - typingSince < TYPING_EVERY_MS : !typingSince) return;
  typingSince = isTyping ? now : 0;
  socket.volatile.emit("typing", { roomId: room.id, isTyping });
}

export function markRead(room) {
  if (room.markingSoon || !page.reading(room) || !socket.connected) return;
  room.markingSoon = true;
  setTimeout(async () => {
    room.markingSoon = false;
    const last = room.messages.findLast((m) => m.offset && !me.wrote(m));
    if (!last || last.id === room.marked || !page.reading(room)) return;
    room.marked = last.id;
    try {
      const { unread } = await request("markMessagesRead", { roomId: room.id, messageId: last.id });
      if (!page.reading(room)) room.unread = unread;
      page.changed(room);
    } catch (error) {
      room.marked = "";
      if (error.code !== "OFFLINE") page.notice(explain(error));
    }
  }, READ_AFTER_MS);
}
