"""Compiled parts, in a process of their own: what checks shapes in the tests can't be compiled."""

import json
import subprocess
import sys

import pytest
import torch

from tinyworlds.models.masked_loss import masked_loss
from tinyworlds.models.stage import COMPILED, Stage
from tinyworlds.nn.transformer import SpaceTimeTransformer

EXPERTS = {"name": "moe", "num_experts": 3, "top_k": 2, "balance_weight": 0.1, "z_weight": 0.1}
SCRIPT = """
import json
import sys
import torch
from tinyworlds.maskgit import Decoding
from tinyworlds.models import ActionTokenizer, Dynamics, VideoTokenizer
from tinyworlds.models.masked_loss import masked_loss
from tinyworlds.models.stage import Stage

torch.manual_seed(0)
plain = {"qk_norm": False, "positions": "sincos"}
shared = {"embed_dim": 12, "num_heads": int(sys.argv[1]), "hidden_dim": 24, "norm": "pre", **plain}
known = {"frame_size": (16, 16), "dataset": {"name": "test", "path": "test.h5", "val_fraction": 0.1, "clip_length": 3}}
video = VideoTokenizer(
    **known, **shared, patch_size=8, num_blocks=1, latent_dim=3, num_bins=3, patches="conv", temporal=True,
    local=False, latent_norm=False, moving_weight=0,
)
action = ActionTokenizer(
    **known, n_actions=4, num_bins=2, shrink=1,
    encoder={"name": "motion", "width": 4, "channels": 2, "reach": 3, "moments": True, "equalized": True},
    decoder={"name": "motion", "width": 4}, latent_norm=False, usage_weight=0, variance_weight=0, variance_target=0,
    moving_weight=0, unscored=0, members=1, codes=None,
)
greedy = {"steps": 3, "schedule": "linear", "temperature": 0, **Decoding.earlier}
dynamics = Dynamics(
    video_tokenizer=video, action_tokenizer=action, dataset=known["dataset"], masking="clean_context",
    mask_ratio=0.5, context_noise=0, own_context=0, moving_weight=0, decoding=greedy,
    last_actions=2, num_blocks=int(sys.argv[4]),
    **{**shared, "conditioning": "film", "feed_forward": {"name": "swiglu"}, **json.loads(sys.argv[2])},
)
for parameter in dynamics.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
dynamics.eval()
frames = 2 * torch.rand(2, 3, 3, 16, 16) - 1

def everything():
    tokens, actions = dynamics.tokenize(frames)
    following = dynamics.predict(tokens[:, :2], actions, horizon=1, decoding=Decoding(**greedy))
    loss, _ = masked_loss(dynamics.train(), tokens, actions, torch.Generator().manual_seed(0))
    loss = loss + dynamics.transformer.take_routing()[0]
    gradients = torch.autograd.grad(loss, [p for p in dynamics.eval().parameters() if p.requires_grad])
    return [tokens, actions, following, dynamics.render(following, count=1), loss, *gradients]

plain = everything()
Stage.compile_parts({"dynamics": dynamics, "dynamics.transformer": dynamics.transformer}[sys.argv[3]])
for one, other in zip(everything(), plain, strict=True):
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
from torch._dynamo.utils import counters
print("graphs", counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_heads", "variant", "part", "num_blocks"),
    [
        # Heads of 6 channels, left to torch.
        (2, {"positions": "alibi", "conditioning": "prepend", "norm": "post"}, "dynamics", 1),
        (3, {}, "dynamics.transformer", 2),  # of 4
        (
            3,
            {"positions": "rope", "conditioning": "adaln_zero", "qk_norm": True, "feed_forward": EXPERTS},
            "dynamics.transformer",
            1,  # experts take a dozen graphs a block
        ),
    ],
)
def test_compiled_parts_compute_what_they_did(num_heads, variant, part, num_blocks):
    words = [sys.executable, "-c", SCRIPT, str(num_heads), json.dumps(variant), part, str(num_blocks)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    # The transformer remembers, continues and learns; tokenizers embed, encode, decode and render; motion is encoded.
    assert int(done.stdout.split()[-1]) >= (6 if part == "dynamics" else 3)


def test_without_a_compiler_compiling_is_refused(dynamics, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match="compile=true needs a C"):
        dynamics.compile_parts()


def test_all_that_has_weights_is_compiled_or_small(dynamics):
    """No layer of the stages does its work outside the parts that are compiled, but for heads of a matrix or two."""
    covered = {id(part) for module in dynamics.modules() if isinstance(module, COMPILED) for part in module.modules()}
    outside = [
        sum(parameter.numel() for parameter in module.parameters(recurse=False))
        for module in dynamics.modules()
        if id(module) not in covered and not isinstance(module, Stage | SpaceTimeTransformer)
    ]
    assert sum(outside) < 0.1 * sum(parameter.numel() for parameter in dynamics.parameters())


@pytest.mark.parametrize("masking", ["anchored", "clean_context"])
def test_activations_computed_again_give_the_same_gradients_and_are_not_kept(dynamics, frames, masking):
    dynamics.masking = masking
    dynamics.train()
    tokens, actions = dynamics.tokenize(frames[:, :4])
    trained = [parameter for parameter in dynamics.parameters() if parameter.requires_grad]
    found = []
    for recompute in (False, True):
        if recompute:
            dynamics.checkpoint_activations()
        kept: list[int] = []

        def note(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss, _ = masked_loss(dynamics, tokens, actions, torch.Generator().manual_seed(0))
        found.append((sum(kept), [loss, *torch.autograd.grad(loss, trained)]))
    (all_kept, wanted), (few_kept, recomputed) = found
    assert all(map(torch.equal, wanted, recomputed))
    assert few_kept < all_kept / 2
