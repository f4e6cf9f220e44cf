"""Entry points: a Hydra config in, one clear sentence out when the user's input is wrong."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, InstantiationException
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tinyworlds.data.settings import check_types

PACKAGE = Path(__file__).resolve().parent
CONF = PACKAGE.parents[1] / "conf"
OmegaConf.register_new_resolver("conf", lambda: str(CONF), replace=True)  # for conf/ itself, wherever a command is run


class JobError(CompactHydraException):
    """A mistake of the user in one job of a multirun, which Hydra reports without a traceback."""


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Make a function of a composed config the command line of ``conf/<config_name>.yaml``.

    A `ValueError` or `FileNotFoundError` raised by this package or its scripts ends the process with exit code 1 and
    its sentence on standard error; any other exception is a bug and keeps its traceback, as do all of
    them when ``HYDRA_FULL_ERROR=1``. In a multirun the other jobs are still run.
    """

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        @functools.wraps(task)
        def guarded(config: DictConfig) -> Any:
            try:
                return task(config)
            except (ValueError, FileNotFoundError, OmegaConfBaseException) as error:
                if not _is_the_users(error) or os.environ.get("HYDRA_FULL_ERROR") == "1":
                    raise
                print(f"error: {_sentence(error)}", file=sys.stderr, flush=True)
                if HydraConfig.get().mode == RunMode.MULTIRUN:  # ends when the other jobs have run
                    raise JobError(_sentence(error)) from None
                raise SystemExit(1) from None
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                raise SystemExit(130) from None

        entry: Callable[[], Any] = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(
            guarded
        )
        return entry

    return decorate


def build(node: DictConfig, **arguments: Any) -> Any:
    """Instantiate ``node._target_`` with the node's values and `arguments`.

    Raises the constructor's own exception, and `ValueError` for a key that it does not know or lacks, or a
    value that is plainly of another type than it takes.
    """
    given = {key: node[key] for key in map(str, node) if not OmegaConf.is_missing(node, key)}
    check_types(get_object(node._target_), given, prefix=node._get_full_key("") and f"{node._get_full_key('')}.")
    try:
        if not arguments:
            return instantiate(node, _convert_="all")
        # Hydra would turn tuples and modules among the arguments into configs and back.
        return instantiate(node, _convert_="all", _partial_=True)(**arguments)
    except (InstantiationException, TypeError) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, TypeError) and "argument" in str(cause):
            where = node._get_full_key("") or str(node.get("_target_"))
            raise ValueError(f"{where}: {cause}; conf/ has the options it takes") from None
        raise cause from None


def _sentence(error: BaseException) -> str:
    """What went wrong; of a mistake that OmegaConf found, the key and no notes for programmers."""
    said = str(error)
    if isinstance(error, OmegaConfBaseException):
        said = f"{error.full_key}: {said.splitlines()[0]}" if error.full_key else said.splitlines()[0]
    # Parts of it may come out of a foreign file, and a terminal obeys some characters.
    return "".join(character if character.isprintable() else "?" for character in said)


def _is_the_users(error: BaseException) -> bool:
    """Whether `error` was raised by this package's own checks rather than somewhere below them."""
    if isinstance(error, OmegaConfBaseException):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    file = Path(trace.tb_frame.f_code.co_filename).resolve()
    return file.is_relative_to(PACKAGE) or file.parent in (CONF.parent, CONF.parent / "benchmarks")
