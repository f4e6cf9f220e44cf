/** The actions: their buttons, what each does from here, and the table of their keys. */

import { byId, element, say } from "./elements.js";
import { KeyMap, RESERVED, keyLabel } from "./keys.js";

const PREVIEW_TIME = 220; // ms for each frame of what an action does
const still = matchMedia("(prefers-reduced-motion: reduce)");

/** What an action is called: its name where the evaluation knows one, and its code where that says too little. */
export function actionLabel(actions, code) {
  const { name } = actions[code];
  if (!name) return `action ${code}`;
  const alone = actions.every((other) => other.code === code || other.name !== name);
  return name.replaceAll("_", " ") + (alone ? "" : ` (${code})`);
}

export class Actions {
  #buttons = byId("actions");
  #table = byId("keys");
  #held;
  #actions = [];
  #map = null;
  #film = null; // of the previews
  #learning = null; // the action that waits for a key

  constructor(held) {
    this.#held = held;
    byId("keys-default").addEventListener("click", () => {
      this.#map?.forget();
      this.#show();
    });
  }

  /** Make buttons for the actions of a world. */
  set world({ world, actions, idle }) {
    this.#held.releaseAll();
    this.#actions = actions;
    this.#map = new KeyMap(world, actions);
    this.#show();
    byId("idle-text").textContent = idle === null ? "" : `Nothing held: ${actionLabel(actions, idle)}`;
  }

  /** Show which action is held. */
  mark(action) {
    for (const button of this.#buttons.children) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.action) === action));
    }
  }

  /** A key went down; true where it was an action's. */
  keyDown(event) {
    if (this.#learning !== null) return this.#learn(event.code);
    const action = this.#map?.action(event.code);
    if (action === undefined) return false;
    if (!event.repeat) this.#held.press(event.code, action);
    return true;
  }

  /** Show what each action does: `bitmap` has a column for each action, a row for each frame that it is held. */
  showPreviews(bitmap, [height, width]) {
    this.hidePreviews();
    const rows = bitmap.height / height;
    let row = still.matches ? rows - 1 : 0;
    const draw = () => {
      for (const button of this.#buttons.children) {
        const canvas = button.querySelector("canvas");
        Object.assign(canvas, { width, height, hidden: false });
        canvas.getContext("2d").drawImage(bitmap, -width * Number(button.dataset.action), -height * row);
      }
      row = (row + 1) % rows;
    };
    draw();
    if (rows > 1 && !still.matches) this.#film = setInterval(draw, PREVIEW_TIME);
  }

  hidePreviews() {
    clearInterval(this.#film);
    for (const canvas of this.#buttons.querySelectorAll("canvas")) canvas.hidden = true;
  }

  #show() {
    this.#buttons.replaceChildren(...this.#actions.map(({ code }) => this.#button(code)));
    this.#table.replaceChildren(...this.#actions.map(({ code }) => this.#row(code)));
    this.mark(this.#held.action);
  }

  #button(code) {
    const button = element("button", { type: "button", className: "action" });
    button.dataset.action = code;
    button.append(
      element("canvas", { hidden: true }),
      element("span", { className: "action-name" }, actionLabel(this.#actions, code)),
      element("span", { className: "action-keys" }, ...this.#keyLabels(code)),
    );
    const source = `button ${code}`;
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      button.setPointerCapture(event.pointerId);
      this.#held.press(source + event.pointerId, code);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(end, (event) => this.#held.release(source + event.pointerId));
    }
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    button.addEventListener("keydown", (event) => {
      if ([" ", "Enter"].includes(event.key) && !event.repeat) this.#held.press(source, code);
    });
    for (const end of ["keyup", "blur"]) button.addEventListener(end, () => this.#held.release(source));
    return button;
  }

  #row(code) {
    const keys = element("td", {}, ...this.#keyLabels(code));
    const name = actionLabel(this.#actions, code);
    const change = element("button", { type: "button", className: "quiet", textContent: "Change" });
    change.setAttribute("aria-label", `Change the key of ${name}`);
    change.addEventListener("click", () => {
      this.#learning = code;
      keys.textContent = "press a key …";
      change.addEventListener("blur", () => this.#learn(null), { once: true });
    });
    return element("tr", {}, element("th", { scope: "row" }, name), keys, element("td", {}, change));
  }

  #keyLabels(code) {
    const keys = this.#map.keys[code];
    return keys.length ? keys.map((key) => element("kbd", {}, keyLabel(key))) : ["–"];
  }

  #learn(key) {
    const action = this.#learning;
    this.#learning = null;
    if (action === null) return false;
    if (RESERVED.includes(key)) say(`${keyLabel(key)} is a key of the page: choose another.`, { bad: true });
    else if (key) this.#map.change(action, key);
    this.#show();
    this.#table.children[action].querySelector("button").focus();
    return true;
  }
}
