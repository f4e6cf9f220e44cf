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
from tinyworlds.data.policies import BALL_GAMES, BallPlayer, HeldActions, Policy
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
    skip_first: int | None
    fps: float | None
    crop: Mapping[str, int | None]
    size: int | Sequence[int]
    actions: Mapping[str, int] | None
    weights: Mapping[str, float] | None
    hold: Sequence[int]
    follow_ball: float

    def __post_init__(self) -> None:
        frame_size(self.size)
        check_whole("frames", self.frames, at_least=1)
        check_whole("frame_skip", self.frame_skip, at_least=1)
        check_whole("seed", self.seed, at_least=0)
        if self.max_episode_steps is not None:
            check_whole("max_episode_steps", self.max_episode_steps, at_least=1)
        if self.skip_first is not None:
            check_whole("skip_first", self.skip_first, at_least=1)
        if not isinstance(self.hold, Sequence) or len(self.hold) != 2:
            raise ValueError(f"hold={self.hold}: give the fewest and the most steps, as in [1, 8]")
        check_whole("hold[0]", self.hold[0], at_least=1)
        check_whole("hold[1]", self.hold[1], at_least=self.hold[0])
        check_number("follow_ball", self.follow_ball, at_least=0, at_most=1)
        if self.fps is not None:
            check_number("fps", self.fps, at_least=0.01)
        for name, weight in (self.weights or {}).items():
            check_number(f"weights.{name}", weight, at_least=0)
        if self.weights is not None and not sum(self.weights.values()) > 0:
            raise ValueError(f"weights={dict(self.weights)}: give one of them more than nothing")
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
        self._skip_first(game, codes[0])
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
                self._skip_first(game, codes[0])
                steps = 0
            picture = game.picture()

    def _skip_first(self, game: Game, action: int) -> None:
        """Let pass what is not kept of an episode's beginning."""
        for step in range(self.skip_first or 0):
            if game.step(action):
                raise ValueError(f"skip_first={self.skip_first}: an episode of {self.env} ended after {step + 1} steps")

    def _policy(self, actions: Mapping[str, int]) -> Policy:
        generator = np.random.default_rng(self.seed)
        random = HeldActions(
            num_actions=len(actions),
            weights=self._weights(actions),
            hold=(self.hold[0], self.hold[1]),
            generator=generator,
        )
        game = next((game for name, game in BALL_GAMES.items() if self.env.startswith(name)), None)
        if game is None or self.follow_ball == 0:
            return random
        codes = list(actions.values())
        needed = {game.none, game.less, game.more}
        if missing := needed - set(codes):
            raise ValueError(
                f"actions lacks {self.env}'s {min(missing)}: following the ball takes "
                f"{', '.join(map(str, sorted(needed)))}; or follow_ball=0"
            )
        return BallPlayer(game, share=self.follow_ball, codes=codes, random=random, generator=generator)

    def _weights(self, actions: Mapping[str, int]) -> list[float] | None:
        if self.weights is None:
            return None
        if set(self.weights) != set(actions):
            raise ValueError(f"weights of {', '.join(self.weights)}: give one for each of {', '.join(actions)}")
        return [self.weights[name] for name in actions]


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
