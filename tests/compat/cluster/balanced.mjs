// Stock clients behind a load balancer, each from an address of its own. They join a room, each publishes once, and all
// have to hear all. Then they tell which gateway they are at, and stay until the room "control" hears something.
//
// Environment: FANFARE_URL, FANFARE_CLIENTS (how many of each transport), FANFARE_TRANSPORTS (comma-separated),
// FANFARE_COOKIES ("yes": every second client keeps cookies, as browsers do). Prints one JSON object a line:
// {exchanged}, {owners: {name: gateway}}, {moved: {name, reason}}, {finally: {name: gateway}}, {again: {name: gateway}}
// (who new handshakes from the same addresses come to), {trouble}.
import http from "node:http";
import { io } from "socket.io-client";

const url = process.env.FANFARE_URL;
const count = Number(process.env.FANFARE_CLIENTS);
const modes = process.env.FANFARE_TRANSPORTS.split(",");
const cookies = process.env.FANFARE_COOKIES === "yes";
const TRANSPORTS = { websocket: ["websocket"], polling: ["polling"], upgrade: ["polling", "websocket"] };
const WITHIN_MS = 60_000;
const GATEWAY = 6; // characters of a session id that name its gateway

const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
const once = (emitter, event) => new Promise((resolve) => emitter.once(event, resolve));
const owner = (member) => member.socket.io.engine.id.slice(0, GATEWAY);

function start(mode, number) {
  const address = `127.0.1.${number + 1}`;
  const name = `${mode}-${number}`;
  const agent = new http.Agent({ localAddress: address, keepAlive: true });
  const socket = io(`${url}/chat`, {
    transports: TRANSPORTS[mode],
    agent,
    withCredentials: cookies && number % 2 === 0,
    forceNew: true,
    reconnectionDelay: 200,
    reconnectionDelayMax: 500,
  });
  const heard = new Set();
  const member = { socket, name, mode, address, heard };
  socket.on("connect_error", (error) => say({ trouble: `${name}: connect_error: ${error.message}` }));
  socket.on("error", (error) => say({ trouble: `${name}: error: ${JSON.stringify(error)}` }));
  socket.on("disconnect", (reason) => say({ moved: { name, reason } }));
  member.controlled = new Promise((resolve) => {
    socket.on("message", ({ roomId, content }) => (roomId === "control" ? resolve() : heard.add(content)));
  });
  return member;
}

async function ok(socket, event, payload) {
  const answer = await socket.timeout(WITHIN_MS).emitWithAck(event, payload);
  if (answer.status !== "ok") throw new Error(`${event}: ${JSON.stringify(answer)}`);
}

async function join({ socket, mode }) {
  if (!socket.connected) await once(socket, "connect");
  for (const roomId of ["balanced", "control"]) await ok(socket, "join-room", { roomId });
  if (mode === "upgrade" && socket.io.engine.transport.name !== "websocket") await once(socket.io.engine, "upgrade");
}

const handshake = ({ name, address }) =>
  new Promise((resolve, reject) => {
    const target = `${url}/socket.io/?EIO=4&transport=polling`;
    const request = http.get(target, { localAddress: address }, async (response) => {
      let body = "";
      for await (const part of response) body += part;
      if (response.statusCode !== 200) reject(new Error(`${name}: ${response.statusCode} ${body}`));
      else resolve([name, JSON.parse(body.slice(1)).sid.slice(0, GATEWAY)]);
    });
    request.on("error", reject);
  });

const members = modes.flatMap((mode) => Array.from({ length: count }, (_, number) => start(mode, number)));
await Promise.all(members.map(join));
await Promise.all(members.map(({ socket, name }) => ok(socket, "message", { roomId: "balanced", content: name })));
const end = Date.now() + WITHIN_MS;
while (members.some(({ heard }) => heard.size < members.length)) {
  if (Date.now() > end) throw new Error("not all have heard all");
  await new Promise((wake) => setTimeout(wake, 20));
}
say({ exchanged: members.length });
say({ owners: Object.fromEntries(members.map((member) => [member.name, owner(member)])) });
await Promise.all(members.map(({ controlled }) => controlled));
say({ finally: Object.fromEntries(members.map((member) => [member.name, owner(member)])) });
say({ again: Object.fromEntries(await Promise.all(members.filter(({ mode }) => mode === modes[0]).map(handshake))) });
for (const { socket } of members) {
  socket.off("disconnect");
  socket.disconnect();
}
process.exit(0);
