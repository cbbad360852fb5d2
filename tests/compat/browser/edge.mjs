// A server that errs on demand: what Fanfare answers, told by the stock server, with a log of each room. It knows no
// message again, so whatever is sent twice is there twice.
import { createServer } from "node:http";
import { after } from "node:test";
import { Server } from "socket.io";

/** Starts one; it ends after the tests. */
export async function edge() {
  const http = createServer();
  const io = new Server(http, {
    transports: ["websocket"],
    connectionStateRecovery: { maxDisconnectionDuration: 60_000 },
    allowRequest: (request, accept) => accept(null, it.open),
  });
  const logs = new Map();
  const log = (roomId) => logs.get(roomId) ?? logs.set(roomId, []).get(roomId);
  const tricks = [];
  const trick = (name) => {
    const at = tricks.findIndex((one) => one.name === name);
    return at < 0 ? {} : tricks.splice(at, 1)[0];
  };
  const chat = io.of("/chat");
  const it = {
    open: true,
    /** What was asked, in order: `{namespace, event, payload}`. */
    asked: [],
    /** The next time this is asked: answers an error, or does it, `unanswered` or with a `cut` instead; what is done `then`. */
    once: (name, how) => tricks.push({ name, ...how }),
    /** A message of somebody else. */
    publish(roomId, content, clientId) {
      const offset = `3-${log(roomId).length + 1}`;
      const message = { offset, id: `m${offset} ${roomId}`, roomId, userId: "eve", username: "Eve", content, type: "text", timestamp: Date.now(), clientId };
      log(roomId).push(message);
      chat.to(roomId).emit("message", message);
      return message;
    },
    contents: (roomId) => log(roomId).map(({ content }) => content),
    members: (roomId) => chat.adapter.rooms.get(roomId)?.size ?? 0,
    count: (event, namespace = "/chat") => it.asked.filter((one) => one.event === event && one.namespace === namespace).length,
    /** Ends all connections; sessions can be recovered. */
    cut: () => chat.sockets.forEach((socket) => socket.conn.close()),
    /** No session can be recovered. */
    forget: () => chat.adapter.sessions.clear(),
  };
  const page = ({ roomId, before, after: behind, limit = 50 }) => {
    const place = (offset) => Number(offset.split("-")[1]);
    const fitting = log(roomId).filter(({ offset }) => (!before || place(offset) < place(before)) && (!behind || place(offset) > place(behind)));
    const messages = behind ? fitting.slice(0, limit) : fitting.slice(-limit);
    return { messages, hasMore: messages.length < fitting.length };
  };
  const requests = {
    "join-room"(socket, { roomId, history }) {
      socket.join(roomId);
      return { roomId, usersCount: it.members(roomId), offset: `3-${log(roomId).length}`, messages: page({ roomId, limit: history }).messages };
    },
    "leave-room"(socket, { roomId }) {
      socket.leave(roomId);
      return { roomId };
    },
    message: (_, { roomId, content, clientId }) => it.publish(roomId, content, clientId),
    getMessages: (_, query) => page(query),
    "refresh-token": () => ({}),
    subscribe: () => ({ unread: 7 }),
  };
  for (const namespace of ["/chat", "/notifications"]) {
    io.of(namespace).use((_, next) => {
      const { error } = trick(`${namespace} connect`);
      next(error && Object.assign(new Error(error.code), { data: error }));
    });
    io.of(namespace).on("connection", (socket) => {
      for (const [event, answer] of Object.entries(requests)) {
        socket.on(event, (payload, ack) => {
          it.asked.push({ namespace, event, payload });
          const { error, unanswered, cut, then } = trick(event);
          if (error) return ack({ status: "error", message: error.code, ...error });
          const answered = answer(socket, payload);
          if (cut) it.cut();
          if (!unanswered && !cut) ack({ status: "ok", ...answered });
          then?.();
        });
      }
    });
  }
  await new Promise((resolve) => http.listen(0, "127.0.0.1", resolve));
  after(() => io.close());
  it.url = `http://127.0.0.1:${http.address().port}`;
  return it;
}
