// A stock client at each of FANFARE_URLS (comma-separated), by polling with its upgrade: each says hello in one room, and
// all have to hear all.
import { io } from "socket.io-client";

const urls = process.env.FANFARE_URLS.split(",");
const late = setTimeout(() => {
  console.error("not all have heard all");
  process.exit(1);
}, 30_000);

const members = urls.map((url, number) => {
  const socket = io(`${url}/chat`, { auth: { username: `member-${number}` }, forceNew: true });
  const heard = new Set();
  const all = new Promise((resolve) => {
    socket.on("message", ({ content }) => heard.add(content).size === urls.length && resolve());
  });
  return { socket, number, all };
});
for (const { socket } of members) {
  const answer = await socket.emitWithAck("join-room", { roomId: "hello" });
  if (answer.status !== "ok") throw new Error(JSON.stringify(answer));
}
for (const { socket, number } of members) {
  const answer = await socket.emitWithAck("message", { roomId: "hello", content: `hello from ${number}` });
  if (answer.status !== "ok") throw new Error(JSON.stringify(answer));
}
await Promise.all(members.map(({ all }) => all));
clearTimeout(late);
console.log(`${members.length} clients have heard each other`);
for (const { socket } of members) socket.disconnect();
