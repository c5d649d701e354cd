// The page at /: an image goes to the infer endpoint, boxes come back.
const $ = (id) => document.getElementById(id);
const PHOTOS = ["coffee", "chelsea", "rocket", "paper"];
const INKS = ["#ffffff", "#16130f", "#ffd23e", "#e5482d", "#2f6fe0"];
const HUES = ["#e0662a", "#2f7bf0", "#1f9d5c", "#9b51d6", "#e0317f", "#0497a7", "#8a9a16", "#c98a00", "#d93a2f", "#5a6acf"];
const LOWEST = 0.05; // scores below are never asked for; the slider filters what came

const state = {
  models: [], model: null, writing: true, photo: "coffee", ink: INKS[0], image: null,
  strokes: [], stroke: null, found: [], hot: -1, timer: 0, asked: 0, milliseconds: 0, started: 0,
};
const image = $("image"), overlay = $("overlay");

// ---- talking to the server

async function ask(path, options) {
  const answer = await fetch(path, options);
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error?.message ?? body.error ?? `${answer.status}`);
  return body;
}

async function findModels() {
  const index = await ask("v2/repository/index", { method: "POST" });
  const names = [...new Set(index.map((entry) => entry.name))];
  state.models = await Promise.all(names.map((name) => ask(`v2/models/${encodeURIComponent(name)}`)));
  const rank = (m) => ["cupola_detection", "cupola_language"].indexOf(m.platform) >>> 0;
  state.models.sort((a, b) => rank(a) - rank(b));
  $("model").replaceChildren(...state.models.map((m) => new Option(m.name, m.name)));
  choose(state.models[0]);
}

function choose(model) {
  const own = { cupola_forecast: "forecast", cupola_detection3d: "cameras" }[model?.platform];
  if (own) { // a page of its own
    location.href = `pages/${own}.html?model=${encodeURIComponent(model.name)}`;
    return;
  }
  state.model = model;
  const kind = { cupola_detection: "detection", cupola_language: "language" }[model?.platform] ?? "other";
  for (const id of ["detection", "language", "other"]) $(id).hidden = id !== kind;
  const url = `${location.origin}/v2/models/${model?.name}/infer`;
  $("curl").textContent = `curl --data-binary @photo.jpg \\\n  -H 'Content-Type: image/jpeg' \\\n  '${url}?threshold=0.5'`;
  $("other-curl").textContent = model ? `${url}\n\n${JSON.stringify(model.inputs, null, 2)}` : "No model is loaded.";
  if (kind === "detection") { layOut(); askSoon(0); }
}

function outputs(answer) {
  return Object.fromEntries(answer.outputs.map((o) => [o.name, o.data]));
}

async function detect() {
  const number = ++state.asked;
  const blob = await new Promise((done) => image.toBlob(done, "image/png"));
  state.started = performance.now();
  try {
    const answer = outputs(await ask(
      `v2/models/${encodeURIComponent(state.model.name)}/infer?threshold=${LOWEST}`,
      { method: "POST", body: blob, headers: { "Content-Type": "image/png" } },
    ));
    if (number !== state.asked) return; // a newer image is on its way
    state.milliseconds = performance.now() - state.started;
    state.found = answer.scores.map((score, i) => ({
      score, label: answer.labels[i], name: answer.names?.[i] ?? `${answer.labels[i]}`,
      box: answer.boxes.slice(4 * i, 4 * i + 4),
    })).sort((a, b) => b.score - a.score);
    complain("");
  } catch (error) {
    complain(error.message);
    state.found = [];
  }
  show();
}

function askSoon(wait) {
  clearTimeout(state.timer);
  if (state.model && (state.strokes.length || (!state.writing && state.image))) {
    state.timer = setTimeout(detect, wait);
  } else {
    state.asked++; state.found = []; show();
  }
}

function complain(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
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
  paint(source);
  show();
}

function paint(source) {
  const pen = image.getContext("2d");
  pen.drawImage(source, 0, 0, image.width, image.height);
  if (!state.writing) return;
  pen.lineCap = pen.lineJoin = "round";
  for (const stroke of state.strokes) drawStroke(pen, stroke);
}

function drawStroke(pen, stroke) {
  pen.strokeStyle = stroke.ink;
  pen.lineWidth = image.width / 42;
  pen.beginPath();
  stroke.points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  if (stroke.points.length === 1) pen.lineTo(stroke.points[0][0] + 0.1, stroke.points[0][1]);
  pen.stroke();
}

const photos = new Map();
async function photo(name) {
  if (!photos.has(name)) photos.set(name, name === "paper" ? paper() : await load(`pages/${name}.jpg`));
  return photos.get(name);
}

function load(url) {
  return new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => fail(new Error("this file is no image that the browser can read"));
    image.src = url;
  });
}

function paper() {
  const sheet = Object.assign(document.createElement("canvas"), { width: 600, height: 400 });
  const pen = sheet.getContext("2d");
  const light = pen.createLinearGradient(0, 0, 600, 400);
  light.addColorStop(0, "#7d9a8c"); light.addColorStop(1, "#3c5648");
  pen.fillStyle = light; pen.fillRect(0, 0, 600, 400);
  for (let i = 0; i < 4000; i++) {
    pen.fillStyle = `rgba(${i % 2 ? "255,255,255" : "0,0,0"},.03)`;
    pen.fillRect((i * 7919) % 600, (i * 104729) % 400, 3, 2);
  }
  return sheet;
}

async function take(file) {
  if (!file) return;
  try {
    state.image = await load(URL.createObjectURL(file));
  } catch (error) {
    return complain(error.message);
  }
  setWriting(false);
  await layOut();
  askSoon(0);
}

// ---- what was found

function visible() {
  return state.found.filter((one) => one.score >= Number($("threshold").value));
}

function show() {
  const boxes = visible(), pen = overlay.getContext("2d");
  $("threshold-value").textContent = Number($("threshold").value).toFixed(2);
  pen.clearRect(0, 0, overlay.width, overlay.height);
  boxes.forEach((one, i) => drawBox(pen, one, i === state.hot));
  const nothing = state.strokes.length || !state.writing ? "Nothing above the threshold." : "Nothing yet.";
  $("summary").textContent = boxes.length
    ? `${boxes.length} found in ${Math.round(state.milliseconds)} ms` : nothing;
  $("results").replaceChildren(...boxes.map(row));
  document.body.dataset.found = boxes.map((one) => one.name).join(" ");
}

function drawBox(pen, { box: [x1, y1, x2, y2], label, name, score }, hot) {
  const pixel = overlay.width / (overlay.clientWidth || overlay.width); // of the canvas, in one of the screen
  const color = HUES[label % HUES.length], size = 13.5 * pixel;
  pen.lineWidth = (hot ? 5 : 2.5) * pixel;
  pen.strokeStyle = color;
  pen.beginPath(); pen.roundRect(x1, y1, x2 - x1, y2 - y1, size / 3); pen.stroke();
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const text = `${name} ${Math.round(score * 100)}%`, width = pen.measureText(text).width + size * 0.7;
  const top = y1 > size * 1.5 ? y1 - size * 1.45 : y1;
  pen.fillStyle = color;
  pen.beginPath(); pen.roundRect(x1 - pen.lineWidth / 2, top, width, size * 1.45, size / 3); pen.fill();
  pen.fillStyle = "#fff"; pen.textBaseline = "middle";
  pen.fillText(text, x1 + size * 0.3, top + size * 0.76);
}

function row(one, i) {
  const line = document.createElement("li");
  line.innerHTML = '<span class="chip"></span><span class="bar"><i></i></span><span class="score"></span>';
  const [chip, bar, score] = line.children;
  chip.textContent = one.name;
  chip.style.background = HUES[one.label % HUES.length];
  bar.firstChild.style.width = `${one.score * 100}%`;
  score.textContent = `${Math.round(one.score * 100)}%`;
  line.onpointerenter = () => { state.hot = i; redraw(); };
  line.onpointerleave = () => { state.hot = -1; redraw(); };
  return line;
}

function redraw() {
  const pen = overlay.getContext("2d");
  pen.clearRect(0, 0, overlay.width, overlay.height);
  visible().forEach((one, i) => drawBox(pen, one, i === state.hot));
}

// ---- the finger

function at(event) {
  const frame = overlay.getBoundingClientRect();
  return [(event.clientX - frame.left) * overlay.width / frame.width,
    (event.clientY - frame.top) * overlay.height / frame.height];
}

overlay.addEventListener("pointerdown", (event) => {
  if (!state.writing) return;
  overlay.setPointerCapture(event.pointerId);
  clearTimeout(state.timer);
  state.stroke = { ink: state.ink, points: [at(event)] };
  state.strokes.push(state.stroke);
  $("hint").hidden = true;
  state.found = []; redraw();
  stretch();
});
overlay.addEventListener("pointermove", (event) => {
  if (!state.stroke) return;
  for (const one of event.getCoalescedEvents?.() ?? [event]) state.stroke.points.push(at(one));
  stretch();
});
for (const end of ["pointerup", "pointercancel"]) {
  overlay.addEventListener(end, () => {
    if (!state.stroke) return;
    state.stroke = null;
    askSoon(450);
  });
}
function stretch() {
  const pen = image.getContext("2d");
  pen.lineCap = pen.lineJoin = "round";
  drawStroke(pen, state.stroke);
}

// ---- the tools

function setWriting(writing) {
  state.writing = writing;
  document.body.classList.toggle("writing", writing);
  $("tab-write").setAttribute("aria-selected", writing);
  $("tab-image").setAttribute("aria-selected", !writing);
  $("write-tools").hidden = !writing;
  $("image-tools").hidden = writing || !state.image;
}
async function change() { await layOut(); askSoon(0); }
function buttons(host, values, current, dress) {
  host.replaceChildren(...values.map((value) => {
    const button = document.createElement("button");
    dress(button, value);
    button.setAttribute("aria-pressed", value === current);
    return button;
  }));
}
function press(host, button) {
  for (const one of host.children) one.setAttribute("aria-pressed", one === button);
}
buttons($("photos"), PHOTOS, state.photo, (button, name) => {
  button.title = name;
  button.setAttribute("aria-label", `Write on ${name}`);
  button.style.background = name === "paper" ? "#5f7f70" : `center / cover url(pages/${name}.jpg)`;
  button.onclick = () => { state.photo = name; state.strokes = []; press($("photos"), button); change(); };
});
buttons($("colors"), INKS, state.ink, (button, ink) => {
  button.style.background = ink;
  button.setAttribute("aria-label", `Ink ${ink}`);
  button.onclick = () => { state.ink = ink; press($("colors"), button); };
});
$("tab-write").onclick = () => { setWriting(true); change(); };
$("tab-image").onclick = () => { setWriting(false); change(); };
$("undo").onclick = () => { state.strokes.pop(); change(); };
$("clear").onclick = () => { state.strokes = []; change(); };
$("choose").onclick = $("again").onclick = () => $("file").click();
$("file").onchange = (event) => { take(event.target.files[0]); event.target.value = ""; };
$("threshold").oninput = show;
$("model").onchange = (event) => choose(state.models.find((m) => m.name === event.target.value));
document.addEventListener("paste", (event) => take([...event.clipboardData.files][0]));
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => { event.preventDefault(); $("stage").classList.add("over"); });
}
document.addEventListener("dragleave", () => $("stage").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("stage").classList.remove("over");
  take(event.dataTransfer.files[0]);
});

// ---- text

let speaking = null;
$("continue").onclick = async () => {
  speaking?.abort();
  speaking = new AbortController();
  $("stop").hidden = false;
  const prompt = $("prompt").value;
  $("text").textContent = prompt;
  try {
    const answer = await fetch("v1/completions", {
      method: "POST", signal: speaking.signal,
      body: JSON.stringify({ model: state.model.name, prompt, max_tokens: 120, stream: true, temperature: 0.7 }),
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    await read(answer.body.pipeThrough(new TextDecoderStream()).getReader());
    complain("");
  } catch (error) {
    if (error.name !== "AbortError") complain(error.message);
  }
  $("stop").hidden = true;
};
$("stop").onclick = () => speaking?.abort();
async function read(reader) {
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const piece = JSON.parse(data);
      if (piece.error) throw new Error(piece.error.message);
      $("text").textContent += piece.choices[0]?.text ?? "";
    }
  }
}

setWriting(true);
findModels().catch((error) => complain(error.message));
