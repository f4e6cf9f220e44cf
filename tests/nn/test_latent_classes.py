import pytest
import torch

from tinyworlds.nn.latent_classes import latent_classes


def seen(*, noise: float, members: int, hidden: int, codes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each combination of codes comes, and the hidden class that it most likely has.

    Each member names the hidden class by a code of its own, another one with probability `noise`.
    """
    shares = torch.arange(1, hidden + 1) / sum(range(1, hidden + 1))
    joint = shares.view(hidden, *[1] * members).expand(hidden, *[codes] * members).clone()
    for member in range(members):
        own = (torch.arange(hidden) * 3 + member) % codes
        table = torch.full((hidden, codes), noise / (codes - 1)).scatter(1, own.unsqueeze(1), 1 - noise)
        shape = [hidden, *[1] * members]
        shape[1 + member] = codes
        joint = joint * table.view(shape)
    return 10_000 * joint.sum(0), joint.argmax(0)


@pytest.mark.parametrize("members", [3, 4])
def test_the_classes_by_which_codes_were_made_are_found_again(members):
    counts, true = seen(noise=0.3, members=members, hidden=4, codes=8)
    found = latent_classes(counts, classes=4, generator=torch.Generator().manual_seed(0))
    assert found.shape == counts.shape
    pairs = torch.zeros(4, 4).index_put((true.flatten(), found.flatten()), counts.flatten(), accumulate=True)
    assert pairs.max(1).values.sum() / counts.sum() > 0.97
    assert sorted(pairs.argmax(1).tolist()) == [0, 1, 2, 3]


def test_the_same_generator_gives_the_same_classes():
    counts, _ = seen(noise=0.5, members=3, hidden=3, codes=4)
    first, again = (latent_classes(counts, classes=3, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
