"""What each switch is worth: ``python -m benchmarks.ablations``, one at a time against ``experiment=laptop``.

Only the stage that a switch concerns is trained, by `train.py` in a process of its own with one thread, for as many
steps as take the same processor time for every variant. How many that is, is found by timing steps of the variant, so
that its learning-rate schedule ends with the budget. With ``device=cuda`` a GPU takes these steps. The other stages are
the laptop's, and decodings are tried on its dynamics. The tables, and how to read them: docs/ablations.md.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from benchmarks import ablation_page, ablation_results, measure
from benchmarks.ablation_results import SETTING, Entry
from benchmarks.ablation_trials import (
    DECODING,
    TIMINGS,
    Trial,
    built_on,
    changes,
    check,
    composed,
    planned,
    setting,
    steps_setting,
    training_options,
)
from benchmarks.cpu_clock import FILE
from tinyworlds.checkpoints import load_stage, newest
from tinyworlds.command import CONF, command
from tinyworlds.devices import allow_tf32, hardware
from tinyworlds.evaluate import evaluate, find_truth, put_actions, put_tokens
from tinyworlds.json_files import read_object
from tinyworlds.models import STAGES, ActionTokenizer, Dynamics, Stage, VideoTokenizer
from tinyworlds.report import Scores
from tinyworlds.runs import locked
from tinyworlds.scenes import held_out
from tinyworlds.transitions import held_out_reconstructions, held_out_transitions
from tinyworlds.world import World

CLOCK = "+callbacks.clock._target_=benchmarks.cpu_clock.CpuClock"
MANY = 10**6
"""More steps than are timed."""
DIVERGED = re.compile(r"^error: ((?:the loss is|weights are not finite).*? at step \d+)", re.M)
SEED = 0
"""Of the windows, random actions, sampling and probe of every evaluation."""
CPU = torch.device("cpu")


@command("ablations")
def main(config: DictConfig) -> None:
    """Measure what is lacking, one after the other, and write the page."""
    check(config)
    allow_tf32(config.device)
    page, results = Path(config.page), Path(config.results)
    variants = {stage: list(named) for stage, named in config.variants.items()}
    failed: list[str] = []
    for stage in variants:
        measure.check_section(page, ablation_page.section(stage))
    if config.measure:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the training would outlive this process
        torch.set_num_threads(1)
        failed = measure_lacking(config, results)
    with ablation_results.alone_in(page.parent):
        ablation_page.write(page, ablation_results.read(results)["trials"], variants)
    print(f"wrote the tables in {page}")
    if failed:
        raise ValueError(f"not measured, for the reasons above: {'; '.join(failed)}")


class UntrainedError(Exception):
    """A trial that `train.py` refuses."""


def measure_lacking(config: DictConfig, results: Path) -> list[str]:
    """Measure each trial that no other process is at, unless it has been, with the same setting; those that failed."""
    trials, failed = planned(config), []
    for number, trial in enumerate(trials, start=1):
        wanted = {**asdict(trial), SETTING: setting(config, trial)}
        folder = runs_of(config, trial) / trial.game / trial.stage
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder) as free:
            if not free or ablation_results.find(results, "trials", wanted) is not None:
                continue
            print(f"{number}/{len(trials)}: {trial}", flush=True)
            try:
                if config.measure == TIMINGS:
                    steps_of(config, trial, results)
                    continue
                ablation_results.add(results, "trials", {**wanted, **measured(config, trial, results)})
            except UntrainedError as error:  # the others may do better
                print(f"error: {error}", file=sys.stderr, flush=True)
                failed.append(str(trial))
    return failed


def runs_of(config: DictConfig, trial: Trial) -> Path:
    """The runs_dir in which a trial is trained."""
    return Path(config.runs_dir, trial.variant, f"seed{trial.seed}")


def measured(config: DictConfig, trial: Trial, results: Path) -> Entry:
    """Train and score; what went into it and came out."""
    found: Entry = {"commit": measure.commit(), "hardware": hardware(torch.device(config.device))}
    if trial.stage == DECODING:
        checkpoint = built_on(config, trial)[Dynamics.name]
    else:
        steps = steps_of(config, trial, results)
        options = (f"trainer.max_steps={steps}",)
        failure = train(config, trial, runs_of(config, trial), *options, device=config.device)
        if failure is not None:
            return {**found, "steps": steps, "failed": failure, "metrics": {}}
        checkpoint = newest(runs_of(config, trial), trial.game, trial.stage)
        found["steps"] = steps
        if config.device == CPU.type:
            found["cpu_seconds"] = round(clocked(checkpoint)["seconds"], 1)
    stage = load_stage(checkpoint, STAGES[trial.learner]).to(config.device)
    scores = scored(config, trial, stage).values.items()
    return {
        **found,
        "parameters": sum(p.numel() for p in stage.parameters() if p.requires_grad),
        "metrics": {name: rounded(value) for name, value in scores if not name.startswith("speed.")},
    }


def rounded(value: Any) -> Any:
    """A number with as many digits as say anything."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def steps_of(config: DictConfig, trial: Trial, results: Path) -> int:
    """How many steps of training fit into the seconds of a trial, on one thread of a CPU.

    They are timed the first time that a variant is trained with these options, and other seeds and games, which take
    as long, get as many.

    Raises:
        UntrainedError: they were to be timed on another CPU than this one, and have not been.
    """
    own = hardware(CPU)
    kind = {"stage": trial.stage, "variant": trial.variant, "hardware": config.timed_on or own}
    wanted = {**kind, SETTING: steps_setting(config, trial)}
    folder = Path(config.runs_dir, trial.variant)
    with ablation_results.alone_in(folder), tempfile.TemporaryDirectory(dir=folder) as aside:
        timing = ablation_results.find(results, "timings", wanted)
        if timing is None and kind["hardware"] != own:
            raise UntrainedError(f"{trial}: {results} has no timing of it on {config.timed_on}")
        if timing is None:
            short = (
                f"trainer.max_steps={MANY}",
                "trainer.limit_val_batches=1",
                f"+callbacks.clock.enough={config.timing}",
            )
            if failure := train(config, trial, Path(aside), *short, device=CPU.type):
                raise UntrainedError(f"{trial}: {failure} while its steps were timed")
            clock = clocked(newest(aside, trial.game, trial.stage))
            timing = {**wanted, "seconds_per_step": rounded(clock["seconds_per_step"]), "commit": measure.commit()}
            ablation_results.add(results, "timings", timing)
    assert trial.seconds is not None
    return max(int(trial.seconds / timing["seconds_per_step"]), 1)


def train(config: DictConfig, trial: Trial, runs_dir: Path, *more: str, device: str) -> str | None:
    """Train the stage of a trial in a process of its own, with one thread; what is wrong where it diverged.

    Raises:
        UntrainedError: for another reason.
    """
    options = [*training_options(config, trial, runs_dir, device=device), CLOCK, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(CONF.parent / "train.py"), *options]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        return None
    if diverged := DIVERGED.search(done.stderr):
        return diverged[1]
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    raise UntrainedError(f"{trial} was not trained: {said.removeprefix('error: ')}")


def clocked(checkpoint: Path) -> dict[str, Any]:
    """What `CpuClock` wrote beside a checkpoint."""
    return read_object(checkpoint.with_name(FILE), "record of processor time")


def scored(config: DictConfig, trial: Trial, stage: Stage) -> Scores:
    """Measure a trained stage on held-out frames of its game, as `tinyworlds.evaluate` does a world."""
    if isinstance(stage, Dynamics):
        world = World(stage, seed=SEED, device=config.device, **decoding_of(config, trial))
        return evaluate(world, held_out(stage, store=None), clips=config.clips, seed=SEED).scores
    length = composed(("stage=dynamics", *config.options)).data.clip_length
    if isinstance(stage, VideoTokenizer):
        return scores_of_frames(stage, length=length)
    assert isinstance(stage, ActionTokenizer)
    return scores_of_actions(stage, length=length)


def decoding_of(config: DictConfig, trial: Trial) -> dict[str, Any]:
    """How the world of a trial decodes."""
    chosen = composed((f"stage={Dynamics.name}", *changes(config, trial))).stage.decoding
    return {str(name): value for name, value in chosen.items()}


def scores_of_frames(tokenizer: VideoTokenizer, *, length: int) -> Scores:
    """What it keeps of frames, in windows of as many as a world sees."""
    scores = Scores()
    put_tokens(
        scores, held_out_reconstructions(tokenizer, held_out(tokenizer, store=None), None, length=length).quality
    )
    return scores


def scores_of_actions(tokenizer: ActionTokenizer, *, length: int) -> Scores:
    """What its codes say of the true actions, in the same windows."""
    data, scores = held_out(tokenizer, store=None), Scores()
    truth, lacking = find_truth(data, seed=SEED)
    seen = held_out_transitions(tokenizer, data, None if truth is None else truth.probe, length=length)
    put_actions(scores, seen, np.bincount(seen.codes, minlength=tokenizer.n_actions), truth, lacking)
    return scores


if __name__ == "__main__":
    main()
