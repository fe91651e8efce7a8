// The ways of adding a bias, side by side: a card for each.
import { ACTIVATIONS, FILTERS, WAYS, biasAt, count, range, sumAt } from "./arithmetic.js";
import { largest } from "./colours.js";
import { element } from "./grids.js";
import { amplitudePlot, drawMap } from "./plots.js";
import { ABOUT, short } from "./words.js";

const PLOT = "http://www.w3.org/2000/svg";

/** The cards, once; `choose` is called with a way. */
export function makeCards(host, choose) {
  for (const way of WAYS) {
    const radio = element("input", { type: "radio", name: "bias", value: way });
    radio.addEventListener("change", () => choose(way));
    const { title, formula, says } = ABOUT[way];
    const plot = document.createElementNS(PLOT, "svg");
    plot.setAttribute("viewBox", "0 0 120 56");
    plot.setAttribute("aria-hidden", "true");
    const spelling = way === "input" ? "(x + b) first" : way === "none" ? "bias=False" : way === "tied" ? "bias=True" : `bias="${way}"`;
    host.append(
      element(
        "label",
        { class: "way", title: says },
        radio,
        element("strong", {}, title),
        element("code", {}, spelling),
        element("span", { class: "formula" }, formula),
        element("span", { class: "maps" }, ...range(FILTERS).map((f) => element("canvas", { role: "img", "data-filter": f }))),
        element("span", { class: "facts" }),
        plot,
      ),
    );
  }
}

const zeros = (numbers) => numbers.map((n) => (Array.isArray(n) ? zeros(n) : 0));

/** What an output of one way is, before the activation, when the input, or the filter, is all zero. */
function whenZero(way, full, at) {
  return [{ x: zeros(full.x) }, { w: zeros(full.w) }].map((zero) => {
    const state = { ...full, ...zero };
    return sumAt(state, at) + biasAt(way, state)(...at);
  });
}

/** Renew the cards for the numbers on the screen. */
export function showCards(host, full, byWay, { slope, scale }) {
  const [f, y, x] = full.at;
  for (const card of host.querySelectorAll(".way")) {
    const way = card.querySelector("input").value;
    const { field } = byWay[way];
    card.querySelector("input").checked = way === full.bias;
    card.classList.toggle("chosen", way === full.bias);
    const limit = largest(field);
    for (const canvas of card.querySelectorAll("canvas")) {
      const rows = field[Number(canvas.dataset.filter)];
      drawMap(canvas, rows, limit);
      const [low, high] = [Math.min(...rows.flat()), Math.max(...rows.flat())].map((value) => short(value, 2));
      canvas.setAttribute("aria-label", `bias of filter ${canvas.dataset.filter}: ${low === high ? low : `${low} to ${high}`}`);
      canvas.title = canvas.getAttribute("aria-label");
    }
    const [noInput, noFilter] = whenZero(way, full, full.at);
    const numbers = count(way, full);
    const through = (value) => (value === 0 ? '<b class="origin">0</b>' : `<b>${short(value, 2)}</b>`);
    card.querySelector(".facts").innerHTML =
      `<span>${numbers} number${numbers === 1 ? "" : "s"}</span>` +
      `<span>x = 0: ${through(noInput)}</span><span>k = 0: ${through(noFilter)}</span>`;
    amplitudePlot(card.querySelector("svg"), {
      slope,
      intercept: field[f][y][x],
      act: ACTIVATIONS[full.act],
      scale,
    });
  }
}
