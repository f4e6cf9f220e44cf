import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import pytest
import torch

from tinyworlds.data.clip_datamodule import ClipDataModule
from tinyworlds.data.contents import content_digest
from tinyworlds.data.store import FrameStore, StoreWriter
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.models import ActionTokenizer, VideoTokenizer
from tinyworlds.models.tokenizers import Tokenizers

from ..conftest import reading

Opened = Callable[..., ClipDataModule]
AnyTokenizer = TypeVar("AnyTokenizer", VideoTokenizer, ActionTokenizer)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Episodes of 13, 9 and 8 frames of noise."""
    path = tmp_path / "noise.h5"
    rng = np.random.default_rng(0)
    with StoreWriter(path, height=16, width=24, source="noise") as writer:
        for length in (13, 9, 8):
            writer.start_episode()
            writer.append(rng.integers(0, 256, (length, 16, 24, 3), np.uint8))
    return path


@pytest.fixture(params=["frame by frame", "temporal", "actions of clips"])
def tokenizers(
    request: pytest.FixtureRequest, video_tokenizer: VideoTokenizer, action_tokenizer: ActionTokenizer
) -> Tokenizers:
    video = changed(video_tokenizer, temporal=request.param == "temporal", local=request.param == "frame by frame")
    if request.param != "actions of clips":
        return Tokenizers(video, changed(action_tokenizer))
    return Tokenizers(video, reading(changed(action_tokenizer)))


def changed(tokenizer: AnyTokenizer, **options: Any) -> AnyTokenizer:
    """One with other options and large random weights that uses its codes about equally."""
    other = type(tokenizer)(**tokenizer.hparams | options)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    other.latent_norm.norm.momentum = None
    other.train().encode(torch.rand(8, 4, 3, 16, 24) * 2 - 1)
    return other.eval()


@pytest.fixture
def opened(store: Path) -> Opened:
    def open_(tokenizer: Tokenizers | None, path: Path = store, **options: Any) -> ClipDataModule:
        known = {"clip_length": 4, "clip_stride": 1, "batch_size": 5, "num_workers": 0, "val_fraction": 0.3, "seed": 0}
        data = ClipDataModule(**known | {"name": "noise", "path": str(path), "cache_tokens": True} | options)
        if tokenizer is not None:
            data.use_tokenizer(tokenizer)
        data.prepare_data()
        data.setup()
        return data

    return open_


def caches(store: Path) -> set[str]:
    return {path.name for path in store.with_suffix(".tokens").glob("*.h5")}


@pytest.mark.parametrize("stride", [1, 3])
def test_cached_batches_are_those_that_would_be_tokenized(opened: Opened, tokenizers: Tokenizers, stride: int) -> None:
    cached, plain = (opened(t, clip_stride=stride, batch_size=3) for t in (tokenizers, None))
    batches = list(zip(cached.train_dataloader(), plain.train_dataloader(), strict=True))
    assert len(batches) >= 2
    for ours, frames in batches:
        ours = cached.on_after_batch_transfer(ours, 0)
        expected = tokenizers.tokenize(plain.on_after_batch_transfer(frames, 0))
        assert isinstance(ours, ClipTokens)
        assert torch.equal(ours.tokens, expected.tokens)
        assert torch.equal(ours.actions, expected.actions)
        assert len(ours.tokens.unique()) > 5
        assert len(ours.actions.unique()) > 1
    for ours, theirs in zip(cached.val_dataloader(), plain.val_dataloader(), strict=True):
        assert torch.equal(ours, theirs)


def test_many_stores_have_the_tokens_of_one_with_all_their_frames(
    opened: Opened, tokenizers: Tokenizers, store: Path, tmp_path: Path
) -> None:
    with FrameStore(store) as whole:
        for number, (start, stop) in enumerate(((0, 13), (13, 22), (22, 30))):
            with StoreWriter(tmp_path / "many" / f"{number}.h5", height=16, width=24, source="noise") as writer:
                writer.append(whole.read(start, stop))
    one, many = opened(tokenizers), opened(tokenizers, tmp_path / "many" / "*.h5")
    for ours, theirs in zip(many.train_dataloader(), one.train_dataloader(), strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)
        assert torch.equal(ours.actions, theirs.actions)
    assert len(list((tmp_path / "many" / "stores.tokens").glob("*.h5"))) == 1


def test_the_same_frame_has_other_tokens_in_another_clip_where_the_tokenizer_is_temporal(
    opened: Opened, tokenizers: Tokenizers
) -> None:
    clips = opened(tokenizers)._train_data.__getitems__([0, 1])
    assert torch.equal(clips.tokens[0, 1:], clips.tokens[1, :-1]) != tokenizers.video.temporal


def test_nothing_is_cached_unless_asked_for(opened: Opened, tokenizers: Tokenizers, store: Path) -> None:
    batch = next(iter(opened(tokenizers, cache_tokens=False).train_dataloader()))
    assert batch.shape == (5, 4, 16, 24, 3)
    assert not caches(store)


def test_a_cache_is_used_again(opened: Opened, tokenizers: Tokenizers, store: Path) -> None:
    opened(tokenizers)
    (name,) = caches(store)
    before = (store.with_suffix(".tokens") / name).stat().st_mtime_ns
    opened(tokenizers, seed=3, batch_size=4)
    assert caches(store) == {name}
    assert (store.with_suffix(".tokens") / name).stat().st_mtime_ns == before


@pytest.mark.parametrize("option", [{"clip_length": 3}, {"clip_stride": 2}, {"val_fraction": 0.6}])
def test_other_clips_are_cached_anew_where_tokens_depend_on_them(
    opened: Opened, tokenizers: Tokenizers, store: Path, option: dict[str, Any]
) -> None:
    opened(tokenizers)
    opened(tokenizers, **option)
    assert len(caches(store)) == (2 if tokenizers.temporal else 1)


def test_other_tokenizers_have_another_cache(opened: Opened, tokenizers: Tokenizers, store: Path) -> None:
    opened(tokenizers)
    with torch.no_grad():
        next(tokenizers.video.parameters()).flatten()[0] += 1e-6
    opened(tokenizers)
    assert len(caches(store)) == 2
    next(tokenizers.action.buffers()).add_(1)
    opened(tokenizers)
    assert len(caches(store)) == 3


def test_hyperparameters_tell_tokenizers_of_equal_weights_apart(video_tokenizer: VideoTokenizer) -> None:
    other = VideoTokenizer(**video_tokenizer.hparams | {"num_bins": 2, "latent_dim": 3})
    other.load_state_dict(video_tokenizer.state_dict())
    same = VideoTokenizer(**video_tokenizer.hparams)
    same.load_state_dict(video_tokenizer.state_dict())
    assert other.digest() != video_tokenizer.digest() == same.digest()


def test_a_changed_store_has_another_cache(opened: Opened, tokenizers: Tokenizers, store: Path) -> None:
    first = next(iter(opened(tokenizers).train_dataloader())).tokens
    before = store.stat()
    with h5py.File(store, "r+") as file:
        file["frames"][:] = 255 - file["frames"][:]
    os.utime(store, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (store.stat().st_size, store.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert not torch.equal(next(iter(opened(tokenizers).train_dataloader())).tokens, first)
    assert len(caches(store)) == 2


def test_an_equal_store_elsewhere_has_the_same_cache(
    opened: Opened, tokenizers: Tokenizers, store: Path, tmp_path: Path
) -> None:
    opened(tokenizers)
    copy = tmp_path / "elsewhere" / "noise.h5"
    shutil.copytree(store.with_suffix(".tokens"), copy.with_suffix(".tokens"))
    shutil.copy(store, copy)
    names = caches(copy)
    opened(tokenizers, copy)
    assert caches(copy) == names


@pytest.mark.parametrize(("latent_dim", "dtype"), [(3, np.uint8), (8, np.uint8), (9, np.uint16), (17, np.uint32)])
def test_tokens_take_the_smallest_integers_that_hold_them(
    opened: Opened,
    video_tokenizer: VideoTokenizer,
    action_tokenizer: ActionTokenizer,
    store: Path,
    latent_dim: int,
    dtype: type,
) -> None:
    video = changed(video_tokenizer, temporal=False, num_bins=2, latent_dim=latent_dim)
    data = opened(Tokenizers(video, action_tokenizer))
    (name,) = caches(store)
    with h5py.File(store.with_suffix(".tokens") / name) as file:
        assert file["tokens"].dtype == dtype
        assert file["tokens"].shape == (30, 6)
        assert file["latent_actions"].dtype == np.uint8
        assert file["tokens"][:].max() < 2**latent_dim
    frames = torch.from_numpy(data.train_clips.__getitems__([3]).numpy())
    expected = video.tokenize(data.on_after_batch_transfer(frames, 0))
    assert torch.equal(data._train_data.__getitems__([3]).tokens.long(), expected)


class Interrupted(Tokenizers):
    """Ends with Ctrl-C in the second batch."""

    calls = 0

    def tokenize(self, frames: torch.Tensor) -> ClipTokens:
        Interrupted.calls += 1
        if Interrupted.calls % 2 == 0:
            raise KeyboardInterrupt
        return super().tokenize(frames)


def test_an_interrupted_cache_leaves_nothing(opened: Opened, tokenizers: Tokenizers, store: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        opened(Interrupted(*tokenizers))
    assert [path.name for path in store.with_suffix(".tokens").iterdir()] == ["store.json"]


def test_a_cache_that_cannot_be_written_is_one_sentence(opened: Opened, tokenizers: Tokenizers, store: Path) -> None:
    store.with_suffix(".tokens").touch()
    with pytest.raises(ValueError, match=r"cannot be written.*data\.cache_tokens=false"):
        opened(tokenizers)


def first_tokens(clips: Any) -> list[int]:
    return clips.__getitems__([2]).tokens.flatten().tolist()


def test_other_processes_read_the_cache(opened: Opened, tokenizers: Tokenizers) -> None:
    clips = opened(tokenizers)._train_data
    expected = first_tokens(clips)
    assert first_tokens(pickle.loads(pickle.dumps(clips))) == expected
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(first_tokens, (clips,)) == expected


def test_mixed_precision_changes_no_token(tokenizers: Tokenizers, frames: torch.Tensor) -> None:
    exact = tokenizers.tokenize(frames)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = tokenizers.tokenize(frames)
        video = tokenizers.video
        assert video.to_latent(video.encoder(video.patch_embedding(frames))).dtype == torch.bfloat16  # but for that
    assert torch.equal(exact.tokens, mixed.tokens)
    assert torch.equal(exact.actions, mixed.actions)


def linked(file: h5py.File) -> None:
    del file["tokens"]
    file["tokens"] = h5py.ExternalLink("elsewhere.h5", "/tokens")


def with_tokens(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    def make(file: h5py.File) -> None:
        tokens = change(file["tokens"][:])
        del file["tokens"]
        file["tokens"] = tokens

    return make


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (linked, "is a link to elsewhere"),
        (with_tokens(lambda tokens: tokens[:-1]), "holds other tokens"),
        (with_tokens(lambda tokens: tokens.astype(np.float32)), "holds other tokens"),
        (with_tokens(lambda tokens: np.full_like(tokens, 27)), "has tokens that there are not"),
        (lambda file: file.pop("latent_actions"), "holds other tokens"),
    ],
)
def test_a_cache_that_was_tampered_with_is_refused(
    store: Path, opened: Opened, tokenizers: Tokenizers, change: Callable[[h5py.File], Any], named: str
) -> None:
    opened(tokenizers)
    (name,) = caches(store)
    with h5py.File(store.with_suffix(".tokens") / name, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=named):
        next(iter(opened(tokenizers).train_dataloader()))


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"identity": 5}', b"\x80\x02N.", b"[" * 10**5])
def test_a_damaged_note_of_the_hash_is_made_anew(
    store: Path, opened: Opened, tokenizers: Tokenizers, content: bytes
) -> None:
    opened(tokenizers)
    before, memo = caches(store), store.with_suffix(".tokens") / "store.json"
    memo.write_bytes(content)
    opened(tokenizers)
    assert caches(store) == before
    assert content_digest(store, memo=memo) in memo.read_text()
