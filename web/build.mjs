/** Builds the page into dist/: one folder of static files; the models come from export_models.py. */

import { build } from "esbuild";
import { cp, mkdir, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL(".", import.meta.url));
const dist = `${root}dist`;
const RUNTIME = `${root}node_modules/onnxruntime-web`;

await mkdir(dist, { recursive: true });
await build({
  entryPoints: ["main.js", "worker.js"].map((name) => `${root}src/${name}`),
  outdir: dist,
  bundle: true,
  format: "esm",
  splitting: true,
  chunkNames: "chunks/[name]-[hash]",
  minify: true,
  legalComments: "linked",
  target: ["chrome113", "firefox115", "safari17"],
  // The runtime's own module and .wasm files stay files of their own, which threads load again.
  conditions: ["onnxruntime-web-use-extern-wasm"],
});
for (const name of ["index.html", "style.css"]) await cp(`${root}src/${name}`, `${dist}/${name}`);

await rm(`${dist}/ort`, { recursive: true, force: true });
await mkdir(`${dist}/ort`);
for (const variant of ["", ".asyncify"]) {
  for (const suffix of ["mjs", "wasm"]) {
    const file = `ort-wasm-simd-threaded${variant}.${suffix}`;
    await cp(`${RUNTIME}/dist/${file}`, `${dist}/ort/${file}`);
  }
}

// Read by Netlify and Cloudflare Pages; other hosts: docs/web.md.
await writeFile(
  `${dist}/_headers`,
  "/*\n  Cross-Origin-Opener-Policy: same-origin\n  Cross-Origin-Embedder-Policy: require-corp\n  X-Content-Type-Options: nosniff\n",
);
