"""Tokens of a store, computed once and kept beside it: ``frames.h5`` has ``frames.tokens/<key>.h5``.

    tokens          the smallest unsigned integers that hold the vocabulary, (rows, P)
    latent_actions  the same, (rows,): what carries the frame of a row to that of the next
    attributes      version, store, tokenizers, clip_length

Where tokens depend on one frame and actions on two, a row is a frame of the store, whatever the clips. Where
they depend on the earlier frames of a clip, the rows are those of all training clips, one after the other.

The key is a hash of all that the tokens depend on: the contents of the store, the tokenizers (weights and
hyperparameters) and, in the second case, the clips. So a cache that is out of date is never found, and any
may be deleted.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import h5py
import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor
from torch.utils.data import Dataset

from tinyworlds.data.clips import Clips, normalize
from tinyworlds.data.frames import Frames
from tinyworlds.data.hdf5 import HDF5Error, Rows, dataset, open_hdf5, reporting
from tinyworlds.media import replacing
from tinyworlds.progress import track

VERSION = 1


class ClipTokens(NamedTuple):
    """Clips as dynamics see them: video tokens (B, T, P) and the actions between frames (B, T-1)."""

    tokens: Integer[Tensor, "B T P"]
    actions: Integer[Tensor, "B T-1"]


@runtime_checkable
class ClipTokenizer(Protocol):
    """What turns clips of frames into tokens; see `tinyworlds.models.tokenizers`."""

    @property
    def digest(self) -> str:
        """Differs between tokenizers that give different tokens."""

    @property
    def temporal(self) -> bool:
        """Whether tokens depend on more than their frame, or actions on more than their two."""

    @property
    def vocabularies(self) -> tuple[int, int]:
        """How many tokens and how many actions there are."""

    @property
    def num_patches(self) -> int:
        """P: tokens per frame."""

    def tokenize(self, frames: Float[Tensor, "B T C H W"]) -> ClipTokens:
        """Frames in [-1, 1] to tokens."""

    def to(self, device: torch.device) -> Any:
        """Move to `device`."""


class TokenCache:
    """The tokens of the training `clips` of a store by `tokenizer`.

    Frames are tokenized `batch_size` clips at a time, as training does it on the fly: a network may round
    otherwise in a batch of another shape, and a latent on the border between two levels then falls on the
    other side.
    """

    def __init__(self, store: Frames, clips: Clips, tokenizer: ClipTokenizer, *, batch_size: int) -> None:
        self._store = store
        self._clips = clips
        self._tokenizer = tokenizer
        self._batch_size = min(batch_size, len(clips))
        self.folder = store.beside(".tokens")
        self._attributes = {
            "version": VERSION,
            "store": store.digest(),
            "tokenizers": tokenizer.digest,
            "clip_length": clips.length if tokenizer.temporal else 0,
        }
        hashed = hashlib.sha256(json.dumps(self._attributes).encode())
        if tokenizer.temporal:
            hashed.update(clips.start(np.arange(len(clips))).astype("<i8").tobytes())
        self.path = self.folder / f"{hashed.hexdigest()[:32]}.h5"

    def clips(self) -> "TokenClips":
        """The clips as tokens; `write` comes first.

        Raises:
            ValueError: what is there are no such tokens.
        """
        self._check()
        vocabularies = self._tokenizer.vocabularies
        return TokenClips(self.path, self._clips, per_clip=self._tokenizer.temporal, vocabularies=vocabularies)

    def write(self, *, device: torch.device) -> None:
        """Tokenize on `device`, unless it was done before.

        Raises:
            ValueError: the file cannot be written.
        """
        if self.path.exists():
            return
        try:
            with replacing(self.path) as unfinished, h5py.File(unfinished, "w") as file:
                self._fill(file, device)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be written: {error}; data.cache_tokens=false does without") from None

    def _fill(self, file: h5py.File, device: torch.device) -> None:
        starts, rows, count = self._layout()
        file.attrs.update(self._attributes)
        datasets = [file.create_dataset(name, shape, dtype) for name, shape, dtype in self._datasets(count)]
        self._tokenizer.to(device)
        batches = range(0, len(starts), self._batch_size)
        for begin in track(batches, total=len(batches), label=f"tokenizing {self._store.path.name}"):
            # The last batch is filled up with its last clip: all are of one shape.
            chosen = np.minimum(np.arange(begin, begin + self._batch_size), len(starts) - 1)
            frames = torch.from_numpy(self._store.read_clips(starts[chosen], self._clips.length))
            made = self._tokenizer.tokenize(normalize(frames.to(device)))
            for kept, values in zip(datasets, made, strict=True):
                for row, clip in zip(rows[chosen], values.cpu().numpy(), strict=True):
                    kept[row : row + len(clip)] = clip
        self._tokenizer.to(torch.device("cpu"))

    def _datasets(self, count: int) -> list[tuple[str, tuple[int, ...], np.dtype[Any]]]:
        """Name, shape and type of what is kept of `count` rows."""
        tokens, actions = (np.min_scalar_type(vocabulary - 1) for vocabulary in self._tokenizer.vocabularies)
        return [("tokens", (count, self._tokenizer.num_patches), tokens), ("latent_actions", (count,), actions)]

    def _check(self) -> None:
        with open_hdf5(self.path) as file, reporting(self.path):
            for name, shape, dtype in self._datasets(self._layout()[2]):
                found = dataset(file, name)
                if found is None or found.shape != shape or found.dtype != dtype:
                    raise HDF5Error(f"{self.path} holds other tokens than those wanted, or none: remove it")

    def _layout(self) -> tuple[Int64[np.ndarray, " clips"], Int64[np.ndarray, " clips"], int]:
        """Where the clips to tokenize begin in the store, in which rows to put them, and how many rows there are."""
        length = self._clips.length
        if self._tokenizer.temporal:
            count = len(self._clips)
            return self._clips.start(np.arange(count)), np.arange(count) * length, count * length
        # Neighbours share a frame, so that every action lies within a clip.
        last = self._store.num_frames - length
        starts = np.append(np.arange(0, last, length - 1), last)
        return starts, starts, self._store.num_frames


class TokenClips(Dataset[ClipTokens]):
    """The `clips` of a store as tokens, read from a written cache."""

    def __init__(self, path: Path, clips: Clips, *, per_clip: bool, vocabularies: tuple[int, int]) -> None:
        self.path = path
        self._vocabularies = vocabularies
        self._tokens = Rows(path, "tokens")
        self._actions = Rows(path, "latent_actions")
        self._clips = clips
        self._per_clip = per_clip

    def __len__(self) -> int:
        return len(self._clips)

    def __getitems__(self, indices: Sequence[int]) -> ClipTokens:
        """A batch in one read; a DataLoader with batches prefers this to `__getitem__`.

        Raises:
            ValueError: the file is damaged.
        """
        chosen, length = np.asarray(indices), self._clips.length
        rows = chosen * length if self._per_clip else self._clips.start(chosen)
        tokens, actions = self._tokens.windows(rows, length), self._actions.windows(rows, length - 1)
        for values, vocabulary in zip((tokens, actions), self._vocabularies, strict=True):
            if int(values.max(initial=0)) >= vocabulary:
                raise ValueError(f"{self.path} is damaged, it has tokens that there are not: remove it")
        return ClipTokens(torch.from_numpy(tokens), torch.from_numpy(actions))
