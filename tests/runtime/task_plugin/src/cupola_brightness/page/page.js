import { $, chooseModel, showError } from "../common.js";

chooseModel()
  .then((model) => { $("summary").textContent = `${model.name} measures brightness`; })
  .catch((error) => showError(error.message));
