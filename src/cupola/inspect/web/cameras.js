// Where the queries of a multi-camera detector sampled the images, layer by layer.
const HUES = ["#ffd43b", "#ff922b", "#f06595", "#74c0fc"];
const SIX = ["front", "front right", "front left", "back", "back left", "back right"];

function cameras(out) {
  const view = D.view, six = view.images.length === 6;
  const order = six ? [2, 0, 1, 4, 3, 5] : view.images.map((_, n) => n);  // as the cameras look
  const names = six ? SIX : view.images.map((_, n) => "camera " + n);
  const bar = el("div", "queries"), grid = el("div", "views"), table = el("table", "looks"), others = el("table", "looks");
  const where = el("output");
  let chosen = 0, layer = view.queries.length ? view.queries[0].layers.length - 1 : 0;
  const slider = layerSlider(layer, to => { layer = to; draw(); });
  const choice = el("label", "layers");
  choice.append(el("span", "", "Decoder layer"), slider, where);
  out.append(el("h2", "", "Where queries sampled the images, and the weights"));
  out.append(bar, grid, choice, scrolling(table));
  out.append(el("h2", "", "Self-attention: the queries that it reads most"), scrolling(others));
  if (view.bev) birdsEyeView(out, view.bev);

  const images = order.map(number => {
    const canvas = el("canvas"), img = new Image();
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", names[number]);
    img.onload = () => {
      canvas.width = 480;
      canvas.height = Math.round(480 * img.height / img.width);
      draw();
    };
    img.src = view.images[number];
    grid.append(canvas);
    return { number, canvas, img };
  });

  function draw() {
    const query = view.queries[chosen];
    if (!query) return;
    [...bar.children].forEach((button, i) => button.setAttribute("aria-pressed", i === chosen));
    for (const { number, canvas, img } of images) {
      if (img.complete) paintView(canvas, img, query, layer, number, names[number]);
    }
    const look = query.layers[layer], ways = ["right", "ahead", "up"];
    const place = look.meters.map((m, i) => m.toFixed(1) + " m " + ways[i]).join(", ");
    where.textContent = `${layer + 1} of ${query.layers.length}, at ${place}`;
    weightTable(table, look, names);
    otherQueries(others, look.queries, query.query);
  }

  queryButtons(bar, view.queries, i => { chosen = i; draw(); });
}

function birdsEyeView(out, source) {
  const image = el("img", "bev");
  image.alt = "The features of the bird's-eye view; ahead is up";
  image.src = source;
  out.append(el("h2", "", "Bird's-eye view: the three main components of its features, ahead is up"));
  out.append(image);
}

function layerSlider(last, choose) {
  const slider = el("input");
  slider.id = "layer";
  slider.type = "range";
  slider.min = 1;
  slider.max = slider.value = last + 1;
  slider.setAttribute("aria-label", "Decoder layer");
  slider.addEventListener("input", () => choose(+slider.value - 1));
  return slider;
}

function weightTable(table, look, names) {
  const add = (...cells) => { const row = el("tr"); row.append(...cells); table.append(row); };
  const heads = D.view.levels.map((_, level) => {
    const head = el("th");
    head.append(swatch(HUES[level % HUES.length]), "level " + (level + 1));
    return head;
  });
  table.textContent = "";
  add(el("th", "", "weights"), ...heads);
  for (const seen of look.cameras) {
    const weights = seen.weights.map(weight => el("td", "", weight.toFixed(3)));
    add(el("td", "", names[seen.camera]), ...weights);
  }
  if (!look.cameras.length) add(el("td", "", "no camera sees this point"));
}

function otherQueries(table, queries, own) {
  const add = (kind, ...texts) => {
    const row = el("tr");
    row.append(...texts.map(text => el(kind, "", text)));
    table.append(row);
  };
  table.textContent = "";
  add("th", "query", "class", "weight");
  for (const { query, label, weight } of queries) {
    const name = query === null ? "earlier frame" : query + (query === own ? " (itself)" : "");
    add("td", name, label, weight.toFixed(3));
  }
}

function paintView(canvas, img, query, layer, number, name) {
  const pen = canvas.getContext("2d"), W = canvas.width, H = canvas.height;
  const look = query.layers[layer], here = seen => seen.camera === number;
  pen.drawImage(img, 0, 0, W, H);
  pen.lineWidth = 1.5;
  pen.strokeStyle = "#4dabf7";
  for (const [x0, y0, x1, y1] of query.lines[number]) {
    pen.beginPath();
    pen.moveTo(x0 * W, y0 * H);
    pen.lineTo(x1 * W, y1 * H);
    pen.stroke();
  }
  query.layers.forEach((other, i) => {
    if (i === layer) return;
    for (const { uv } of other.cameras.filter(here)) dot(pen, uv[0] * W, uv[1] * H, 3, "#ffffff99");
  });
  const most = Math.max(1e-6, ...look.cameras.flatMap(seen => seen.weights));
  for (const { uv, weights } of look.cameras.filter(here)) {
    for (let level = D.view.levels.length - 1; level >= 0; level--) {
      cells(pen, uv, D.view.levels[level], HUES[level % HUES.length], weights[level] / most, W, H);
    }
    dot(pen, uv[0] * W, uv[1] * H, 5, "#e8590c");
  }
  pen.font = "600 16px system-ui, sans-serif";
  pen.fillStyle = "#000a";
  pen.fillRect(0, H - 24, pen.measureText(name).width + 16, 24);
  pen.fillStyle = "#fff";
  pen.fillText(name, 8, H - 7);
}

// the four cells of a level's feature map that bilinear sampling reads
function cells(pen, [u, v], [width, height], color, share, W, H) {
  const left = Math.floor(u / width - 0.5) * width, top = Math.floor(v / height - 0.5) * height;
  const place = [left * W, top * H, 2 * width * W, 2 * height * H];
  pen.strokeStyle = pen.fillStyle = color;
  pen.lineWidth = 1 + 2.5 * share;
  pen.globalAlpha = 0.35 + 0.65 * share;
  pen.strokeRect(...place);
  pen.globalAlpha = 0.22 * share;
  pen.fillRect(...place);
  pen.globalAlpha = 1;
}

function dot(pen, x, y, radius, color) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.fillStyle = color;
  pen.fill();
  pen.lineWidth = 1;
  pen.strokeStyle = "#fff";
  pen.stroke();
}
