// The data flow between the children of a module, with the edges that the pass took.
const BOX = { left: 96, width: 340, height: 34, gap: 24 };

function flow(out, node) {
  if (!node.flow || !node.flow[0].length) return;
  const names = node.flow[0].slice(0, 41), place = new Map(names.map((name, i) => [name, i]));
  if (node.flow[0].length > names.length) place.delete("<");
  const edges = node.flow[1].filter(edge => edge.every(name => place.has(name)));
  const drawn = names.map((name, i) => ({ name, path: pathOf(node, name), y: 8 + i * (BOX.height + BOX.gap) }));
  const size = [BOX.left + BOX.width + 10, names.length * (BOX.height + BOX.gap)];
  const svg = shape(null, "svg", {
    width: size[0], height: size[1], viewBox: `0 0 ${size[0]} ${size[1]}`, role: "group",
    "aria-label": "Data flow from the input to the output", class: "flow",
  });
  const tip = shape(shape(svg, "defs"), "marker", {
    id: "tip", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto",
  });
  shape(tip, "path", { d: "M0 0L8 4L0 8z", class: "tip" });
  const lanes = [];
  edges.map(([from, to]) => [place.get(from), place.get(to)])
    .sort((a, b) => Math.abs(a[1] - a[0]) - Math.abs(b[1] - b[0]))
    .forEach(edge => drawEdge(svg, drawn, edge, lanes));
  drawn.forEach(box => drawBox(svg, node, box, edges));
  out.append(el("h2", "", "Data flow, traced from the calls"), svg);
  const share = node.ownFlops / (nodes[0].flops || 1);
  if (share >= 0.005) {
    const read = node.ownWeights.length ? ", with " + node.ownWeights.join(", ") : "";
    out.append(el("p", "soft",
      `In its own forward, outside of its children: ${unit(node.ownFlops)}FLOPs, ` +
      `${(100 * share).toFixed(0)} % of the model's${read}.`));
  }
}

function pathOf(node, name) { return node.path ? node.path + "." + name : name; }

function drawBox(svg, node, { name, path, y }, edges) {
  const ends = name[0] === ">" || name === "<", child = !ends && byPath.has(path) ? at(path) : null;
  const group = shape(svg, "g", child ? { tabindex: 0, role: "button" } : {});
  const { left, width, height } = BOX;
  const title = name === "<" ? "output" : name[0] === ">" ? name.slice(1) || "input" : name;
  let note = name === "<" ? node.out : "a parameter, read without a call";
  if (name[0] === ">") note = D.inputs[name.slice(1)] || node["in"];
  if (child && child.out) note = "→ " + child.out + " · " + duration(child.ms);
  const part = child && child.ms && node.ms ? width * Math.min(1, child.ms / node.ms) : 0;
  shape(group, "rect", { x: left, y, width, height, rx: 7, class: ends || !child || !child.out ? "end" : "" });
  shape(group, "rect", { x: left, y: y + height - 4, width: part, height: 4, class: "part" });
  shape(group, "text", { x: left + 10, y: y + 14 }, title + (child ? "  " + child.cls : ""));
  shape(group, "text", { x: left + 10, y: y + 27, class: "soft" }, note || "");
  const touching = on => svg.querySelectorAll("path[data-from]").forEach(line => {
    const mine = line.dataset.from === name || line.dataset.to === name;
    line.classList.toggle("lit", on && mine);
  });
  for (const event of ["pointerenter", "focus"]) group.addEventListener(event, () => touching(true));
  for (const event of ["pointerleave", "blur"]) group.addEventListener(event, () => touching(false));
  if (!child) return;
  const sources = edges.filter(edge => edge[1] === name).map(edge => edge[0].replace(/^>$/, "the input"));
  group.setAttribute("aria-label", `${title}, ${child.cls}, takes ${sources.join(" and ") || "nothing"}`);
  group.addEventListener("click", () => select(child.path));
  group.addEventListener("keydown", event => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    event.stopPropagation();
    select(child.path);
  });
}

// a straight arrow between neighbors, else an arc on the left in the first lane that is free
function drawEdge(svg, drawn, [from, to], lanes) {
  const a = drawn[from], b = drawn[to], { left, height } = BOX;
  let d = `M${left + 60} ${a.y + height}V${b.y - 1}`;
  if (to !== from + 1) {
    const top = Math.min(from, to), bottom = Math.max(from, to);
    let lane = lanes.findIndex(spans => spans.every(([f, t]) => bottom <= f || top >= t));
    if (lane < 0) lane = lanes.push([]) - 1;
    lanes[lane].push([top, bottom]);
    const x = left - 14 - Math.min(lane, 9) * 8;
    const start = a.y + height * 0.7, end = b.y + height * 0.3;
    d = `M${left} ${start}H${x + 6}Q${x} ${start} ${x} ${start + Math.sign(end - start) * 6}` +
      `V${end - Math.sign(end - start) * 6}Q${x} ${end} ${x + 6} ${end}H${left - 1}`;
  }
  shape(svg, "path", { d, "marker-end": "url(#tip)", "data-from": a.name, "data-to": b.name });
}

function shape(parent, tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) if (attributes[name] !== "") made.setAttribute(name, attributes[name]);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}
