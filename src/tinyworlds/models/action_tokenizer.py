"""Action tokenizer: the discrete action between two frames, learned from video alone."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from einops import rearrange, reduce
from jaxtyping import Float, Int64, Shaped, UInt8
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from tinyworlds import parallel
from tinyworlds.data.clips import normalize
from tinyworlds.data.settings import check_number, check_types, check_whole
from tinyworlds.media import grid
from tinyworlds.metrics import moving, pixel_loss, psnr
from tinyworlds.models.stage import METRIC, Stage, as_pictures, validation_psnr
from tinyworlds.nn.action_codecs import DECODERS, ENCODERS, build_decoder, build_encoder
from tinyworlds.nn.agreement import Agreement, check_agreement
from tinyworlds.nn.choices import completed
from tinyworlds.nn.committee import CommitteeDecoder, CommitteeEncoder
from tinyworlds.nn.fsq import FSQ, code_entropy
from tinyworlds.nn.norms import LatentNorm
from tinyworlds.nn.patches import patch_grid


class ActionTokenizer(Stage):
    """FSQ-VAE over pairs of frames: frames t, t+1 → one of `n_actions` codes; frames … t and code → frame t+1.

    What the frames so far don't tell of the next one must pass through the code, so the code comes to
    mean the player's action (Genie, arXiv 2402.15391, section 2.1). Three means keep it from settling on
    one code, each off at 0 or False: `latent_norm` normalizes the latents over the batch before rounding
    (see `LatentNorm`); `usage_weight` times what the entropy of the codes in a batch lacks (nats), in
    proportion to the prediction loss; `variance_weight` times what the latents' variance over the batch
    lacks to `variance_target`.

    The first `unscored` transitions of each clip do not count. Of the very first the decoder has seen a single
    frame, which does not show what moves by itself; a code that makes up for that is no action.

    `shrink` is the factor by which frames are averaged down first: motion is seen as well in small frames,
    and much faster. Predicted frames are as small.

    With `codes` (None: the codes are the actions) a code is of a motion, in which this action and the one before
    show, and the actions of a clip are read from all of its codes, of as many codecs as there are `members`, which
    learn side by side (see `Agreement`). What is said of codes is then said of each member's, and codes lie one after
    the other.

    Raises `ValueError` where `n_actions` or `codes` is no power of `num_bins`, `shrink` does not divide the frame, no
    transition of a clip is left to count, or so many actions can't be read from such codes.
    """

    name = "action_tokenizer"
    earlier: ClassVar[Mapping[str, Any]] = {"unscored": 0, "members": 1, "codes": None}

    def __init__(
        self,
        *,
        frame_size: tuple[int, int],
        dataset: Mapping[str, Any],
        n_actions: int,
        num_bins: int,
        shrink: int,
        encoder: Mapping[str, Any],
        decoder: Mapping[str, Any],
        latent_norm: bool,
        usage_weight: float,
        variance_weight: float,
        variance_target: float,
        moving_weight: float,
        unscored: int,
        members: int,
        codes: int | None,
    ) -> None:
        action_dim = latent_dim_of(n_actions, num_bins)
        length = dataset["clip_length"]
        check_whole("data.clip_length", length, at_least=2)
        check_agreement(members, codes=codes, n_actions=n_actions, clip_length=length)
        latent_dim = action_dim if codes is None else latent_dim_of(codes, num_bins, option="codes")
        super().__init__(frame_size=frame_size, dataset=dataset, codes=n_actions)
        self.save_hyperparameters()
        check_whole("unscored", unscored, at_least=0)
        if unscored > length - 2:
            raise ValueError(
                f"unscored={unscored}: clips of data.clip_length={length} frames have no more transitions than that, "
                "and one must count"
            )
        weights = {
            "usage_weight": usage_weight,
            "variance_weight": variance_weight,
            "variance_target": variance_target,
            "moving_weight": moving_weight,
        }
        for name, weight in weights.items():
            check_number(name, weight, at_least=0)
        self.usage_weight = usage_weight
        self.variance_weight = variance_weight
        self.variance_target = variance_target
        self.moving_weight = moving_weight
        self.unscored = unscored
        self.shrink = shrink
        small = patch_grid(frame_size, shrink, option="shrink")
        encoders, decoders = (
            [build(options, frame_size=small, latent_dim=latent_dim) for _ in range(members)]
            for build, options in ((build_encoder, encoder), (build_decoder, decoder))
        )
        alone = members == 1
        self.encoder = encoders[0] if alone else CommitteeEncoder(encoders)
        self.decoder = decoders[0] if alone else CommitteeDecoder(decoders)
        self.latent_norm = LatentNorm(latent_dim=members * latent_dim) if latent_norm else nn.Identity()
        self.members = members
        self.codebook = FSQ(latent_dim=latent_dim, num_bins=num_bins)
        agreed = {"members": members, "codes": self.codebook.vocabulary, "actions": n_actions}
        self.agreement = None if codes is None else Agreement(**agreed, transitions=length - 1)
        self.quantizer = FSQ(latent_dim=action_dim, num_bins=num_bins)
        self.copy_psnr = validation_psnr()
        self.shuffled_psnr = validation_psnr()

    @classmethod
    def from_hyperparameters(cls, hyperparameters: Mapping[str, Any]) -> Self:
        check_types(cls, hyperparameters)
        parts = {"encoder": ENCODERS, "decoder": DECODERS}
        options = {name: completed(choices, hyperparameters[name]) for name, choices in parts.items()}
        return super().from_hyperparameters({**hyperparameters, **options})

    @property
    def n_actions(self) -> int:
        """How many actions there are: the keys of the learned game."""
        return self.quantizer.vocabulary

    @property
    def temporal(self) -> bool:
        """Whether an action depends on other frames than the two it lies between."""
        return bool(self.encoder.temporal) or self.agreement is not None

    @property
    def latent_dim(self) -> int:
        """A: dimensions of the code of an action, as the dynamics see it."""
        return self.quantizer.latent_dim

    def shrunk(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T C h w"]:
        """Frames averaged down by `shrink`: what the encoder sees and the decoder predicts."""
        return reduce(frames, "b t c (h i) (w j) -> b t c h w", "mean", i=self.shrink, j=self.shrink)

    def latents(self, small: Float[Tensor, "B T C h w"]) -> Float[Tensor, "B T-1 MA"]:
        """The continuous latent of each transition between shrunk frames, unbounded, before rounding."""
        return self.latent_norm(self.encoder(small))

    def encode(self, frames: Float[Tensor, "B T C H W"]) -> Float[Tensor, "B T-1 MA"]:
        """The FSQ code, in [-1, 1], of each transition, by which `decode` makes it happen again."""
        return self.codebook(self.latents(self.shrunk(frames)))

    def tokenize(self, frames: Float[Tensor, "B T C H W"]) -> Int64[Tensor, "B T-1"]:
        """The action of each transition, in 0 … n_actions-1; a single frame has none."""
        if frames.shape[1] == 1:
            return torch.empty(len(frames), 0, dtype=torch.int64, device=frames.device)
        return self._actions(self.encode(frames))

    def typical_codes(self, actions: Int64[Tensor, "*batch"]) -> Float[Tensor, "*batch MA"]:
        """The likeliest of what `encode` gives where an action is taken, and taken before."""
        read = actions.unsqueeze(-1) if self.agreement is None else self.agreement.typical(actions)
        return self.codebook.codes(read).flatten(-2)

    def _read(self, codes: Float[Tensor, "B N MA"]) -> Int64[Tensor, "B N M"]:
        """The code of each member, in 0 … V-1."""
        return self.codebook.indices(rearrange(codes, "b n (m a) -> b n m a", m=self.members))

    def _actions(self, codes: Float[Tensor, "B N MA"]) -> Int64[Tensor, "B N"]:
        read = self._read(codes)
        return read.squeeze(-1) if self.agreement is None else self.agreement(read)

    @torch.inference_mode()
    def infer(self, frames: UInt8[np.ndarray, "*batch T H W 3"]) -> Int64[np.ndarray, "*batch T-1"]:
        """The actions between the frames of a film of any length, or of a batch of films.

        Where an action depends on other frames, each is read as the last of a clip, with as many earlier frames as
        there are, up to as many as clips had in training, and no later ones.
        """
        length = self.dataset["clip_length"]
        films = torch.from_numpy(np.ascontiguousarray(frames if frames.ndim == 5 else frames[None]))
        count, stride = films.shape[1], 1 if self.temporal else length - 1
        read = []
        for start in range(0, max(count - 1, 1), stride):
            end = min(start + stride + 1, count)
            clip = films[:, max(end - length, 0) if self.temporal else start : end]
            actions = self.tokenize(normalize(clip.to(self.device)))
            read.append(actions[:, actions.shape[1] - (end - start - 1) :])
        inferred = torch.cat(read, dim=1).cpu().numpy()
        return inferred if frames.ndim == 5 else inferred[0]

    def decode(self, small: Float[Tensor, "B T C h w"], codes: Float[Tensor, "B T MA"]) -> Float[Tensor, "B T C h w"]:
        """For each shrunk frame, the one that follows under the action `codes`, given the frames up to it."""
        return self.decoder(small, codes)

    def training_step(self, frames: Float[Tensor, "B T C H W"], batch_index: int) -> Tensor:
        small = self.shrunk(frames)
        latents = self.latents(small)
        codes = self.codebook(latents)
        if self.agreement is not None:
            self.agreement.keep(self._read(codes))
        losses, predicted = self._prediction_losses(small, codes)
        parts = zip(losses, latents.chunk(self.members, dim=-1), strict=True)
        total = torch.stack([self._total(loss, own) for loss, own in parts]).mean()
        self.log("train/loss", total, prog_bar=True)
        self.log("train/prediction_loss", losses.mean())
        self.log("train/psnr", psnr(*self._scored(predicted.detach(), small[:, 1:])))
        return self.members * total  # the gradient of each member is the one that it would have alone

    def _total(self, loss: Float[Tensor, ""], latents: Float[Tensor, "B T A"]) -> Float[Tensor, ""]:
        """What a member learns from: its prediction loss, and what its latents lack."""
        total = loss
        if self.usage_weight:
            unused = math.log(self.codebook.vocabulary) - code_entropy(latents, self.codebook)
            total = total + self.usage_weight * loss.detach() * unused
        if self.variance_weight:
            flat = torch.relu(self.variance_target - parallel.moments_of_rows(latents)[1].mean())
            total = total + self.variance_weight * flat
        return total

    def on_validation_start(self) -> None:
        if self.agreement is not None:
            self.agreement.fit()

    def validation_step(self, frames: Float[Tensor, "B T C H W"], batch_index: int) -> None:
        small = self.shrunk(frames)
        now, following = small[:, :-1], small[:, 1:]
        codes = self.encode(frames)
        losses, predicted = self._prediction_losses(small, codes)
        shuffled = self.decode(now, parallel.rolled(codes))
        self.log(METRIC, losses.mean(), prog_bar=True, sync_dist=True)
        self.log_psnr("val/copy_psnr", self.copy_psnr, *self._scored(now, following))
        self.log_psnr("val/shuffled_psnr", self.shuffled_psnr, *self._scored(shuffled, following))
        self.log_image_quality(*self._scored(predicted, following))
        self.code_usage.update(self._actions(codes))

    def _prediction_losses(
        self, small: Float[Tensor, "B T C h w"], codes: Float[Tensor, "B T-1 MA"]
    ) -> tuple[Float[Tensor, " M"], Float[Tensor, "B T-1 C h w"]]:
        """Of each member, which is to predict by its own code alone; and the mean of what they predict."""
        now, following = small[:, :-1], small[:, 1:]
        if isinstance(self.decoder, CommitteeDecoder):
            predicted = self.decoder.each(now, codes)
        else:
            predicted = self.decode(now, codes).unsqueeze(0)
        target = following, moving(following, now)
        losses = [pixel_loss(*self._scored(each, *target), moving_weight=self.moving_weight) for each in predicted]
        return torch.stack(losses), predicted.mean(0)

    def _scored(self, *transitions: Shaped[Tensor, "B N ..."]) -> list[Shaped[Tensor, "B S ..."]]:
        """Those that count."""
        return [each[:, self.unscored :] for each in transitions]

    def on_validation_epoch_end(self) -> None:
        with self.code_usage.sync_context():
            taken = torch.repeat_interleave(self._all_actions(), self.code_usage.counts)
        for logger in self.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_histogram("val/actions", taken, self.global_step, bins=self.n_actions)
        super().on_validation_epoch_end()

    def pictures(self, frames: Float[Tensor, "B T C H W"]) -> dict[str, np.ndarray]:
        """One row a clip: its last-but-one frame, the true next one, and the next one under each action."""
        small = self.shrunk(frames[:6])
        now, codes = small[:, :-1], self.encode(frames[:6])
        columns = [now[:, -1], small[:, -1]]
        for action in self._all_actions():
            chosen = self.typical_codes(action).expand_as(codes[:, -1])
            columns.append(self.decode(now, torch.cat([codes[:, :-1], chosen.unsqueeze(1)], dim=1))[:, -1])
        labels = ("now", "next", *(f"action {action}" for action in range(self.n_actions)))
        return {"actions": grid(as_pictures(torch.stack(columns, dim=1)), scale=2 * self.shrink, column_labels=labels)}

    def _all_actions(self) -> Int64[Tensor, " V"]:
        return torch.arange(self.n_actions, device=self.device)


def latent_dim_of(codes: int, num_bins: int, *, option: str = "n_actions") -> int:
    """A, such that ``num_bins**A == codes``; `ValueError` where there is none, which names the `option`."""
    latent_dim = round(math.log(codes, num_bins)) if codes > 1 and num_bins > 1 else 0
    if latent_dim < 1 or num_bins**latent_dim != codes:
        raise ValueError(f"{option}={codes} is no power of num_bins={num_bins}")
    return latent_dim
