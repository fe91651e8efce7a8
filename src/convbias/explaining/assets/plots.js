// Three pictures: a field as a map, an output against the input's amplitude, and the bias along a row.
import { colour } from "./colours.js";
import { short } from "./words.js";

const line = (points, name) =>
  `<polyline class="${name}" points="${points.map(([x, y]) => `${x.toFixed(2)},${y.toFixed(2)}`).join(" ")}"/>`;

/** A field as a picture, a pixel for each output. */
export function drawMap(canvas, rows, limit) {
  canvas.width = rows[0].length;
  canvas.height = rows.length;
  const image = new ImageData(canvas.width, canvas.height);
  rows.flat().forEach((value, i) => image.data.set([...colour(value, limit), 255], 4 * i));
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// A little more than the slider's, so that the knob is seen whole at its ends.
export const AMPLITUDE = 2.2;

/** Where an amplitude and a value lie on a plot of that width, height and scale. */
export function axes(width, height, scale) {
  return {
    x: (amplitude) => (width * (amplitude + AMPLITUDE)) / (2 * AMPLITUDE),
    y: (value) => (height * (scale - value)) / (2 * scale),
    amplitude: (x) => (2 * AMPLITUDE * x) / width - AMPLITUDE,
    value: (y) => scale - (2 * scale * y) / height,
  };
}

/** f against the input's amplitude: z = amplitude·slope + intercept, thin, and act(z), thick. */
export function amplitudePlot(svg, { slope, intercept, act, gain, scale, handles }) {
  const { width, height } = svg.viewBox.baseVal;
  const { x, y } = axes(width, height, scale);
  const steps = Array.from({ length: 81 }, (_, i) => -AMPLITUDE + (2 * AMPLITUDE * i) / 80);
  const z = (a) => a * slope + intercept;
  // The label is on the side where the knob is not, and where the line leaves room for it.
  const left = gain >= 0;
  const above = left ? slope >= 0 : slope <= 0;
  const heightOfLabel = Math.max(12, Math.min(y(intercept) + (above ? -8 : 18), height - 4));
  let drawn =
    `<path class="axis" d="M0 ${y(0)}H${width}M${x(0)} 0V${height}"/>` +
    line([[x(-AMPLITUDE), y(z(-AMPLITUDE))], [x(AMPLITUDE), y(z(AMPLITUDE))]], "linear") +
    line(steps.map((a) => [x(a), y(act(z(a)))]), "active");
  if (handles) {
    const knobs = [
      `<circle class="amplitude" cx="${x(gain)}" cy="${y(act(z(gain)))}" r="7"/>`,
      `<circle class="intercept" cx="${x(0)}" cy="${y(intercept)}" r="${handles.intercept ? 7 : 4}"/>`,
    ];
    drawn +=
      // Where both are at one place the amplitude has its slider, and the intercept can be taken.
      knobs.join("") +
      `<text x="${x(0) + (left ? -10 : 10)}" y="${heightOfLabel}" text-anchor="${left ? "end" : "start"}">B = ${short(intercept)}</text>`;
  }
  svg.innerHTML = drawn;
}

/** Heights moved until no two are nearer than `least`, in their order, and none is below `most`. */
function apart(heights, least, most) {
  const order = heights.map((_, i) => i).sort((a, b) => heights[a] - heights[b]);
  const moved = [...heights];
  order.forEach((i, rank) => rank && (moved[i] = Math.max(moved[i], moved[order[rank - 1]] + least)));
  const over = Math.max(0, ...moved.map((height) => height - most));
  return moved.map((height) => height - over);
}

/** The bias along a row of outputs, one line of dots for each way. */
export function profilePlot(svg, series, chosen) {
  const { width, height } = svg.viewBox.baseVal;
  const values = series.flatMap(({ row }) => row);
  const [low, high] = [Math.min(0, ...values), Math.max(0, ...values)];
  const [top, left, right, bottom] = [14, 10, 96, 16];
  const span = high - low || 1;
  const count = series[0].row.length;
  const x = (i) => left + ((width - left - right) * (i + 0.5)) / count;
  const y = (value) => top + ((height - top - bottom) * (high - value)) / span;
  const step = (width - left - right) / count / 2;
  const heights = apart(series.map(({ row }) => y(row[count - 1]) + 4), 14, height - 4);
  const parts = series.map(({ name, row }, number) => {
    const dots = row.map((value, i) => `<circle cx="${x(i).toFixed(2)}" cy="${y(value).toFixed(2)}" r="${i === chosen ? 5 : 3}"/>`);
    const stairs = line(row.flatMap((value, i) => [[x(i) - step, y(value)], [x(i) + step, y(value)]]), "stairs");
    return `<g class="series s${number}">${stairs}${dots.join("")}<text x="${width - right + 6}" y="${heights[number]}">${name}</text></g>`;
  });
  svg.innerHTML =
    `<rect class="here" x="${x(chosen) - step}" y="0" width="${2 * step}" height="${height}"/>` +
    `<path class="axis" d="M0 ${y(0)}H${width - right}"/><text class="zero" x="0" y="${y(0) - 3}">0</text>` +
    parts.join("");
}
