/** The page's parts in Node, then the page in Chromium, against what Python's commands make of the same pictures. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import * as ort from "onnxruntime-web/wasm";
import { chromium } from "playwright-core";
import { drawLatents } from "../src/philox.js";
import { decodePng, encodePng } from "../src/png.js";
import { isRight } from "../src/probe.js";
import { Scaler } from "../src/upscaling.js";
import { difference, CHROMIUM, DIST, file, PYTHON, readPng, skip } from "./setup.mjs";

const models = JSON.parse(readFileSync(join(DIST, "models", "models.json")));
const ULP = 1e-6;

describe("parts", () => {
  test("the latents are Python's", () => {
    const latents = JSON.parse(readFileSync(file("latents.json")));
    assert.equal(latents.length, 10);
    for (const { seed, level, values } of latents) {
      const ours = drawLatents(BigInt(seed), level, values.length, 0.8);
      const largest = Math.max(...values.map((value, index) => Math.abs(value - ours[index])));
      assert.ok(largest < ULP, `seed ${seed}, level ${level}: off by ${largest}`);
    }
  });

  test("a PNG file comes back as it was written", async () => {
    const random = (length) => Uint8Array.from({ length }, (_, index) => (index * 7919 + (index >> 3)) & 255);
    const [width, height] = [13, 7];
    const image = { width, height, rgb: random(width * height * 3), alpha: random(width * height), text: { key: "value" } };
    const back = await decodePng(await encodePng(image));
    assert.deepEqual([back.width, back.height, back.text], [width, height, { key: "value" }]);
    assert.deepEqual(Uint8Array.from(back.rgb, (value) => Math.round(255 * value)), image.rgb);
    assert.deepEqual(back.alpha, image.alpha);
  });

  test("a damaged PNG file is told", async () => {
    const bytes = new Uint8Array(readFileSync(file("colour.png")));
    bytes[bytes.length >> 1] ^= 1;
    await assert.rejects(decodePng(bytes), /checksum/);
    await assert.rejects(decodePng(bytes.subarray(0, 100)), /cut off/);
  });

  test("an engine is right if it computes what Python has stored, else wrong", async () => {
    ort.env.wasm.numThreads = 1;
    for (const model of models) {
      const functions = {};
      for (const [name, part, output] of [["decode", "decoder", "hr"], ["encode", "encoder", "lr"]]) {
        if (!model.files.float32[part]) continue;
        const bytes = readFileSync(join(DIST, "models", model.files.float32[part].file));
        const session = await ort.InferenceSession.create(new Uint8Array(bytes));
        functions[name] = async (inputs) => {
          const tensors = Object.entries(inputs).map(([key, { data, dims }]) => [key, new ort.Tensor("float32", data, dims)]);
          return (await session.run(Object.fromEntries(tensors)))[output].data;
        };
      }
      assert.equal(await isRight(model, functions), true);
      const brighter = async (inputs) => (await functions.decode(inputs)).map((value) => value + 0.01);
      assert.equal(await isRight(model, { ...functions, decode: brighter }), false);
      const broken = async () => new Float32Array(16 * 16 * 16 * 3).fill(NaN);
      assert.equal(await isRight(model, { ...functions, decode: broken }), false);
    }
  });

  test("seams of tiles are below half a level", async (context) => {
    const model = models[0];
    ort.env.wasm.numThreads = 1;
    const path = join(DIST, "models", model.files.float32.decoder.file);
    const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(path)));
    const decode = async (inputs) => {
      const feeds = Object.fromEntries(
        Object.entries(inputs).map(([name, { data, dims }]) => [name, new ort.Tensor("float32", data, dims)]),
      );
      return (await session.run(feeds)).hr.data;
    };
    const picture = await readPng(file("tiles.png"));
    for (const temperature of [0, 0.8]) {
      let count = 0;
      const whole = await new Scaler(model, { decode }, 1024).upscale(picture, temperature, 3n, () => count++);
      const tiled = await new Scaler(model, { decode }, 80).upscale(picture, temperature, 3n, () => count++);
      assert.equal(count, 1 + 2);
      const largest = difference(tiled, whole);
      context.diagnostic(`temperature ${temperature}: ${largest.toPrecision(2)} levels`);
      assert.ok(largest > 0 && largest < 0.5, `temperature ${temperature}: ${largest} levels`);
    }
  });
});

describe("page", { skip }, () => {
  let server, address, context, page, profile;
  const elsewhere = [];
  const flags = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ];
  const screenshots = process.env.SCREENSHOTS;

  before(async () => {
    server = spawn(PYTHON, ["-m", "hcflow_tf.demo", "--folder", DIST, "--port", "0"], { stdio: ["ignore", "pipe", "inherit"] });
    for await (const line of createInterface({ input: server.stdout })) {
      address = line.split(" ")[0];
      break;
    }
    profile = mkdtempSync(join(tmpdir(), "hcflow-profile-"));
    context = await chromium.launchPersistentContext(profile, {
      executablePath: CHROMIUM,
      headless: true,
      args: [...flags, "--disable-gpu"],
      viewport: { width: 1280, height: 900 },
    });
    page = await context.newPage();
    page.on("request", (request) => {
      if (!request.url().startsWith(address) && !/^(blob|data):/.test(request.url())) elsewhere.push(request.url());
    });
    page.on("pageerror", (error) => elsewhere.push(`error: ${error.message}`));
    page.setDefaultTimeout(600_000);
    await page.goto(address);
  });

  after(async () => {
    await context?.close();
    server?.kill("SIGINT");
    rmSync(profile, { recursive: true, force: true });
  });

  const settings = { task: "upscale", temperature: "0", samples: "1", seed: "0", uncertainty: false, precision: "float32", tile: "" };

  async function begin(name, changes = {}) {
    const { task, temperature, samples, seed, uncertainty, precision, tile } = { ...settings, ...changes };
    await page.setInputFiles("#file", file(name));
    await page.evaluate(() => document.querySelector("details").setAttribute("open", ""));
    await page.selectOption("#task", task);
    await page.selectOption("#precision", precision);
    await page.fill("#tile", tile);
    if (task === "upscale") {
      await page.fill("#samples", samples);
      await page.fill("#temperature", temperature);
      await page.fill("#seed", seed);
      await page.setChecked("#uncertainty", uncertainty);
    }
    await page.click("#start");
  }

  /** Bytes of the picture that is shown under this label. */
  async function shown(label) {
    await page.selectOption("#view", { label });
    const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
    return { name: download.suggestedFilename(), ...(await readPng(await download.path())) };
  }

  async function compute(name, changes) {
    await begin(name, changes);
    await page.waitForSelector("#result:not([hidden]), #message:not(:empty)");
    assert.equal(await page.textContent("#message"), "");
  }

  test("is isolated, says its engine, and lists the models with their sizes", async () => {
    assert.equal(await page.evaluate(() => crossOriginIsolated), true);
    await page.waitForFunction(() => document.getElementById("where").textContent.startsWith("Engine here: "));
    await page.waitForSelector("#precision option", { state: "attached" });
    const sizes = await page.locator("#precision option").allTextContents();
    const expected = ["float16", "float32"].map((precision) => {
      const [enlarge, restore] = models.map(({ files }) => (files[precision].decoder.bytes / 1e6).toFixed(1));
      return `${precision}: ${enlarge} MB, to restore ${restore} MB`;
    });
    assert.deepEqual(sizes, expected);
  });

  for (const name of ["colour", "gray", "palette", "transparent", "sixteen", "turned"]) {
    test(`temperature 0 is that of hcflow upscale: ${name}`, async () => {
      await compute(`${name}.png`);
      const ours = await shown("Result");
      const expected = await readPng(file(`upscaled/${name}.png`));
      assert.equal(ours.name, `${name}_x4.png`);
      assert.deepEqual([ours.width, ours.height], [expected.width, expected.height]);
      const largest = difference(ours.rgb, expected.rgb);
      assert.ok(largest < 1.01, `${largest} levels`);
      assert.deepEqual(ours.alpha, expected.alpha);
    });
  }

  test("float16 differs by a level at most", async () => {
    await compute("colour.png", { precision: "float16" });
    const largest = difference((await shown("Result")).rgb, (await readPng(file("upscaled/colour.png"))).rgb);
    assert.ok(largest < 1.01, `${largest} levels`);
  });

  test("a JPEG file is turned upright", async () => {
    await compute("turned.jpg");
    const ours = await shown("Result");
    const expected = await readPng(file("upscaled/turned.png"));
    assert.deepEqual([ours.width, ours.height], [expected.width, expected.height]);
    assert.ok(ours.rgb.reduce((sum, value, index) => sum + Math.abs(value - expected.rgb[index]), 0) / ours.rgb.length < 0.02);
  });

  test("the same seed gives Python's samples and uncertainty map", async () => {
    await compute("colour.png", { temperature: "0.8", seed: "7", samples: "2", uncertainty: true });
    for (const [label, name] of [["Sample 1", "1"], ["Sample 2", "2"], ["Uncertainty map", "uncertainty"]]) {
      const largest = difference((await shown(label)).rgb, (await readPng(file(`samples/colour_${name}.png`))).rgb);
      assert.ok(largest < (name === "uncertainty" ? 3.01 : 1.01), `${label}: ${largest} levels`);
    }
    assert.match(await page.textContent("#note"), /standard deviation \d+\.\d\d/);
  });

  test("shrinks and restores as the commands do", async () => {
    await compute("original.png", { task: "rescale" });
    const small = await shown("Small picture");
    const expected = await readPng(file("small.png"));
    assert.deepEqual(small.text, expected.text);
    assert.ok(difference(small.rgb, expected.rgb) < 1.01);
    const restored = await shown("Restored");
    assert.deepEqual([restored.width, restored.height], [202, 155]);
    assert.match(await page.textContent("#note"), /PSNR \d\d\.\d\d dB/);
  });

  test("restores a file of hcflow downscale with the model that shrank it", async () => {
    await compute("small.png");
    const ours = await shown("Result");
    assert.deepEqual([ours.width, ours.height], [202, 155]);
    const largest = difference(ours.rgb, (await readPng(file("restored.png"))).rgb);
    assert.ok(largest < 1.01, `${largest} levels`);
    assert.ok((await page.textContent("#note")).includes(models.find(({ task }) => task === "rescaling").name));
  });

  for (const [name, message] of [
    ["broken.png", /broken\.png is a damaged PNG file: the file is cut off/],
    ["broken.jpg", /broken\.jpg cannot be read: it is damaged/],
    ["empty.png", /empty\.png is empty/],
  ]) {
    test(`a bad file gets a message: ${name}`, async () => {
      await begin(name);
      await page.waitForSelector("#message:not(:empty)");
      assert.match(await page.textContent("#message"), message);
      assert.ok(await page.isEnabled("#start"));
    });
  }

  test("cancel stops the computation at once, and the next one runs", async () => {
    await begin("large.png", { tile: "64" });
    await page.waitForFunction(() => /^Tile [2-9].*left$/.test(document.getElementById("stage").textContent));
    const start = Date.now();
    await page.click("#cancel");
    assert.equal(await page.textContent("#message"), "Cancelled.");
    assert.ok(await page.isHidden("#progress-area"));
    assert.ok(Date.now() - start < 5000);
    await compute("colour.png");
  });

  test("the divider moves by mouse, touch and keys", async () => {
    const position = () => page.evaluate(() => document.getElementById("comparison").style.getPropertyValue("--position"));
    const slider = page.locator("#slider");
    await slider.scrollIntoViewIfNeeded();
    const { x, y, width, height } = await slider.boundingBox();
    await page.mouse.click(x + 0.75 * width, y + height / 2);
    assert.ok(Math.abs(parseFloat(await position()) - 75) < 3, await position());
    await slider.press("Home");
    assert.equal(await position(), "0%");
    await slider.press("ArrowRight");
    assert.equal(await position(), "0.5%");
    const session = await context.newCDPSession(page);
    const point = (at) => [{ x: x + at * width, y: y + height / 2 }];
    await session.send("Emulation.setTouchEmulationEnabled", { enabled: true });
    await session.send("Input.dispatchTouchEvent", { type: "touchStart", touchPoints: point(0.1) });
    for (const at of [0.2, 0.3]) await session.send("Input.dispatchTouchEvent", { type: "touchMove", touchPoints: point(at) });
    await session.send("Input.dispatchTouchEvent", { type: "touchEnd", touchPoints: [] });
    assert.ok(Math.abs(parseFloat(await position()) - 30) < 4, await position());
    await session.send("Emulation.setTouchEmulationEnabled", { enabled: false });
  });

  test("every control has a name, and Tab reaches it", async () => {
    const nameless = await page.evaluate(() =>
      [...document.querySelectorAll("input, select, button, a, progress")]
        .filter((control) => !control.labels?.length && !control.getAttribute("aria-label") && !control.textContent.trim())
        .map(({ id }) => id),
    );
    assert.deepEqual(nameless, []);
    const reached = new Set();
    await page.evaluate(() => document.activeElement.blur());
    for (let presses = 0; presses < 25; presses++) {
      await page.keyboard.press("Tab");
      reached.add(await page.evaluate(() => document.activeElement.id));
    }
    for (const id of ["file", "task", "temperature", "samples", "seed", "precision", "engine", "start", "view", "download", "slider"]) {
      assert.ok(reached.has(id), `${id} is not reached`);
    }
  });

  for (const [width, scheme] of [[360, "dark"], [360, "light"], [1280, "dark"], [1280, "light"]]) {
    test(`nothing sticks out at ${width} pixels, ${scheme}`, async () => {
      await page.setViewportSize({ width, height: 900 });
      await page.emulateMedia({ colorScheme: scheme });
      assert.ok((await page.evaluate(() => document.documentElement.scrollWidth)) <= width);
      const contrast = await page.evaluate(() => {
        const channels = (colour) => colour.match(/[\d.]+/g).slice(0, 3).map((value) => {
          const share = value / 255;
          return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        const luminance = (colour) => channels(colour).reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
        return ["body", "#start", "footer"].map((selector) => {
          const { color } = getComputedStyle(document.querySelector(selector));
          const { backgroundColor } = getComputedStyle(document.querySelector(selector === "footer" ? "body" : selector));
          const [dark, light] = [luminance(color), luminance(backgroundColor)].sort((a, b) => a - b);
          return (light + 0.05) / (dark + 0.05);
        });
      });
      assert.ok(contrast.every((value) => value >= 4.5), `contrast ${contrast}`);
      if (screenshots) await page.screenshot({ path: join(screenshots, `page-${width}-${scheme}.png`), fullPage: true });
    });
  }

  test("a 4-megapixel result fits in 1 GB", async (context) => {
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.reload();
    await compute("large.png", { precision: "float16" });
    context.diagnostic(await page.textContent("#note"));
    const peak = peakMemory(profile);
    context.diagnostic(`peak memory of the page's process: ${(peak / 2 ** 20).toFixed(0)} MiB`);
    assert.ok(peak < 2 ** 30);
  });

  test("with WebGPU, in software here, the picture is right all the same", async (test) => {
    const folder = mkdtempSync(join(tmpdir(), "hcflow-profile-"));
    const software = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan", "--use-vulkan=swiftshader"];
    const browser = await chromium.launchPersistentContext(folder, { executablePath: CHROMIUM, headless: true, args: [...flags, ...software] });
    try {
      const other = await browser.newPage();
      other.setDefaultTimeout(600_000);
      await other.goto(address);
      await other.waitForFunction(() => document.getElementById("where").textContent);
      if (!(await other.textContent("#where")).includes("WebGPU.")) return test.skip("this Chromium has no WebGPU in software");
      await other.waitForSelector("#precision option", { state: "attached" });
      await other.setInputFiles("#file", file("tiny.png"));
      await other.click("#start");
      await other.waitForSelector("#result:not([hidden]), #message:not(:empty)");
      assert.equal(await other.textContent("#message"), "");
      test.diagnostic(await other.textContent("#note"));
      const [download] = await Promise.all([other.waitForEvent("download"), other.click("#download")]);
      const largest = difference((await readPng(await download.path())).rgb, (await readPng(file("upscaled/tiny.png"))).rgb);
      assert.ok(largest < 1.01, `${largest} levels`);
    } finally {
      await browser.close();
      rmSync(folder, { recursive: true, force: true });
    }
  });

  test("nothing was sent or asked for elsewhere, and no error was left uncaught", () => {
    assert.deepEqual(elsewhere, []);
  });
});

/** Largest peak of resident memory, bytes, among the renderers of the browser with this profile. */
function peakMemory(profile) {
  const processes = readdirSync("/proc").filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
    try {
      const status = readFileSync(`/proc/${pid}/status`, "utf8");
      const field = (name) => Number(status.match(new RegExp(`^${name}:\\s*(\\d+)`, "m"))?.[1] ?? 0);
      return [{ pid: Number(pid), parent: field("PPid"), peak: 1024 * field("VmHWM"), command: readFileSync(`/proc/${pid}/cmdline`, "utf8") }];
    } catch {
      return [];
    }
  });
  const ours = new Set(processes.filter(({ command }) => command.includes(profile)).map(({ pid }) => pid));
  for (let found = true; found; ) {
    const children = processes.filter(({ pid, parent }) => ours.has(parent) && !ours.has(pid));
    children.forEach(({ pid }) => ours.add(pid));
    found = children.length > 0;
  }
  return Math.max(...processes.filter(({ pid, command }) => ours.has(pid) && command.includes("--type=renderer")).map(({ peak }) => peak));
}
