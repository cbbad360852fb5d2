// What is said to both servers. A case is a name and a way to say it; what is heard is its transcript.
import { Manager } from "socket.io-client";
import { http, polling, Wire } from "./wire.mjs";

/** name → async (url, log) */
export const cases = new Map();
const add = (name, run) => cases.set(name, run);

// ---- the stock client ----

const TRANSPORTS = { websocket: ["websocket"], polling: ["polling"], upgrade: ["polling", "websocket"] };

const written = (value) => JSON.stringify(value, (_, v) => (v?.type === "Buffer" ? `<${Buffer.from(v.data).toString("hex")}>` : v));

function client(url, transports, log) {
  const manager = new Manager(url, { transports, autoConnect: false, reconnectionDelay: 20, reconnectionDelayMax: 50 });
  const waiting = new Set();
  const note = (line) => {
    log(line);
    for (const look of waiting) look(line);
  };
  const until = (text) => new Promise((resolve) => {
    const look = (line) => { if (line.includes(text)) { waiting.delete(look); resolve(); } };
    waiting.add(look);
  });
  const of = (namespace, auth) => {
    const socket = manager.socket(namespace, { auth });
    socket.on("connect", () => note(`${namespace} connect ${socket.recovered}`));
    socket.on("connect_error", (error) => note(`${namespace} connect_error ${error.message} ${written(error.data)}`));
    socket.on("disconnect", (reason) => note(`${namespace} disconnect ${reason}`));
    socket.onAny((event, ...args) => note(`${namespace} ${event} ${written(args)}`));
    return socket;
  };
  return { manager, of, until, note };
}

for (const [mode, transports] of Object.entries(TRANSPORTS)) {
  const stock = (name, run) => add(`stock client, ${mode}: ${name}`, async (url, log) => {
    const all = client(url, transports, log);
    try {
      await run(all);
    } finally {
      all.manager._close();
    }
  });
  const joined = async ({ of, until }, namespace, auth) => {
    const socket = of(namespace, auth);
    const ready = until(`${namespace} auth`);
    socket.connect();
    await ready;
    return socket;
  };

  stock("connect with and without auth", async (all) => {
    await joined(all, "/", { token: "abc", n: [1, null, { x: "ü" }] });
    await joined(all, "/custom");
  });
  stock("unknown namespace beside a known one", async (all) => {
    await joined(all, "/");
    const refused = all.until("/random connect_error");
    all.of("/random").connect();
    await refused;
  });
  stock("arguments of every kind come back", async (all) => {
    const socket = await joined(all, "/");
    for (const args of [[], [1], ["2"], [{ 3: [true, null] }], [null, undefined, 1.5e300, -0, "\u0000\u001e\u2028🎺"], [[[[]]]], [""]]) {
      const back = all.until("/ message-back");
      socket.emit("message", ...args);
      await back;
    }
  });
  stock("acknowledgements", async (all) => {
    const socket = await joined(all, "/");
    for (const args of [[], [1, "2", { 3: [false] }], ["x".repeat(5000)], [Buffer.from([1, 2, 3])]]) {
      const answer = await new Promise((resolve) => { socket.emit("message-with-ack", ...args, (...given) => resolve(given)); });
      all.note(`ack ${written(answer)}`);
    }
  });
  stock("binary comes back", async (all) => {
    const socket = await joined(all, "/");
    for (const args of [
      [Buffer.from([0, 255])],
      [{ deep: [Buffer.from("a"), { er: Buffer.from("b") }] }, "text", Buffer.alloc(0)],
      Array.from({ length: 10 }, (_, n) => Buffer.from([n])),
    ]) {
      const back = all.until("/ message-back");
      socket.emit("message", ...args);
      await back;
    }
  });
  stock("many at once keep their order", async (all) => {
    const socket = await joined(all, "/");
    const last = all.until("/ message-back [99,");
    for (let n = 0; n < 100; n += 1) socket.emit("message", n, n % 10 ? "x" : Buffer.from([n]));
    await last;
  });
  stock("disconnect, and connect again", async (all) => {
    const socket = await joined(all, "/");
    await joined(all, "/custom");
    socket.disconnect();
    await effect();
    const again = all.until("/ auth");
    socket.connect();
    await again;
  });
  stock("coming back after a cut", async (all) => {
    await joined(all, "/");
    await joined(all, "/custom");
    const again = Promise.all([all.until("/ auth"), all.until("/custom auth")]);
    all.manager.engine.close();
    await again;
  });
  stock("an event nobody handles", async (all) => {
    const socket = await joined(all, "/");
    socket.emit("nobody", 1, Buffer.from("x"));
    const back = all.until("/ message-back");
    socket.emit("message", "after");
    await back;
  });
}

// ---- packets of the Socket.IO protocol on a raw WebSocket ----

// Between frames: waits for that many lines of answer, or long enough that what was said has taken effect, since the
// reference takes up some packets only after it has read the next.
const lines = (count) => (wire) => wire.until(() => wire.frames >= count, () => wire.frames >= count);
const effect = () => new Promise((wake) => setTimeout(wake, 150));

const BIN = Buffer.from([1, 2, 3]);
const holder = (num) => `{"_placeholder":true,"num":${num}}`;
const packets = {
  "empty message": ["4"],
  "unknown type 7": ["47"],
  "unknown type 9": ["49"],
  "letters for a packet": ["4abc"],
  "event without payload": ["42"],
  "event with an object": ["42{}"],
  "event with a text": ['42"abc"'],
  "event with a number": ["42123"],
  "event with null": ["42null"],
  "event with broken JSON": ['42["message"'],
  "event with text after the JSON": ['42["message"]x'],
  "event with white space around the JSON": ['42 ["message-with-ack", 1 ] '],
  "event with an empty list": ["42[]"],
  "event named by a number": ["42[1,2]"],
  "event named null": ["42[null]"],
  "event named by an object": ["42[{}]"],
  "event named by true": ["42[true]"],
  "event with a name and no arguments": ['42["message"]'],
  "event with an empty name": ['42[""]'],
  ...Object.fromEntries(["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener", "error"]
    .map((name) => [`event named ${name}`, [`42["${name}","x"]`]])),
  "event with ack id 0": ['420["message-with-ack",1]'],
  "event with a large ack id": ['42123456789012["message-with-ack",1]'],
  "event with leading zeros in the ack id": ['42007["message-with-ack",1]'],
  "event with letters in the ack id": ['421a["message-with-ack",1]'],
  "event with a negative ack id": ['42-1["message-with-ack",1]'],
  "event with a fraction for an ack id": ['421.5["message-with-ack",1]'],
  "event with escapes": ['42["mess\\u0061ge","\\ud83c\\udfba"]'],
  "event with a lone surrogate": ['42["message","\\ud83c"]'],
  "event with the same key twice": ['42["message",{"a":1,"a":2}]'],
  "event with __proto__": ['42["message",{"__proto__":{"x":1}}]'],
  "event with large numbers": ['42["message",12345678901234567890,1e400,0.1]'],
  "event with a byte order mark": ['42\ufeff["message-with-ack"]'],
  "event with NaN": ['42["message",NaN]'],
  "ack nobody waits for": ["431[]"],
  "ack without id": ["43[]"],
  "ack without payload": ["431"],
  "ack with an object": ["431{}"],
  "ack with a text": ['431"x"'],
  "connect error from a client": ['44{"message":"x"}'],
  "connect error with a text": ['44"x"'],
  "second connect to the same namespace": ["40"],
  "second connect with a comma": ["40,"],
  "connect to another namespace": ["40/custom,", lines(2)],
  "connect to another namespace without a comma": ["40/custom", lines(2)],
  "connect to another namespace with auth": ['40/custom,{"token":"123"}', lines(2)],
  "connect with a query in the namespace": ["40/custom?token=123,"],
  "connect to an unknown namespace": ["40/random,"],
  "connect to an unknown namespace twice": ["40/random,", "40/random,"],
  "connect with a text for auth": ['40/custom,"x"'],
  "connect with a list for auth": ["40/custom,[]"],
  "connect with null for auth": ["40/custom,null"],
  "connect with broken auth": ["40/custom,{"],
  "connect with a number for auth": ["40/custom,5", lines(2)],
  "connect with an ack id": ["40/custom,5{}", lines(2)],
  "disconnect from a namespace never joined": ["41/custom,"],
  "disconnect without a comma": ["40/custom,", lines(2), "41/custom", effect],
  "disconnect with a payload": ["41{}"],
  "disconnect with a list": ["41/custom,[]"],
  "disconnect, then an event": ["41", effect, '42["message"]'],
  "disconnect, then connect": ["41", effect, "40", lines(2)],
  "event to a namespace never joined": ['42/custom,["message"]'],
  "event to a namespace without a comma": ['42/custom["message"]'],
  "event to an unknown namespace": ['42/random,["message"]'],
  "binary event": [`451-["message",${holder(0)}]`, BIN],
  "binary event with two in reverse": [`452-["message",${holder(1)},${holder(0)}]`, BIN, Buffer.from([9])],
  "binary event with an ack": [`451-7["message-with-ack",${holder(0)}]`, BIN],
  "binary event, then text": [`451-["message",${holder(0)}]`, '42["message"]'],
  "binary event, then another": [`451-["message",${holder(0)}]`, `451-["message",${holder(0)}]`],
  "binary without a header": [BIN],
  "binary after its event is whole": [`451-["message",${holder(0)}]`, BIN, lines(2), BIN],
  "binary event without a count": ['45["message"]'],
  "binary event with letters for a count": ['45x-["message"]'],
  "binary event without a dash": [`451["message",${holder(0)}]`],
  "binary event with none": ['450-["message"]'],
  "binary event with a negative count": ['45-1-["message"]'],
  "binary event with ten": [`4510-["message",${Array.from({ length: 10 }, (_, n) => holder(n))}]`, ...Array(10).fill(BIN)],
  "binary event with eleven": [`4511-["message",${Array.from({ length: 11 }, (_, n) => holder(n))}]`],
  "binary event with a number too large": [`451-["message",${holder(5)}]`, BIN],
  "binary event with a negative number": [`451-["message",${holder(-1)}]`, BIN],
  "binary event with a text for a number": [`451-["message",${holder('"0"')}]`, BIN],
  "binary event with a fraction for a number": [`451-["message",${holder(0.5)}]`, BIN],
  "binary event without a number": ['451-["message",{"_placeholder":true}]', BIN],
  "binary event that uses one twice": [`451-["message",${holder(0)},${holder(0)}]`, BIN],
  "binary event that uses none": ['451-["message"]', BIN],
  "binary event with a false placeholder": ['451-["message",{"_placeholder":false,"num":0}]', BIN],
  "binary event with a placeholder for a name": [`451-[${holder(0)}]`, BIN],
  "text event with a placeholder": [`42["message",${holder(0)}]`],
  "binary event with an object": ["451-{}", BIN],
  "binary event with broken JSON": ['451-["message"', BIN],
  "binary ack nobody waits for": [`461-5[${holder(0)}]`, BIN],
  "binary ack without a count": ["465[]"],
};
for (const [name, frames] of Object.entries(packets)) {
  add(`packet: ${name}`, async (url, log) => {
    const wire = await Wire.connected(url, log);
    for (const frame of frames) {
      if (typeof frame === "function") await frame(wire);
      else wire.send(frame);
    }
    await wire.probe();
    wire.end();
  });
}

for (const [name, frames] of Object.entries({
  "an event first": ['42["message"]'],
  "a disconnect first": ["41"],
  "an ack first": ["431[]"],
  "a connect to an unknown namespace first": ["40/random,"],
  "a connect to another namespace first": ["40/custom,"],
  "a connect with broken auth first": ["40{"],
  "a connect with auth": ['40{"token":"123"}'],
  "two connects at once": ["40", "40/custom,"],
})) {
  add(`before connecting: ${name}`, async (url, log) => {
    const wire = new Wire(url, log);
    await wire.until((line) => line.startsWith("< 0"));
    wire.send(...frames);
    const answers = frames.length;
    if (!/^4[123]/.test(frames[0]) && frames[0] !== "40{") await wire.until(() => wire.frames > answers * (frames[0].includes("random") ? 1 : 2));
    else await wire.until(() => false);
    wire.end();
  });
}

add("before connecting: nothing at all", async (url, log) => {
  const wire = new Wire(url, log);
  await wire.until(() => false);
});

// ---- packets of the Engine.IO protocol on a raw WebSocket ----

for (const [name, frames] of Object.entries({
  "an empty frame": [""],
  "an unknown packet": ["x"],
  "an unknown number": ["7"],
  "an open": ["0"],
  "a close": ["1"],
  "a ping": ["2"],
  "a ping with data": ["2probe"],
  "a pong nobody asked for": ["3"],
  "a pong with data": ["3probe"],
  "an upgrade": ["5"],
  "a noop": ["6"],
  "an empty binary frame": [Buffer.alloc(0)],
})) {
  add(`engine: ${name}`, async (url, log) => {
    const wire = await Wire.connected(url, log);
    wire.send(...frames);
    await wire.probe();
    wire.end();
  });
}
add("engine: more than the limit in a frame", async (url, log) => {
  const wire = await Wire.connected(url, log);
  wire.ws.send(`42["message","${"x".repeat(1_000_000)}"]`);
  await wire.until(() => false);
});
add("engine: no pong", async (url, log) => {
  const wire = await Wire.connected(url, log);
  wire.ws.removeAllListeners("message");
  await wire.until(() => false);
});

// ---- HTTP ----

const POLL = "/socket.io/?EIO=4&transport=polling";
for (const [name, method, path, body] of [
  ["a handshake", "GET", POLL],
  ["a handshake with a base64 wish", "GET", `${POLL}&b64=1`],
  ["a handshake with a time stamp", "GET", `${POLL}&t=abc`],
  ["no transport", "GET", "/socket.io/?EIO=4"],
  ["an unknown transport", "GET", "/socket.io/?EIO=4&transport=abc"],
  ["a transport named as a property", "GET", "/socket.io/?EIO=4&transport=constructor"],
  ["websocket without an upgrade", "GET", "/socket.io/?EIO=4&transport=websocket"],
  ["no version", "GET", "/socket.io/?transport=polling"],
  ["version 3", "GET", "/socket.io/?EIO=3&transport=polling"],
  ["version 5", "GET", "/socket.io/?EIO=5&transport=polling"],
  ["version abc", "GET", "/socket.io/?EIO=abc&transport=polling"],
  ["no query", "GET", "/socket.io/"],
  ["an unknown session", "GET", `${POLL}&sid=abc`],
  ["an unknown session, posting", "POST", `${POLL}&sid=abc`, "3"],
  ["an empty session", "GET", `${POLL}&sid=`],
  ["a post without a session", "POST", POLL, "40"],
  ["a put", "PUT", POLL, "40"],
  ["a delete", "DELETE", POLL],
]) {
  add(`http: ${name}`, async (url, log) => { await http(url, method, path, { body, log }); });
}

for (const [name, query] of Object.entries({
  "no version": "transport=websocket",
  "version 3": "EIO=3&transport=websocket",
  "version abc": "EIO=abc&transport=websocket",
  "no transport": "EIO=4",
  "an unknown transport": "EIO=4&transport=abc",
  "polling": "EIO=4&transport=polling",
  "an unknown session": "EIO=4&transport=websocket&sid=abc",
})) {
  add(`http: a WebSocket handshake with ${name}`, async (url, log) => {
    const wire = new Wire(url, log, query);
    await wire.until(() => false);
  });
}

const bodies = {
  "a connect": "40",
  "two packets": '40\x1e42["message",1]',
  "base64 without a header": "bAQID",
  "a binary event": `40\x1e451-["message",${holder(0)}]\x1ebAQID`,
  "broken base64": `40\x1e451-["message",${holder(0)}]\x1eb!!`,
  "nothing": "",
  "an unknown packet": "abc",
  "a separator alone": "\x1e",
  "a separator at the end": "40\x1e",
  "two separators": '40\x1e\x1e42["message",1]',
  "a close": "1",
  "a connect and a close": "40\x1e1",
  "an illegal packet": "4abc",
  "a v3 payload": "2:40",
};
for (const [name, body] of Object.entries(bodies)) {
  add(`polling: a post of ${name}`, async (url, log) => {
    const path = await polling(url, log);
    await http(url, "POST", path, { body, log });
    // What comes is read until it is whole, whatever pieces it comes in.
    let heard = "";
    for (let n = 0; n < 4 && !/message-back|message"|\{"code/.test(heard); n += 1) {
      const got = await http(url, "GET", path, { quiet: true, log });
      if (got === "2") await http(url, "POST", path, { body: "3", quiet: true, log });
      else heard += `${heard && got ? "\x1e" : ""}${got.replace(/\x1e?2$/, "")}`;
      if (got === "" || (body.endsWith("40") && heard.includes("auth"))) break;
    }
    log(`heard ${heard.replace(/"sid":"[\w-]{20}"/g, '"sid":"SID"').split("\x1e").join(" | ")}`);
  });
}
add("polling: a post of more than the limit", async (url, log) => {
  const path = await polling(url, log);
  await http(url, "POST", path, { body: `4${"x".repeat(1_000_001)}`, log });
});
add("polling: a post of octets", async (url, log) => {
  const path = await polling(url, log);
  await http(url, "POST", path, { body: "40", type: "application/octet-stream", log });
  await http(url, "GET", path, { log });
});
add("polling: two requests at once", async (url, log) => {
  const path = await polling(url, log);
  await http(url, "POST", path, { body: "40", quiet: true, log });
  await http(url, "GET", path, { quiet: true, log });
  const lines = [];
  await Promise.all([0, 1].map(() => http(url, "GET", path, { log: (line) => lines.push(line) })));
  for (const line of lines.sort()) log(line);
  await http(url, "GET", path, { log });
});
add("polling: a put to a session", async (url, log) => {
  const path = await polling(url, log);
  await http(url, "PUT", path, { body: "40", log });
});

// ---- upgrading ----

add("upgrade: probe and switch", async (url, log) => {
  const path = await polling(url, log);
  const wire = new Wire(url, log, path.replace("polling", "websocket").split("?")[1]);
  await new Promise((opened) => wire.ws.once("open", opened));
  wire.send("2probe");
  await wire.until((line) => line === "< 3probe");
  wire.send("5");
  wire.send("40");
  await wire.until((line) => line.startsWith("< 42"));
  await http(url, "GET", path, { log });
  wire.end();
});
for (const [name, frame] of Object.entries({ "a wrong probe": "2wrong", "a message": "40", "a probe in octets": Buffer.from("2probe"), "an upgrade unprobed": "5" })) {
  add(`upgrade: ${name}`, async (url, log) => {
    const path = await polling(url, log);
    const wire = new Wire(url, log, path.replace("polling", "websocket").split("?")[1]);
    await new Promise((opened) => wire.ws.once("open", opened));
    wire.send(frame);
    await wire.until(() => false);
  });
}
