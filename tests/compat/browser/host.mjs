// Hosts the page as a site of its own, which names the server that it talks to.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { after } from "node:test";

const TYPES = { html: "text/html; charset=utf-8", js: "text/javascript", css: "text/css", svg: "image/svg+xml" };

/** Answers the site's URL; it ends after the tests. */
export async function host(server) {
  const site = createServer((request, response) => {
    const file = { "/": "index.html", "/app.js": "app.js", "/app.css": "app.css", "/favicon.svg": "favicon.svg" }[new URL(request.url, "http://site").pathname];
    if (!file) return response.writeHead(404).end();
    const content = readFileSync(new URL(`../../../web/dist/${file}`, import.meta.url), file === "index.html" ? "utf8" : null);
    response.writeHead(200, { "content-type": TYPES[file.split(".").at(-1)] });
    return response.end(file === "index.html" ? content.replace('name="fanfare-server" content=""', `name="fanfare-server" content="${server}"`) : content);
  });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  after(() => { site.close(); site.closeAllConnections(); });
  return `http://127.0.0.1:${site.address().port}`;
}
