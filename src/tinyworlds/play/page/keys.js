/** Which key means which action, and what is held. */

const SYMBOLS = {
  ArrowUp: "↑",
  ArrowDown: "↓",
  ArrowLeft: "←",
  ArrowRight: "→",
  Space: "Space",
  Period: ".",
  Comma: ",",
};

/** Keys of the page itself; an action can't have them. */
export const RESERVED = ["KeyP", "Period", "Backspace", "KeyR", "KeyV", "KeyI", "Tab", "Escape", "Enter"];

/** What is printed on a key, from its place (`KeyboardEvent.code`). */
export function keyLabel(code) {
  return SYMBOLS[code] ?? code.replace(/^(Key|Digit)/, "").replace(/^Numpad/, "Num ");
}

/** The keys of a world's actions, remembered by the browser for that world. */
export class KeyMap {
  #storage;
  #defaults;
  #changed;

  /** `actions` have the `keys` that they are on unless the player chose others. */
  constructor(world, actions) {
    this.#storage = `tinyworlds keys ${world}`;
    this.#defaults = actions.map(({ keys }) => keys);
    this.#changed = this.#remembered(actions.length);
  }

  /** Codes of the keys of each action. */
  get keys() {
    return this.#changed ?? this.#defaults;
  }

  /** The action of a key, or undefined; digits have two keys each. */
  action(key) {
    const same = key.replace(/^Numpad(\d)$/, "Digit$1");
    const action = this.keys.findIndex((keys) => keys.includes(key) || keys.includes(same));
    return action < 0 ? undefined : action;
  }

  /** Give an action one key alone; it is taken from whatever had it. */
  change(action, key) {
    this.#changed = this.keys.map((keys, code) => (code === action ? [key] : keys.filter((other) => other !== key)));
    localStorage.setItem(this.#storage, JSON.stringify(this.#changed));
  }

  forget() {
    this.#changed = null;
    localStorage.removeItem(this.#storage);
  }

  #remembered(count) {
    try {
      const keys = JSON.parse(localStorage.getItem(this.#storage));
      const fits = Array.isArray(keys) && keys.length === count && keys.every(Array.isArray);
      return fits ? keys : null;
    } catch {
      return null; // written by something else
    }
  }
}

/** What is held down, by keys and fingers; the action of the latest counts. */
export class Held {
  #sources = new Map();
  #changed;

  /** `changed(action)` is called with an action, or null when nothing is held any more. */
  constructor(changed) {
    this.#changed = changed;
  }

  get action() {
    return [...this.#sources.values()].at(-1) ?? null;
  }

  press(source, action) {
    if (this.#sources.has(source)) return;
    this.#update(() => this.#sources.set(source, action));
  }

  release(source) {
    this.#update(() => this.#sources.delete(source));
  }

  releaseAll() {
    this.#update(() => this.#sources.clear());
  }

  #update(change) {
    const before = this.action;
    change();
    if (this.action !== before) this.#changed(this.action);
  }
}
