// Status: the processes of the server, every two seconds.
import { $, element, getJSON } from "../common.js";

function fill(table, heads, rows) {
  const line = (tag, cells) => {
    const made = element("tr");
    made.append(...cells.map((cell) => {
      const item = element(tag, "", cell.state ? "" : cell);
      if (cell.state) item.append(element("span", `state ${cell.state}`, cell.state));
      return item;
    }));
    return made;
  };
  table.replaceChildren(line("th", heads), ...rows.map((row) => line("td", row)));
}

async function refresh() {
  const status = await getJSON("status.json");
  const pending = status.pending ? `, generation ${status.pending} is loading` : "";
  $("summary").textContent = `Master ${status.pid}, generation ${status.generation}${pending}`;
  fill($("runners"), ["Model", "Version", "Runner", "State", "Process", "Respawns"],
    status.runners.map((r) => [r.name, r.version, r.index, { state: r.state }, r.pids.join(" "), r.respawns]));
  fill($("processes"), ["Role", "Generation", "State", "Process", "Respawns"],
    status.processes.map((p) => [`${p.role} ${p.index}`, p.generation, { state: p.state }, p.pid, p.respawns]));
  fill($("signals"), ["Signal", "Count"], Object.entries(status.signals));
}

const update = () => refresh().catch(() => { $("summary").textContent = "The server does not answer."; });
update();
setInterval(update, 2000);
