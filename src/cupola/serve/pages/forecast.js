// The forecast page: reads the stream of states and draws them under a time slider.

const STOPS = [[5, 48, 97], [67, 147, 195], [247, 247, 247], [214, 96, 77], [103, 0, 31]];
const at = (id) => document.getElementById(id);
let states = []; // {lead, unit, channels, shape: [C, H, W], field, truth?, spread?}
let request = null; // the AbortController of the stream under way
let timer = null;

const numbers = (text) => {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Float32Array(bytes.buffer); // the server sends little-endian, as all browsers run
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
  canvas.width = W;
  canvas.height = H;
  const image = new ImageData(W, H);
  values.forEach((value, i) => {
    image.data.set([...mix((value - low) / (high - low || 1)), 255], 4 * i);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
};

const limits = (channel) => {
  // from the first state, so that colors mean the same at every lead time
  const values = plane(states[0], states[0].truth ? "truth" : "field", channel);
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
  const far = values.reduce((most, v) => Math.max(most, Math.abs(v - mean)), 0);
  return [mean - far, mean + far];
};

const errorOf = (state, channel) => {
  const truth = plane(state, "truth", channel);
  const field = plane(state, "field", channel);
  let difference = 0;
  let size = 0;
  truth.forEach((t, i) => { difference += (field[i] - t) ** 2; size += t * t; });
  return Math.sqrt(difference / size);
};

const showErrors = (channel, index) => {
  const errors = states.filter((s) => s.truth).map((s) => errorOf(s, channel));
  at("errors").hidden = errors.length < 2;
  if (errors.length < 2) return;
  const top = Math.max(1, ...errors);
  at("curve").setAttribute("points", errors
    .map((e, i) => `${(100 * i) / (errors.length - 1)},${100 - (98 * e) / top}`).join(" "));
  const x = String((100 * index) / (errors.length - 1));
  at("now").setAttribute("x1", x);
  at("now").setAttribute("x2", x);
  at("error").value = index < errors.length ? errors[index].toFixed(3) : "no truth at this time";
};

const show = () => {
  if (!states.length) return;
  const index = Number(at("slider").value);
  const state = states[index];
  const channel = Math.max(0, at("channel").selectedIndex);
  const [low, high] = limits(channel);
  at("lead").value = `+${+state.lead.toFixed(3)} ${state.unit} (${index + 1} of ${states.length})`;
  draw(at("field"), plane(state, "field", channel), state.shape, low, high);
  at("truth-figure").hidden = !state.truth;
  if (state.truth) draw(at("truth"), plane(state, "truth", channel), state.shape, low, high);
  at("spread-figure").hidden = !state.spread;
  if (state.spread) {
    const half = (high - low) / 2;
    draw(at("spread"), plane(state, "spread", channel), state.shape, -half, half);
  }
  showErrors(channel, index);
};

const take = (event) => {
  if (event.error) throw new Error(event.error);
  for (const name of ["field", "truth", "spread"]) {
    if (event[name]) event[name] = numbers(event[name]);
  }
  if (!states.length) {
    at("channel").replaceChildren(...event.channels.map((name) => new Option(name)));
  }
  const slider = at("slider");
  const follow = Number(slider.value) === states.length - 1 || !states.length;
  states.push(event);
  slider.max = states.length - 1;
  slider.disabled = at("play").disabled = false;
  if (follow) slider.value = slider.max;
  show();
};

const read = async (response) => {
  // server-sent events: "data: {json}" and an empty line
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let ended = false;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const text of events) {
      const event = JSON.parse(text.replace(/^data: /, ""));
      take(event);
      ended = Boolean(event.final);
    }
  }
  if (!ended) throw new Error("the stream ended early");
};

const asked = () => {
  const parameters = { encoding: "base64" };
  for (const name of ["example", "steps", "members", "amplitude"]) {
    parameters[name] = Number(at(name).value);
  }
  return parameters;
};

const showCommand = () => {
  const url = new URL(`../v2/models/${at("model").value}/generate_stream`, location.href);
  const body = JSON.stringify({ inputs: [], parameters: asked() });
  at("curl").textContent = `curl -N '${url}' \\\n  -d '${body}'`;
};

const ask = async () => {
  if (request) request.abort();
  const mine = request = new AbortController();
  states = [];
  at("message").textContent = "waiting for the first state ...";
  at("stop").disabled = false;
  const parameters = asked();
  try {
    const response = await fetch(`../v2/models/${encodeURIComponent(at("model").value)}/generate_stream`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ inputs: [], parameters }),
      signal: mine.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error);
    at("message").textContent = "";
    await read(response);
    at("message").textContent = `${states.length} states`;
  } catch (error) {
    if (error.name !== "AbortError") at("message").textContent = error.message;
    else if (request === mine) at("message").textContent = "stopped";
  } finally {
    if (request === mine) at("stop").disabled = true;
  }
};

const play = () => {
  if (timer) {
    clearInterval(timer);
    timer = null;
  } else {
    timer = setInterval(() => {
      const slider = at("slider");
      slider.value = (Number(slider.value) + 1) % states.length;
      show();
    }, 120);
  }
  at("play").textContent = timer ? "Pause" : "Play";
};

const listModels = async () => {
  const index = await (await fetch("../v2/repository/index", { method: "POST" })).json();
  const wanted = new URLSearchParams(location.search).get("model");
  const found = [];
  for (const name of new Set(index.map((entry) => entry.name))) {
    const about = await (await fetch(`../v2/models/${encodeURIComponent(name)}`)).json();
    if (about.platform === "cupola_forecast") found.push(name);
  }
  at("model").replaceChildren(...found.map((name) => new Option(name)));
  if (found.includes(wanted)) at("model").value = wanted;
  at("go").disabled = !found.length;
  showCommand();
  if (!found.length) at("message").textContent = "no forecast model is being served";
};

at("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
at("ask").addEventListener("input", showCommand);
at("model").addEventListener("change", showCommand);
at("stop").addEventListener("click", () => request.abort());
at("slider").addEventListener("input", show);
at("channel").addEventListener("change", show);
at("play").addEventListener("click", play);
listModels().catch((error) => { at("message").textContent = error.message; });
