"""Open and write the public project's checkpoints.

python -m tinyworlds.interop video_tokenizer=… action_tokenizer=… dynamics=… out=world
python -m tinyworlds.interop --to-public ckpt=world out=public
"""

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from tinyworlds import public_format, torch_files
from tinyworlds.checkpoints import save_stage
from tinyworlds.command import command
from tinyworlds.media import replacing
from tinyworlds.models import STAGES, Dynamics, Stage, VideoTokenizer
from tinyworlds.models.description import describe
from tinyworlds.world import World

WEIGHTS, STATE = "model_state_dict.pt", "state.pt"
"""The files of a checkpoint that is a folder."""
CLASSES = {f"utils.config {name}" for name in ("DistributedConfig", "FSDPMixedPrecisionConfig", "DeviceType")}
"""What the configs of such checkpoints name, of which nothing says anything of a model."""
CALLED = {"video_tokenizer": "video_tokenizer", "action_tokenizer": "latent_actions", "dynamics": "dynamics"}
"""The public project's names of the stages."""


@command("interop")
def main(config: DictConfig) -> None:
    """Convert one way or the other, as conf/interop.yaml says."""
    out = Path(config.out)
    if config.to_public:
        if config.ckpt is None:
            raise ValueError("ckpt= is missing: name the world to write")
        written = to_public(World.load(config.ckpt).dynamics, out)
        print(f"wrote {', '.join(sorted(path.name for path in written))} to {out}")
        return
    for name in STAGES:
        if config[name] is None:
            raise ValueError(f"{name}= is missing: name the public project's checkpoint, a file or a folder")
    if out.exists():
        raise ValueError(f"out={out} is there already: move it away, or choose another name")
    world = convert(*(Path(config[name]) for name in STAGES))
    if out.suffix == ".ckpt":
        save_stage(world, out)
    else:
        World(world).save_pretrained(out)
    print(f"wrote {out}; play it: python play.py ckpt={out} store=FRAMES.h5")


def convert(video_tokenizer: Path, action_tokenizer: Path, dynamics: Path) -> Dynamics:
    """The world in three checkpoints of the public project, each one file or a folder, ready for use on the CPU.

    They say nothing of a store, so to play it `play.py` is given one.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is no such checkpoint, or one of a model that there is not here.
    """
    paths = dict(zip(STAGES, (video_tokenizer, action_tokenizer, dynamics), strict=True))
    read = {name: read_checkpoint(path) for name, path in paths.items()}
    options = {name: _about(paths[name], public_format.hyperparameters, name, read[name][0]) for name in STAGES}
    for key in ("frame_size", "patch_size", "latent_dim", "num_bins"):
        own, tokenizers = (read[name][0][key] for name in (Dynamics.name, VideoTokenizer.name))
        if own != tokenizers:
            raise ValueError(f"{dynamics} is for {key}={own}, but {video_tokenizer} has {key}={tokenizers}")
    whole = {**options.pop(Dynamics.name), **options}
    for name, part in options.items():
        _about(paths[name], describe, STAGES[name], part)
    described = _about(dynamics, describe, Dynamics, whole)
    for name, stage in stages_of(described).items():
        _about(paths[name], public_format.check, stage, read[name][1])
    world = Dynamics.from_hyperparameters(whole)
    for name, stage in stages_of(world).items():
        _about(paths[name], public_format.fill, stage, read[name][1])
    return world.eval()


def to_public(world: Dynamics, folder: Path) -> list[Path]:
    """Write a world as three folders of the public project's layout, in `folder`; returns them.

    Raises:
        ValueError: the public project has no such model (the sentence names the option that stands in the way),
            or such a folder is there already.
    """
    stages = stages_of(world)
    configs = {name: public_format.config(stage, world) for name, stage in stages.items()}
    folders = {name: folder / f"{CALLED[name]}_step_0" for name in stages}
    for path in folders.values():
        if path.exists():
            raise ValueError(f"{path} is there already: move it away, or give another out=")
    for name, stage in stages.items():
        state = {"config": configs[name], "step": 0, "scheduler_state_dict": None}
        weights = {key: tensor.clone() for key, tensor in public_format.tensors(stage).items()}
        for file, content in ((WEIGHTS, weights), (STATE, state)):
            with replacing(folders[name] / file) as unfinished:
                torch.save(content, unfinished)
    return list(folders.values())


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of a checkpoint in either of the public project's layouts.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is no such checkpoint.
    """
    if path.is_dir():
        state = torch_files.load_plain(path / STATE, stand_ins=CLASSES)
        config, tensors = _entry(state, "config"), torch_files.load(path / WEIGHTS)
    else:
        file = torch_files.load(path)
        config, tensors = _entry(file, "config"), _entry(file, "model")
    if not isinstance(config, dict) or not isinstance(tensors, dict):
        raise ValueError(f"{path} is no checkpoint of the public TinyWorlds: it has no model with a config")
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()):
        raise ValueError(f"{path} is no checkpoint of the public TinyWorlds: its model holds more than tensors")
    return config, tensors


def stages_of(world: Dynamics) -> dict[str, Stage]:
    """The three stages that a world is made of, by name."""
    return {stage.name: stage for stage in (world.video_tokenizer, world.action_tokenizer, world)}


def _entry(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _about(path: Path, task: Any, *arguments: Any) -> Any:
    """Do a task whose complaints are about a file."""
    try:
        return task(*arguments)
    except ValueError as error:
        raise ValueError(f"{path} can't be converted: {error}") from None


if __name__ == "__main__":
    sys.argv[1:] = ["to_public=true" if argument == "--to-public" else argument for argument in sys.argv[1:]]
    main()
