// Part of page.html: the looks of a multi-camera detector's queries, layer by layer.
function cameras(out) {
  const v = D.view, levels = v.levels.length, count = v.pictures.length, six = count === 6;
  const order = six ? [2, 0, 1, 4, 3, 5] : v.pictures.map((_, n) => n);  // as the cameras look
  const names = six ? ["front", "front right", "front left", "back", "back left", "back right"] : v.pictures.map((_, n) => "camera " + n);
  const HUES = ["#ffd43b", "#ff922b", "#f06595", "#74c0fc"];
  let chosen = 0, layer = v.queries.length ? v.queries[0].layers.length - 1 : 0;
  out.append(el("h2", "", "Where queries looked, and what each look weighed"));
  const bar = el("div", "queries"), grid = el("div", "views"), choice = el("label", "layers"), slider = el("input"), said = el("output"), table = el("table", "looks");
  slider.type = "range"; slider.min = 1; slider.id = "layer"; slider.max = layer + 1; slider.value = layer + 1; slider.setAttribute("aria-label", "Decoder layer");
  slider.addEventListener("input", () => { layer = +slider.value - 1; draw(); });
  choice.append(el("span", "", "Decoder layer"), slider, said); out.append(bar, grid, choice, table);
  const views = order.map(n => {
    const canvas = document.createElement("canvas"), img = new Image(); canvas.setAttribute("role", "img"); canvas.setAttribute("aria-label", names[n]);
    img.onload = () => { canvas.width = 480; canvas.height = Math.round(480 * img.height / img.width); draw(); }; img.src = v.pictures[n]; grid.append(canvas);
    return { n, canvas, img };
  });
  function draw() {
    const q = v.queries[chosen]; if (!q) return;
    [...bar.children].forEach((e, i) => e.setAttribute("aria-pressed", i === chosen));
    for (const view of views) if (view.img.complete) paint(view, q);
    const look = q.layers[layer];
    said.textContent = (layer + 1) + " of " + q.layers.length + ", at " + look.metres.map((m, i) => m.toFixed(1) + " m " + ["right", "ahead", "up"][i]).join(", ");
    table.textContent = ""; const head = el("tr"); head.append(el("th", "", "weights"));
    for (let l = 0; l < levels; l++) { const th = el("th", "", "■ level " + (l + 1)); th.style.color = HUES[l % HUES.length]; head.append(th); }
    table.append(head);
    for (const seen of look.cameras) { const tr = el("tr"); tr.append(el("td", "", names[seen.camera])); for (const w of seen.weights) tr.append(el("td", "", w.toFixed(3))); table.append(tr); }
    if (!look.cameras.length) { const tr = el("tr"); tr.append(el("td", "", "no camera sees this point")); table.append(tr); }
  }
  function paint({ n, canvas, img }, q) {
    const g = canvas.getContext("2d"), W = canvas.width, H = canvas.height; g.drawImage(img, 0, 0, W, H);
    g.lineWidth = 1.5; g.strokeStyle = "#4dabf7";
    for (const [a, b, c, d] of q.lines[n]) { g.beginPath(); g.moveTo(a * W, b * H); g.lineTo(c * W, d * H); g.stroke(); }
    const most = Math.max(1e-6, ...q.layers[layer].cameras.flatMap(seen => seen.weights));
    q.layers.forEach((look, i) => { for (const seen of look.cameras) if (seen.camera === n && i !== layer) dot(g, seen.uv[0] * W, seen.uv[1] * H, 3, "#ffffff99"); });
    for (const seen of q.layers[layer].cameras) if (seen.camera === n) {
      const [u, w] = seen.uv;
      for (let l = levels - 1; l >= 0; l--) cells(g, u, w, v.levels[l], HUES[l % HUES.length], seen.weights[l] / most, W, H);
      dot(g, u * W, w * H, 5, "#e8590c");
    }
    g.font = "600 16px system-ui, sans-serif"; g.fillStyle = "#000a"; g.fillRect(0, H - 24, g.measureText(names[n]).width + 16, 24); g.fillStyle = "#fff"; g.fillText(names[n], 8, H - 7);
  }
  function cells(g, u, w, [a, b], colour, share, W, H) {  // the four cells that bilinear sampling reads
    const left = Math.floor(u / a - 0.5) * a, top = Math.floor(w / b - 0.5) * b;
    g.strokeStyle = colour; g.lineWidth = 1 + 2.5 * share; g.globalAlpha = 0.35 + 0.65 * share;
    g.strokeRect(left * W, top * H, 2 * a * W, 2 * b * H); g.globalAlpha = 0.22 * share; g.fillStyle = colour; g.fillRect(left * W, top * H, 2 * a * W, 2 * b * H); g.globalAlpha = 1;
  }
  function dot(g, x, y, r, colour) { g.beginPath(); g.arc(x, y, r, 0, 7); g.fillStyle = colour; g.fill(); g.lineWidth = 1; g.strokeStyle = "#fff"; g.stroke(); }
  v.queries.forEach((q, i) => { const b = el("button", "", "query " + q.query + ": " + q.label + " " + q.score.toFixed(2)); b.addEventListener("click", () => { chosen = i; draw(); }); bar.append(b); });
}
