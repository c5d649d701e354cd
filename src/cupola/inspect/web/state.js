// A module's own tensors: what is saved and tied, where each came from, and how ranks share it.
function state(out, node) {
  if (node.hooks) out.append(el("h2", "", "Hooks"), el("p", "", node.hooks.join(", ")));
  if (!node.state) return;
  const table = el("table", "looks"), came = node.state.some(row => row.from !== undefined);
  const head = el("tr");
  const columns = ["name", "kind", "shape", "type", ...(came ? ["from the checkpoint's"] : [])];
  head.append(...columns.map(text => el("th", "", text)));
  table.append(head);
  for (const row of node.state) {
    const line = el("tr"), notes = [row.kind];
    if (row.frozen) notes.push("frozen");
    if (row.tied) notes.push("tied to " + row.tied);
    const cells = [row.name, notes.join(", "), row.shape, row.dtype];
    if (came) cells.push(row.from || (row.kind.includes("not saved") ? "" : "computed or new"));
    line.append(...cells.map(text => el("td", "", text)));
    table.append(line);
  }
  out.append(el("h2", "", "State"), scrolling(table));
  for (const row of node.state.filter(each => each.split !== undefined)) ranks(out, row);
}

// which rank holds which slice of a tensor, for 1 to 8 ranks
function ranks(out, row) {
  const svg = shape(null, "svg", {
    width: 440, height: 190, viewBox: "0 0 440 190", role: "img", class: "flow",
  });
  const where = el("output"), choice = el("div", "layers");
  const slider = rangeInput(0, 3, 1, `Ranks that share ${row.name}`, n => draw(2 ** n));
  choice.append(el("span", "", "Ranks"), slider, where);
  const what = row.split === 0 ? "rows" : "columns";
  out.append(el("h2", "", `Which rank holds which ${what} of ${row.name}`), choice, svg);

  function draw(count) {
    const length = Math.ceil(row.whole / count);
    svg.textContent = "";
    const lines = [];
    for (let rank = 0; rank < count; rank++) {
      const first = Math.min(rank * length, row.whole), last = Math.min(first + length, row.whole);
      const part = [rank * length, (rank + 1) * length].map(n => n / (count * length));
      const box = row.split === 0
        ? { x: 10, y: 10 + 160 * part[0], width: 180, height: 160 * (part[1] - part[0]) }
        : { x: 10 + 180 * part[0], y: 10, width: 180 * (part[1] - part[0]), height: 160 };
      shape(svg, "rect", { ...box, style: `fill:${SHADES[rank % SHADES.length]}59` });
      const padding = length - (last - first);
      lines.push(`rank ${rank}: ${first} to ${last - 1}` + (padding ? `, ${padding} padded` : ""));
      shape(svg, "text", { x: 204, y: 22 + rank * 20 }, lines[rank]);
    }
    where.textContent = `${count}: ${length} ${what} each`;
    svg.setAttribute("aria-label", lines.join("; "));
  }

  draw(2);
}
