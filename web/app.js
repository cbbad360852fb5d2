// The page: draws the chat and hands on what the user does. What others wrote only ever reaches the page as text
// content, so nothing in it can become markup.

import * as chat from "./chat.js";

const { rooms, names, me, socket } = chat;
const STATS_EVERY_MS = 3000;
const NOTICE_MS = 12000;
const CONTENT_MAX = 5000;
const GROUP_MS = 300000; // messages of one author this close share a heading

const $ = (id) => document.getElementById(id);
let active = null;
let previous = null; // where a refused or left room sends back to

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}
const quiet = (textContent) => element("span", { className: "quiet", textContent });

// ---- the hooks ----

function link(state, text) {
  $("link").dataset.state = state;
  if ($("link-text").textContent !== text) $("link-text").textContent = text;
  $("link-detail").textContent = state === "connected" ? `${socket.io.engine.transport.name} · ${socket.id}` : "";
  $("connect").hidden = state !== "down";
}

function notice(text) {
  for (const shown of $("notices").children) if (shown.dataset.text === text) return;
  const close = element("button", { type: "button", className: "plain", textContent: "Dismiss" });
  const box = element("div", { className: "notice" }, element("span", { textContent: text }), close);
  box.dataset.text = text;
  close.addEventListener("click", () => box.remove());
  setTimeout(() => box.remove(), NOTICE_MS);
  $("notices").append(box);
}

let wanted = null;
/* Draws on the next frame. quiet: not to be read out; toEnd: scroll there; keepPlace: what was seen stays in place. */
function changed(room, how = {}) {
  if (active && rooms.get(active.id) !== active) show(rooms.get(previous?.id) ?? [...rooms.values()].at(-1) ?? null);
  if (!wanted) requestAnimationFrame(() => { const todo = wanted; wanted = null; draw(todo); });
  wanted = { ...wanted, ...(room === active ? how : {}) };
  const unread = [...rooms.values()].reduce((sum, one) => sum + one.unread, 0);
  document.title = unread ? `(${unread}) Fanfare` : "Fanfare";
}

function show(room) {
  if (active) active.draft = $("text").value;
  chat.tellTyping(active, false);
  if (active !== room) previous = active;
  active = room;
  if (room) room.unread = 0;
  $("text").value = room?.draft ?? "";
  fitText();
  history.replaceState(null, "", room ? `#${new URLSearchParams({ room: room.id })}` : "#");
  changed(room, { quiet: true, toEnd: true });
}

// ---- drawing ----

const scroll = $("scroll");
const atEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;

function draw({ quiet: unheard, toEnd, keepPlace }) {
  const stay = toEnd || atEnd();
  const { scrollTop, scrollHeight } = scroll;
  $("log").setAttribute("aria-live", unheard ? "off" : "polite");
  drawRooms();
  drawMe();
  drawLog();
  drawMembers();
  drawTyping();
  $("room-title").textContent = active ? active.id : "No room";
  $("room-count").textContent = active?.count ? `${active.count} ${active.count === 1 ? "person" : "people"}` : "";
  for (const id of ["leave", "composer"]) $(id).hidden = !active;
  $("earlier").hidden = !active?.hasEarlier;
  $("empty").hidden = !!active?.messages.some((m) => !m.system);
  $("empty-text").textContent = active ? "Nothing was said here yet." : "You are in no room. Join one.";
  $("empty-hint").hidden = !active;
  $("second").href = active ? `/#${new URLSearchParams({ room: active.id })}` : "/";
  if (keepPlace) scroll.scrollTop = scrollTop + scroll.scrollHeight - scrollHeight;
  else if (stay) scroll.scrollTop = scroll.scrollHeight;
  $("newest").hidden = atEnd();
}

function drawRooms() {
  const list = $("rooms");
  const focused = [...list.children].findIndex((item) => item.contains(document.activeElement));
  list.replaceChildren(...[...rooms.values()].map((room) => {
    const button = element("button", { type: "button", className: "room" }, element("span", { className: "name", textContent: room.id }));
    if (room === active) button.setAttribute("aria-current", "true");
    if (room.unread) {
      button.append(element("span", { className: "badge", textContent: room.unread }), element("span", { className: "unseen", textContent: " unread" }));
    }
    button.addEventListener("click", () => { show(room); chat.markRead(room); });
    return element("li", {}, button);
  }));
  if (focused >= 0) list.children[Math.min(focused, list.children.length - 1)]?.firstChild.focus();
}

function avatar(username) {
  const node = element("span", { className: "avatar", textContent: [...(username || "?")][0].toUpperCase() });
  node.dataset.tone = [...username].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) >>> 0, 7) % 8;
  node.setAttribute("aria-hidden", "true");
  return node;
}

function drawMe() {
  const claimed = chat.claims(me.token);
  const shown = me.token ? claimed.username ?? claimed.sub ?? "Unknown" : me.name;
  $("me").textContent = shown;
  $("me-kind").textContent = me.token ? claimed.role ?? "user" : "guest";
  $("me-avatar").replaceWith(Object.assign(avatar(shown), { id: "me-avatar" }));
}

function drawMembers() {
  const users = [...(active?.members.values() ?? [])];
  users.sort((a, b) => me.is(b.userId) - me.is(a.userId) || a.username.localeCompare(b.username));
  $("members").replaceChildren(...users.map((user) => {
    const item = element("li", {}, avatar(user.username), element("span", { className: "name", textContent: user.username }));
    if (me.is(user.userId)) item.append(quiet("you"));
    item.title = `${user.userId}, since ${new Date(user.connectedAt).toLocaleTimeString()}`;
    return item;
  }));
}

// messageId → names of those who have read so far and said nothing since.
function readers(room) {
  const seen = new Map();
  for (const [userId, messageId] of room?.reads ?? []) {
    const at = room.messages.findIndex((m) => m.id === messageId);
    const spoke = room.messages.findLastIndex((m) => m.userId === userId);
    if (me.is(userId) || spoke >= at) continue;
    seen.set(messageId, [...(seen.get(messageId) ?? []), names.get(userId) ?? userId]);
  }
  return seen;
}

// Messages keep their nodes, so that a screen reader hears only what is new.
const nodes = new WeakMap();
function drawLog() {
  const seen = readers(active);
  const log = $("log");
  let cursor = log.firstChild;
  let above = null;
  for (const message of active?.messages ?? []) {
    const drawn = nodes.get(message) ?? { node: element("div"), as: "" };
    nodes.set(message, drawn);
    const follows = !!above && !above.system && above.username === message.username
      && me.wrote(above) === me.wrote(message) && new Date(message.timestamp) - new Date(above.timestamp) < GROUP_MS;
    const seenBy = seen.get(message.id) ?? [];
    const as = JSON.stringify([message, follows, seenBy, me.wrote(message)]);
    if (drawn.as !== as) drawMessage(drawn.node, message, follows, seenBy);
    drawn.as = as;
    if (drawn.node === cursor) cursor = cursor.nextSibling;
    else log.insertBefore(drawn.node, cursor);
    above = message;
  }
  while (cursor) {
    const next = cursor.nextSibling;
    cursor.remove();
    cursor = next;
  }
}

function drawMessage(node, message, follows, seenBy) {
  if (message.system) {
    node.className = "system quiet";
    node.textContent = message.system;
    return;
  }
  const when = new Date(message.timestamp);
  const mine = me.wrote(message);
  node.className = ["message", mine && "mine", follows && "follows", message.state].filter(Boolean).join(" ");
  const time = element("time", {
    dateTime: when.toISOString(),
    title: when.toLocaleString(),
    textContent: when.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }),
  });
  const text = element("p", { className: "text", textContent: message.content });
  if (message.type !== "text") text.prepend(quiet(`${message.type}: `));
  const body = element("div", { className: "body" },
    element("p", { className: "by" }, element("b", { textContent: mine ? "You" : message.username }), time), text);
  const state = { sending: "Sending…", waiting: "Waiting for the connection…", failed: message.error }[message.state];
  if (state) {
    const line = element("p", { className: "state quiet", textContent: `${state} ` });
    if (message.state === "failed") {
      const again = element("button", { type: "button", className: "plain", textContent: "Try again" });
      const room = active;
      again.addEventListener("click", () => chat.transmit(room, message));
      line.append(again);
    }
    body.append(line);
  }
  if (seenBy.length) body.append(element("p", { className: "seen quiet", textContent: `Seen by ${seenBy.join(", ")}` }));
  node.replaceChildren(avatar(message.username), body);
}

function drawTyping() {
  const who = [...(active?.typing.values() ?? [])].map((user) => user.username);
  if (who.length === 0) $("typing").textContent = "";
  else if (who.length === 1) $("typing").textContent = `${who[0]} is typing…`;
  else if (who.length < 4) $("typing").textContent = `${who.slice(0, -1).join(", ")} and ${who.at(-1)} are typing…`;
  else $("typing").textContent = `${who.length} people are typing…`;
}

// ---- what the user does ----

function fitText() {
  const text = $("text");
  text.style.height = "auto";
  text.style.height = `${Math.min(text.scrollHeight + 2, 160)}px`;
  const length = [...text.value].length;
  $("length").textContent = length > CONTENT_MAX * 0.9 ? `· ${length} of ${CONTENT_MAX} characters` : "";
}

$("text").addEventListener("input", () => { fitText(); chat.tellTyping(active, $("text").value.trim() !== ""); });
$("text").addEventListener("blur", () => chat.tellTyping(active, false));
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const content = $("text").value.trim();
  if (!content || !active) return;
  chat.tellTyping(active, false);
  $("text").value = "";
  fitText();
  chat.send(active, content);
  $("text").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.activeElement?.matches("input, textarea")) document.activeElement.blur();
});
$("join").addEventListener("submit", (event) => {
  event.preventDefault();
  const roomId = $("join-name").value.trim();
  $("join-name").value = "";
  if (!roomId) return;
  show(chat.join(roomId));
  $("text").focus();
});
$("leave").addEventListener("click", () => active && chat.leave(active));
$("earlier").addEventListener("click", async () => {
  $("earlier").disabled = true;
  await chat.loadEarlier(active);
  $("earlier").disabled = false;
});
$("newest").addEventListener("click", () => { scroll.scrollTop = scroll.scrollHeight; $("text").focus(); });
scroll.addEventListener("scroll", () => {
  $("newest").hidden = atEnd();
  if (active) chat.markRead(active);
});
$("who").addEventListener("submit", (event) => {
  event.preventDefault();
  $("name").value = $("name").value.trim() || me.name;
  chat.becomes($("name").value, $("token").value.trim());
  $("identity").open = false;
  changed(active);
});
$("connect").addEventListener("click", () => chat.connect());
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !active) return;
  active.unread = 0;
  changed(active);
  chat.markRead(active);
});

// /#room=lobby&name=Ada
function followHash() {
  const params = new URLSearchParams(location.hash.slice(1));
  const roomId = params.get("room")?.trim();
  if (roomId) show(chat.join(roomId));
  return params.get("name")?.trim();
}
window.addEventListener("hashchange", () => {
  const name = followHash();
  if (name && name !== me.name) chat.becomes(name, "");
});

// ---- the server's counts ----

async function stats() {
  if (document.hidden) return;
  let counts = {};
  try {
    const answer = await fetch("/demo/stats", { signal: AbortSignal.timeout(STATS_EVERY_MS) });
    if (answer.ok) counts = await answer.json();
  } catch { /* the connection's state says it already */ }
  for (const key of ["connections", "users", "rooms", "messages"]) {
    $(`stat-${key}`).textContent = counts[key]?.toLocaleString() ?? "–";
  }
  $("stat-uptime").textContent = counts.uptime === undefined ? "–" : duration(counts.uptime);
}

function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}

// ---- start ----

chat.attach({
  changed,
  link,
  notice,
  refused: () => { $("identity").open = true; },
  reading: (room) => room === active && !document.hidden && atEnd(),
});
const linked = followHash();
if (!active) show([...rooms.values()].at(-1) ?? chat.join("lobby"));
chat.becomes(linked || me.name, "");
$("name").value = me.name;
stats();
setInterval(stats, STATS_EVERY_MS);
