"""The mathematics of `experiment=reference` written out plainly: what ours is measured against and checked with.

What a researcher writes first: attention as matmul, softmax, matmul; a projection each for queries, keys and
values; every decoding step over the whole window; every frame tokenized anew whenever it is needed; clips read
one by one. Nothing here is made fast, and nothing is made slow. Shapes as in `tinyworlds`.
"""

import math
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.plain_nn import FSQ, PatchEmbedding, PixelHead, Transformer, positions_in_space
from tinyworlds import models
from tinyworlds.models import Stage


class VideoTokenizer(nn.Module):
    """Frames to tokens and back."""

    def __init__(self, ours: models.VideoTokenizer) -> None:
        super().__init__()
        options = dict(ours.hparams)
        embed_dim, latent_dim = options["embed_dim"], options["latent_dim"]
        size = (options["frame_size"], options["patch_size"], embed_dim)
        self.patch_embedding = PatchEmbedding(*size)
        self.encoder = Transformer(options)
        self.to_latent = nn.Sequential(nn.LayerNorm(embed_dim), nn.Linear(embed_dim, latent_dim))
        self.fsq = FSQ(latent_dim, options["num_bins"])
        self.from_latent = nn.Linear(latent_dim, embed_dim)
        self.decoder = Transformer(options)
        self.pixel_head = PixelHead(*size)
        copy_weights(ours, self)

    def encode(self, frames: Tensor) -> Tensor:
        return self.fsq.quantize(self.to_latent(self.encoder(self.patch_embedding(frames))))

    def decode(self, codes: Tensor) -> Tensor:
        return self.pixel_head(self.decoder(self.from_latent(codes) + self.patch_embedding.positions))

    def tokenize(self, frames: Tensor) -> Tensor:
        return self.fsq.indices(self.encode(frames))

    def detokenize(self, tokens: Tensor) -> Tensor:
        return self.decode(self.fsq.codes(tokens))

    def loss(self, frames: Tensor) -> Tensor:
        return F.smooth_l1_loss(self.decode(self.encode(frames)), frames)


class ActionEncoder(nn.Module):
    """Neighbouring frames, each averaged, to the latent of what happened between them."""

    def __init__(self, frame_size: tuple[int, int], options: dict[str, Any], action_dim: int) -> None:
        super().__init__()
        embed_dim = options["embed_dim"]
        self.patch_embedding = PatchEmbedding(frame_size, options["patch_size"], embed_dim)
        self.transformer = Transformer(options)
        self.head = nn.Sequential(
            nn.LayerNorm(2 * embed_dim),
            nn.Linear(2 * embed_dim, 4 * action_dim),
            nn.GELU(),
            nn.Linear(4 * action_dim, action_dim),
        )

    def forward(self, frames: Tensor) -> Tensor:
        pooled = self.transformer(self.patch_embedding(frames)).mean(dim=2)
        return self.head(torch.cat([pooled[:, :-1], pooled[:, 1:]], dim=-1))


class ActionDecoder(nn.Module):
    """The first frame and the actions to the frames that follow."""

    def __init__(self, frame_size: tuple[int, int], options: dict[str, Any], action_dim: int) -> None:
        super().__init__()
        embed_dim = options["embed_dim"]
        self.mask_ratio = options["mask_ratio"]
        self.patch_embedding = PatchEmbedding(frame_size, options["patch_size"], embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(embed_dim))
        self.transformer = Transformer(options, action_dim)
        self.norm = nn.LayerNorm(embed_dim)
        self.pixel_head = PixelHead(frame_size, options["patch_size"], embed_dim)

    def forward(self, frames: Tensor, actions: Tensor) -> Tensor:
        tokens = self.patch_embedding(frames)
        if self.training:
            hidden = torch.rand(tokens.shape[:3], device=tokens.device) < self.mask_ratio
            hidden[:, 0] = False
            tokens = torch.where(hidden.unsqueeze(-1), self.mask_token, tokens)
        return torch.tanh(self.pixel_head(self.norm(self.transformer(tokens, actions))))


class ActionTokenizer(nn.Module):
    """Pairs of frames to actions."""

    def __init__(self, ours: models.ActionTokenizer) -> None:
        super().__init__()
        options = dict(ours.hparams)
        self.variance_weight, self.variance_target = options["variance_weight"], options["variance_target"]
        self.encoder = ActionEncoder(options["frame_size"], options["encoder"], ours.latent_dim)
        self.decoder = ActionDecoder(options["frame_size"], options["decoder"], ours.latent_dim)
        self.fsq = FSQ(ours.latent_dim, options["num_bins"])
        copy_weights(ours, self)

    def encode(self, frames: Tensor) -> Tensor:
        return self.fsq.quantize(self.encoder(frames))

    def tokenize(self, frames: Tensor) -> Tensor:
        return self.fsq.indices(self.encode(frames))

    def loss(self, frames: Tensor) -> Tensor:
        latents = self.encoder(frames)
        predicted = self.decoder(frames[:, :-1], self.fsq.quantize(latents))
        flat = F.relu(self.variance_target - latents.var(dim=0, unbiased=False).mean())
        return F.smooth_l1_loss(predicted, frames[:, 1:]) + self.variance_weight * flat


class Dynamics(nn.Module):
    """Tokens and actions to the next tokens."""

    def __init__(self, ours: models.Dynamics) -> None:
        super().__init__()
        options = dict(ours.hparams)
        self.video_tokenizer = VideoTokenizer(ours.video_tokenizer).requires_grad_(False)
        self.action_tokenizer = ActionTokenizer(ours.action_tokenizer).requires_grad_(False)
        self.fsq = self.video_tokenizer.fsq
        self.mask_ratio, self.context_length, self.decoding = options["mask_ratio"], ours.context_length, ours.decoding
        self.mask_token = nn.Parameter(torch.zeros(self.fsq.latent_dim))
        self.from_latent = nn.Linear(self.fsq.latent_dim, options["embed_dim"])
        self.transformer = Transformer(options, ours.action_tokenizer.latent_dim)
        self.to_logits = nn.Linear(options["embed_dim"], self.fsq.num_bins**self.fsq.latent_dim)
        self.register_buffer(
            "positions", positions_in_space(*ours.video_tokenizer.grid, options["embed_dim"]), persistent=False
        )
        copy_weights(ours, self)

    def forward(self, tokens: Tensor, hidden: Tensor, actions: Tensor) -> Tensor:
        """Logits (B, T, P, V) of all tokens (B, T, P), given actions (B, T-1, A)."""
        codes = torch.where(hidden.unsqueeze(-1), self.mask_token, self.fsq.codes(tokens))
        return self.to_logits(self.transformer(self.from_latent(codes) + self.positions, actions))

    def loss(self, frames: Tensor) -> Tensor:
        with torch.no_grad():
            tokens = self.video_tokenizer.tokenize(frames)
            actions = self.action_tokenizer.encode(frames)
        hidden = anchored_mask(tokens, self.mask_ratio)
        logits = self(tokens, hidden, actions)
        each = F.cross_entropy(logits.flatten(0, 2), tokens.flatten(), reduction="none")
        return (each * hidden.flatten()).sum() / hidden.sum()

    def decode(
        self,
        tokens: Tensor,
        actions: Tensor,
        *,
        horizon: int = 1,
        steps: int,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The next `horizon` frames (B, N, P) after `tokens` (B, T, P), given action codes (B, T+N-1, A)."""
        batch, _, patches = tokens.shape
        total = horizon * patches
        guessed = torch.zeros(batch, total, dtype=torch.long, device=tokens.device)
        masked = torch.ones_like(guessed, dtype=torch.bool)
        for step in range(steps):
            window = torch.cat([tokens, guessed.view(batch, horizon, patches)], dim=1)
            hidden = torch.cat([torch.zeros_like(tokens, dtype=torch.bool), masked.view(batch, horizon, patches)], 1)
            logits = self(window, hidden, actions)
            probabilities = F.softmax(logits / (temperature or 1), dim=-1)[:, -horizon:].flatten(1, 2)
            if temperature:
                drawn = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator)
                confidence = probabilities.gather(2, drawn.view(batch, total, 1)).squeeze(2)
                choice = drawn.view(batch, total)
            else:
                confidence, choice = probabilities.max(dim=-1)
            for game in range(batch):
                left = int(masked[game].sum())
                count = reveal_count(step, steps, total, left)
                surest = torch.topk(confidence[game].masked_fill(~masked[game], -1), count).indices
                guessed[game, surest] = choice[game, surest]
                masked[game, surest] = False
            if not masked.any():
                break
        return guessed.view(batch, horizon, patches)


def reveal_count(step: int, steps: int, total: int, left: int) -> int:
    """How many of the `left` hidden tokens a step reveals: exponentially more, at least a 16th of `total`."""
    aim = total if step == steps - 1 else math.ceil(total * math.expm1(5 * step / steps) / math.expm1(5))
    return min(max(aim - (total - left), total // 16, 1), left)


def anchored_mask(tokens: Tensor, min_ratio: float) -> Tensor:
    """Hide a share of each clip, but leave each position seen in one of the frames."""
    batch, frames, patches = tokens.shape
    ratio = min_ratio + (1 - min_ratio) * torch.rand(batch, 1, 1, device=tokens.device)
    hidden = torch.rand(batch, frames, patches, device=tokens.device) < ratio
    anchor = torch.randint(frames, (batch, 1, patches), device=tokens.device)
    return hidden.scatter(1, anchor, False)


class World:
    """Plays from `frames` (B, T, 3, H, W) on, which it keeps as pixels."""

    @torch.no_grad()
    def __init__(self, dynamics: Dynamics, frames: Tensor) -> None:
        self.dynamics = dynamics
        self.frames = frames
        self.actions = dynamics.action_tokenizer.encode(frames)

    @torch.no_grad()
    def step(self, action: int) -> np.ndarray:
        """The next frame, uint8 (B, H, W, 3)."""
        tokenizer = self.dynamics.video_tokenizer
        chosen = torch.full((len(self.frames), 1), action, device=self.frames.device)
        self.actions = torch.cat([self.actions, self.dynamics.action_tokenizer.fsq.codes(chosen)], dim=1)
        seen = tokenizer.tokenize(self.frames[:, -(self.dynamics.context_length - 1) :])
        actions = self.actions[:, -seen.shape[1] :]
        decoding = self.dynamics.decoding
        following = self.dynamics.decode(seen, actions, steps=decoding.steps, temperature=decoding.temperature)
        window = tokenizer.detokenize(torch.cat([seen, following], dim=1))
        self.frames = torch.cat([self.frames, window[:, -1:]], dim=1)
        pixels = ((window[:, -1] + 1) * 127.5).round().clamp(0, 255).byte()
        return rearrange(pixels, "b c h w -> b h w c").cpu().numpy()


class Clips(Dataset[Tensor]):
    """All windows of `length` frames of a store that fits into memory, float32 (T, 3, H, W) in [-1, 1]."""

    def __init__(self, path: Path, length: int) -> None:
        with h5py.File(path, "r") as file:
            self.frames = file["frames"][:]
        self.length = length

    def __len__(self) -> int:
        return len(self.frames) - self.length + 1

    def __getitem__(self, index: int) -> Tensor:
        return torch.stack([transform(frame) for frame in self.frames[index : index + self.length]])


def transform(frame: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) to float32 (3, H, W) in [-1, 1]."""
    scaled = torch.from_numpy(frame.astype(np.float32) / 255)
    return (scaled.permute(2, 0, 1) - 0.5) / 0.5


def copy_weights(ours: Stage, plain: nn.Module) -> None:
    """Give `plain` the weights of `ours`, whose projections are in one piece."""
    weights: dict[str, Tensor] = {}
    for name, value in ours.state_dict().items():
        name = re.sub(r"\.part\.", ".", name)
        name = re.sub(r"norm\.norm\.weight", "norm.gain", name)
        name = re.sub(r"(scale_and_shift|pixels)\.\d\.", r"\1.", name)
        if ".qkv." in name:
            weights |= {name.replace("qkv", part): piece for part, piece in zip("qkv", value.chunk(3), strict=True)}
        elif ".gate_and_value." in name:
            pieces = zip(("gate", "value"), value.chunk(2), strict=True)
            weights |= {name.replace("gate_and_value", part): piece for part, piece in pieces}
        else:
            weights[name] = value
    plain.load_state_dict(weights)


def plain_version(ours: Stage) -> VideoTokenizer | ActionTokenizer | Dynamics:
    """The plain model of a stage, with its weights and on its device."""
    plain: VideoTokenizer | ActionTokenizer | Dynamics
    if isinstance(ours, models.VideoTokenizer):
        plain = VideoTokenizer(ours)
    elif isinstance(ours, models.ActionTokenizer):
        plain = ActionTokenizer(ours)
    else:
        assert isinstance(ours, models.Dynamics)
        plain = Dynamics(ours)
    return plain.to(ours.device).train(ours.training)
