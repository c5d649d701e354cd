// Language: the continuation of a prompt, token by token, and what each token was chosen from.
import { $, ROOT, checked, chooseModel, element, events, keyOption, send, showError, t } from "../common.js";

const URL_OF_COMPLETIONS = new URL("v1/completions", ROOT);
const FIELDS = ["max_tokens", "temperature", "top_p", "seed"];
const SHOWN = 5; // likeliest tokens at each place; the protocol allows no more
let model = null;
let request = null; // the AbortController of the stream that is running

function body(further = {}) {
  const fields = Object.fromEntries(FIELDS.filter((name) => $(name).value !== "").map((name) => [name, Number($(name).value)]));
  return { model: model.name, prompt: $("prompt").value, ...fields, ...further };
}

async function complete() {
  request?.abort();
  const mine = request = new AbortController(), started = performance.now();
  let count = 0;
  $("stop").hidden = false;
  $("done").textContent = "";
  $("text").replaceChildren(element("span", "", $("prompt").value));
  try {
    const response = await checked(await send(URL_OF_COMPLETIONS, {
      method: "POST", signal: mine.signal, body: JSON.stringify(body({ stream: true, logprobs: SHOWN })),
    }));
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const piece = JSON.parse(data);
      if (piece.error) throw new Error(piece.error.message);
      const choice = piece.choices[0];
      if (choice) count += add(choice);
      const seconds = (performance.now() - started) / 1000;
      $("speed").value = t("{n} tokens, {rate} per second", { n: count, rate: (count / seconds).toFixed(1) });
    }
    showError("");
  } catch (error) {
    if (error.name !== "AbortError") showError(error.message);
  }
  if (request !== mine) return;
  $("stop").hidden = true;
  $("done").textContent = t("{n} tokens written", { n: count });
}

// Appends the tokens of one event, each of which can be chosen; returns how many.
function add({ text, logprobs }) {
  const tokens = logprobs?.tokens ?? [];
  if (!tokens.length) $("text").append(text);
  tokens.forEach((token, i) => {
    const button = element("button", "token", tokens.length === 1 ? text : token);
    const best = logprobs.top_logprobs?.[i] ?? {};
    button.setAttribute("aria-label", visible(token));
    button.onclick = () => choose(button, token, best);
    $("text").append(button);
    if (!$("text").querySelector("[aria-pressed=true]")) choose(button, token, best);
  });
  return tokens.length;
}

const visible = (piece) => piece.replaceAll(" ", "·").replaceAll("\n", "↵") || "∅";

function choose(button, token, best) {
  for (const other of $("text").querySelectorAll("[aria-pressed=true]")) other.removeAttribute("aria-pressed");
  button.setAttribute("aria-pressed", "true");
  $("token").textContent = t("Instead of {token} there could have been:", { token: visible(token) });
  const sorted = Object.entries(best).sort((a, b) => b[1] - a[1]);
  $("bars").replaceChildren(...sorted.map(([piece, logprob]) => {
    const line = element("li", piece === token ? "hot" : ""), bar = element("span", "bar");
    bar.appendChild(element("i")).style.width = `${100 * Math.exp(logprob)}%`;
    line.append(element("span", "piece", visible(piece)), bar, element("span", "score", `${(100 * Math.exp(logprob)).toFixed(1)}%`));
    return line;
  }));
}

function showCommand() {
  const text = JSON.stringify(body()).replaceAll("'", "'\\''");
  $("curl").textContent = `curl${keyOption()} '${URL_OF_COMPLETIONS}' \\\n  -H 'Content-Type: application/json' \\\n  -d '${text}'`;
}

function offer(prompts) {
  $("prompts").replaceChildren(...prompts.map((prompt) => {
    const button = element("button", "", prompt);
    button.onclick = () => { $("prompt").value = prompt; showCommand(); complete(); };
    return button;
  }));
  if (prompts.length) $("prompt").value = prompts[0];
}

async function start() {
  model = await chooseModel();
  offer(model.prompts ?? []);
  if (model.context_length) $("max_tokens").max = model.context_length;
  $("continue").onclick = complete;
  $("stop").onclick = () => request.abort();
  for (const name of ["prompt", ...FIELDS]) $(name).oninput = showCommand;
  showCommand();
  if (model.prompts?.length) await complete();
}

start().catch((error) => showError(error.message));
