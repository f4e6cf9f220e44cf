"""Record a game: ``python -m tinyworlds.data.record env=ALE/Pong-v5 path=data/my_pong.h5``.

Any Gymnasium environment with discrete actions that renders RGB arrays can be recorded.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from omegaconf import DictConfig, OmegaConf

from tinyworlds.command import build, command
from tinyworlds.data.game import Game
from tinyworlds.data.policies import HeldActions, Policy, PongPlayer
from tinyworlds.data.resize import AreaFilter
from tinyworlds.data.settings import check_number, check_whole, crop_box, frame_size
from tinyworlds.data.store import StoreWriter, check_free
from tinyworlds.progress import track


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """What to record and how; conf/recording/default.yaml says what each setting means.

    Raises:
        ValueError: a setting has an impossible value.
    """

    env: str
    env_options: Mapping[str, Any]
    frames: int
    seed: int
    frame_skip: int
    max_episode_steps: int | None
    fps: float | None
    crop: Mapping[str, int | None]
    size: int | Sequence[int]
    actions: Mapping[str, int] | None
    hold: Sequence[int]
    follow_ball: float

    def __post_init__(self) -> None:
        frame_size(self.size)
        check_whole("frames", self.frames, at_least=1)
        check_whole("frame_skip", self.frame_skip, at_least=1)
        check_whole("seed", self.seed, at_least=0)
        if self.max_episode_steps is not None:
            check_whole("max_episode_steps", self.max_episode_steps, at_least=1)
        if not isinstance(self.hold, Sequence) or len(self.hold) != 2:
            raise ValueError(f"hold={self.hold}: give the fewest and the most steps, as in [1, 8]")
        check_whole("hold[0]", self.hold[0], at_least=1)
        check_whole("hold[1]", self.hold[1], at_least=self.hold[0])
        check_number("follow_ball", self.follow_ball, at_least=0, at_most=1)
        if self.fps is not None:
            check_number("fps", self.fps, at_least=0.01)
        if self.actions is not None and not self.actions:
            raise ValueError("actions={}: name at least one action, or give null for all of the game's")

    def settings(self) -> dict[str, Any]:
        """Everything that decides what is recorded, as plain values."""
        return dataclasses.asdict(self)

    def write(self, path: str | Path) -> None:
        """Play and record to the store `path`, which appears when the recording is complete.

        Raises:
            ValueError: the environment is unknown, cannot be recorded, or does not fit the settings.
        """
        with Game(self.env, seed=self.seed, frame_skip=self.frame_skip, options=self.env_options) as game:
            known = game.actions
            actions = self.actions or known
            for name, code in actions.items():
                if code not in known.values():
                    raise ValueError(f"actions: {self.env} has no action {code} ({name}), but {known}")
            height, width = frame_size(self.size)
            with StoreWriter(
                path,
                height=height,
                width=width,
                source=self.env,
                fps=self.fps or (game.fps and game.fps / self.frame_skip),
                action_names=list(actions),
                settings=self.settings(),
            ) as writer:
                for frame, action, is_first in self._play(game, actions):
                    if is_first:
                        writer.start_episode()
                    writer.append(frame[None], np.array([action], np.int64))

    def _play(self, game: Game, actions: Mapping[str, int]) -> Iterator[tuple[UInt8[np.ndarray, "H W 3"], int, bool]]:
        """Each frame, the index in `actions` of what is done after it, whether it begins an episode."""
        policy = self._policy(actions)
        codes = list(actions.values())
        picture = game.picture()
        rows, columns = crop_box(self.crop, height=picture.shape[0], width=picture.shape[1])
        height, width = picture[rows, columns].shape[:2]
        resize = AreaFilter(source=(height, width), target=frame_size(self.size))
        steps = 0
        for _ in track(range(self.frames), total=self.frames, label=f"recording {self.env}"):
            action = policy(picture)
            yield resize(picture[rows, columns]), action, steps == 0
            steps += 1
            if game.step(codes[action]) or steps == self.max_episode_steps:
                game.reset()
                steps = 0
            picture = game.picture()

    def _policy(self, actions: Mapping[str, int]) -> Policy:
        generator = np.random.default_rng(self.seed)
        hold = (self.hold[0], self.hold[1])
        random = HeldActions(num_actions=len(actions), hold=hold, generator=generator)
        if not self.env.startswith("ALE/Pong") or self.follow_ball == 0:
            return random
        # The emulator calls up "right" and down "left".
        codes = list(actions.values())
        if missing := {0, 2, 3} - set(codes):
            raise ValueError(
                f"actions lacks Pong's {min(missing)}: following the ball takes 0, 2 and 3; or follow_ball=0"
            )
        return PongPlayer(
            share=self.follow_ball,
            none=codes.index(0),
            up=codes.index(2),
            down=codes.index(3),
            random=random,
            generator=generator,
        )


@command("record")
def main(config: DictConfig) -> None:
    """Record as conf/record.yaml says."""
    path = Path(config.path)
    check_free(path, "path")
    recording: Recording = build(OmegaConf.masked_copy(config, [str(key) for key in config if key != "path"]))
    recording.write(path)
    print(f"{recording.frames} frames of {recording.env} in {path}")


if __name__ == "__main__":
    main()
