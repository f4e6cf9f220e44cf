/** Look inside: how the frame on the screen was decoded, its tokens, and what the tokenizer alone would give. */

import { Decoding } from "./decoding.js";
import { byId, element } from "./elements.js";
import { difference, drawCursor, drawGuess, drawHidden, drawKept, drawSure, drawTokens, paint } from "./pictures.js";
import { describeToken } from "./token.js";

const STEP_TIME = 260; // ms a decoding step is shown for
const OF_TRUTH =
  "The world sees and shows nothing but tokens. This is all they leave of the true frame, before anything is imagined.";
const OF_IMAGINED =
  "The imagined frame, encoded and decoded again. What this changes, tokens can't hold. The world itself never does so.";
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Inside {
  #code = { bins: 2, dimensions: 1 };
  #size = [64, 64];
  #context = 1;
  #frame = null; // {decoding, strip, shown, truth, given}
  #step = 0;
  #position = 0;
  #running = null; // of the animation
  #label;

  /** `label(action)` is what an action is called. */
  constructor(label) {
    this.#label = label;
    byId("inside-step").addEventListener("input", (event) => this.#seek(Number(event.target.value)));
    byId("animate").addEventListener("click", () => (this.#running ? this.#stop() : this.animate()));
    for (const canvas of document.querySelectorAll("#inside canvas.tokens")) this.#pointAt(canvas);
    byId("map").addEventListener("keydown", (event) => this.#move(event));
    new ResizeObserver(() => requestAnimationFrame(() => this.#draw())).observe(byId("inside"));
  }

  /** Whether it is shown. */
  get open() {
    return !byId("inside").hidden;
  }

  set open(open) {
    byId("inside").hidden = !open;
    document.body.classList.toggle("looking", open);
    if (!open) this.#stop();
  }

  set world({ size, levels, context }) {
    this.#size = size;
    this.#context = context;
    this.#code = levels;
    this.#frame = null;
    this.#draw();
  }

  /**
   * Show a frame. `facts` and `strip`: what the server says and draws of it; `shown`: its picture; `truth`: the true
   * picture, at the beginning of a scene; `given`: what the model saw, [{bitmap, action}].
   */
  show({ facts, number, strip, shown, truth, given }) {
    this.#stop();
    this.#frame?.strip.close();
    this.#frame = { decoding: new Decoding(facts, number), strip, shown, truth, given };
    this.#film();
    this.#seek(this.#frame.decoding.steps);
  }

  /** Play the decoding from the beginning; `each(paint)` is handed what draws each step; resolves at the end. */
  async animate(each = () => {}) {
    this.#stop();
    if (!this.#frame?.decoding.steps || still.matches) return;
    const run = (this.#running = {});
    byId("animate").classList.add("running");
    for (let step = 0; step <= this.#frame.decoding.steps && run === this.#running; step += 1) {
      this.#seek(step, true);
      each((context, width, height) => drawKept(context, width, height, this.#at(step)));
      await new Promise((resolve) => setTimeout(resolve, step ? STEP_TIME : 2 * STEP_TIME));
    }
    if (run === this.#running) this.#stop();
  }

  #stop() {
    this.#running = null;
    byId("animate").classList.remove("running");
  }

  #seek(step, running = false) {
    if (!running) this.#stop();
    this.#step = step;
    this.#draw();
  }

  /** What is drawn of a step: its picture is a part of the strip. */
  #at(step) {
    const { decoding, strip } = this.#frame;
    const [height, width] = this.#size;
    return {
      decoding,
      step,
      code: this.#code,
      picture: { bitmap: strip, crop: [Math.max(step - 1, 0) * width, 0, width, height] },
    };
  }

  #draw() {
    if (!this.open) return;
    const decoded = Boolean(this.#frame?.decoding.steps);
    byId("inside-empty").hidden = decoded;
    byId("inside-decoding").hidden = !decoded;
    byId("inside-tokens").hidden = !this.#frame;
    byId("given-part").hidden = !decoded || !this.#frame.given.length;
    if (!this.#frame) return;
    if (decoded) this.#drawStep();
    this.#drawTokens();
    this.#drawAlone();
  }

  #paint(id, draw, at) {
    const [height, width] = this.#size;
    paint(byId(id), width / height, (...target) => {
      draw(...target, at);
      drawCursor(...target, { ...at, position: this.#position });
    });
  }

  #drawStep() {
    const at = this.#at(this.#step);
    const { decoding, step } = at;
    this.#paint("kept", drawKept, { ...at, clean: at.step === at.decoding.steps });
    this.#paint("guess", drawGuess, at);
    this.#paint("sure", drawSure, at);
    const kept = decoding.tokens.filter((_, position) => decoding.kept(position, step)).length;
    byId("decoding-title").textContent = `Decoding frame ${decoding.number} in ${decoding.steps} steps`;
    byId("kept-text").textContent = `${kept} of ${decoding.total} tokens.`;
    byId("sure-text").textContent =
      step === decoding.steps
        ? "Of each token, in the step that kept it."
        : step
          ? "What was kept before is pale."
          : "";
    const slider = byId("inside-step");
    slider.max = decoding.steps;
    slider.value = step;
    slider.setAttribute(
      "aria-valuetext",
      `step ${step} of ${decoding.steps}: ${kept} of ${decoding.total} tokens kept`,
    );
    byId("inside-step-text").textContent = `${step} / ${decoding.steps}`;
    [...byId("film").children].forEach((item, index) =>
      item.firstChild.setAttribute("aria-current", String(index + 1 === step)),
    );
  }

  /** A small picture for each step, as in the paper, with how many tokens it keeps and how sure of them it is. */
  #film() {
    const { decoding, given } = this.#frame;
    const film = byId("film");
    while (film.children.length > decoding.steps) film.lastChild.remove();
    while (film.children.length < decoding.steps) film.append(this.#tile(film.children.length + 1));
    const most = Math.max(...Array.from({ length: decoding.steps }, (_, i) => decoding.keptIn(i + 1).length), 1);
    [...film.children].forEach((item, index) => {
      const count = decoding.keptIn(index + 1).length;
      const sure = Math.round(decoding.sureness(index + 1) * 100);
      item.querySelector("small").textContent = `+${count} · ${sure}%`;
      item.querySelector("i").style.setProperty("--share", count / most);
      item.firstChild.setAttribute("aria-label", `Step ${index + 1}: ${count} tokens kept, ${sure}% sure on average`);
    });
    requestAnimationFrame(() => {
      const [height, width] = this.#size;
      film
        .querySelectorAll("canvas")
        .forEach((canvas, index) =>
          paint(canvas, width / height, (...target) => drawKept(...target, this.#at(index + 1))),
        );
      if (decoding.steps) this.#drawGiven(given);
    });
  }

  #tile(step) {
    const button = element(
      "button",
      { type: "button" },
      element("i"),
      element("canvas"),
      element("b", {}, String(step)),
      element("small"),
    );
    button.addEventListener("click", () => this.#seek(step));
    return element("li", {}, button);
  }

  /** The frames that are seen, each with the action that follows it, and the hidden one. */
  #drawGiven(given) {
    const row = byId("given");
    row.replaceChildren();
    const frames = given.length === 1 ? "frame" : `${given.length} frames`;
    byId("given-text").textContent =
      `The tokens of the last ${frames}, the action that follows each, and a frame that is nothing but mask.` +
      (given.length < this.#context - 1 ? " Before these it sees the last ones of the scene." : "");
    const [height, width] = this.#size;
    for (const { bitmap, action } of given) {
      const canvas = element("canvas");
      row.append(canvas, element("span", { className: "chip" }, this.#label(action)));
      paint(canvas, width / height, (context, w, h) => context.drawImage(bitmap, 0, 0, w, h));
    }
    const hidden = element("canvas");
    row.append(hidden);
    paint(hidden, width / height, (...target) => drawGuess(...target, this.#at(0)));
  }

  #drawTokens() {
    const at = this.#at(this.#step);
    const { decoding } = at;
    this.#paint("map", drawTokens, at);
    const different = new Set(decoding.tokens).size;
    byId("map-text").textContent = `${decoding.rows} × ${decoding.columns} tokens, ${different} different ones.`;
    byId("token").replaceChildren(...describeToken(decoding, this.#position, this.#step, this.#code));
  }

  /** The frame beside itself, encoded and decoded; at the beginning of a scene the true picture beside that. */
  #drawAlone() {
    const { decoding, strip, shown, truth } = this.#frame;
    const [height, width] = this.#size;
    const alone = new OffscreenCanvas(width, height);
    alone.getContext("2d").drawImage(strip, -decoding.steps * width, 0);
    const first = truth ?? shown;
    const { canvas, psnr } = difference(first, truth ? shown : alone);
    for (const [id, picture] of [
      ["shown", first],
      ["alone", truth ? shown : alone],
      ["differs", canvas],
    ]) {
      paint(byId(id), width / height, (context, w, h) => context.drawImage(picture, 0, 0, w, h));
    }
    const changed = decoding.tokens.filter((token, position) => token !== decoding.again[position]).length;
    byId("alone-text").textContent = truth ? OF_TRUTH : OF_IMAGINED;
    byId("shown-text").innerHTML = truth ? "<b>The true frame.</b>" : "<b>The frame on the screen.</b>";
    byId("alone-facts").textContent =
      `${Number.isFinite(psnr) ? `${psnr.toFixed(1)} dB` : "Exactly the same"}` +
      (truth ? "." : `; ${changed} of ${decoding.total} tokens differ.`);
  }

  /** Pointing at a canvas chooses the token there. */
  #pointAt(canvas) {
    const choose = (event) => {
      if (!this.#frame) return;
      const { rows, columns } = this.#frame.decoding;
      const box = canvas.getBoundingClientRect();
      const row = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
      const column = Math.min(columns - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * columns)));
      this.#choose(row * columns + column);
    };
    canvas.addEventListener("pointermove", choose);
    canvas.addEventListener("pointerdown", choose);
  }

  #move(event) {
    const { rows, columns, total } = this.#frame.decoding;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (!by || rows * columns !== total) return;
    event.preventDefault();
    const next = this.#position + by;
    if (next >= 0 && next < total) this.#choose(next);
  }

  #choose(position) {
    if (position === this.#position) return;
    this.#position = position;
    this.#draw();
  }
}
