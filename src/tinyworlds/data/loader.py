"""In what order clips come, which rows of a batch a process gets, and where it goes on after a resume."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch.utils.data import DataLoader, Dataset, Sampler


class FixedOrder:
    """Every index once, in an order that `seed` alone decides: any few batches are a sample of the whole."""

    def __init__(self, *, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self._size

    def indices(self, epoch: int) -> Int64[np.ndarray, " size"]:
        """All of them, 8 bytes each."""
        return np.random.default_rng((self._seed, epoch)).permutation(self._size)


class ShuffledOrder(FixedOrder):
    """The same, with another order for each epoch: a function of (seed, epoch). Lightning sets the epoch."""

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch


class OwnBatches(Sampler[list[int]]):
    """The rows that process `rank` of `world_size` gets of each batch.

    A batch is the next ``world_size * batch_size`` indices in `order`, and each process gets an equal part of it in one
    piece. So the rows of all ranks, put together, are the batches of one process whose batch size is
    `world_size` times as large, and every index goes to exactly one process.

    What is too little for a full batch at the end of an epoch is left out with `drop_last`, unless there is no full
    one; else it is one more, smaller batch, from which fewer than `world_size` indices are left out, so that all
    ranks have equally many rows.
    An epoch has a multiple of `accumulated` batches, those of one optimizer step: none is half done at its end.

    Raises:
        ValueError: there are fewer indices than processes, or fewer batches than `accumulated`.
    """

    def __init__(
        self,
        order: FixedOrder,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        accumulated: int = 1,
        drop_last: bool,
    ) -> None:
        if len(order) < world_size:
            raise ValueError(
                f"{len(order)} clips are too few for {world_size} processes: lower trainer.devices or use more frames"
            )
        self.sampler = order  # the name by which Lightning finds it to set the epoch
        self._batch_size = batch_size
        self._rank = rank
        self._world_size = world_size
        self.skipped = 0
        """How many batches the next iteration leaves out at its beginning."""
        self.clips_in_all = world_size * batch_size
        """Indices in a full batch of all processes."""
        full, rest = divmod(len(order), self.clips_in_all)
        batches = full + ((not drop_last or not full) and rest >= world_size)
        if batches < accumulated:
            raise ValueError(
                f"trainer.accumulate_grad_batches={accumulated}: an epoch has only {batches} batches of "
                f"data.batch_size={batch_size}: lower one of them"
            )
        self._length = batches // accumulated * accumulated

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        order = self.sampler.indices(self.sampler.epoch)
        return (order[self._rows(batch)].tolist() for batch in range(self.skipped, len(self)))

    def of_all(self, epoch: int, batch: int) -> Int64[np.ndarray, " rows"]:
        """The rows that all ranks together get of a batch."""
        begin = batch * self.clips_in_all
        return self.sampler.indices(epoch)[begin : begin + self._share(begin) * self._world_size]

    def _rows(self, batch: int) -> slice:
        begin = batch * self.clips_in_all
        count = self._share(begin)
        return slice(begin + self._rank * count, begin + (self._rank + 1) * count)

    def _share(self, begin: int) -> int:
        return min((len(self.sampler) - begin) // self._world_size, self._batch_size)


class ClipLoader(DataLoader[Any]):
    """Loads `batches` of a dataset that reads whole batches; its state says how many of which epoch it handed out.

    What workers have loaded ahead is not counted. An iteration that follows `load_state_dict` goes on after
    what was handed out. Lightning keeps the state of the training loader in its checkpoints.
    """

    batch_sampler: OwnBatches
    between: Callable[[], None] | None = None
    """Called before each batch is handed out, when all is done with those before."""

    def __init__(self, clips: Dataset[Any], batches: OwnBatches, *, num_workers: int) -> None:
        super().__init__(
            clips,
            batch_sampler=batches,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=as_batch,
            worker_init_fn=leave_signals,
        )

    def __iter__(self) -> Any:
        order = self.batch_sampler.sampler
        self._handed_out = {"epoch": order.epoch, "batches": self.batch_sampler.skipped}
        loaded = super().__iter__()
        self.batch_sampler.skipped = 0
        return self._counted(loaded)

    def _counted(self, loaded: Iterator[Any]) -> Iterator[Any]:
        handed_out = self._handed_out
        for _ in range(handed_out["batches"], len(self)):
            if self.between is not None:
                self.between()
            batch = next(loaded)
            handed_out["batches"] += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, how many of its batches were handed out, and of how many clips they are, over all processes."""
        return {**self._handed_out, "clips": self.batch_sampler.clips_in_all}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Have the next iteration go on where `state` was taken.

        Raises:
            ValueError: batches had another size there.
        """
        clips = self.batch_sampler.clips_in_all
        if state["clips"] != clips:
            raise ValueError(
                f"resume: the run had batches of {state['clips']} clips over all its processes, this one of {clips}: "
                "choose data.batch_size and trainer.devices so that their product is the same"
            )
        epochs, self.batch_sampler.skipped = divmod(state["batches"], len(self.batch_sampler))
        self.batch_sampler.sampler.epoch = state["epoch"] + epochs


def leave_signals(_worker: int) -> None:
    """Leave it to the process that trains what to do about signals that come to all: it still wants its batches."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def as_batch(batch: Any) -> Any:
    """The datasets read whole batches: nothing is left to collate."""
    return batch
