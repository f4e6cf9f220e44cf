/** The page: what the server says is shown, what the player does is sent. */

import { Actions, actionLabel } from "./actions.js";
import { Connection } from "./connection.js";
import { byId, element, say } from "./elements.js";
import { Inside } from "./inside.js";
import { Held } from "./keys.js";
import { Scenes } from "./scenes.js";
import { Screen } from "./screen.js";
import { Settings } from "./settings.js";
import { Timeline } from "./timeline.js";
import { rememberTheme } from "./theme.js";

const BACK_FRAMES = 10;
const LATENCIES = 9;
const REST = 400; // ms between two frames in slow motion

const connection = new Connection(`${location.protocol.replace("http", "ws")}//${location.host}/play`);
const screen = new Screen(byId("screen"), byId("play"));
const held = new Held(hold);
const actions = new Actions(held);
const settings = new Settings((values) => connection.send("settings", values));
const scenes = new Scenes(connection, (scene) => {
  reset(scene);
  byId("screen-box").scrollIntoView({ block: "nearest" });
});
const inside = new Inside((action) => actionLabel(world.actions, action));
const timeline = new Timeline({
  look: (bitmap) => {
    pause(true);
    screen.show(bitmap);
  },
  rewind: (frames) => connection.send("rewind", { frames }),
});

let world = null; // what `hello` said
let state = { paused: false, recording: false, scene: 0 };
const looks = new Map(); // what is inside of frames that have not come yet, by number
let pressed = null; // when a key was that has changed no frame yet
let latencies = [];
let shown = 0; // number of the newest frame
let previewing = null; // number of the frame from which a preview was asked for
let slow = false;

// From the server

connection.addEventListener("hello", ({ detail }) => {
  const restarted = world && !detail.resumed;
  const before = { values: settings.values, scene: state.scene, paused: state.paused };
  world = detail;
  byId("world-name").textContent = world.world;
  document.title = `${world.world} · TinyWorlds`;
  screen.size = world.size;
  actions.world = world;
  previewing = null;
  if (!world.resumed) scenes.show(0);
  scenes.show(world.scenes);
  settings.show(world.settings, world);
  inside.world = world;
  if (!world.resumed) timeline.begin(world.remembered);
  if (inside.open) connection.send("inside", { on: true });
  if (slow) setSlow(true);
  if (restarted) beginAgain(before);
});

connection.addEventListener("link", ({ detail }) => {
  const words = { connecting: "connecting", open: "connected", lost: "not connected", full: "full" };
  byId("link").dataset.state = detail.state;
  byId("link").textContent = words[detail.state];
  byId("curtain").hidden = detail.state === "open";
  byId("retry").hidden = !["lost", "full"].includes(detail.state);
  if (detail.state === "connecting" && !world) byId("curtain-text").textContent = "Connecting …";
  if (detail.state === "lost") byId("curtain-text").textContent = lostText(detail);
  if (detail.state !== "open") held.releaseAll();
});

connection.addEventListener("full", ({ detail }) => {
  byId("curtain-text").textContent = `${detail.message}. This page tries again every few seconds.`;
});

connection.addEventListener("state", ({ detail }) => {
  state = detail;
  scenes.show(state.scenes);
  scenes.mark(state.scene);
  timeline.reach = state.rewindable;
  showPaused();
  byId("record").setAttribute("aria-pressed", String(state.recording));
  byId("record").querySelector("span").textContent = state.recording ? `Stop (${state.recorded})` : "Record";
});

connection.addEventListener("settings", ({ detail }) => settings.show(detail));
connection.addEventListener("error", ({ detail }) => say(detail.message, { bad: true }));
connection.addEventListener("recorded", ({ detail }) => showRecording(detail));
connection.addEventListener("inside", ({ detail }) => looks.set(detail.number, detail));
connection.addEventListener("preview", ({ detail }) => {
  previewing = null;
  if (detail.number !== shown) return state.paused && preview();
  actions.showPreviews(detail.bitmap, world.size);
});
for (const kind of ["frame", "again"]) connection.addEventListener(kind, ({ detail }) => showFrame(detail));

function showFrame(frame) {
  const look = looks.get(frame.number);
  looks.clear();
  const given = timeline.last(world.context - 1);
  timeline.add(frame, { again: frame.type === "again" });
  shown = frame.number;
  actions.hidePreviews();
  if (look) showInside(frame, look, given);
  if (timeline.moving) return drawn(frame); // an earlier one is being looked at
  if (slow && look && frame.type === "frame") return showSlowly(frame);
  screen.show(frame.bitmap, () => drawn(frame));
  if (state.paused) preview();
}

async function showInside({ type, number, action, bitmap }, { facts, bitmap: strip }, before) {
  const truth = type === "again" && !state.rewindable ? await scenes.picture(state.scene) : null;
  const given = settings.values.horizon === 1 ? chain(before, action) : []; // else several are decoded together
  if (number === shown) inside.show({ facts, number, strip, shown: bitmap, truth, given });
}

async function showSlowly(frame) {
  await inside.animate((paint) => screen.paint(paint));
  if (frame.number === shown) screen.show(frame.bitmap, () => drawn(frame));
  else drawn(frame);
  setTimeout(() => slow && connection.send("step"), REST);
}

function drawn({ number, type, latency }) {
  Object.assign(byId("screen").dataset, { frame: number, kind: type });
  connection.send("ack", { frame: number });
  if (latency) measure();
}

/** The frames that are seen, each with the action that follows it; `last` leads to the one that is decoded. */
function chain(given, last) {
  return given.map(({ bitmap }, index) => ({ bitmap, action: given[index + 1]?.action ?? last }));
}

/** The time from a key to the first frame that it changed. */
function measure() {
  if (pressed === null) return;
  latencies = [...latencies, performance.now() - pressed].slice(-LATENCIES);
  pressed = null;
  byId("latency").textContent = `${Math.round(latencies.toSorted((a, b) => a - b)[latencies.length >> 1])} ms`;
}

function lostText({ attempts }) {
  if (world && attempts === 1) return "The connection is lost. Trying again; your world is kept for half a minute.";
  return world
    ? "The server does not answer. Is it still running? This page goes on trying."
    : "There is no server here. Start it with “make play”; this page goes on trying.";
}

/** A restarted server knows nothing of us: go on where we began, as we had it set. */
function beginAgain({ values, scene, paused }) {
  say("The server was started anew: the world begins again.");
  connection.send("settings", values);
  if (scene < world.scenes) connection.send("reset", { scene });
  if (paused) connection.send("pause", { on: true });
}

// From the player

function hold(action) {
  actions.mark(action);
  if (!connection.send("hold", { action })) return;
  pressed = state.paused ? null : performance.now();
}

function pause(on) {
  if (state.paused !== on) connection.send("pause", { on });
  state.paused = on;
  showPaused();
}

function togglePause() {
  if (slow) setSlow(false);
  else pause(!state.paused);
}

function step() {
  setSlow(false);
  pause(true);
  connection.send("step");
}

function back() {
  connection.send("rewind", { frames: BACK_FRAMES });
}

function reset(scene = state.scene) {
  state.scene = scene;
  connection.send("reset", { scene });
}

function lookInside(open = !inside.open) {
  inside.open = open;
  byId("look").setAttribute("aria-pressed", String(open));
  if (slow && !open) setSlow(false);
  connection.send("inside", { on: open });
}

/** In slow motion the world is paused, and each next frame is asked for when the last has been watched. */
function setSlow(on) {
  slow = on;
  byId("slow").checked = on;
  byId("badge").hidden = !on;
  if (on) {
    pause(true);
    connection.send("step");
  }
  showPaused();
}

function showPaused() {
  const standing = state.paused && !slow;
  byId("pause")
    .querySelector("use")
    .setAttribute("href", standing ? "#i-play" : "#i-pause");
  byId("pause").querySelector("span").textContent = standing ? "Play" : "Pause";
}

function showRecording({ id, frames, fps }) {
  const item = element("li", {}, `Recorded ${frames} frames, ${(frames / fps).toFixed(1)} s: `);
  for (const [kind, what] of [
    ["gif", "GIF"],
    ["mp4", "MP4"],
    ["json", "actions"],
  ]) {
    item.append(element("a", { href: `recordings/${id}.${kind}`, download: "" }, what), " ");
  }
  byId("recordings").prepend(item);
}

const pageKeys = {
  KeyP: togglePause,
  Period: step,
  Backspace: back,
  KeyR: () => reset(),
  KeyI: () => lookInside(),
  KeyV: preview,
};

/** Stop, and see what each action does from here. */
function preview() {
  pause(true);
  if (previewing === null && connection.send("preview")) previewing = shown;
}

/** Whether a key belongs to what has the focus: text to type, a slider, a button. */
function isTaken({ target, code, ctrlKey, altKey, metaKey }) {
  if (ctrlKey || altKey || metaKey) return true;
  if (!(target instanceof HTMLElement)) return false;
  if (target.matches("input[type=number], textarea, select")) return true;
  if (target.matches("input[type=range], [data-own-keys]")) return /^(Arrow|Page|Home|End)/.test(code);
  return target.matches("button, a, input") && ["Enter", "Space"].includes(code);
}

addEventListener("keydown", (event) => {
  if (isTaken(event)) return;
  if (!actions.keyDown(event)) {
    if (!(event.code in pageKeys) || event.repeat) return;
    pageKeys[event.code]();
  }
  event.preventDefault();
});
// What was pressed by mouse or finger does not keep the keys to itself.
addEventListener("pointerup", ({ target }) => target.closest?.("button, input[type=range], label")?.blur());
addEventListener("keyup", (event) => held.release(event.code));
addEventListener("blur", () => held.releaseAll());
document.addEventListener("visibilitychange", () => document.hidden && held.releaseAll());

byId("pause").addEventListener("click", togglePause);
byId("step").addEventListener("click", step);
byId("back").addEventListener("click", back);
byId("reset").addEventListener("click", () => reset());
byId("record").addEventListener("click", () => connection.send("record", { on: !state.recording }));
byId("look").addEventListener("click", () => lookInside());
byId("preview").addEventListener("click", preview);
byId("slow").addEventListener("change", ({ target }) => {
  setSlow(target.checked);
  if (!target.checked) pause(false);
});
byId("retry").addEventListener("click", () => connection.open());
setInterval(() => (byId("fps").textContent = screen.fps.toFixed(screen.fps < 10 ? 1 : 0)), 500);

for (const kind of ["error", "unhandledrejection"]) {
  addEventListener(kind, ({ message, reason }) => say(`This page has a fault: ${message ?? reason}`, { bad: true }));
}
rememberTheme(byId("theme"));
connection.open();
