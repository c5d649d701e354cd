// What all pages share.
import { ROOT, send } from "./access.js";
import { t } from "./text.js";

export const HUES = [ // white text on them has a contrast of 4.5 and more
  "#296fda", "#be5620", "#d22d77", "#926d00", "#1a844d",
  "#9b51d6", "#007f8d", "#6d790f", "#d2382d", "#5a6acf",
];
export const LOWEST = 0.05; // scores below are never requested; the threshold slider filters the rest

export const $ = (id) => document.getElementById(id);

export { ROOT, keyOption, send } from "./access.js";
export { t } from "./text.js";

export function element(tag, className = "", text = "") {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

export function showError(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

// ---- requests

export const modelURL = (name, action) => new URL(`v2/models/${encodeURIComponent(name)}/${action}`, ROOT);

export async function checked(response) {
  // The response, or an Error with the server's message.
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const text = body.error?.message ?? body.error ?? `status ${response.status}`;
  throw Object.assign(new Error(text), { status: response.status });
}

export async function getJSON(path, options) {
  return (await checked(await send(new URL(path, ROOT), options))).json();
}

export async function* events(response) {
  // The data of server-sent events: "data: {json}" and an empty line.
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) yield part.replace(/^data: /, "");
  }
}

// ---- models

export async function chooseModel(required = true) {
  // Fills the list in the header. The model of this page: the one in the address, or the first.
  // Until it is known nothing on the page can be clicked, so that no click is lost; the page's HTML
  // begins like that.
  const content = document.querySelector("main");
  content.inert = true;
  const models = await getJSON("pages/models.json").finally(() => { content.inert = false; });
  const page = new URL(document.baseURI).pathname.split("/").at(-2);
  const wanted = new URLSearchParams(location.search).get("model");
  const here = models.filter((model) => model.page === page);
  const elsewhere = models.find((model) => model.name === wanted && model.page !== page);
  if (elsewhere) location.replace(addressOf(elsewhere));
  // The start page is that of the first model, which may not be one of this API key's.
  const other = !wanted && !here.length && location.pathname === ROOT.pathname ? models[0] : null;
  if (other) location.replace(addressOf(other));
  const chosen = here.find((model) => model.name === wanted) ?? here[0] ?? null;
  if (chosen) history.replaceState(null, "", `${location.pathname}?model=${encodeURIComponent(chosen.name)}`);
  $("models").hidden = models.length === 0;
  $("model").replaceChildren(...models.map(({ name }) => new Option(name)));
  $("model").value = chosen?.name ?? "";
  $("model").onchange = () => {
    location.href = addressOf(models.find(({ name }) => name === $("model").value));
  };
  if (required && !chosen) throw new Error(t("no model for this page is loaded"));
  return chosen;
}

const addressOf = ({ page, name }) => new URL(`pages/${page}.html?model=${encodeURIComponent(name)}`, ROOT);

// ---- lists of detections

export function resultRow({ name, label, score }, middle, hover) {
  const line = element("li");
  const chip = element("span", "chip", name.replaceAll("_", " "));
  chip.style.background = HUES[label % HUES.length];
  line.append(chip, middle, element("span", "score", `${Math.round(score * 100)}%`));
  line.onpointerenter = () => hover(true);
  line.onpointerleave = () => hover(false);
  return line;
}

export function summarize(count, milliseconds) {
  $("threshold-value").textContent = Number($("threshold").value).toFixed(2);
  $("summary").textContent = count
    ? t("{n} found in {ms} ms", { n: count, ms: Math.round(milliseconds) }) : t("No detections above the threshold.");
}

// ---- files

export function onDrop(target, take) {
  // Files dropped anywhere on the page; `target` is marked while they are dragged.
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => { event.preventDefault(); target.classList.add("over"); });
  }
  document.addEventListener("dragleave", () => target.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    target.classList.remove("over");
    take(event.dataTransfer.files);
  });
}
