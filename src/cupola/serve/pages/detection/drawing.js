// Photos to write on, strokes of the pen, boxes and masks.
import { HUES, t } from "../common.js";

export const PHOTOS = ["coffee", "chelsea", "rocket", "paper"];
export const INKS = ["#ffffff", "#16130f", "#ffd23e", "#e5482d", "#2f6fe0"];

// A 0 and a 3 as a hand would write them; x, y in 0..1 of the image.
export const EXAMPLE = [
  [
    [.28, .45], [.27, .52], [.26, .57], [.23, .60], [.21, .60], [.18, .57], [.17, .52],
    [.16, .45], [.17, .38], [.18, .33], [.21, .30], [.23, .30], [.26, .33], [.27, .38],
    [.28, .45],
  ],
  [
    [.76, .16], [.77, .13], [.80, .12], [.82, .13], [.84, .15], [.85, .19], [.85, .23],
    [.83, .26], [.81, .28], [.81, .28], [.83, .30], [.85, .33], [.86, .36], [.86, .40],
    [.84, .44], [.82, .46], [.79, .46], [.77, .44], [.75, .41],
  ],
];

const photos = new Map();

export async function photo(name) {
  if (!photos.has(name)) photos.set(name, name === "paper" ? paper() : await loadImage(`${name}.jpg`));
  return photos.get(name);
}

export function loadImage(url) {
  return new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => fail(new Error(t("the browser cannot read this file as an image")));
    image.src = url;
  });
}

function paper() {
  const sheet = Object.assign(document.createElement("canvas"), { width: 600, height: 400 });
  const pen = sheet.getContext("2d");
  const light = pen.createLinearGradient(0, 0, 600, 400);
  light.addColorStop(0, "#7d9a8c");
  light.addColorStop(1, "#3c5648");
  pen.fillStyle = light;
  pen.fillRect(0, 0, 600, 400);
  for (let i = 0; i < 4000; i++) {
    pen.fillStyle = `rgba(${i % 2 ? "255,255,255" : "0,0,0"},.03)`;
    pen.fillRect((i * 7919) % 600, (i * 104729) % 400, 3, 2);
  }
  return sheet;
}

export function drawStroke(pen, { ink, points }) {
  pen.lineCap = pen.lineJoin = "round";
  pen.strokeStyle = ink;
  pen.lineWidth = pen.canvas.width / 42;
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  if (points.length === 1) pen.lineTo(points[0][0] + 0.1, points[0][1]);
  pen.stroke();
}

export function drawMask(pen, layer) {
  pen.globalAlpha = 0.5;
  pen.drawImage(layer, 0, 0, pen.canvas.width, pen.canvas.height);
  pen.globalAlpha = 1;
}

export function drawBox(pen, { box: [x1, y1, x2, y2], label, name, score }, hot) {
  const canvas = pen.canvas;
  const pixel = canvas.width / (canvas.clientWidth || canvas.width); // canvas pixels per CSS pixel
  const color = HUES[label % HUES.length], size = 13.5 * pixel;
  pen.lineWidth = (hot ? 5 : 2.5) * pixel;
  pen.strokeStyle = color;
  pen.beginPath();
  pen.roundRect(x1, y1, x2 - x1, y2 - y1, size / 3);
  pen.stroke();
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const text = `${name} ${Math.round(score * 100)}%`, width = pen.measureText(text).width + size * 0.7;
  const top = Math.max(0, y1 > size * 1.5 ? y1 - size * 1.45 : y1);
  const left = Math.max(0, Math.min(x1 - pen.lineWidth / 2, canvas.width - width)); // not clipped
  pen.fillStyle = color;
  pen.beginPath();
  pen.roundRect(left, top, width, size * 1.45, size / 3);
  pen.fill();
  pen.fillStyle = "#fff";
  pen.textBaseline = "middle";
  pen.fillText(text, left + size * 0.35, top + size * 0.76);
}
