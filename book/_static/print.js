// Paper is white and cannot be unfolded: print in the light theme with everything open, then go back.
(() => {
  const root = document.documentElement;
  let theme, opened = [];
  addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach(e => { e.open = true; });
  });
  addEventListener("afterprint", () => {
    root.dataset.theme = theme;
    opened.forEach(e => { e.open = false; });
  });
})();
