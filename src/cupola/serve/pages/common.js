// What all pages share. A page's folder lies two levels below the server's root, as its base says.

export const ROOT = new URL("../../", document.baseURI);
export const HUES = [
  "#2f7bf0", "#e0662a", "#e0317f", "#d9a400", "#1f9d5c",
  "#9b51d6", "#0497a7", "#8a9a16", "#d93a2f", "#5a6acf",
];
export const LOWEST = 0.05; // scores below are never requested; the threshold slider filters the rest

export const $ = (id) => document.getElementById(id);

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
  throw new Error(body.error?.message ?? body.error ?? `status ${response.status}`);
}

export async function getJSON(path, options) {
  return (await checked(await fetch(new URL(path, ROOT), options))).json();
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
  const models = await getJSON("pages/models.json");
  const page = new URL(document.baseURI).pathname.split("/").at(-2);
  const wanted = new URLSearchParams(location.search).get("model");
  const here = models.filter((model) => model.page === page);
  const chosen = here.find((model) => model.name === wanted) ?? here[0] ?? null;
  $("models").hidden = models.length === 0;
  $("model").replaceChildren(...models.map(({ name }) => new Option(name)));
  $("model").value = chosen?.name ?? "";
  $("model").onchange = () => {
    const next = models.find(({ name }) => name === $("model").value);
    location.href = new URL(`pages/${next.page}.html?model=${encodeURIComponent(next.name)}`, ROOT);
  };
  if (required && !chosen) throw new Error("no model for this page is loaded");
  return chosen;
}

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
    ? `${count} found in ${Math.round(milliseconds)} ms` : "No detections above the threshold.";
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
