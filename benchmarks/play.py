"""How the browser player does: ``make bench-play``.

`play.py` serves a world; Chromium, on the same machine, shows its page, where keys are pressed and let go. Frames count
when they are drawn. Latency is from the event of a key, pressed or let go, to the first drawn frame of its action.
Growth is of the server's resident memory, from the first minute to the last. Then players without a page play at once.
"""

import asyncio
import json
import math
import random
import re
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, quantiles
from typing import Any

import torch
from omegaconf import DictConfig
from playwright.sync_api import Page, sync_playwright
from websockets.asyncio.client import connect

from benchmarks import measure
from tests.browser import MISSING, find
from tinyworlds.command import CONF, command
from tinyworlds.data.settings import check_whole
from tinyworlds.media import replacing
from tinyworlds.play.protocol import Kind

FPS = 60
"""More than any laptop gives."""
HELD = (0.3, 1.2)
"""Seconds for which keys are held, and not."""
WARM_UP = 10.0
MB = 2**20
# What the page sees: messages of frames, frames drawn, and keys, by the page's clock.
WATCH = """
window.seen = { arrived: [], drawn: [], keys: [], hello: null };
const now = () => performance.now();
const Socket = window.WebSocket;
window.WebSocket = class extends Socket {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({ data }) => {
      if (typeof data === "string") {
        const message = JSON.parse(data);
        if (message.type === "hello") seen.hello = message;
        return;
      }
      const [kind, number, action] = new Uint32Array(data.slice(0, 12));
      if (kind === FRAME) seen.arrived.push([number, action]);
    });
  }
};
for (const kind of ["keydown", "keyup"])
  addEventListener(kind, (event) => event.repeat || seen.keys.push([now(), kind, event.code]), true);
addEventListener("DOMContentLoaded", () => {
  const screen = document.getElementById("screen");
  new MutationObserver(() => seen.drawn.push([now(), Number(screen.dataset.frame)]))
    .observe(screen, { attributes: true, attributeFilter: ["data-frame"] });
});
""".replace("FRAME", str(int(Kind.FRAME)))


@command("bench_play")
def main(config: DictConfig) -> None:
    """Measure, print and write everything."""
    for key in ("seconds", "growth_seconds", "players", "players_seconds"):
        check_whole(key, config[key], at_least=1)
    path = find()
    if path is None:
        raise ValueError(MISSING)
    results: dict[str, Any] = {}
    with serving(config) as (server, url):
        results |= in_browser(path, url, server, seconds=config.seconds, growth_seconds=config.growth_seconds)
        rates = asyncio.run(together(url, players=config.players, seconds=config.players_seconds))
    results |= {f"fps_{config.players}_players_min": round(min(rates), 2)}
    for name, value in results.items():
        print(f"{name}: {value}")
    about = {
        "machine": measure.machine(torch.device("cpu")),
        "versions": measure.versions(),
        "commit": measure.commit(),
    }
    setting = {key: config[key] for key in ("seconds", "growth_seconds", "players", "players_seconds")}
    with replacing(config.results) as unfinished:
        unfinished.write_text(json.dumps({**results, "setting": setting, **about}, indent=2) + "\n")
    print(f"wrote {config.results}")


@contextmanager
def serving(config: DictConfig) -> Iterator[tuple[int, str]]:
    """A server of its own: its process and its address."""
    options = [f"{key}={config[key]}" for key in ("ckpt", "dataset", "store") if config[key] is not None]
    options += ["port=0", f"fps={FPS}", f"max_players={config.players + 1}"]
    process = subprocess.Popen(
        [sys.executable, str(CONF.parent / "play.py"), *options], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        address = next((found for line in process.stdout if (found := re.search(r"http://\S+", line))), None)
        if address is None:
            raise ValueError("play.py did not come up: it says why above")
        yield process.pid, address[0]
    finally:
        process.terminate()
        process.wait(10)


def in_browser(path: str, url: str, server: int, *, seconds: float, growth_seconds: float) -> dict[str, float]:
    """Frames a second and latencies over `seconds`, and the growth of memory over `growth_seconds`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_context(bypass_csp=True).new_page()  # what watches the page is evaluated in it
        page.add_init_script(WATCH)
        page.goto(url)
        page.wait_for_function("seen.drawn.length > 0")
        hello = page.evaluate("seen.hello")
        memory: list[tuple[float, float]] = []
        press_keys(page, hello, WARM_UP, server, [])
        page.evaluate("seen.arrived = []; seen.drawn = []; seen.keys = []")
        press_keys(page, hello, seconds, server, memory)
        seen = page.evaluate("seen")
        press_keys(page, hello, max(growth_seconds - seconds, 0), server, memory, tidy=True)
        browser.close()
    waits = latencies(seen, hello)
    begun = memory[0][0]
    first = fmean(mb for when, mb in memory if when - begun <= min(60, growth_seconds / 2))
    last = fmean(mb for when, mb in memory if when - begun >= memory[-1][0] - begun - min(60, growth_seconds / 2))
    return {
        "fps": round(frame_rate([when for when, _ in seen["drawn"]]), 2),
        "fps_worst_10_s": round(worst_rate([when for when, _ in seen["drawn"]]), 2),
        "latency_p50_ms": round(quantiles(waits, n=100)[49], 1),
        "latency_p95_ms": round(quantiles(waits, n=100)[94], 1),
        "keys": len(waits),
        "growth_mb": round(last - first, 2),
        "memory_mb": round(last, 1),
    }


def press_keys(
    page: Page,
    hello: Mapping[str, Any],
    seconds: float,
    server: int,
    memory: list[tuple[float, float]],
    *,
    tidy: bool = False,
) -> None:
    """Press and let go keys of actions for so long; note the memory of the server about every second.

    `tidy`: what the page has seen is not kept.
    """
    rng = random.Random(0)
    keys = [action["keys"][0] for action in hello["actions"] if action["code"] != hello["idle"]]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        key = rng.choice(keys)
        page.keyboard.down(key)
        page.wait_for_timeout(1000 * rng.uniform(*HELD))
        page.keyboard.up(key)
        page.wait_for_timeout(1000 * rng.uniform(*HELD))
        memory.append((time.monotonic(), resident_mb(server)))
        if tidy:
            page.evaluate("seen.arrived = []; seen.drawn = []; seen.keys = []")


def latencies(seen: Mapping[str, Any], hello: Mapping[str, Any]) -> list[float]:
    """Milliseconds from each key to the first drawn frame of the action that it asked for.

    A key that asks for what is on the screen already changes nothing, and is left out. One that was not obeyed
    before the next counts with the time until that.
    """
    codes = {key: action["code"] for action in hello["actions"] for key in action["keys"]}
    actions = dict(seen["arrived"])
    drawn = [(when, actions[number]) for when, number in seen["drawn"] if number in actions]
    keys = seen["keys"]
    waits = []
    for (when, kind, key), (following, *_) in zip(keys, [*keys[1:], (math.inf,)], strict=True):
        wanted = codes[key] if kind == "keydown" else hello["idle"]
        before = [action for moment, action in drawn if moment <= when]
        obeyed = next((moment for moment, action in drawn if when < moment < following and action == wanted), following)
        if before and before[-1] != wanted and math.isfinite(obeyed):
            waits.append(obeyed - when)
    return waits


def frame_rate(moments: Sequence[float]) -> float:
    """Frames a second, of moments in milliseconds."""
    return 1000 * (len(moments) - 1) / (moments[-1] - moments[0])


def worst_rate(moments: Sequence[float]) -> float:
    """The lowest rate over any ten seconds, or over all if there are fewer."""
    span = min(10_000.0, moments[-1] - moments[0])
    starts = [moment for moment in moments if moment + span <= moments[-1]]
    return min(1000 * sum(start <= moment < start + span for moment in moments) / span for start in starts[::10])


def resident_mb(process: int) -> float:
    """The memory that a process holds."""
    pages = Path(f"/proc/{process}/statm")
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize() / MB
    found = subprocess.run(["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=True)
    return int(found.stdout) / 1024


async def together(url: str, *, players: int, seconds: float) -> list[float]:
    """Frames a second of each of so many players who draw at once."""
    ready = asyncio.Barrier(players)
    return await asyncio.gather(*(_player(url, ready, seconds=seconds, seed=n) for n in range(players)))


async def _player(url: str, ready: asyncio.Barrier, *, seconds: float, seed: int) -> float:
    rng, count = random.Random(seed), 0
    async with connect(url.replace("http", "ws", 1) + "/play") as socket:
        hello = json.loads(await socket.recv())
        await ready.wait()
        begun = pressed = time.monotonic()
        while (now := time.monotonic()) < begun + seconds:
            message = await socket.recv()
            if isinstance(message, str):
                continue
            kind, number = struct.unpack("<2I", message[:8])
            count += kind == Kind.FRAME
            await socket.send(json.dumps({"type": "ack", "frame": number}))
            if now - pressed > HELD[1]:
                action = rng.choice(hello["actions"])["code"]
                await socket.send(json.dumps({"type": "hold", "action": action}))
                pressed = now
    return count / seconds


if __name__ == "__main__":
    main()
