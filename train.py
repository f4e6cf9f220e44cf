"""Train one stage, or all three in order: ``python train.py [stage=…] [data=…] [experiment=…]``."""

from omegaconf import DictConfig

from tinyworlds.command import command, importing


@command("train", together=True)
def main(config: DictConfig) -> float:
    """The best validation loss of the last stage trained, which is what a sweep minimizes."""
    with importing():  # torch takes seconds, to find a typing error none
        from tinyworlds.pipeline import run

    return run(config)


if __name__ == "__main__":
    main()
