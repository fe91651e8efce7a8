// Grids of numbers: the input and the filter, which can be written, the products, and the output.
import { range } from "./arithmetic.js";
import { largest, paint } from "./colours.js";
import { breadth, cell, readNumber } from "./words.js";

/** An element with attributes and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Fill `host` with cells, anew only where the number of them changes; those that `lack` are not there at all. */
export function cells(host, height, width, make, key = "") {
  const wanted = `${height} ${width} ${key}`;
  // A cell that is removed while it is written would be left, and its grid shown, half-way through.
  if (host.dataset.cells !== wanted && host.contains(document.activeElement)) document.activeElement.blur();
  if (host.dataset.cells !== wanted) {
    host.dataset.cells = wanted;
    host.style.setProperty("--columns", width);
    host.replaceChildren(
      ...range(height).map((y) => {
        const row = element("div", { role: "row" });
        row.append(...range(width).map((x) => make(y, x)));
        return row;
      }),
    );
  }
  return [...host.children].map((row) => [...row.children]);
}

/** Let a grid's numbers be so small that the broadest is seen whole. */
export const fit = (host, numbers) => host.style.setProperty("--breadth", Math.max(...numbers.map((value) => breadth(cell(value)))));

/** Give an element its text and attributes, where they change: to write them lays the page out anew. */
export function renew(box, text, attributes) {
  if (text !== null && box.textContent !== text) box.textContent = text;
  for (const [name, value] of Object.entries(attributes)) if (box.getAttribute(name) !== String(value)) box.setAttribute(name, value);
}

/** A grid whose numbers can be written, with `around` rings of padding, whose cells are absent. */
export function editable(host, rows, { around = 0, label, limit = largest(rows), edit, refuse }) {
  const size = rows.length + 2 * around;
  const inside = (i) => i >= around && i < size - around;
  const made = cells(
    host,
    size,
    size,
    (y, x) => {
      if (!inside(y) || !inside(x)) return element("div", { role: "gridcell", class: "cell absent", "aria-label": "padding" });
      const box = element("input", { type: "text", inputmode: "decimal", class: "number", autocomplete: "off" });
      box.dataset.y = y - around;
      box.dataset.x = x - around;
      return element("div", { role: "gridcell", class: "cell" }, box);
    },
    around,
  );
  // One stop of the tab key for the whole grid; arrow keys lead on.
  const stop = host.querySelector(`input[data-y="${host.stop?.[0]}"][data-x="${host.stop?.[1]}"]`) ?? host.querySelector("input");
  made.forEach((row, y) =>
    row.forEach((holder, x) => {
      const box = holder.firstElementChild;
      if (!box) return;
      const value = rows[y - around][x - around];
      paint(box, value, limit);
      // As many digits as a number keeps: 0.1 is not 0.09999999999999998, as a difference may have left it.
      box.dataset.value = Number(value.toPrecision(15));
      if (document.activeElement !== box) box.value = cell(value);
      renew(box, null, { tabindex: box === stop ? 0 : -1, "aria-label": `${label}, row ${y - around}, column ${x - around}` });
    }),
  );
  fit(host, rows.flat());
  host.write = edit;
  host.refuse = refuse;
  if (!host.dataset.listens) listen(host);
  return made;
}

/** The cells of `host` on the way from one point to another, however fast the pointer went. */
function crossed(host, [fromX, fromY], [toX, toY]) {
  const half = host.querySelector("input").offsetWidth / 2;
  const steps = Math.max(1, Math.ceil(Math.hypot(toX - fromX, toY - fromY) / half));
  const met = range(steps).map((i) => {
    const part = (i + 1) / steps;
    return document.elementFromPoint(fromX + part * (toX - fromX), fromY + part * (toY - fromY));
  });
  return [...new Set(met)].filter((box) => box?.tagName === "INPUT" && host.contains(box));
}

/** Typing, arrow keys, and drawing by dragging: a stroke that starts on a bright cell rubs out. */
function listen(host) {
  host.dataset.listens = "yes";
  let stroke = null;
  // What the cell held when it was entered, for Escape.
  let before = null;
  host.addEventListener("focusin", ({ target }) => {
    if (target.tagName !== "INPUT") return;
    for (const box of host.querySelectorAll("input")) box.tabIndex = box === target ? 0 : -1;
    host.stop = place(target);
    before = target.dataset.value;
    target.value = before;
    target.select();
  });
  host.addEventListener("input", ({ target }) => {
    const { value, refused } = readNumber(target.value);
    target.setAttribute("aria-invalid", String(refused !== undefined));
    if (refused === undefined) host.write([[...place(target), value]]);
    else host.refuse(refused);
  });
  host.addEventListener("focusout", ({ target }) => {
    target.removeAttribute("aria-invalid");
    host.write([]);
  });
  host.addEventListener("keydown", (event) => {
    const box = event.target;
    if (box.tagName !== "INPUT") return;
    if (event.key === "Escape" && box.value !== before) {
      event.stopPropagation();
      box.value = before;
      box.dispatchEvent(new InputEvent("input", { bubbles: true }));
      box.select();
    }
    const step = event.key === "Enter" ? ARROWS.ArrowDown : ARROWS[event.key];
    if (!step || event.shiftKey || movesCaret(box, event.key)) return;
    const [y, x] = place(box);
    const next = host.querySelector(`input[data-y="${y + step[0]}"][data-x="${x + step[1]}"]`);
    event.preventDefault();
    next?.focus();
  });
  if (!host.classList.contains("drawn")) return;
  host.addEventListener("pointerdown", (event) => {
    if (event.target.tagName !== "INPUT" || event.button) return;
    stroke = { from: event.target, value: Number(event.target.dataset.value) > 0.5 ? 0 : 1, started: false, last: [event.clientX, event.clientY] };
    event.target.releasePointerCapture?.(event.pointerId);
  });
  host.addEventListener("pointermove", (event) => {
    if (!stroke) return;
    const now = [event.clientX, event.clientY];
    const met = crossed(host, stroke.last, now);
    stroke.last = now;
    if (!met.some((box) => stroke.started || box !== stroke.from)) return;
    event.preventDefault();
    const written = stroke.started ? met : [stroke.from, ...met];
    stroke.started = true;
    document.activeElement?.blur();
    host.write(written.map((one) => [...place(one), stroke.value]));
  });
  host.addEventListener("dragstart", (event) => event.preventDefault());
  window.addEventListener("pointerup", () => (stroke = null));
}

/** Whether a key moves within the text of a cell: until its end, where not all of it is selected. */
function movesCaret({ value, selectionStart: from, selectionEnd: to }, key) {
  if (from === 0 && to === value.length) return false;
  return (key === "ArrowLeft" && to > 0) || (key === "ArrowRight" && from < value.length);
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Let arrow keys lead from cell to cell of `host`, a single stop of the tab key. */
function rove(host, arrive = () => {}) {
  host.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    const { y, x } = event.target.dataset;
    if (!step || y === undefined) return;
    event.preventDefault();
    const next = host.querySelector(`[data-y="${Number(y) + step[0]}"][data-x="${Number(x) + step[1]}"]`);
    if (!next) return;
    arrive(next);
    next.focus();
  });
}

const place = ({ dataset }) => [Number(dataset.y), Number(dataset.x)];
const numbered = (host, height, width) =>
  cells(host, height, width, (y, x) => element("div", { role: "gridcell", class: "cell number", "data-y": y, "data-x": x, tabindex: y || x ? -1 : 0 }));

/** The output: one cell is `chosen`, by a click or arrow keys; `look` is told which one a mouse passes over. */
export function choosable(host, rows, { chosen, kept, label, limit, look, choose }) {
  numbered(host, rows.length, rows[0].length).forEach((row, y) =>
    row.forEach((box, x) => {
      const here = y === chosen[0] && x === chosen[1];
      paint(box, rows[y][x], limit);
      const text = cell(rows[y][x]);
      renew(box, text, { tabindex: here ? 0 : -1, "aria-selected": here, "aria-label": `${label}, row ${y}, column ${x}: ${text}` });
      box.classList.toggle("kept", here && kept);
    }),
  );
  fit(host, rows.flat());
  if (host.dataset.listens) return;
  host.dataset.listens = "yes";
  // A pointer that rests while the page moves under it passes over nothing.
  let rested = "";
  host.addEventListener("pointermove", (event) => {
    const now = `${event.clientX} ${event.clientY}`;
    if (now !== rested && event.pointerType !== "touch" && event.target.dataset.y) look(place(event.target));
    rested = now;
  });
  host.addEventListener("pointerleave", () => look(null));
  host.addEventListener("click", ({ target }) => target.dataset.y && choose(place(target), true));
  rove(host, (next) => choose(place(next)));
}

/** A grid of what can be read, cell by cell: `tell` gets what a cell says where it is met, tapped or reached by keys. */
export function readable(host, width, all, { limit, tell }) {
  numbered(host, all.length / width, width)
    .flat()
    .forEach((box, i) => {
      const { value, says } = all[i];
      box.classList.toggle("absent", value === undefined);
      paint(box, value ?? 0, limit);
      if (value === undefined) box.removeAttribute("style");
      renew(box, value === undefined ? "" : cell(value), { "aria-label": says });
    });
  fit(host, all.map(({ value }) => value ?? 0));
  if (host.dataset.listens) return;
  host.dataset.listens = "yes";
  for (const event of ["focusin", "pointerover"]) {
    host.addEventListener(event, ({ target }) => target.dataset.y && tell(target.getAttribute("aria-label")));
  }
  host.addEventListener("focusin", ({ target }) => {
    for (const box of host.querySelectorAll(".cell")) box.tabIndex = box === target ? 0 : -1;
  });
  rove(host);
}
