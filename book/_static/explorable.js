/* Pictures that the reader moves (see fedlab_helpers/explore.py): shows the controls that a page
   holds, and the frame and the words of the position where they stand. Without this script there is
   one frame, a strip of small ones, and a table of all positions in words. */

"use strict";

(() => {
  const PACE = 1000; // milliseconds a frame, while it plays
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  const count = (c) => c.type === "range" ? Number(c.max) + 1 : c.type === "checkbox" ? 2 : c.length;
  const position = (c) =>
    c.type === "range" ? Number(c.value) : c.type === "checkbox" ? Number(c.checked) : c.selectedIndex;

  /* The drawings: each frame is a list of pairs (first line, number of lines). */
  function unpacked(text) {
    const [made, ...lines] = text.trim().split("\n");
    return JSON.parse(made).map((frame) => {
      const parts = [];
      for (let k = 0; k < frame.length; k += 2) {
        parts.push(...lines.slice(frame[k], frame[k] + frame[k + 1]));
      }
      return parts.join("\n");
    });
  }

  function enliven(box) {
    const form = box.querySelector("form");
    const controls = [...form.querySelectorAll("input, select")];
    const frames = unpacked(box.querySelector("script").textContent);
    const [head, ...rows] = [...box.querySelectorAll("tr")].map((row) =>
      [...row.cells].map((cell) => cell.textContent));
    const stage = box.querySelector(".fl-stage");
    const [where, said] = box.querySelectorAll("p[aria-live] > *");
    let shown = -1;

    function show() {
      const frame = controls.reduce((n, c) => n * count(c) + position(c), 0);
      if (frame === shown) return;
      shown = frame;
      stage.innerHTML = frames[frame];
      where.textContent = `${controls.map((_, i) => `${head[i]} = ${rows[frame][i]}`).join(", ")}.`;
      said.textContent = rows[frame].at(-1);
      controls.forEach((c, i) => {
        if (c.type !== "range") return;
        c.setAttribute("aria-valuetext", rows[frame][i]);
        c.parentElement.querySelector("output").textContent = rows[frame][i];
      });
    }

    form.addEventListener("input", show);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.querySelectorAll("button").forEach((button) => player(button, said.parentElement, show));
    form.hidden = false;
    box.classList.add("fl-alive");
    show();
  }

  /* A button that goes through the positions of the slider beside it: by itself, or, for readers who
     asked for less motion, one position per press. What is seen is read aloud where it stops. */
  function player(button, words, show) {
    const slider = button.parentElement.querySelector("input");
    let timer = null;

    function step() {
      slider.value = (Number(slider.value) + 1) % count(slider);
      show();
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      words.setAttribute("aria-live", "polite");
      button.textContent = calm.matches ? "Next" : "Play";
    }

    function play() {
      words.setAttribute("aria-live", "off");
      button.textContent = "Pause";
      step();
      timer = setInterval(() => {
        if (Number(slider.value) + 1 === Number(slider.max)) stop();
        step();
      }, PACE);
    }

    button.addEventListener("click", () => {
      if (timer) stop();
      else if (calm.matches) step();
      else play();
    });
    slider.addEventListener("input", stop);
    calm.addEventListener("change", stop);
    stop();
  }

  function enlivenAll() {
    document.querySelectorAll(".fl-explorable").forEach(enliven);
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", enlivenAll);
  else enlivenAll();
})();
