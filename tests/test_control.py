import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyworlds.control import (
    action_scores,
    best_map,
    clear,
    control_score,
    count_pairs,
    in_use,
    mapped_accuracy,
    mutual_information,
    obeyed,
    readings,
    split_halves,
)

ACTIONS = 4
RNG = np.random.default_rng(0)
TRUE = RNG.choice(ACTIONS, p=[0.4, 0.3, 0.2, 0.1], size=4000)
EPISODES = np.repeat(np.arange(8), 500)


def scored(codes: np.ndarray, read: np.ndarray = TRUE) -> dict[str, float]:
    found = action_scores(codes, TRUE, read=read, episodes=EPISODES)
    score = control_score(**{name: found[name] for name in ("accuracy", "majority", "supervised")})
    return {**found, "control": score}


@given(st.permutations(range(ACTIONS)))
def test_a_code_that_is_the_action_under_any_name_is_full_control(order):
    found = scored(np.array(order)[TRUE])
    assert found["control"] == found["accuracy"] == 1
    assert found["nmi"] == pytest.approx(1, abs=1e-5)


def test_a_single_code_is_none():
    found = scored(np.full_like(TRUE, 2))
    assert found["control"] == found["nmi"] == 0
    assert found["accuracy"] == found["majority"] == pytest.approx(0.4, abs=0.03)


@given(n_codes=st.integers(2, 16), seed=st.integers(0, 100))
def test_random_codes_are_about_none(n_codes, seed):
    found = scored(np.random.default_rng(seed).integers(0, n_codes, len(TRUE)))
    assert abs(found["control"]) < 0.05
    assert found["nmi"] < 0.02


def test_half_of_the_way_to_the_probe_is_half():
    other = RNG.integers(0, ACTIONS, len(TRUE))
    read = np.where(RNG.random(len(TRUE)) < 0.9, TRUE, other)
    found = scored(read, read=read)
    assert found["control"] == 1
    assert found["supervised"] == found["accuracy"] < 0.95


def test_a_meaning_that_changes_between_episodes_is_no_meaning():
    codes = np.where(EPISODES % 2, TRUE, (TRUE + 1) % ACTIONS)
    assert scored(codes)["accuracy"] < 0.4
    # Fitted on what it is scored on, the map would find something in it.
    assert (best_map(count_pairs(codes, TRUE, n_codes=4, n_actions=4))[codes] == TRUE).mean() > 0.45


def test_more_codes_than_actions_may_share_them():
    found = scored(TRUE + ACTIONS * RNG.integers(0, 3, len(TRUE)))
    assert found["control"] == 1
    assert found["nmi"] < 0.9


def test_where_the_truth_cannot_be_read_there_is_no_score():
    with pytest.raises(ValueError, match="can't be read off these frames"):
        scored(TRUE, read=np.zeros_like(TRUE))


def test_a_code_of_one_half_alone_stands_for_the_commonest_action():
    codes, true = np.array([0, 0, 0, 1, 7, 7]), np.array([2, 2, 2, 1, 2, 0])
    halves = np.array([False] * 4 + [True] * 2)
    assert mapped_accuracy(codes, true, halves) == pytest.approx((1 / 2 + 0) / 2)


def test_halves_are_whole_episodes_or_one_cut_in_two():
    halves = split_halves(np.array([3, 3, 5, 5, 5, 9]))
    assert halves.tolist() == [False, False, True, True, True, False]
    assert split_halves(np.full(4, 7)).tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="too few"):
        mapped_accuracy(np.zeros(1, np.int64), np.zeros(1, np.int64), split_halves(np.zeros(1, np.int64)))


def test_information_does_not_care_about_names():
    assert mutual_information(TRUE, TRUE) == pytest.approx(1, abs=1e-5)
    assert mutual_information(3 - TRUE, TRUE) == pytest.approx(mutual_information(TRUE, 3 - TRUE))
    assert mutual_information(np.zeros_like(TRUE), TRUE) == 0


def test_a_code_that_hardly_comes_counts_as_unused():
    assert in_use(np.array([1000, 30, 20, 0])).tolist() == [True, True, False, False]
    assert in_use(np.array([9, 0])).tolist() == [True, False]


def told(meanings: np.ndarray, answers: np.ndarray, use: np.ndarray, n_actions: int = ACTIONS) -> float:
    """Obedience of a world that does `answers` (N, codes) under codes that stand for `meanings`."""
    table = readings(
        np.tile(meanings, len(answers)),
        answers.flatten(),
        n_actions=n_actions,
        weights=np.tile(use.astype(float), len(answers)),
    )
    return obeyed(table, np.ones(n_actions, bool))


CODES = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, ACTIONS - 1), min_size=n, max_size=n),
        st.lists(st.integers(1, 99), min_size=n, max_size=n),
    )
)


@given(codes=CODES, seed=st.integers(0, 99))
def test_a_world_that_ignores_its_actions_is_at_chance_at_best(codes, seed):
    meanings, use = map(np.array, codes)
    does = np.random.default_rng(seed).integers(0, ACTIONS, (20, 1))
    assert told(meanings, np.repeat(does, len(meanings), axis=1), use) <= 1 / ACTIONS + 1e-9
    if set(meanings) == set(range(ACTIONS)):
        assert told(meanings, np.repeat(does, len(meanings), axis=1), use) == pytest.approx(1 / ACTIONS)


@given(action=st.integers(0, ACTIONS - 1), seed=st.integers(0, 99))
def test_codes_that_all_mean_one_thing_are_at_chance_at_best(action, seed):
    answers = np.random.default_rng(seed).integers(0, ACTIONS, (20, ACTIONS))
    for done in (answers, np.full_like(answers, action)):
        assert told(np.full(ACTIONS, action), done, np.ones(ACTIONS)) <= 1 / ACTIONS


def test_a_world_that_obeys_is_at_one_and_one_that_does_the_opposite_below_chance():
    meanings, use = np.array([2, 0, 3, 1, 1]), np.array([5, 5, 1, 5, 9])
    assert told(meanings, np.tile(meanings, (7, 1)), use) == 1
    assert told(meanings, np.tile(meanings ^ 1, (7, 1)), use) == 0


def test_an_action_that_no_code_stands_for_is_never_obeyed():
    meanings = np.array([0, 1])
    assert told(meanings, np.tile(meanings, (5, 1)), np.ones(2)) == 1 / 2


def test_actions_count_alike_however_often_their_codes_are_used():
    meanings, use = np.array([0, 1, 2, 3]), np.array([9997, 1, 1, 1])
    assert told(meanings, np.zeros((5, 4), int), use) == 1 / ACTIONS


def test_codes_of_one_action_count_by_their_use():
    table = readings(np.array([0, 0]), np.array([0, 1]), n_actions=2, weights=np.array([3.0, 1.0]))
    assert table.tolist() == [[0.75, 0.25], [0, 0]]


def test_a_code_is_clear_where_one_action_takes_half_of_it():
    assert clear(np.array([[5, 3, 2], [4, 3, 3], [0, 7, 0], [0, 0, 0]])).tolist() == [True, False, True, True]
