// The reference server with the behaviour of Fanfare's example `protocol_suites`.
import { createServer } from "node:http";
import { Server } from "socket.io";

/** Listens on a free port of the loopback; answers its URL and a way to close it. */
export async function reference() {
  const http = createServer();
  const io = new Server(http, {
    pingInterval: 300,
    pingTimeout: 200,
    maxHttpBufferSize: 1_000_000,
    connectTimeout: 1000,
    serveClient: false,
    allowEIO3: true,
    cors: { origin: "*" },
  });
  io.on("connection", (socket) => {
    socket.emit("auth", socket.handshake.auth);
    socket.on("message", (...args) => socket.emit("message-back", ...args));
    socket.on("message-with-ack", (...args) => args.pop()(...args));
  });
  io.of("/custom").on("connection", (socket) => socket.emit("auth", socket.handshake.auth));
  await new Promise((listening) => http.listen(0, "127.0.0.1", listening));
  return { url: `http://127.0.0.1:${http.address().port}`, close: () => io.close() };
}
