// The data, and the tree of modules on the left.
const D = JSON.parse(document.getElementById("data").textContent);
const nodes = D.nodes;
const byPath = new Map(nodes.map((node, i) => [node.path, i]));
const at = path => nodes[byPath.get(path)];
const rows = new Map();
const kids = new Map(nodes.map(node => [node.path, []]));
const open = new Set(nodes.filter(n => depthOf(n.path) < 2 || nodes.length < 60).map(n => n.path));
let selected = "";
let wanted = "";  // the search text
let step = D.story.length;  // how many steps of the build are shown

for (const node of nodes) {
  const up = parentOf(node.path);
  if (up !== null && kids.has(up)) kids.get(up).push(node.path);
}

function $(id) { return document.getElementById(id); }

function el(tag, cls, text) {
  const made = document.createElement(tag);
  if (cls) made.className = cls;
  if (text !== undefined) made.textContent = text;
  return made;
}

// a box that scrolls sideways where its content is too wide, by keys too
function scrolling(content) {
  const box = el("div", "wide");
  box.tabIndex = 0;
  box.append(content);
  return box;
}

function swatch(color) {
  const box = el("span", "swatch");
  box.style.background = color;
  return box;
}

function parentOf(path) {
  if (path === "") return null;
  return path.includes(".") ? path.slice(0, path.lastIndexOf(".")) : "";
}

function depthOf(path) { return path === "" ? 0 : path.split(".").length; }

function nameOf(path) { return path === "" ? "model" : path.slice(path.lastIndexOf(".") + 1); }

function unit(n) {
  if (!n) return "";
  let i = 0;
  for (; n >= 1000 && i < 4; i++) n /= 1000;
  return (i ? n.toPrecision(3) : n) + ["", "K", "M", "G", "T"][i];
}

function duration(ms) {
  if (ms === undefined) return "";
  return ms < 1000 ? ms.toFixed(ms < 10 ? 2 : 1) + " ms" : (ms / 1000).toFixed(2) + " s";
}

function buildTree() {
  const head = el("div", "row head");
  const columns = [["module", ""], ["out", "wide"], ["params", "n"], ["FLOPs", "n wide"], ["time", "n"]];
  for (const [text, cls] of columns) head.append(el("span", cls, text));
  $("tree").append(head);
  for (const node of nodes) {
    rows.set(node.path, rowOf(node));
    $("tree").append(rows.get(node.path));
  }
}

function rowOf(node) {
  const row = el("div", "row"), first = el("span");
  row.id = "row" + byPath.get(node.path);
  row.setAttribute("role", "treeitem");
  row.setAttribute("aria-level", depthOf(node.path) + 1);
  row.dataset.path = node.path;
  first.style.paddingLeft = depthOf(node.path) * 14 + "px";
  const twin = node.shared !== null ? " = " + (node.shared || "model") : "";
  first.append(el("b", "fold"), nameOf(node.path), el("span", "cls", node.cls + twin));
  row.append(
    first,
    el("span", "wide", node.out || ""),
    el("span", "n", unit(node.params)),
    withShare(el("span", "n wide share", unit(node.flops)), node.flops, nodes[0].flops),
    withShare(el("span", "n share", duration(node.ms)), node.ms, nodes[0].ms),
  );
  row.addEventListener("click", event => {
    if (event.target.classList.contains("fold")) toggle(node.path);
    select(node.path);
  });
  return row;
}

// a bar behind the number: its share of the whole model's
function withShare(cell, part, whole) {
  if (part && whole) cell.style.setProperty("--part", (100 * part / whole).toFixed(1) + "%");
  return cell;
}

function matches(path) {
  return (path + " " + at(path).cls).toLowerCase().includes(wanted);
}

function shown(path) {
  if (wanted) return matches(path);
  for (let up = parentOf(path); up !== null; up = parentOf(up)) if (!open.has(up)) return false;
  return true;
}

function refresh() {
  const partial = D.story.length > 0 && step < D.story.length;
  const made = new Set(D.story.slice(0, step).map(part => part.path));
  for (const { path } of nodes) {
    const row = rows.get(path), inner = kids.get(path).length > 0;
    row.hidden = !shown(path);
    row.style.display = row.hidden ? "none" : "";
    row.setAttribute("aria-selected", path === selected);
    row.classList.toggle("unmade", partial && !made.has(path));
    row.querySelector(".fold").textContent = inner ? (open.has(path) ? "▾" : "▸") : "";
    if (inner) row.setAttribute("aria-expanded", open.has(path));
  }
}

function toggle(path, to = !open.has(path)) {
  if (to) open.add(path); else open.delete(path);
  refresh();
}

function select(path, scroll = true) {
  if (!byPath.has(path)) return;
  selected = path;
  for (let up = parentOf(path); up !== null; up = parentOf(up)) open.add(up);
  refresh();
  detail();
  $("tree").setAttribute("aria-activedescendant", rows.get(path).id);
  $("said").textContent = (path || "model") + ": " + at(path).cls + ", out " + (at(path).out || "none");
  if (scroll) rows.get(path).scrollIntoView({ block: "nearest" });
}
