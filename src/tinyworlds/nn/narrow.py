"""Attention with heads of few channels on a CPU, where the fused kernel spends its time on odd shapes.

Tokens come last here, so that every product and sum runs along them: a matrix product whose result has
only 4 columns is several times slower than the same one with 4 rows.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

WIDTH = 16
"""Heads of so many channels and more are left to the fused kernel."""
CACHED = 2**19
"""Scores computed at a time; they stay in the processor's cache."""


def is_narrow(x: Tensor, head_dim: int) -> bool:
    """Whether `x` is to be attended to here, in heads of `head_dim` channels."""
    return (
        head_dim < WIDTH and x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()
    )


class _SelfAttention(torch.autograd.Function):
    """Softmax attention a few heads at a time, whose scores are computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, q: Float[Tensor, "N D K"], k: Float[Tensor, "N D K"], v: Float[Tensor, "N D K"]
    ) -> Float[Tensor, "N D K"]:
        q = q * q.shape[1] ** -0.5
        out = torch.empty_like(q)
        for rows, scores, weights in _parts(q):
            _weigh(q[rows], k[rows], scores, weights)
            torch.bmm(v[rows], weights.mT, out=out[rows])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Float[Tensor, "N D K"]) -> tuple[Tensor, Tensor, Tensor]:
        # torch types neither what a context saved nor `apply`.
        q, k, v, out = ctx.saved_tensors  # type: ignore[attr-defined]
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        gradient = gradient.contiguous()
        # One more channel carries the softmax's own term, -sum(gradient * out), into the product.
        gradient_and_mean = torch.cat([gradient, -(gradient * out).sum(1, keepdim=True)], dim=1)
        v_and_one = torch.cat([v, torch.ones_like(v[:, :1])], dim=1)
        for rows, scores, weights in _parts(q):
            _weigh(q[rows], k[rows], scores, weights)
            torch.bmm(gradient[rows], weights, out=dv[rows])
            torch.bmm(gradient_and_mean[rows].mT, v_and_one[rows], out=scores)
            scores.mul_(weights)
            torch.bmm(k[rows], scores.mT, out=dq[rows])
            torch.bmm(q[rows], scores, out=dk[rows])
        return dq.mul_(q.shape[1] ** -0.5), dk, dv


def _parts(q: Float[Tensor, "N D K"]) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows of `q` that are worked on together, and room for their scores and weights."""
    count, _, tokens = q.shape
    size = min(count, max(1, CACHED // tokens**2))
    scores, weights = q.new_empty(2, size, tokens, tokens)
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        yield rows, scores[: rows.stop - start], weights[: rows.stop - start]


def _weigh(q: Float[Tensor, "n D K"], k: Float[Tensor, "n D K"], scores: Tensor, weights: Tensor) -> None:
    torch.bmm(q.mT, k, out=scores)
    torch.softmax(scores, dim=-1, out=weights)


def self_attention(
    q: Float[Tensor, "N D K"], k: Float[Tensor, "N D K"], v: Float[Tensor, "N D K"]
) -> Float[Tensor, "N D K"]:
    """Scaled dot-product attention of each head's K tokens to each other."""
    attended: Tensor = _SelfAttention.apply(q, k, v)  # type: ignore[no-untyped-call]  # untyped in torch
    return attended


def attention_over_frames(
    q: Float[Tensor, "B Tq h D P"],
    parts: Sequence[tuple[Float[Tensor, "B _ h D P"], Float[Tensor, "B _ h D P"]]],
    visible: Bool[Tensor, "Tq Tk"],
) -> Float[Tensor, "B Tq h D P"]:
    """Scaled dot-product attention of each position to itself in other frames: i to j where ``visible[i, j]``.

    Keys and values of the Tk frames come in `parts`, one after the other, so that remembered ones need no copying.
    Written out frame by frame: for a few frames it is sums of products, and unseen frames cost nothing.
    """
    q = q * q.shape[3] ** -0.5
    frames = []
    for now, row in enumerate(visible.tolist()):
        seen = list(_seen(row, parts))
        scores = torch.cat([(q[:, now : now + 1] * keys).sum(3) for keys, _ in seen], dim=1)
        weights = torch.split(scores.softmax(dim=1).unsqueeze(3), [keys.shape[1] for keys, _ in seen], dim=1)
        update = [(weight * values).sum(1) for weight, (_, values) in zip(weights, seen, strict=True)]
        frames.append(torch.stack(update).sum(0) if len(update) > 1 else update[0])
    return torch.stack(frames, dim=1)


def _seen(row: list[bool], parts: Sequence[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The keys and values of the frames that are seen, of each of the `parts` that has any."""
    first = 0
    for keys, values in parts:
        frames = [frame for frame, sees in enumerate(row[first : first + keys.shape[1]]) if sees]
        first += keys.shape[1]
        if len(frames) == keys.shape[1]:
            yield keys, values
        elif frames and frames[-1] - frames[0] == len(frames) - 1:
            yield keys[:, frames[0] : frames[-1] + 1], values[:, frames[0] : frames[-1] + 1]
        elif frames:
            yield keys[:, frames], values[:, frames]
