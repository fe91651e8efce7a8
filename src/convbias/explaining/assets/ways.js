// The ways of adding a bias, side by side: a card for each.
import { ACTIVATIONS, FILTERS, WAYS, biasField, count, range } from "./arithmetic.js";
import { largest } from "./colours.js";
import { element } from "./grids.js";
import { amplitudePlot, drawMap } from "./plots.js";
import { ABOUT, cell, formulaOf } from "./words.js";

const PLOT = "http://www.w3.org/2000/svg";

/** The cards, once; `choose` is called with a way. */
export function makeCards(host, choose) {
  for (const way of WAYS) {
    const { title } = ABOUT[way];
    const described = `facts-${WAYS.indexOf(way)}`;
    const radio = element("input", { type: "radio", name: "bias", value: way, "aria-label": title, "aria-describedby": `way-says ${described}` });
    radio.addEventListener("change", () => choose(way));
    const plot = document.createElementNS(PLOT, "svg");
    plot.setAttribute("viewBox", "0 0 120 56");
    plot.setAttribute("aria-hidden", "true");
    const spelling = way === "input" ? "(x + b) first" : way === "none" ? "bias=False" : way === "tied" ? "bias=True" : `bias="${way}"`;
    host.append(
      element(
        "label",
        { class: "way" },
        radio,
        element("strong", {}, title),
        element("code", {}, spelling),
        element("span", { class: "formula" }),
        element("span", { class: "maps" }, ...range(FILTERS).map((f) => element("canvas", { role: "img", "data-filter": f }))),
        element("span", { class: "facts", id: described }),
        plot,
      ),
    );
  }
}

const zeros = (numbers) => numbers.map((n) => (Array.isArray(n) ? zeros(n) : 0));

/** What one filter's z is, everywhere, when the input, or the filter, is all zero: the bias field is left. */
function whenZero(way, full, field) {
  // A bias on the input is the only one that the filter scales.
  const hidden = way === "input" ? biasField(way, { ...full, w: zeros(full.w) }) : field;
  return [field, hidden].map((left) => left[full.at[0]].flat());
}

/** Numbers as the range that they fill. */
function span(numbers) {
  const [low, high] = [Math.min(...numbers), Math.max(...numbers)].map((value) => cell(value));
  return low === high ? low : `${low} to ${high}`;
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
      canvas.setAttribute("aria-label", `bias of filter ${canvas.dataset.filter}: ${span(rows.flat())}`);
    }
    const [noInput, noFilter] = whenZero(way, full, field);
    const numbers = count(way, full);
    const origin = noInput.every((value) => value === 0);
    card.querySelector(".formula").textContent = formulaOf(way, full);
    card.querySelector(".facts").innerHTML =
      `<span>${numbers} number${numbers === 1 ? "" : "s"}</span>` +
      `<span>x = 0: <b>${span(noInput)}</b></span><span>k = 0: <b>${span(noFilter)}</b></span>` +
      `<span class="origin">${origin ? "through" : "off"} the origin</span>`;
    amplitudePlot(card.querySelector("svg"), {
      slope,
      intercept: field[f][y][x],
      act: ACTIVATIONS[full.act],
      scale,
    });
  }
}
