"""Play a learned world: ``python play.py [mode=browser|terminal|rollout] [ckpt=PATH] …``."""

import re
import sys

from omegaconf import DictConfig

from tinyworlds.command import command, importing

MODES = ("browser", "terminal", "rollout")


@command("play")
def main(config: DictConfig) -> None:
    """Open the world and play it as `mode` says; a recording is played again whatever the mode."""
    if config.mode not in MODES:
        raise ValueError(f"mode={config.mode} is none of {', '.join(MODES)}")
    with importing():  # torch takes seconds, to find a typing error none
        from tinyworlds.play import browser, headless, terminal

    replayed = headless.is_recording(config.actions)
    if config.mode != "rollout" and config.actions != "inferred" and not replayed:
        raise ValueError(f"actions={config.actions} is for mode=rollout; in mode={config.mode} they are yours")
    play = {"browser": browser.play, "terminal": terminal.play, "rollout": headless.play}
    play["rollout" if replayed else config.mode](config)


if __name__ == "__main__":
    # Hydra reads a bare list of numbers as a sweep.
    sys.argv[1:] = [re.sub(r"^actions=(\d+(?:,\d+)+)$", r"actions=[\1]", argument) for argument in sys.argv[1:]]
    main()
