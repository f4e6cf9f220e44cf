/** What a player can set: seed, temperature, decoding steps, frames ahead, frames a second. */

import { byId, element } from "./elements.js";

const FIELDS = {
  fps: { label: "Frames a second, at most", step: 1 },
  temperature: {
    label: "Temperature",
    step: 0.05,
    hint: "0: always the likeliest token; higher: more is left to chance",
  },
  steps: { label: "Decoding steps", step: 1, hint: "Fewer are faster; more than 16 change little" },
  horizon: { label: "Frames ahead", step: 1, hint: "Imagined at once, before the next key counts" },
  seed: { label: "Seed", step: 1, number: true, hint: "Of what is left to chance; another one begins again" },
};

export class Settings {
  #form = byId("settings");
  #inputs = {};

  #own = {};

  /** `changed({name: value})` is called when the player has set something. */
  constructor(changed) {
    byId("own").addEventListener("click", () => changed(this.#own));
    this.#form.addEventListener("submit", (event) => event.preventDefault());
    for (const [name, field] of Object.entries(FIELDS)) this.#form.append(this.#field(name, field, changed));
  }

  get values() {
    return Object.fromEntries(Object.entries(this.#inputs).map(([name, { input }]) => [name, Number(input.value)]));
  }

  /** Show the server's values; `limits` are {name: [least, most]}, `own` what the world was trained with. */
  show(values, { limits = {}, own = this.#own } = {}) {
    this.#own = own;
    for (const [name, { input, output }] of Object.entries(this.#inputs)) {
      if (limits[name]) [input.min, input.max] = limits[name];
      if (values[name] === undefined || input === document.activeElement) continue;
      input.value = values[name];
      output.textContent = input.value;
    }
  }

  #field(name, { label, step, number = false, hint = "" }, changed) {
    const input = element("input", { id: `set-${name}`, name, type: number ? "number" : "range", step });
    const output = element("output", { htmlFor: input.id, hidden: number });
    const note = element("small", { id: `about-${name}`, textContent: hint });
    input.setAttribute("aria-describedby", note.id);
    input.addEventListener("input", () => (output.textContent = input.value));
    input.addEventListener("change", () =>
      input.checkValidity() ? changed({ [name]: Number(input.value) }) : input.reportValidity(),
    );
    this.#inputs[name] = { input, output };
    return element("div", { className: "field" }, element("label", { htmlFor: input.id }, label), output, input, note);
  }
}
