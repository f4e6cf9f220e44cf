"""The two tokenizers together: clips of frames to what the dynamics see of them."""

import hashlib
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.models.action_tokenizer import ActionTokenizer
from tinyworlds.models.video_tokenizer import VideoTokenizer


class Tokenizers(NamedTuple):
    """A video and an action tokenizer, trained, for frames of one size."""

    video: VideoTokenizer
    action: ActionTokenizer

    @property
    def digest(self) -> str:
        """SHA-256 of both tokenizers."""
        return hashlib.sha256(f"{self.video.digest()} {self.action.digest()}".encode()).hexdigest()

    @property
    def temporal(self) -> bool:
        """Whether tokens depend on more than their frame, or actions on more than their two."""
        return self.video.temporal or self.action.temporal

    @property
    def vocabularies(self) -> tuple[int, int]:
        """V and the number of actions."""
        return self.video.vocabulary, self.action.n_actions

    @property
    def num_patches(self) -> int:
        """P: tokens per frame."""
        return self.video.num_patches

    def check_same_frames(self) -> None:
        """Refuse tokenizers that are for frames of different sizes."""
        if self.video.frame_size != self.action.frame_size:
            raise ValueError(
                f"the video tokenizer is for frames of {self.video.frame_size}, "
                f"the action tokenizer for frames of {self.action.frame_size}"
            )

    @torch.no_grad()
    def tokenize(self, frames: Float[Tensor, "B T C H W"]) -> ClipTokens:
        """The video tokens of frames in [-1, 1] and the actions between them.

        Never in mixed precision: training, the cache and playing are to see the same tokens.
        """
        with torch.autocast(frames.device.type, enabled=False):
            return ClipTokens(self.video.tokenize(frames), self.action.tokenize(frames))

    def to(self, device: torch.device) -> "Tokenizers":
        """Move both to `device`."""
        for tokenizer in self:
            tokenizer.to(device)
        return self
