import tracemalloc
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from tinyworlds.data.loader import ClipLoader, FixedOrder, OwnBatches, ShuffledOrder

sizes, batch_sizes, ranks = st.integers(1, 200), st.integers(1, 50), st.integers(1, 5)


class Numbers(Dataset[torch.Tensor]):
    """Each index is its own clip."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, indices: list[int]) -> torch.Tensor:
        return torch.tensor(indices)


def loader(*, num_workers: int = 0, size: int = 23, batch_size: int = 3) -> ClipLoader:
    order = ShuffledOrder(size=size, seed=1)
    return ClipLoader(Numbers(size), OwnBatches(order, batch_size=batch_size, drop_last=True), num_workers=num_workers)


@given(size=st.integers(0, 200), seed=st.integers(0, 2**32), epoch=st.integers(0, 1000))
def test_an_order_is_a_permutation_that_seed_and_epoch_decide(size: int, seed: int, epoch: int) -> None:
    order, again = ShuffledOrder(size=size, seed=seed), ShuffledOrder(size=size, seed=seed)
    order.indices(order.epoch)  # what was drawn before has no effect
    order.set_epoch(epoch)
    again.set_epoch(epoch)
    assert order.indices(order.epoch).tolist() == again.indices(again.epoch).tolist()
    assert sorted(order.indices(order.epoch)) == list(range(size))


def test_epochs_and_seeds_differ() -> None:
    orders = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        order = ShuffledOrder(size=100, seed=seed)
        order.set_epoch(epoch)
        orders.append(tuple(order.indices(order.epoch)))
    assert len(set(orders)) == 3


def test_the_fixed_order_is_not_given_epochs() -> None:
    order = FixedOrder(size=50, seed=0)
    assert not hasattr(order, "set_epoch")
    assert order.indices(order.epoch).tolist() == order.indices(order.epoch).tolist() != list(range(50))


@given(size=sizes, batch_size=batch_sizes, world_size=ranks, drop_last=st.booleans())
def test_the_rows_of_all_ranks_are_the_batches_of_one_process(
    size: int, batch_size: int, world_size: int, drop_last: bool
) -> None:
    order = FixedOrder(size=size, seed=3)
    if size < world_size:
        with pytest.raises(ValueError, match=f"{size} clips are too few for {world_size} processes"):
            OwnBatches(order, batch_size=batch_size, world_size=world_size, drop_last=drop_last)
        return
    whole = list(OwnBatches(order, batch_size=batch_size * world_size, drop_last=drop_last))
    shares = [
        OwnBatches(order, batch_size=batch_size, rank=rank, world_size=world_size, drop_last=drop_last)
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    steps = list(zip(*shares, strict=True))
    assert len(steps) == len(shares[0])
    for step, rows in enumerate(steps):
        assert len({len(own) for own in rows}) == 1
        together = [index for own in rows for index in own]
        assert together == whole[step][: len(together)]
    seen = [index for rows in steps for own in rows for index in own]
    assert len(seen) == len(set(seen))
    missing = size - len(seen)
    assert missing < (batch_size * world_size if drop_last and size >= batch_size * world_size else world_size)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_goes_on_after_what_was_handed_out(num_workers: int) -> None:
    """Across epochs, from each place in an epoch; workers have loaded further than was handed out."""
    unbroken = [batch.tolist() for epoch in (2, 3) for batch in _epoch(loader(), epoch)]
    per_epoch = len(unbroken) // 2
    for taken in range(1, per_epoch + 1):
        first = loader(num_workers=num_workers)
        iterator = iter(_epoch(first, 2))
        assert [next(iterator).tolist() for _ in range(taken)] == unbroken[:taken]
        state = first.state_dict()
        assert state == {"epoch": 2, "batches": taken, "clips": 3}
        second = loader(num_workers=num_workers)
        second.load_state_dict(state)
        rest = [batch.tolist() for batch in second]
        epoch = 3 if taken == per_epoch else 2
        assert rest == (unbroken[taken:] if epoch == 3 else unbroken[taken:per_epoch])
        assert [batch.tolist() for batch in _epoch(second, epoch + 1)] == [
            batch.tolist() for batch in _epoch(loader(), epoch + 1)
        ]


def test_batches_of_another_size_are_refused():
    state = {"epoch": 0, "batches": 1, "clips": 4}
    with pytest.raises(ValueError, match="had batches of 4 clips over all its processes, this one of 3"):
        loader().load_state_dict(state)


def _epoch(loader: ClipLoader, epoch: int) -> Any:
    order = loader.batch_sampler.sampler
    assert isinstance(order, ShuffledOrder)
    order.set_epoch(epoch)
    return loader


def test_ten_million_clips_are_shuffled_without_as_many_python_objects() -> None:
    tracemalloc.start()
    order = ShuffledOrder(size=10_000_000, seed=0)
    first = next(iter(OwnBatches(order, batch_size=4, rank=1, world_size=2, drop_last=True)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert first == order.indices(order.epoch)[4:8].tolist()
    assert peak < 100e6  # the permutation, 8 bytes each
