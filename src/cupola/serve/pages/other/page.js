// A model whose task has no page: its address and its inputs.
import { $, chooseModel, getJSON, modelURL, showError, t } from "../common.js";

async function start() {
  const model = await chooseModel(false);
  if (!model) {
    $("summary").textContent = t($("models").hidden ? "No model is loaded." : "Choose a model from the list.");
    return;
  }
  const url = modelURL(model.name, "infer");
  const { inputs } = await getJSON(`v2/models/${encodeURIComponent(model.name)}`);
  $("summary").textContent = t(
    "There is no page for {task} models. Send requests to {url} with these inputs:", { task: model.task, url });
  $("inputs").textContent = JSON.stringify(inputs, null, 2);
}

start().catch((error) => showError(error.message));
