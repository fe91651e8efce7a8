// What is on the screen, as one value, and the same as the part of the address after #.
import { ACTIVATIONS, FILTERS, WAYS, channelsOf, outputSize, range, reach } from "./arithmetic.js";

export const SIZE = 8;
export const OWN = "own";
export const CHOICES = {
  channels: [1, 2],
  groups: [1, 2],
  kernel: [1, 2, 3, 5],
  stride: [1, 2, 3],
  padding: [0, 1, 2, 3],
  dilation: [1, 2, 3],
  act: Object.keys(ACTIVATIONS),
  bias: WAYS,
};
export const LIMITS = { b: 2, gain: 2 };
export const LARGEST = 1e6;
// How a number is written: in decimal, as toFragment does.
export const DECIMAL = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i;

// x and y run from −1 to 1 over the image.
const PATTERNS = {
  zeros: () => 0,
  ones: () => 1,
  "one dot": (x, y, column, row) => (row === 2 && column === 2 ? 1 : 0),
  checker: (x, y, column, row) => (row + column) % 2,
  stripes: (x, y, column) => column % 2,
  ramp: (x) => (x + 1) / 2,
};
const FILTER_PRESETS = {
  edges: [(x, y) => x * (2 - Math.abs(y)), (x, y) => y * (2 - Math.abs(x))],
  blur: [(x, y, n) => 1 / (n * n), (x, y, n) => (x || y ? 0 : 1) + 1 / (n * n)],
  ones: [() => 1, () => -1],
  zeros: [() => 0, () => 0],
};
const MAP_PRESETS = {
  corners: [(x, y) => 0.5 - 0.75 * (x * x + y * y), (x, y) => 0.5 * x],
  rows: [(x, y) => y, (x, y) => -0.5 * y * y],
  columns: [(x) => 0.8 * Math.cos(9 * x), (x) => 0.4 * Math.cos(9 * x)],
  island: [(x, y) => 1.2 * Math.exp(-4 * ((x + 0.3) ** 2 + (y - 0.2) ** 2)), (x, y) => -0.6 * Math.exp(-3 * (x * x + y * y))],
  flat: [() => 0, () => 0],
};
export const INPUTS = [...Object.keys(DIGITS), ...Object.keys(PATTERNS)];
export const FILTER_NAMES = Object.keys(FILTER_PRESETS);
export const MAPS = Object.keys(MAP_PRESETS);

export const DEFAULT = {
  channels: 1,
  groups: 1,
  kernel: 3,
  stride: 1,
  padding: 1,
  dilation: 1,
  act: "relu",
  bias: "tied",
  b: [0.5, -0.25],
  gain: 1,
  at: [0, 3, 3],
  input: "digit 3",
  filter: "edges",
  map: "corners",
  own: {},
};

const centred = (i, n) => (n > 1 ? (2 * i) / (n - 1) - 1 : 0);
const square = (n, at) => range(n).map((y) => range(n).map((x) => at(centred(x, n), centred(y, n), x, y)));
const folded = (numbers, [...sizes]) =>
  sizes.reduceRight((all, size) => range(all.length / size).map((i) => all.slice(i * size, (i + 1) * size)), numbers);

/** How many numbers each of the three that can be anybody's own has. */
function sizes(state) {
  const out = outputSize(SIZE, state);
  return {
    input: [state.channels, SIZE, SIZE],
    filter: [FILTERS, state.channels / state.groups, state.kernel, state.kernel],
    map: [FILTERS, out, out],
  };
}

const PRESETS = {
  input: (state) => {
    const first = DIGITS[state.input] ?? square(SIZE, PATTERNS[state.input]);
    return [first, first.map((row) => [...row].reverse())].slice(0, state.channels);
  },
  filter: (state) =>
    FILTER_PRESETS[state.filter].map((at, f) =>
      channelsOf(f, state).map((_, c) =>
        square(state.kernel, (x, y) => (c ? -0.5 : 1) * (state.kernel === 1 && state.filter === "edges" ? 1 : at(x, y, state.kernel)) + 0),
      ),
    ),
  map: (state) => MAP_PRESETS[state.map].map((at) => square(outputSize(SIZE, state), at)),
};

/** Why a state cannot be, or null. */
export function problem(state) {
  const padded = SIZE + 2 * state.padding;
  if (reach(state) > padded) {
    return `a window of ${reach(state)} does not fit in ${padded} (${SIZE} and the padding): choose a smaller kernel or dilation, or more padding`;
  }
  return state.groups > state.channels ? `${state.groups} groups need as many channels` : null;
}

/** The state with the numbers that its names stand for: x, w and map. */
export function numbers(state) {
  const found = Object.fromEntries(
    Object.entries(sizes(state)).map(([name, shape]) => [
      name,
      state[name] === OWN ? folded(state.own[name], shape.slice(1)) : PRESETS[name](state),
    ]),
  );
  return { ...state, x: found.input, w: found.filter, map: found.map };
}

/** Nested numbers in another shape: rows and columns stay in the middle, new ones are 0, a new channel is as the last. */
const fitted = (nested, [old, ...from], [size, ...to]) =>
  range(size).map((i) => {
    const inner = nested?.[to.length < 2 ? i - Math.trunc((size - old) / 2) : Math.min(i, old - 1)];
    return to.length ? fitted(inner, from, to) : inner ?? 0;
  });

/** The state with other choices. Own numbers are fitted to the new sizes; `at` stays inside. */
export function changed(state, change) {
  const next = { ...state, ...change, own: { ...state.own, ...change.own } };
  if (next.channels === 1) next.groups = 1;
  if (problem(next)) return next;
  const old = sizes(state);
  for (const [name, shape] of Object.entries(sizes(next))) {
    const fits = (of) => next[name] === OWN && next.own[name]?.length === of.reduce((a, b) => a * b);
    if (!fits(shape)) {
      if (fits(old[name])) next.own[name] = fitted(folded(next.own[name], old[name].slice(1)), old[name], shape).flat(Infinity);
      else if (next[name] === OWN) next[name] = DEFAULT[name];
    }
    if (next[name] !== OWN) delete next.own[name];
  }
  const last = outputSize(SIZE, next) - 1;
  next.at = next.at.map((value, axis) => Math.max(0, Math.min(value, axis ? last : FILTERS - 1)));
  return next;
}

/** The state as a part of an address. Numbers are written so that they are read back as they were. */
export function toFragment(state) {
  const words = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (name !== "own") words.set(name, value === OWN ? state.own[name].join(" ") : [value].flat().join(" "));
  }
  return words.toString();
}

/** The state that such a part gives, and what of it was not understood. */
export function fromFragment(fragment) {
  let state = DEFAULT;
  const refused = [];
  const words = new URLSearchParams(fragment);
  for (const [name, text] of words) {
    const found = words.getAll(name).length > 1 ? undefined : read(name, text);
    if (found === undefined) refused.push(`${name}=${text.slice(0, 20)}${name in LIMITS ? ` (from −${LIMITS[name]} to ${LIMITS[name]})` : ""}`);
    else state = { ...state, ...found, own: { ...state.own, ...found.own } };
  }
  const wrong = problem(state);
  if (wrong) return { state: DEFAULT, refused: [wrong] };
  let fitting = changed(state, {});
  for (const name of Object.keys(PRESETS)) if (state[name] !== fitting[name]) refused.push(`${name} of another size`);
  if (state.at.join() !== fitting.at.join()) {
    refused.push(`at=${state.at.join(" ")} (filters and places are counted from 0)`);
    fitting = changed(fitting, { at: DEFAULT.at });
  }
  return { state: fitting, refused };
}

function read(name, text) {
  const list = text.split(" ").map((word) => (DECIMAL.test(word) ? Number(word) : NaN));
  // The map of a bias that was written is that number less b.
  const largest = LARGEST + (name === "map" ? LIMITS.b : 0);
  const right = list.every((value) => Math.abs(value) <= largest);
  if (name in CHOICES) {
    const choice = CHOICES[name].find((value) => String(value) === text);
    return choice === undefined ? undefined : { [name]: choice };
  }
  const named = { input: INPUTS, filter: FILTER_NAMES, map: MAPS }[name];
  if (named) {
    if (named.includes(text)) return { [name]: text };
    return right ? { [name]: OWN, own: { [name]: list } } : undefined;
  }
  const lengths = { b: FILTERS, gain: 1, at: 3 };
  if (!(name in lengths) || !right || list.length !== lengths[name]) return undefined;
  // What a slider cannot show is refused, as whatever else no control can.
  if (name in LIMITS && list.some((value) => Math.abs(value) > LIMITS[name])) return undefined;
  if (name === "at" && !list.every((value) => Number.isInteger(value) && value >= 0)) return undefined;
  return { [name]: name === "gain" ? list[0] : list };
}
