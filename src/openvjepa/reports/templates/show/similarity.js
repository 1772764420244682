"use strict";
// Similarity of all tokens to a chosen one. The arithmetic is that of openvjepa.seeing.similarity.PackedTokens.
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const colors = bytes(data.colors);
const GAP = 3, TINY = 1e-12;
const opacity = document.getElementById("opacity"), centered = document.getElementById("centered");
const status = document.getElementById("status");

for (const clip of data.clips) {
  for (const model of clip.models) {
    model.values = new Int8Array(bytes(model.values).buffer);
    model.numbers = new Float32Array(bytes(model.numbers).buffer); // scale, along the mean, length
  }
}

let chosen = null; // {clip, model, token, similarity: [model][clip]}
const views = [];

function similarity(modelNumber, clipNumber, token) {
  const {dimensions, meanSquare} = data.models[modelNumber];
  const source = data.clips[clipNumber].models[modelNumber];
  const query = new Float64Array(dimensions);
  const [scale, along, length] = source.numbers.subarray(3 * token, 3 * token + 3);
  for (let i = 0; i < dimensions; i++) query[i] = source.values[token * dimensions + i] * scale;
  const full = (a, l) => Math.sqrt(Math.max(0, meanSquare + 2 * a + l * l));
  return data.clips.map((clip, number) => {
    const {values, numbers} = clip.models[modelNumber];
    const result = new Float32Array(numbers.length / 3);
    for (let n = 0; n < result.length; n++) {
      let product = 0;
      for (let i = 0; i < dimensions; i++) product += values[n * dimensions + i] * query[i];
      product *= numbers[3 * n];
      let lengths = numbers[3 * n + 2] * length;
      if (!centered.checked) {
        product += meanSquare + numbers[3 * n + 1] + along;
        lengths = full(numbers[3 * n + 1], numbers[3 * n + 2]) * full(along, length);
      }
      result[n] = Math.max(-1, Math.min(1, product / Math.max(lengths, TINY)));
    }
    if (number === clipNumber) result[token] = 1;
    return result;
  });
}

function choose(clipNumber, modelNumber, token) {
  const [t, h, w] = data.clips[clipNumber].models[modelNumber].grid;
  const place = {t: Math.floor(token / (h * w)) / t, y: (Math.floor(token / w) % h) / h, x: (token % w) / w};
  const tokens = data.clips[clipNumber].models.map(({grid}, number) => {
    if (number === modelNumber) return token; // the other models' token at the same place
    const at = (share, cells, step) => Math.min(cells - 1, Math.floor((share + step / 2) * cells));
    return (at(place.t, grid[0], 1 / t) * grid[1] + at(place.y, grid[1], 1 / h)) * grid[2] + at(place.x, grid[2], 1 / w);
  });
  const parts = tokens.map((own, number) => similarity(number, clipNumber, own));
  const ranges = parts.map((clips, number) => {
    let low = 1, high = -1;
    clips.forEach((values, index) => values.forEach((value, n) => {
      if (index === clipNumber && n === tokens[number]) return;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }));
    return low < high ? [low, high] : [0, 1];
  });
  chosen = {clip: clipNumber, model: modelNumber, token, tokens, parts, ranges};
  const [low, high] = ranges[modelNumber];
  document.getElementById("low").textContent = low.toFixed(2);
  document.getElementById("high").textContent = high.toFixed(2);
  const clip = data.clips[clipNumber], tubelet = clip.times.length / t;
  const first = Math.floor(token / (h * w)) * tubelet;
  const frames = tubelet > 1 ? `frames ${first + 1}-${first + tubelet}` : `frame ${first + 1}`;
  status.textContent = `${clip.title}: ${frames} (${clip.times[first].toFixed(2)} s), row ${(Math.floor(token / w) % h) + 1}, ` +
    `column ${(token % w) + 1}. Similarity of the other tokens: ` +
    ranges.map((range, i) => `${data.models.length > 1 ? `${data.models[i].name}: ` : ""}${range[0].toFixed(2)} to ${range[1].toFixed(2)}`).join("; ");
  history.replaceState(null, "", `#${clipNumber}.${modelNumber}.${token}`);
  views.forEach((view) => view.draw());
}

function clear() {
  chosen = null;
  status.textContent = "No patch is chosen.";
  history.replaceState(null, "", "#");
  views.forEach((view) => view.draw());
}

class View {
  // All frames of a clip with the tokens of one model, on one canvas.
  constructor(canvas, clip, model) {
    Object.assign(this, {canvas, clip, model});
    const {grid} = data.clips[clip].models[model];
    [this.t, this.h, this.w] = grid;
    this.frames = data.clips[clip].times.length;
    this.tubelet = this.frames / this.t;
    this.cursor = {frame: 0, y: Math.floor(this.h / 2), x: Math.floor(this.w / 2)};
    this.small = document.createElement("canvas");
    this.small.width = this.w;
    this.small.height = this.h;
    canvas.addEventListener("click", (event) => {
      const place = this.find(event);
      if (place) { this.cursor = place; choose(this.clip, this.model, this.token(place)); }
    });
    canvas.addEventListener("mousemove", (event) => this.hint(this.find(event)));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
  }

  token({frame, y, x}) { return (Math.floor(frame / this.tubelet) * this.h + y) * this.w + x; }

  layout() {
    const [width, height] = data.clips[this.clip].size;
    const room = this.canvas.parentElement.clientWidth;
    const scale = Math.max(128, Math.min(256, 9 * this.w)) / width;
    this.cell = {width: Math.min(room, Math.round(width * scale)), height: 0};
    this.cell.height = Math.round((this.cell.width * height) / width);
    this.columns = Math.max(1, Math.min(this.frames, Math.floor((room + GAP) / (this.cell.width + GAP))));
    const rows = Math.ceil(this.frames / this.columns), ratio = window.devicePixelRatio || 1;
    const full = [this.columns * (this.cell.width + GAP), rows * (this.cell.height + GAP)];
    this.canvas.width = Math.round(full[0] * ratio);
    this.canvas.height = Math.round(full[1] * ratio);
    this.canvas.style.width = `${full[0]}px`;
    this.canvas.style.height = `${full[1]}px`;
    this.ratio = ratio;
  }

  corner(frame) {
    return [(frame % this.columns) * (this.cell.width + GAP), Math.floor(frame / this.columns) * (this.cell.height + GAP)];
  }

  find(event) {
    const box = this.canvas.getBoundingClientRect();
    const left = event.clientX - box.left, top = event.clientY - box.top;
    const column = Math.floor(left / (this.cell.width + GAP)), row = Math.floor(top / (this.cell.height + GAP));
    const frame = row * this.columns + column;
    const x = Math.floor(((left - column * (this.cell.width + GAP)) / this.cell.width) * this.w);
    const y = Math.floor(((top - row * (this.cell.height + GAP)) / this.cell.height) * this.h);
    return column < this.columns && frame < this.frames && x < this.w && y < this.h && x >= 0 && y >= 0 ? {frame, y, x} : null;
  }

  hint(place) {
    if (!place || !chosen) { this.canvas.title = ""; return; }
    this.canvas.title = `similarity ${chosen.parts[this.model][this.clip][this.token(place)].toFixed(2)}`;
  }

  key(event) {
    const {cursor} = this, step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (step) {
      cursor.y = Math.max(0, Math.min(this.h - 1, cursor.y + step[0]));
      cursor.x = Math.max(0, Math.min(this.w - 1, cursor.x + step[1]));
    } else if (event.key === "PageDown") cursor.frame = Math.min(this.frames - 1, cursor.frame + 1);
    else if (event.key === "PageUp") cursor.frame = Math.max(0, cursor.frame - 1);
    else if (event.key === "Home") cursor.frame = 0;
    else if (event.key === "End") cursor.frame = this.frames - 1;
    else if (event.key === "Enter" || event.key === " ") choose(this.clip, this.model, this.token(cursor));
    else if (event.key === "Escape") clear();
    else return;
    event.preventDefault();
    this.draw();
  }

  paint(values, [low, high]) {
    // One color for each token; returns the small canvas.
    const context = this.small.getContext("2d"), pixels = context.createImageData(this.w, this.h);
    values.forEach((value, n) => {
      const level = 3 * Math.round(255 * Math.max(0, Math.min(1, (value - low) / (high - low))));
      for (let c = 0; c < 3; c++) pixels.data[4 * n + c] = colors[level + c];
      pixels.data[4 * n + 3] = 255;
    });
    context.putImageData(pixels, 0, 0);
    return this.small;
  }

  draw() {
    this.layout();
    const context = this.canvas.getContext("2d"), clip = data.clips[this.clip], [width, height] = clip.size;
    context.scale(this.ratio, this.ratio);
    context.imageSmoothingEnabled = false;
    for (let frame = 0; frame < this.frames; frame++) {
      const [left, top] = this.corner(frame), step = Math.floor(frame / this.tubelet), size = this.h * this.w;
      const picture = chosen ? clip.gray : clip.image;
      context.globalAlpha = 1;
      context.drawImage(picture, frame * width, 0, width, height, left, top, this.cell.width, this.cell.height);
      if (chosen) {
        const values = chosen.parts[this.model][this.clip].subarray(step * size, (step + 1) * size);
        context.globalAlpha = opacity.value / 100;
        context.drawImage(this.paint(values, chosen.ranges[this.model]), left, top, this.cell.width, this.cell.height);
      }
    }
    context.globalAlpha = 1;
    if (chosen && chosen.clip === this.clip) {
      const token = chosen.tokens[this.model], first = Math.floor(token / (this.h * this.w)) * this.tubelet;
      for (let i = 0; i < this.tubelet; i++) this.mark(context, first + i, Math.floor(token / this.w) % this.h, token % this.w, "#fff", "#000");
    }
    if (document.activeElement === this.canvas) this.mark(context, this.cursor.frame, this.cursor.y, this.cursor.x, "#000", "#facc15");
  }

  mark(context, frame, y, x, outer, inner) {
    const [left, top] = this.corner(frame), width = this.cell.width / this.w, height = this.cell.height / this.h;
    context.lineWidth = 4;
    context.strokeStyle = outer;
    context.strokeRect(left + x * width, top + y * height, width, height);
    context.lineWidth = 2;
    context.strokeStyle = inner;
    context.strokeRect(left + x * width, top + y * height, width, height);
  }
}

function gray(image) {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const level = 0.299 * pixels.data[i] + 0.587 * pixels.data[i + 1] + 0.114 * pixels.data[i + 2];
    pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = level;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function drawScale() {
  const canvas = document.getElementById("scale"), context = canvas.getContext("2d");
  for (let i = 0; i < 256; i++) {
    context.fillStyle = `rgb(${colors[3 * i]} ${colors[3 * i + 1]} ${colors[3 * i + 2]})`;
    context.fillRect(i, 0, 1, canvas.height);
  }
}

const again = () => chosen && choose(chosen.clip, chosen.model, chosen.token);
opacity.addEventListener("input", () => views.forEach((view) => view.draw()));
centered.addEventListener("change", again);
document.getElementById("clear").addEventListener("click", clear);
window.addEventListener("resize", () => views.forEach((view) => view.draw()));
drawScale();
const [clipNumber, modelNumber, token] = location.hash.slice(1).split(".").map(Number); // a link to a choice
const found = Number.isInteger(token) ? data.clips[clipNumber]?.models[modelNumber] : undefined;
if (found && token >= 0 && token < found.numbers.length / 3) choose(clipNumber, modelNumber, token);

Promise.all(data.clips.map(async (clip) => {
  clip.image = new Image();
  clip.image.src = clip.frames;
  await clip.image.decode();
  clip.gray = gray(clip.image);
})).then(() => {
  document.querySelectorAll("section.clip").forEach((section, clip) => {
    section.querySelectorAll("canvas").forEach((canvas, model) => views.push(new View(canvas, clip, model)));
  });
  views.forEach((view) => view.draw());
});
