/** Computes, so that the page stays responsive; ending this worker cancels at once. */

import { readPicture, UserError } from "./picture.js";
import { isRight } from "./probe.js";
import { originalOf, rescalePicture, Scaler, upscalePicture } from "./upscaling.js";

const MAX_THREADS = 8;
const WRONG = "The WebGPU of this browser computes something else than the model should give; choose another engine.";

/** Threads that WebAssembly gets here. */
function threads() {
  return self.crossOriginIsolated ? Math.min(MAX_THREADS, navigator.hardwareConcurrency || 1) : 1;
}

async function hasWebGpu() {
  try {
    return Boolean(await navigator.gpu?.requestAdapter());
  } catch {
    return false;
  }
}

async function openRuntime(engine, base) {
  const ort = await (engine === "webgpu" ? import("./runtime-webgpu.js") : import("./runtime-wasm.js"));
  ort.env.wasm.wasmPaths = { mjs: new URL(`ort/${ort.files.mjs}`, base).href, wasm: new URL(`ort/${ort.files.wasm}`, base).href };
  ort.env.wasm.numThreads = threads();
  ort.env.logLevel = "error";
  return ort;
}

async function fetchModel(url) {
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new UserError("The model could not be loaded: is the connection to the page's server gone?");
  }
  if (!response.ok) throw new UserError(`The model could not be loaded: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** A function from named inputs to the values of one output. */
async function session(ort, engine, url, output) {
  const opened = await ort.InferenceSession.create(await fetchModel(url), {
    executionProviders: [engine === "webgpu" ? "webgpu" : "wasm"],
    graphOptimizationLevel: "all",
    enableMemPattern: false,
  });
  return async (inputs) => {
    const feeds = Object.fromEntries(
      Object.entries(inputs).map(([name, { data, dims }]) => [name, new ort.Tensor("float32", data, dims)]),
    );
    const results = await opened.run(feeds, [output]);
    const values = await results[output].getData();
    for (const tensor of Object.values(results)) tensor.dispose();
    return values;
  };
}

async function openModel(engine, model, precision, base, withEncoder) {
  const ort = await openRuntime(engine, base);
  const { decoder, encoder } = model.files[precision];
  const url = (part) => new URL(`models/${part.file}`, base).href;
  return {
    decode: await session(ort, engine, url(decoder), "hr"),
    encode: withEncoder ? await session(ort, engine, url(encoder), "lr") : undefined,
  };
}

async function run({ file, options, models, base }) {
  const progress = (stage) => self.postMessage({ kind: "stage", stage });
  progress("Reading the picture");
  const picture = await readPicture(file);
  const restores = options.task === "rescale";
  const rescaling = models.find(({ task }) => task === "rescaling");
  // As `hcflow upscale` without --model: the model that shrank a file restores it.
  const shrunk = picture.text.hcflow_model === rescaling.name && originalOf(picture, rescaling.scale);
  const model = restores || shrunk ? rescaling : models.find(({ task }) => task === "super_resolution");
  let engine = options.engine === "auto" ? ((await hasWebGpu()) ? "webgpu" : "wasm") : options.engine;
  if (engine === "webgpu" && !(await hasWebGpu())) throw new UserError("This browser offers no WebGPU here; choose another engine.");
  progress("Loading the model");
  let functions;
  let remark = "";
  if (engine === "webgpu") {
    try {
      functions = await openModel(engine, model, options.precision, base, restores);
      progress("Checking WebGPU");
      if (!(await isRight(model, functions))) throw new UserError(WRONG);
    } catch (error) {
      if (options.engine !== "auto") throw error;
      remark = error.message === WRONG ? " (WebGPU computes something else here)" : " (WebGPU cannot open the model here)";
      engine = "wasm";
      progress("Loading the model");
    }
  }
  if (engine === "wasm") functions = await openModel(engine, model, options.precision, base, restores);
  const scaler = new Scaler(model, functions, options.tile);
  const { height, width } = picture;
  const passes = restores ? 2 : options.samples;
  const total =
    passes * (restores ? scaler.tiles(Math.ceil(height / model.scale), Math.ceil(width / model.scale)) : scaler.tiles(height, width)).length;
  let done = 0;
  const start = performance.now();
  const step = () => self.postMessage({ kind: "progress", done: ++done, total, seconds: (performance.now() - start) / 1000 });
  self.postMessage({ kind: "progress", done, total, seconds: 0 });
  const result = restores ? await rescalePicture(scaler, picture, step) : await upscalePicture(scaler, picture, options, step);
  const seconds = (performance.now() - start) / 1000;
  const where = engine === "webgpu" ? "WebGPU" : `WebAssembly, ${threads()} ${threads() === 1 ? "thread" : "threads"}${remark}`;
  const buffers = result.images.map(({ png }) => png.buffer);
  self.postMessage({ kind: "result", ...result, seconds, where, model: model.name }, buffers);
}

self.onmessage = async ({ data }) => {
  if (data.kind === "hello") {
    self.postMessage({ kind: "hello", webgpu: await hasWebGpu(), threads: threads() });
    return;
  }
  try {
    await run(data);
  } catch (error) {
    const memory = /memory|allocat/i.test(String(error));
    const reason = memory ? "There is not enough memory for this picture." : `The computation failed: ${error?.message ?? error}`;
    self.postMessage({ kind: "error", message: error instanceof UserError ? error.message : reason });
  }
};
