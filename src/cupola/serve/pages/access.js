// Requests to the server, with an API key if it needs one. The key is kept in this tab's session
// storage and sent in a header; it is never a part of an address.
import { t } from "./text.js";

// A page's folder lies two levels below the server's root, as its base says.
export const ROOT = new URL("../../", document.baseURI);

const STORED = `cupola-key ${ROOT.pathname}`;
const LINKS = ["metrics", "openapi.json"]; // which the browser would open without the key
const button = document.getElementById("key");
let asking = null; // the promise of the dialog that is open
let declined = false;

const stored = () => sessionStorage.getItem(STORED);

function store(key) {
  if (key) sessionStorage.setItem(STORED, key);
  else sessionStorage.removeItem(STORED);
  button.hidden = false;
}

export async function send(address, options = {}) {
  // As fetch. Asks for an API key for as long as the server does not accept the one it was sent.
  for (;;) {
    const key = stored();
    const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
    const response = await fetch(address, { ...options, headers });
    if (response.status !== 401) return response;
    if (stored() === key && (declined || !(await ask(key !== null)))) {
      throw Object.assign(new Error(t("This server needs an API key.")), { status: 401 });
    }
  }
}

export const keyOption = () => (stored() ? ' -H "Authorization: Bearer $API_KEY"' : ""); // of curl

function ask(refused) {
  asking ??= open(refused).finally(() => { asking = null; });
  return asking;
}

async function open(refused) {
  // Shows the dialog; whether there is a key to try.
  const dialog = document.createElement("dialog");
  dialog.className = "card";
  dialog.setAttribute("aria-labelledby", "key-title");
  dialog.innerHTML = `<form method="dialog">
    <h2 id="key-title"></h2><p class="summary"></p><p class="refused" role="alert"></p>
    <label><span></span><input type="password" autocomplete="off" spellcheck="false"></label>
    <div class="tools"><button class="primary" value="use"></button><button value="cancel"></button></div>
  </form>`;
  const part = (selector, text) => { dialog.querySelector(selector).textContent = text; };
  const showRefused = () => part(".refused", t("The server does not accept this API key."));
  part("h2", t("API key"));
  part(".summary", t("This server needs an API key. It is kept until you close this tab. An empty field removes it."));
  part("span", t("Key"));
  part("[value=use]", t("Use this key"));
  part("[value=cancel]", t("Cancel"));
  if (refused) showRefused();
  const input = dialog.querySelector("input");
  document.body.append(dialog);
  dialog.showModal();
  for (;;) {
    await new Promise((done) => { dialog.onclose = done; });
    const key = input.value.trim();
    if (dialog.returnValue === "use" && !/^[\x21-\x7e]*$/.test(key)) { // a header cannot carry it
      showRefused();
      dialog.showModal();
      continue;
    }
    dialog.remove();
    declined = dialog.returnValue !== "use" || !key;
    if (dialog.returnValue === "use") store(key);
    else button.hidden = false;
    return !declined;
  }
}

async function openLink(event) {
  if (!stored()) return;
  event.preventDefault();
  const response = await send(event.currentTarget.href);
  const text = new Blob([await response.text()], { type: "text/plain; charset=utf-8" });
  location.assign(URL.createObjectURL(text));
}

button.hidden = !stored();
button.onclick = async () => {
  declined = false;
  await ask(false);
  location.reload();
};
for (const path of LINKS) {
  for (const link of document.querySelectorAll(`nav a[href$="/${path}"]`)) link.onclick = openLink;
}
