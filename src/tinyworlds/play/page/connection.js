/** The WebSocket to the server: messages both ways, reconnecting, and the pictures that come as bytes. */

const HEADER_BYTES = 16;
const DELAYS = [250, 500, 1000, 2000, 4000]; // ms before each attempt to reconnect; the last one repeats
const FULL_DELAY = 5000;

const KINDS = { 1: "frame", 2: "inside", 3: "preview", 4: "again" };

/**
 * Events: one for each message, named after its type (`hello`, `status`, …). `detail` is the JSON message, or of a
 * binary one {type, number, action, latency, bitmap, facts}, `facts` being the JSON that comes with what is inside a
 * frame. And `link` with {state, delay}, where state is one of connecting, open, lost, full.
 */
export class Connection extends EventTarget {
  #address;
  #socket = null;
  #key = null; // of our world on the server, which outlives a lost connection for a while
  #attempts = 0;
  #timer = null;
  #full = false;
  #arrived = Promise.resolve(); // messages are told in the order they came, though pictures take time

  constructor(address) {
    super();
    this.#address = address;
    addEventListener("online", () => this.open());
  }

  get key() {
    return this.#key;
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Connect now, unless we are connected or about to be. */
  open() {
    if (this.#socket && this.#socket.readyState <= WebSocket.OPEN) return;
    clearTimeout(this.#timer);
    this.#full = false;
    this.#tell("link", { state: "connecting" });
    const socket = new WebSocket(this.#address + (this.#key ? `?resume=${this.#key}` : ""));
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => {
      const message = typeof data === "string" ? JSON.parse(data) : takeApart(data);
      this.#arrived = this.#arrived.then(async () => this.#receive(await message)).catch(reportError);
    };
    socket.onclose = () => this.#lost(socket);
    this.#socket = socket;
  }

  /** Send a message; false where there is no connection. */
  send(type, fields = {}) {
    if (!this.isOpen) return false;
    this.#socket.send(JSON.stringify({ type, ...fields }));
    return true;
  }

  #receive(message) {
    if (message.type === "hello") {
      this.#key = message.key;
      this.#attempts = 0;
      this.#tell("link", { state: "open" });
    }
    if (message.type === "full") this.#full = true;
    this.#tell(message.type, message);
  }

  #lost(socket) {
    if (socket !== this.#socket) return;
    const delay = this.#full ? FULL_DELAY : DELAYS[Math.min(this.#attempts, DELAYS.length - 1)];
    this.#attempts += 1;
    this.#tell("link", { state: this.#full ? "full" : "lost", delay, attempts: this.#attempts });
    this.#timer = setTimeout(() => this.open(), delay);
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** A binary message: four little-endian uint32, for `inside` the length of its JSON and that JSON, then a picture. */
async function takeApart(buffer) {
  const view = new DataView(buffer);
  const [kind, number, action, latency] = [0, 4, 8, 12].map((offset) => view.getUint32(offset, true));
  const message = { type: KINDS[kind], number, action, latency };
  let start = HEADER_BYTES;
  if (message.type === "inside") {
    const length = view.getUint32(start, true);
    message.facts = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, start + 4, length)));
    start += 4 + length;
  }
  message.bitmap = await createImageBitmap(new Blob([new Uint8Array(buffer, start)], { type: "image/png" }));
  return message;
}
