// Status: the tree of processes, what each does, and what the master was told, every two seconds.
import { $, ROOT, element, getJSON, send, t } from "../common.js";
import { rates } from "./metrics.js";

const ROLES = {
  master: "reads the settings, holds the sockets, starts and replaces the others; takes no requests",
  zygote: "has loaded the libraries; each runner is forked from it in milliseconds",
  worker: "accepts connections, checks and queues requests; no model is loaded here",
  runner: "holds one model and computes; weights are shared with the other runners of the model",
  "cache manager": "removes old answers from the cache",
  "cache loader": "reads the index of the cache once after the start",
};
const EVENTS = {
  signal: "signal {value}",
  loading: "generation {value} is loading",
  serving: "generation {value} serves",
  "given up": "generation {value} was given up; the one before goes on",
};

function fill(table, heads, rows) {
  const line = (tag, cells) => {
    const made = element("tr");
    made.append(...cells.map((cell) => {
      const item = element(tag, "", cell instanceof Node ? "" : String(cell));
      if (cell instanceof Node) item.append(cell);
      return item;
    }));
    return made;
  };
  table.replaceChildren(line("th", heads.map((head) => t(head))), ...rows.map((row) => line("td", row)));
}

const badge = (state) => element("span", `state ${state}`, t(state));

// One process of the tree: its name, state, number, and what the role does.
function node(role, name, state, facts, inner = []) {
  const item = element("li"), line = element("div", "process");
  line.append(element("b", "", name), badge(state), element("small", "", facts.filter(Boolean).join(" · ")));
  line.append(element("small", "", t(ROLES[role] ?? "")));
  item.append(line);
  if (inner.length) {
    const list = element("ul");
    list.append(...inner);
    item.append(list);
  }
  return item;
}

const age = (seconds) => (seconds < 120 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`);

function facts(process) {
  const replaced = process.respawns ? t("replaced {n} times", { n: process.respawns }) : "";
  return [t("process {pid}", { pid: process.pid }), process.uptime === undefined ? "" : age(process.uptime), replaced];
}

function showTree(status) {
  const runners = status.runners.map((r) => node("runner", `${t("runner")} ${r.name} ${r.index}`, r.state,
    [r.pids.map((pid) => t("process {pid}", { pid })).join(" "),
      r.respawns ? t("replaced {n} times", { n: r.respawns }) : "", r.failure ?? ""]));
  const children = status.processes.map((process) => {
    const name = t("{who}, generation {n}", { who: `${t(process.role)} ${process.index}`, n: process.generation });
    const owns = process.role === "zygote" && process.generation === status.generation;
    return node(process.role, name, process.state, facts(process), owns ? runners : []);
  });
  const pending = status.pending ? t("generation {n} is loading", { n: status.pending }) : "";
  const binary = status.new_binary ? t("new binary: process {pid}", { pid: status.new_binary }) : "";
  const about = [t("process {pid}", { pid: status.pid }), status.listen.join(" "), pending, binary];
  const name = t("{who}, generation {n}", { who: t("master"), n: status.generation });
  $("tree").replaceChildren(node("master", name, status.noaccepting ? "draining" : "ready", about, children));
}

function showSignals(status) {
  const taken = (row) => status.signals[row.flag] ?? 0;
  fill($("signals"), ["Signal", "Flag", "Meaning", "Taken", "Command"], status.table.map((row) => [
    row.signal, row.flag, t(row.meaning), taken(row), row.command ? command(`cupola signal ${row.command}`) : "",
  ]));
  $("flags").value = status.flags.join(", ") || t("none");
}

function command(text) {
  const button = element("button", "copy", text);
  button.title = t("Copy");
  button.onclick = () => navigator.clipboard?.writeText(text);
  return button;
}

function showEvents(status) {
  $("events").replaceChildren(...status.events.toReversed().map(({ time, what, value }) => {
    const item = element("li");
    const when = element("time", "", new Date(1000 * time).toLocaleTimeString());
    item.append(when, ` ${t(EVENTS[what] ?? what, { value })}`);
    return item;
  }));
}

function showModels(status, metrics) {
  const seen = rates(metrics);
  fill($("models-table"), ["Model", "Version", "Runners", "Waiting", "Queue", "Run", "Batches", "Engine"],
    [...new Set(status.runners.map((r) => `${r.name}\n${r.version}`))].map((key) => {
      const [name, version] = key.split("\n"), own = status.runners.filter((r) => r.name === name && r.version === version);
      const { waiting, queue, run, count } = seen(name, version);
      const ready = own.filter((r) => r.state === "ready").length;
      return [name, version, t("{n} of {all} ready", { n: ready, all: own.length }), waiting, queue, run, count, engines(own)];
    }));
}

function engines(runners) {
  const known = runners.map((r) => r.optimization).filter(Boolean);
  return [...new Set(known.map(engine))].join(", ");
}

function engine({ engine, wish, provisional }) {
  if (engine === wish) return engine;
  return provisional ? t("{engine} ({wish}, not measured yet)", { engine, wish }) : `${engine} (${wish})`;
}

async function refresh() {
  const [status, metrics] = await Promise.all([
    getJSON("status.json"), send(new URL("metrics", ROOT)).then((answer) => (answer.ok ? answer.text() : "")),
  ]);
  $("summary").textContent = t("Master {pid}, generation {n}", { pid: status.pid, n: status.generation });
  showTree(status);
  showModels(status, metrics);
  showSignals({ flags: [], table: [], ...status });
  showEvents({ events: [], ...status });
}

function failure({ status, message }) {
  if (status === 401) return message;
  return t(status === 403 ? "This API key is not for operators." : "The server does not answer.");
}

async function update() {
  // Every two seconds, but not while an API key is being asked for.
  await refresh().catch((error) => { $("summary").textContent = failure(error); });
  setTimeout(update, 2000);
}
update();
