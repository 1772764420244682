"use strict";
// Players of clips: a slider, a button, and one canvas for each row of pictures.
const data = JSON.parse(document.getElementById("data").textContent);

document.querySelectorAll("section.clip").forEach((section, number) => {
  const clip = data.clips[number];
  const [width, height] = clip.size;
  const images = [...section.querySelectorAll(".strip img")];
  const canvases = [...section.querySelectorAll(".player canvas")];
  const slider = section.querySelector("input"), button = section.querySelector(".play");
  const output = section.querySelector("output");
  const times = Math.max(1, Math.floor(288 / Math.max(width, height)));
  let timer = null;

  canvases.forEach((canvas) => {
    canvas.width = width;
    canvas.height = height;
    canvas.style.width = `${width * times}px`;
  });

  function draw() {
    const frame = Number(slider.value);
    canvases.forEach((canvas, row) => {
      canvas.getContext("2d").drawImage(images[row], frame * width, 0, width, height, 0, 0, width, height);
    });
    output.textContent = `${frame + 1} of ${clip.times.length}, ${clip.times[frame].toFixed(2)} s`;
    slider.setAttribute("aria-valuetext", output.textContent);
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    button.textContent = "Play";
  }

  button.addEventListener("click", () => {
    if (timer !== null) return stop();
    const last = clip.times.length - 1;
    const pause = last > 0 ? (1000 * (clip.times[last] - clip.times[0])) / last : 0;
    button.textContent = "Stop";
    timer = setInterval(() => {
      slider.value = (Number(slider.value) + 1) % clip.times.length;
      draw();
    }, Math.max(40, pause));
  });
  slider.addEventListener("input", () => { stop(); draw(); });
  if (clip.times.length < 2) section.querySelector(".bar").hidden = true;
  Promise.all(images.map((image) => image.decode())).then(draw);
});
