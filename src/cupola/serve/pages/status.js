// The status page: what the master and the zygote say of themselves, every two seconds.
const $ = (id) => document.getElementById(id);

function fill(table, heads, rows) {
  const make = (tag, cells) => {
    const line = document.createElement("tr");
    for (const cell of cells) {
      const item = line.appendChild(document.createElement(tag));
      const isState = cell?.state;
      const inner = isState ? item.appendChild(document.createElement("span")) : item;
      if (isState) inner.className = `state ${cell.state}`;
      inner.textContent = isState ? cell.state : cell;
    }
    return line;
  };
  table.replaceChildren(make("th", heads), ...rows.map((row) => make("td", row)));
}

async function refresh() {
  const status = await (await fetch("status.json")).json();
  const reload = status.pending ? `, generation ${status.pending} is loading` : "";
  $("summary").textContent = `master ${status.pid}, generation ${status.generation}${reload}`;
  fill($("runners"), ["Model", "Version", "Runner", "State", "Process", "Respawns"],
    status.runners.map((r) => [r.name, r.version, r.index, { state: r.state }, r.pids.join(" "), r.respawns]));
  fill($("processes"), ["Role", "Generation", "State", "Process", "Respawns"],
    status.processes.map((p) => [`${p.role} ${p.index}`, p.generation, { state: p.state }, p.pid, p.respawns]));
  fill($("signals"), ["Flag", "Times"], Object.entries(status.signals));
}

refresh();
setInterval(() => refresh().catch(() => { $("summary").textContent = "no answer"; }), 2000);
