// The official page of @socket.io/admin-ui, hosted as its package has it, for the tests of this directory.
//
// Environment: ADMIN_PASSWORD.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after } from "node:test";
import { client, connected } from "../node/support.mjs";
import { page } from "./page.mjs";

const password = process.env.ADMIN_PASSWORD;
const TYPES = { html: "text/html", js: "text/javascript", css: "text/css", png: "image/png", svg: "image/svg+xml" };

async function site() {
  const files = new URL("../node_modules/@socket.io/admin-ui/ui/dist/", import.meta.url);
  const server = createServer((request, response) => {
    const path = new URL(request.url, "http://site").pathname.slice(1) || "index.html";
    try {
      const content = readFileSync(new URL(path, files));
      response.writeHead(200, { "content-type": TYPES[path.split(".").at(-1)] ?? "application/octet-stream" }).end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  after(() => { server.close(); server.closeAllConnections(); });
  return `http://127.0.0.1:${server.address().port}`;
}

/** The page, signed in at a gateway. `refused`: tries a wrong password before. */
export async function admin(gateway, { refused = false } = {}) {
  const opened = await page({ expected: true, width: 1400, height: 1000 });
  await opened.goto(await site());
  await opened.getByText("Advanced options").click();
  await opened.getByText("WebSocket only?").click();
  const signIn = async (secret) => {
    await opened.getByLabel("Server URL").fill(gateway);
    await opened.getByLabel("Username").fill("ada");
    await opened.getByLabel("Password").fill(secret);
    await opened.getByRole("button", { name: "Connect", exact: true }).click();
  };
  if (refused) {
    await signIn("wrong");
    await opened.getByText("Invalid credentials").waitFor();
  }
  await signIn(password);
  await opened.getByRole("dialog").waitFor({ state: "hidden" });
  return opened;
}

/** Opens one of the page's views by its name. */
export const go = (opened, view) => opened.locator("nav, aside").getByText(view, { exact: true }).first().click();

/** The row of a table that holds a text. */
export const row = (within, text) => within.locator("tbody tr:visible", { hasText: text });

/** The button with this icon in it; the page's buttons have no names. In a table, the row takes the click too, and opens. */
export const button = (within, icon) => within.locator(`button:has(.mdi-${icon})`);

/** What the page does is what its socket sends: the same socket without the page. */
export const raw = () => connected(client("/admin", { username: "ada", password }));
