/** Where a world begins: scenes it brings along, or a picture or clip of the player's own. */

import { byId, element, say } from "./elements.js";

export class Scenes {
  #list = byId("scenes");
  #drop = byId("drop");
  #input = byId("upload");
  #connection;
  #chosen;

  /** `chosen(scene)` is called with the number of a scene to begin from. */
  constructor(connection, chosen) {
    this.#connection = connection;
    this.#chosen = chosen;
    this.#input.addEventListener("change", () => {
      if (this.#input.files[0]) this.upload(this.#input.files[0]);
      this.#input.value = "";
    });
    this.#acceptDrops();
  }

  /** Show so many scenes of the world, the player's own included. */
  show(count) {
    while (this.#list.children.length > count) this.#list.lastChild.remove();
    while (this.#list.children.length < count) this.#list.append(this.#button(this.#list.children.length));
  }

  /** The true picture of a scene. */
  async picture(scene) {
    const image = this.#list.children[scene].querySelector("img");
    await image.decode();
    return createImageBitmap(image);
  }

  /** Show which scene the world began from. */
  mark(scene) {
    for (const button of this.#list.children) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.scene) === scene));
    }
  }

  /** Send a picture or clip to the server and begin from it. */
  async upload(file) {
    say(`Sending ${file.name} …`, { stays: true });
    try {
      const reply = await fetch(`scene?key=${this.#connection.key}`, { method: "POST", body: file });
      const answer = await reply.json();
      if (!reply.ok) throw new Error(answer.error);
      say(`The world goes on from ${file.name}.`);
      this.#chosen(answer.scene);
    } catch (error) {
      say(`${file.name} was not taken: ${error.message}`, { bad: true });
    }
  }

  #button(scene) {
    const name = `Scene ${scene + 1}`;
    const picture = element("img", { src: `scenes/${scene}.png?key=${this.#connection.key}`, alt: "" });
    const button = element("button", { type: "button", className: "scene", title: name, ariaLabel: name }, picture);
    button.dataset.scene = scene;
    button.addEventListener("click", () => this.#chosen(scene));
    return button;
  }

  #acceptDrops() {
    const body = document.body;
    body.addEventListener("dragover", (event) => {
      event.preventDefault();
      this.#drop.classList.add("over");
    });
    body.addEventListener("dragleave", () => this.#drop.classList.remove("over"));
    body.addEventListener("drop", (event) => {
      event.preventDefault();
      this.#drop.classList.remove("over");
      if (event.dataTransfer.files[0]) this.upload(event.dataTransfer.files[0]);
    });
  }
}
