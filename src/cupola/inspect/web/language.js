// A text token by token: what each attends to, by layer and head, and what it expects next.
function language(out) {
  const view = D.view, weights = unpack(view.attention), count = view.tokens.length;
  const state = { token: count - 1, layer: weights.layers - 1, head: 0 };
  const said = el("p", "soft"), line = el("div", "layers"), text = el("div", "tokens");
  const grid = el("canvas"), bars = el("table", "looks");
  const layer = rangeInput(1, weights.layers, weights.layers, "Layer", n => { state.layer = n - 1; draw(); });
  const head = rangeInput(0, weights.heads, 0, "Head, 0 is their mean", n => { state.head = n; draw(); });
  line.append(el("span", "", "Layer"), layer, el("span", "", "Head"), head);
  out.append(el("h2", "", "Attention of one token to those before it"), line, said, text);
  const buttons = view.tokens.map((piece, i) => {
    const button = el("button", "token", visible(piece));
    button.addEventListener("click", () => { state.token = i; draw(); });
    text.append(button);
    return button;
  });
  grid.setAttribute("role", "img");
  grid.setAttribute("aria-label", "Attention of all tokens: a row is a token, a column what it attends to");
  grid.width = grid.height = count * Math.max(4, Math.floor(360 / count));
  out.append(grid, el("h2", "", "The likeliest next tokens"), scrolling(bars));

  function draw() {
    const row = weights.row(state.layer, state.head, state.token), most = Math.max(...row);
    buttons.forEach((button, i) => {
      const share = i <= state.token ? row[i] / most : 0;
      button.style.background = share > 0.01 ? `rgba(217,72,15,${(0.55 * share).toFixed(3)})` : "";
      button.setAttribute("aria-pressed", i === state.token);
      button.title = `${(100 * row[i]).toFixed(1)} %`;
    });
    const slope = state.head && view.slopes ? view.slopes[state.head - 1] : null;
    const which = state.head ? `head ${state.head} of ${weights.heads}` : `mean of ${weights.heads} heads`;
    const bias = slope === null ? "" : `; ALiBi subtracts ${slope} for each token of distance`;
    said.textContent = `Layer ${state.layer + 1} of ${weights.layers}, ${which}${bias}.`;
    matrix(grid, weights, state, count);
    nextTokens(bars, view.next[state.token], view.tokens[state.token + 1]);
  }

  draw();
}

function visible(piece) { return piece.replace(/ /g, "·").replace(/\n/g, "↵") || "∅"; }

function matrix(canvas, weights, { layer, head, token }, count) {
  const pen = canvas.getContext("2d"), side = canvas.width / count;
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = "#8884";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  for (let y = 0; y < count; y++) {
    const row = weights.row(layer, head, y), most = Math.max(...row);
    for (let x = 0; x <= y; x++) {
      pen.fillStyle = `rgba(217,72,15,${(row[x] / most).toFixed(3)})`;
      pen.fillRect(x * side, y * side, side, side);
    }
  }
  pen.strokeStyle = "#0b6bcb";
  pen.lineWidth = 2;
  pen.strokeRect(0, token * side, canvas.width, side);
}

function nextTokens(table, best, truth) {
  table.textContent = "";
  for (const [piece, share] of best) {
    const row = el("tr", piece === truth ? "own" : ""), bar = el("span", "bar");
    bar.style.width = 240 * share + "px";
    const cell = el("td");
    cell.append(bar, ` ${(100 * share).toFixed(1)} %`);
    row.append(el("td", "", visible(piece) + (piece === truth ? " ← in the text" : "")), cell);
    table.append(row);
  }
}
