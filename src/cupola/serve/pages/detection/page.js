// Detection: an image, or digits written on a photo, goes to the server; boxes come back.
import {
  $, HUES, LOWEST, checked, chooseModel, element, keyOption, modelURL, onDrop, resultRow, send, showError, summarize, t,
} from "../common.js";
import { EXAMPLE, INKS, PHOTOS, drawBox, drawMask, drawStroke, loadImage, photo } from "./drawing.js";
import { maskLayer } from "./masks.js";

const state = {
  model: null, writing: true, photo: PHOTOS[0], ink: INKS[0], image: null,
  strokes: [], stroke: null, found: [], hot: -1, timer: 0, request: 0, milliseconds: 0,
};
const image = $("image"), overlay = $("overlay");

// ---- requests

// The text of a model that searches for one, as a part of the URL.
function query() {
  const text = $("text").value.trim();
  return state.model.text !== undefined && text ? `&text=${encodeURIComponent(text)}` : "";
}

async function detect() {
  const number = ++state.request;
  const blob = await new Promise((done) => image.toBlob(done, "image/png"));
  const started = performance.now();
  try {
    const url = modelURL(state.model.name, `infer?threshold=${LOWEST}${query()}`);
    const response = await checked(await send(url, {
      method: "POST", body: blob, headers: { "Content-Type": "image/png" },
    }));
    const answer = Object.fromEntries((await response.json()).outputs.map((o) => [o.name, o.data]));
    if (number !== state.request) return; // a newer image has been sent
    state.milliseconds = performance.now() - started;
    state.found = answer.scores.map((score, i) => ({
      score, label: answer.labels[i], name: answer.names?.[i] ?? `${answer.labels[i]}`,
      box: answer.boxes.slice(4 * i, 4 * i + 4),
      layer: answer.masks && maskLayer(JSON.parse(answer.masks[i]), HUES[answer.labels[i] % HUES.length]),
    })).sort((a, b) => b.score - a.score);
    showError("");
  } catch (error) {
    showError(error.message);
    state.found = [];
  }
  show();
}

function detectSoon(wait) {
  clearTimeout(state.timer);
  if (state.model && (state.strokes.length || (!state.writing && state.image))) {
    state.timer = setTimeout(detect, wait);
  } else {
    state.request++;
    state.found = [];
    show();
  }
}

// ---- the image

async function layOut() {
  const source = state.writing ? await photo(state.photo) : state.image;
  $("drop").hidden = state.writing || !!state.image;
  $("hint").hidden = !state.writing || state.strokes.length > 0;
  for (const canvas of [image, overlay]) canvas.hidden = !source;
  if (!source) return;
  const scale = Math.min(1, 1600 / Math.max(source.width, source.height));
  for (const canvas of [image, overlay]) {
    canvas.width = Math.round(source.width * scale);
    canvas.height = Math.round(source.height * scale);
    canvas.style.width = state.writing ? "100%" : "auto";
  }
  const pen = image.getContext("2d");
  pen.drawImage(source, 0, 0, image.width, image.height);
  if (state.writing) state.strokes.forEach((stroke) => drawStroke(pen, stroke));
  show();
}

async function update() {
  await layOut();
  detectSoon(0);
}

async function open(file) {
  if (!file) return;
  try {
    state.image = await loadImage(URL.createObjectURL(file));
  } catch (error) {
    showError(error.message);
    return;
  }
  setWriting(false);
  await update();
}

// ---- detections

const visible = () => state.found.filter((one) => one.score >= Number($("threshold").value));

function show() {
  const boxes = visible();
  drawBoxes();
  summarize(boxes.length, state.milliseconds);
  if (state.writing && !state.strokes.length) $("summary").textContent = t("No detections yet.");
  $("results").replaceChildren(...boxes.map((one, i) => {
    const bar = element("span", "bar"), share = bar.appendChild(element("i"));
    share.style.width = `${one.score * 100}%`;
    return resultRow(one, bar, (over) => { state.hot = over ? i : -1; drawBoxes(); });
  }));
  document.body.dataset.found = boxes.map((one) => one.name).join(" ");
}

function drawBoxes() {
  const pen = overlay.getContext("2d");
  pen.clearRect(0, 0, overlay.width, overlay.height);
  visible().reverse().forEach((one) => one.layer && drawMask(pen, one.layer));
  visible().forEach((one, i) => drawBox(pen, one, i === state.hot));
}

// ---- writing

function position(event) {
  const frame = overlay.getBoundingClientRect();
  return [(event.clientX - frame.left) * overlay.width / frame.width,
    (event.clientY - frame.top) * overlay.height / frame.height];
}

overlay.addEventListener("pointerdown", (event) => {
  if (!state.writing) return;
  overlay.setPointerCapture(event.pointerId);
  clearTimeout(state.timer);
  state.stroke = { ink: state.ink, points: [position(event)] };
  state.strokes.push(state.stroke);
  $("hint").hidden = true;
  state.found = [];
  drawBoxes();
  drawStroke(image.getContext("2d"), state.stroke);
});
overlay.addEventListener("pointermove", (event) => {
  if (!state.stroke) return;
  state.stroke.points.push(...(event.getCoalescedEvents?.() ?? [event]).map(position));
  drawStroke(image.getContext("2d"), state.stroke);
});
for (const end of ["pointerup", "pointercancel"]) {
  overlay.addEventListener(end, () => {
    if (!state.stroke) return;
    state.stroke = null;
    detectSoon(450);
  });
}

// ---- tools

function setWriting(writing) {
  state.writing = writing;
  document.body.classList.toggle("writing", writing);
  $("tab-write").setAttribute("aria-selected", writing);
  $("tab-image").setAttribute("aria-selected", !writing);
  $("write-tools").hidden = !writing;
  $("image-tools").hidden = writing || !state.image;
}

function choices(host, values, current, label, background, choose) {
  // A row of buttons, of which one is pressed.
  host.replaceChildren(...values.map((value) => {
    const button = element("button");
    button.title = value;
    button.setAttribute("aria-label", `${t(label)} ${value}`);
    button.setAttribute("aria-pressed", value === current);
    button.style.background = background(value);
    button.onclick = () => {
      for (const one of host.children) one.setAttribute("aria-pressed", one === button);
      choose(value);
    };
    return button;
  }));
}

const thumbnail = (name) => (name === "paper" ? "#5f7f70" : `center / cover url(${new URL(`${name}.jpg`, document.baseURI)})`);
choices($("photos"), PHOTOS, state.photo, "Background", thumbnail, (name) => {
  state.photo = name;
  state.strokes = [];
  update();
});
choices($("inks"), INKS, state.ink, "Ink", (ink) => ink, (ink) => { state.ink = ink; });
$("tab-write").onclick = () => { setWriting(true); update(); };
$("tab-image").onclick = () => { setWriting(false); update(); };
$("undo").onclick = () => { state.strokes.pop(); update(); };
$("clear").onclick = () => { state.strokes = []; update(); };
$("choose").onclick = $("again").onclick = () => $("file").click();
$("file").onchange = (event) => { open(event.target.files[0]); event.target.value = ""; };
$("threshold").oninput = show;
document.addEventListener("paste", (event) => open(event.clipboardData.files[0]));
onDrop($("stage"), (files) => open(files[0]));

function showCommand() {
  const url = modelURL(state.model.name, `infer?threshold=${$("threshold").value}${query()}`);
  $("curl").textContent = `curl${keyOption()} --data-binary @photo.jpg \\\n  -H 'Content-Type: image/jpeg' \\\n  '${url}'`;
}

async function start() {
  state.model = await chooseModel();
  $("threshold").value = state.model.threshold ?? 0.5;
  if (state.model.text !== undefined) {
    $("text-label").hidden = false;
    $("text").value = state.model.text;
    $("text").onchange = () => { showCommand(); detectSoon(0); };
  }
  showCommand();
  await (state.image ? update() : showExample()); // a photo may have been dropped in the meantime
}

// Something to see at once: written digits for a model of digits, a photo for others.
async function showExample() {
  const digits = state.model.labels?.length === 10 && state.model.labels.every((label) => /^\d$/.test(label));
  setWriting(digits);
  if (digits) {
    state.strokes = [];
    await layOut();
    state.strokes = EXAMPLE.map((points) => ({
      ink: state.ink, points: points.map(([x, y]) => [x * overlay.width, y * overlay.height]),
    }));
  } else {
    state.image = await photo("coffee");
    setWriting(false);
  }
  await update();
}

setWriting(true);
start().catch((error) => showError(error.message));
