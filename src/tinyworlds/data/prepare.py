"""Make the store of a dataset ready: ``python -m tinyworlds.data.prepare data=vizdoom``."""

from omegaconf import DictConfig

from tinyworlds.command import build, command
from tinyworlds.data.clip_datamodule import ClipDataModule


@command("prepare")
def main(config: DictConfig) -> None:
    """Record, download or extract the frames unless they are there, and say what is."""
    data: ClipDataModule = build(config.data)
    data.prepare_data()
    data.setup()
    store = data.store
    print(
        f"{data.path}: {store.num_frames} frames of {store.height}x{store.width} "
        f"in {len(store.episode_starts)} episodes from {store.source}"
    )


if __name__ == "__main__":
    main()
