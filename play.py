"""Play a learned world: ``python play.py [mode=browser|terminal|rollout] [ckpt=PATH] …``."""

import re
import sys

from omegaconf import DictConfig

from tinyworlds.command import command
from tinyworlds.play import browser, headless

MODES = {"browser": browser.play, "rollout": headless.play}


@command("play")
def main(config: DictConfig) -> None:
    """Open the world and play it as `mode` says."""
    if config.mode not in MODES:
        raise ValueError(f"mode={config.mode} is none of {', '.join(MODES)}")
    MODES[config.mode](config)


if __name__ == "__main__":
    # Hydra reads a bare list of numbers as a sweep.
    sys.argv[1:] = [re.sub(r"^actions=(\d+(?:,\d+)+)$", r"actions=[\1]", argument) for argument in sys.argv[1:]]
    main()
