/** What the tests share: Python's references, and why a test cannot run here. */

import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { decodePng } from "../src/png.js";

export const WEB = fileURLToPath(new URL("..", import.meta.url));
export const DIST = join(WEB, "dist");
export const PYTHON = process.env.PYTHON ?? "python3";
export const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

/** A reason to skip the tests in the browser, or false. */
export const skip = existsSync(CHROMIUM) ? false : `no browser at ${CHROMIUM} (Debian: apt-get install chromium; or set CHROMIUM)`;

export const folder = mkdtempSync(join(tmpdir(), "hcflow-web-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
execFileSync(PYTHON, [join(WEB, "test", "references.py"), folder], {
  stdio: ["ignore", "ignore", "inherit"],
  env: { ...process.env, TF_CPP_MIN_LOG_LEVEL: "3" },
});

export const file = (name) => join(folder, name);
export const readPng = async (path) => decodePng(new Uint8Array(readFileSync(path)));

/** Largest difference of two arrays, in levels of 255. */
export function difference(ours, expected) {
  if (ours.length !== expected.length) return Infinity;
  let largest = 0;
  for (let index = 0; index < ours.length; index++) largest = Math.max(largest, Math.abs(ours[index] - expected[index]));
  return 255 * largest;
}
