// The engines that can execute the network, with their times on the machine that wrote the page.
function engines(out) {
  const { rows, machine } = D.engines, table = el("table", "looks engines"), head = el("tr");
  const slowest = Math.max(...rows.map(row => row.ms || 0));
  head.append(...["engine", "time", "difference from eager"].map(text => el("th", "", text)));
  table.append(head);
  for (const row of rows) {
    const line = el("tr", row.chosen ? "own" : ""), time = el("td"), bar = el("span", "bar");
    line.append(el("td", "", row.engine + (row.chosen ? " ← auto" : "")));
    if (row.ms !== null) {
      bar.style.width = 120 * row.ms / slowest + "px";
      time.append(bar, " " + duration(row.ms));
    }
    line.append(time, el("td", "", row.difference));
    table.append(line);
    if (row.runs !== "yes") {
      const why = el("td", "soft", row.runs), under = el("tr", "why");
      why.colSpan = 3;
      under.append(why);
      table.append(under);
    }
  }
  out.append(el("h2", "", "Engines"), el("p", "soft", machine + ", the bundle's example"), scrolling(table));
}
