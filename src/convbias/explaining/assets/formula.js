// The formula of one output with its numbers in it, and what its bias is made of.
import { channelsOf, interpolation, parameters, range, size, total } from "./arithmetic.js";
import { element } from "./grids.js";
import { plus, short } from "./words.js";

const signed = (value) => (value < 0 ? `(${short(value)})` : short(value));

/** `y = act( [ Σ k·x ] + B )` at the chosen output. */
export function formula(full, shown, terms) {
  const [f, y, x] = full.at;
  const at = (values) => values[f][y][x];
  // The input's cells show x without its amplitude.
  const times = full.gain === 1 ? "" : `${signed(full.gain)}·`;
  const entry = (term) => {
    const text = times + signed(full.x[term.channel][term.y][term.x]);
    return full.bias === "input" ? `(${text} + ${signed(full.b[term.channel])})` : text;
  };
  const parts = range(full.kernel ** 2).map((tap) => {
    const here = terms.filter(({ ty, tx }) => ty * full.kernel + tx === tap);
    if (!here[0].inside) return element("span", { class: "term absent", role: "img", "aria-label": "padding, not there" });
    const text = here.map((term) => `${signed(term.weight)}·${entry(term)}`).join(" + ");
    return element("span", { class: "term" }, full.bias === "tap" ? `(${text} + ${signed(full.b[f])})` : text);
  });
  const spread = parts.flatMap((part, i) => (i ? [" + ", part] : [part]));
  const after = ["none", "tap", "input"].includes(full.bias) ? "" : plus(at(shown.field));
  // The activation takes the sum and the bias: its parentheses are around both.
  const [open, close] = full.act === "none" ? ["", ""] : [`${full.act}( `, " )"];
  const z = short(at(shown.z), 4);
  return [
    element("b", {}, `y[${f}, ${y}, ${x}] = ${open}`),
    element("span", { class: "sum" }, "[ ", ...spread, " ]"),
    element("span", { class: "bias" }, after),
    element("b", {}, `${close} = ${full.act === "none" ? z : `${full.act}(${z}) = ${short(at(shown.y), 4)}`}`),
  ];
}

/** `B = …` at the chosen output: from the numbers of the way's parameters. */
export function biasFormula(full, shown, terms, inside) {
  const [f, y, x] = full.at;
  const [letters, numbers, from = ""] = composition(full, terms, inside);
  const result = short(shown.field[f][y][x]);
  const steps = [letters, numbers, result].filter((step, i, all) => step && step !== all[i - 1]);
  return `B[${f}, ${y}, ${x}] = ${steps.join(" = ")}${from && `, ${from}`}`;
}

/** A bias in letters, in numbers, and where those come from. */
function composition(full, terms, inside) {
  const [f, y, x] = full.at;
  const { bias, bias_u: u, bias_v: v } = parameters(full.bias, full);
  switch (full.bias) {
    case "none":
      return ["", "", "as there is none"];
    case "tied":
      return ["b", ""];
    case "tap":
      return ["n·b", `${inside}·${signed(bias[f][0][0])}`, "where n entries are inside"];
    case "input": {
      const weights = (channel) => total(terms.filter((term) => term.inside && term.channel === channel).map((term) => term.weight));
      return ["b·Σ k", channelsOf(f, full).map((c) => `${signed(bias[c])}·${signed(weights(c))}`).join(" + "), "summed over the entries inside"];
    }
    case "c h":
      return [`b[row ${y}]`, "", `the mean of row ${y} of “per place”`];
    case "c w":
      return [`b[column ${x}]`, "", `the mean of column ${x} of “per place”`];
    case "rank:1":
      return [`b + u·v[${y}, ${x}]`, `${short(bias[f])} + ${signed(u[f][0])}·${signed(v[0][y][x])}`, "of the nearest such field to “per place”"];
    case "grid:3": {
      const [down, across] = size(full).map(interpolation);
      const shares = bias[f].flatMap((row, i) => row.map((point, j) => ({ share: down[y][i] * across[x][j], point })));
      const near = shares.filter(({ share }) => share > 0);
      return ["Σ share·point", near.map(({ share, point }) => `${short(share)}·${signed(point)}`).join(" + "), "of the nearest such field to “per place”"];
    }
    case "untied":
      return [`b + map[${y}, ${x}]`, short(full.b[f]) + plus(full.map[f][y][x])];
  }
  throw new Error(`no such way: ${full.bias}`);
}
