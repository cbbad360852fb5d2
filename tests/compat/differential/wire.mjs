// Speaking to a server below the client library: raw WebSocket frames and HTTP requests, written down as text.
import { request } from "node:http";
import WebSocket from "ws";

const WITHIN_MS = 10_000;

/** What differs from run to run is replaced: session ids and the offsets behind them. */
export const plain = (text) => text.replace(/"sid":"[\w-]{20}"/g, '"sid":"SID"');

const shown = (data, isBinary) => (isBinary ? `<${Buffer.from(data).toString("hex").slice(0, 40)}>` : plain(data.toString()).slice(0, 300));

/** A raw WebSocket that writes down every frame but the heartbeat, which it answers. */
export class Wire {
  constructor(url, log, query = "EIO=4&transport=websocket") {
    this.log = log;
    this.frames = 0;
    this.closed = false;
    this.waiting = new Set();
    this.ws = new WebSocket(`${url.replace("http", "ws")}/socket.io/?${query}`);
    this.ws.on("message", (data, isBinary) => {
      if (!isBinary && data.toString() === "2") return this.ws.send("3");
      this.note(`< ${shown(data, isBinary)}`);
    });
    this.ws.on("close", () => { this.closed = true; this.note("closed"); });
    this.ws.on("unexpected-response", (_, answer) => {
      let body = "";
      answer.on("data", (part) => { body += part; });
      answer.on("end", () => { this.closed = true; this.note(`refused ${answer.statusCode} ${body}`); });
    });
    this.ws.on("error", () => {});
  }

  note(line) {
    this.log(line);
    this.frames += 1;
    for (const look of this.waiting) look(line);
  }

  send(...frames) {
    for (const frame of frames) {
      this.log(`> ${typeof frame === "string" ? frame.slice(0, 300) : shown(frame, true)}`);
      this.ws.send(frame);
    }
  }

  /** Waits for a line that fits, or the end of the connection; not at all if `already`. */
  until(fits, already = () => false) {
    return new Promise((resolve, reject) => {
      if (this.closed || already()) return resolve();
      const done = () => { clearTimeout(timer); this.waiting.delete(look); resolve(); };
      const look = (line) => { if (this.closed || fits(line)) done(); };
      const timer = setTimeout(() => { this.waiting.delete(look); reject(new Error("neither answered nor closed")); }, WITHIN_MS);
      this.waiting.add(look);
    });
  }

  /** Connected to the main namespace. */
  static async connected(url, log) {
    const wire = new Wire(url, () => {});
    await wire.until((line) => line.startsWith("< 0"));
    wire.ws.send("40");
    await wire.until((line) => line.startsWith("< 42"));
    wire.log = log;
    wire.frames = 0;
    return wire;
  }

  /** Whether the server still listens: asks for an ack, and waits for it or the end. */
  async probe() {
    if (!this.closed) this.ws.send('4299["message-with-ack","probe"]');
    await this.until((line) => line.startsWith("< 4399"));
  }

  end() {
    this.log = () => {};
    this.ws.terminate();
  }
}

/** One HTTP request; the answer is written down. */
export function http(url, method, path, { body, type = "text/plain;charset=UTF-8", quiet = false, log } = {}) {
  return new Promise((resolve) => {
    const headers = body === undefined ? {} : { "content-type": type, "content-length": Buffer.byteLength(body) };
    const call = request(`${url}${path}`, { method, headers, agent: false, timeout: WITHIN_MS }, (answer) => {
      let text = "";
      answer.on("data", (part) => { text += part; });
      answer.on("end", () => {
        if (!quiet) log(`${method} ${plainPath(path)} -> ${answer.statusCode} ${answer.headers["content-type"] ?? "-"} ${plain(text).slice(0, 300)}`);
        resolve(text);
      });
      answer.on("error", () => { log(`${method} ${plainPath(path)} -> cut`); resolve(""); });
    });
    call.on("timeout", () => call.destroy(new Error("timeout")));
    call.on("error", (error) => { log(`${method} ${plainPath(path)} -> ${error.message === "timeout" ? "timeout" : "cut"}`); resolve(""); });
    call.end(body);
  });
}

const plainPath = (path) => path.replace(/sid=[\w-]{20}/, "sid=SID");

/** A polling session, opened: the path of its requests. */
export async function polling(url, log) {
  const open = await http(url, "GET", "/socket.io/?EIO=4&transport=polling", { quiet: true, log });
  return `/socket.io/?EIO=4&transport=polling&sid=${JSON.parse(open.slice(1)).sid}`;
}
