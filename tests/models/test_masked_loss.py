import pytest
import torch
import torch.nn.functional as F

from tinyworlds.maskgit import Decoding
from tinyworlds.masking import anchored_mask
from tinyworlds.models import Dynamics
from tinyworlds.models.masked_loss import masked_loss


def test_the_loss_is_the_cross_entropy_of_hidden_tokens_alone(dynamics, tokens, actions):
    dynamics.masking = "anchored"
    loss, accuracy = masked_loss(dynamics, tokens, actions, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    hidden = anchored_mask((2, 4, 6), min_ratio=0.5, generator=generator, device=tokens.device)
    guesses = dynamics.to_logits(dynamics(tokens, hidden, dynamics.condition(actions)))
    each = F.cross_entropy(guesses.flatten(0, 2), tokens.flatten(), reduction="none").unflatten(0, tokens.shape)
    torch.testing.assert_close(loss, each[hidden].mean())
    torch.testing.assert_close(accuracy, (guesses.argmax(-1) == tokens)[hidden].float().mean())


@pytest.mark.parametrize("masking", ["anchored", "clean_context"])
def test_a_token_that_changes_counts_more(dynamics, tokens, actions, masking):
    """Where all tokens change, and where none does, all count alike; else it is in between."""
    dynamics.masking = masking
    dynamics.mask_ratio = 1.0
    changes = torch.cat([tokens[:, :1], (tokens[:, :1] + torch.tensor([1, 2, 3]).view(3, 1)) % 27], dim=1)
    stays = tokens[:, :1].expand(-1, 4, -1)

    def losses(clip):
        weighed = []
        for dynamics.moving_weight in (0, 3):
            generator = torch.Generator().manual_seed(3)
            weighed.append(masked_loss(dynamics, clip, actions, generator)[0].item())
        return weighed

    plain, heavy = losses(stays)
    assert heavy == pytest.approx(plain)
    plain, heavy = losses(changes)
    first = 1 if masking == "anchored" else 0  # the first frame has none before it, so nothing in it changes
    assert (heavy == pytest.approx(4 * plain)) == (not first)
    assert plain < heavy <= 4 * plain + 1e-4


def test_noise_is_in_the_context_alone(dynamics, tokens):
    """What frames are guessed from is in part the other clip; what is to be guessed is not."""
    clean = masked_loss(dynamics, tokens, tokens.new_zeros(2, 3), torch.Generator().manual_seed(0))[0]
    embedded = []
    dynamics.from_latent.register_forward_pre_hook(lambda _, given: embedded.append(given[0]))
    dynamics.context_noise = 1.0
    generator = torch.Generator().manual_seed(0)
    noisy = masked_loss(dynamics, tokens, tokens.new_zeros(2, 3), generator)[0]
    context, guessed = embedded
    own = dynamics.video_tokenizer.quantizer.codes(tokens)
    kept, replaced = ((context == codes[:, :-1]).all(-1) for codes in (own, own.roll(1, dims=0)))
    assert not kept.all()
    assert (kept | replaced).all()
    shown, hidden = ((guessed == codes).all(-1) for codes in (own[:, 1:], dynamics.mask_token))
    assert shown.any()
    assert (shown | hidden).all()
    assert noisy != clean


def test_its_own_context_is_what_it_decodes(dynamics, tokens, actions):
    """In the share of the clips each frame but the first is what one step of decoding makes of the true ones before."""
    embedded = []
    dynamics.own_context, dynamics.mask_ratio = 0.5, 1.0
    dynamics.from_latent.register_forward_pre_hook(lambda _, given: embedded.append(given[0]))
    masked_loss(dynamics, tokens, actions, torch.Generator().manual_seed(0))
    context = dynamics.video_tokenizer.quantizer.indices(embedded[-2])
    assert (context[1] == tokens[1, :-1]).all()
    assert (context[0, 0] == tokens[0, 0]).all()
    one_step = Decoding(steps=1, schedule="linear", temperature=0, **Decoding.earlier)
    for frame in (1, 2):
        seen = {"tokens": tokens[:1, :frame], "actions": actions[:1, :frame]}
        guess = dynamics.predict(**seen, horizon=1, decoding=one_step)
        assert (context[0, frame] == guess[0, 0]).all()
        assert (guess[0, 0] != tokens[0, frame]).any()


def test_experts_are_not_balanced_by_guesses_without_gradients(dynamics, tokens, actions):
    experts = {"name": "moe", "num_experts": 3, "top_k": 2, "balance_weight": 0.1, "z_weight": 0.1}
    dynamics = Dynamics.from_hyperparameters({**dynamics.hparams, "feed_forward": experts}).train()
    taken = []
    for dynamics.own_context in (0, 1):
        masked_loss(dynamics, tokens, actions)
        taken.append(dynamics.transformer.take_routing())
    assert len(taken[0][1]) == len(taken[1][1]) > 0
    assert all(routing.balance.requires_grad for _, routings in taken for routing in routings)
