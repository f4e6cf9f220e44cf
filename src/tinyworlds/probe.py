"""A supervised probe: which true action lies between two frames, learned from recorded actions.

Only evaluation uses it. What it reaches on held-out frames is what can be read off a pair of frames at all:
the ceiling for an action tokenizer, which is told nothing.
"""

import hashlib
import json
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64, UInt8
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tinyworlds.data.frames import Frames
from tinyworlds.data.truth import actions_of
from tinyworlds.media import replacing
from tinyworlds.progress import track
from tinyworlds.torch_files import first_line

SIZE = 32
"""Frames are averaged down to this height and width, unless they are smaller."""
RECIPE = {"version": 1, "steps": 1500, "batch_size": 64, "lr": 2e-3, "weight_decay": 0.05, "max_frames": 50_000}
"""All that decides what is learned, besides the frames, the actions and the seed."""
READ_AT_ONCE = 512


class Probe(nn.Module):
    """A small ConvNet: a pair of frames → which of `n_actions` true actions was taken after the first.

    Frames may have any size; they are averaged down to `SIZE`.
    """

    def __init__(self, *, n_actions: int) -> None:
        super().__init__()
        self.n_actions = n_actions
        layers: list[nn.Module] = []
        for before, after in ((6, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        # Pooling to 4x4 leaves it a rough idea of where things are.
        self.layers = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 128), nn.ReLU(),
            nn.Linear(128, n_actions),
        )  # fmt: skip

    def forward(self, small: Float[Tensor, "N 2 C h w"]) -> Float[Tensor, "N actions"]:
        """Logits of the action between two frames that `shrunk` made."""
        first, second = small.unbind(1)
        # Most of what is learned is in the change, and it is small beside the picture.
        return self.layers(torch.cat([second, 4 * (second - first)], dim=1))

    @torch.inference_mode()
    def read(
        self, before: UInt8[np.ndarray, "N H W 3"], after: UInt8[np.ndarray, "N H W 3"]
    ) -> Int64[np.ndarray, " N"]:
        """The likeliest true action of each transition, as an index into the store's action names."""
        named = [
            self(torch.stack([shrunk(first), shrunk(second)], dim=1)).argmax(-1)
            for first, second in zip(_parts(before), _parts(after), strict=True)
        ]
        return torch.cat(named).numpy()


def shrunk(frames: UInt8[np.ndarray, "N H W 3"]) -> Float[Tensor, "N 3 h w"]:
    """Frames averaged down to at most `SIZE` pixels a side, in [-1, 1]."""
    pixels = rearrange(torch.from_numpy(np.ascontiguousarray(frames)), "n h w c -> n c h w").float()
    return F.adaptive_avg_pool2d(pixels, (min(SIZE, pixels.shape[2]), min(SIZE, pixels.shape[3]))) / 127.5 - 1


def train_probe(store: Frames, spans: Int64[np.ndarray, "spans 2"], *, n_actions: int, seed: int) -> Probe:
    """Train a probe on the transitions within `spans` of a store. Same store, spans and seed, same probe.

    Raises:
        ValueError: the store holds no true actions.
    """
    frames, firsts, actions = _training_pairs(store, spans)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = Probe(n_actions=n_actions).train()
        optimizer = torch.optim.AdamW(probe.parameters(), lr=RECIPE["lr"], weight_decay=RECIPE["weight_decay"])
        steps = int(RECIPE["steps"])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RECIPE["lr"], total_steps=steps)
        for _ in track(range(steps), total=steps, label="training the probe"):
            chosen = torch.randint(len(firsts), (int(RECIPE["batch_size"]),), generator=generator)
            first = firsts[chosen]
            loss = F.cross_entropy(probe(torch.stack([frames[first], frames[first + 1]], dim=1)), actions[chosen])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return probe.eval()


def _training_pairs(
    store: Frames, spans: Int64[np.ndarray, "spans 2"]
) -> tuple[Float[Tensor, "frames 3 h w"], Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    """Small frames, the index among them of the first of each pair, and the action between the two."""
    share = min(1.0, RECIPE["max_frames"] / int((spans[:, 1] - spans[:, 0]).sum()))
    frames, firsts, actions, count = [], [], [], 0
    for start, end in spans.tolist():
        stop = start + int((end - start) * share)
        if stop - start < 2:
            continue
        for part in range(start, stop, READ_AT_ONCE):
            frames.append(shrunk(store.read(part, min(part + READ_AT_ONCE, stop))))
        firsts.append(np.arange(count, count + stop - start - 1))
        actions.append(actions_of(store, start, stop - 1))
        count += stop - start
    return torch.cat(frames), torch.from_numpy(np.concatenate(firsts)), torch.from_numpy(np.concatenate(actions))


def cached_probe(store: Frames, spans: Int64[np.ndarray, "spans 2"], *, n_actions: int, seed: int) -> Probe:
    """`train_probe`, or what it left beside the store when it was last called with the same store, spans and seed.

    Raises:
        ValueError: the store holds no true actions, or the file beside it is damaged.
    """
    path = store.beside(f".probe-{_key(store, spans, seed)}.safetensors")
    if path.exists():
        probe = Probe(n_actions=n_actions)
        try:
            probe.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise ValueError(f"{path} is damaged ({first_line(error)}): remove it") from None
        return probe.eval()
    probe = train_probe(store, spans, n_actions=n_actions, seed=seed)
    with replacing(path) as unfinished:
        save_file(probe.state_dict(), unfinished)
    return probe


def _key(store: Frames, spans: Int64[np.ndarray, "spans 2"], seed: int) -> str:
    """Of everything that decides what a probe learns."""
    return hashlib.sha256(json.dumps([store.digest(), spans.tolist(), seed, RECIPE]).encode()).hexdigest()[:16]


def _parts(frames: np.ndarray) -> Iterator[np.ndarray]:
    return (frames[start : start + READ_AT_ONCE] for start in range(0, len(frames), READ_AT_ONCE))
