// The matching: every layer's predictions against the objects, with the costs of each pair.
const SHADES = ["#e8590c", "#1971c2", "#2f9e44", "#9c36b5", "#c2255c", "#0c8599"];

function matching(out) {
  const { costs, objects, layers, boxes } = D.view.matching;
  const canvas = el("canvas"), holder = el("div"), table = el("table", "looks"), where = el("output");
  const img = new Image();
  let layer = layers.length - 1;
  const slider = rangeInput(1, layers.length, layers.length, "Decoder layer of the matching", n => {
    layer = n - 1;
    draw();
  });
  const choice = el("div", "layers");
  choice.append(el("span", "", "Decoder layer"), slider, where);
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Objects, dashed, and the boxes of the queries matched with them");
  holder.append(canvas);
  out.append(el("h2", "", "Matching: one query for each object, with the least total cost"), choice, holder);
  out.append(el("p", "soft", "Dashed: the object. Solid: its query. The table has the five cheapest " +
    "queries for each object. The assignment minimizes the sum, so an object may not get its cheapest."));
  out.append(scrolling(table));

  function draw() {
    where.textContent = `${layer + 1} of ${layers.length}`;
    costTable(table, costs, objects, layers[layer]);
    if (!img.width) return;
    const pen = canvas.getContext("2d"), W = canvas.width, H = canvas.height;
    pen.drawImage(img, 0, 0, W, H);
    objects.forEach((object, i) => {
      const color = SHADES[i % SHADES.length], { query } = layers[layer][i];
      pen.setLineDash([6, 4]);
      outline(pen, object.box, color, W, H);
      pen.setLineDash([]);
      if (query !== null) outline(pen, boxes[layer][query], color, W, H);
    });
  }

  img.onload = () => {
    enlarge(canvas, img, 384);
    draw();
  };
  img.src = D.view.image;
  draw();
}

function costTable(table, costs, objects, layer) {
  table.textContent = "";
  const head = el("tr");
  head.append(...["object", "query", ...costs, "total"].map(text => el("th", "", text)));
  table.append(head);
  layer.forEach(({ query, rows }, i) => rows.forEach((row, n) => {
    const line = el("tr", row[0] === query ? "own" : ""), parts = row.slice(1);
    const name = el("td");
    if (!n) name.append(swatch(SHADES[i % SHADES.length]), objects[i].label);
    line.append(name, el("td", "", row[0] + (row[0] === query ? " ← assigned" : "")));
    line.append(...parts.map(cost => el("td", "", cost.toFixed(2))));
    line.append(el("td", "", parts.reduce((a, b) => a + b, 0).toFixed(2)));
    table.append(line);
  }));
}
