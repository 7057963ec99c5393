"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("errors-data").textContent);
  const filters = byId("filters"), gallery = byId("gallery"), more = byId("more"), found = byId("found");
  const PAGE = 60, SCALE = 3, SEEDS = 5;
  let matching = [], shown = 0, level = 0;

  // Which two configurations stand side by side.
  function choose() {
    const places = ["left", "right"].map((side) => {
      const chosen = byId(side).value;
      for (const matrix of document.querySelectorAll(`[data-side=${side}] [data-matrix]`)) {
        matrix.hidden = matrix.dataset.matrix !== chosen;
      }
      return Number(chosen);
    });
    const wanted = `${Math.min(...places)} ${Math.max(...places)}`;
    const pairs = [...document.querySelectorAll("[data-pair]")];
    const there = pairs.some((pair) => pair.dataset.pair === wanted);
    for (const pair of pairs) pair.hidden = pair.dataset.pair !== (there ? wanted : "none");
  }

  // The gallery of errors: entries are [image, configuration, predicted, confidence, categories as bits, and from
  // SEEDS on: the seeds that made the error, and those of them above each level of confidence].
  function filter() {
    const value = (name) => filters.querySelector(`[name=${name}]`).value;
    const is = (name, found) => value(name) === "" || Number(value(name)) === found;
    const suspect = filters.querySelector("[name=suspect]").checked;
    level = Math.max(Number(value("confidence")), data.least[value("category")] ?? 0);
    matching = data.errors.filter((error) => {
      const [image, configuration, predicted, , bits] = error;
      return is("label", data.images[image][1]) && is("predicted", predicted) && is("configuration", configuration) &&
        (value("category") === "" || (bits >> Number(value("category"))) & 1) &&
        error[SEEDS + level] > 0 && (!suspect || data.images[image][2]);
    });
    const predictions = matching.reduce((sum, error) => sum + error[SEEDS + level], 0);
    const images = new Set(matching.map((error) => error[0])).size;
    found.textContent = `${predictions.toLocaleString("en")} errors on ${images.toLocaleString("en")} images`;
    gallery.replaceChildren();
    shown = 0;
    show();
  }

  function show() {
    for (const error of matching.slice(shown, shown + PAGE)) {
      const [image, configuration, predicted, confidence] = error, seeds = error[SEEDS + level];
      const [number, label, suspect] = data.images[image];
      const figure = document.createElement("figure"), tile = document.createElement("div");
      const caption = document.createElement("figcaption");
      const said = `${data.classes[label]} taken for ${data.classes[predicted]}`;
      tile.className = "tile";
      tile.setAttribute("role", "img");
      tile.setAttribute("aria-label", `Test image ${number}, ${said}`);
      const side = data.side * SCALE, column = image % data.across, row = Math.floor(image / data.across);
      tile.style.backgroundPosition = `${-column * side}px ${-row * side}px`;
      tile.style.backgroundSize = `${data.across * side}px auto`;
      caption.textContent = `${data.classes[label]} → ${data.classes[predicted]}, ${(100 * confidence).toFixed(1)}\u00a0%; ` +
        `${data.configurations[configuration]}, ${seeds} of ${data.seeds[configuration]}; ` +
        `image ${number}${suspect ? "; label suspect" : ""}`;
      figure.append(tile, caption);
      gallery.append(figure);
    }
    shown = Math.min(shown + PAGE, matching.length);
    more.hidden = shown >= matching.length;
    more.textContent = `Show more (${shown.toLocaleString("en")} of ${matching.length.toLocaleString("en")} shown)`;
  }

  // A cell of a confusion matrix sets the filters; arrow keys move from cell to cell.
  function open(cell) {
    const [configuration, label, predicted] = cell.dataset.cell.split(" ");
    for (const input of filters.querySelectorAll("select")) input.selectedIndex = 0;
    filters.querySelector("[name=suspect]").checked = false;
    Object.entries({ configuration, label, predicted }).forEach(([name, value]) => {
      filters.querySelector(`[name=${name}]`).value = value;
    });
    filter();
    byId("errors").scrollIntoView();
    found.focus({ preventScroll: true });
  }

  function move(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (!step) return;
    const [matrix, row, column] = event.target.dataset.cell.split(" ").map(Number);
    const next = event.target.closest("table").querySelector(
      `[data-cell="${matrix} ${row + step[0]} ${column + step[1]}"]`);
    if (!next) return;
    event.preventDefault();
    event.target.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  for (const cell of document.querySelectorAll("[data-cell]")) {
    if (cell.tagName === "BUTTON") cell.addEventListener("click", () => open(cell));
    cell.addEventListener("keydown", move);
  }
  for (const side of ["left", "right"]) byId(side).addEventListener("change", choose);
  filters.addEventListener("change", filter);
  more.addEventListener("click", show);
  choose();
  filter();
})();
