// Stock clients as members of rooms, spread over the addresses of a cluster. They join, say so, publish once the room
// "control" hears "start", say so, and tell what they got once every room of theirs has heard "end".
//
// Environment: FANFARE_URLS (comma-separated), FANFARE_CLIENTS (how many at each URL), FANFARE_TRANSPORTS
// (comma-separated; the clients take them in turn), FANFARE_ROOMS (comma-separated; each client is in all),
// FANFARE_MESSAGES (how many each client publishes, to the rooms in turn), FANFARE_NAME (how the clients are called).
// Prints one JSON object a line: {joined}, {published}, {client, acknowledged, received}, {trouble}.
import { io } from "socket.io-client";

const list = (name) => (process.env[name] ?? "").split(",").filter(Boolean);
const urls = list("FANFARE_URLS");
const rooms = list("FANFARE_ROOMS");
const perUrl = Number(process.env.FANFARE_CLIENTS);
const count = Number(process.env.FANFARE_MESSAGES);
const name = process.env.FANFARE_NAME;
const TRANSPORTS = { websocket: ["websocket"], polling: ["polling"], upgrade: ["polling", "websocket"] };
const modes = list("FANFARE_TRANSPORTS");
const WITHIN_MS = 60_000;

const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);

async function ok(socket, event, payload) {
  const answer = await socket.timeout(WITHIN_MS).emitWithAck(event, payload);
  if (answer.status !== "ok") throw new Error(`${event} ${JSON.stringify(payload)}: ${JSON.stringify(answer)}`);
  return answer;
}

function start(url, mode, called) {
  const socket = io(`${url}/chat`, { transports: TRANSPORTS[mode], forceNew: true });
  const member = { socket, called, mode, acknowledged: [], received: [] };
  const trouble = (what, why) => say({ trouble: `${called} (${mode}): ${what}: ${why?.message ?? why}` });
  socket.on("connect_error", (error) => trouble("connect_error", error));
  socket.on("disconnect", (reason) => trouble("disconnect", reason));
  socket.on("error", (error) => trouble("error", JSON.stringify(error)));
  const open = new Set(rooms);
  const controlled = new Promise((resolve) => {
    socket.on("message", (message) => {
      if (message.roomId === "control") resolve();
    });
  });
  const ended = new Promise((resolve) => {
    socket.on("message", ({ roomId, id, offset, content }) => {
      if (roomId === "control") return;
      member.received.push({ room: roomId, id, offset, content });
      if (content === "end") open.delete(roomId);
      if (open.size === 0) resolve();
    });
  });
  member.join = async () => {
    if (!socket.connected) await new Promise((resolve) => socket.once("connect", resolve));
    for (const roomId of [...rooms, "control"]) await ok(socket, "join-room", { roomId });
    if (mode === "upgrade" && socket.io.engine.transport.name !== "websocket") {
      await new Promise((resolve) => socket.io.engine.once("upgrade", resolve));
    }
  };
  member.publish = async () => {
    await controlled;
    for (let number = 1; number <= count; number += 1) {
      const roomId = rooms[number % rooms.length];
      const content = `${called}:${number}`;
      const { id, offset } = await ok(socket, "message", { roomId, content, clientId: `${called}-${number}` });
      member.acknowledged.push({ room: roomId, id, offset, content });
    }
  };
  member.finish = async () => {
    await ended;
    // What comes twice may come a moment later.
    await new Promise((wake) => setTimeout(wake, 300));
    socket.off("disconnect");
    socket.disconnect();
    say({ client: called, acknowledged: member.acknowledged, received: member.received });
  };
  return member;
}

const members = urls.flatMap((url, at) =>
  Array.from({ length: perUrl }, (_, n) => start(url, modes[n % modes.length], `${name}-${at}-${n}`)));
await Promise.all(members.map((member) => member.join()));
say({ joined: members.length });
await Promise.all(members.map((member) => member.publish()));
say({ published: members.length * count });
await Promise.all(members.map((member) => member.finish()));
