import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.data.clips import normalize
from tinyworlds.models import ActionTokenizer
from tinyworlds.models.action_tokenizer import latent_dim_of
from tinyworlds.nn.action_codecs import MeanConcatEncoder, WindowAttentionEncoder

from ..conftest import roughened

SPACE_TIME = {
    "patch_size": 8,
    "patches": "linear",
    "embed_dim": 16,
    "num_heads": 2,
    "hidden_dim": 24,
    "num_blocks": 1,
    "norm": "post",
    "qk_norm": False,
    "positions": "sincos",
}


CODECS = {
    "motion": None,
    "space-time": ("mean_concat", SPACE_TIME),
    "space-time, rope": ("mean_concat", {**SPACE_TIME, "positions": "rope", "qk_norm": True}),
    "windows": ("window_attention", SPACE_TIME),
    "windows, alibi": ("window_attention", {**SPACE_TIME, "positions": "alibi"}),
}


@pytest.fixture(params=CODECS.values(), ids=CODECS)
def tokenizer(request, action_tokenizer) -> ActionTokenizer:
    """Each codec."""
    if request.param is not None:
        name, options = request.param
        encoder = {"name": name, **options}
        decoder = {"name": "masked", "mask_ratio": 1.0, **options}
        action_tokenizer = ActionTokenizer(**{**action_tokenizer.hparams, "encoder": encoder, "decoder": decoder})
        for parameter in action_tokenizer.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return action_tokenizer.eval()


def test_an_action_per_transition_that_depends_on_no_later_frame(tokenizer, frames):
    other = frames.clone()
    other[:, 3] *= -1
    latents, changed = (tokenizer.latents(clip) for clip in (frames, other))
    assert latents.shape == (2, 4, 2)
    assert torch.equal(latents[:, :2], changed[:, :2])
    assert not torch.equal(latents[:, 2], changed[:, 2])


def test_transitions_that_are_not_scored_leave_the_others_as_they_count(action_tokenizer, frames):
    def loss(clips: torch.Tensor, unscored: int) -> float:
        tokenizer = ActionTokenizer(**{**action_tokenizer.hparams, "usage_weight": 0, "unscored": unscored}).eval()
        tokenizer.load_state_dict(action_tokenizer.state_dict())
        return float(tokenizer.training_step(clips, 0).detach())

    first, all_four = loss(frames[:, :2], 0), loss(frames, 0)
    assert loss(frames, 1) == pytest.approx((4 * all_four - first) / 3, rel=1e-5)
    assert first != pytest.approx(all_four, rel=0.01)


@pytest.mark.parametrize("positions", ["sincos", "rope", "alibi"])
@pytest.mark.parametrize("changed", range(5))
def test_under_window_attention_a_transition_depends_on_its_two_frames_alone(frames, changed, positions):
    options = {"frame_size": (16, 24), "latent_dim": 2, **SPACE_TIME, "num_blocks": 2, "positions": positions}
    encoder = roughened(WindowAttentionEncoder(**options))
    other = frames.clone()
    other[:, changed] *= -1
    moved = ((encoder(frames) - encoder(other)).abs() > 1e-6).any(-1)[0]
    assert moved.tolist() == [transition in (changed - 1, changed) for transition in range(4)]
    assert not encoder.temporal


def test_in_a_window_each_frame_sees_the_other(frames):
    """And so what the head reads of the first depends on the second, which under a causal mask it does not."""
    options = {"frame_size": (16, 24), "latent_dim": 2, **SPACE_TIME}
    other = frames[:, :2].clone()
    other[:, 1] *= -1
    for kind, seen in ((WindowAttentionEncoder, True), (MeanConcatEncoder, False)):
        encoder = kind(**options)
        first, changed = (encoder.pooled(clip)[..., :16] for clip in (frames[:, :2], other))
        assert torch.equal(first, changed) != seen


def test_a_transformer_of_a_checkpoint_from_before_there_was_a_choice_is_as_it_was(action_tokenizer):
    earlier = {key: value for key, value in SPACE_TIME.items() if key not in ("qk_norm", "positions")}
    decoder = {"name": "masked", "mask_ratio": 1.0, **earlier}
    parts = {"encoder": {"name": "mean_concat", **earlier}, "decoder": decoder}
    again = ActionTokenizer.from_hyperparameters({**action_tokenizer.hparams, **parts})
    for part in parts:
        assert again.hparams[part] == {**parts[part], "qk_norm": False, "positions": "sincos"}
    motion = ActionTokenizer.from_hyperparameters(action_tokenizer.hparams)
    assert motion.hparams["encoder"] == action_tokenizer.hparams["encoder"]


def test_an_action_changes_the_frame_it_leads_to_and_none_before(tokenizer, frames):
    codes = tokenizer.encode(frames)
    other = codes.clone()
    other[:, 2] *= -1
    with torch.no_grad():
        predicted, changed = (tokenizer.decode(frames[:, :-1], actions) for actions in (codes, other))
    assert torch.equal(predicted[:, :2], changed[:, :2])
    assert not torch.equal(predicted[:, 2], changed[:, 2])


def test_in_training_the_published_decoder_sees_the_first_frame_alone(action_tokenizer, frames):
    decoder = {"name": "masked", "mask_ratio": 1.0, **SPACE_TIME}
    tokenizer = ActionTokenizer(**{**action_tokenizer.hparams, "decoder": decoder}).train()
    codes = torch.ones(2, 4, 2)
    other = frames.clone()
    other[:, 1:] *= -1
    now = frames[:, :-1]
    assert torch.equal(tokenizer.decode(now, codes), tokenizer.decode(other[:, :-1], codes))
    tokenizer.eval()
    assert not torch.equal(tokenizer.decode(now, codes), tokenizer.decode(other[:, :-1], codes))


def test_shrunk_frames_are_averages(action_tokenizer, frames):
    half = ActionTokenizer(**{**action_tokenizer.hparams, "frame_size": (16, 32), "shrink": 2})
    wide = torch.nn.functional.pad(frames, (0, 8))
    torch.testing.assert_close(half.shrunk(wide)[0, 0, 1, 3, 5], wide[0, 0, 1, 6:8, 10:12].mean())


@given(latent_dim=st.integers(1, 6), num_bins=st.integers(2, 5))
def test_the_latent_dimension_is_found_from_the_actions(latent_dim, num_bins):
    assert latent_dim_of(num_bins**latent_dim, num_bins) == latent_dim


@pytest.mark.parametrize(("n_actions", "num_bins"), [(6, 2), (1, 2), (0, 2), (8, 3), (4, 1)])
def test_actions_that_are_no_power_of_the_bins_are_refused(n_actions, num_bins):
    with pytest.raises(ValueError, match=f"n_actions={n_actions} is no power of num_bins={num_bins}"):
        latent_dim_of(n_actions, num_bins)


@pytest.fixture
def committee(action_tokenizer) -> ActionTokenizer:
    """Three members with eight codes each, and two actions."""
    options = {
        "members": 3,
        "codes": 8,
        "n_actions": 2,
        "latent_norm": True,
        "dataset": {**action_tokenizer.hparams.dataset, "clip_length": 5},
    }
    options |= {"usage_weight": 0.5, "variance_weight": 2, "variance_target": 3}
    return roughened(ActionTokenizer(**{**action_tokenizer.hparams, **options}))


def test_members_learn_what_each_would_alone(committee, frames):
    """Neither prediction nor gradient of one depends on the others."""
    committee.training_step(frames, 0).backward()
    for index in range(3):
        options = {**committee.hparams, "members": 1}
        alone = ActionTokenizer(**options)
        alone.encoder.load_state_dict(committee.encoder.members[index].state_dict())
        alone.decoder.load_state_dict(committee.decoder.members[index].state_dict())
        alone.training_step(frames, 0).backward()
        for part in ("encoder", "decoder"):
            own = getattr(committee, part).members[index]
            for together, single in zip(own.parameters(), getattr(alone, part).parameters(), strict=True):
                torch.testing.assert_close(together.grad, single.grad, rtol=1e-4, atol=1e-6)


def test_actions_of_a_committee_are_read_from_its_members_codes(committee, frames):
    for _ in range(3):
        committee.training_step(frames, 0)
    committee.on_validation_start()
    committee.eval()
    actions = committee.tokenize(frames)
    assert committee.n_actions == 2
    assert int(actions.max()) < 2
    own = rearrange(committee.encode(frames), "b n (m a) -> b n m a", m=3)
    assert torch.equal(actions, committee.agreement(committee.codebook.indices(own)))
    again = ActionTokenizer.from_hyperparameters(committee.hparams)
    again.load_state_dict(committee.state_dict())
    assert torch.equal(again.eval().tokenize(frames), actions)
    typical = rearrange(committee.typical_codes(torch.arange(2)), "k (m a) -> k m a", m=3)
    assert torch.equal(committee.codebook.indices(typical), committee.agreement.typical(torch.arange(2)))
    assert committee.pictures(frames)["actions"].shape[-1] == 3


def test_an_action_of_a_film_is_the_last_of_a_clip(committee, frames):
    """Read with the frames before it, as many as clips had in training, and none after it."""
    committee.training_step(frames, 0)
    committee.on_validation_start()
    committee.eval()
    film = ((frames[:1].repeat(1, 2, 1, 1, 1) + 1) * 127.5).byte().movedim(2, -1).numpy()
    inferred = committee.infer(film)[0].tolist()
    for before, action in enumerate(inferred):
        clip = normalize(torch.from_numpy(film[:, max(before - 3, 0) : before + 2]))
        assert committee.tokenize(clip)[0, -1] == action
    assert committee.infer(film[:, :1]).shape == (1, 0)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_codes_of_latents_that_are_no_numbers_are_counted_as_some(committee, frames):
    """So that the run ends with what is said of a loss that is no number."""
    assert not committee.training_step(frames * torch.nan, 0).isfinite()


def test_codes_that_are_actions_are_the_action_tokenizer_of_before(action_tokenizer):
    assert not [name for name in action_tokenizer.state_dict() if "agreement" in name or "members" in name]
    earlier = {k: v for k, v in action_tokenizer.hparams.items() if k not in ("members", "codes")}
    ActionTokenizer.from_hyperparameters(earlier).load_state_dict(action_tokenizer.state_dict())


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"members": 3, "codes": 2}, "codes=2 are fewer than n_actions=4"),
        ({"members": 3, "codes": 6}, "codes=6 is no power of num_bins=2"),
        ({"members": 3, "codes": 512}, "codes=512: of more than 256"),
        ({"members": 200, "codes": 8}, "members=200 with codes=8 are too many"),
        ({"members": 0}, "members=0"),
        ({"members": 2}, "members=2: what they agree on is told by codes"),
        ({"codes": 8, "dataset": {"clip_length": 3}}, "codes=8 with data.clip_length=3"),
        ({"members": 3, "codes": 8, "n_actions": 0}, "n_actions=0"),
    ],
)
def test_members_that_cannot_agree_are_refused(action_tokenizer, options, wrong):
    with pytest.raises(ValueError, match=wrong):
        ActionTokenizer(**{**action_tokenizer.hparams, **options})
