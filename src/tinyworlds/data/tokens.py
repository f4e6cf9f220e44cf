"""Write the tokens that dynamics train on: ``python -m tinyworlds.data.tokens data=vizdoom``."""

from omegaconf import DictConfig

from tinyworlds.checkpoints import load_tokenizers
from tinyworlds.command import build, command
from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.settings import check_whole


@command("tokens")
def main(config: DictConfig) -> None:
    """Tokenize the store of a dataset, as ``train.py stage=dynamics`` does on first use."""
    data: ClipDataModule = build(config.data)
    check_whole("data.clip_length", data.clip_length, at_least=2)
    tokenizers = load_tokenizers(
        video_tokenizer=config.video_tokenizer,
        action_tokenizer=config.action_tokenizer,
        runs_dir=config.runs_dir,
        frame_size=data.frame_size,
        dataset=data.description,
    )
    data.cache_tokens = True
    data.use_tokenizer(tokenizers)
    data.prepare_data()
    path = data.token_cache(tokenizers).path
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
