"""``python play.py mode=rollout``: films and pictures of what a world imagines."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from omegaconf import DictConfig, ListConfig

from tinyworlds import scenes
from tinyworlds.addresses import beside
from tinyworlds.data.settings import check_whole
from tinyworlds.media import replacing, save_gif, save_mp4, save_png
from tinyworlds.play import rollout
from tinyworlds.play.opening import action_names, open_world
from tinyworlds.play.recording import frames_digest, read_log, replay, save_films
from tinyworlds.world import World


def play(config: DictConfig) -> None:
    """Write rollout.mp4, .gif and .png, actions.gif and .png, and next_frame.json; or a recording, played again.

    Where the frames of its game are not at hand, a world goes on from a scene that came with it, and is not scored.
    """
    check_whole("frames", config.frames, at_least=1)
    ckpt, world = open_world(config)
    out = Path(config.out or beside(ckpt, "play", runs_dir=config.runs_dir))
    if is_recording(config.actions):
        _replay(world, Path(config.actions), out)
        return
    prompt = config.prompt or world.context_length
    check_whole("prompt", prompt, at_least=1)
    wanted = list(config.actions) if isinstance(config.actions, ListConfig) else config.actions
    try:
        data = scenes.held_out(world.dynamics, store=config.store)
    except FileNotFoundError:
        found = scenes.find(world.dynamics, store=config.store, folder=world.folder)  # or the same complaint
        scene = found[config.seed % len(found)][-prompt:]
        write_imagined(out, world, scene, frames=config.frames, wanted=wanted, seed=config.seed)
    else:
        fps = data.fps or rollout.FPS
        clip = data.held_out_clips(count=1, length=prompt + config.frames, seed=config.seed)[0]
        actions = rollout.choose_actions(world, clip, prompt=prompt, wanted=wanted, seed=config.seed)
        write_films(out, world, clip, actions, prompt=prompt, fps=fps)
        clips = data.held_out_clips(count=config.clips, length=world.context_length, seed=config.seed)
        _score_next_frame(out, world, clips)
    print(f"wrote {', '.join(sorted(path.name for path in out.iterdir()))} to {out}")


def is_recording(actions: Any) -> bool:
    """Whether ``actions=`` names the log of a recording."""
    return isinstance(actions, str) and actions.endswith(".json")


def write_films(out: Path, world: World, clip: np.ndarray, actions: np.ndarray, *, prompt: int, fps: float) -> None:
    """What the world makes of the first frames of a clip: under `actions` beside the truth, and under each action."""
    imagined = rollout.imagine(world, clip, actions, prompt=prompt)
    film = rollout.side_by_side(clip, imagined)
    save_mp4(out / "rollout.mp4", film, fps)
    save_gif(out / "rollout.gif", film, fps)
    save_png(out / "rollout.png", rollout.strip(clip, imagined, prompt=prompt))

    _write_each_action(out, world, clip[:prompt], steps=len(clip) - prompt, fps=fps)


def write_imagined(
    out: Path, world: World, scene: UInt8[np.ndarray, "T H W 3"], *, frames: int, wanted: Any, seed: int
) -> None:
    """What the world makes of a scene, of which nobody knows how it went on; actions to infer are drawn at random."""
    still = np.concatenate([scene, np.repeat(scene[-1:], frames, axis=0)])
    wanted = "random" if wanted == "inferred" else wanted
    actions = rollout.choose_actions(world, still, prompt=len(scene), wanted=wanted, seed=seed)
    imagined = rollout.imagine(world, still, actions, prompt=len(scene))
    save_films(out, "rollout", imagined, rollout.FPS)
    save_png(out / "rollout.png", rollout.actions_strip(imagined[None, len(scene) - 1 :], rows=["imagined"]))
    _write_each_action(out, world, scene, steps=frames, fps=rollout.FPS)


def _write_each_action(out: Path, world: World, prompt: np.ndarray, *, steps: int, fps: float) -> None:
    films = rollout.each_action(world, prompt, steps=steps)
    labels = rollout.action_labels(action_names(world))
    save_gif(out / "actions.gif", rollout.actions_film(films, columns=labels), fps)
    save_png(out / "actions.png", rollout.actions_strip(films, rows=labels))


def _score_next_frame(out: Path, world: World, clips: np.ndarray) -> None:
    quality = rollout.next_frame_quality(world, clips)
    with replacing(out / "next_frame.json") as unfinished:
        unfinished.write_text(json.dumps(quality, indent=2) + "\n")
    print(
        f"next frame of {len(clips)} held-out clips: {quality['psnr']:.2f} dB, "
        f"repeating the last one {quality['copy_psnr']:.2f} dB; on what moves "
        f"{quality['psnr_moving']:.2f} and {quality['copy_psnr_moving']:.2f} dB"
    )


def _replay(world: World, path: Path, out: Path) -> None:
    """Write the films of a recording from its log alone, and say whether they are the same."""
    log = read_log(path, world.dynamics)
    frames = replay(log, world.dynamics)
    save_films(out, "replay", frames, log["fps"])
    if frames_digest(frames) == log["sha256"]:
        print(f"the same {len(frames)} frames as recorded")
    else:
        print(
            f"{len(frames)} frames, not all of them as recorded: another processor, version of torch or number of "
            "threads rounds differently"
        )
    print(f"wrote replay.gif and replay.mp4 to {out}")
