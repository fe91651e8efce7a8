// The page: what is on the screen is a function of the state, and every control makes another state.
import { ACTIVATIONS, WAYS, biasAt, channelsOf, outputs, products, range, sumAt, sums } from "./arithmetic.js";
import { largest, paint, whenThemeChanges } from "./colours.js";
import { formula, biasFormula } from "./formula.js";
import { choosable, editable, element, readable, renew } from "./grids.js";
import { AMPLITUDE, amplitudePlot, axes, profilePlot } from "./plots.js";
import { CHOICES, DEFAULT, FILTER_NAMES, INPUTS, LIMITS, MAPS, OWN, SIZE, changed, fromFragment, numbers, problem, toFragment } from "./state.js";
import { makeCards, showCards } from "./ways.js";
import { ABOUT, cell, formulaOf, insight, layerLine, namesLine, program, short, spoken } from "./words.js";

const $ = (id) => document.getElementById(id);
const PACE = 450;
let state = DEFAULT;
// The output that the pointer passes over, which is shown as long as it does; none where the chosen one is kept.
let passed = null;
let kept = false;
const TOGETHER = 600; // milliseconds between steps, such as a slider's, that are undone as one
let playing = null;
let frame = null;
const past = [];
let last = { kind: "", time: 0 };
// The text that stands below to be copied, of whatever is on the screen.
let copied = null;
// How much the amplitude plot shows upwards; while its intercept is dragged, it stays.
let plotScale = 1;
let heldScale = null;

/** Tell what was refused or done. It stays while an output is looked at, until something is changed. */
const say = (text) => ($("message").textContent = text);

/** Go to another state, if there is one with these choices, and show it. */
function set(change) {
  const next = changed(state, change);
  const wrong = problem(next);
  const looks = Object.keys(change).every((name) => name === "at");
  if (wrong) say(`Not possible: ${wrong}.`);
  else if (!looks) {
    say("");
    remember(Object.keys(change).join());
  }
  go(wrong ? state : next);
}

function go(next) {
  state = next;
  passed = null;
  clearTimeout(frame);
  frame = setTimeout(() => history.replaceState(null, "", `#${toFragment(state)}`), 200);
  show();
}

/** Keep the state for undo, but for the steps of one movement. */
function remember(kind) {
  const time = performance.now();
  if (kind !== last.kind || time - last.time > TOGETHER) past.push(state);
  last = { kind, time };
}

/** Go back by one change, where the chosen output stays chosen. */
function undo() {
  if (!past.length) return say("There is nothing to undo.");
  say("");
  last.kind = "";
  // A cell that is being written shows its number again once it is left.
  const cell = document.activeElement;
  cell?.blur();
  go(changed(past.pop(), { at: state.at }));
  cell?.focus();
}

/** Everything on the screen, from the state. */
function show() {
  const full = numbers({ ...state, at: passed ?? state.at });
  const bare = sums(full);
  const byWay = Object.fromEntries(WAYS.map((way) => [way, outputs(way, full, bare)]));
  const shown = byWay[state.bias];
  const [f, y, x] = full.at;
  const terms = products(full, full.at);
  const slope = sumAt({ ...full, gain: 1 }, full.at);
  const most = Math.max(LIMITS.b, ...WAYS.map((way) => Math.abs(byWay[way].field[f][y][x])));
  plotScale = heldScale ?? 1.05 * (AMPLITUDE * Math.abs(slope) + most);
  const scale = plotScale;
  showControls();
  showQuestion(full, byWay, terms);
  showGrids(full, shown, terms);
  $("formula").replaceChildren(...formula(full, shown, terms));
  $("bias-formula").textContent = biasFormula(full, shown, terms, inside(terms));
  const way = { slope, intercept: shown.field[f][y][x], act: ACTIVATIONS[state.act], gain: state.gain, scale };
  amplitudePlot($("amplitude-plot"), { ...way, handles: { intercept: rate(full) !== 0 } });
  const rows = [...new Set(["tied", "tap", state.bias])].map((name) => ({ name: ABOUT[name].title, row: byWay[name].field[f][y] }));
  profilePlot($("profile-plot"), rows, x);
  $("profile-title").textContent = `The bias along row ${y}`;
  showCards($("ways"), full, byWay, { slope, scale });
  $("way-says").replaceChildren(element("strong", {}, `${ABOUT[state.bias].title}. `), ABOUT[state.bias].says);
  $("python").textContent = layerLine(full);
  $("python-names").textContent = namesLine(full);
  if (copied) $("copied").value = copied();
  // Who listens to the window moving by itself, or under the pointer, would hear nothing else.
  if (!playing && !passed) $("announce").textContent = spoken(shown, state.at, inside(terms), entries(terms), state.act);
}

const entries = (terms) => new Set(terms.map(({ ty, tx }) => `${ty} ${tx}`)).size;
const inside = (terms) => entries(terms.filter((term) => term.inside));

/** How much the bias at the chosen output changes with b. */
function rate(full) {
  const [f, y, x] = full.at;
  const at = (b) => biasAt(full.bias, { ...full, b: full.b.map((_, i) => (i === ownB() ? b : 0)) })(f, y, x);
  return at(1) - at(0);
}

/** Which b the slider moves: the filter's, or the input channel's. */
const ownB = () => (state.bias === "input" ? Math.min(state.at[0], state.channels - 1) : state.at[0]);

function showControls() {
  for (const control of document.querySelectorAll("[data-choice]")) {
    const name = control.dataset.choice;
    const value = name === "channels" ? `${state.channels} ${state.groups}` : String(state[name]);
    if (control.querySelector(`[value="${OWN}"]`)) control.querySelector(`[value="${OWN}"]`).hidden = value !== OWN;
    control.value = value;
  }
  $("b").value = state.b[ownB()];
  $("gain").value = state.gain;
  const mapped = ["c h", "c w", "rank:1", "grid:3", "untied"].includes(state.bias) ? ", under the map" : "";
  $("b-label").textContent = state.bias === "input" ? `b of input channel ${ownB()}` : `b of filter ${ownB()}${mapped}`;
  $("times").textContent = state.gain === 1 ? "" : `times the amplitude, ${short(state.gain)}`;
  $("keeps").textContent = kept ? "Kept: click it again, or Escape, to look around." : "Pass over to look, click to keep.";
  for (const [id, value] of [["b", state.b[ownB()]], ["gain", state.gain]]) {
    $(`${id}-value`).textContent = short(value);
    $(id).setAttribute("aria-valuetext", short(value));
  }
  for (const radio of document.querySelectorAll("[name=filter-chosen]")) radio.checked = Number(radio.value) === state.at[0];
}

/** The question, answered for the chosen output. */
function showQuestion(full, byWay, terms) {
  const [f, y, x] = full.at;
  const [n, all] = [inside(terms), entries(terms)];
  const [sum, b] = [byWay.tied.sums[f][y][x], state.b[f]];
  const row = (way, added) =>
    `<tr><th scope="row">${ABOUT[way].title}</th><td><code>${formulaOf(way, full)}</code></td>` +
    `<td>= ${short(sum)} ${added}</td><td>= <b>${short(byWay[way].z[f][y][x])}</b></td></tr>`;
  $("answer-rows").innerHTML =
    row("tied", `+ <i>1 ×</i> (${short(b)})`) + row("tap", `+ <i>${n} ×</i> (${short(b)})`);
  $("answer-here").innerHTML = insight(n, all, full.channels / full.groups);
}

function showGrids(full, shown, terms) {
  const [f, y, x] = full.at;
  const mine = channelsOf(f, full);
  const limit = largest(full.x);
  const reading = new Set(terms.map((term) => `${term.channel} ${term.y} ${term.x}`));
  panels($("input"), full.x, "grid drawn").forEach((host, channel) => {
    const made = editable(host, full.x[channel], { around: state.padding, label: `input${full.x.length > 1 ? ` channel ${channel}` : ""}`, limit, edit: writer("input", full.x, channel), refuse });
    made.flat().forEach((box, i) => {
      const [row, column] = [Math.floor(i / made.length) - state.padding, (i % made.length) - state.padding];
      box.classList.toggle("read", reading.has(`${channel} ${row} ${column}`));
    });
    host.classList.toggle("unread", !mine.includes(channel));
    const first = terms[0];
    const cover = state.dilation * (state.kernel - 1) + 1;
    host.style.setProperty("--y", first.y + state.padding);
    host.style.setProperty("--x", first.x + state.padding);
    host.style.setProperty("--cover", cover);
  });
  panels($("filter"), full.w[f], "grid").forEach((host, c) =>
    editable(host, full.w[f][c], { label: `filter ${f}${mine.length > 1 ? `, channel ${mine[c]}` : ""}`, limit: largest(full.w), edit: writer("filter", full.w, f, c), refuse }),
  );
  // What was read of one product is not true of the next output's.
  $("product").textContent = "Point at one to read it.";
  const size = largest(terms.map((term) => (term.inside ? term.weight * term.entry : 0)));
  panels($("window"), mine, "grid").forEach((host, c) => {
    const of = terms.filter((term) => term.channel === mine[c]);
    readable(host, state.kernel, of.map((term) => {
      if (!term.inside) return { says: "in the padding: not there" };
      const value = term.weight * term.entry;
      return { value, says: `${short(term.weight)} times ${short(term.entry)} is ${short(value)}` };
    }), { limit: size, tell: (says) => ($("product").textContent = says) });
  });
  const choosing = { chosen: [y, x], kept, look, choose };
  const outward = largest([shown.field[f], shown.y[f]]);
  const own = state.bias === "untied";
  $("field").hidden = own;
  $("own-field").hidden = !own;
  if (own) editable($("own-field"), shown.field[f], { label: "bias", limit: outward, edit: (written) => writer("map", full.map, f)(written.map(([r, c, value]) => [r, c, value - state.b[f]])), refuse });
  else choosable($("field"), shown.field[f], { ...choosing, label: "bias", limit: outward });
  for (const box of $("own-field").querySelectorAll("input")) box.classList.toggle("chosen", own && box.dataset.y == y && box.dataset.x == x);
  choosable($("output"), shown.y[f], { ...choosing, label: `output of filter ${f}`, limit: outward });
}

/** Show the output that the pointer passes over, or the chosen one again. */
function look(place) {
  const next = place && !kept && !playing ? [state.at[0], ...place] : null;
  if (String(next) === String(passed)) return;
  passed = next;
  show();
}

/** Choose an output, and keep it under the pointer's way where it is clicked; a click on a kept one lets it go. */
function choose(place, clicked = false) {
  play(false);
  const at = [state.at[0], ...place];
  kept = clicked && !(kept && String(at) === String(state.at));
  set({ at });
}

/** A grid in `host` for each of `channels`. */
function panels(host, channels, classes) {
  if (host.children.length !== channels.length) {
    host.replaceChildren(...channels.map(() => element("div", { role: "grid", class: classes })));
  }
  [...host.children].forEach((grid, c) => renew(grid, null, { "aria-label": host.dataset.label + (channels.length > 1 ? `, channel ${c}` : "") }));
  return [...host.children];
}

const refuse = (why) => say(why && `${why}.`);

/** Writes numbers into a copy of the input, the filter or the map, which then are one's own. */
function writer(name, all, ...path) {
  return (written) => {
    if (!written.length) return show();
    const copy = structuredClone(all);
    const rows = path.reduce((inner, index) => inner[index], copy);
    for (const [y, x, value] of written) rows[y][x] = value;
    set({ [name]: OWN, own: { [name]: copy.flat(Infinity) } });
  };
}

/** Controls that make another state. */
function connect() {
  const options = (select, values, texts = values) =>
    select.replaceChildren(...values.map((value, i) => element("option", { value }, String(texts[i]))));
  const lists = { input: [...INPUTS, OWN], filter: [...FILTER_NAMES, OWN], map: [...MAPS, OWN] };
  for (const select of document.querySelectorAll("select[data-choice]")) {
    const name = select.dataset.choice;
    if (name === "channels") options(select, ["1 1", "2 1", "2 2"], ["1", "2", "2, in 2 groups"]);
    else options(select, lists[name] ?? CHOICES[name]);
    select.addEventListener("change", () => {
      const number = typeof DEFAULT[name] === "number";
      if (name === "channels") {
        const [channels, groups] = select.value.split(" ").map(Number);
        set({ channels, groups });
      } else if (select.value !== OWN) set({ [name]: number ? Number(select.value) : select.value });
    });
  }
  $("b").addEventListener("input", ({ target }) => setB(Number(target.value)));
  $("gain").addEventListener("input", ({ target }) => set({ gain: Number(target.value) }));
  for (const radio of document.querySelectorAll("[name=filter-chosen]")) {
    radio.addEventListener("change", () => set({ at: [Number(radio.value), ...state.at.slice(1)] }));
  }
  makeCards($("ways"), (bias) => set({ bias }));
  const ends = { middle: [0.5, 0.5], edge: [0, 0.5], corner: [0, 0] };
  for (const button of document.querySelectorAll("[data-go]")) {
    button.addEventListener("click", () => {
      const last = numbers(state).map[0].length - 1;
      kept = false;
      choose(ends[button.dataset.go].map((part) => Math.floor(part * last)), true);
    });
  }
  $("play").addEventListener("click", () => play(!playing));
  $("reset").addEventListener("click", () => {
    play(false);
    kept = false;
    set({ ...DEFAULT, own: { input: undefined, filter: undefined, map: undefined } });
  });
  $("undo").addEventListener("click", undo);
  $("message").addEventListener("click", () => say(""));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      say("");
      kept = false;
      show();
    }
    if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.altKey) return;
    event.preventDefault();
    undo();
  });
  $("copy-program").addEventListener("click", () => copy(() => program(numbers(state)), "The program"));
  $("copy-link").addEventListener("click", () => copy(() => `${location.href.split("#")[0]}#${toFragment(state)}`, "The link"));
  drag($("amplitude-plot"));
  window.addEventListener("hashchange", () => {
    past.push(state);
    last.kind = "";
    restore();
  });
  whenThemeChanges(show);
}

const setB = (value) => set({ b: state.b.map((old, i) => (i === ownB() ? value : old)) });

/** The intercept and the amplitude of the plot can be dragged. */
function drag(svg) {
  let held = null;
  const rounded = (value, limit) => Math.max(-limit, Math.min(limit, Math.round(value * 20) / 20));
  svg.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    heldScale = plotScale;
    held = event.target.classList.contains("intercept") ? "intercept" : "amplitude";
    svg.setPointerCapture(event.pointerId);
    move(event);
  });
  const move = (event) => {
    if (!held) return;
    const box = svg.getBoundingClientRect();
    const { width, height } = svg.viewBox.baseVal;
    const at = [((event.clientX - box.left) * width) / box.width, ((event.clientY - box.top) * height) / box.height];
    const full = numbers(state);
    const [f, y, x] = state.at;
    if (held === "amplitude") return set({ gain: rounded(axes(width, height, 1).amplitude(at[0]), LIMITS.gain) });
    const slope = rate(full);
    const here = biasAt(state.bias, full)(f, y, x);
    if (slope) setB(rounded(state.b[ownB()] + (axes(width, height, plotScale).value(at[1]) - here) / slope, LIMITS.b));
  };
  svg.addEventListener("pointermove", move);
  const release = () => {
    held = heldScale = null;
    show();
  };
  for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, release);
}

/** Move the window over the image, output by output, until it is stopped. */
function play(on) {
  if (!on && !playing) return;
  clearInterval(playing);
  playing = passed = null;
  if (on) {
    kept = false;
    playing = setInterval(() => {
      const last = numbers(state).map[0].length;
      const [f, y, x] = state.at;
      const next = (y * last + x + 1) % (last * last);
      set({ at: [f, Math.floor(next / last), next % last] });
    }, PACE);
  } else show();
  $("play").textContent = on ? "Stop" : "Play";
  $("play").setAttribute("aria-pressed", String(on));
}

async function copy(text, what) {
  play(false);
  copied = text;
  $("copied").value = text();
  $("copied").hidden = false;
  $("copied").setAttribute("aria-label", what);
  try {
    await navigator.clipboard.writeText(text());
    say(`${what} is copied.`);
  } catch {
    $("copied").select();
    say(`${what} stands below, to be copied.`);
  }
}

/** The state that the address gives. */
function restore() {
  const { state: found, refused } = fromFragment(location.hash.slice(1));
  state = found;
  passed = null;
  kept = false;
  show();
  say(refused.length ? `Of the link this was not understood: ${refused.join(", ")}.` : "");
}

connect();
restore();
// For teachers' scripts and for tests: the state that is shown, and everything computed from it.
window.convbias = { set, get: () => structuredClone(state), numbers: () => numbers(state), outputs: (way) => outputs(way, numbers(state)), program: () => program(numbers(state)), fragment: () => toFragment(state) };
