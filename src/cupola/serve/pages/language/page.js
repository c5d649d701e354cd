// Language: the continuation of a prompt, token by token.
import { $, ROOT, checked, chooseModel, events, showError } from "../common.js";

let model = null;
let request = null; // the AbortController of the stream that is running
const URL_OF_COMPLETIONS = new URL("v1/completions", ROOT);

async function complete() {
  request?.abort();
  const mine = request = new AbortController();
  const prompt = $("prompt").value;
  $("stop").hidden = false;
  $("text").textContent = prompt;
  try {
    const response = await checked(await fetch(URL_OF_COMPLETIONS, {
      method: "POST",
      signal: mine.signal,
      body: JSON.stringify({ model: model.name, prompt, max_tokens: 120, stream: true, temperature: 0.7 }),
    }));
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const piece = JSON.parse(data);
      if (piece.error) throw new Error(piece.error.message);
      $("text").textContent += piece.choices[0]?.text ?? "";
    }
    showError("");
  } catch (error) {
    if (error.name !== "AbortError") showError(error.message);
  }
  if (request === mine) $("stop").hidden = true;
}

function showCommand() {
  const body = JSON.stringify({ model: model.name, prompt: $("prompt").value, max_tokens: 120 });
  $("curl").textContent = `curl '${URL_OF_COMPLETIONS}' \\\n  -H 'Content-Type: application/json' \\\n`
    + `  -d '${body.replaceAll("'", "'\\''")}'`;
}

async function start() {
  model = await chooseModel();
  $("continue").onclick = complete;
  $("stop").onclick = () => request.abort();
  $("prompt").oninput = showCommand;
  showCommand();
}

start().catch((error) => showError(error.message));
