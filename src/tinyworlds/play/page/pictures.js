/** Drawing a decoding: pictures with tokens hidden, maps of tokens and of probabilities. */

import { inkOn, sureColor, tokenColor } from "./decoding.js";

const ACCENT = "#ffb454";
const HIDDEN = ["#23234a", "#2f3063"];
const READABLE = 26; // device pixels a cell needs for a number

/** Draw on a canvas at the size it is shown at: `draw(context, width, height)`. */
export function paint(canvas, aspect, draw) {
  const width = Math.round(canvas.clientWidth * devicePixelRatio);
  if (!width) return;
  const height = Math.round(width / aspect);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, width, height);
  draw(context, width, height);
}

/** Call `visit(position, x, y, w, h)` for each cell of the grid of tokens, in whole pixels. */
function eachCell({ rows, columns, total }, width, height, visit) {
  for (let position = 0; position < total; position += 1) {
    const row = Math.floor(position / columns);
    const column = position % columns;
    const [x, y] = [Math.round((column * width) / columns), Math.round((row * height) / rows)];
    const [right, bottom] = [Math.round(((column + 1) * width) / columns), Math.round(((row + 1) * height) / rows)];
    visit(position, x, y, right - x, bottom - y);
  }
}

/** The picture after a step, what is still hidden covered; unless `clean`, what this very step kept is framed. */
export function drawKept(context, width, height, { decoding, step, picture, clean = false }) {
  context.drawImage(picture.bitmap, ...picture.crop, 0, 0, width, height);
  eachCell(decoding, width, height, (position, x, y, w, h) => {
    if (!decoding.kept(position, step)) drawHidden(context, x, y, w, h);
    else if (decoding.fresh(position, step) && !clean) frameCell(context, x, y, w, h);
  });
}

/** The picture that the tokens and guesses of a step make; guesses are told from what is kept by a dot. */
export function drawGuess(context, width, height, { decoding, step, picture }) {
  if (step === 0) return eachCell(decoding, width, height, (_, ...cell) => drawHidden(context, ...cell));
  context.drawImage(picture.bitmap, ...picture.crop, 0, 0, width, height);
  eachCell(decoding, width, height, (position, x, y, w, h) => {
    if (decoding.kept(position, step)) return;
    context.fillStyle = "#fff";
    context.globalAlpha = 0.55;
    const size = Math.max(1, Math.round(w / 12));
    context.fillRect(x + (w - size) / 2, y + (h - size) / 2, size, size);
    context.globalAlpha = 1;
  });
}

/** How sure the model is of each guess; what earlier steps kept is covered, except at the end, which sums up. */
export function drawSure(context, width, height, { decoding, step }) {
  const end = step === decoding.steps;
  eachCell(decoding, width, height, (position, x, y, w, h) => {
    const locked = decoding.kept(position, step) && !decoding.fresh(position, step) && !end;
    if (step === 0) return drawHidden(context, x, y, w, h);
    const probability = decoding.probability(position, step);
    context.fillStyle = sureColor(probability);
    context.globalAlpha = locked ? 0.22 : 1;
    context.fillRect(x, y, w, h);
    context.globalAlpha = 1;
    if (!locked && w >= READABLE) write(context, Math.round(probability * 100), inkOn(probability), x, y, w, h);
    if (decoding.fresh(position, step)) frameCell(context, x, y, w, h);
  });
}

/** The tokens themselves: a colour and, where there is room, a number each. */
export function drawTokens(context, width, height, { decoding, step, code }) {
  eachCell(decoding, width, height, (position, x, y, w, h) => {
    const token = decoding.token(position, step);
    if (token === null) return drawHidden(context, x, y, w, h);
    context.globalAlpha = decoding.kept(position, step) ? 1 : 0.35;
    context.fillStyle = tokenColor(token, code);
    context.fillRect(x, y, w, h);
    context.globalAlpha = 1;
    if (w >= READABLE) write(context, token, "#fff", x, y, w, h, "#0009");
  });
}

/** Point out one position. */
export function drawCursor(context, width, height, { decoding, position }) {
  eachCell(decoding, width, height, (other, x, y, w, h) => {
    if (other !== position) return;
    context.lineWidth = Math.max(2, Math.round(w / 10));
    context.strokeStyle = "#000";
    context.strokeRect(x, y, w, h);
    context.lineWidth /= 2;
    context.strokeStyle = "#fff";
    context.strokeRect(x, y, w, h);
  });
}

export function drawHidden(context, x, y, w, h) {
  const half = [Math.ceil(w / 2), Math.ceil(h / 2)];
  context.fillStyle = HIDDEN[0];
  context.fillRect(x, y, w, h);
  context.fillStyle = HIDDEN[1];
  context.fillRect(x, y, ...half);
  context.fillRect(x + half[0], y + half[1], w - half[0], h - half[1]);
}

function frameCell(context, x, y, w, h) {
  const line = Math.max(1, Math.round(w / 18));
  context.lineWidth = line;
  context.strokeStyle = ACCENT;
  context.strokeRect(x + line / 2, y + line / 2, w - line, h - line);
}

function write(context, text, ink, x, y, w, h, around = null) {
  context.font = `600 ${Math.round(Math.min(w / 2.6, h / 2))}px ui-monospace, monospace`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  if (around) {
    context.lineWidth = 3;
    context.strokeStyle = around;
    context.strokeText(text, x + w / 2, y + h / 2);
  }
  context.fillStyle = ink;
  context.fillText(text, x + w / 2, y + h / 2);
}

/** The difference of two bitmaps of one size, four times as strong, as canvas; and their PSNR in dB. */
export function difference(one, other) {
  const pixels = [one, other].map((bitmap) => {
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, bitmap.width, bitmap.height);
  });
  const [{ data: a }, { data: b }] = pixels;
  let squares = 0;
  for (let i = 0; i < a.length; i += 1) {
    if (i % 4 === 3) continue;
    squares += (a[i] - b[i]) ** 2;
    a[i] = Math.min(255, 4 * Math.abs(a[i] - b[i]));
  }
  const canvas = new OffscreenCanvas(one.width, one.height);
  canvas.getContext("2d").putImageData(pixels[0], 0, 0);
  return { canvas, psnr: 10 * Math.log10(255 ** 2 / (squares / (a.length * 0.75))) };
}
