"""What the three stages share: their optimizer, their place in a checkpoint, the data they were trained on."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import lightning as L
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from tinyworlds.data.clips import to_uint8
from tinyworlds.data.collection import short_name
from tinyworlds.data.settings import check_types
from tinyworlds.metrics import CodeUsage
from tinyworlds.nn import native
from tinyworlds.nn.motion import MotionDecoder, MotionEncoder
from tinyworlds.nn.patches import PatchEmbedding, PixelHead
from tinyworlds.nn.transformer import SpaceTimeTransformer
from tinyworlds.optim import Optimization

COMPILED = (SpaceTimeTransformer, PatchEmbedding, PixelHead, MotionEncoder, MotionDecoder)
"""Where nearly all of the work is done; what lies between are single layers."""
RECOMPILE_LIMIT = 64
"""Beyond as many versions of one function torch would no longer compile it."""

METRIC = "val/loss"
"""What the best checkpoint is chosen by, and what a sweep gets to minimize."""


class Stage(L.LightningModule, ABC):
    """One of the three models.

    `dataset` says what the stage is trained on: its ``name``, the ``path`` of its store, the ``val_fraction``
    that decides which episodes are held out, and ``clip_length`` in frames; of many stores also how many ``stores``.
    """

    name: ClassVar[str]
    earlier: ClassVar[Mapping[str, Any]] = {}
    """What checkpoints from before there was a choice leave unsaid, and what it was then."""

    def __init__(self, *, frame_size: tuple[int, int], dataset: Mapping[str, Any], codes: int) -> None:
        super().__init__()
        self.frame_size = frame_size
        self.dataset = dict(dataset)
        self.optimization: Optimization | None = None
        self.loaded_from: Path | None = None  # a checkpoint
        self.validation_psnr = validation_psnr()
        self.validation_ssim = StructuralSimilarityIndexMeasure(data_range=(-1.0, 1.0))
        self.code_usage = CodeUsage(codes)

    @classmethod
    def from_hyperparameters(cls, hyperparameters: Mapping[str, Any]) -> Self:
        """The untrained stage that `hyperparameters`, plain values from a checkpoint, describe."""
        check_types(cls, hyperparameters)
        return cls(**{**cls.earlier, **hyperparameters})

    def check_fits(self, path: str | Path, *, frame_size: tuple[int, int], dataset: Mapping[str, Any]) -> None:
        """Refuse to be used on other frames than those trained on, or with others held out.

        Raises:
            ValueError: names the checkpoint `path` and both values.
        """
        own, other = ({**d, "file": _named(d)} for d in (self.dataset, dataset))
        for option, key in (("data", "name"), ("data.path", "file"), ("data.val_fraction", "val_fraction")):
            if own[key] != other[key]:
                raise ValueError(f"{path} was trained on {option}={own[key]}, this run is on {option}={other[key]}")
        if self.frame_size != frame_size:
            raise ValueError(f"{path} was trained on frames of {self.frame_size}, this run is on {frame_size}")

    def compile_parts(self) -> None:
        """Have torch compile, at their first use, the parts that do the work, those of frozen tokenizers too.

        Training, tokenizing, decoding and rendering all pass through these parts. Results are the same up to the order
        of sums; weights keep their names.

        Raises:
            ValueError: there is no C++ compiler.
        """
        if native.compiler() is None:
            raise ValueError("compile=true needs a C++ compiler such as g++, and there is none: leave it out")
        # Parts of one class share their limit, and each is compiled for training, validation and windows of any length.
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
        # Writing a backward pass to this cache ends some processes with a segmentation fault (pytorch/pytorch#177442);
        # what takes the time, the compiled kernels, has a cache of its own.
        torch._functorch.config.enable_autograd_cache = False
        for module in self.modules():
            if isinstance(module, COMPILED):
                module.compile()
            if isinstance(module, SpaceTimeTransformer):
                # `compile` of a module covers `forward` alone; mypy wants no method replaced.
                module.remember = torch.compile(module.remember)  # type: ignore[method-assign]  # as `compile()` does

    def checkpoint_activations(self) -> None:
        """From now on compute the insides of each transformer block again in the backward pass instead of keeping them.

        Loss and gradients stay as they are.
        """
        for module in self.modules():
            if isinstance(module, SpaceTimeTransformer):
                module.recompute = True

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # the strategy shards
            from tinyworlds.sharding import shard  # half a second to import

            shard(self, self.device_mesh["data_parallel"])

    def digest(self) -> str:
        """SHA-256 of the hyperparameters and weights: of two stages that differ, it differs."""
        return self._digest(json.dumps(dict(self.hparams), sort_keys=True))

    def weights_digest(self) -> str:
        """SHA-256 of the weights alone, which stay the same where a world is shared."""
        return self._digest("")

    def _digest(self, about: str) -> str:
        hashed = hashlib.sha256(about.encode())
        for name, value in self.state_dict().items():
            hashed.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            hashed.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return hashed.hexdigest()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        assert self.optimization is not None, "set `optimization` before training"
        optimizer = self.optimization.optimizer(self)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = self.optimization.lr_schedule(optimizer, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed what is random in this step: on all ranks the same, by how many batches came before in the whole run.

        So a run that goes on from a checkpoint draws what one without a break does.
        """
        assert self.optimization is not None
        batches = self.trainer.fit_loop.total_batch_idx
        torch.manual_seed(int(np.random.SeedSequence((self.optimization.seed, batches)).generate_state(1)[0]))

    def log_image_quality(self, predicted: Float[Tensor, "B T C H W"], frames: Float[Tensor, "B T C H W"]) -> None:
        """Log PSNR (dB) and SSIM of validation frames in [-1, 1], over the whole validation epoch."""
        self.log_psnr("val/psnr", self.validation_psnr, predicted, frames)
        both = rearrange([predicted.clamp(-1, 1), frames], "two b t c h w -> two (b t) c h w")
        self.validation_ssim.update(*both)
        self.log("val/ssim", self.validation_ssim)

    def log_psnr(
        self,
        name: str,
        metric: PeakSignalNoiseRatio,
        predicted: Float[Tensor, "B T C H W"],
        frames: Float[Tensor, "B T C H W"],
    ) -> None:
        """Log the PSNR (dB) of all frames of the validation epoch together."""
        metric.update(predicted.clamp(-1, 1), frames)
        self.log(name, metric, prog_bar=name == "val/psnr")

    def on_validation_epoch_end(self) -> None:
        for name, value in self.code_usage.compute().items():
            self.log(f"val/codes_{name}", value, sync_dist=True)
        self.code_usage.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage"] = self.name

    @abstractmethod
    def pictures(self, frames: Float[Tensor, "B T C H W"]) -> dict[str, np.ndarray]:
        """What to look at while training: uint8 images (H, W, 3) and films (T, H, W, 3) by name."""


def validation_psnr() -> PeakSignalNoiseRatio:
    """Of frames in [-1, 1]."""
    return PeakSignalNoiseRatio(data_range=(-1.0, 1.0))


def as_pictures(frames: Float[Tensor, "*batch C H W"]) -> UInt8[np.ndarray, "*batch H W C"]:
    """Frames in [-1, 1] on any device, for `tinyworlds.media`."""
    return to_uint8(frames).cpu().numpy()


def _named(dataset: Mapping[str, Any]) -> str:
    """What a dataset is read from: with one store more, others would be held out."""
    stores = f" ({dataset['stores']} stores)" if "stores" in dataset else ""
    return short_name(dataset["path"]) + stores
