// Forecasts: the states of a stream, drawn under a time slider.
import COASTLINES from "./coastlines.js";
import { $, checked, chooseModel, events, keyOption, modelURL, send, showError, t } from "../common.js";

const STOPS = [[5, 48, 97], [67, 147, 195], [247, 247, 247], [214, 96, 77], [103, 0, 31]];
let model = null;
let states = []; // {lead, unit, channels, shape: [C, H, W], field, truth?, spread?}
let request = null; // the AbortController of the stream that is running
let timer = null;

// ---- drawing

const decode = (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer); // little-endian on both sides
};

const mix = (position) => {
  // 0..1 -> a color between the stops
  const p = Math.min(Math.max(position, 0), 1) * (STOPS.length - 1);
  const i = Math.min(Math.floor(p), STOPS.length - 2);
  return STOPS[i].map((low, c) => low + (STOPS[i + 1][c] - low) * (p - i));
};

const plane = (state, name, channel) => {
  const [, H, W] = state.shape;
  return state[name].subarray(channel * H * W, (channel + 1) * H * W);
};

const draw = (canvas, values, [, H, W], low, high) => {
  const image = new ImageData(W, H);
  values.forEach((value, i) => {
    // A point without a value (land in a field of the sea) stays transparent.
    if (Number.isNaN(value)) return;
    image.data.set([...mix((value - low) / (high - low || 1)), 255], 4 * i);
  });
  const small = new OffscreenCanvas(W, H);
  small.getContext("2d").putImageData(image, 0, 0);
  const zoom = Math.max(1, Math.ceil(720 / W));
  canvas.width = W * zoom;
  canvas.height = H * zoom;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  if (grid) drawCoastlines(context, W, H, zoom);
};

// ---- the map

let grid = null; // {latitude, longitude}: values, or {start, step, size}
const valueAt = (axis, i) => (Array.isArray(axis) ? axis[i] : axis.start + axis.step * i);

const lines = () => {
  // First value and step of both axes; null where the steps are not equal.
  const sides = [grid.latitude, grid.longitude];
  if (sides.some((axis) => Array.isArray(axis) && axis.length > 2)) return null;
  return sides.map((axis) => [valueAt(axis, 0), valueAt(axis, 1) - valueAt(axis, 0)]);
};

function drawCoastlines(context, W, H, zoom) {
  const axes = lines();
  if (!axes) return;
  const [[north, down], [west, east]] = axes;
  context.strokeStyle = "#222";
  context.lineWidth = Math.max(1, zoom / 4);
  context.beginPath();
  for (const ring of COASTLINES) {
    let last = null;
    for (let i = 0; i < ring.length; i += 2) {
      const x = ((((ring[i] / 100 - west) % 360) + 360) % 360) / east + 0.5;
      const y = (ring[i + 1] / 100 - north) / down + 0.5;
      // A line that jumps across the map, or runs along its cut, is no coast.
      const jumps = last === null || Math.abs(x - last) > 180 / Math.abs(east);
      context[jumps ? "moveTo" : "lineTo"](x * zoom, y * zoom);
      last = x;
    }
  }
  context.stroke();
}

function showColorBar(low, high, units) {
  const bar = $("bar"), count = 256;
  bar.width = count;
  bar.height = 1;
  const image = new ImageData(count, 1);
  for (let i = 0; i < count; i++) image.data.set([...mix(i / (count - 1)), 255], 4 * i);
  bar.getContext("2d").putImageData(image, 0, 0);
  const text = (value) => Number(value.toPrecision(4)).toLocaleString("en");
  $("low").textContent = text(low);
  $("middle").textContent = `${text((low + high) / 2)} ${units}`.trim();
  $("high").textContent = text(high);
  $("scale").hidden = false;
}

const limits = (channel) => {
  // From the first state, so that colors mean the same at every lead time.
  const all = plane(states[0], states[0].truth ? "truth" : "field", channel);
  const values = all.filter((v) => !Number.isNaN(v));
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
  const far = values.reduce((most, v) => Math.max(most, Math.abs(v - mean)), 0);
  return [mean - far, mean + far];
};

const relativeError = (state, channel) => {
  const truth = plane(state, "truth", channel), field = plane(state, "field", channel);
  let difference = 0, size = 0;
  truth.forEach((value, i) => {
    if (Number.isNaN(value) || Number.isNaN(field[i])) return;
    difference += (field[i] - value) ** 2;
    size += value * value;
  });
  return Math.sqrt(difference / size);
};

function showErrors(channel, index) {
  const errors = states.filter((s) => s.truth).map((s) => relativeError(s, channel));
  $("errors").hidden = errors.length < 2;
  if (errors.length < 2) return;
  const top = Math.max(1, ...errors);
  $("curve").setAttribute("points", errors
    .map((e, i) => `${(100 * i) / (errors.length - 1)},${100 - (98 * e) / top}`).join(" "));
  const x = String((100 * index) / (errors.length - 1));
  $("now").setAttribute("x1", x);
  $("now").setAttribute("x2", x);
  $("relative-error").value = index < errors.length ? errors[index].toFixed(3) : t("no truth at this time");
}

function show() {
  if (!states.length) return;
  const index = Number($("slider").value);
  const state = states[index];
  const channel = Math.max(0, $("channel").selectedIndex);
  const [low, high] = limits(channel);
  const lead = `+${+state.lead.toFixed(3)} ${state.unit}`;
  $("lead").value = t("{lead} ({n} of {all})", { lead, n: index + 1, all: states.length });
  const valid = state.valid_time || state.time;
  $("valid").textContent = valid ? t("Valid at {time} UTC", { time: valid.replace("T", " ").slice(0, 16) }) : "";
  showColorBar(low, high, state.units?.[channel] ?? "");
  draw($("field"), plane(state, "field", channel), state.shape, low, high);
  $("truth-figure").hidden = !state.truth;
  if (state.truth) draw($("truth"), plane(state, "truth", channel), state.shape, low, high);
  $("spread-figure").hidden = !state.spread;
  if (state.spread) {
    const half = (high - low) / 2;
    draw($("spread"), plane(state, "spread", channel), state.shape, -half, half);
  }
  showErrors(channel, index);
}

// ---- the stream

function add(state) {
  if (state.error) throw new Error(state.error);
  for (const name of ["field", "truth", "spread"]) {
    if (state[name]) state[name] = decode(state[name]);
  }
  if (!states.length) {
    grid = state.grid ?? null;
    $("channel").replaceChildren(...state.channels.map((name) => new Option(name)));
  }
  const slider = $("slider");
  const follow = Number(slider.value) === states.length - 1 || !states.length;
  states.push(state);
  slider.max = states.length - 1;
  slider.disabled = $("play").disabled = false;
  if (follow) slider.value = slider.max;
  show();
}

function body() {
  const parameters = { encoding: "base64" };
  for (const name of ["example", "steps", "members", "amplitude"]) {
    if ($(name).value !== "") parameters[name] = Number($(name).value);
  }
  parameters.convention = $("convention").value;
  if ($("init").value) parameters.init = $("init").value;
  return JSON.stringify({ inputs: [], parameters });
}

const streamURL = () => modelURL(model.name, "generate_stream");

async function forecast() {
  request?.abort();
  const mine = request = new AbortController();
  states = [];
  $("message").textContent = t("Waiting for the first state ...");
  $("stop").disabled = false;
  try {
    const response = await checked(await send(streamURL(), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: body(),
      signal: mine.signal,
    }));
    let ended = false;
    for await (const data of events(response)) {
      const state = JSON.parse(data);
      add(state);
      ended = Boolean(state.final);
    }
    if (!ended) throw new Error(t("the stream ended early"));
    $("message").textContent = t("{n} states", { n: states.length });
  } catch (error) {
    if (error.name !== "AbortError") $("message").textContent = error.message;
    else if (request === mine) $("message").textContent = t("Stopped.");
  } finally {
    if (request === mine) $("stop").disabled = true;
  }
}

function showCommand() {
  $("curl").textContent = `curl${keyOption()} -N '${streamURL()}' \\\n  -d '${body()}'`;
}

function play() {
  if (timer) {
    clearInterval(timer);
    timer = null;
  } else {
    timer = setInterval(() => {
      const slider = $("slider");
      slider.value = (Number(slider.value) + 1) % states.length;
      show();
    }, 120);
  }
  $("play").textContent = t(timer ? "Pause" : "Play");
}

async function start() {
  model = await chooseModel();
  $("ask").addEventListener("submit", (event) => { event.preventDefault(); forecast(); });
  $("ask").addEventListener("input", showCommand);
  $("stop").onclick = () => request.abort();
  $("slider").oninput = $("channel").onchange = show;
  $("play").onclick = play;
  $("go").disabled = false;
  showCommand();
  await forecast(); // the recorded example, as long as it has the truth
}

start().catch((error) => showError(error.message));
