import json
from pathlib import Path

from benchmarks.cpu_clock import BLOCK, FILE

OPTIONS = ["data=video", "stage=video_tokenizer", "size=tiny", "data.batch_size=2", "validations=1"]
CLOCK = "+callbacks.clock._target_=benchmarks.cpu_clock.CpuClock"


def test_a_run_is_clocked_and_ends_when_enough_time_has_passed(entry_point, small_store):
    for options, steps in (
        (["trainer.max_steps=3"], 3),
        (["trainer.max_steps=1000", "+callbacks.clock.enough=0"], 2 * BLOCK),
    ):
        entry_point("train.py", *OPTIONS, f"data.path={small_store}", CLOCK, *options)
        folder = max(Path("runs/video/video_tokenizer").iterdir())
        clock = json.loads((folder / FILE).read_text())
        assert clock["steps"] == steps
        assert 0 < clock["seconds_per_step"] <= clock["seconds"]
        assert (folder / "result.json").exists()
