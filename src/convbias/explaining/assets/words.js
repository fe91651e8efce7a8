// Numbers and formulas as text, and the Python for what is on the screen.
import { channelsOf, parameters, range, size } from "./arithmetic.js";
import { LARGEST, SIZE } from "./state.js";

/** A way's name, its formula and what it means. */
export const ABOUT = {
  none: { title: "none", formula: "Σ k·x", says: "Through the origin." },
  tied: { title: "once", formula: "Σ k·x + b", says: "One number per filter, after the sum: what every framework has." },
  tap: { title: "each entry", formula: "Σ (k·x + b)", says: "Added to each entry, then summed. What lies in the padding adds nothing." },
  input: { title: "input entries", formula: "Σ k·(x + b)", says: "Added to the input: the filter scales it, so a zero filter hides it." },
  "c h": { title: "rows", formula: "Σ k·x + b[row]", says: "One number per filter and row." },
  "c w": { title: "columns", formula: "Σ k·x + b[column]", says: "One number per filter and column." },
  "rank:1": { title: "low rank", formula: "Σ k·x + b + u·v[place]", says: "One map that the filters share, each by its own amount." },
  "grid:3": { title: "grid", formula: "Σ k·x + b(place)", says: "3 × 3 control points per filter, interpolated." },
  untied: { title: "per place", formula: "Σ k·x + b[place]", says: "One number per filter and place: untied." },
};

const MINUS = "−";

/** A number in so many digits, without trailing zeros. */
export function short(value, digits = 3) {
  // Whole digits are never rounded away: one more than there are of them.
  const whole = Math.abs(value) >= 1 ? Math.floor(Math.log10(Math.abs(value))) + 1 : 0;
  const text = String(Number(value.toPrecision(Math.min(Math.max(digits, whole + 1), 21))));
  const small = Math.abs(value) < 10 ** -digits ? "0" : text;
  return small.replace("-", MINUS).replace(/^(−?)0\./, "$10.");
}

/** A number for a cell: two decimals at most, fewer where it is large, no zero before the point. */
export function cell(value) {
  const size = Math.abs(value);
  const unit = size >= 100 ? 1 : size >= 10 ? 10 : 100;
  // Halves go outwards on both sides of 0, as toPrecision takes them.
  const rounded = Math.sign(value) * (Math.round(size * unit) / unit);
  const text = size >= 1e5 ? value.toExponential(1).replace("e+", "e") : String(rounded === 0 ? 0 : rounded);
  return text.replace("-", MINUS).replace(/^(−?)0\./, "$1.");
}

/** How wide a number's text is, in digits. */
export const breadth = (text) => text.length + (text.includes(MINUS) ? 0.3 : 0) - (text.includes(".") ? 0.5 : 0);

const DECIMAL = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i;
const THOUSANDS = /^[-+]?[1-9]\d{0,2},\d{3}$/;
const UNFINISHED = /^[-+]?[.,]?$|^[-+]?[\d.,]+e[-+]?$/i;

/** The number that is written, or why there is none; no reason is given for one that is still being written. */
export function readNumber(text) {
  const plain = text.replace(MINUS, "-").trim();
  const decimal = plain.replace(",", ".");
  if (UNFINISHED.test(plain)) return { refused: "" };
  if (THOUSANDS.test(plain)) return { refused: `“${text}” can be ${decimal} or ${plain.replace(",", "")}: write one of them` };
  if (!DECIMAL.test(decimal)) return { refused: `“${text}” is not a number, such as 0.5 or −2` };
  const value = Number(decimal);
  return Math.abs(value) > LARGEST ? { refused: `“${text}” is too large: numbers go up to ${LARGEST}` } : { value };
}

const sign = (value) => (value < 0 ? ` ${MINUS} ` : " + ");
export const plus = (value) => sign(value) + short(Math.abs(value));

/** The layer for what is on the screen, as a line of Python. */
export function layerLine(state) {
  const way = state.bias === "input" ? "tap" : state.bias;
  const words = [state.channels, 2, state.kernel];
  for (const name of ["stride", "padding", "dilation", "groups"]) {
    const usual = name === "padding" ? 0 : 1;
    if (state[name] !== usual) words.push(`${name}=${state[name]}`);
  }
  if (way === "none") words.push("bias=False");
  else if (way !== "tied") words.push(`bias="${way}"`);
  if (bound(way)) words.push(`output_size=(${size(state).join(", ")})`);
  if (state.act !== "none") words.push(`activation="${state.act}"`);
  return `convbias.Conv2d(${words.join(", ")})`;
}

/** What the page's letters are called in Python. */
export function namesLine(state) {
  const [height, width] = size(state);
  const b = { none: "", input: "; b is added to x" }[state.bias] ?? ", b layer.bias";
  return `k is layer.weight${b}; B is layer.bias_field((${height}, ${width})).`;
}

/** Whether a layer must know the size of its output. */
const bound = (way) => ["c h", "c w", "rank:1", "untied"].includes(way);

const tensor = (numbers) => `torch.tensor(${JSON.stringify(numbers)}, dtype=torch.float64)`;

/** A program that computes what is on the screen. */
export function program(state) {
  const given = parameters(state.bias, state);
  const lines = ["import torch", "import convbias", ""];
  lines.push(`# ${ABOUT[state.bias].title}: ${layerLine(state)}`);
  lines.push(`x = ${state.gain} * ${tensor([state.x])}  # (1, ${state.channels}, ${SIZE}, ${SIZE})`);
  lines.push(`w = ${tensor(state.w)}  # (filters, channels in a group, k, k)`);
  if (state.bias === "none") {
    lines.push("bias = None");
  } else if (state.bias === "input") {
    lines.push(`b = ${tensor(range(2).map((f) => channelsOf(f, state).map((c) => given.bias[c])))}  # of the channels that each filter reads`);
    lines.push('bias = ("tap", [(w * b[:, :, None, None]).sum(1)])');
  } else {
    lines.push(`bias = ("${state.bias}", [${Object.values(given).map(tensor).join(", ")}])`);
  }
  const words = ["stride", "padding", "dilation", "groups"].map((name) => `${name}=${state[name]}`);
  if (state.act !== "none") words.push(`activation="${state.act}"`);
  lines.push(`y = convbias.functional.conv2d(x, w, bias, ${words.join(", ")})`, "print(y)", "");
  return lines.join("\n");
}

/** What the chosen output teaches, where so many of the window's entries are inside. */
export function insight(inside, entries) {
  if (entries === 1) {
    return inside
      ? "Here the window is a single entry: adding b to each entry is adding it once."
      : "Here the window's only entry is padding: “each entry” adds <b>nothing</b>, “once” adds b.";
  }
  if (inside === entries) {
    return `Here all <b>${entries}</b> entries are inside the image: adding b to each entry is adding it once, ${entries} times as large.`;
  }
  return (
    `Here only <b>${inside}</b> of ${entries} entries ${inside === 1 ? "is" : "are"} inside; the rest is padding, and adds nothing. ` +
    "So “each entry” <b>bends at the border</b>, “once” does not."
  );
}

/** What the page says of one output to those who do not see it. */
export function spoken(shown, [f, y, x], inside, taps) {
  return (
    `Filter ${f}, row ${y}, column ${x}. ${inside} of ${taps} entries inside. ` +
    `Sum ${short(shown.sums[f][y][x])}, bias ${short(shown.field[f][y][x])}, ` +
    `output ${short(shown.y[f][y][x])}.`
  );
}
