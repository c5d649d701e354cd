// One step of a forecast: the maps of a channel, and the spectrum before and after each filter.
const MAPS = { start: "start", forecast: "one step later, forecast", truth: "truth", error: "error of the step" };

function field(out) {
  const view = D.view, bar = el("div", "queries"), maps = el("div", "maps");
  out.append(el("h2", "", "One step from the bundle's example"), bar, maps);
  const buttons = view.channels.map(channel => {
    const button = el("button", "", channel.name);
    button.addEventListener("click", () => show(channel));
    bar.append(button);
    return button;
  });

  function show(channel) {
    maps.textContent = "";
    for (const key in channel.maps) {
      maps.append(picture(channel.maps[key], `${MAPS[key]}`, key === "error" ? diverging : sequential));
    }
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", view.channels[i] === channel));
  }

  if (view.channels.length) show(view.channels[0]);
  if (view.filters.length) spectra(out, view.filters);
}

function spectra(out, filters) {
  const pair = el("div", "maps"), where = el("output"), choice = el("div", "layers");
  const slider = rangeInput(1, filters.length, 1, "Filter", n => draw(n - 1));
  choice.append(el("span", "", "Filter"), slider, where);
  out.append(el("h2", "", "The spectrum before a filter, and of what it adds"), choice, pair);
  out.append(el("p", "soft", "Mean amplitude over the channels, logarithmic, four decades. Columns: " +
    "frequencies along a row, zero at the left; rows: frequencies along a column, zero at the top, negative " +
    "ones in the lower half. Outlined: the modes that the filter keeps; it changes no others."));

  function draw(index) {
    const { before, after, rows, columns } = filters[index];
    const kept = rows.map(([start, stop]) => [0, start, columns, stop]);
    pair.textContent = "";
    pair.append(picture(before, "before", sequential, kept), picture(after, "added", sequential, kept));
    where.textContent = `${index + 1} of ${filters.length}: ${columns} of ${before.shape[1]} columns kept`;
  }

  draw(0);
}

function picture({ shape, bytes, low, high }, title, color, outlines = []) {
  const [h, w] = shape, figure = el("figure"), canvas = el("canvas");
  const scale = Math.max(1, Math.floor(260 / Math.max(h, w)));
  canvas.width = w * scale;
  canvas.height = h * scale;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title}, from ${low} to ${high}`);
  const pen = canvas.getContext("2d"), data = atob(bytes);
  for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
    pen.fillStyle = color(data.charCodeAt(y * w + x) / 255);
    pen.fillRect(x * scale, y * scale, scale, scale);
  }
  pen.strokeStyle = "#fff";
  pen.lineWidth = 2;
  for (const [left, top, right, bottom] of outlines) {
    pen.strokeRect(left * scale + 1, top * scale + 1, (right - left) * scale - 2, (bottom - top) * scale - 2);
  }
  figure.append(canvas, el("figcaption", "", `${title}: ${low} to ${high}`));
  return figure;
}

// dark blue over green to yellow
function sequential(v) {
  return `rgb(${Math.round(255 * Math.pow(v, 1.6))},${Math.round(30 + 210 * v)},${Math.round(90 + 90 * Math.sin(3.1 * v) - 70 * v)})`;
}

// blue below zero, white at zero, red above
function diverging(v) {
  const far = Math.abs(2 * v - 1), rest = Math.round(255 * (1 - far));
  return v > 0.5 ? `rgb(255,${rest},${rest})` : `rgb(${rest},${rest},255)`;
}
