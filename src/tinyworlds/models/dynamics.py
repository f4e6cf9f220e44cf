"""Dynamics: from the tokens of the frames so far and an action to the tokens of the next frame."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tinyworlds.data.settings import check_types, check_whole
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.maskgit import Decoding
from tinyworlds.models.action_tokenizer import ActionTokenizer
from tinyworlds.models.dynamics_pictures import drawn
from tinyworlds.models.imagination import Imagination
from tinyworlds.models.masked_loss import check_training, masked_loss
from tinyworlds.models.stage import METRIC, validation_psnr
from tinyworlds.models.tokenizers import Tokenizers
from tinyworlds.models.video_tokenizer import VideoTokenizer
from tinyworlds.nn.choices import completed
from tinyworlds.nn.feed_forward import FEED_FORWARDS, SWIGLU, summary
from tinyworlds.nn.last_actions import told_size, told_together
from tinyworlds.nn.norms import FILM, Condition
from tinyworlds.nn.positions import SINCOS, Timeline, added_positions
from tinyworlds.nn.transformer import Past, SpaceTimeTransformer


class Dynamics(Imagination):
    """MaskGIT on a space-time transformer: hidden video tokens are guessed from the seen ones and the actions.

    The tokenizers come along, frozen, so that a checkpoint of the dynamics is a whole world. A window holds
    at most as many frames as the clips it was trained on (``dataset["clip_length"]``).

    ``masking=anchored`` (published) hides at least `mask_ratio` of a clip's tokens, but leaves each position
    seen in one frame. ``clean_context`` trains what decoding does: every frame of the clip is guessed, fully
    hidden with probability `mask_ratio`, from the clean frames before it. All at once: hidden frame t sees what
    is remembered of the clean ones before t, and itself (the vectorized training of block diffusion, arXiv
    2503.09573). With `context_noise` those frames are not all that clean: of each, a share of the tokens drawn
    from [0, `context_noise`) is another clip's, as when the world has to go on from its own mistakes (the noise
    augmentation of GameNGen, arXiv 2408.14837, for tokens). In the share `own_context` of the clips every frame but
    the first is the model's own guess of it from those before: what goes wrong on the way of a rollout is then met in
    training (scheduled sampling, arXiv 1506.03099, for all frames at once, arXiv 1906.07651).

    A frame is conditioned on the code of the action that led to it; where a motion shows the action before as well, on
    which runs of up to `last_actions` it ends.

    A hidden token that is not the one at its place in the frame before counts ``1 + moving_weight`` times in the
    loss. So the guesses lean towards change, and at temperature 0 what is small and moves is not left out for
    being hard to place.

    Raises `ValueError` for an unknown `masking`, a `mask_ratio`, `context_noise` or `own_context` that is no share,
    either of the latter two without a clean context, a negative `moving_weight`, less than one of the last actions, or
    tokenizers of unlike frames.
    """

    name = "dynamics"
    earlier: ClassVar[Mapping[str, Any]] = {
        "context_noise": 0,
        "own_context": 0,
        "moving_weight": 0,
        "qk_norm": False,
        "positions": SINCOS,
        "conditioning": FILM,
        "last_actions": 1,
    }

    def __init__(
        self,
        *,
        video_tokenizer: VideoTokenizer,
        action_tokenizer: ActionTokenizer,
        dataset: Mapping[str, Any],
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        num_blocks: int,
        norm: str,
        qk_norm: bool,
        positions: str,
        conditioning: str,
        last_actions: int,
        feed_forward: Mapping[str, Any],
        masking: str,
        mask_ratio: float,
        context_noise: float,
        own_context: float,
        moving_weight: float,
        decoding: Mapping[str, Any],
    ) -> None:
        super().__init__(frame_size=video_tokenizer.frame_size, dataset=dataset, codes=video_tokenizer.vocabulary)
        self.save_hyperparameters(ignore=["video_tokenizer", "action_tokenizer"])
        tokenizers = (video_tokenizer, action_tokenizer)
        self.save_hyperparameters({tokenizer.name: dict(tokenizer.hparams) for tokenizer in tokenizers})
        check_whole("data.clip_length", dataset["clip_length"], at_least=2)
        check_training(
            masking,
            last_actions=last_actions,
            clip_length=dataset["clip_length"],
            mask_ratio=mask_ratio,
            context_noise=context_noise,
            own_context=own_context,
            moving_weight=moving_weight,
        )
        Tokenizers(*tokenizers).check_same_frames()
        self.last_actions = last_actions
        self.masking = masking
        self.mask_ratio = mask_ratio
        self.context_noise = context_noise
        self.own_context = own_context
        self.moving_weight = moving_weight
        self.decoding = Decoding(**decoding)
        self.context_length: int = dataset["clip_length"]
        self.video_tokenizer = video_tokenizer.requires_grad_(False).eval()
        self.action_tokenizer = action_tokenizer.requires_grad_(False).eval()
        latent_dim = video_tokenizer.quantizer.latent_dim
        actions = action_tokenizer.n_actions
        told = action_tokenizer.latent_dim if last_actions == 1 else told_size(last=last_actions, number=actions)
        self.mask_token = nn.Parameter(0.02 * torch.randn(latent_dim))
        self.from_latent = nn.Linear(latent_dim, embed_dim)
        added = added_positions(positions, video_tokenizer.grid, embed_dim)
        self.register_buffer("positions", added, persistent=False)
        self.positions: Tensor
        self.transformer = SpaceTimeTransformer(
            embed_dim=embed_dim,
            num_heads=num_heads,
            hidden_dim=hidden_dim,
            num_blocks=num_blocks,
            norm=norm,
            qk_norm=qk_norm,
            positions=positions,
            grid=video_tokenizer.grid,
            condition_dim=told,
            conditioning=conditioning,
            feed_forward=feed_forward,
        )
        self.to_logits = nn.Linear(embed_dim, video_tokenizer.vocabulary)
        self.copy_psnr = validation_psnr()

    @classmethod
    def from_hyperparameters(cls, hyperparameters: Mapping[str, Any]) -> Self:
        check_types(cls, hyperparameters)
        tokenizers = {
            kind.name: kind.from_hyperparameters(hyperparameters[kind.name])
            for kind in (VideoTokenizer, ActionTokenizer)
        }
        choices = {
            "feed_forward": completed(FEED_FORWARDS, hyperparameters.get("feed_forward", SWIGLU)),
            "decoding": Decoding.completed(hyperparameters["decoding"]),
        }
        return super().from_hyperparameters({**hyperparameters, **tokenizers, **choices})

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.video_tokenizer.eval()
        self.action_tokenizer.eval()
        return self

    def forward(
        self,
        tokens: Int64[Tensor, "B T P"],
        hidden: Bool[Tensor, "B T P"],
        condition: Condition | None,
        timeline: Timeline | None = None,
        past: Past | None = None,
    ) -> Float[Tensor, "B T P E"]:
        """Features of each token, from which `to_logits` guesses it, where the `hidden` ones are not seen.

        `timeline` and `past`: see `SpaceTimeTransformer`.
        """
        codes = torch.where(hidden.unsqueeze(-1), self.mask_token, self.video_tokenizer.quantizer.codes(tokens))
        return self.transformer(self.embed(codes), condition, timeline, past)

    def remember(self, tokens: Int64[Tensor, "B T P"], condition: Condition) -> Past:
        """What frames that follow these seen ones need of them."""
        return self.transformer.remember(self.embed(self.video_tokenizer.quantizer.codes(tokens)), condition)

    def embed(self, codes: Float[Tensor, "B T P L"]) -> Float[Tensor, "B T P E"]:
        """Codes of tokens, or what stands for hidden ones, at their place."""
        return self.from_latent(codes) + self.positions

    def condition(self, actions: Int64[Tensor, "B N"]) -> Condition:
        """Align N actions with the N+1 frames they lead to; none leads to the first.

        By their codes, or with more than one of the `last_actions` as `told_together`.
        """
        if self.last_actions == 1:
            told = self.action_tokenizer.quantizer.codes(actions)
        else:
            told = told_together(actions, last=self.last_actions, number=self.action_tokenizer.n_actions)
        latents = F.pad(told, (0, 0, 1, 0))
        return Condition(latents, torch.arange(latents.shape[1], device=latents.device) > 0)

    @property
    def tokenizers(self) -> Tokenizers:
        """Both tokenizers, frozen."""
        return Tokenizers(self.video_tokenizer, self.action_tokenizer)

    def tokenize(self, frames: Float[Tensor, "B T C H W"]) -> ClipTokens:
        """The video tokens of the frames and the actions between them."""
        return self.tokenizers.tokenize(frames)

    def training_step(self, clips: Float[Tensor, "B T C H W"] | ClipTokens, batch_index: int) -> Tensor:
        tokens, actions = clips if isinstance(clips, ClipTokens) else self.tokenize(clips)
        loss, accuracy = masked_loss(self, tokens, actions)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", accuracy)
        of_experts, routings = self.transformer.take_routing()
        if routings:
            for name, value in summary(routings).items():
                self.log(f"train/experts/{name}", value)
        return loss + of_experts

    def validation_step(self, frames: Float[Tensor, "B T C H W"], batch_index: int) -> None:
        tokens, actions = self.tokenize(frames)
        generator = torch.Generator(self.device).manual_seed(batch_index)
        loss, accuracy = masked_loss(self, tokens, actions, generator)
        self.log(METRIC, loss, prog_bar=True, sync_dist=True)
        self.log("val/accuracy", accuracy, sync_dist=True)
        guessed, predicted = self.next_frame(tokens, actions, generator)
        self.log_psnr("val/copy_psnr", self.copy_psnr, frames[:, -2:-1], frames[:, -1:])
        self.log_image_quality(predicted, frames[:, -1:])
        self.code_usage.update(guessed)

    def pictures(self, frames: Float[Tensor, "B T C H W"]) -> dict[str, np.ndarray]:
        """Next frames as predicted, a frame guessed from part of its tokens, and each action from one prompt."""
        return drawn(self, frames)
