// A scale from blue over the page's own ground, which is zero, to red; and what is read on it.
const ENDS = { light: [[33, 102, 172], [255, 255, 255], [178, 24, 43]], dark: [[92, 160, 224], [32, 34, 39], [232, 106, 92]] };
const darkness = matchMedia("(prefers-color-scheme: dark)");

export const whenThemeChanges = (then) => darkness.addEventListener("change", then);

/** The colour of a value whose scale ends at ±limit, as [red, green, blue]. */
export function colour(value, limit) {
  const [low, zero, high] = ENDS[darkness.matches ? "dark" : "light"];
  const share = limit ? Math.max(-1, Math.min(1, value / limit)) : 0;
  const end = share < 0 ? low : high;
  return zero.map((part, i) => Math.round(part + (end[i] - part) * Math.abs(share)));
}

/** The relative luminance of the Web Content Accessibility Guidelines. */
function luminance(rgb) {
  const [r, g, b] = rgb.map((part) => (part /= 255) && (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Colour an element for a value, black or white on it, whichever is read better. */
export function paint(element, value, limit) {
  const ground = colour(value, limit);
  const light = luminance(ground);
  element.style.backgroundColor = `rgb(${ground})`;
  element.style.color = (light + 0.05) / 0.05 > 1.05 / (light + 0.05) ? "#000" : "#fff";
}

/** The largest size in nested lists of numbers. */
export const largest = (numbers) => Math.max(...[numbers].flat(Infinity).map(Math.abs), 0);
