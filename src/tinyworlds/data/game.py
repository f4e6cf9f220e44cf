"""A Gymnasium environment, reduced to what recording needs."""

import contextlib
import importlib
import tempfile
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import UInt8

EXTRA = "pip install -e '.[games]'"


class Family(NamedTuple):
    """Games that come in one package: how their names begin, the module that registers them with Gymnasium, and
    their own option for skipping frames, if any, which saves rendering them."""

    prefix: str
    module: str
    frame_skip: str | None


ATARI = Family("ALE/", "ale_py", "frameskip")
VIZDOOM = Family("Vizdoom", "vizdoom.gymnasium_wrapper", "frame_skip")
MINIGRID = Family("MiniGrid-", "minigrid", None)


class Game:
    """The environment `name` with its first episode begun, as a context manager.

    Each action lasts `frame_skip` frames of the game; `options` go to ``gymnasium.make``.

    Raises:
        ValueError: it is unknown, refuses `options`, has other than discrete actions, renders no RGB arrays,
            or needs a package that is not installed.
    """

    def __init__(self, name: str, *, seed: int, frame_skip: int, options: Mapping[str, Any]) -> None:
        self._name = name
        self._skip = native_frame_skip(name, frame_skip)
        self._repeats = 1 if self._skip else frame_skip
        with contextlib.ExitStack() as opened:
            # The Doom engine leaves files in the directory that it is started in.
            scratch = opened.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            with contextlib.chdir(scratch):
                self._env = make_env(name, {**self._skip, **options})
                opened.callback(self._env.close)
                if not hasattr(self._env.action_space, "n") or not hasattr(self._env.action_space, "start"):
                    raise ValueError(f"env={name} has actions {self._env.action_space}; they must be discrete")
                self._env.reset(seed=seed)
            self.picture()
            self._opened = opened.pop_all()

    @property
    def actions(self) -> dict[str, int]:
        """All actions by the environment's own names, or their numbers where it has none."""
        space = self._env.action_space
        codes = range(int(space.start), int(space.start + space.n))
        meanings = getattr(self._env.unwrapped, "get_action_meanings", None)
        names = [str(code) for code in codes] if meanings is None else [str(name).lower() for name in meanings()]
        return dict(zip(names, codes, strict=True))

    @property
    def fps(self) -> float | None:
        """Frames rendered per second of play, before any is skipped."""
        rate = self._env.metadata.get("render_fps")
        return None if rate is None else float(rate)

    def reset(self) -> None:
        """Begin the next episode."""
        self._env.reset()

    def step(self, action: int) -> bool:
        """Act; whether the episode is over."""
        for _ in range(self._repeats):
            _, _, terminated, truncated, _ = self._env.step(action)
            if terminated or truncated:
                return True
        return False

    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """The present state, rendered."""
        picture = self._env.render()
        if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
            raise ValueError(f"env={self._name} does not render RGB pictures, so it cannot be recorded")
        return picture

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()


def make_env(name: str, options: Mapping[str, Any]) -> Any:
    """``gymnasium.make`` with one clear sentence for what can go wrong in it."""
    gymnasium = import_extra(name, "gymnasium")
    try:
        return gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True, **options)
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"env={name} needs a package that is not installed ({error}): {EXTRA}") from None
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(f"env={name} cannot be made: {error}") from None
    except TypeError as error:
        raise ValueError(f"env={name} refuses {dict(options)}: {error}") from None


def native_frame_skip(name: str, frame_skip: int) -> dict[str, Any]:
    """Import what registers `name`; its own option for skipping frames, if any."""
    for family in (ATARI, VIZDOOM, MINIGRID):
        if name.startswith(family.prefix):
            module = import_extra(name, family.module)
            if family is ATARI:
                module.ALEInterface.setLoggerMode(module.LoggerMode.Error)
            return {family.frame_skip: frame_skip} if family.frame_skip else {}
    return {}


def import_extra(name: str, module: str) -> Any:
    """A module that only recording needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"env={name} needs a package that is not installed ({error}): {EXTRA}") from None
