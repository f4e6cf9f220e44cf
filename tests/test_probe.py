from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from tinyworlds import probe as probes
from tinyworlds.data.clips import split_spans
from tinyworlds.data.store import FrameStore
from tinyworlds.data.truth import true_actions
from tinyworlds.probe import Probe, cached_probe, shrunk, train_probe

from .square import NAMES, record


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probes.RECIPE, "steps", 20)


@pytest.fixture
def store(tmp_path: Path) -> FrameStore:
    return FrameStore(record(tmp_path / "square.h5"))


def spans(store: FrameStore) -> tuple[np.ndarray, np.ndarray]:
    return split_spans(store.episode_starts, store.num_frames, 0.34)


@contextmanager
def changed(store: FrameStore) -> Iterator[h5py.File]:
    """The file of a store, to be written to."""
    store.close()
    with h5py.File(store.path, "r+") as file:
        yield file


def trained(store: FrameStore, seed: int = 0, use=train_probe) -> Probe:
    return use(store, spans(store)[0], n_actions=len(NAMES), seed=seed)


def weights(probe: Probe) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in probe.state_dict().values()])


def test_it_reads_the_actions_of_episodes_that_it_has_not_seen(tmp_path, monkeypatch):
    monkeypatch.setitem(probes.RECIPE, "steps", 200)
    store = FrameStore(record(tmp_path / "longer.h5", episodes=60))
    probe = trained(store)
    right = []
    for start, stop in spans(store)[1].tolist():
        frames, actions = store.read(start, stop), true_actions(store.path, start, stop - 1)
        right.append(probe.read(frames[:-1], frames[1:]) == actions)
    assert np.concatenate(right).mean() > 0.95


def test_same_seed_same_probe_and_no_trace_on_other_random_numbers(store):
    before = torch.get_rng_state()
    one, same, other = trained(store), trained(store), trained(store, seed=1)
    assert torch.equal(weights(one), weights(same))
    assert not torch.equal(weights(one), weights(other))
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_of_held_out_episodes_is_learned(store):
    one = trained(store)
    with changed(store) as file:
        for start, stop in spans(store)[1]:
            file["actions"][start:stop] = 0
            file["frames"][start:stop] = 255
    assert torch.equal(weights(one), weights(trained(store)))


def test_a_second_call_trains_nothing_and_reads_the_same(store, monkeypatch):
    first = trained(store, use=cached_probe)
    with monkeypatch.context() as patch:
        patch.setattr(probes, "train_probe", None)
        assert torch.equal(weights(first), weights(trained(store, use=cached_probe)))
    assert not torch.equal(weights(first), weights(trained(store, seed=1, use=cached_probe)))


def test_a_probe_of_other_frames_or_another_recipe_is_not_used(store, monkeypatch):
    first = weights(trained(store, use=cached_probe))
    with changed(store) as file:
        file["actions"][0] = 3 - file["actions"][0]
    again = weights(trained(store, use=cached_probe))
    assert not torch.equal(first, again)
    monkeypatch.setitem(probes.RECIPE, "steps", 10)
    assert not torch.equal(again, weights(trained(store, use=cached_probe)))
    assert len(list(store.path.parent.glob("square.probe-*.safetensors"))) == 3


def test_a_damaged_probe_is_named(store):
    trained(store, use=cached_probe)
    (kept,) = store.path.parent.glob("square.probe-*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{kept.name} is damaged .*: remove it"):
        trained(store, use=cached_probe)


def test_a_long_recording_is_read_in_part(store, monkeypatch):
    monkeypatch.setitem(probes.RECIPE, "max_frames", 60)
    frames, firsts, actions = probes._training_pairs(store, spans(store)[0])
    assert len(frames) == 60
    assert len(firsts) == len(actions) == 56  # of four episodes


def test_frames_are_averaged_down_to_the_range_of_models():
    small = shrunk(np.full((2, 64, 96, 3), 255, np.uint8))
    assert small.shape == (2, 3, 32, 32)
    assert (small == 1).all()
    assert shrunk(np.zeros((2, 16, 24, 3), np.uint8)).shape == (2, 3, 16, 24)
