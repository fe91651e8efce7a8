// Numbers and formulas as text, and the Python for what is on the screen.
import { channelsOf, parameters, range, size } from "./arithmetic.js";
import { DECIMAL, LARGEST, SIZE } from "./state.js";

/** A way's name, its formula and what it means. */
export const ABOUT = {
  none: { title: "none", formula: "Σ k·x", says: "Nothing is added: zeros in, zeros out, so z goes through the origin." },
  tied: { title: "once", formula: "Σ k·x + b", says: "One number per filter, after the sum: what every framework has." },
  tap: { title: "each entry", formula: "Σ (k·x + b)", says: "Added to each entry of the window, then summed: b times the number of entries inside. What lies in the padding adds nothing, so it bends at the border." },
  input: { title: "input entries", formula: "Σ k·(x + b)", says: "Added to each input entry: the filter scales it. A filter of zeros hides it, and one that adds up to 0, such as edges, shows it at the border alone." },
  "c h": { title: "rows", formula: "Σ k·x + b[row]", says: "One number per filter and row: here the mean of each row of “per place”." },
  "c w": { title: "columns", formula: "Σ k·x + b[column]", says: "One number per filter and column: here the mean of each column of “per place”." },
  "rank:1": { title: "low rank", formula: "Σ k·x + b + u·v[place]", says: "One map v that the filters share, each by its own amount u: here the nearest to “per place”." },
  "grid:3": { title: "grid", formula: "Σ k·x + b(place)", says: "3 × 3 control points per filter, and lines between them: here the nearest to “per place”, by least squares." },
  untied: { title: "per place", formula: "Σ k·x + b[place]", says: "One number per filter and place: untied. Here b and a map, and each can be written." },
};

/** A way's formula where each place of a window has so many channels. */
export const formulaOf = (way, { channels, groups }) => (way === "tap" && channels > groups ? "Σ (Σ k·x + b)" : ABOUT[way].formula);

const MINUS = "−";
// What the rounding of sums leaves where they are 0.
const ROUNDING = 1e-12;

/** A number in so many digits, without trailing zeros. */
export function short(value, digits = 3) {
  if (Math.abs(value) < ROUNDING) return "0";
  // Whole digits are never rounded away: one more than there are of them.
  const whole = Math.abs(value) >= 1 ? Math.floor(Math.log10(Math.abs(value))) + 1 : 0;
  return String(Number(value.toPrecision(Math.min(Math.max(digits, whole + 1), 21)))).replaceAll("-", MINUS);
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

// Where the numbers of each way's bias are in the layer.
const OF_BIAS = {
  none: "",
  tied: ", b layer.bias",
  tap: ", b each number of layer.bias",
  input: ", and b is added to x",
  "c h": ", b[row] layer.bias",
  "c w": ", b[column] layer.bias",
  "rank:1": ", b layer.bias, u layer.bias_u, v layer.bias_v",
  "grid:3": ", its points are layer.bias",
  untied: ", b[place] layer.bias",
};

/** What the page's letters are called in Python. */
export function namesLine(state) {
  const [height, width] = size(state);
  // Inputs of several sizes give one output where a stride leaves some over, and a tap field differs with them.
  const seen = ["tap", "input"].includes(state.bias) && state.stride > 1 ? `, input_size=(${SIZE}, ${SIZE})` : "";
  return `k is layer.weight${OF_BIAS[state.bias]}; B is layer.bias_field((${height}, ${width})${seen}).`;
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
export function insight(inside, entries, depth) {
  if (entries === 1) {
    return inside
      ? "Here the window is a single entry: adding b to each entry is adding it once."
      : "Here the window's only entry is padding: “each entry” adds <b>nothing</b>, “once” adds b.";
  }
  // A number for each filter and tap: a place of the window counts once, with all its channels.
  const deep = depth > 1 ? `places, of ${depth} channels each, ` : "entries ";
  if (inside === entries) {
    return `Here all <b>${entries}</b> ${deep}are inside the image: adding b to each ${depth > 1 ? "place" : "entry"} is adding it once, ${entries} times as large.`;
  }
  return (
    `Here only <b>${inside}</b> of ${entries} ${deep}${inside === 1 ? "is" : "are"} inside; the rest is padding, and adds nothing. ` +
    "So “each entry” <b>bends at the border</b>, “once” does not."
  );
}

/** What the page says of one output to those who do not see it. */
export function spoken(shown, [f, y, x], inside, taps, act) {
  return (
    `Filter ${f}, row ${y}, column ${x}. ${inside} of ${taps} entries inside. ` +
    `Sum ${short(shown.sums[f][y][x])}, bias ${short(shown.field[f][y][x])}, ` +
    (act === "none" ? "" : `${act} of ${short(shown.z[f][y][x])} is the `) +
    `output ${short(shown.y[f][y][x])}.`
  );
}
