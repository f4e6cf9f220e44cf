/** The world's picture: the newest frame, each pixel a square of whole device pixels. */

const WINDOW = 2000; // ms over which frames are counted

/** Make `canvas` as large as its parent allows, at a whole number of device pixels for each of the world's. */
export function fit(canvas, width, height) {
  const box = canvas.parentElement.getBoundingClientRect();
  const room = Math.min(box.width / width, box.height / height) * devicePixelRatio;
  const scale = Math.max(1, Math.floor(room));
  if (canvas.width !== width * scale || canvas.height !== height * scale) {
    canvas.width = width * scale;
    canvas.height = height * scale;
  }
  canvas.style.width = `${canvas.width / devicePixelRatio}px`;
  canvas.style.height = `${canvas.height / devicePixelRatio}px`;
}

export class Screen {
  #canvas;
  #context;
  #size = [64, 64];
  #waiting = null; // the newest picture that is not drawn yet
  #times = [];
  #paint = null;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    new ResizeObserver(() => this.#refit()).observe(canvas.parentElement);
  }

  /** Height and width of a frame. */
  set size([height, width]) {
    this.#size = [width, height];
    this.#canvas.parentElement.style.aspectRatio = `${width} / ${height}`;
    this.#refit();
  }

  /** Frames drawn a second, lately. */
  get fps() {
    const since = performance.now() - WINDOW;
    this.#times = this.#times.filter((time) => time > since);
    return this.#times.length / (WINDOW / 1000);
  }

  /** Draw a bitmap at the next chance, unless a newer one comes before, and call `drawn`; a hidden page draws nothing. */
  show(bitmap, drawn = () => {}) {
    if (!this.#waiting) requestAnimationFrame(() => this.#draw());
    this.#waiting = { bitmap, drawn };
  }

  /** Draw with `paint(context, width, height)` now and whenever the size changes. */
  paint(paint) {
    this.#paint = paint;
    this.#context.imageSmoothingEnabled = false;
    paint(this.#context, this.#canvas.width, this.#canvas.height);
  }

  #draw() {
    const { bitmap, drawn } = this.#waiting;
    this.#waiting = null;
    this.#times.push(performance.now());
    this.paint((context, width, height) => context.drawImage(bitmap, 0, 0, width, height));
    drawn();
  }

  #refit() {
    fit(this.#canvas, ...this.#size);
    if (this.#paint) this.paint(this.#paint);
  }
}
