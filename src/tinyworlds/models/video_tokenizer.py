"""Video tokenizer: frames to tokens of a finite vocabulary, and back."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tinyworlds.data.settings import check_number, check_whole
from tinyworlds.media import grid
from tinyworlds.metrics import Flicker, MovingPSNR, moving_since_last, pixel_loss, psnr
from tinyworlds.models.stage import METRIC, Stage, as_pictures
from tinyworlds.nn.fsq import FSQ
from tinyworlds.nn.norms import LatentNorm
from tinyworlds.nn.patches import PatchEmbedding, PixelHead, patch_grid
from tinyworlds.nn.positions import SINCOS, added_positions
from tinyworlds.nn.transformer import SpaceTimeTransformer


class VideoTokenizer(Stage):
    """FSQ-VAE on a space-time transformer: frame → patches → transformer → FSQ codes → transformer → pixels.

    Causal in time: neither the tokens nor the reconstruction of frame t depend on later frames. With
    ``temporal=False`` each frame is tokenized by itself, with ``local=True`` each patch: its encoder attends to
    nothing and is told no positions, so that a token says what is to be seen in its patch alone, or beside it where the
    convolutions of ``patches=conv`` reach. `latent_norm`
    normalizes latents over the batch before rounding (see `LatentNorm`). Pixels that move count
    ``1 + moving_weight`` times in the loss.
    """

    name = "video_tokenizer"
    earlier: ClassVar[Mapping[str, Any]] = {"qk_norm": False, "positions": SINCOS, "local": False}

    def __init__(
        self,
        *,
        frame_size: tuple[int, int],
        dataset: Mapping[str, Any],
        patch_size: int,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        num_blocks: int,
        latent_dim: int,
        num_bins: int,
        patches: str,
        norm: str,
        qk_norm: bool,
        positions: str,
        temporal: bool,
        local: bool,
        latent_norm: bool,
        moving_weight: float,
    ) -> None:
        check_whole("latent_dim", latent_dim, at_least=1)
        super().__init__(frame_size=frame_size, dataset=dataset, codes=num_bins**latent_dim)
        self.save_hyperparameters()
        self.grid = patch_grid(frame_size, patch_size)
        self.patch_size = patch_size
        check_number("moving_weight", moving_weight, at_least=0)
        self.moving_weight = moving_weight

        self.quantizer = FSQ(latent_dim=latent_dim, num_bins=num_bins)

        def transformer() -> SpaceTimeTransformer:
            return SpaceTimeTransformer(
                embed_dim=embed_dim,
                num_heads=num_heads,
                hidden_dim=hidden_dim,
                num_blocks=num_blocks,
                norm=norm,
                qk_norm=qk_norm,
                positions=positions,
                grid=self.grid,
                temporal=temporal,
            )

        self.register_buffer("positions", added_positions(positions, self.grid, embed_dim), persistent=False)
        self.positions: Tensor
        self.patch_embedding = PatchEmbedding(
            frame_size=frame_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            patches=patches,
            positions=None if local else positions,
        )
        self.encoder = nn.Identity() if local else transformer()
        self.to_latent = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, latent_dim))
        self.latent_norm = LatentNorm(latent_dim=latent_dim) if latent_norm else nn.Identity()
        self.from_latent = nn.Linear(latent_dim, embed_dim)
        self.decoder = transformer()
        self.pixel_head = PixelHead(frame_size=frame_size, patch_size=patch_size, embed_dim=embed_dim, patches=patches)

        self.psnr_moving = MovingPSNR()
        self.flicker = Flicker()

    @property
    def vocabulary(self) -> int:
        """V: how many different tokens there are."""
        return self.quantizer.vocabulary

    @property
    def temporal(self) -> bool:
        """Whether the tokens of a frame depend on earlier frames."""
        return isinstance(self.encoder, SpaceTimeTransformer) and self.encoder.temporal

    @property
    def num_patches(self) -> int:
        """P: tokens per frame."""
        return self.grid[0] * self.grid[1]

    def encode(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T P L"]:
        """Frames in [-1, 1] to FSQ codes in [-1, 1]."""
        return self.quantizer(self.latent_norm(self.to_latent(self.encoder(self.patch_embedding(frames)))))

    def decode(self, codes: Float[Tensor, "B T P L"], *, last: int | None = None) -> Float[Tensor, "B n C H W"]:
        """FSQ codes to frames, in about [-1, 1]: all T, or the `last` so many, which cost less."""
        tokens = self.from_latent(codes) + self.positions
        first = 0 if last is None else max(tokens.shape[1] - last, 0)
        past = self.decoder.remember(tokens[:, :first]) if first and self.decoder.temporal else None
        return self.pixel_head(self.decoder(tokens[:, first:], past=past))

    def forward(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T C H W"]:
        """The reconstruction of `frames`: encoded, quantized, decoded."""
        return self.decode(self.encode(frames))

    def tokenize(self, frames: Float[Tensor, "B T C H W"]) -> Int64[Tensor, "B T P"]:
        """Frames in [-1, 1] to tokens in 0 … V-1."""
        return self.quantizer.indices(self.encode(frames))

    def detokenize(self, tokens: Int64[Tensor, "B T P"], *, last: int | None = None) -> Float[Tensor, "B n C H W"]:
        """Tokens to frames, in about [-1, 1]: all T, or the `last` so many."""
        return self.decode(self.quantizer.codes(tokens), last=last)

    def loss(self, reconstruction: Float[Tensor, "B T C H W"], frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, ""]:
        """`pixel_loss` of a reconstruction."""
        return pixel_loss(reconstruction, frames, moving_since_last(frames), moving_weight=self.moving_weight)

    def training_step(self, frames: Float[Tensor, "B T C H W"], batch_index: int) -> Tensor:
        reconstruction = self(frames)
        loss = self.loss(reconstruction, frames)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/psnr", psnr(reconstruction.detach(), frames))
        return loss

    def validation_step(self, frames: Float[Tensor, "B T C H W"], batch_index: int) -> None:
        codes = self.encode(frames)
        reconstruction = self.decode(codes)
        self.log(METRIC, self.loss(reconstruction, frames), prog_bar=True, sync_dist=True)
        moved, tokens = moving_since_last(frames), self.quantizer.indices(codes)
        self.psnr_moving.update(reconstruction, frames, moved)
        self.flicker.update(tokens, moved, patch_size=self.patch_size)
        self.log_dict({"val/psnr_moving": self.psnr_moving, "val/flicker": self.flicker})
        self.log_image_quality(reconstruction, frames)
        self.code_usage.update(tokens)

    def pictures(self, frames: Float[Tensor, "B T C H W"]) -> dict[str, np.ndarray]:
        shown = frames[:8, -1:]
        rows = torch.cat([shown, self(frames[:8])[:, -1:]], dim=1)
        return {"reconstruction": grid(as_pictures(rows.transpose(0, 1)), scale=2, labels=("true", "decoded"))}
