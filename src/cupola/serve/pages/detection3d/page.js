// 3-D detection: images of calibrated cameras go to the server; boxes come back and are drawn into
// every image and into the street seen from above.
import {
  $, LOWEST, checked, chooseModel, element, keyOption, modelURL, onDrop, resultRow, send, showError, summarize, t,
} from "../common.js";
import { corners, drawAbove, drawView, nearestAbove, nearestInView } from "./boxes.js";
import { follow } from "./tracks.js";

const ORDER = [2, 0, 1, 4, 3, 5]; // of the usual six cameras on the page: front row, back row
const NAMES = ["Front", "Front right", "Front left", "Back", "Back left", "Back right"];

const PACE = 300; // milliseconds from frame to frame of a drive

// sample: {images, matrices [N][16], names}; found: [{score, label, name, box [9], corners}]
// drive: its frames so far, null before it is played; playing: the drive that asks for frames
const state = {
  model: null, sample: null, example: 0, found: [], hot: null, request: 0, milliseconds: 0,
  drive: null, playing: null,
};
const inferURL = () => modelURL(state.model.name, "infer");

// ---- requests: the Open Inference Protocol with binary tensors

async function infer(request, tail = []) {
  const text = new TextEncoder().encode(JSON.stringify(request));
  const response = await checked(await send(inferURL(), {
    method: "POST",
    headers: { "Inference-Header-Content-Length": text.length },
    body: new Blob([text, ...tail]),
  }));
  const body = await response.arrayBuffer();
  const size = Number(response.headers.get("Inference-Header-Content-Length") ?? body.byteLength);
  let start = size;
  const { outputs } = JSON.parse(new TextDecoder().decode(body.slice(0, size)));
  return Object.fromEntries(outputs.map(({ name, shape, data, parameters }) => {
    if (data) return [name, { shape, data }];
    const end = start + parameters.binary_data_size;
    const bytes = new Uint8ClampedArray(body.slice(start, end));
    start = end;
    return [name, { shape, data: bytes }];
  }));
}

async function inferExample(number, sequence = {}) {
  const names = ["boxes", "scores", "labels", "names", "lidar2img", "examples"];
  if (state.model.stateful) names.push("ego_pose", "timestamp");
  const answer = await infer({
    inputs: [],
    parameters: { example: number, return_images: true, threshold: LOWEST, ...sequence },
    outputs: [...names.map((name) => ({ name })), { name: "pixels", parameters: { binary_data: true } }],
  });
  const images = await bitmaps(answer.pixels);
  const flat = answer.lidar2img.data;
  const matrices = images.map((_, n) => flat.slice(16 * n, 16 * n + 16));
  state.example = number;
  listExamples(answer.examples.data[0]);
  return [{ images, matrices, names: NAMES }, answer];
}

function bitmaps({ shape: [count, height, width], data }) {
  // Pixels [N, H, W, 3] as images.
  const size = height * width;
  return Promise.all(Array.from({ length: count }, (_, n) => {
    const image = new ImageData(width, height);
    for (let i = 0; i < size; i++) {
      const at = 3 * (n * size + i);
      image.data.set([data[at], data[at + 1], data[at + 2], 255], 4 * i);
    }
    return createImageBitmap(image);
  }));
}

async function inferFiles(files) {
  const [sample, chosen] = await readSample([...files]);
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
      { name: "lidar2img", datatype: "FP32", shape: [N, 4, 4], data: sample.matrices.flat() },
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
    if (!file) throw new Error(t("{name} names {file}, which was not chosen", { name: described.name, file: camera.file }));
    return file;
  });
  const images = await Promise.all(chosen.map((file) => createImageBitmap(file)));
  const matrices = cameras.map((camera) => camera.lidar2img.flat());
  return [{ images, matrices, names: cameras.map((camera) => camera.name) }, chosen];
}

// Shows an answer; `drive` gets it as a frame. Returns whether it is on the page.
async function show(coming, drive = null) {
  const number = ++state.request;
  const started = performance.now();
  try {
    const [sample, answer] = await coming;
    if (number !== state.request) return false; // a newer request has been sent
    const milliseconds = performance.now() - started;
    const found = answer.scores.data.map((score, i) => {
      const box = answer.boxes.data.slice(9 * i, 9 * i + 9);
      return { score, label: answer.labels.data[i], name: answer.names.data[i], box, corners: corners(box) };
    });
    if (drive) drive.push({ sample, found, milliseconds, pose: answer.ego_pose.data, seconds: answer.timestamp.data[0] });
    Object.assign(state, { sample, found, milliseconds, drive });
    showError("");
    layOut();
    return true;
  } catch (error) {
    showError(error.message);
    return false;
  } finally {
    showCommand();
  }
}

// ---- a drive: the bundle's examples as the frames of one sequence

async function play() {
  const drive = [], count = $("examples").children.length;
  const id = `page-${Date.now()}-${Math.random()}`;
  setPlaying(drive);
  while (state.playing === drive && drive.length < count) {
    const n = drive.length, pause = new Promise((resolve) => setTimeout(resolve, PACE));
    const sequence = { sequence_id: id, sequence_start: n === 0, sequence_end: n === count - 1 };
    const isShown = await show(inferExample(n, sequence), drive);
    if (!isShown) break;
    await pause;
  }
  if (drive.length < count && drive.length) { // stopped: the server need not keep the state
    const parameters = { example: drive.length - 1, sequence_id: id, sequence_end: true };
    infer({ inputs: [], parameters, outputs: [{ name: "scores" }] }).catch(() => {});
  }
  if (state.playing === drive) setPlaying(null);
}

function setPlaying(drive) {
  state.playing = drive;
  $("play").textContent = t(drive ? "Stop" : "Play the drive");
}

// A frame of the drive as it was, or else the example alone.
function choose(number) {
  setPlaying(null);
  const frame = state.drive?.[number];
  if (!frame) return show(inferExample(number));
  const { sample, found, milliseconds } = frame;
  state.request++; // an answer that is still to come is not shown
  Object.assign(state, { example: number, sample, found, milliseconds });
  showCommand();
  return layOut();
}

function linkTracks() {
  if (!state.drive) return;
  const until = state.drive.findIndex(({ found }) => found === state.found) + 1;
  const threshold = Number($("threshold").value);
  const likely = (found) => found.filter((one) => one.score >= threshold / 2);
  follow(state.drive.slice(0, until).map((frame) => ({ ...frame, boxes: likely(frame.found) })), threshold);
}

// ---- the page

function layOut() {
  const { images, names } = state.sample;
  const order = images.length === 6 ? ORDER : images.map((_, n) => n);
  $("views").replaceChildren(...order.map((n) => {
    const figure = element("figure"), canvas = element("canvas");
    canvas.dataset.camera = n;
    canvas.style.aspectRatio = `${images[n].width} / ${images[n].height}`;
    canvas.onpointermove = (event) => highlight(nearestInView(visible(), state.sample, n, canvas, event));
    canvas.onpointerleave = () => highlight(null);
    figure.append(canvas, element("figcaption", "", names[n] ? t(names[n]) : t("Camera {n}", { n: n + 1 })));
    return figure;
  }));
  for (const button of $("examples").children) {
    button.setAttribute("aria-pressed", Number(button.value) === state.example);
  }
  list();
}

const visible = () => state.found.filter((one) => one.score >= Number($("threshold").value));

function list() {
  linkTracks();
  const boxes = visible();
  summarize(boxes.length, state.milliseconds);
  $("results").replaceChildren(...boxes.map((one) => {
    const [x, y] = one.box;
    const sides = { along: t(y >= 0 ? "ahead" : "behind"), across: t(x >= 0 ? "right" : "left") };
    const where = t("{far} m {along}, {across}", { far: Math.hypot(x, y).toFixed(1), ...sides });
    const text = one.track && state.drive ? `#${one.track.number} · ${where}` : where;
    return resultRow(one, element("span", "where", text), (over) => highlight(over ? one : null));
  }));
  document.body.dataset.found = boxes.map((one) => one.name).join(" ");
  draw();
}

function highlight(one) {
  if (one === state.hot) return;
  state.hot = one;
  visible().forEach((each, i) => $("results").children[i].classList.toggle("hot", each === one));
  draw();
}

function draw() {
  if (!state.sample) return;
  const boxes = visible();
  for (const canvas of $("views").querySelectorAll("canvas")) {
    drawView(canvas, state.sample, Number(canvas.dataset.camera), boxes, state.hot);
  }
  drawAbove($("above"), state.sample, boxes, state.hot);
}

function listExamples(count) {
  if ($("examples").children.length === count) return;
  $("examples").replaceChildren(...Array.from({ length: count }, (_, n) => {
    const button = element("button", "", n + 1);
    button.setAttribute("aria-label", t("Example {n}", { n: n + 1 }));
    button.value = n;
    button.onclick = () => choose(n);
    return button;
  }));
}

function showCommand() {
  $("curl").textContent = state.example === null
    ? `curl${keyOption()} '${inferURL()}' \\\n  -F images=@CAM_FRONT.png -F images=@... \\\n  -F lidar2img=@lidar2img.npy`
    : `curl${keyOption()} '${inferURL()}' \\\n  -d '${JSON.stringify({ inputs: [], parameters: { example: state.example } })}'`;
}

$("threshold").oninput = list;
$("choose").onclick = () => $("files").click();
$("files").onchange = (event) => showFiles(event.target.files);
$("play").onclick = () => (state.playing ? setPlaying(null) : play());
$("above").onpointermove = (event) => highlight(nearestAbove(visible(), $("above"), event));
$("above").onpointerleave = () => highlight(null);
addEventListener("resize", draw);
onDrop(document.body, (files) => showFiles(files));

function showFiles(files) {
  setPlaying(null);
  return show(inferFiles(files));
}

async function start() {
  state.model = await chooseModel();
  await show(inferExample(0));
  $("play").hidden = !state.model.stateful || $("examples").children.length < 2;
}

start().catch((error) => showError(error.message));
