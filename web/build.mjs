// Builds the page into dist/, which is committed, so that building the server needs no Node. The same sources give the
// same bytes; a test of the workspace compares. `node build.mjs DIRECTORY` builds elsewhere.
import { build } from "esbuild";
import { copyFileSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const to = process.argv[2] ?? join(here, "dist");
mkdirSync(to, { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: { app: "app/main.tsx" },
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2023"],
  jsx: "automatic",
  jsxImportSource: "preact",
  alias: { "fanfare-client": "./client/src/index.ts" },
  legalComments: "none",
  outdir: to,
});
await build({
  absWorkingDir: here,
  entryPoints: { app: "app/style.css" },
  minify: true,
  outdir: to,
});
for (const file of ["index.html", "favicon.svg"]) copyFileSync(join(here, "app", file), join(to, file));
