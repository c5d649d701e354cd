// The right side: facts of the selected module, its data flow, its config and its source.
const KEYS = [["↑↓", "move"], ["←→", "fold"], ["/", "search"], ["[ ]", "step the build"], ["space", "play"]];

function detail() {
  const node = at(selected), out = $("detail");
  out.textContent = "";
  out.append(el("h2", "", (node.path || "model") + ": " + node.cls), facts(node));
  if (node.path === "" && D.view) {
    const views = { cameras, sampling, boxes: foundBoxes, language, field };
    (views[D.view.kind] || attention)(out);
    if (D.view.matching) matching(out);
  }
  if (node.path === "" && D.engines) engines(out);
  flow(out, node);
  state(out, node);
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
