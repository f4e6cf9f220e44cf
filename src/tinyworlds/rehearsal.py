"""A training step rehearsed on tensors without memory: what it would compute, and what it would hold when."""

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count, shape_wrapper

from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.masking import anchored_mask, frame_mask
from tinyworlds.models import Dynamics, Stage
from tinyworlds.nn.attention import Attention

PRECISIONS = ("32-true", "bf16-mixed")
SAMPLED_CLIPS = 64
"""Clips over which the share of hidden tokens is averaged."""

FOURIER_RADIX = 8
"""By how much the length of a Fourier transform grows with each pass over its tensor."""

Attended = tuple[int, ...]


class Rehearsal(NamedTuple):
    """Of one step, forward and backward, of one process: operations, and bytes.

    `flops` are those of matrix products, convolutions and attention (a multiplication and an addition are two), with
    what checkpointing computes again. `traffic` is what kernels read and write, as `Ledger` counts it, `update` that of
    the optimizer's step after them. `gradients` and the state of the `optimizer` are there after the step. `then` is
    what was held, besides weights and the optimizer's state, at the moment of the step at which that was most: the
    activations that the backward pass needs or that are being worked on, gradients, and copies of weights in bfloat16.
    """

    flops: int
    traffic: int
    update: int
    weights: int
    gradients: int
    optimizer: int
    then: Mapping[str, int]


def rehearse(
    stage: Stage,
    *,
    batch_size: int,
    tokens: bool,
    optimizer: Callable[[nn.Module], Optimizer],
    precision: str,
    shards: int,
    kept_gradients: bool,
) -> Rehearsal:
    """Rehearse a step of `stage`, which lies on torch's device ``meta``, on `batch_size` clips; `stage` is used up.

    Kernels are chosen and types cast as on a CPU. Attention is that which keeps no scores, and a frame's hidden tokens
    are as many as they are on average. Of gradients `shards` equal parts are made, of which one is held;
    `kept_gradients` are there from the beginning. With `tokens` the dynamics are given tokens instead of frames.

    Raises:
        ValueError: how much the step computes depends on what is in the frames.
    """
    share = _hidden_share(stage) if isinstance(stage, Dynamics) else 1.0
    with FakeTensorMode(allow_non_fake_inputs=True):
        stage.to_empty(device="cpu").train()
        for part in stage.modules():
            if isinstance(part, Attention):
                part.head_dim = 0  # C++ is for heads of some widths, on a CPU alone
        clips = _clips(stage, batch_size, tokens=tokens)
        ledger = Ledger([*stage.buffers(), *tree_leaves(clips)], weights=stage.parameters(), shards=shards)
        for parameter in stage.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(ledger.add_gradient)  # type: ignore[no-untyped-call]
        for _ in range(2 if kept_gradients else 1):
            ledger.begin()
            _forward_and_backward(stage, clips, ledger, share=share, precision=precision)
        state, traffic_of_update = _updated(stage, optimizer)
        return Rehearsal(
            flops=ledger.flops,
            traffic=ledger.traffic,
            update=traffic_of_update,
            weights=nbytes([*stage.parameters(), *stage.buffers()]),
            gradients=nbytes(parameter.grad for parameter in stage.parameters()),
            optimizer=state,
            then=ledger.peak,
        )


def nbytes(values: Iterable[Any]) -> int:
    """Of the tensors among `values`."""
    return sum(value.nbytes for value in values if isinstance(value, Tensor))


def _clips(stage: Stage, batch_size: int, *, tokens: bool) -> Tensor | ClipTokens:
    frames = stage.dataset["clip_length"]
    if isinstance(stage, Dynamics) and tokens:
        shape = (batch_size, frames, stage.video_tokenizer.num_patches)
        return ClipTokens(torch.zeros(shape, dtype=torch.int64), torch.zeros(batch_size, frames - 1, dtype=torch.int64))
    return torch.zeros(batch_size, frames, 3, *stage.frame_size)


def _forward_and_backward(
    stage: Stage, clips: Tensor | ClipTokens, ledger: "Ledger", *, share: float, precision: str
) -> None:
    mixed: AbstractContextManager[Any] = nullcontext()
    if precision == "bf16-mixed":
        mixed = torch.autocast("cpu", torch.bfloat16)
    with ledger, Average(share):
        with mixed:
            loss = stage.training_step(clips, 0)
        assert isinstance(loss, Tensor)
        torch.autograd.backward(loss)


def _updated(stage: Stage, optimizer: Callable[[nn.Module], Optimizer]) -> tuple[int, int]:
    """Bytes of the state that the optimizer keeps, and those that its step moves."""
    stepped = optimizer(stage)
    stepped.step()
    update = Ledger([], weights=[], shards=1)
    with update:  # the second step, which makes no state
        stepped.step()
    return nbytes(tree_leaves(list(stepped.state.values()))), update.traffic


def _hidden_share(dynamics: Dynamics) -> float:
    """How many tokens of a frame that is guessed are hidden, on average."""
    frames, patches = dynamics.context_length, dynamics.video_tokenizer.num_patches
    drawn: dict[str, Any] = {"generator": torch.Generator().manual_seed(0), "device": torch.device("cpu")}
    if dynamics.masking == "anchored":
        hidden = anchored_mask((SAMPLED_CLIPS, frames, patches), min_ratio=dynamics.mask_ratio, **drawn)
    else:
        hidden = frame_mask((SAMPLED_CLIPS, frames - 1, patches), full=dynamics.mask_ratio, **drawn)
    return float(hidden.float().mean())


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, bytes that are moved, those that tensors made in its context hold, and these when most.

    `traffic` is the sum over kernels of the bytes of all tensors that one is given and all that it makes or changes,
    for a Fourier transform once for each of its passes.
    Of what is made, `copies` are those of `weights` in another type, `gradients` those that are complete, of which a
    `shards`-th counts, and `activations` all the rest. `weights` and other tensors that are `known` do not count.
    """

    def __init__(self, known: Iterable[Any], *, weights: Iterable[Tensor], shards: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shards = shards
        self.flops = 0
        self.traffic = 0
        self.now = {"activations": 0, "gradients": 0, "copies": 0}
        self.peak = dict(self.now)
        self._held: dict[int, tuple[str, int]] = {}
        # Storages are kept, so that no other takes the place of one.
        self._weights = {weight.untyped_storage()._cdata: weight.untyped_storage() for weight in weights}
        self._known = {t.untyped_storage()._cdata: t.untyped_storage() for t in known if isinstance(t, Tensor)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        count = FLOPS.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=result)
        self.traffic += _moved(func, args, kwargs or {}, result)
        cast = func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self._weights
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage(), "copies" if cast else "activations")
        return result

    def add_gradient(self, parameter: Tensor) -> None:
        """The gradient of `parameter` is complete."""
        assert parameter.grad is not None
        key = parameter.grad.untyped_storage()._cdata
        if key in self._held and self._held[key][0] != "gradients":
            _, held = self._held[key]
            self._free(key)
            self._hold(key, "gradients", held // self.shards)

    def begin(self) -> None:
        """Count operations and traffic, and look for the peak, from here on."""
        self.flops = 0
        self.traffic = 0
        self.peak = dict(self.now)

    def _see(self, storage: torch.UntypedStorage, kind: str) -> None:
        key = storage._cdata
        if key in self._held or key in self._weights or key in self._known:
            return
        self._hold(key, kind, storage.nbytes())
        weakref.finalize(storage, self._free, key)
        if sum(self.now.values()) > sum(self.peak.values()):
            self.peak = dict(self.now)

    def _hold(self, key: int, kind: str, held: int) -> None:
        self._held[key] = (kind, held)
        self.now[kind] += held

    def _free(self, key: int) -> None:
        kind, held = self._held.pop(key, ("activations", 0))
        self.now[kind] -= held


class Average(TorchFunctionMode):
    """Where a mask picks tokens, of which nothing is known but how many it picks on average, picks as many.

    And where tokens are dealt out to experts, each is given as many.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
            values, mask = args
            return values.flatten(0, mask.ndim - 1)[torch.arange(round(self.share * mask.numel()))]
        if func is torch.tensor_split and isinstance(args[1], Tensor):
            return func(args[0], len(args[1]) + 1)
        return func(*args, **(kwargs or {}))


def _moved(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> int:
    """Bytes that a kernel reads and writes: none where it makes a view, or what it makes stays empty."""
    if "empty" in func._schema.name:
        return 0
    given = _tensors([args, kwargs])
    made = {id(tensor): tensor for tensor in _tensors(result)}
    if func._schema.is_mutable:
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.is_write:
                made |= {id(tensor): tensor for tensor in _tensors(value)}
    elif {t.untyped_storage()._cdata for t in made.values()} <= {t.untyped_storage()._cdata for t in given}:
        return 0
    moved = sum(_spread(tensor) for tensor in (*given, *made.values()))
    if "_fft_" not in func._schema.name:
        return moved
    points = max(math.prod(tensor.shape[dim] for dim in args[1]) for tensor in (*given, *made.values()))
    return round(moved * max(1, math.log(points, FOURIER_RADIX)))


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _spread(tensor: Tensor) -> int:
    """Bytes of what lies in different places."""
    apart = (length for length, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return tensor.element_size() * math.prod(apart)


def _attended(query: Attended, key: Attended, value: Attended, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attended_backward(out: Attended, query: Attended, key: Attended, value: Attended, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(out, query, key, value))  # type: ignore[no-untyped-call]


FLOPS: dict[Any, Callable[..., int]] = flop_registry | {
    # What torch does not know: the kernel that a CPU uses.
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(_attended),  # type: ignore[no-untyped-call]
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(_attended_backward),  # type: ignore[no-untyped-call]
}
"""Floating-point operations of a kernel, from its arguments."""
