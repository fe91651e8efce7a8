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
      box.dataset.value = value;
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
  const place = (box) => [Number(box.dataset.y), Number(box.dataset.x)];
  let stroke = null;
  host.addEventListener("focusin", ({ target }) => {
    if (target.tagName !== "INPUT") return;
    for (const box of host.querySelectorAll("input")) box.tabIndex = box === target ? 0 : -1;
    host.stop = place(target);
    target.value = target.dataset.value;
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
    const step = ARROWS[event.key];
    if (!step || event.target.tagName !== "INPUT" || event.shiftKey) return;
    const [y, x] = place(event.target);
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

export const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** The output: one cell is chosen, by pointer or arrow keys. */
export function choosable(host, rows, [chosenY, chosenX], { label, limit, choose }) {
  const made = cells(host, rows.length, rows[0].length, () => element("div", { role: "gridcell", class: "cell number" }));
  made.forEach((row, y) =>
    row.forEach((box, x) => {
      const chosen = y === chosenY && x === chosenX;
      paint(box, rows[y][x], limit);
      const text = cell(rows[y][x]);
      renew(box, text, { tabindex: chosen ? 0 : -1, "aria-selected": chosen, "aria-label": `${label}, row ${y}, column ${x}: ${text}` });
      box.dataset.y = y;
      box.dataset.x = x;
    }),
  );
  fit(host, rows.flat());
  host.choose = choose;
  if (host.dataset.listens) return;
  host.dataset.listens = "yes";
  const pick = ({ target: { dataset, ariaSelected } }) =>
    dataset.y && ariaSelected === "false" && host.choose(Number(dataset.y), Number(dataset.x));
  // A pointer that rests while the page moves under it chooses nothing.
  let rested = "";
  host.addEventListener("pointermove", (event) => {
    const now = `${event.clientX} ${event.clientY}`;
    if (now !== rested) pick(event);
    rested = now;
  });
  host.addEventListener("click", pick);
  host.addEventListener("keydown", (event) => {
    const step = ARROWS[event.key];
    if (!step || !event.target.dataset.y) return;
    event.preventDefault();
    const [y, x] = [Number(event.target.dataset.y) + step[0], Number(event.target.dataset.x) + step[1]];
    const next = host.querySelector(`[data-y="${y}"][data-x="${x}"]`);
    if (!next) return;
    host.choose(y, x);
    next.focus();
  });
}
