"""What dynamics are for: the frames that follow, as tokens and as pixels."""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from tinyworlds.data.settings import check_whole
from tinyworlds.data.token_cache import ClipTokens
from tinyworlds.maskgit import Decoding, Expectation, Guess, decode
from tinyworlds.models.action_tokenizer import ActionTokenizer
from tinyworlds.models.stage import Stage
from tinyworlds.models.video_tokenizer import VideoTokenizer
from tinyworlds.nn.norms import Condition
from tinyworlds.nn.transformer import Past
from tinyworlds.orders import Noise


class Imagination(Stage):
    """A stage with both tokenizers that imagines frames, of which a window holds at most `context_length`.

    Its features of tokens, of which `to_logits` makes guesses, are computed by the stage itself.
    """

    context_length: int
    decoding: Decoding
    video_tokenizer: VideoTokenizer
    action_tokenizer: ActionTokenizer
    to_logits: nn.Linear

    @abstractmethod
    def condition(self, actions: Int64[Tensor, "B N"]) -> Condition:
        """N actions, aligned with the N+1 frames they lead to."""

    @abstractmethod
    def remember(self, tokens: Int64[Tensor, "B T P"], condition: Condition) -> Past:
        """What frames that follow these seen ones need of them."""

    def check_horizon(self, horizon: int) -> None:
        """Refuse to predict so many frames at once that none is left to be seen."""
        check_whole("horizon", horizon, at_least=1)
        if horizon >= self.context_length:
            raise ValueError(
                f"horizon={horizon}: this world sees {self.context_length} frames at a time, "
                f"so it can imagine 1 to {self.context_length - 1} at once"
            )

    def predict(
        self,
        tokens: Int64[Tensor, "B T P"],
        actions: Int64[Tensor, "B {tokens.shape[1]+horizon-1}"],
        *,
        horizon: int,
        decoding: Decoding,
        generator: Noise = None,
        watch: Callable[[Guess], None] | None = None,
    ) -> Int64[Tensor, "B N P"]:
        """The tokens of the next `horizon` frames, decoded together, of which the last actions lead to each.

        Only as many of the last frames are seen as make, with the predicted ones, a window of
        `context_length`. Seen frames do not depend on those being decoded: their keys and values are
        computed once, and each decoding step runs on the new frames alone.

        Raises:
            ValueError: the horizon leaves no frame to be seen.
        """
        self.check_horizon(horizon)
        seen = tokens[:, -(self.context_length - horizon) :]
        length = seen.shape[1]
        taken, number = actions[:, -(length + horizon - 1) :], self.action_tokenizer.n_actions
        # Guidance wants the frames after every action: for each in turn, first the one that is taken.
        turns = torch.arange(number if decoding.guidance else 1, device=actions.device)
        other = torch.arange(taken.shape[1], device=actions.device) >= taken.shape[1] - horizon
        turned = rearrange((taken + other * rearrange(turns, "n -> n 1 1")) % number, "n b t -> (n b) t")
        following = self.condition(turned).at(slice(length, None))
        past = self.remember(seen, self.condition(taken).at(slice(length))).tiled(len(turns))

        def logits(guessed: Int64[Tensor, "B N P"], hidden: Bool[Tensor, "B N P"]) -> Float[Tensor, "B N P V"]:
            tokens, unseen = (part.repeat(len(turns), 1, 1) for part in (guessed, hidden))
            features = rearrange(self(tokens, unseen, following, past=past), "(n b) h p e -> n b h p e", n=len(turns))
            return self.to_logits(torch.lerp(features.mean(0), features[0], 1 + decoding.guidance))

        shape = (tokens.shape[0], horizon, *self.video_tokenizer.grid)
        return decode(logits, shape, decoding=decoding, generator=generator, device=tokens.device, watch=watch)

    def imagine(
        self,
        tokens: Int64[Tensor, "B T P"],
        actions: Int64[Tensor, "B {tokens.shape[1]+horizon-1}"],
        *,
        horizon: int,
        decoding: Decoding,
        generator: Noise = None,
        watch: Callable[[Guess], None] | None = None,
    ) -> tuple[Int64[Tensor, "B N P"], Float[Tensor, "B N P L"]]:
        """`predict`, and the codes by which the predicted frames are shown (see `Decoding`)."""
        codes = self.video_tokenizer.quantizer.codes
        predict = partial(self.predict, tokens, actions, horizon=horizon, decoding=decoding, generator=generator)
        if decoding.show == "taken":
            following = predict(watch=watch)
            return following, codes(following)
        vocabulary = torch.arange(self.video_tokenizer.vocabulary, device=tokens.device)
        expectation = Expectation(codes(vocabulary), decoding=decoding, watch=watch)
        return predict(watch=expectation), expectation.codes

    def advance(
        self,
        seen: ClipTokens,
        actions: Int64[Tensor, "B h"],
        *,
        decoding: Decoding,
        generator: Noise = None,
        watch: Callable[[Guess], None] | None = None,
    ) -> tuple[ClipTokens, Float[Tensor, "B h P L"]]:
        """What is seen, at most `context_length` frames, once the `actions` have led to h more (see `imagine`).

        And the codes by which these are shown.
        """
        taken = torch.cat([seen.actions, actions], dim=1)
        horizon = actions.shape[1]
        following, codes = self.imagine(
            seen.tokens, taken, horizon=horizon, decoding=decoding, generator=generator, watch=watch
        )
        tokens = torch.cat([seen.tokens, following], dim=1)[:, -self.context_length :]
        return ClipTokens(tokens, taken[:, -(tokens.shape[1] - 1) :]), codes

    def render(
        self, tokens: Int64[Tensor, "B T P"], *, count: int, codes: Float[Tensor, "B {count} P L"] | None = None
    ) -> Float[Tensor, "B {count} C H W"]:
        """The last `count` frames of a window of tokens, in about [-1, 1]; by `codes` instead, where given."""
        window = self.video_tokenizer.quantizer.codes(tokens[:, -self.context_length :])
        if codes is not None:
            window = torch.cat([window[:, :-count], codes], dim=1)
        return self.video_tokenizer.decode(window, last=count)

    def next_frame(
        self, tokens: Int64[Tensor, "B T P"], actions: Int64[Tensor, "B N"], generator: torch.Generator
    ) -> tuple[Int64[Tensor, "B 1 P"], Float[Tensor, "B 1 C H W"]]:
        """The last frame of clips as imagined from those before it, as tokens and as pixels."""
        guessed, codes = self.imagine(tokens[:, :-1], actions, horizon=1, decoding=self.decoding, generator=generator)
        return guessed, self.render(torch.cat([tokens[:, :-1], guessed], dim=1), count=1, codes=codes)
