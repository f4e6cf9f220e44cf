"""Record each game for a while; ``python -m benchmarks.recording`` writes a table and a picture into docs/."""

import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from benchmarks import measure
from benchmarks.stages import compose_train
from tinyworlds.command import CONF, build
from tinyworlds.data.datamodules import RecordedGame
from tinyworlds.data.store import FrameStore
from tinyworlds.media import grid, save_png

PAGE = CONF.parent / "docs" / "data.md"
SECTION = "recorded games"
PICTURE = PAGE.parent / "pictures" / "games.png"
FRAMES, TIMES = 2_000, 3
SHOWN = 8


class Recorded(NamedTuple):
    """What recording a game gave."""

    data: RecordedGame
    seconds: float
    fps: float
    episode: float
    """Mean frames of those that ended."""
    shown: UInt8[np.ndarray, "K H W 3"]


def games() -> list[str]:
    """The ``data=`` that are recorded."""
    return sorted(path.stem for path in (CONF / "recording").glob("*.yaml") if path.stem != "default")


def record(name: str, folder: Path) -> Recorded:
    """A few times over; the seconds are those of the fastest, of processors: what else runs changes them little."""
    path = folder / f"{name}.h5"
    options = [f"data={name}", f"data.path='{path}'", f"data.recording.frames={FRAMES}", "stage=video_tokenizer"]
    data: RecordedGame = build(compose_train(options).data)
    seconds = []
    for _ in range(TIMES):
        path.unlink(missing_ok=True)
        begun = processor_seconds()
        data.make_store()
        seconds.append(processor_seconds() - begun)
    with FrameStore(path) as store:
        # An episode is cut off by the end of the recording, unless it is the only one.
        lengths = np.diff(store.episode_starts) if len(store.episode_starts) > 1 else np.array([FRAMES])
        shown = np.concatenate([store.read(at, at + 1) for at in range(20, FRAMES, FRAMES // SHOWN)])
        assert store.fps is not None
        return Recorded(data, min(seconds), store.fps, float(lengths.mean()), shown)


def processor_seconds() -> float:
    """Of this process and of those that it started and that have ended, as Doom's engine does."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def row(game: Recorded) -> list[str]:
    """Of the table."""
    recording = game.data.recording
    assert recording.actions is not None
    return [
        f"`{game.data.name}`",
        recording.env,
        ", ".join(recording.actions),
        f"{game.fps:g}",
        f"{game.episode:.0f}",
        f"{FRAMES / game.seconds:.0f}",
    ]


def main() -> None:
    """Record, draw and write."""
    try:
        measure.check_section(PAGE, SECTION)
    except ValueError as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as folder:
        recorded = [record(name, Path(folder)) for name in games()]
    save_png(PICTURE, grid(np.stack([game.shown for game in recorded]), labels=games()))
    machine = measure.machine(torch.device("cpu"))
    head = [
        "`data=`",
        "environment",
        "actions",
        "frames a second of play",
        "frames of an episode",
        "recorded a second of one core",
    ]
    text = (
        f"{measure.table(head, [row(game) for game in recorded])}\n\n{machine['cpu']}, commit {measure.commit()}: "
        f"{FRAMES:,} frames of each, the fastest of {TIMES} times, starting the game included."
    )
    measure.write_section(PAGE, SECTION, text)
    print(f"wrote the table in {PAGE} and {PICTURE}")


if __name__ == "__main__":
    main()
