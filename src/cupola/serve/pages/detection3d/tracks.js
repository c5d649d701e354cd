// Tracks: the boxes of a drive's frames, linked from frame to frame. A box's center and velocity
// say where it will be in the next frame; the nearest box of its class there continues its track.
// As in ByteTrack, boxes with lower scores continue tracks that have no better box, and begin none.
// Positions are compared in the frame of the poses, which does not move with the vehicle.

const GATE = 3; // meters between where a box was expected and where it is
const PATIENCE = 1.1; // seconds that a track waits for a box

const turn = (m, [x, y]) => [m[0] * x + m[1] * y, m[4] * x + m[5] * y];
const toWorld = (m, point) => turn(m, point).map((value, i) => value + m[4 * i + 3]);

function fromWorld(m, [x, y]) {
  const dx = x - m[3], dy = y - m[7];
  return [m[0] * dx + m[4] * dy, m[1] * dx + m[5] * dy]; // the inverse of a rotation is its transpose
}

// Frames [{boxes: [{score, label, box}], pose [16], seconds}], oldest first. Boxes of the newest
// frame from `threshold` get `track`: {number, trail}, their positions until now in that frame.
export function follow(frames, threshold) {
  const tracks = [];
  for (const frame of frames) extend(tracks, frame, threshold);
  const { boxes, pose } = frames.at(-1);
  for (const track of tracks.filter(({ one }) => boxes.includes(one))) {
    track.one.track = { number: track.number, trail: track.points.map((point) => fromWorld(pose, point)) };
  }
}

function extend(tracks, { boxes, pose, seconds }, threshold) {
  const taken = new Set();
  const alive = tracks.filter((track) => seconds - track.seconds <= PATIENCE);
  const good = boxes.filter((one) => one.score >= threshold), weak = boxes.filter((one) => one.score < threshold);
  for (const { one, track } of [good, weak].flatMap((each) => candidates(alive, each, pose, seconds))) {
    if (taken.has(one) || taken.has(track)) continue;
    taken.add(one).add(track);
    advance(track, one, pose, seconds);
  }
  for (const one of good.filter((each) => !taken.has(each))) {
    const track = { number: tracks.length + 1, points: [] };
    tracks.push(track);
    advance(track, one, pose, seconds);
  }
}

function candidates(tracks, boxes, pose, seconds) {
  const pairs = boxes.flatMap((one) => tracks.filter((track) => track.one.label === one.label).map((track) => {
    const [x, y] = toWorld(pose, one.box);
    const since = seconds - track.seconds, [px, py] = track.points.at(-1), [vx, vy] = track.velocity;
    return { one, track, distance: Math.hypot(x - px - vx * since, y - py - vy * since) };
  }));
  return pairs.filter(({ distance }) => distance < GATE).sort((a, b) => a.distance - b.distance);
}

function advance(track, one, pose, seconds) {
  track.points.push(toWorld(pose, one.box));
  Object.assign(track, { one, seconds, velocity: turn(pose, one.box.slice(7, 9)) });
}
