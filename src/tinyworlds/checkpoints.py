"""Trained stages on disk: reading their checkpoints, and finding the newest finished run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tinyworlds import torch_files
from tinyworlds.data.settings import check_number
from tinyworlds.json_files import read_object
from tinyworlds.media import replacing
from tinyworlds.models import ActionTokenizer, Stage, VideoTokenizer
from tinyworlds.models.description import AnyStage, check_tensors, describe
from tinyworlds.models.stage import METRIC
from tinyworlds.models.tokenizers import Tokenizers

RESULT = "result.json"
"""Written into a run's folder when it has finished; names its best checkpoint."""


def load_stage(path: str | Path, kind: type[AnyStage]) -> AnyStage:
    """The trained stage in a checkpoint, ready for use on the CPU. The file can't run code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no checkpoint of a `kind`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        checkpoint = torch_files.load(path)
    except ValueError as error:
        raise ValueError(f"{path} is no checkpoint of TinyWorlds: it {str(error).removeprefix(f'{path} ')}") from None
    stage = checkpoint.get("stage") if isinstance(checkpoint, dict) else None
    if stage is None:
        raise ValueError(f"{path} is no checkpoint of TinyWorlds: it names no stage")
    if stage != kind.name:
        raise ValueError(f"{path} holds stage={stage}, but stage={kind.name} is needed here")
    hyperparameters, tensors = (checkpoint.get(key) for key in ("hyper_parameters", "state_dict"))
    if not isinstance(hyperparameters, dict) or not isinstance(tensors, dict):
        raise ValueError(f"{path} is no checkpoint of TinyWorlds: it has no hyper_parameters or no state_dict")
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()):
        raise ValueError(f"{path} is no checkpoint of TinyWorlds: its state_dict holds more than tensors")
    try:
        described = describe(kind, hyperparameters)
        check_tensors(described, {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()})
    except ValueError as error:
        raise ValueError(f"{path} was made by another version of TinyWorlds: {error}") from None
    model = kind.from_hyperparameters(hyperparameters)
    model.load_state_dict(tensors)
    model.loaded_from = path
    return model.eval()


def save_stage(stage: Stage, path: str | Path) -> None:
    """Write a trained stage as a checkpoint that `load_stage` reads."""
    checkpoint = {"state_dict": stage.state_dict(), "hyper_parameters": dict(stage.hparams)}
    stage.on_save_checkpoint(checkpoint)
    with replacing(path) as unfinished:
        torch.save(checkpoint, unfinished)


def load_tokenizers(
    *,
    video_tokenizer: str | None,
    action_tokenizer: str | None,
    runs_dir: str | Path,
    frame_size: tuple[int, int],
    dataset: Mapping[str, Any],
) -> Tokenizers:
    """The tokenizers of the checkpoints given, None for the newest finished one of the `dataset`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: one is no checkpoint of its kind, or was trained on other frames.
    """

    def load(given: str | None, kind: type[AnyStage]) -> AnyStage:
        path = given or newest(runs_dir, str(dataset["name"]), kind.name)
        print(f"{kind.name}: {path}", flush=True)
        tokenizer = load_stage(path, kind)
        tokenizer.check_fits(path, frame_size=frame_size, dataset=dataset)
        return tokenizer

    return Tokenizers(load(video_tokenizer, VideoTokenizer), load(action_tokenizer, ActionTokenizer))


def write_result(
    folder: Path,
    *,
    stage: str,
    checkpoint: Path,
    metric: float,
    seconds: float,
    command: str,
    tokenizers: Sequence[str | Path] = (),
) -> None:
    """Mark the run in `folder` as finished; `metric` is the validation loss of its best `checkpoint` there.

    `seconds` is what the run took; ``seconds_in_all`` adds what the runs of the `tokenizers` took that it is
    built on, and is None where one of these does not say.
    """
    parts = [seconds, *(training_seconds(Path(path).parent)[0] for path in tokenizers)]
    result = {
        "stage": stage,
        "checkpoint": checkpoint.name,
        METRIC: metric,
        "seconds": round(seconds, 1),
        "seconds_in_all": None if None in parts else round(sum(part for part in parts if part is not None), 1),
        "command": command,
    }
    with replacing(folder / RESULT) as unfinished:
        unfinished.write_text(json.dumps(result, indent=2) + "\n")


def training_seconds(folder: Path) -> tuple[float | None, str]:
    """What the run in `folder` took, with the tokenizers it is built on; None where that is not known, and why.

    The reason names no folder, since it goes into the figures that are shared with a world.
    """
    path = folder / RESULT
    if not path.is_file():
        return None, f"there is no {RESULT}, which a finished run leaves beside its checkpoint"
    seconds = read_object(path, "result of a run").get("seconds_in_all")
    if seconds is not None:
        check_number(f"{path}: seconds_in_all", seconds, at_least=0)
    return seconds, "" if seconds is not None else f"{RESULT} does not know how long the tokenizers were trained"


def newest(runs_dir: str | Path, dataset: str, stage: str) -> Path:
    """The best checkpoint of the newest finished run of a stage on a dataset.

    Runs are named by the time they were started; members of sweeps, in folders further down, are passed over.

    Raises:
        FileNotFoundError: there is none; the sentence says which command makes one.
        ValueError: its result is damaged.
    """
    results = sorted(Path(runs_dir).glob(f"{dataset}/{stage}/*/{RESULT}"))
    if not results:
        raise FileNotFoundError(
            f"no finished {stage} of data={dataset} in {runs_dir}/: "
            f"make one with `python train.py stage={stage} data={dataset}`"
            f", or name a checkpoint with {'ckpt' if stage == 'dynamics' else stage}=PATH"
        )
    return finished(results[-1].parent)[0]


def finished(folder: Path) -> tuple[Path, float]:
    """The best checkpoint of the finished run in `folder`, and its validation loss.

    Raises:
        FileNotFoundError: it has not finished.
        ValueError: its result is damaged.
    """
    path = folder / RESULT
    result = read_object(path, "result of a run")
    name = result.get("checkpoint")
    if not isinstance(name, str) or name in ("", "..") or Path(name).name != name:
        raise ValueError(f"{path} is no result of a run: its checkpoint is no file beside it")
    return folder / name, float(result.get(METRIC, "nan"))
