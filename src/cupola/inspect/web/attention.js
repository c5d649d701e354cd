// A detector's queries on an image: what each one attended to, and the box that it found.
function attention(out) {
  const view = D.view, holder = el("div"), bar = el("div", "queries"), canvas = el("canvas");
  const img = new Image();
  let chosen = 0;
  holder.id = "image";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "The image with the attention of the chosen query");
  holder.append(canvas);
  out.append(el("h2", "", "Attention and matched queries on the image"), bar, holder);

  function draw() {
    const pen = canvas.getContext("2d"), query = view.queries[chosen];
    const W = canvas.width, H = canvas.height;
    pen.drawImage(img, 0, 0, W, H);
    if (!query) return;
    const rows = query.attention.length, columns = query.attention[0].length;
    const most = Math.max(...query.attention.flat()) || 1;
    query.attention.forEach((row, y) => row.forEach((weight, x) => {
      pen.fillStyle = `rgba(217,72,15,${(0.75 * weight / most).toFixed(3)})`;
      pen.fillRect(x * W / columns, y * H / rows, W / columns + 1, H / rows + 1);
    }));
    const [left, top, right, bottom] = query.box;
    pen.strokeStyle = "#0b6bcb";
    pen.lineWidth = Math.max(2, W / 250);
    pen.strokeRect(left * W, top * H, (right - left) * W, (bottom - top) * H);
    [...bar.children].forEach((button, i) => button.setAttribute("aria-pressed", i === chosen));
  }

  queryButtons(bar, view.queries, i => { chosen = i; draw(); });
  img.onload = () => { canvas.width = img.width; canvas.height = img.height; draw(); };
  img.src = view.image;
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
