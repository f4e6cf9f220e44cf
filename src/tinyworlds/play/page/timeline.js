/** The last seconds: pictures the page has kept, a slider through them, and going back to one of them. */

import { byId } from "./elements.js";

export class Timeline {
  #slider = byId("timeline");
  #text = byId("timeline-text");
  #pictures = []; // [{bitmap, action}], oldest first
  #most = 0; // frames that the server remembers, at most
  #reach = 0; // frames that it can go back now

  /** Whether the slider is being moved. */
  moving = false;

  /** `look(bitmap)` shows an earlier picture while the slider is moved; `rewind(frames)` goes back to it. */
  constructor({ look, rewind }) {
    this.#slider.addEventListener("input", () => {
      this.moving = true;
      this.#describe();
      const picture = this.#pictures.at(-1 - this.back);
      if (picture) look(picture.bitmap);
    });
    this.#slider.addEventListener("change", () => {
      this.moving = false;
      if (this.back) rewind(this.back);
    });
  }

  /** How many frames back the slider stands. */
  get back() {
    return Number(this.#slider.max) - Number(this.#slider.value);
  }

  /** Keep a new picture, {bitmap, action}, `again` in place of the last one; the slider goes to now. */
  add(picture, { again }) {
    if (again) this.#pictures.splice(this.#reach);
    else this.#reach = Math.min(this.#reach + 1, this.#most); // until the server says so itself
    this.#pictures.push(picture);
    if (this.#pictures.length > this.#most + 1) this.#pictures.shift().bitmap.close();
    this.#update();
  }

  /** So many frames the server can go back. */
  set reach(frames) {
    this.#reach = frames;
    this.#update();
  }

  /** The last pictures, newest last. */
  last(count) {
    return this.#pictures.slice(-count);
  }

  /** Begin a world of which the server remembers so many frames. */
  begin(remembered) {
    this.#pictures = [];
    this.#most = remembered;
    this.reach = 0;
  }

  #update() {
    const most = Math.max(0, Math.min(this.#reach, this.#pictures.length - 1));
    if (Number(this.#slider.max) === most && this.back === 0) return; // nothing to lay out anew
    this.#slider.max = most;
    if (!this.moving) this.#slider.value = most;
    this.#slider.disabled = most === 0;
    this.#describe();
  }

  #describe() {
    const text = this.back ? `−${this.back}` : "now";
    this.#text.textContent = text;
    this.#slider.setAttribute("aria-valuetext", this.back ? `${this.back} frames back` : "now");
  }
}
