"""The actions that the codes of several codecs, or those of one over time, agree on."""

from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from tinyworlds import parallel
from tinyworlds.data.settings import check_whole
from tinyworlds.nn.hidden_markov import HiddenActions

REMEMBERED = 2**13
"""Clips whose codes are kept, the latest ones: codes drift while their encoders learn."""
SEED = 0
"""Of the beginnings from which actions are looked for."""
MAX_CODES = 256
"""That a byte tells apart."""
MAX_SIZE = 2**14
"""Pairs of actions, times members, times codes: more take minutes to be found."""


class Agreement(nn.Module):
    """Which of `actions` the codes of `members`, one of `codes` each, stand for.

    What codecs that differ in nothing but their first weights have in common is what happened, and what each tells
    beside it is not; and what happened goes on from one moment to the next. So the actions are the hidden states that
    runs of codes are best explained by (see `HiddenActions`). The codes of the latest clips, of `transitions` each,
    are kept in training, and `fit` finds the actions by them, without any true ones.
    """

    def __init__(self, *, members: int, codes: int, actions: int, transitions: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("recent", torch.zeros(REMEMBERED, transitions, members, dtype=torch.uint8))
        self.seen: Tensor
        self.recent: Tensor
        for name, part in HiddenActions.undecided(actions, readers=members, vocabulary=codes)._asdict().items():
            self.register_buffer(name, part)

    @property
    def hidden(self) -> HiddenActions:
        """What codes tell of actions."""
        return HiddenActions(*(getattr(self, name) for name in HiddenActions._fields))

    def _load_from_state_dict(self, *given: Any) -> None:
        super()._load_from_state_dict(*given)
        self.check()

    def check(self) -> None:
        """
        Raises:
            ValueError: what was read from a file is no code or no probability.
        """
        codes = self.hidden.codes.shape[-1]
        if (self.recent >= codes).any():
            raise ValueError(f"agreement.recent holds other numbers than 0 to {codes - 1}")
        if self.seen < 0:
            raise ValueError("agreement.seen is below 0")
        for name, shares in self.hidden._asdict().items():
            if not ((shares > 0) & (shares <= 1)).all():
                raise ValueError(f"agreement.{name} holds other numbers than probabilities above 0")

    def forward(self, codes: Int64[Tensor, "B T M"]) -> Int64[Tensor, "B T"]:
        """The action of each transition of clips, by the codes before it and after it."""
        return self.hidden.read(codes)

    def typical(self, actions: Int64[Tensor, "*batch"]) -> Int64[Tensor, "*batch M"]:
        """The likeliest codes while an action is held."""
        return self.hidden.held[actions]

    @torch.no_grad()
    def keep(self, codes: Int64[Tensor, "B T M"]) -> None:
        """Those of a batch, of all ranks, in place of the oldest."""
        # A latent that is no number has no code, and training is to get as far as saying so.
        clips = parallel.all_rows(codes).clamp(0, self.hidden.codes.shape[-1] - 1)[-REMEMBERED:]
        rows = (self.seen + torch.arange(len(clips), device=clips.device)) % REMEMBERED
        self.recent[rows] = clips.to(self.recent.dtype)
        self.seen += len(clips)

    @torch.no_grad()
    def fit(self) -> None:
        """Find the actions anew; nothing was kept: leave them."""
        clips = self.recent[: min(int(self.seen), REMEMBERED)].long()
        if not len(clips):
            return
        vocabulary, actions = self.hidden.codes.shape[-1], len(self.hidden.prior)
        generator = torch.Generator().manual_seed(SEED)
        found = HiddenActions.fit(clips, vocabulary=vocabulary, actions=actions, generator=generator)
        for name, part in found._asdict().items():
            getattr(self, name).copy_(part)


def check_agreement(members: int, *, codes: int | None, n_actions: int, clip_length: int) -> None:
    """
    Raises:
        ValueError: so many members with so many codes, in clips of this length, tell of no such actions.
    """
    check_whole("members", members, at_least=1)
    if codes is None:
        if members > 1:
            raise ValueError(f"members={members}: what they agree on is told by codes of their own; give codes=8, say")
        return
    if codes < n_actions:
        raise ValueError(f"codes={codes} are fewer than n_actions={n_actions}")
    if codes > MAX_CODES:
        raise ValueError(f"codes={codes}: of more than {MAX_CODES} no actions can be read")
    if n_actions**2 * members * codes > MAX_SIZE:
        raise ValueError(
            f"members={members} with codes={codes} are too many to read n_actions={n_actions} from: their product with "
            f"the pairs of actions is above {MAX_SIZE}"
        )
    if clip_length < 4:
        raise ValueError(
            f"codes={codes} with data.clip_length={clip_length}: actions are read from three codes in a row, "
            "thus from clips of at least four frames"
        )
