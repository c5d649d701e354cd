// The page of multi-camera detectors: calibrated images go to the infer endpoint, 3-D boxes come
// back and are drawn into every image and into the street seen from above.
import { corners, drawAbove, drawView, nearestAbove, nearestInView, HUES } from "./cameras3d.js";

const at = (id) => document.getElementById(id);
const LOWEST = 0.05; // scores below are never asked for; the slider filters what came
const ORDER = [2, 0, 1, 4, 3, 5]; // the usual six cameras, as they look: front row, back row
const NAMES = ["Front", "Front right", "Front left", "Back", "Back left", "Back right"];

// sample: {images, matrices [N][16], names}; found: [{score, label, name, box [9], corners}]
const state = { sample: null, example: 0, found: [], hot: null, asked: 0, milliseconds: 0 };
const url = () => `../v2/models/${encodeURIComponent(at("model").value)}/infer`;

// ---- talking to the server: the Open Inference Protocol with binary tensors

async function infer(request, tail = []) {
  const text = new TextEncoder().encode(JSON.stringify(request));
  const answer = await fetch(url(), {
    method: "POST",
    headers: { "Inference-Header-Content-Length": text.length },
    body: new Blob([text, ...tail]),
  });
  const body = await answer.arrayBuffer();
  const size = Number(answer.headers.get("Inference-Header-Content-Length") ?? body.byteLength);
  const document = JSON.parse(new TextDecoder().decode(body.slice(0, size)));
  if (!answer.ok) throw new Error(document.error);
  let start = size;
  return Object.fromEntries(document.outputs.map(({ name, shape, data, parameters }) => {
    if (data) return [name, { shape, data }];
    const end = start + parameters.binary_data_size;
    const bytes = new Uint8ClampedArray(body.slice(start, end));
    start = end;
    return [name, { shape, data: bytes }];
  }));
}

const outputs = (...names) => names.map((name) => ({ name }));

async function askExample(number) {
  const answer = await infer({
    inputs: [],
    parameters: { example: number, return_images: true, threshold: LOWEST },
    outputs: [
      ...outputs("boxes", "scores", "labels", "names", "lidar2img", "examples"),
      { name: "pixels", parameters: { binary_data: true } },
    ],
  });
  const [count, height, width] = answer.pixels.shape;
  const images = [];
  for (let n = 0; n < count; n++) {
    const rgb = answer.pixels.data.subarray(n * height * width * 3, (n + 1) * height * width * 3);
    const image = new ImageData(width, height);
    for (let i = 0; i < height * width; i++) {
      image.data.set([rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 255], 4 * i);
    }
    images.push(await createImageBitmap(image));
  }
  const flat = answer.lidar2img.data;
  const matrices = images.map((_, n) => flat.slice(16 * n, 16 * n + 16));
  state.example = number;
  listExamples(answer.examples.data[0]);
  return [{ images, matrices, names: NAMES }, answer];
}

async function askFiles(files) {
  const [sample, chosen] = await readSample([...files]);
  const lidar2img = sample.matrices.flat();
  const tail = [];
  for (const file of chosen) {
    const length = new DataView(new ArrayBuffer(4));
    length.setUint32(0, file.size, true); // each element of BYTES follows its length
    tail.push(length.buffer, file);
  }
  const size = chosen.reduce((sum, file) => sum + 4 + file.size, 0);
  const N = chosen.length;
  const answer = await infer({
    inputs: [
      { name: "lidar2img", datatype: "FP32", shape: [N, 4, 4], data: lidar2img },
      { name: "images", datatype: "BYTES", shape: [N], parameters: { binary_data_size: size } },
    ],
    parameters: { threshold: LOWEST },
  }, tail);
  state.example = null;
  return [sample, answer];
}

async function readSample(files) {
  const described = files.find((file) => file.name.endsWith(".json"));
  if (!described) throw new Error("choose sample.json and the images that it names");
  const { cameras } = JSON.parse(await described.text());
  const chosen = cameras.map((camera) => {
    const file = files.find((each) => each.name === camera.file);
    if (!file) throw new Error(`${described.name} names ${camera.file}, which was not chosen`);
    return file;
  });
  const images = await Promise.all(chosen.map((file) => createImageBitmap(file)));
  const matrices = cameras.map((camera) => camera.lidar2img.flat());
  return [{ images, matrices, names: cameras.map((camera) => camera.name) }, chosen];
}

async function show(asking) {
  const number = ++state.asked;
  const started = performance.now();
  try {
    const [sample, answer] = await asking;
    if (number !== state.asked) return; // something newer was asked
    state.milliseconds = performance.now() - started;
    state.sample = sample;
    state.found = answer.scores.data.map((score, i) => {
      const box = answer.boxes.data.slice(9 * i, 9 * i + 9);
      return { score, label: answer.labels.data[i], name: answer.names.data[i], box, corners: corners(box) };
    });
    complain("");
    layOut();
  } catch (error) {
    complain(error.message);
  }
  showCommand();
}

function complain(text) {
  at("error").textContent = text;
  at("error").hidden = !text;
}

// ---- the page

function layOut() {
  const { images, names } = state.sample;
  const order = images.length === 6 ? ORDER : images.map((_, n) => n);
  at("views").replaceChildren(...order.map((n) => {
    const figure = document.createElement("figure");
    const canvas = document.createElement("canvas");
    canvas.dataset.camera = n;
    canvas.style.aspectRatio = `${images[n].width} / ${images[n].height}`;
    canvas.onpointermove = (event) => point(nearestInView(visible(), state.sample, n, canvas, event));
    canvas.onpointerleave = () => point(null);
    const caption = document.createElement("figcaption");
    caption.textContent = names[n] ?? `Camera ${n + 1}`;
    figure.append(canvas, caption);
    return figure;
  }));
  for (const button of at("examples").children) {
    button.setAttribute("aria-pressed", Number(button.value) === state.example);
  }
  list();
}

const visible = () => state.found.filter((one) => one.score >= Number(at("threshold").value));

function list() {
  const boxes = visible();
  at("threshold-value").textContent = Number(at("threshold").value).toFixed(2);
  at("summary").textContent = boxes.length
    ? `${boxes.length} found in ${Math.round(state.milliseconds)} ms` : "Nothing above the threshold.";
  at("results").replaceChildren(...boxes.map(row));
  document.body.dataset.found = boxes.map((one) => one.name).join(" ");
  draw();
}

function row(one) {
  const line = document.createElement("li");
  line.innerHTML = '<span class="chip"></span><span class="where"></span><span class="score"></span>';
  const [chip, where, score] = line.children;
  const [x, y] = one.box;
  chip.textContent = one.name.replaceAll("_", " ");
  chip.style.background = HUES[one.label % HUES.length];
  where.textContent = `${Math.hypot(x, y).toFixed(1)} m ${y >= 0 ? "ahead" : "behind"}, ${x >= 0 ? "right" : "left"}`;
  score.textContent = `${Math.round(one.score * 100)}%`;
  line.onpointerenter = () => point(one);
  line.onpointerleave = () => point(null);
  return line;
}

function point(one) {
  if (one === state.hot) return;
  state.hot = one;
  visible().forEach((each, i) => at("results").children[i].classList.toggle("hot", each === one));
  draw();
}

function draw() {
  if (!state.sample) return;
  const boxes = visible();
  for (const canvas of at("views").querySelectorAll("canvas")) {
    drawView(canvas, state.sample, Number(canvas.dataset.camera), boxes, state.hot);
  }
  drawAbove(at("above"), state.sample, boxes, state.hot);
}

function listExamples(count) {
  if (at("examples").children.length === count) return;
  at("examples").replaceChildren(...Array.from({ length: count }, (_, n) => {
    const button = document.createElement("button");
    button.textContent = n + 1;
    button.setAttribute("aria-label", `Street ${n + 1}`);
    button.value = n;
    button.onclick = () => show(askExample(n));
    return button;
  }));
}

function showCommand() {
  const full = new URL(url(), location.href);
  at("curl").textContent = state.example === null
    ? `curl '${full}' \\\n  -F images=@CAM_FRONT.png -F images=@... \\\n  -F lidar2img=@lidar2img.npy`
    : `curl '${full}' \\\n  -d '${JSON.stringify({ inputs: [], parameters: { example: state.example } })}'`;
}

async function listModels() {
  const index = await (await fetch("../v2/repository/index", { method: "POST" })).json();
  const found = [];
  for (const name of new Set(index.map((entry) => entry.name))) {
    const about = await (await fetch(`../v2/models/${encodeURIComponent(name)}`)).json();
    if (about.platform === "cupola_detection3d") found.push(name);
  }
  const wanted = new URLSearchParams(location.search).get("model");
  at("model").replaceChildren(...found.map((name) => new Option(name)));
  if (found.includes(wanted)) at("model").value = wanted;
  if (!found.length) throw new Error("no multi-camera model is being served");
  await show(askExample(0));
}

at("threshold").oninput = list;
at("model").onchange = () => show(askExample(0));
at("choose").onclick = () => at("files").click();
at("files").onchange = (event) => { show(askFiles(event.target.files)); };
at("above").onpointermove = (event) => point(nearestAbove(visible(), at("above"), event));
at("above").onpointerleave = () => point(null);
addEventListener("resize", draw);
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); document.body.classList.add("over"); });
}
document.addEventListener("dragleave", () => document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  show(askFiles(event.dataTransfer.files));
});
listModels().catch((error) => complain(error.message));
