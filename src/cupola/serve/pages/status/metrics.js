// Mean times of each model from the metrics, of the batches since the last look, else of all.
const LINE = /^(\w+)\{([^}]*)\} ([-+\d.eEna]+)$/i;
let before = new Map();

function read(text) {
  // "name{labels in alphabetical order}" -> value
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = LINE.exec(line);
    if (match) found.set(`${match[1]}{${match[2]}}`, Number(match[3]));
  }
  return found;
}

export function rates(text) {
  const now = read(text), past = before;
  before = now;
  const at = (from, name, model, version, phase) => {
    const labels = phase ? `model="${model}",phase="${phase}",version="${version}"` : `model="${model}",version="${version}"`;
    return from.get(`${name}{${labels}}`) ?? 0;
  };
  return (model, version) => {
    const mean = (phase) => {
      const get = (from, part) => at(from, `cupola_phase_seconds_${part}`, model, version, phase);
      const recent = get(now, "count") - get(past, "count");
      const [sum, count] = recent > 0 && past.size
        ? [get(now, "sum") - get(past, "sum"), recent] : [get(now, "sum"), get(now, "count")];
      return count > 0 ? `${(1000 * sum / count).toFixed(1)} ms` : "–";
    };
    return {
      waiting: at(now, "cupola_queue_depth", model, version),
      queue: mean("queue"),
      run: mean("run"),
      count: at(now, "cupola_phase_seconds_count", model, version, "run"),
    };
  };
}
