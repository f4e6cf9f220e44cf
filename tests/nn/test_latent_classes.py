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


def classes_of(counts: torch.Tensor, classes: int) -> torch.Tensor:
    """The likeliest class of each combination."""
    codes = torch.cartesian_prod(*[torch.arange(side) for side in counts.shape])
    prior, tables = latent_classes(
        codes, counts.flatten(), vocabulary=counts.shape[0], classes=classes, generator=torch.Generator().manual_seed(0)
    )
    assert torch.allclose(prior.exp().sum(), torch.ones(1, dtype=torch.float64))
    assert torch.allclose(tables.exp().sum(1), torch.ones(counts.ndim, classes, dtype=torch.float64))
    assert torch.equal(prior, prior.sort(descending=True).values)
    return (prior + sum(table[own] for table, own in zip(tables, codes.T, strict=True))).argmax(-1)


@pytest.mark.parametrize("members", [3, 4])
def test_the_classes_by_which_codes_were_made_are_found_again(members):
    counts, true = seen(noise=0.3, members=members, hidden=4, codes=8)
    found = classes_of(counts, 4)
    pairs = torch.zeros(4, 4).index_put((true.flatten(), found), counts.flatten(), accumulate=True)
    assert pairs.max(1).values.sum() / counts.sum() > 0.97
    assert sorted(pairs.argmax(1).tolist()) == [0, 1, 2, 3]


def test_a_combination_that_never_came_is_of_the_class_that_its_codes_speak_for():
    counts, true = seen(noise=0.3, members=3, hidden=3, codes=8)
    never = (0, 1, 4)  # the first two codes are those of the class 0, the third is noise
    counts[never] = 0
    found = classes_of(counts, 3).view(counts.shape)
    assert int(true[never]) == 0
    assert found[never] == found[0, 1, 2]


def test_the_same_generator_gives_the_same_classes():
    counts, _ = seen(noise=0.5, members=3, hidden=3, codes=4)
    assert torch.equal(classes_of(counts, 3), classes_of(counts, 3))
