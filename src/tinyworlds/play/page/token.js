/** What is to be said of one token of a frame. */

import { levels, sureColor, tokenColor } from "./decoding.js";
import { element } from "./elements.js";

const percent = (probability) => `${(probability * 100).toFixed(probability < 0.1 ? 1 : 0)}%`;

/** Elements that describe the token at a position after a step. */
export function describeToken(decoding, position, step, code) {
  const token = decoding.tokens[position];
  const [row, column] = [Math.floor(position / decoding.columns), position % decoding.columns];
  return [
    element(
      "h4",
      {},
      swatch(token, code),
      `Token ${token}`,
      element("small", {}, `row ${row + 1}, column ${column + 1}`),
    ),
    digits(token, code),
    ...(decoding.steps ? [story(decoding, position, step, code), rivals(decoding, position, code)] : []),
  ];
}

/** The levels that make up the token, which is their number. */
function digits(token, code) {
  const list = element("span", { className: "digits" });
  for (const level of levels(token, code)) {
    const digit = element("i", { title: `level ${level} of 0 to ${code.bins - 1}` });
    digit.style.setProperty("--share", level / (code.bins - 1));
    list.append(digit);
  }
  return element(
    "p",
    {},
    list,
    ` one of ${code.bins ** code.dimensions}: ${code.dimensions} numbers of ${code.bins} levels each`,
  );
}

/** What was guessed here in each step until one guess was kept. */
function story(decoding, position, step, code) {
  const list = element("ol", { className: "story" });
  for (let asked = 1; asked <= decoding.keptAt[position]; asked += 1) {
    const [token, probability] = [decoding.token(position, asked), decoding.probability(position, asked)];
    const kept = asked === decoding.keptAt[position];
    const bar = element("i");
    bar.style.setProperty("--share", probability);
    bar.style.setProperty("--color", sureColor(probability));
    const item = element(
      "li",
      {},
      element("span", { className: "step" }, `step ${asked}`),
      swatch(token, code),
      String(token),
      bar,
      percent(probability),
      kept ? " kept" : "",
    );
    item.classList.toggle("now", asked === step);
    list.append(item);
  }
  return element("div", {}, element("h5", {}, "Guesses here"), list);
}

/** The likeliest tokens in the step that kept one. */
function rivals(decoding, position, code) {
  const list = element("ol", { className: "story" });
  for (const [token, probability] of decoding.rivals[position]) {
    const bar = element("i");
    bar.style.setProperty("--share", probability);
    bar.style.setProperty("--color", sureColor(probability));
    list.append(element("li", {}, swatch(token, code), String(token), bar, percent(probability)));
  }
  return element("div", {}, element("h5", {}, `What it weighed in step ${decoding.keptAt[position]}`), list);
}

function swatch(token, code) {
  const color = element("span", { className: "swatch" });
  color.style.background = tokenColor(token, code);
  return color;
}
