import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tinyworlds.data.clips import (
    Clips,
    normalize,
    split_spans,
    spread_starts,
    to_uint8,
)
from tinyworlds.data.store import FrameStore, StoreWriter

from .conftest import numbered_frames, numbers_of

episode_lengths = st.lists(st.integers(1, 60), min_size=2, max_size=30)
fractions = st.floats(0.01, 0.9)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    path = tmp_path_factory.mktemp("clips") / "twenty.h5"
    with StoreWriter(path, height=8, width=6, source="a test") as writer:
        writer.append(numbered_frames(range(20)))
    return FrameStore(path)


def episode_starts(lengths: list[int]) -> np.ndarray:
    return np.cumsum([0, *lengths[:-1]]).astype(np.int64)


def frames_of(spans: np.ndarray) -> list[int]:
    return [frame for start, stop in spans for frame in range(start, stop)]


def test_normalizing_and_back_changes_nothing() -> None:
    frames = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 1, 16, 16, 3)
    normalized = normalize(frames)
    assert normalized.shape == (1, 1, 3, 16, 16)
    assert (normalized.min(), normalized.max()) == (-1, 1)
    assert torch.equal(to_uint8(normalized), frames)
    assert torch.equal(to_uint8(normalized.bfloat16().float()[0, 0]), to_uint8(normalized.bfloat16()[0, 0]))


def test_values_out_of_range_are_clamped() -> None:
    assert to_uint8(torch.tensor([-5.0, 0.0, 5.0]).reshape(3, 1, 1)).flatten().tolist() == [0, 128, 255]


@given(lengths=episode_lengths, fraction=fractions)
def test_the_split_holds_out_whole_episodes(lengths: list[int], fraction: float) -> None:
    starts = episode_starts(lengths)
    train, val = split_spans(starts, sum(lengths), fraction)
    assert len(train) >= 1
    assert len(val) >= 1
    assert sorted(frames_of(train) + frames_of(val)) == list(range(sum(lengths)))
    assert set(train[:, 0]) | set(val[:, 0]) == set(starts)


@given(num_frames=st.integers(2, 20_000), fraction=fractions)
def test_one_episode_is_split_into_blocks(num_frames: int, fraction: float) -> None:
    train, val = split_spans(np.zeros(1, np.int64), num_frames, fraction)
    assert sorted(frames_of(train) + frames_of(val)) == list(range(num_frames))
    assert len(frames_of(val)) == pytest.approx(num_frames * fraction, abs=len(val) + 1)


def test_held_out_episodes_are_spread_over_the_recording() -> None:
    _, val = split_spans(episode_starts([10] * 100), 1000, 0.1)
    assert val[:, 0].tolist() == [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]


@given(lengths=episode_lengths, fraction=fractions, length=st.integers(1, 12), stride=st.integers(1, 7))
def test_clips_are_exactly_the_windows_within_a_span(
    store: FrameStore, lengths: list[int], fraction: float, length: int, stride: int
) -> None:
    spans, _ = split_spans(episode_starts(lengths), sum(lengths), fraction)
    clips = Clips(store, spans, length=length, stride=stride)
    expected = [first for start, stop in spans for first in range(start, stop - length + 1, stride)]
    assert clips.start(np.arange(len(clips))).tolist() == expected


def test_a_loader_reads_whole_batches(store: FrameStore) -> None:
    clips = Clips(store, np.array([[0, 10], [10, 20]]), length=4, stride=3)
    batch = next(iter(DataLoader(clips, batch_size=6, collate_fn=lambda batch: batch)))
    assert batch.shape == (6, 4, 8, 6, 3)
    assert numbers_of(batch.numpy())[:, 0].tolist() == [0, 3, 6, 10, 13, 16]
    assert torch.equal(clips[4], batch[4])
    with pytest.raises(IndexError):
        clips[6]


def test_an_index_of_millions_of_clips_is_small(store: FrameStore) -> None:
    clips = Clips(store, np.array([[0, 10_000_000]]), length=4, stride=1)
    held = [value.nbytes for value in vars(clips).values() if isinstance(value, np.ndarray)]
    assert len(clips) == 9_999_997
    assert sum(held) < 1000


@given(lengths=episode_lengths, count=st.integers(1, 20), length=st.integers(1, 60), seed=st.integers(0, 99))
def test_spread_windows_stay_in_their_spans(lengths: list[int], count: int, length: int, seed: int) -> None:
    _, spans = split_spans(episode_starts(lengths), sum(lengths), 0.5)
    if length > (spans[:, 1] - spans[:, 0]).max():
        with pytest.raises(ValueError, match=f"no held-out episode has {length} frames"):
            spread_starts(spans, count=count, length=length, seed=seed)
        return
    starts = spread_starts(spans, count=count, length=length, seed=seed)
    assert len(starts) == count
    assert starts.tolist() == sorted(starts.tolist())
    for first in starts:
        assert any(start <= first and first + length <= stop for start, stop in spans)


def test_spread_windows_depend_on_the_seed_and_reach_all_spans() -> None:
    spans = np.array([[0, 100], [200, 300], [400, 500]])
    starts = [spread_starts(spans, count=6, length=10, seed=seed).tolist() for seed in (0, 0, 1)]
    assert starts[0] == starts[1] != starts[2]
    assert {start // 200 for start in starts[0]} == {0, 1, 2}
    assert len(set(starts[0])) == 6
