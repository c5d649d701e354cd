// A detector's queries on an image: what each one attended to, and the box that it found.
// With the attentions of every layer, also by layer and head, among queries, and from cell to cell.
const MODES = [
  ["cross", "query → image", "cross-attention"],
  ["among", "query → queries", "self-attention of the queries"],
  ["encoder", "cell → image", "self-attention of the encoder, from the marked cell"],
];

function attention(out) {
  const view = D.view, layers = view.attention ? unpackAll(view.attention) : null;
  const holder = el("div"), bar = el("div", "queries"), canvas = el("canvas"), said = el("p", "soft");
  const img = new Image(), state = { query: 0, mode: "cross", layer: 0, head: 0, cell: 0 };
  holder.id = "image";
  canvas.setAttribute("role", "img");
  holder.append(canvas);
  out.append(el("h2", "", `Attention of the ${view.queries.length} most confident queries`), bar);
  const controls = layers ? attentionControls(out, layers, state, draw) : null;
  out.append(said, holder);
  if (layers) chooseCell(canvas, layers, state, () => { controls.mode("encoder"); draw(); });
  queryButtons(bar, view.queries, i => { state.query = i; draw(); });

  function draw() {
    const query = view.queries[state.query];
    if (!img.width || !query) return;
    const pen = canvas.getContext("2d"), W = canvas.width, H = canvas.height;
    pen.drawImage(img, 0, 0, W, H);
    if (layers) drawLayer(pen, layers, state, view, W, H);
    else heat(pen, query.attention, W, H);
    const box = layers && state.mode !== "encoder" ? layers.boxes[state.layer][query.query] : query.box;
    if (!layers || state.mode !== "encoder") outline(pen, box, "#0b6bcb", W, H);
    [...bar.children].forEach((button, i) => button.setAttribute("aria-pressed", i === state.query));
    const name = layers ? controls.describe() : "attention of the last layer, mean of the heads";
    canvas.setAttribute("aria-label", `The image with the ${name}, query ${query.query}`);
    said.textContent = name;
  }

  img.onload = () => {
    enlarge(canvas, img, 512);
    draw();
  };
  img.src = view.image;
}

function unpackAll({ grid, cells, cross, among, encoder, boxes }) {
  return { grid, cells, boxes, cross: unpack(cross), among: unpack(among), encoder: unpack(encoder) };
}

// weights in bytes, [layers, heads, rows, columns]; row() divides by the sum, head 0 is the mean
function unpack({ shape, bytes }) {
  const data = Uint8Array.from(atob(bytes), char => char.charCodeAt(0));
  const [layers, heads, rows, columns] = shape;
  const one = (layer, head, row) => {
    const start = ((layer * heads + head) * rows + row) * columns;
    const part = data.subarray(start, start + columns);
    const sum = part.reduce((a, b) => a + b, 0) || 1;
    return Float32Array.from(part, value => value / sum);
  };
  const row = (layer, head, index) => {
    if (head) return one(layer, head - 1, index);
    const mean = new Float32Array(columns);
    for (let h = 0; h < heads; h++) one(layer, h, index).forEach((v, i) => { mean[i] += v / heads; });
    return mean;
  };
  return { layers, heads, row };
}

function attentionControls(out, layers, state, draw) {
  const line = el("div", "layers"), kinds = el("div", "queries");
  const layer = rangeInput(1, 1, 1, "Layer", n => { state.layer = n - 1; draw(); });
  const head = rangeInput(0, 0, 1, "Head, 0 is their mean", n => { state.head = n; draw(); });
  const buttons = MODES.map(([mode, text]) => {
    const button = el("button", "", text);
    button.addEventListener("click", () => { choose(mode); draw(); });
    kinds.append(button);
    return button;
  });
  line.append(el("span", "", "Layer"), layer, el("span", "", "Head"), head);
  out.append(kinds, line);

  function choose(mode) {
    state.mode = mode;
    layer.max = layers[mode].layers;
    head.max = layers[mode].heads;
    state.layer = Math.min(state.layer, layers[mode].layers - 1);
    layer.value = state.layer + 1;
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", MODES[i][0] === mode));
  }

  function describe() {
    const [, , what] = MODES.find(([mode]) => mode === state.mode), { layers: count, heads } = layers[state.mode];
    const which = state.head ? `head ${state.head} of ${heads}` : `mean of ${heads} heads`;
    return `${what}, layer ${state.layer + 1} of ${count}, ${which}`;
  }

  state.layer = layers.cross.layers - 1;
  choose("cross");
  return { mode: choose, describe };
}

function rangeInput(least, most, value, label, changed) {
  const input = el("input");
  Object.assign(input, { type: "range", min: least, max: most, value });
  input.setAttribute("aria-label", label);
  input.addEventListener("input", () => changed(+input.value));
  return input;
}

function drawLayer(pen, layers, state, view, W, H) {
  const { mode, layer, head } = state, [h, w] = layers.grid;
  if (mode === "among") {
    const weights = layers.among.row(layer, head, state.query), most = Math.max(...weights);
    weights.forEach((weight, query) => {
      pen.globalAlpha = weight / most;
      if (weight > 0.1 * most) outline(pen, layers.boxes[layer][query], "#d9480f", W, H);
    });
    pen.globalAlpha = 1;
    return;
  }
  const index = mode === "cross" ? state.query : state.cell;
  const weights = layers[mode].row(layer, head, index);
  heat(pen, Array.from({ length: h }, (_, y) => weights.subarray(y * w, (y + 1) * w)), W, H);
  if (mode === "encoder") {
    const cell = layers.cells[state.cell], x = cell % w, y = Math.floor(cell / w);
    outline(pen, [x / w, y / h, (x + 1) / w, (y + 1) / h], "#0b6bcb", W, H);
  }
}

function heat(pen, rows, W, H) {
  const most = Math.max(...rows.map(row => Math.max(...row))) || 1;
  rows.forEach((row, y) => row.forEach((weight, x) => {
    const left = Math.round(x * W / row.length), top = Math.round(y * H / rows.length);
    const right = Math.round((x + 1) * W / row.length), bottom = Math.round((y + 1) * H / rows.length);
    pen.fillStyle = `rgba(217,72,15,${(0.75 * weight / most).toFixed(3)})`;
    pen.fillRect(left, top, right - left, bottom - top);
  }));
}

// a click on the image, or the arrow keys on it, chooses the cell that the encoder looks from
function chooseCell(canvas, layers, state, chosen) {
  const [, w] = layers.grid, place = cell => [cell % w, Math.floor(cell / w)];
  const nearest = (x, y) => {
    const far = layers.cells.map(cell => Math.hypot(place(cell)[0] - x, place(cell)[1] - y));
    return far.indexOf(Math.min(...far));
  };
  state.cell = Math.floor(layers.cells.length / 2);
  canvas.tabIndex = 0;
  canvas.addEventListener("click", event => {
    const [h, frame] = [layers.grid[0], canvas.getBoundingClientRect()];
    const x = (event.clientX - frame.left) / frame.width * w, y = (event.clientY - frame.top) / frame.height * h;
    state.cell = nearest(x - 0.5, y - 0.5);
    chosen();
  });
  canvas.addEventListener("keydown", event => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    const [x, y] = place(layers.cells[state.cell]);
    for (let n = 1; n < 9; n++) {
      const to = nearest(x + n * step[0], y + n * step[1]);
      if (to !== state.cell) { state.cell = to; break; }
    }
    event.preventDefault();
    event.stopPropagation();
    chosen();
  });
}

// a whole multiple of a small image, so that its pixels stay sharp
function enlarge(canvas, img, size) {
  const scale = Math.max(1, Math.min(4, Math.floor(size / Math.max(img.width, img.height))));
  canvas.width = img.width * scale;
  canvas.height = img.height * scale;
}

function outline(pen, [left, top, right, bottom], color, W, H) {
  pen.strokeStyle = color;
  pen.lineWidth = Math.max(2, W / 250);
  if (right > left) pen.strokeRect(left * W, top * H, (right - left) * W, (bottom - top) * H);
  else dot(pen, left * W, top * H, 4, color);
}

function queryButtons(bar, queries, choose) {
  queries.forEach((query, i) => {
    const text = "query " + query.query + ": " + query.label + " " + query.score.toFixed(2);
    const button = el("button", "", text);
    button.addEventListener("click", () => choose(i));
    bar.append(button);
  });
  if (!queries.length) bar.append(el("span", "", "No query found anything."));
}

// a detector without queries: what it found
function foundBoxes(out) {
  const view = D.view, canvas = el("canvas"), holder = el("div"), img = new Image();
  holder.id = "image";
  canvas.setAttribute("role", "img");
  const names = view.boxes.map(box => box.label + " " + box.score.toFixed(2)).join(", ");
  canvas.setAttribute("aria-label", "The image with the boxes found: " + (names || "none"));
  holder.append(canvas);
  out.append(el("h2", "", "What the model found"), holder, el("p", "soft", names || "nothing"));
  img.onload = () => {
    enlarge(canvas, img, 512);
    const pen = canvas.getContext("2d");
    pen.drawImage(img, 0, 0, canvas.width, canvas.height);
    for (const { box } of view.boxes) outline(pen, box, "#0b6bcb", canvas.width, canvas.height);
  };
  img.src = view.image;
}
