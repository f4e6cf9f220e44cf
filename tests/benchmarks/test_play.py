"""`make bench-play`: what it makes of what a page has seen, and a short run."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import play
from tests.browser import MISSING, find
from tinyworlds import World
from tinyworlds.scenes import SCENES, png_bytes

HELLO = {"idle": 0, "actions": [{"code": 0, "keys": ["Digit0"]}, {"code": 1, "keys": ["Digit1", "ArrowUp"]}]}


def seen(*keys: tuple[float, str]) -> dict[str, list]:
    """Frames every 50 ms, of action 1 from 300 to 600 ms."""
    frames = [(50.0 * n, n) for n in range(20)]
    return {
        "drawn": frames,
        "arrived": [(n, int(300 <= when < 600)) for when, n in frames],
        "keys": [(when, kind, "ArrowUp") for when, kind in keys],
    }


def test_latency_is_from_a_key_to_the_first_frame_of_its_action():
    assert play.latencies(seen((210, "keydown"), (520, "keyup")), HELLO) == [90, 80]


def test_a_key_that_was_never_obeyed_counts_until_the_next():
    assert play.latencies(seen((10, "keydown"), (200, "keyup"), (250, "keydown")), HELLO) == [190, 50]


def test_a_key_that_asks_for_what_is_shown_does_not_count():
    assert play.latencies(seen((100, "keyup"), (400, "keydown")), HELLO) == []


def test_rates_are_of_what_was_drawn():
    steady = [50.0 * n for n in range(601)]
    assert play.frame_rate(steady) == pytest.approx(20)
    assert play.worst_rate(steady) == pytest.approx(20)
    halting = [when for when in steady if not 12_000 <= when < 17_000]
    assert play.worst_rate(halting) == pytest.approx(10, abs=0.2)


@pytest.mark.slow
@pytest.mark.skipif(find() is None, reason=MISSING)
def test_a_short_run_writes_every_figure(dynamics, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    World(dynamics).save_pretrained("world")
    scenes = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 24, 3), dtype=np.uint8)
    Path("world", SCENES).write_bytes(png_bytes(scenes))
    monkeypatch.setattr(play, "WARM_UP", 1.0)
    options = ["seconds=6", "growth_seconds=8", "players=2", "players_seconds=3"]
    monkeypatch.setattr("sys.argv", ["bench", "ckpt=world", "results=play.json", *options])
    play.main()
    results = json.loads(Path("play.json").read_text())
    assert {"fps", "latency_p95_ms", "growth_mb", "fps_2_players_min"} <= set(results)
    assert results["fps"] > 5
    assert results["fps_2_players_min"] > 1
