// The right side: facts of the selected module, its data flow, its config and its source.
const KEYS = [["↑↓", "move"], ["←→", "fold"], ["/", "search"], ["[ ]", "step the build"], ["space", "play"]];

function detail() {
  const node = at(selected), out = $("detail");
  out.textContent = "";
  out.append(el("h2", "", (node.path || "model") + ": " + node.cls), facts(node));
  if (node.path === "" && D.view) ({ cameras, sampling }[D.view.kind] || attention)(out);
  flow(out, node);
  config(out, node);
  source(out, node);
  const foot = el("footer");
  for (const [key, what] of KEYS) foot.append(el("kbd", "", key), " " + what + "   ");
  out.append(foot);
}

function facts(node) {
  const list = el("dl"), many = n => n ? n.toLocaleString("en") : "";
  const own = node.own && node.own !== node.params ? " (own " + many(node.own) + ")" : "";
  const entries = [
    ["class", node.full], ["source", node.source], ["registered as", node.name],
    ["made by", node.by], ["made at", node.at], ["same module as", node.shared],
    ["in", node["in"]], ["out", node.out],
    ["parameters", node.params ? many(node.params) + own : ""],
    ["FLOPs", many(node.flops)],
    ["activations", node.bytes ? unit(node.bytes).replace(/([KMGT]?)$/, " $1B") : ""],
    ["time", duration(node.ms)], ["calls", node.calls > 1 ? node.calls : ""],
  ];
  for (const [key, value] of entries) {
    if (value !== undefined && value !== null && value !== "") {
      list.append(el("dt", "", key), el("dd", "", String(value)));
    }
  }
  return list;
}

// when a child, or else the first of its children, was called
function firstCall(node) {
  if (node.first !== undefined) return node.first;
  const calls = kids.get(node.path).map(path => at(path).first).filter(n => n !== undefined);
  return calls.length ? Math.min(...calls) : undefined;
}

function flow(out, node) {
  const called = kids.get(node.path).map(at).filter(child => firstCall(child) !== undefined);
  if (!called.length) return;
  called.sort((a, b) => firstCall(a) - firstCall(b));
  const list = called.slice(0, 40), height = 58;
  const svg = shape(null, "svg", {
    width: 420, height: list.length * height + 30, role: "img", "aria-label": "Data flow",
  });
  shape(svg, "text", { x: 14, y: 14, class: "soft" }, node["in"] || "");
  list.forEach((child, i) => {
    const y = 22 + i * height, group = shape(svg, "g", { tabindex: 0, role: "button" });
    const part = child.ms && node.ms ? 400 * Math.min(1, child.ms / node.ms) : 0;
    shape(svg, "path", { d: `M110 ${y - (i ? 24 : 4)} V${y}` });
    shape(group, "rect", { x: 10, y, width: 400, height: 34, rx: 7 });
    shape(group, "rect", { x: 10, y: y + 30, width: part, height: 4, class: "part" });
    shape(group, "text", { x: 20, y: y + 14 }, nameOf(child.path) + "  " + child.cls);
    const went = child.out ? "→ " + child.out + "   " + duration(child.ms) : "calls its children";
    shape(group, "text", { x: 20, y: y + 27, class: "soft" }, went);
    group.addEventListener("click", () => select(child.path));
    group.addEventListener("keydown", event => { if (event.key === "Enter") select(child.path); });
  });
  out.append(el("h2", "", "Data flow, in the order of the calls"), svg);
}

function shape(parent, tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function config(out, node) {
  const lines = node.config !== undefined && node.config !== null ? D.configs[node.config] : null;
  if (!lines) return;
  const pre = el("pre");
  pre.tabIndex = 0;
  for (const [key, value, origin] of lines) {
    const short = value.length > 160 ? value.slice(0, 160) + " …" : value;
    pre.append(el("span", "k", key), " = ", el("span", "s", short));
    pre.append(el("span", "c", origin ? "   # " + origin : ""), "\n");
  }
  out.append(el("h2", "", "Config: " + (node.config || "the whole model")), pre);
}

const WORDS = "and|as|assert|async|await|break|class|continue|def|del|elif|else|except|finally|for|from|"
  + "global|if|import|in|is|lambda|nonlocal|not|or|pass|raise|return|try|while|with|yield|None|True|"
  + "False|self";
const STRINGS = String.raw`"""[\s\S]*?"""|'''[\s\S]*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'`;
const PYTHON = new RegExp(String.raw`(${STRINGS})|(#[^\n]*)|\b(${WORDS})\b|\b(\d[\d_.eE]*)\b`, "g");

function source(out, node) {
  const found = D.sources[node.full];
  if (!found) return;
  const pre = el("pre"), text = found.text.trimEnd();
  pre.tabIndex = 0;
  let line = found.line, end = 0;
  const number = () => pre.append(el("span", "ln", String(line++).padStart(5) + "  "));
  const add = (cls, piece) => piece.split("\n").forEach((part, i) => {
    if (i) { pre.append("\n"); number(); }
    if (part) pre.append(cls ? el("span", cls, part) : part);
  });
  number();
  for (const match of text.matchAll(PYTHON)) {
    add("", text.slice(end, match.index));
    add(match[1] ? "s" : match[2] ? "c" : match[3] ? "k" : "d", match[0]);
    end = match.index + match[0].length;
  }
  add("", text.slice(end));
  out.append(el("h2", "", "Source: " + node.source), pre);
}
