// Where the queries of a deformable detector sampled the image, layer by layer.
function sampling(out) {
  const view = D.view, bar = el("div", "queries"), holder = el("div"), canvas = el("canvas");
  const img = new Image(), where = el("output"), key = el("p", "levels");
  const last = view.queries.length ? view.queries[0].layers.length - 1 : 0;
  let chosen = 0, layer = last;
  holder.id = "image";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "The image with the points that the chosen query sampled");
  holder.append(canvas);
  const choice = el("label", "layers");
  choice.append(
    el("span", "", "Decoder layer"), layerSlider(last, to => { layer = to; draw(); }), where);
  view.levels.forEach(([height, width], level) => {
    key.append(swatch(HUES[level % HUES.length]), `level ${level + 1}: ${width} x ${height}  `);
  });
  out.append(el("h2", "", "Where queries sampled the image, and their boxes"));
  out.append(bar, holder, choice, key);

  function draw() {
    const pen = canvas.getContext("2d"), query = view.queries[chosen];
    const W = canvas.width, H = canvas.height;
    pen.drawImage(img, 0, 0, W, H);
    if (!query) return;
    const { reference, points } = query.layers[layer];
    const most = Math.max(1e-6, ...points.map(point => point[3]));
    for (const [x, y, level, weight] of points) {
      pen.globalAlpha = 0.25 + 0.75 * weight / most;
      dot(pen, x * W, y * H, 1.5 + 4 * weight / most, HUES[level % HUES.length]);
    }
    pen.globalAlpha = 1;
    outline(pen, reference, "#fff", W, H);
    outline(pen, query.box, "#0b6bcb", W, H);
    where.textContent = `${layer + 1} of ${query.layers.length}`;
    [...bar.children].forEach((button, i) => button.setAttribute("aria-pressed", i === chosen));
  }

  queryButtons(bar, view.queries, i => { chosen = i; draw(); });
  img.onload = () => { enlarge(canvas, img, 512); draw(); };
  img.src = view.image;
}
