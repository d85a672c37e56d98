/** The page: what the user chose goes to the worker, what the worker made is shown. */

const element = (id) => document.getElementById(id);
const base = new URL("./", location.href).href;
const DEFAULT_SAMPLING_TEMPERATURE = 0.8;

let worker = null;
let models = null;
let picture = null;
let shown = [];
let sourceUrl = null;

function newWorker() {
  const created = new Worker(new URL("worker.js", base), { type: "module" });
  created.onmessage = ({ data }) => handlers[data.kind](data);
  created.onerror = (event) => {
    handlers.error({ message: `The computation stopped: ${event.message || "the worker could not be started"}` });
    stop();
  };
  return created;
}

function stop() {
  worker?.terminate();
  worker = null;
}

const fileSize = (bytes) => (bytes < 1e5 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

/** "about 2 min 5 s left". */
function remaining(seconds) {
  const rounded = Math.max(1, Math.round(seconds));
  const minutes = Math.floor(rounded / 60);
  return minutes ? `about ${minutes} min ${rounded % 60} s left` : `about ${rounded} s left`;
}

function setBusy(busy) {
  element("settings").disabled = busy;
  element("file").disabled = busy;
  element("start").disabled = busy || !picture || !models;
  element("cancel").hidden = !busy;
  element("progress-area").hidden = !busy;
  if (busy) {
    element("message").textContent = "";
    element("result").hidden = true;
    element("progress").removeAttribute("value");
    element("cancel").focus();
  }
}

const handlers = {
  hello({ webgpu, threads }) {
    const engine = webgpu ? "WebGPU" : `WebAssembly with ${threads} ${threads === 1 ? "thread" : "threads"}`;
    const hint = crossOriginIsolated ? "" : " This page's server does not send the headers that more threads need.";
    element("where").textContent = `Engine here: ${engine}.${webgpu ? "" : hint}`;
    element("engine").querySelector("[value=webgpu]").disabled = !webgpu;
  },
  stage({ stage }) {
    element("stage").textContent = stage;
  },
  progress({ done, total, seconds }) {
    element("progress").value = done / total;
    const left = done ? `, ${remaining((seconds / done) * (total - done))}` : "";
    element("stage").textContent = `Tile ${Math.min(done + 1, total)} of ${total}${left}`;
  },
  error({ message }) {
    setBusy(false);
    element("message").textContent = message;
    element("start").focus();
  },
  result(result) {
    setBusy(false);
    show(result);
  },
};

function showFile(file) {
  picture = file;
  element("chosen").textContent = `${file.name || "pasted picture"}, ${fileSize(file.size)}`;
  element("message").textContent = "";
  element("result").hidden = true;
  element("start").disabled = !models;
}

function revoke() {
  for (const { url } of shown) URL.revokeObjectURL(url);
  if (sourceUrl) URL.revokeObjectURL(sourceUrl);
}

function show({ images, note, width, seconds, where, height, model }) {
  revoke();
  shown = images.map((image) => ({ ...image, url: URL.createObjectURL(new Blob([image.png], { type: "image/png" })) }));
  sourceUrl = URL.createObjectURL(picture);
  element("before").src = sourceUrl;
  const view = element("view");
  view.replaceChildren(...shown.map(({ label }, index) => new Option(label, index)));
  const perMegapixel = seconds / ((width * height) / 1e6) / Math.max(1, images.filter(({ label }) => label.startsWith("Sample")).length);
  element("note").textContent =
    `${note}. ${model}, ${seconds.toFixed(1)} s (${perMegapixel.toFixed(1)} s per megapixel), ${where}.`;
  element("comparison").style.setProperty("--width", `${width / devicePixelRatio}px`);
  element("result").hidden = false;
  showView();
  view.focus();
}

function showView() {
  const { url, suffix, label } = shown[Number(element("view").value)];
  const plain = label === "Small picture";
  element("after").src = url;
  element("after").alt = label;
  element("comparison").classList.toggle("plain", plain);
  const link = element("download");
  link.href = url;
  link.download = `${(picture.name || "picture").replace(/\.[^.]*$/, "")}${suffix}.png`;
}

function moveDivider() {
  element("comparison").style.setProperty("--position", `${element("slider").value}%`);
}

function start() {
  const samples = Number(element("samples").value);
  const options = {
    task: element("task").value,
    temperature: Number(element("temperature").value),
    samples,
    seed: element("seed").value,
    uncertainty: element("uncertainty").checked && samples > 1,
    precision: element("precision").value,
    engine: element("engine").value,
    tile: element("tile").value === "" ? undefined : Number(element("tile").value),
  };
  setBusy(true);
  worker ??= newWorker();
  worker.postMessage({ kind: "run", file: picture, options, models, base });
}

function updateSettings() {
  for (const field of document.querySelectorAll(".sampling")) field.hidden = element("task").value === "rescale";
  const several = Number(element("samples").value) > 1;
  element("uncertainty").disabled = !several;
  if (!several) element("uncertainty").checked = false;
  if (several && Number(element("temperature").value) === 0) element("temperature").value = DEFAULT_SAMPLING_TEMPERATURE;
  element("temperature-value").textContent = element("temperature").value;
}

function takeFile(files) {
  const file = [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (file && !element("file").disabled) showFile(file);
}

function listen() {
  element("file").addEventListener("change", (event) => takeFile(event.target.files));
  addEventListener("paste", (event) => event.clipboardData?.files.length && takeFile(event.clipboardData.files));
  addEventListener("dragover", (event) => {
    event.preventDefault();
    element("drop").classList.add("over");
  });
  addEventListener("dragleave", () => element("drop").classList.remove("over"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    element("drop").classList.remove("over");
    takeFile(event.dataTransfer.files);
  });
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    start();
  });
  element("cancel").addEventListener("click", () => {
    stop();
    setBusy(false);
    element("message").textContent = "Cancelled.";
    element("start").focus();
  });
  for (const id of ["task", "samples", "temperature"]) element(id).addEventListener("input", updateSettings);
  element("slider").addEventListener("input", moveDivider);
  element("view").addEventListener("change", showView);
  element("full-size").addEventListener("change", (event) => element("viewport").classList.toggle("full", event.target.checked));
}

async function loadModels() {
  const response = await fetch(new URL("models/models.json", base));
  if (!response.ok) throw new Error(`${response.status} ${response.statusText}`);
  models = await response.json();
  const size = (precision) => models.map((model) => fileSize(model.files[precision].decoder.bytes)).join(", to restore ");
  element("precision").replaceChildren(
    new Option(`float16: ${size("float16")}`, "float16"),
    new Option(`float32: ${size("float32")}`, "float32"),
  );
  element("start").disabled = !picture;
}

listen();
updateSettings();
moveDivider();
worker = newWorker();
worker.postMessage({ kind: "hello" });
loadModels().catch((error) => {
  element("message").textContent = `The list of models could not be loaded: ${error.message}`;
});
