/** The world's picture: the newest frame, each pixel a square of whole device pixels. */

const WINDOW = 2000; // ms over which frames are counted

/** Make `column` and its `canvas` as wide as there is room, with whole device pixels for each of the world's. */
function fit(canvas, column, width, height) {
  column.style.maxWidth = "";
  const scale = Math.max(1, Math.floor((column.clientWidth * devicePixelRatio) / width));
  column.style.maxWidth = canvas.style.width = `${(width * scale) / devicePixelRatio}px`;
  if (canvas.width === width * scale && canvas.height === height * scale) return;
  canvas.width = width * scale;
  canvas.height = height * scale;
}

export class Screen {
  #canvas;
  #context;
  #column;
  #size = [64, 64];
  #waiting = null; // the newest picture that is not drawn yet
  #times = [];
  #paint = null;

  constructor(canvas, column) {
    this.#canvas = canvas;
    this.#column = column;
    this.#context = canvas.getContext("2d", { alpha: false });
    new ResizeObserver(() => requestAnimationFrame(() => this.#refit())).observe(column.parentElement);
  }

  /** Height and width of a frame. */
  set size([height, width]) {
    this.#size = [width, height];
    this.#refit();
  }

  /** Frames drawn a second, lately. */
  get fps() {
    const since = performance.now() - WINDOW;
    this.#times = this.#times.filter((time) => time > since);
    return this.#times.length / (WINDOW / 1000);
  }

  /** Draw a bitmap at the next chance and call `drawn`, unless a newer one comes before. A hidden page draws nothing. */
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
    fit(this.#canvas, this.#column, ...this.#size);
    if (this.#paint) this.paint(this.#paint);
  }
}
