"""What holds for every test: shapes are checked, nothing is fetched, and one core does all the work."""

import os

# huggingface_hub reads this once, when imported: a download that a test starts by mistake fails at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# One thread, in processes that tests start too: several at once with a thread for each core wait for one another.
os.environ["OMP_NUM_THREADS"] = "1"

from jaxtyping import install_import_hook

# Before tinyworlds is imported: every signature in it is checked at each call.
CHECKER = (
    "beartype.beartype(conf=beartype.BeartypeConf("
    "is_pep484_tower=True, "  # an int will do for a float
    # beartype understands Self where it is given a whole class, but jaxtyping gives it one method at a time
    "hint_overrides=beartype.FrozenDict({__import__('typing').Self: __import__('typing').Any})))"
)
install_import_hook("tinyworlds", CHECKER)

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("tinyworlds", deadline=None, derandomize=True)
settings.load_profile("tinyworlds")


import contextlib
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants

from tinyworlds import World
from tinyworlds.checkpoints import save_stage
from tinyworlds.command import CONF
from tinyworlds.data.store import StoreWriter
from tinyworlds.maskgit import Decoding
from tinyworlds.models import ActionTokenizer, Dynamics, VideoTokenizer
from tinyworlds.nn import native

from .hub_server import Hub, serving

DATASET = {"name": "test", "path": "test.h5", "val_fraction": 0.2, "clip_length": 4}
TRANSFORMER = {
    "embed_dim": 16, "num_heads": 2, "hidden_dim": 24, "norm": "pre", "qk_norm": False, "positions": "sincos",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A context in which no C++ is compiled, or was."""

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        with monkeypatch.context() as changed:
            changed.setenv("PATH", "")
            changed.delenv("CXX", raising=False)
            native.library.cache_clear()
            try:
                yield
            finally:
                native.library.cache_clear()

    return context


def roughened(stage: torch.nn.Module) -> torch.nn.Module:
    """With random weights so large that everything depends on all that it may depend on."""
    for parameter in stage.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return stage


@pytest.fixture
def video_tokenizer() -> VideoTokenizer:
    """Random weights, frames of 16x24, patches of 8, a vocabulary of 27."""
    tokenizer = VideoTokenizer(
        frame_size=(16, 24),
        dataset=dict(DATASET),
        patch_size=8,
        num_blocks=1,
        latent_dim=3,
        num_bins=3,
        patches="conv",
        temporal=True,
        local=False,
        latent_norm=True,
        moving_weight=0,
        **TRANSFORMER,
    )
    return roughened(tokenizer).eval()


@pytest.fixture
def action_tokenizer() -> ActionTokenizer:
    """Random weights, the motion codec, four actions."""
    tokenizer = ActionTokenizer(
        frame_size=(16, 24),
        dataset=dict(DATASET),
        n_actions=4,
        num_bins=2,
        shrink=1,
        encoder={"name": "motion", "width": 4, "channels": 2, "reach": 3, "moments": True, "equalized": True},
        decoder={"name": "motion", "width": 4},
        latent_norm=True,
        usage_weight=0.1,
        variance_weight=0,
        variance_target=0,
        moving_weight=0,
        unscored=0,
        members=1,
        codes=None,
    )
    return roughened(tokenizer).eval()


def reading(tokenizer: ActionTokenizer, *, members: int = 1) -> ActionTokenizer:
    """One like it, whose actions are read from runs of eight codes of each of its members."""
    other = roughened(ActionTokenizer(**{**tokenizer.hparams, "codes": 8, "members": members}))
    other.agreement.keep(torch.randint(8, (500, 3, members)))
    other.agreement.fit()
    return other.eval()


@pytest.fixture
def dynamics(video_tokenizer: VideoTokenizer, action_tokenizer: ActionTokenizer) -> Dynamics:
    """Random weights, windows of four frames."""
    model = Dynamics(
        video_tokenizer=video_tokenizer,
        action_tokenizer=action_tokenizer,
        dataset=dict(DATASET),
        num_blocks=2,
        conditioning="film",
        last_actions=1,
        feed_forward={"name": "swiglu"},
        masking="clean_context",
        mask_ratio=0.5,
        context_noise=0,
        own_context=0,
        moving_weight=0,
        decoding={"steps": 4, "schedule": "exponential", "temperature": 1.0, **Decoding.earlier},
        **TRANSFORMER,
    )
    return roughened(model).eval()


@pytest.fixture
def frames() -> torch.Tensor:
    """Two clips of five frames of noise, in [-1, 1]."""
    return torch.rand(2, 5, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def small_store(tmp_path: Path) -> Path:
    """A store of 4 episodes of 12 frames, 16x16: a square that moves."""
    path = tmp_path / "square.h5"
    rng = np.random.default_rng(0)
    with StoreWriter(path, height=16, width=16, source="a moving square", fps=5.0) as writer:
        for _ in range(4):
            writer.start_episode()
            row, column = rng.integers(2, 10, 2)
            for _ in range(12):
                frame = np.full((1, 16, 16, 3), 40, np.uint8)
                frame[0, row : row + 4, column : column + 4] = (250, 200, 60)
                writer.append(frame)
                row, column = np.clip([row + rng.integers(-2, 3), column + rng.integers(-2, 3)], 0, 12)
    return path


@pytest.fixture
def entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Calls the `main` of train.py or play.py, in an empty folder, as its command line would be."""
    monkeypatch.chdir(tmp_path)

    def call(script: str, *arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        return runpy.run_path(str(CONF.parent / script), run_name="imported")["main"]()

    return call


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on this machine, which the client talks to as if it had been started with HF_ENDPOINT set to it."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serving() as hub:
        settings = {
            "ENDPOINT": hub.address,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_DOWNLOAD_TIMEOUT": 1,
            "HF_HUB_ETAG_TIMEOUT": 1,
        }
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        yield hub


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dynamics: Dynamics) -> Path:
    """The current folder, with a world and a checkpoint in it and nothing of others around."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    save_stage(dynamics, inside / "valid.ckpt")
    World(dynamics).save_pretrained(inside / "valid")
    return inside
