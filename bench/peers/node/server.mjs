// socket.io as a peer: server.mjs --engine http|uws [--adapter none|redis|streams --redis URL] --port PORT
import { createServer } from "node:http";
import { parseArgs } from "node:util";
import { createAdapter as redisAdapter } from "@socket.io/redis-adapter";
import { createAdapter as streamsAdapter } from "@socket.io/redis-streams-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const { values: options } = parseArgs({
    options: {
        engine: { type: "string", default: "http" },
        adapter: { type: "string", default: "none" },
        redis: { type: "string" },
        port: { type: "string" },
    },
});

const io = new Server({ transports: ["websocket"], serveClient: false, adapter: await adapter() });

io.of("/chat").on("connection", (socket) => {
    socket.on("join-room", async ({ roomId }, ack) => {
        await socket.join(roomId);
        ack({ status: "ok" });
    });
    socket.on("message", (message, ack) => {
        io.of("/chat").to(message.roomId).emit("message", message);
        ack({ status: "ok" });
    });
    socket.on("ping", (...args) => args.at(-1)({ time: Date.now() }));
});

console.log(`listening on 127.0.0.1:${await listen(Number(options.port))}`);

async function adapter() {
    if (options.adapter === "none") {
        return undefined;
    }
    const client = createClient({ url: options.redis });
    await client.connect();
    if (options.adapter === "streams") {
        return streamsAdapter(client);
    }
    const subscriber = client.duplicate();
    await subscriber.connect();
    return redisAdapter(client, subscriber);
}

async function listen(port) {
    if (options.engine === "uws") {
        const { default: uws } = await import("@trufflesuite/uws-js-unofficial");
        const app = uws.App();
        io.attachApp(app);
        return new Promise((resolve) => {
            app.listen("127.0.0.1", port, (socket) => resolve(uws.us_socket_local_port(socket)));
        });
    }
    const server = createServer();
    io.attach(server);
    await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
    return server.address().port;
}
