// The official page of @socket.io/admin-ui, hosted as its package has it, on gateways of a cluster.
//
// Environment: FANFARE_GATEWAYS (their URLs, comma-separated), ADMIN_PASSWORD, JWT_SECRET.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after, test } from "node:test";
import { ok, unique, user } from "../node/support.mjs";
import { page, shot } from "./page.mjs";

const [, second] = process.env.FANFARE_GATEWAYS.split(",");
const password = process.env.ADMIN_PASSWORD;

async function site() {
  const files = new URL("../node_modules/@socket.io/admin-ui/ui/dist/", import.meta.url);
  const types = { html: "text/html", js: "text/javascript", css: "text/css", png: "image/png", svg: "image/svg+xml" };
  const server = createServer((request, response) => {
    const path = new URL(request.url, "http://site").pathname.slice(1) || "index.html";
    try {
      const content = readFileSync(new URL(path, files));
      response.writeHead(200, { "content-type": types[path.split(".").at(-1)] ?? "application/octet-stream" }).end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  after(() => { server.close(); server.closeAllConnections(); });
  return `http://127.0.0.1:${server.address().port}`;
}

async function signIn(opened, secret) {
  await opened.getByLabel("Server URL").fill(second);
  await opened.getByLabel("Username").fill("ada");
  await opened.getByLabel("Password").fill(secret);
  await opened.getByRole("button", { name: "Connect", exact: true }).click();
}

test("the page shows servers, sockets and rooms of the cluster", async () => {
  const room = unique("room");
  const [eve, fay] = await Promise.all([user("/chat", { sub: "eve" }), user("/chat", { sub: "fay" })]);
  await ok(eve, "join-room", { roomId: room });

  const opened = await page({ expected: true, width: 1400, height: 900 });
  await opened.goto(await site());
  await opened.getByText("Advanced options").click();
  await opened.getByText("WebSocket only?").click();
  await signIn(opened, "wrong");
  await opened.getByText("Invalid credentials").waitFor();
  await signIn(opened, password);
  await opened.getByRole("dialog").waitFor({ state: "hidden" });

  const go = (name) => opened.locator("nav, aside").getByText(name, { exact: true }).first().click();
  await go("Servers");
  await opened.locator("tbody tr").nth(1).waitFor();
  assert.equal(await opened.locator("tbody tr").count(), 2, "both gateways");
  await shot(opened, "admin-servers");

  await go("Sockets");
  await opened.getByText(eve.id).waitFor();
  await opened.getByText(fay.id).waitFor();
  await shot(opened, "admin-sockets");
  await go("Rooms");
  await opened.getByText(room).waitFor();
  await ok(fay, "join-room", { roomId: room });
  await opened.locator("tbody tr", { hasText: room }).getByText("2", { exact: true }).waitFor();
  await shot(opened, "admin-rooms");
});
