// What a convolution computes, number by number, under each way of adding a bias. Pure: numbers in, numbers out.
//
//     z[f, o] = Σ_{i,t} W[f, i, t] · gain·x[i, o·s − p + t·d]  +  B[f, o],    y = act(z)
//
// A field is an array of FILTERS filters, each of rows, each of numbers.

export const FILTERS = 2;

// Each way by the library's name of its tying, but for "input", which is no tying: x + b before the filter.
export const WAYS = ["none", "tied", "tap", "input", "c h", "c w", "rank:1", "grid:3", "untied"];
export const GRID = 3;

export const ACTIVATIONS = {
  none: (z) => z,
  relu: (z) => Math.max(z, 0),
  leaky_relu: (z) => (z > 0 ? z : 0.01 * z),
  silu: (z) => z / (1 + Math.exp(-z)),
  sigmoid: (z) => 1 / (1 + Math.exp(-z)),
  tanh: Math.tanh,
};

export const range = (n) => Array.from({ length: n }, (_, i) => i);
export const total = (numbers) => numbers.reduce((a, b) => a + b, 0);
const mean = (numbers) => total(numbers) / numbers.length;

/** How far a window reaches along an axis. */
export const reach = ({ kernel, dilation }) => dilation * (kernel - 1) + 1;

/** How many windows fit along an axis of `size` entries. */
export function outputSize(size, geometry) {
  return Math.floor((size + 2 * geometry.padding - reach(geometry)) / geometry.stride) + 1;
}

/** The entries that an output reads, tap by tap; those in the padding are not `inside`, and are not there. */
export function windowAt(size, geometry, [row, column]) {
  const { kernel, stride, padding, dilation } = geometry;
  return range(kernel * kernel).map((tap) => {
    const [ty, tx] = [Math.floor(tap / kernel), tap % kernel];
    const [y, x] = [row * stride - padding + ty * dilation, column * stride - padding + tx * dilation];
    return { ty, tx, y, x, inside: y >= 0 && y < size && x >= 0 && x < size };
  });
}

/** The input channels that a filter reads. */
export function channelsOf(filter, { channels, groups }) {
  const each = channels / groups;
  const first = Math.floor(filter / (FILTERS / groups)) * each;
  return range(each).map((c) => first + c);
}

/** Each product of one output: the filter's weight, the entry, and where they are. */
export function products(state, [filter, row, column]) {
  const places = windowAt(state.x[0].length, state, [row, column]);
  return channelsOf(filter, state).flatMap((channel, c) =>
    places.map((place) => ({
      ...place,
      channel,
      weight: state.w[filter][c][place.ty][place.tx],
      entry: place.inside ? state.gain * state.x[channel][place.y][place.x] : null,
    })),
  );
}

/** A field made of a function of (filter, row, column). */
const field = ([height, width], at) =>
  range(FILTERS).map((f) => range(height).map((y) => range(width).map((x) => at(f, y, x))));

export const size = (state) => {
  const n = outputSize(state.x[0].length, state);
  return [n, n];
};

/** Σ k·x at one output. */
export const sumAt = (state, at) =>
  total(products(state, at).filter((term) => term.inside).map((term) => term.weight * term.entry));

/** Σ k·x at each output: the bare convolution. */
export const sums = (state) => field(size(state), (...at) => sumAt(state, at));

/** The parameters that a way has, in the shapes of the library's tying; `map` is what "untied" adds to b. */
export function parameters(way, state) {
  const { b, map, kernel } = state;
  const whole = map.map((rows, f) => rows.map((row) => row.map((value) => b[f] + value)));
  switch (way) {
    case "none":
      return {};
    case "tied":
      return { bias: b };
    case "tap":
      return { bias: b.map((value) => range(kernel).map(() => range(kernel).map(() => value))) };
    case "input":
      return { bias: b.slice(0, state.channels) };
    case "c h":
      return { bias: whole.map((rows) => rows.map((row) => [mean(row)])) };
    case "c w":
      return { bias: whole.map((rows) => [rows[0].map((_, x) => mean(rows.map((row) => row[x])))]) };
    case "rank:1":
      return rankOne(whole);
    case "grid:3":
      return { bias: whole.map((rows) => gridPoints(rows)) };
    case "untied":
      return { bias: whole };
  }
  throw new Error(`no such way: ${way}`);
}

/** How many numbers those are. */
export function count(way, state) {
  return Object.values(parameters(way, state)).flat(Infinity).length;
}

/** What a way adds to an output, as a function of (filter, row, column). */
export function biasAt(way, state) {
  const { bias, bias_u: u, bias_v: v } = parameters(way, state);
  switch (way) {
    case "none":
      return () => 0;
    case "tied":
      return (f) => bias[f];
    case "tap":
      return (f, y, x) =>
        total(windowAt(state.x[0].length, state, [y, x]).filter((tap) => tap.inside).map(({ ty, tx }) => bias[f][ty][tx]));
    case "input":
      return (...at) =>
        total(products(state, at).filter((term) => term.inside).map((term) => term.weight * bias[term.channel]));
    case "c h":
      return (f, y) => bias[f][y][0];
    case "c w":
      return (f, y, x) => bias[f][0][x];
    case "rank:1":
      return (f, y, x) => bias[f] + u[f][0] * v[0][y][x];
    case "grid:3": {
      const fields = bias.map((points) => interpolated(points, size(state)));
      return (f, y, x) => fields[f][y][x];
    }
  }
  return (f, y, x) => bias[f][y][x];
}

/** The bias field of a way: what each output gets. */
export const biasField = (way, state) => field(size(state), biasAt(way, state));

/** Everything the page shows of one way: the bare sums, the field, and what comes out. */
export function outputs(way, state, bare = sums(state)) {
  const bias = biasField(way, state);
  const z = bare.map((rows, f) => rows.map((row, y) => row.map((value, x) => value + bias[f][y][x])));
  return { sums: bare, field: bias, z, y: z.map((rows) => rows.map((row) => row.map(ACTIVATIONS[state.act]))) };
}

/** The nearest field of rank 1, each filter's mean apart: with two filters, from a 2×2 eigenvalue problem. */
function rankOne(whole) {
  const bias = whole.map((rows) => mean(rows.flat()));
  const rest = whole.map((rows, f) => rows.flat().map((value) => value - bias[f]));
  const dot = (a, b) => total(a.map((value, i) => value * b[i]));
  const [aa, ab, bb] = [dot(rest[0], rest[0]), dot(rest[0], rest[1]), dot(rest[1], rest[1])];
  const angle = Math.atan2(2 * ab, aa - bb) / 2;
  const u = [Math.cos(angle), Math.sin(angle)];
  const v = rest[0].map((value, i) => u[0] * value + u[1] * rest[1][i]);
  const width = whole[0][0].length;
  return {
    bias,
    bias_u: u.map((value) => [value]),
    bias_v: [range(whole[0].length).map((y) => v.slice(y * width, (y + 1) * width))],
  };
}

/** Linear interpolation with corners aligned, from GRID points to n places, as a matrix. */
export function interpolation(n) {
  const step = (GRID - 1) / Math.max(n - 1, 1);
  return range(n).map((i) => range(GRID).map((g) => Math.max(0, 1 - Math.abs(i * step - g))));
}

const transposed = (a) => a[0].map((_, x) => a.map((row) => row[x]));
const times = (a, b) => a.map((row) => transposed(b).map((column) => total(row.map((value, i) => value * column[i]))));

function interpolated(points, [height, width]) {
  return times(times(interpolation(height), points), transposed(interpolation(width)));
}

/** The control points of the nearest such field: least squares along each axis. */
function gridPoints(rows) {
  return times(times(inverse(rows.length), rows), transposed(inverse(rows[0].length)));
}

/** The pseudo-inverse of the interpolation to n places; its rows are orthonormal where n < GRID. */
function inverse(n) {
  const a = interpolation(n);
  return n < GRID ? transposed(a) : times(inverted(times(transposed(a), a)), transposed(a));
}

/** The inverse of a small positive definite matrix, by elimination. */
function inverted(matrix) {
  const n = matrix.length;
  const rows = matrix.map((row, i) => [...row, ...range(n).map((j) => (i === j ? 1 : 0))]);
  for (let i = 0; i < n; i++) {
    const pivot = rows[i][i];
    rows[i] = rows[i].map((value) => value / pivot);
    for (let j = 0; j < n; j++) {
      if (j !== i) {
        const factor = rows[j][i];
        rows[j] = rows[j].map((value, c) => value - factor * rows[i][c]);
      }
    }
  }
  return rows.map((row) => row.slice(n));
}
