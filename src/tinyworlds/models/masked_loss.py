"""What the dynamics learn: to guess hidden tokens, and from which context (see `Dynamics`)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

import tinyworlds.models.dynamics  # which imports this module: its class is only named here
from tinyworlds import parallel
from tinyworlds.masking import anchored_mask, frame_mask, replace_some
from tinyworlds.nn.norms import Condition
from tinyworlds.nn.positions import Timeline

MASKINGS = ("anchored", "clean_context")


def check_training(
    masking: str,
    *,
    last_actions: int,
    clip_length: int,
    mask_ratio: float,
    context_noise: float,
    own_context: float,
    moving_weight: float,
) -> None:
    """Refuse impossible options of training.

    Raises:
        ValueError: names the option.
    """
    if masking not in MASKINGS:
        raise ValueError(f"stage.masking={masking!r} is none of {', '.join(MASKINGS)}")
    if not 1 <= last_actions < clip_length:
        raise ValueError(
            f"stage.last_actions={last_actions}: clips of data.clip_length={clip_length} frames have "
            f"{clip_length - 1} actions, and a frame is told at least one"
        )
    context = {"context_noise": context_noise, "own_context": own_context}
    for name, share in {"mask_ratio": mask_ratio, **context}.items():
        if not 0 <= share <= 1:
            raise ValueError(f"stage.{name}={share} is a share, from 0 to 1")
    for name, share in context.items():
        if share and masking != "clean_context":
            raise ValueError(f"stage.{name}={share} is for stage.masking=clean_context: others have no context")
    if moving_weight < 0:
        raise ValueError(
            f"stage.moving_weight={moving_weight} is how much more a token that changes counts: at least 0"
        )


def masked_loss(
    dynamics: "tinyworlds.models.dynamics.Dynamics",
    tokens: Int64[Tensor, "B T P"],
    actions: Int64[Tensor, "B T-1"],
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean cross-entropy (nats) of the hidden tokens, weighed, and the share of them guessed right."""
    condition = dynamics.condition(actions)
    batch, frames, patches = tokens.shape
    if dynamics.masking == "anchored":
        hidden = anchored_mask(
            (batch, frames, patches), min_ratio=dynamics.mask_ratio, generator=generator, device=tokens.device
        )
        features, targets, before = dynamics(tokens, hidden, condition), tokens, tokens.roll(1, dims=1)
        before[:, 0] = tokens[:, 0]
    else:
        before, targets = tokens[:, :-1], tokens[:, 1:]
        hidden = frame_mask(
            (batch, frames - 1, patches), full=dynamics.mask_ratio, generator=generator, device=tokens.device
        )
        context = replace_some(tokens[:, :-1], share=dynamics.context_noise, generator=generator)
        own = parallel.spread(batch, share=dynamics.own_context, device=tokens.device)
        if len(own):
            context = context.index_copy(0, own, guesses(dynamics, tokens[own, :-1], condition.of(own)))
        past = dynamics.remember(context, condition.at(slice(-1)))
        timeline = Timeline.clean_context(frames, tokens.device)
        features = dynamics(targets, hidden, condition.at(slice(1, None)), timeline, past)
    # The vocabulary is much wider than the embedding: only what is guessed is projected to it.
    logits, truth = dynamics.to_logits(features[hidden]), targets[hidden]
    right = parallel.mean((logits.argmax(-1) == truth).float())
    weights = 1 + dynamics.moving_weight * (truth != before[hidden])
    return parallel.mean(weights * F.cross_entropy(logits, truth, reduction="none")), right


@torch.no_grad()
def guesses(
    dynamics: "tinyworlds.models.dynamics.Dynamics", tokens: Int64[Tensor, "B T P"], condition: Condition
) -> Int64[Tensor, "B T P"]:
    """Every frame after the first as it would be decoded from the true ones before it, in one step."""
    frames = tokens.shape[1]
    if frames == 1:
        return tokens
    past = dynamics.remember(tokens[:, :-1], condition.at(slice(frames - 1)))
    hidden = torch.ones_like(tokens[:, 1:], dtype=torch.bool)
    timeline = Timeline.clean_context(frames, tokens.device)
    features = dynamics(tokens[:, 1:], hidden, condition.at(slice(1, frames)), timeline, past)
    return torch.cat([tokens[:, :1], dynamics.to_logits(features).argmax(-1)], dim=1)
