from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.models import STAGES
from tinyworlds.public_format import LIMITS, hyperparameters

CONFIG: dict[str, Any] = {
    "frame_size": 32, "patch_size": 4, "embed_dim": 32, "num_heads": 4, "hidden_dim": 64, "num_blocks": 2,
    "latent_dim": 5, "num_bins": 4, "n_actions": 8, "context_length": 4, "dataset": "PONG",
    "use_moe": True, "num_experts": 4, "top_k_experts": 2, "moe_aux_loss_coeff": 0.01,
}  # fmt: skip
READ_BY = {
    "latent_dim": "dynamics", "num_bins": "dynamics", "n_actions": "action_tokenizer", "num_experts": "dynamics",
    "top_k_experts": "dynamics",
}  # fmt: skip


@pytest.mark.parametrize("key", LIMITS)
def test_every_number_is_needed_and_within_its_limits(key):
    stage = READ_BY.get(key, "video_tokenizer")
    hyperparameters(stage, CONFIG)
    without = {name: value for name, value in CONFIG.items() if name != key}
    with pytest.raises(ValueError, match=f"{key} is missing"):
        hyperparameters(stage, without)
    least, most = LIMITS[key]
    for value in (least - 1, most + 1, 10**30, -1, 2.5, float("nan"), True, "4", None, [4], {}):
        with pytest.raises(ValueError, match=f"^{key}="):
            hyperparameters(stage, {**CONFIG, key: value})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_rope": True}, "use_rope=True"),
        ({"use_adaln_zero": 1}, "use_adaln_zero=1"),
        ({"moe_aux_loss_coeff": "0.01"}, "moe_aux_loss_coeff=0.01"),
        ({"moe_aux_loss_coeff": -1}, "moe_aux_loss_coeff=-1"),
    ],
)
def test_what_there_is_not_here_is_refused_by_name(change, named):
    with pytest.raises(ValueError, match=named):
        hyperparameters("dynamics", {**CONFIG, **change})


@pytest.mark.parametrize("name", [None, 3, "../../secret", "a/b", "", "x" * 65, "säge", "a\n"])
def test_a_dataset_of_an_odd_name_leads_nowhere(name):
    assert hyperparameters("dynamics", {**CONFIG, "dataset": name})["dataset"]["path"] == "data/public.h5"
    assert hyperparameters("dynamics", CONFIG)["dataset"]["path"] == "data/pong.h5"


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-5, 2**40), st.floats(), st.text(max_size=4), st.just([]))


@given(stage=st.sampled_from(list(STAGES)), change=st.dictionaries(st.sampled_from([*CONFIG, "use_rope"]), VALUES))
def test_any_config_is_understood_or_refused(stage, change):
    try:
        made = hyperparameters(stage, {**CONFIG, **change})
    except ValueError as error:
        message = str(error)
    else:
        message = ""
        side = {**CONFIG, **change}["frame_size"]
        assert made.get("frame_size", (side, side)) == (side, side)
    assert "\n" not in message
