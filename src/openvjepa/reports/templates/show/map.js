"use strict";
// A map of clips: points on a canvas, the chosen clip and its neighbors beside it.
const data = JSON.parse(document.getElementById("data").textContent);
const clips = data.clips;
const PALETTE = ["#3b82f6", "#f59e0b", "#10b981", "#ef4444", "#8b5cf6", "#06b6d4", "#ec4899", "#84cc16", "#a16207", "#64748b"];
const NONE = "#9ca3af", MARGIN = 40, PICTURE = 44;
const canvas = document.getElementById("map"), showPictures = document.getElementById("pictures");
const color = (label) => (label < 0 ? NONE : label < PALETTE.length ? PALETTE[label] : `hsl(${(label * 137.5) % 360} 65% 50%)`);

const sides = [0, 1].map((axis) => clips.map((clip) => clip.place[axis]));
const [lowX, highX] = [Math.min(...sides[0]), Math.max(...sides[0])], [lowY, highY] = [Math.min(...sides[1]), Math.max(...sides[1])];
const view = {zoom: 1, x: (lowX + highX) / 2, y: (lowY + highY) / 2};
let chosen = Math.max(0, clips.findIndex((clip) => clip.query)), images = null;

function scale() {
  const room = [canvas.clientWidth - 2 * MARGIN, canvas.clientHeight - 2 * MARGIN];
  const span = [highX - lowX || 1, highY - lowY || 1];
  return view.zoom * Math.min(room[0] / span[0], room[1] / span[1]);
}

function screen(clip) {
  const factor = scale();
  return [canvas.clientWidth / 2 + (clip.place[0] - view.x) * factor, canvas.clientHeight / 2 - (clip.place[1] - view.y) * factor];
}

function draw() {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = Math.round(Math.min(640, Math.max(320, width * 0.8)));
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d"), ink = getComputedStyle(document.body).color;
  context.scale(ratio, ratio);
  const near = new Set(clips[chosen].near.map(([number]) => number));
  const order = [...clips.keys()].sort((a, b) => rank(a, near) - rank(b, near));
  context.strokeStyle = ink;
  context.globalAlpha = 0.5;
  for (const number of near) {
    const [x, y] = screen(clips[number]), [fromX, fromY] = screen(clips[chosen]);
    context.beginPath();
    context.moveTo(fromX, fromY);
    context.lineTo(x, y);
    context.stroke();
  }
  for (const number of order) {
    const clip = clips[number], [x, y] = screen(clip), main = number === chosen;
    context.globalAlpha = 1;
    if (showPictures.checked && images) {
      const image = images[number], size = (main ? 1.6 : 1) * PICTURE / Math.max(image.naturalWidth, image.naturalHeight);
      const box = [image.naturalWidth * size, image.naturalHeight * size];
      context.drawImage(image, x - box[0] / 2, y - box[1] / 2, ...box);
      context.lineWidth = main ? 4 : 2;
      context.strokeStyle = color(clip.label);
      context.strokeRect(x - box[0] / 2, y - box[1] / 2, ...box);
    } else {
      context.globalAlpha = main || near.has(number) ? 1 : 0.75;
      context.fillStyle = color(clip.label);
      context.beginPath();
      context.arc(x, y, main ? 9 : near.has(number) ? 7 : 5, 0, 2 * Math.PI);
      context.fill();
    }
    if (main || clip.query) {
      context.lineWidth = 3;
      context.strokeStyle = ink;
      context.strokeRect(x - 12, y - 12, 24, 24);
    } else if (near.has(number)) {
      context.lineWidth = 1.5;
      context.strokeStyle = ink;
      context.beginPath();
      context.arc(x, y, 8.5, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}

function rank(number, near) { return number === chosen ? 2 : near.has(number) ? 1 : 0; }

function words(clip) {
  const times = clip.times[1] > clip.times[0] ? `, ${clip.times[0].toFixed(2)}-${clip.times[1].toFixed(2)} s` : "";
  return `${clip.name}${times}`;
}

const label = (clip) => (clip.label < 0 ? "no label" : data.labels[clip.label]);

function choose(number) {
  chosen = number;
  const clip = clips[number], list = document.getElementById("near");
  document.getElementById("name").textContent = words(clip);
  const picture = document.getElementById("picture");
  picture.src = clip.picture;
  picture.alt = `middle frame of ${words(clip)}`;
  const same = clip.near.filter(([other]) => clip.label >= 0 && clips[other].label === clip.label).length;
  document.getElementById("about").textContent =
    `${clip.query ? "query; " : ""}${label(clip)}` + (clip.label >= 0 ? `; ${same} of ${clip.near.length} neighbors have its label` : "");
  list.replaceChildren(...clip.near.map(([other, similarity]) => {
    const item = document.createElement("li"), button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    image.src = clips[other].picture;
    image.alt = "";
    button.append(image, `${similarity.toFixed(3)} ${label(clips[other])}: ${words(clips[other])}`);
    button.addEventListener("click", () => { choose(other); canvas.focus(); });
    item.append(button);
    return item;
  }));
  history.replaceState(null, "", `#${number}`);
  draw();
}

function zoom(factor) {
  view.zoom = Math.max(0.5, Math.min(200, view.zoom * factor));
  draw();
}

function reset() {
  Object.assign(view, {zoom: 1, x: (lowX + highX) / 2, y: (lowY + highY) / 2});
  draw();
}

function closest(x, y, allowed = () => true) {
  let best = -1, least = Infinity;
  clips.forEach((clip, number) => {
    const [left, top] = screen(clip), distance = Math.hypot(left - x, top - y);
    if (distance < least && allowed(left - x, top - y, number)) [best, least] = [number, distance];
  });
  return best;
}

function step(dx, dy) {
  // The closest point within 45 degrees of the direction.
  const [x, y] = screen(clips[chosen]);
  const next = closest(x, y, (left, top, number) => {
    const along = left * dx + top * dy, across = Math.abs(left * dy - top * dx);
    return number !== chosen && along > 0 && across <= along;
  });
  if (next >= 0) choose(next);
}

let drag = null;
canvas.addEventListener("pointerdown", (event) => { drag = {x: event.offsetX, y: event.offsetY, moved: false}; });
canvas.addEventListener("pointermove", (event) => {
  const number = closest(event.offsetX, event.offsetY);
  canvas.title = number >= 0 ? `${words(clips[number])}: ${label(clips[number])}` : "";
  if (!drag) return;
  const [dx, dy] = [event.offsetX - drag.x, event.offsetY - drag.y];
  if (!drag.moved && Math.hypot(dx, dy) < 5) return;
  view.x -= dx / scale();
  view.y += dy / scale();
  drag = {x: event.offsetX, y: event.offsetY, moved: true};
  draw();
});
window.addEventListener("pointerup", (event) => {
  if (drag && !drag.moved && event.target === canvas) choose(closest(event.offsetX, event.offsetY));
  drag = null;
});
canvas.addEventListener("wheel", (event) => { event.preventDefault(); zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2); }, {passive: false});
canvas.addEventListener("keydown", (event) => {
  const direction = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (direction) step(...direction);
  else if (event.key === "Enter") document.querySelector("#near button")?.focus();
  else if (event.key === "+") zoom(1.3);
  else if (event.key === "-") zoom(1 / 1.3);
  else if (event.key === "0") reset();
  else return;
  event.preventDefault();
});
document.getElementById("in").addEventListener("click", () => zoom(1.3));
document.getElementById("out").addEventListener("click", () => zoom(1 / 1.3));
document.getElementById("reset").addEventListener("click", reset);
window.addEventListener("resize", draw);
document.querySelectorAll(".key canvas").forEach((mark, number) => {
  const context = mark.getContext("2d");
  context.fillStyle = color(number < data.labels.length ? number : -1);
  context.arc(6, 6, 6, 0, 2 * Math.PI);
  context.fill();
});
showPictures.checked = clips.length <= 60;
const wanted = Number(location.hash.slice(1)); // a link to a choice
choose(location.hash && Number.isInteger(wanted) && clips[wanted] ? wanted : chosen);

async function load() {
  images ??= await Promise.all(clips.map(async (clip) => {
    const image = new Image();
    image.src = clip.picture;
    await image.decode();
    return image;
  }));
  draw();
}
showPictures.addEventListener("change", load);
if (showPictures.checked) load();
