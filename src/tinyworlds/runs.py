"""Folders of runs: one for each, and which of them can go on."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]  # no stubs needed for one error

from tinyworlds.checkpoints import RESULT
from tinyworlds.data.collection import short_name
from tinyworlds.divergence import LAST
from tinyworlds.media import replacing

CONFIG = "config.yaml"
LOCK = ".lock"
MAY_DIFFER = (
    "resume",
    "run_dir",
    "runs_dir",
    "data_dir",
    "data._target_",
    "data.num_workers",
    "data.copies",
    "logger",
    "callbacks.checkpoint.dirpath",
    "callbacks.last.every_n_steps",
    "callbacks.progress",
    "callbacks.throughput",
    "callbacks.pictures",
    "trainer.accelerator",
    "trainer.strategy",
    "activation_checkpointing",
)
"""Options, with all below them, that change nothing of what a run learns but how it is rounded: ``precision=auto``
follows the accelerator, and of the data name, path and settings say what they are, whichever class makes them."""
MAX_NAMES = 1000
"""So many are tried where a run's folder can't be made."""
PROCESSES = ("trainer.devices", "trainer.num_nodes")
"""Where these differ, so may the batch size of a process: the loader sees to it that all batches together do not."""


def first_process() -> bool:
    """Whether this is the first of the processes that train together: the one that writes."""
    return not getattr(rank_zero_only, "rank", 0)


@contextmanager
def claimed(folder: Path) -> Iterator[Path]:
    """A new run's folder, this process's alone: `folder`, or the next free name where that is another's.

    Raises:
        ValueError: it can't be made or written to.
    """
    if not first_process():  # the first process does it for all
        yield folder
        return
    for number in count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        try:
            candidate.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            # It, or the one above, may just have been removed by a process that was refused there.
            if isinstance(error, FileNotFoundError | FileExistsError) and number < MAX_NAMES:
                continue
            raise ValueError(f"the run's folder {folder} can't be made: {error.strerror}; choose runs_dir=") from None
        with locked(candidate) as free:
            if free and not (candidate / CONFIG).exists():
                try:
                    yield candidate
                finally:
                    if not (candidate / CONFIG).exists():  # refused before it began
                        discard(candidate, LOCK)
                return


@contextmanager
def continued(folder: Path) -> Iterator[Path]:
    """The folder of a run that goes on, this process's alone.

    Raises:
        ValueError: another process is training there, or it can't be written to.
    """
    with locked(folder) if first_process() else contextlib.nullcontext(True) as free:
        if not free:
            raise ValueError(f"resume={folder}: another process is training there, wait until it has ended")
        yield folder


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether the folder could be locked; the system unlocks it when the process ends, however it does.

    Where the file system has no locks every folder passes for free. One that another process removes meanwhile does
    not.

    Raises:
        ValueError: it can't be written to.
    """
    try:
        file = (folder / LOCK).open("a")
    except FileNotFoundError:
        yield False
        return
    except OSError as error:
        raise ValueError(f"the run's folder {folder} can't be written to: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass
        yield os.fstat(file.fileno()).st_nlink > 0


def save_config(config: DictConfig, folder: Path) -> None:
    """Write what a run was told, all of it."""
    if first_process():
        with replacing(folder / CONFIG) as unfinished:
            OmegaConf.save(config, unfinished, resolve=True)


def unfinished(runs: Path, config: DictConfig, *, needs: str) -> Path | None:
    """The newest run in `runs`, members of sweeps included, of this `config` that has not finished and has the file
    `needs`, and that no other job is training. What can't be read or written to is passed over."""
    for folder in sorted(
        (path.parent for path in (*runs.glob(f"*/{CONFIG}"), *runs.glob(f"*/*/{CONFIG}"))), reverse=True
    ):
        with contextlib.suppress(ValueError, OSError):
            if (folder / RESULT).exists() or not (folder / needs).exists() or differences(folder, config):
                continue
            with locked(folder) if first_process() else contextlib.nullcontext(True) as free:
                if free:  # to the other processes of a job it is not: the first may have locked it already
                    return folder
    return None


def differences(folder: Path, config: DictConfig) -> list[str]:
    """The options that matter in which a run's config differs from `config`, as ``key=there, here other``.

    Raises:
        ValueError: the run's is damaged.
    """
    here = flat(OmegaConf.to_container(config, resolve=True))
    try:
        there = flat(OmegaConf.to_container(OmegaConf.load(folder / CONFIG), resolve=True))
    except (OSError, ValueError, YAMLError, OmegaConfBaseException):
        raise ValueError(f"{folder / CONFIG} can't be read, or is no config of a run") from None
    ignored: tuple[str, ...] = MAY_DIFFER
    if any(there.get(key) != here.get(key) for key in {*there, *here} if _is_below(key, PROCESSES)):
        ignored += (*PROCESSES, "data.batch_size")
    return [
        f"{key}={there.get(key)} there, {here.get(key)} here"
        for key in sorted({*there, *here})
        if there.get(key) != here.get(key)
        and not _is_below(key, ignored)
        # Tokenizers that are not given are chosen when the run begins, and noted.
        and not (key in ("video_tokenizer", "action_tokenizer") and here.get(key) is None)
        # The same store may lie elsewhere now.
        and not (key == "data.path" and short_name(str(there.get(key))) == short_name(str(here.get(key))))
    ]


def _is_below(key: str, options: tuple[str, ...]) -> bool:
    return any(key == option or key.startswith(f"{option}.") for option in options)


def check_same(folder: Path, config: DictConfig) -> None:
    """Refuse to go on with a run that was told otherwise.

    Raises:
        ValueError: names the options that differ.
    """
    if differing := differences(folder, config):
        raise ValueError(
            f"resume={folder}: {'; '.join(differing)}: give the same options, or begin anew without resume"
        )


def run_folder(path: str, *, record: Path | None) -> Path:
    """The folder that ``resume=path`` means; where all stages are trained, that in `record` which tells of them.

    Raises:
        FileNotFoundError: there is no such run.
        ValueError: it has finished, or the path is that of another checkpoint.
    """
    folder = Path(path).parent if path.endswith(".ckpt") else Path(path)
    if path.endswith(".ckpt") and Path(path).name != LAST:
        raise ValueError(f"resume={path}: a run goes on from its {LAST}, give that or the folder of the run")
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"resume={path}: there is no {folder / CONFIG}: name the folder of a run, or its {LAST}"
        )
    if record is not None:
        beside, given = record.parent.resolve(), folder.resolve()
        inside = given.relative_to(beside).parts[1:] if given.is_relative_to(beside) else ()
        folder = record.joinpath(*inside)
        if not (folder / CONFIG).is_file():
            raise ValueError(f"resume={path}: this is no unfinished run of stage=all: name the stage as well")
    if (folder / RESULT).exists():
        raise ValueError(f"resume={path}: this run has finished, its {RESULT} says so: begin anew without resume")
    return folder


def discard(folder: Path, *files: str) -> None:
    """Remove a run's folder if there is nothing in it but the `files`, and the one above if it is empty then."""
    with contextlib.suppress(OSError):
        if {path.name for path in folder.iterdir()} <= set(files):
            for path in folder.iterdir():
                path.unlink()
        folder.rmdir()
        folder.parent.rmdir()


def flat(node: Any, prefix: str = "") -> dict[str, Any]:
    """The values in nested dicts by keys with dots."""
    if not isinstance(node, dict):
        return {prefix: node}
    return {
        name: value
        for key, part in node.items()
        for name, value in flat(part, f"{prefix}.{key}" if prefix else str(key)).items()
    }
