"""A world as people share it: a folder of plain files, here or on the Hugging Face Hub, that can run no code.

model.safetensors  the weights of the dynamics and of both tokenizers
config.json        {"format": 1, "hyper_parameters": …, "command": how it was trained, or null}
README.md          the model card
metrics.json       what the evaluation found, where it was evaluated
preview.gif        what each action does, where that was drawn
scenes.png         held-out frames to begin from, where they were at hand
"""

import contextlib
import json
import re
import shlex
import tempfile
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from tinyworlds import scenes
from tinyworlds.addresses import HUB, split_address
from tinyworlds.checkpoints import RESULT, load_stage
from tinyworlds.json_files import read_object
from tinyworlds.maskgit import Decoding
from tinyworlds.media import replacing
from tinyworlds.model_card import world_card
from tinyworlds.models import Dynamics
from tinyworlds.models.description import check_tensors, describe, walk
from tinyworlds.repository import check_repo, fetch, upload
from tinyworlds.scenes import SCENES
from tinyworlds.torch_files import first_line

FORMAT = 1
WEIGHTS, CONFIG, CARD, METRICS, PREVIEW = "model.safetensors", "config.json", "README.md", "metrics.json", "preview.gif"
MAX_PREVIEW_BYTES = 50 * 10**6

DTYPES = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64, "U8": torch.uint8}


class Opened(NamedTuple):
    """A world's dynamics, and the folder that holds what else is known of it."""

    dynamics: Dynamics
    folder: Path


def open_world(where: str | Path) -> Opened:
    """Read a world from a checkpoint, from a folder, or from ``hf://user/name[@revision]``.

    Raises:
        FileNotFoundError: there is none, or it cannot be downloaded.
        ValueError: it is something else.
    """
    if str(where).startswith(HUB):
        repo, revision = split_address(str(where))
        folder = fetch_world(repo, revision=revision)
        return Opened(load(folder), folder)
    path = Path(where)
    if path.is_dir():
        return Opened(load(path), path)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no checkpoint {path}, nor a folder of that name; a world of the Hub is {HUB}user/name"
        )
    return Opened(load_stage(path, Dynamics), path.parent)


def fetch_world(repo: str, *, revision: str | None = None) -> Path:
    """The folder in the Hub's cache that has the config and the weights of a world, both of one commit.

    Figures and scenes come along where there are some.

    Raises:
        FileNotFoundError: they cannot be had.
        ValueError: what comes is not what the Hub promised.
    """
    place = f"with {CONFIG} and {WEIGHTS} of that page in a folder, which is then opened as ckpt=FOLDER"
    folder = fetch(repo, CONFIG, kind="model", revision=revision, place=place).parent
    fetch(repo, WEIGHTS, kind="model", revision=folder.name, place=place)
    for extra in (METRICS, SCENES):
        with contextlib.suppress(FileNotFoundError):  # not every world has them
            fetch(repo, extra, kind="model", revision=folder.name, place=place)
    return folder


def save(
    dynamics: Dynamics,
    folder: Path,
    *,
    decoding: Decoding,
    known: Path | None,
    repo: str,
    license: str,
    half: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a world that is played by `decoding`; `known` has its evaluation and the result of its training.

    With `half` weights are rounded to float16. Then, and where it was decoded otherwise, figures and film of the world
    as it was do not come along.

    Raises:
        ValueError: such a file is there already, and not to be overwritten.
    """
    there = [folder / name for name in (WEIGHTS, CONFIG, CARD, METRICS, PREVIEW, SCENES) if (folder / name).exists()]
    if there and not overwrite:
        raise ValueError(f"{there[0]} is there already: move it away, or choose another folder")
    weights, rounded = _weights(dynamics, half=half)
    another = rounded or decoding != dynamics.decoding
    command = _command(known)
    hyperparameters = {**dynamics.hparams, "decoding": asdict(decoding)}
    config = {"format": FORMAT, "hyper_parameters": _portable(hyperparameters), "command": command}
    metrics = None if another else _first(known, f"evaluation/{METRICS}", METRICS)
    figures = None if metrics is None else read_object(metrics, "result of an evaluation")
    preview = None if another else _preview(known)
    companions = {METRICS: metrics and metrics.read_bytes(), PREVIEW: preview, SCENES: _scenes(dynamics, known)}
    card = world_card(
        dynamics,
        metrics=figures,
        preview=PREVIEW if preview else None,
        scenes=companions[SCENES] is not None,
        command=command,
        repo=repo,
        license=license,
    )
    # The config goes first and comes last: a folder that has one is complete, and of one world.
    (folder / CONFIG).unlink(missing_ok=True)
    with replacing(folder / WEIGHTS) as unfinished:
        save_file(weights, unfinished)
    texts = {CARD: card, CONFIG: json.dumps(config, indent=2, allow_nan=False) + "\n"}
    for name, content in {**companions, **{name: text.encode() for name, text in texts.items()}}.items():
        if not content:
            (folder / name).unlink(missing_ok=True)  # of the world that was here before
            continue
        with replacing(folder / name) as unfinished:
            unfinished.write_bytes(content)


def _weights(dynamics: Dynamics, *, half: bool) -> tuple[dict[str, torch.Tensor], bool]:
    """What is kept of a world, and whether that changes it; with `half` what is learned by gradients is float16.

    Raises:
        ValueError: a weight is too large for float16.
    """
    state = {name: value.contiguous().cpu() for name, value in dynamics.state_dict().items()}
    learned = [name for name, _ in dynamics.named_parameters()] if half else []
    kept = state | {name: state[name].half() for name in learned}
    for name in learned:
        if not kept[name].isfinite().all():
            raise ValueError(f"half=True: {name} holds weights beyond {torch.finfo(torch.float16).max}; leave it out")
    return kept, any(not torch.equal(kept[name].float(), state[name]) for name in learned)


def push(dynamics: Dynamics, repo: str, *, decoding: Decoding, known: Path | None, private: bool, license: str) -> str:
    """Upload what `save` writes to the Hub's repository ``user/name``; returns its address.

    Raises:
        ValueError: the Hub does not take it.
    """
    check_repo(repo)
    with tempfile.TemporaryDirectory() as folder:
        save(dynamics, Path(folder), decoding=decoding, known=known, repo=repo, license=license)
        content: dict[str, Path | bytes] = {path.name: path for path in sorted(Path(folder).iterdir())}
        return upload(repo, content, kind="model", private=private, message="A world of TinyWorlds")


def load(folder: Path) -> Dynamics:
    """The world in a folder, ready for use on the CPU.

    Config and tensor header are checked against limits and against each other before memory is taken for them.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: they are not those of a world.
    """
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"there is no world in {folder}: it has no {name}")
    hyperparameters = read_config(folder / CONFIG)["hyper_parameters"]
    try:
        described = describe(Dynamics, hyperparameters)
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} describes no world: {error}") from None
    header = _header(folder / WEIGHTS)
    try:
        check_tensors(described, header)
    except ValueError as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit its {CONFIG}: {error}") from None
    dynamics = Dynamics.from_hyperparameters(hyperparameters)
    dynamics.load_state_dict(load_file(folder / WEIGHTS))
    return dynamics.eval()


def read_config(path: Path) -> dict[str, Any]:
    """A world's config.json, its frame sizes as they were.

    Raises:
        ValueError: it is none.
    """
    config = read_object(path, "config of a world")
    if not isinstance(config.get("hyper_parameters"), dict):
        raise ValueError(f"{path} is no config of a world: it has no hyper_parameters")
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no config of a world: its format is {config.get('format')!r}, "
            f"this version of TinyWorlds reads {FORMAT}"
        )
    for part in _mappings(config["hyper_parameters"]):
        if isinstance(part.get("frame_size"), list):  # JSON knows no tuples
            part["frame_size"] = tuple(part["frame_size"])
    return config


def _mappings(config: dict[str, Any]) -> list[dict[str, Any]]:
    return [value for _, value, _ in walk(config) if isinstance(value, dict)]


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], torch.dtype | None]]:
    """The shapes and types of weights. safetensors reads no tensors for it, but checks that they are all there."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return {name: (tuple(s.get_shape()), DTYPES.get(s.get_dtype())) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no safetensors file: {first_line(error)}") from None


def _portable(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """A copy in which no store is named by an absolute path, which says more of its owner than of the world."""
    copied: dict[str, Any] = json.loads(json.dumps(hyperparameters, allow_nan=False))
    for part in _mappings(copied):
        path = part.get("path")
        if isinstance(path, str) and PurePath(path).is_absolute():
            part["path"] = PurePath(path).name
    return copied


def _command(known: Path | None) -> str | None:
    """The command line that trained the world, where the folder says."""
    path = _first(known, RESULT, CONFIG)
    command = None if path is None else read_object(path, "result of a run or config of a world").get("command")
    return _without_folders(command) if isinstance(command, str) else None


def _without_folders(command: str) -> str:
    """The command line with the names alone of the files that it calls by absolute paths."""
    try:
        words = shlex.split(command)
    except ValueError:  # it is none
        return command
    named = [re.sub(r"(=['\"]?)/.*/", r"\1", word) for word in words]
    return command if named == words else shlex.join(named)


def _first(folder: Path | None, *names: str) -> Path | None:
    """The first of these files that is in the folder.

    Whoever made the folder may have put links to files of its user there, which are not to be passed on.

    Raises:
        ValueError: it is such a link.
    """
    path = next((folder / name for name in names if folder is not None and (folder / name).is_file()), None)
    if path is not None and folder is not None:
        homes = (folder.resolve(), Path(constants.HF_HUB_CACHE).resolve())  # the Hub's cache is all links
        if not any(path.resolve().is_relative_to(home) for home in homes):
            raise ValueError(f"{path} is a link that leads outside of the world's folder: remove it")
    return path


def _preview(known: Path | None) -> bytes | None:
    """The film of what each action does, where there is one."""
    path = _first(known, "evaluation/actions.gif", "play/actions.gif", PREVIEW)
    if path is None:
        return None
    with path.open("rb") as file:
        film = file.read(MAX_PREVIEW_BYTES + 1)
    if not film.startswith(b"GIF8") or len(film) > MAX_PREVIEW_BYTES:
        raise ValueError(f"{path} is no GIF of at most {MAX_PREVIEW_BYTES} bytes: remove it")
    return film


def _scenes(dynamics: Dynamics, known: Path | None) -> bytes | None:
    """Frames to begin from, as they are or out of the store that the world was trained on, where there are some."""
    path = _first(known, SCENES)
    try:
        found = scenes.find(dynamics, store=None, folder=None if path is None else path.parent)
    except (FileNotFoundError, ValueError):  # no store, or now another one of that name
        if path is not None:
            raise
        return None
    return scenes.png_bytes(found)
