// 3-D boxes as drawings. A box is (x, y, z of its bottom, l, w, h, yaw, vx, vy): meters in the
// lidar's frame, x to the right, y ahead, z up, yaw counter-clockwise from x. A matrix is a
// camera's lidar2img, 16 numbers row by row: meters -> pixels times depth.

import { HUES } from "../common.js";

const EDGES = [[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]];
const FRONT = [0, 3, 7, 4];
const NEAR = 0.3; // meters: edges are cut where they come nearer to a camera
const REACH = 36; // meters that the view from above shows ahead and behind
const INK = "#5d6674";

// The four at the bottom, counter-clockwise from front left, then the four at the top.
export function corners([x, y, z, l, w, h, yaw]) {
  const c = Math.cos(yaw), s = Math.sin(yaw);
  return [0, h].flatMap((up) => [[1, 1], [-1, 1], [-1, -1], [1, -1]].map(([a, b]) => {
    const along = a * l / 2, across = b * w / 2;
    return [x + c * along - s * across, y + s * along + c * across, z + up];
  }));
}

const project = (m, [x, y, z]) => [0, 4, 8].map((r) => m[r] * x + m[r + 1] * y + m[r + 2] * z + m[r + 3]);

// The part of an edge before the camera, as two pixels; null if there is none.
function cut(a, b) {
  if (Math.max(a[2], b[2]) <= NEAR) return null;
  const at = (from, to) => {
    if (from[2] >= NEAR) return from;
    const t = (NEAR - from[2]) / (to[2] - from[2]);
    return from.map((value, i) => value + t * (to[i] - value));
  };
  return [at(a, b), at(b, a)].map(([u, v, depth]) => [u / depth, v / depth]);
}

function prepare(canvas) {
  // As many pixels as the screen shows; drawing is in CSS pixels.
  const ratio = devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.lineJoin = pen.lineCap = "round";
  return [pen, width, height];
}

const path = (pen, points) => {
  pen.beginPath();
  points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
};

const farFirst = (boxes) => [...boxes].sort((a, b) => Math.hypot(b.box[0], b.box[1]) - Math.hypot(a.box[0], a.box[1]));

export function drawView(canvas, sample, camera, boxes, hot) {
  const [pen, width, height] = prepare(canvas);
  const image = sample.images[camera], zoom = width / image.width;
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, width, height);
  for (const one of farFirst(boxes)) {
    drawBox(pen, one, sample.matrices[camera], zoom, one === hot, hot && one !== hot);
  }
}

function drawBox(pen, one, matrix, zoom, hot, faded) {
  const points = one.corners.map((corner) => project(matrix, corner));
  const color = HUES[one.label % HUES.length];
  pen.globalAlpha = faded ? 0.35 : 1;
  pen.strokeStyle = color;
  pen.lineWidth = hot ? 2.6 : 1.6;
  for (const [a, b] of EDGES) {
    const line = cut(points[a], points[b]);
    if (!line) continue;
    path(pen, line.map(([u, v]) => [u * zoom, v * zoom]));
    pen.stroke();
  }
  if (points.every((point) => point[2] > NEAR)) {
    const flat = points.map(([u, v, depth]) => [u / depth * zoom, v / depth * zoom]);
    path(pen, FRONT.map((i) => flat[i]));
    pen.fillStyle = color + (hot ? "99" : "55"); // the face that looks ahead
    pen.fill();
    label(pen, one, color, Math.min(...flat.map((p) => p[0])), Math.min(...flat.map((p) => p[1])),
      hot || Math.max(...flat.map((p) => p[1])) - Math.min(...flat.map((p) => p[1])) > 30);
  }
  pen.globalAlpha = 1;
}

function label(pen, one, color, x, y, wanted) {
  if (!wanted) return; // the name would hide a small box
  pen.font = "600 10.5px system-ui, sans-serif";
  const text = one.name.replaceAll("_", " "), width = pen.measureText(text).width + 8;
  pen.fillStyle = color;
  pen.beginPath(); pen.roundRect(x, Math.max(1, y - 16), width, 14, 4); pen.fill();
  pen.fillStyle = "#fff"; pen.textBaseline = "middle";
  pen.fillText(text, x + 4, Math.max(1, y - 16) + 7.5);
}

// ---- from above: ahead is to the right, so that a wide canvas shows a long street

function place(width, height) {
  const scale = width / 2 / REACH;
  return { scale, to: (x, y) => [width / 2 + y * scale, height / 2 + x * scale] };
}

export function drawAbove(canvas, sample, boxes, hot) {
  const [pen, width, height] = prepare(canvas);
  const { scale, to } = place(width, height);
  drawSight(pen, sample, to, scale);
  drawRings(pen, to, scale);
  pen.fillStyle = "#e9edf2";
  path(pen, [[-0.95, -2], [-0.95, 1.3], [0, 2.6], [0.95, 1.3], [0.95, -2]].map(([x, y]) => to(x, y)));
  pen.closePath(); pen.fill(); // the ego
  for (const one of boxes) drawTrail(pen, one, to);
  for (const one of boxes) drawAboveBox(pen, one, to, one === hot, hot && one !== hot);
}

// What each camera sees: its position and the rays through its image's sides.
function drawSight(pen, sample, to, scale) {
  sample.matrices.forEach((m, n) => {
    const inverse = inverse3([m.slice(0, 3), m.slice(4, 7), m.slice(8, 11)]);
    const turn = (u, v, w) => inverse.map((row) => row[0] * u + row[1] * v + row[2] * w);
    const [x, y] = turn(-m[3], -m[7], -m[11]);
    const { width, height } = sample.images[n];
    const [from, end] = [0, width].map((u) => {
      const [dx, dy] = turn(u, height / 2, 1);
      return Math.atan2(dx, dy); // on the canvas, angles run from "ahead" towards "right"
    });
    const [px, py] = to(x, y);
    const glow = pen.createRadialGradient(px, py, 0, px, py, 34 * scale);
    glow.addColorStop(0, "#9db4d033"); glow.addColorStop(1, "#9db4d000");
    pen.fillStyle = glow;
    pen.beginPath(); pen.moveTo(px, py); pen.arc(px, py, 34 * scale, from, end);
    pen.closePath(); pen.fill();
  });
}

function inverse3([[a, b, c], [d, e, f], [g, h, i]]) {
  const det = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  return [[e * i - f * h, c * h - b * i, b * f - c * e], [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d]].map((row) => row.map((value) => value / det));
}

function drawRings(pen, to, scale) {
  const [x, y] = to(0, 0);
  pen.strokeStyle = pen.fillStyle = INK;
  pen.lineWidth = 0.7;
  pen.font = "10px system-ui, sans-serif"; pen.textBaseline = "middle";
  for (let ring = 10; ring <= 30; ring += 10) {
    pen.beginPath(); pen.arc(x, y, ring * scale, 0, 2 * Math.PI); pen.stroke();
    pen.fillText(`${ring} m`, x + ring * scale + 4, y);
  }
  pen.fillText("ahead →", x + REACH * scale - 46, 12);
}

function drawAboveBox(pen, one, to, hot, faded) {
  const color = HUES[one.label % HUES.length];
  const flat = one.corners.slice(0, 4).map(([x, y]) => to(x, y));
  pen.globalAlpha = faded ? 0.4 : 1;
  pen.fillStyle = color + (hot ? "cc" : "66");
  pen.strokeStyle = color;
  pen.lineWidth = hot ? 2.4 : 1.4;
  path(pen, flat); pen.closePath(); pen.fill(); pen.stroke();
  pen.strokeStyle = "#fff"; // the front
  path(pen, [flat[3], flat[0]]); pen.stroke();
  const [x, y, , , , , , vx, vy] = one.box;
  if (Math.hypot(vx, vy) > 0.5) {
    pen.lineWidth = 1;
    path(pen, [to(x, y), to(x + vx, y + vy)]); pen.stroke(); // where it is in a second
    if (one.track) drawHead(pen, to(x, y), to(x + vx, y + vy));
  }
  pen.globalAlpha = 1;
}

function drawHead(pen, [fromX, fromY], [x, y]) {
  const angle = Math.atan2(y - fromY, x - fromX);
  path(pen, [-2.6, 0, 2.6].map((turned) => (
    turned ? [x + 5 * Math.cos(angle + turned), y + 5 * Math.sin(angle + turned)] : [x, y])));
  pen.stroke();
}

// Where a box of a drive has been, as the street moves past the vehicle.
function drawTrail(pen, one, to) {
  if (!one.track) return;
  const color = HUES[one.label % HUES.length];
  const points = one.track.trail.map(([x, y]) => to(x, y));
  pen.strokeStyle = pen.fillStyle = color;
  pen.lineWidth = 1.5;
  pen.globalAlpha = 0.7;
  path(pen, points); pen.stroke();
  for (const [x, y] of points) { pen.beginPath(); pen.arc(x, y, 1.8, 0, 2 * Math.PI); pen.fill(); }
  pen.globalAlpha = 1;
}

// ---- what the pointer is on

export function nearestAbove(boxes, canvas, event) {
  const { to } = place(canvas.clientWidth, canvas.clientHeight);
  const distance = (one) => {
    const [x, y] = to(one.box[0], one.box[1]);
    return Math.hypot(x - event.offsetX, y - event.offsetY);
  };
  const best = boxes.reduce((least, one) => (!least || distance(one) < distance(least) ? one : least), null);
  return best && distance(best) < 24 ? best : null;
}

export function nearestInView(boxes, sample, camera, canvas, event) {
  const zoom = canvas.clientWidth / sample.images[camera].width;
  return farFirst(boxes).reverse().find((one) => {
    const points = one.corners.map((corner) => project(sample.matrices[camera], corner));
    if (points.some((point) => point[2] <= NEAR)) return false;
    const us = points.map((p) => p[0] / p[2] * zoom), vs = points.map((p) => p[1] / p[2] * zoom);
    return event.offsetX >= Math.min(...us) && event.offsetX <= Math.max(...us)
      && event.offsetY >= Math.min(...vs) && event.offsetY <= Math.max(...vs);
  }) ?? null;
}
