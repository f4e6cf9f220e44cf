from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tinyworlds.maskgit import Decoding, decode
from tinyworlds.models import ActionTokenizer, Dynamics
from tinyworlds.models.masked_loss import masked_loss
from tinyworlds.nn.last_actions import told_together
from tinyworlds.nn.positions import Timeline

from ..conftest import roughened

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rope, add, two actions": {"positions": "rope", "conditioning": "add", "qk_norm": True, "last_actions": 2},
    "alibi, prepend": {"positions": "alibi", "conditioning": "prepend", "norm": "post"},
    "rope, adaln_zero, moe": {
        "positions": "rope",
        "conditioning": "adaln_zero",
        "feed_forward": {"name": "moe", "num_experts": 3, "top_k": 2, "balance_weight": 0.1, "z_weight": 0.1},
    },
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def varied(dynamics: Dynamics, variant: dict[str, Any]) -> Dynamics:
    return roughened(Dynamics.from_hyperparameters({**dynamics.hparams, **variant})).eval()


def logits(dynamics, tokens, hidden, actions):
    return dynamics.to_logits(dynamics(tokens, hidden, dynamics.condition(actions)))


@pytest.mark.parametrize("changed", range(4))
def test_nothing_depends_on_later_tokens(dynamics, tokens, actions, changed):
    other = tokens.clone()
    other[:, changed] = (other[:, changed] + 1) % 27
    seen = torch.zeros_like(tokens, dtype=torch.bool)
    moved = (logits(dynamics, tokens, seen, actions) != logits(dynamics, other, seen, actions)).flatten(2).any(-1)
    assert moved[0].tolist() == [frame >= changed for frame in range(4)]


@pytest.mark.parametrize("changed", range(3))
def test_an_action_carries_its_frame_to_the_next(dynamics, tokens, actions, changed):
    other = actions.clone()
    other[:, changed] = (other[:, changed] + 1) % 4
    seen = torch.zeros_like(tokens, dtype=torch.bool)
    moved = (logits(dynamics, tokens, seen, actions) != logits(dynamics, tokens, seen, other)).flatten(2).any(-1)
    assert moved[0].tolist() == [frame > changed for frame in range(4)]


def test_a_hidden_token_is_not_seen(dynamics, tokens, actions):
    hidden = torch.zeros_like(tokens, dtype=torch.bool)
    hidden[:, 2, 3] = True
    other = tokens.clone()
    other[:, 2, 3] = (other[:, 2, 3] + 1) % 27
    assert torch.equal(logits(dynamics, tokens, hidden, actions), logits(dynamics, other, hidden, actions))


@every_variant
def test_a_clean_context_guesses_what_decoding_guesses(dynamics, tokens, actions, variant):
    """Frame t has the features that it has when it is decoded alone after the frames before it."""
    dynamics = varied(dynamics, variant)
    hidden = torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(0)) < 0.6
    condition = dynamics.condition(actions)
    past = dynamics.remember(tokens[:, :-1], condition.at(slice(3)))
    timeline = Timeline.clean_context(4, tokens.device)
    at_once = dynamics(tokens[:, 1:], hidden, condition.at(slice(1, None)), timeline, past)
    for t in range(1, 4):
        window = torch.cat([torch.zeros(2, t, 6, dtype=torch.bool), hidden[:, t - 1 : t]], dim=1)
        alone = dynamics(tokens[:, : t + 1], window, dynamics.condition(actions[:, :t]))[:, -1]
        torch.testing.assert_close(at_once[:, t - 1], alone, atol=1e-5, rtol=1e-4)


@every_variant
def test_the_action_decides_what_is_imagined_also_in_windows_longer_than_in_training(dynamics, variant):
    dynamics = varied(dynamics, variant)
    dynamics.context_length = 9
    generator = torch.Generator().manual_seed(0)
    tokens, actions = (torch.randint(n, (1, 8, *shape), generator=generator) for n, shape in ((27, (6,)), (4, ())))
    greedy = Decoding(steps=3, schedule="linear", temperature=0.0, **Decoding.earlier)
    unseen, guesses = (torch.zeros(1, 1, 6, dtype=torch.int64), torch.ones(1, 1, 6, dtype=torch.bool)), []
    for action in range(4):
        actions[:, -1] = action
        plain = whole_window(dynamics, tokens, actions, horizon=1)
        imagined = dynamics.predict(tokens, actions, horizon=1, decoding=greedy)
        assert torch.equal(imagined, decode(plain, (1, 1, 2, 3), decoding=greedy))
        guesses.append(plain(*unseen).flatten())
    assert torch.pdist(torch.stack(guesses)).min() > 0.01


def test_experts_add_to_the_loss_of_training_and_are_watched(dynamics, frames, monkeypatch):
    dynamics = varied(dynamics, VARIANTS["rope, adaln_zero, moe"]).train()
    logged: dict[str, Any] = {}
    monkeypatch.setattr(dynamics, "log", lambda name, value, **_: logged.update({name: float(value.detach())}))
    total = dynamics.training_step(frames[:, :4], 0)
    seen = {name.removeprefix("train/experts/"): value for name, value in logged.items() if "experts" in name}
    assert seen.keys() == {"balance", "z", "evenness", "busiest", "idlest"}
    # Two blocks, each the mean over what it was given.
    assert 0.1 * 2 * seen["balance"] < float(total) - logged["train/loss"]
    assert 1 / 3 <= seen["evenness"] <= 1
    assert 0 <= seen["idlest"] <= 1 / 3 <= seen["busiest"] <= 0.5  # of two choices none twice


def test_the_first_frame_has_no_action(dynamics, actions):
    condition = dynamics.condition(actions)
    assert condition.given.tolist() == [False, True, True, True]
    assert torch.equal(condition.latents[:, 1:], dynamics.action_tokenizer.quantizer.codes(actions))


def test_a_frame_is_told_the_last_actions_together(dynamics, actions):
    told = varied(dynamics, {"last_actions": 3}).condition(actions)
    assert told.given.tolist() == [False, True, True, True]
    assert not told.latents[:, 0].any()
    assert torch.equal(told.latents[:, 1:], told_together(actions, last=3, number=4))


def whole_window(dynamics, tokens, actions, *, horizon):
    """Logits as a window of all frames gives them, whatever it has in common with the step before."""
    seen = torch.zeros_like(tokens, dtype=torch.bool)

    def predict(guessed, hidden):
        every = torch.cat([tokens, guessed], dim=1), torch.cat([seen, hidden], dim=1)
        return logits(dynamics, *every, actions)[:, -horizon:]

    return predict


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    context=st.integers(1, 3),
    horizon=st.integers(1, 3),
    batch=st.integers(1, 3),
    steps=st.integers(1, 5),
    temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_decoding_the_new_frames_alone_is_decoding_the_whole_window(
    dynamics, context, horizon, batch, steps, temperature, seed
):
    """The same tokens from the same seed, and logits equal to 1e-5, whatever is hidden."""
    dynamics.context_length = context + horizon
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(27, (batch, context, 6), generator=generator)
    actions = torch.randint(4, (batch, context + horizon - 1), generator=generator)
    decoding = Decoding(steps=steps, schedule="exponential", temperature=temperature, **Decoding.earlier)
    plain = whole_window(dynamics, tokens, actions, horizon=horizon)
    following = dynamics.predict(
        tokens, actions, horizon=horizon, decoding=decoding, generator=torch.Generator().manual_seed(seed)
    )
    wanted = decode(plain, (batch, horizon, 2, 3), decoding=decoding, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(following, wanted)

    hidden = torch.rand(batch, horizon, 6, generator=generator) < 0.5
    condition = dynamics.condition(actions)
    past = dynamics.remember(tokens, condition.at(slice(context)))
    alone = dynamics.to_logits(dynamics(following, hidden, condition.at(slice(context, None)), past=past))
    torch.testing.assert_close(alone, plain(following, hidden), atol=1e-5, rtol=1e-5)


@every_variant
@pytest.mark.parametrize("horizon", [1, 2])
def test_guidance_adds_what_the_action_changes_against_all(dynamics, variant, horizon):
    dynamics = varied(dynamics, variant)
    tokens = torch.randint(27, (2, 4 - horizon, 6), generator=torch.Generator().manual_seed(0))

    def first(last: int, guidance: float) -> torch.Tensor:
        told: list[Any] = []
        actions = torch.full((2, 3), last)
        actions[:, : 3 - horizon] = 1
        decoding = dynamics.decoding.changed(guidance=guidance)
        dynamics.predict(tokens, actions, horizon=horizon, decoding=decoding, watch=told.append)
        return told[0].logits

    plain = torch.stack([first(action, 0) for action in range(4)])
    for action in range(4):
        wanted = plain[action] + 1.5 * (plain[action] - plain.mean(0))
        torch.testing.assert_close(first(action, 1.5), wanted, atol=1e-5, rtol=1e-4)
        assert (wanted - plain[action]).abs().max() > 1e-3


def test_prediction_sees_the_last_frames_of_its_window_alone(dynamics):
    generator = torch.Generator().manual_seed(0)
    tokens, actions = (torch.randint(n, shape, generator=generator) for n, shape in ((27, (1, 9, 6)), (4, (1, 9))))
    greedy = Decoding(steps=3, schedule="cosine", temperature=0.0, **Decoding.earlier)
    long = dynamics.predict(tokens, actions, horizon=1, decoding=greedy)
    short = dynamics.predict(tokens[:, -3:], actions[:, -3:], horizon=1, decoding=greedy)
    assert torch.equal(long, short)


@pytest.mark.parametrize("horizon", [0, 4])
def test_a_horizon_that_leaves_nothing_to_see_is_refused(dynamics, tokens, horizon):
    actions = torch.zeros(2, tokens.shape[1] + horizon - 1, dtype=torch.int64)
    with pytest.raises(ValueError, match=f"horizon={horizon}"):
        dynamics.predict(tokens, actions, horizon=horizon, decoding=dynamics.decoding)


@pytest.mark.parametrize("masking", ["anchored", "clean_context"])
def test_training_leaves_the_tokenizers_as_they_were(dynamics, frames, masking):
    dynamics.masking = masking
    before = {name: value.clone() for name, value in dynamics.state_dict().items()}
    dynamics.train()
    optimizer = torch.optim.AdamW([p for p in dynamics.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        masked_loss(dynamics, *dynamics.tokenize(frames[:, :4]))[0].backward()
        optimizer.step()
    changed = {name for name, value in dynamics.state_dict().items() if not torch.equal(value, before[name])}
    assert not any("tokenizer" in name for name in changed)
    assert {"mask_token", "from_latent.weight", "to_logits.weight"} <= changed


def test_tokenizers_of_unlike_frames_are_refused(dynamics):
    other = ActionTokenizer(**{**dynamics.action_tokenizer.hparams, "frame_size": (24, 24)})
    options = {k: v for k, v in dynamics.hparams.items() if not k.endswith("tokenizer")}
    with pytest.raises(ValueError, match=r"\(16, 24\).*\(24, 24\)"):
        Dynamics(video_tokenizer=dynamics.video_tokenizer, action_tokenizer=other, **options)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("masking", "none"),
        ("mask_ratio", 1.5),
        ("context_noise", -1),
        ("own_context", 2),
        ("moving_weight", -1),
        ("last_actions", 0),
        ("last_actions", 4),
    ],
)
def test_impossible_options_are_refused_by_name(dynamics, option, value):
    options = {k: v for k, v in dynamics.hparams.items() if not k.endswith("tokenizer")}
    with pytest.raises(ValueError, match=rf"stage\.{option}="):
        Dynamics(
            video_tokenizer=dynamics.video_tokenizer,
            action_tokenizer=dynamics.action_tokenizer,
            **{**options, option: value},
        )


@pytest.mark.parametrize("option", ["context_noise", "own_context"])
def test_noise_without_a_clean_context_is_refused(dynamics, option):
    options = {k: v for k, v in dynamics.hparams.items() if not k.endswith("tokenizer")}
    tokenizers = {"video_tokenizer": dynamics.video_tokenizer, "action_tokenizer": dynamics.action_tokenizer}
    with pytest.raises(ValueError, match=rf"{option}=0\.1.*clean_context"):
        Dynamics(**tokenizers, **{**options, "masking": "anchored", option: 0.1})


def test_a_checkpoint_from_before_there_was_a_choice_is_as_it_was(dynamics):
    later = ("feed_forward", "context_noise", "own_context", "moving_weight", "qk_norm", "positions", "conditioning")
    later = (*later, "last_actions")
    hyperparameters = {key: value for key, value in dynamics.hparams.items() if key not in later}
    for key in ("qk_norm", "positions"):
        del hyperparameters["video_tokenizer"][key]
    hyperparameters["decoding"] = {
        key: dynamics.hparams["decoding"][key] for key in ("steps", "schedule", "temperature")
    }
    again = Dynamics.from_hyperparameters(hyperparameters)
    again.load_state_dict(dynamics.state_dict())
    assert again.hparams["feed_forward"] == {"name": "swiglu"}
    assert again.hparams["conditioning"] == "film"
    assert again.decoding == dynamics.decoding
    assert again.hparams["positions"] == again.video_tokenizer.hparams["positions"] == "sincos"


def test_experts_of_a_checkpoint_from_before_there_was_a_z_loss_have_none(dynamics):
    earlier = {"name": "moe", "num_experts": 3, "top_k": 2, "balance_weight": 0.1}
    again = Dynamics.from_hyperparameters({**dynamics.hparams, "feed_forward": earlier})
    assert again.hparams["feed_forward"] == {**earlier, "z_weight": 0}
