/* Questions that readers put to themselves (see fedlab_helpers/selfcheck.py): opens the solution
   that a form carries, judges the answer, and says why. Without this script the questions are
   there to be read, and their buttons are not. */

"use strict";

(() => {
  function opened(form) {
    const bytes = Uint8Array.from(atob(form.dataset.sealed), (c) => c.charCodeAt(0));
    const key = new TextEncoder().encode(form.id);
    const plain = bytes.map((byte, i) => byte ^ key[i % key.length]);
    return JSON.parse(new TextDecoder().decode(plain));
  }

  /* As `number` in fedlab_helpers/selfcheck.py reads it; NaN where that raises. */
  function number(text, unit) {
    let plain = text.replace(/[\s_]/g, "").replaceAll("\u2212", "-");
    const percent = plain.endsWith("%");
    if (percent) plain = plain.slice(0, -1);
    if (/^[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d*)?$/.test(plain)) plain = plain.replaceAll(",", "");
    plain = plain.replace(",", ".");
    if (!/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(plain)) return NaN;
    return Number(plain) / (percent && unit !== "%" ? 100 : 1);
  }

  const near = (given, answer, tolerance) =>
    Math.abs(given - answer) <= tolerance + 1e-9 * Math.abs(answer);

  function judgedChoice(form, solution) {
    const picked = form.querySelector("input:checked");
    if (!picked) return [null, "Pick an answer first."];
    const i = Number(picked.value);
    return [i === solution.right, solution.why[i]];
  }

  function judgedNumber(form, solution) {
    const given = number(form.querySelector("input").value, form.dataset.unit);
    if (Number.isNaN(given)) return [null, "Write a number, such as 0.85 or 1,200."];
    if (near(given, solution.answer, solution.tolerance)) return [true, solution.why];
    const slip = solution.slips.find(([value]) => near(given, value, solution.tolerance));
    const side = given < solution.answer ? "That is too small." : "That is too large.";
    return [false, slip ? slip[1] : side];
  }

  function say(form, right, why) {
    const verdict = form.querySelector(".fl-verdict");
    verdict.dataset.right = right ?? "";
    const word = { true: "\u2713 Right. ", false: "\u2717 No. " }[right] ?? "";
    verdict.innerHTML = word + why;
    window.MathJax?.typesetPromise?.([verdict]);
  }

  function enliven(form) {
    const solution = opened(form);
    const judged = "right" in solution ? judgedChoice : judgedNumber;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      say(form, ...judged(form, solution));
    });
    const show = form.querySelector("button[type=button]");
    show?.addEventListener("click", () => say(form, null, solution.why));
    form.querySelectorAll("button").forEach((button) => { button.hidden = false; });
  }

  function enlivenAll() {
    for (const box of document.querySelectorAll(".fl-selfcheck")) {
      box.querySelectorAll("form").forEach(enliven);
      box.classList.add("fl-alive");
    }
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", enlivenAll);
  else enlivenAll();
})();
