"""Measure what a world is worth: ``python -m tinyworlds.evaluate [ckpt=PATH] [dataset=NAME] …``."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from omegaconf import DictConfig

from tinyworlds import control, prediction
from tinyworlds.addresses import beside
from tinyworlds.checkpoints import newest, training_seconds
from tinyworlds.command import command
from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.settings import check_whole
from tinyworlds.data.truth import actions_of
from tinyworlds.devices import hardware
from tinyworlds.maskgit import chosen_decoding
from tinyworlds.metrics import perplexity
from tinyworlds.play import rollout
from tinyworlds.prediction import CONTROL_STEP, STEPS, Foretelling
from tinyworlds.pretrained import METRICS
from tinyworlds.probe import Probe, cached_probe
from tinyworlds.report import Evaluation, Scores, text_table, write_report
from tinyworlds.scenes import held_out
from tinyworlds.transitions import Transitions, held_out_reconstructions, held_out_transitions
from tinyworlds.world import World

TIMED_STEPS = 20


@command("evaluate")
def main(config: DictConfig) -> None:
    """Write metrics.json, report.md and its pictures to evaluation/ beside the checkpoint; print the table."""
    check_whole("clips", config.clips, at_least=1)
    check_whole("seed", config.seed, at_least=0)
    decoding = chosen_decoding(config)
    ckpt = config.ckpt or newest(config.runs_dir, config.dataset, "dynamics")
    world = World.load(ckpt, seed=config.seed, device=config.device, **decoding)
    data = held_out(world.dynamics, store=config.store)
    out = Path(config.out or beside(ckpt, "evaluation", runs_dir=config.runs_dir))
    print(f"world: {ckpt} · {world.n_actions} actions · held-out frames of {data.path}", flush=True)
    seconds, lacking = training_seconds(world.folder or out)
    evaluation = evaluate(world, data, clips=config.clips, seed=config.seed)
    evaluation.scores.put("speed", {"training_seconds": seconds}, otherwise=lacking)
    evaluation.scores.put("evaluation", {"clips": config.clips, "seed": config.seed}, otherwise="")
    evaluation.scores.put("decoding", asdict(world.decoding), otherwise="")
    write_report(out, evaluation, title=f"Evaluation of {ckpt}", fps=data.fps or rollout.FPS)
    print(text_table(evaluation.scores))
    print(f"wrote {METRICS}, report.md and its pictures to {out}")


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The true actions of a store, after each frame, their names, and a probe told those of training episodes."""

    actions: Int64[np.ndarray, " frames"]
    names: list[str]
    probe: Probe


def evaluate(world: World, data: ClipDataModule, *, clips: int, seed: int) -> Evaluation:
    """Measure a world on the held-out frames of `data`, and `clips` windows of them where it imagines.

    Raises:
        ValueError: no held-out episode has one frame more than the world sees.
    """
    context = world.context_length
    films = _clips(data, context=context, count=clips, seed=seed)
    truth, lacking = find_truth(data, seed=seed)
    probe = None if truth is None else truth.probe
    seen = held_out_transitions(world.dynamics.action_tokenizer, data, probe, length=context)
    rebuilt = held_out_reconstructions(world.dynamics.video_tokenizer, data, probe, length=context)
    counts = np.bincount(seen.codes, minlength=world.n_actions)
    used = np.flatnonzero(control.in_use(counts))

    scores = Scores()
    put_tokens(scores, rebuilt.quality)
    confusion = put_actions(scores, seen, counts, truth, lacking)
    foretelling = prediction.foretell(world, films, shares=counts / counts.sum(), seed=seed)
    _put_prediction(scores, foretelling, longest=_longest(data))
    pairs = prediction.under_each_code(world, films[:, :context], used)
    margin = prediction.action_margin(
        pairs[:, :, 1],
        used,
        inferred=foretelling.actions[:, 0],
        own=foretelling.inferred[:, 1],
        true=films[:, context],
    )
    scores.put("prediction", {"action_margin": margin}, otherwise="")
    obedience = put_obedience(scores, pairs, used, confusion, seen.before, rebuilt.read, truth, lacking)
    _put_speed(scores, world, films[0, :context])
    return Evaluation(
        scores=scores,
        counts=counts,
        meanings=scores.values["actions.names"] or [None] * world.n_actions,
        action_names=[] if truth is None else truth.names,
        confusion=confusion,
        obedience=obedience,
        foretelling=foretelling,
        each_action=rollout.each_action(world, films[0, :context], steps=films.shape[1] - context),
    )


def find_truth(data: ClipDataModule, *, seed: int) -> tuple[Truth | None, str]:
    """The truth of a store that holds it, or None and why not."""
    store = data.store
    try:
        actions = actions_of(store, 0, store.num_frames)
    except ValueError as error:
        return None, str(error)
    names = list(store.action_names or map(str, range(int(actions.max()) + 1)))
    probe = cached_probe(store, data.training_spans, n_actions=len(names), seed=seed)
    return Truth(actions=actions, names=names, probe=probe), ""


def _longest(data: ClipDataModule) -> int:
    """Frames of the longest held-out episode."""
    return int((data.held_out_spans[:, 1] - data.held_out_spans[:, 0]).max())


def _clips(data: ClipDataModule, *, context: int, count: int, seed: int) -> UInt8[np.ndarray, "{count} T H W 3"]:
    """Windows of held-out frames: what the world sees, and as many more as are scored, or as there are."""
    steps = min(max(STEPS), _longest(data) - context)
    if steps < 1:
        raise ValueError(
            f"{data.path}: the longest held-out episode has {_longest(data)} frames; "
            f"this world sees {context}, and one more is needed: evaluate it on a longer recording with store="
        )
    return data.held_out_clips(count=count, length=context + steps, seed=seed)


def put_tokens(scores: Scores, quality: dict[str, float]) -> None:
    """Score the reconstructions and the codes in them; `quality` as in `Reconstructions`."""
    frames = {name: quality[name] for name in ("psnr", "ssim", "psnr_moving")}
    scores.put("reconstruction", frames, otherwise="nothing moves in the held-out frames")
    scores.put("codes", {"used": int(quality["used"]), "perplexity": quality["perplexity"]}, otherwise="")
    scores.put("codes", {"flicker": quality["flicker"]}, otherwise="every patch moves in the held-out frames")


def put_actions(
    scores: Scores, seen: Transitions, counts: Int64[np.ndarray, " codes"], truth: Truth | None, lacking: str
) -> Int64[np.ndarray, "codes actions"] | None:
    """Score the inferred actions, `counts` of each; returns how often each went with each true one."""
    scores.put("actions", {"perplexity": float(perplexity(torch.from_numpy(counts)))}, otherwise="")
    if truth is None:
        unknown = ("nmi", "accuracy", "majority", "supervised", "control_score", "names")
        scores.put("actions", dict.fromkeys(unknown), otherwise=lacking)
        return None
    true = truth.actions[seen.before]
    found = control.action_scores(seen.codes, true, read=seen.read, episodes=seen.episode)
    scores.put("actions", found, otherwise="")
    score, reason = None, ""
    try:
        score = control.control_score(**{name: found[name] for name in ("accuracy", "majority", "supervised")})
    except ValueError as error:
        reason = str(error)
    scores.put("actions", {"control_score": score}, otherwise=reason)
    confusion = control.count_pairs(seen.codes, true, n_codes=len(counts), n_actions=len(truth.names))
    meant = [truth.names[action] for action in control.best_map(confusion)]
    known = control.in_use(counts) & control.clear(confusion)
    names = [name if clear else None for name, clear in zip(meant, known, strict=True)]
    scores.put("actions", {"names": names}, otherwise="")
    return confusion


def _put_prediction(scores: Scores, foretelling: Foretelling, *, longest: int) -> None:
    """Score the rollouts at each of `STEPS` and what random actions cost; None for steps that no episode has."""
    still = "nothing moves in these frames"
    found = {**prediction.scores(foretelling), **prediction.control_gain(foretelling)}
    wanted = [(name, k) for k in STEPS for name in ("psnr", "psnr_moving", "copy_psnr", "copy_psnr_moving")]
    wanted += [(name, CONTROL_STEP) for name in ("delta_psnr", "delta_psnr_moving")]
    for name, k in wanted:
        needed = foretelling.prompt + k
        short = f"the longest held-out episode has {longest} frames, k={k} takes {needed}"
        value = {f"{name}_{k}": found.get(f"{name}_{k}")}
        scores.put("prediction", value, otherwise=short if longest < needed else still)


def put_obedience(
    scores: Scores,
    pairs: UInt8[np.ndarray, "N codes 2 H W 3"],
    codes: Int64[np.ndarray, " codes"],
    confusion: Int64[np.ndarray, "n_codes actions"] | None,
    before: Int64[np.ndarray, " n"],
    reread: Int64[np.ndarray, " m"],
    truth: Truth | None,
    lacking: str,
) -> Float[np.ndarray, "actions actions"] | None:
    """Score what the probe reads off the transitions imagined under each of `codes`; the table of it.

    `reread`: what it reads off the rebuilt frames after those `before`.
    """
    if truth is None or confusion is None:
        scores.put("obedience", dict.fromkeys(("accuracy", "chance", "reconstructed")), otherwise=lacking)
        return None
    size, present = len(truth.names), confusion.sum(0) > 0
    shown, imagined = (rearrange(pairs[:, :, place], "n k h w c -> (n k) h w c") for place in (0, 1))
    meant, use = control.best_map(confusion)[codes], confusion.sum(1)[codes].astype(float)
    table = control.readings(
        np.tile(meant, len(pairs)),
        truth.probe.read(shown, imagined),
        n_actions=size,
        weights=np.tile(use, len(pairs)),
    )
    rebuilt = control.readings(truth.actions[before], reread, n_actions=size)
    found = {
        "accuracy": control.obeyed(table, present),
        "chance": 1 / int(present.sum()),
        "reconstructed": control.obeyed(rebuilt, present),
    }
    scores.put("obedience", found, otherwise="")
    return table


def _put_speed(scores: Scores, world: World, prompt: UInt8[np.ndarray, "T H W 3"]) -> None:
    """Time single steps of one game, after two that are not counted."""
    world.reset(prompt)
    times = []
    for _ in range(2 + TIMED_STEPS):
        begun = time.perf_counter()
        world.step(0)
        times.append(time.perf_counter() - begun)
    found = {
        "frames_per_second": 1 / median(times[2:]),
        "parameters": sum(parameter.numel() for parameter in world.dynamics.parameters()),
        "hardware": hardware(world.dynamics.device),
    }
    scores.put("speed", found, otherwise="")


if __name__ == "__main__":
    main()
