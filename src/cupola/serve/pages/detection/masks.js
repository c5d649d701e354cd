// Masks in COCO's run-length encoding, as colored layers.

export function runLengths(text) {
  // pycocotools' string: base 32, and from the fourth run on differences to the run two before.
  const runs = [];
  for (let at = 0; at < text.length;) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(at++) - 48;
      value += (code & 31) * 2 ** shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value -= 2 ** shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

export function maskLayer({ size: [height, width], counts }, color) {
  // A canvas of the image's size with the mask in one color; runs go down the columns.
  const layer = Object.assign(document.createElement("canvas"), { width, height });
  const pen = layer.getContext("2d");
  pen.fillStyle = color;
  let cell = 0;
  runLengths(counts).forEach((run, i) => {
    const end = cell + run;
    while (i % 2 && cell < end) {
      const row = cell % height, length = Math.min(height - row, end - cell);
      pen.fillRect(Math.floor(cell / height), row, 1, length);
      cell += length;
    }
    cell = end;
  });
  return layer;
}
