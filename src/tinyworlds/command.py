"""Entry points: a Hydra config in, one clear sentence out when the user's input is wrong."""

import contextlib
import functools
import gc
import os
import pkgutil
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyworlds.composition import explained, plain
from tinyworlds.data.settings import check_arguments, check_types

PACKAGE = Path(__file__).resolve().parent
CONF = PACKAGE.parents[1] / "conf"
OmegaConf.register_new_resolver("conf", lambda: str(CONF), replace=True)  # for conf/ itself, wherever a command is run

FULL_ERROR = "HYDRA_FULL_ERROR"
"""Environment variable: 1 shows whole tracebacks, of mistakes as well."""
RESERVED = ("_target_", "_partial_")
"""Keys by which a config says what is built."""
STDOUT = 1
UNREAD = 128 + signal.SIGPIPE
"""Exit code when nobody reads any more what is printed: what a shell reports of a process that SIGPIPE ended."""
JOB_RETURN = "return_value"
"""Of Hydra's `JobReturn`: where what a task raised is raised again, with or without a process between."""


Task = Callable[[DictConfig], Any]
Say = Callable[[str], None]


class JobError(Exception):
    """A mistake of the user in one job of a multirun, in one sentence."""


def command(config_name: str, *, together: bool = False) -> Callable[[Task], Callable[[], Any]]:
    """Make a function of a composed config the command line of ``conf/<config_name>.yaml``.

    What Hydra refuses, and a `ValueError` or `FileNotFoundError` raised by this package or its scripts, ends the
    process with exit code 1 and one sentence on standard error; any other exception is a bug and keeps its
    traceback, as do all of them when ``HYDRA_FULL_ERROR=1``. In a multirun the other jobs are still run. When nobody
    reads any more what is printed, as behind ``| head``, the process ends with `UNREAD` and says nothing.
    Of processes that train `together` only the first on each machine says what all find.
    """
    say = _say_for_all if together else _say

    def decorate(task: Task) -> Callable[[], Any]:
        composed = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
        if os.environ.get(FULL_ERROR) == "1":
            as_it_is: Callable[[], Any] = composed(task)
            return as_it_is
        return _explaining(composed(_guarded(task, say)), config_name, say)

    return decorate


def _guarded(task: Task, say: Say) -> Task:
    """A task whose mistakes of the user are told in a sentence."""
    asked = os.environ.get(FULL_ERROR)

    @_ending_unread  # or Hydra would tell of an error
    @functools.wraps(task)
    def guarded(config: DictConfig) -> Any:
        try:
            with _variable(FULL_ERROR, asked):
                return task(config)
        except (ValueError, FileNotFoundError, OmegaConfBaseException) as error:
            if not _is_the_users(error):
                raise
            say(plain(error))
            if HydraConfig.get().mode == RunMode.MULTIRUN:  # ends when the other jobs have run
                raise JobError(plain(error)) from None
            raise SystemExit(1) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None

    return guarded


def _explaining(entry: Callable[[], Any], config_name: str, say: Say) -> Callable[[], Any]:
    """An entry point of Hydra's of whose own refusals the user is told in a sentence."""

    @_ending_unread
    @functools.wraps(entry)
    def explaining() -> Any:
        for argument in sys.argv[1:]:
            if found := re.match(r"--((?!package|info|cfg)\w+(\.\w+)*=.*)", argument):
                say(f"{argument}: options of a config have no dashes, write {found[1]}")
                raise SystemExit(1)
        try:
            with _variable(FULL_ERROR, "1"):  # or Hydra would print several lines and end the process
                return entry()
        except JobError as error:
            say(f"a job of this multirun failed: {error}")
        except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
            if not _is_hydras(error):
                raise
            given = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
            say(explained(error, conf=CONF, config_name=config_name, overrides=given))
        raise SystemExit(1)

    return explaining


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Without the garbage collector: there is no garbage in modules, and looking for it doubles the time of theirs."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def build(node: DictConfig, **arguments: Any) -> Any:
    """Call what ``node._target_`` names with the node's values and `arguments`; what is inside is built first.

    With ``_partial_: true`` it is only prepared to be called.

    Raises:
        ValueError: names the option that the target does not know, lacks, or refuses.
        FileNotFoundError: as the target says.
    """
    where = node._get_full_key("")
    target = _target(node, where)
    given = {key: node[key] for key in map(str, node) if key not in RESERVED and not OmegaConf.is_missing(node, key)}
    for key, value in given.items():
        if isinstance(value, DictConfig) and "_target_" in value:
            given[key] = build(value)
        elif OmegaConf.is_config(value):
            given[key] = instantiate(value, _convert_="all")
    partial = bool(node.get("_partial_"))
    check_arguments(target, given, also=arguments, where=where, complete=not partial)
    chosen = {key: value for key, value in given.items() if key not in arguments}
    check_types(target, chosen, prefix=where and f"{where}.")
    if partial:
        return functools.partial(target, **given, **arguments)
    try:
        return target(**{**given, **arguments})
    except (ValueError, FileNotFoundError) as error:
        if not _is_the_users(error) and _is_ours(target):
            raise
        raise type(error)(_placed(plain(error), where, given)) from None
    except Exception as error:
        if _is_ours(target):
            raise
        raise ValueError(_placed(plain(error), where, given)) from None


def _target(node: DictConfig, where: str) -> Callable[..., Any]:
    """What a node says is to be built."""
    if "_target_" not in node:
        raise ValueError(f"{where} says nothing of what to build: leave it to a file of conf/{where}/")
    try:
        found: Callable[..., Any] = pkgutil.resolve_name(node._target_)
    except Exception:  # of whatever kind an import can raise
        raise ValueError(f"{where}._target_={node._target_}: nothing of that name can be imported") from None
    return found


def _is_ours(target: Callable[..., Any]) -> bool:
    return str(getattr(target, "__module__", "")).partition(".")[0] == PACKAGE.name


def _placed(said: str, where: str, given: Collection[str]) -> str:
    """A complaint about options, with where they are in the config."""
    if not where or re.match(rf"{where}[.=:]|\w+\.[\w.]+[=:]", said):
        return said
    return f"{where}.{said}" if re.split(r"\W", said)[0] in given else f"{where}: {said}"


@contextlib.contextmanager
def _variable(name: str, value: str | None) -> Iterator[None]:
    """An environment variable for a while; None: without it."""
    before = os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _ending_unread(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that ends quietly where standard output goes into a pipe that nobody reads, as behind ``| head``."""

    @functools.wraps(function)
    def ending(*arguments: Any) -> Any:
        try:
            found = function(*arguments)
            print(end="", flush=True)  # not as late as at the exit
        except BrokenPipeError:
            asked = select.poll()
            asked.register(STDOUT, select.POLLOUT)
            if not any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0)):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # or what is left would be printed at the exit
            raise SystemExit(UNREAD) from None
        return found

    return ending


def _say(sentence: str) -> None:
    # Parts of it may come out of a foreign file, and a terminal obeys some characters.
    printable = "".join(character if character.isprintable() else "?" for character in sentence)
    print(f"error: {printable}", file=sys.stderr, flush=True)
    gc.freeze()  # Python would look through all modules for a second before it ends


def _say_for_all(sentence: str) -> None:
    """Say it unless another process does: until they meet, all that were started together find the same mistakes."""
    local = os.environ.get("LOCAL_RANK") if "RANK" in os.environ else os.environ.get("SLURM_LOCALID")
    distributed = sys.modules.get("torch.distributed")
    met = distributed is not None and distributed.is_available() and distributed.is_initialized()
    if met or local in (None, "0"):
        _say(sentence)


def _is_the_users(error: BaseException) -> bool:
    """Whether `error` was raised by this package's own checks rather than somewhere below them."""
    if isinstance(error, OmegaConfBaseException):
        return True
    innermost = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return innermost.is_relative_to(PACKAGE) or innermost.parent in (CONF.parent, CONF.parent / "benchmarks")


def _is_hydras(error: BaseException) -> bool:
    """Whether `error` is about the composition of a config, or came up before the task and not in printing."""
    through = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
    printing = isinstance(error, OSError) and error.filename is None
    return isinstance(error, HydraException | OmegaConfBaseException) or (JOB_RETURN not in through and not printing)
