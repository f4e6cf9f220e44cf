"""A learned world to step through, like an environment."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from numpy.typing import ArrayLike
from torch import Tensor

from tinyworlds import addresses, pretrained
from tinyworlds.data.clips import normalize
from tinyworlds.data.settings import check_device
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.devices import allow_tf32
from tinyworlds.models import Dynamics
from tinyworlds.models.stage import as_pictures


class World:
    """A game learned from video: ``reset`` shows it some frames, ``step`` imagines what follows an action.

        world = World.load("dynamics.ckpt")
        frame = world.reset(prompt)        # uint8 (T, H, W, 3)
        for action in (0, 1, 1, 2):
            frame = world.step(action)     # uint8 (H, W, 3)

    Given prompts with a batch in front, (B, T, H, W, 3), it steps B games at once, and everything has that
    batch in front. With ``horizon`` h above 1 each step imagines h frames under its action, and a frame
    becomes (h, H, W, 3). Frames are tokenized once, in ``reset``; what is imagined stays tokens, and the last
    ``context_length`` frames of them are seen. Same seed, prompt and actions, same frames.

    Frames are decoded as the world was trained to be, but for what of `tinyworlds.maskgit.Decoding` is given in
    `decoding`, as ``steps=4``.

    On a GPU, TF32 is allowed from then on (see `tinyworlds.devices`).

    Raises `ValueError` for a horizon that leaves no frame to be seen, or an impossible decoding.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        *,
        horizon: int = 1,
        seed: int = 0,
        device: str | torch.device = "cpu",
        **decoding: Any,
    ) -> None:
        dynamics.check_horizon(horizon)
        allow_tf32(device)
        self.dynamics = dynamics.to(device).eval()
        self.horizon = horizon
        self.seed = seed
        self.folder: Path | None = None  # what it was loaded from, with its evaluation
        self.decoding = dynamics.decoding.changed(**decoding)
        self._seen: ClipTokens | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        horizon: int = 1,
        seed: int = 0,
        device: str | torch.device = "cpu",
        **decoding: Any,
    ) -> Self:
        """The world in a checkpoint of the dynamics, which carries both tokenizers, in a folder that
        `save_pretrained` wrote, or in ``hf://user/name[@revision]``.

        Raises:
            FileNotFoundError: there is none, or it cannot be downloaded.
            ValueError: it is something else, or torch has no such device here.
        """
        check_device(device)
        dynamics, folder = pretrained.open_world(path)
        world = cls(dynamics, horizon=horizon, seed=seed, device=device, **decoding)
        world.folder = folder
        return world

    @classmethod
    def from_pretrained(cls, where: str | Path, *, revision: str | None = None, **options: Any) -> Self:
        """The world that `save_pretrained` wrote to a folder, or in the Hub's repository ``user/name``.

        `revision` is a branch, tag or commit; `options` are those of the constructor.

        Raises:
            FileNotFoundError: there is none, or it cannot be downloaded.
            ValueError: it is something else.
        """
        address = where if Path(where).is_dir() else addresses.address(str(where), revision)
        return cls.load(address, **options)

    def save_pretrained(
        self, folder: str | Path, *, license: str = "mit", half: bool = False, overwrite: bool = False
    ) -> None:
        """Write the world as people share it, to be decoded as it is here; `tinyworlds.pretrained` has the files.

        `license` is of the weights, as the Hub names it. With `half` they are rounded to float16: half as large a
        file, and a world that imagines almost the same.

        Raises:
            ValueError: the folder holds such files already, and `overwrite` is not set.
        """
        name = f"user/{Path(folder).resolve().name}"
        pretrained.save(
            self.dynamics,
            Path(folder),
            decoding=self.decoding,
            known=self.folder,
            repo=name,
            license=license,
            half=half,
            overwrite=overwrite,
        )

    def push_to_hub(self, repo: str, *, private: bool = False, license: str = "mit") -> str:
        """Upload the world to the Hub's repository ``user/name``, made where it is missing; returns its address.

        Raises:
            ValueError: the Hub does not take it.
        """
        return pretrained.push(
            self.dynamics, repo, decoding=self.decoding, known=self.folder, private=private, license=license
        )

    @property
    def n_actions(self) -> int:
        """Actions are numbered 0 … n_actions - 1."""
        return self.dynamics.action_tokenizer.n_actions

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a frame, in pixels."""
        return self.dynamics.frame_size

    @property
    def context_length(self) -> int:
        """The most frames seen at a time, the imagined ones included."""
        return self.dynamics.context_length

    @torch.inference_mode()
    def reset(self, frames: np.ndarray, *, seed: int | None = None) -> UInt8[np.ndarray, "*batch H W 3"]:
        """Begin from a prompt, uint8 (T, H, W, 3) or (B, T, H, W, 3), whose actions are inferred.

        Returns its last frame, as decoded from its tokens.

        `seed` replaces the world's own.

        Raises:
            ValueError: the frames have another size than the world's, or there are none.
        """
        height, width = self.frame_size
        if frames.dtype != np.uint8:
            raise ValueError(f"the prompt is {frames.dtype}; frames are uint8, 0 to 255")
        if frames.ndim not in (4, 5) or frames.shape[-3:] != (height, width, 3) or frames.shape[-4] < 1:
            raise ValueError(
                f"the prompt has shape {frames.shape}; this world needs (T, {height}, {width}, 3), or a batch of it"
            )
        self._batched = frames.ndim == 5
        self._generator = torch.Generator(self.dynamics.device).manual_seed(self.seed if seed is None else seed)
        clips = torch.from_numpy(np.ascontiguousarray(frames if self._batched else frames[None]))
        seen = normalize(clips[:, -self.context_length :].to(self.dynamics.device))
        self._seen = self.dynamics.tokenize(seen)
        return self._observe(self._seen.tokens, 1)[..., 0, :, :, :]

    @torch.inference_mode()
    def step(self, action: ArrayLike) -> UInt8[np.ndarray, "*batch H W 3"]:
        """Imagine the next frame, or `horizon` frames, under `action`.

        One action serves all games and frames; in a batch, B serve one game each; with a horizon above 1,
        (h,) or in a batch (B, h) serve one frame each.

        Raises:
            ValueError: no such action, or no `reset` before.
        """
        if self._seen is None:
            raise ValueError("World.step needs a World.reset(frames) before it")
        actions = self._check(action, len(self._seen.tokens))
        self._seen, codes = self.dynamics.advance(
            self._seen, actions, decoding=self.decoding, generator=self._generator
        )
        frames = self._observe(self._seen.tokens, self.horizon, codes)
        return frames if self.horizon > 1 else frames[..., 0, :, :, :]

    def infer(self, frames: UInt8[np.ndarray, "*batch T H W 3"]) -> Int64[np.ndarray, "*batch T-1"]:
        """The actions that the action tokenizer reads between the frames, see `ActionTokenizer.infer`."""
        return self.dynamics.action_tokenizer.infer(frames)

    def _check(self, action: ArrayLike, batch: int) -> Int64[Tensor, "B h"]:
        given = np.asarray(action)
        if self._batched and given.ndim == 1:
            given = given[:, None]
        if given.dtype.kind not in "iu" or ((given < 0) | (given >= self.n_actions)).any():
            raise ValueError(
                f"action={action!r}: this world's actions are whole numbers from 0 to {self.n_actions - 1}"
            )
        try:
            every = np.broadcast_to(given, (batch, self.horizon))
        except ValueError:
            raise ValueError(f"action={action!r} does not fit {batch} games and a horizon of {self.horizon}") from None
        return torch.as_tensor(every.copy(), dtype=torch.int64, device=self.dynamics.device)

    def _observe(
        self, tokens: Int64[Tensor, "B T P"], count: int, codes: Float[Tensor, "B n P L"] | None = None
    ) -> UInt8[np.ndarray, "*batch n H W 3"]:
        frames = as_pictures(self.dynamics.render(tokens, count=count, codes=codes))
        return frames if self._batched else rearrange(frames, "1 n h w c -> n h w c")
