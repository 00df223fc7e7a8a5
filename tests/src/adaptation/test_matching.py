from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.adaptation.matching import match_clusters, matching_cost, shared_people


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), small=st.integers(1, 5), more=st.integers(0, 7), turned=st.booleans())
def test_each_round_is_the_best_of_all_assignments(seed, small, more, turned):
    cost = np.random.default_rng(seed).random((small + more, small))
    if turned:
        few, many = match_clusters(cost.T)
    else:
        many, few = match_clusters(cost)
    assert sorted(set(many)) == list(range(small))

    def cheapest(rows):
        n = min(len(rows), small)
        return min(
            sum(cost[r, c] for r, c in zip(chosen, columns, strict=True))
            for chosen in combinations(rows, n)
            for columns in permutations(range(small), n)
        )

    first = {int(row): column for column, row in enumerate(few)}
    assert len(first) == small
    assert sum(cost[row, column] for row, column in first.items()) == pytest.approx(
        cheapest(range(small + more))
    )
    assert all(many[row] == column for row, column in first.items())
    rest = [row for row in range(small + more) if row not in first]
    if rest and len(rest) <= small:
        assert sum(cost[row, many[row]] for row in rest) == pytest.approx(cheapest(rest))


def test_people_of_two_modalities_find_one_another():
    random = np.random.default_rng(0)
    people = random.normal(size=(6, 16))
    order = random.permutation(6)
    visible = people + 0.2 * random.normal(size=people.shape)
    thermal = 3 * people[order] + 0.2 * random.normal(size=people.shape)
    of_visible, of_thermal = match_clusters(matching_cost(visible, thermal))
    assert order[of_visible].tolist() == list(range(6))
    assert of_thermal.tolist() == order.tolist()


def test_forbidden_pairs_are_taken_by_nobody():
    cost = np.array([[0.0, 9.0], [1.0, np.inf], [np.inf, np.inf]])
    of_row, of_column = match_clusters(cost)
    assert of_row.tolist() == [1, 0, -1] and of_column.tolist() == [1, 0]
    only = match_clusters(np.array([[0.1, 0.2], [np.inf, np.inf]]))
    assert [found.tolist() for found in only] == [[0, -1], [0, 0]], "two that only one row is left for"
    nobody = match_clusters(np.full((2, 3), np.inf))
    assert [found.tolist() for found in nobody] == [[-1, -1], [-1, -1, -1]]
    assert [found.tolist() for found in match_clusters(np.empty((0, 2)))] == [[], [-1, -1]]


@pytest.mark.parametrize("wrong", [np.nan, -np.inf])
def test_costs_are_numbers(wrong):
    with pytest.raises(ValueError, match="must be numbers, or infinity"):
        match_clusters(np.array([[1.0, wrong]]))


def test_shared_people_are_the_jaccard_index_of_groups():
    visible_labels, visible_groups = np.array([0, 0, 0, 1, -1]), np.array([5, 5, 2, 3, 2])
    thermal_labels, thermal_groups = np.array([0, 0, 1, 2]), np.array([5, 7, 3, 2])
    shared = shared_people(visible_labels, thermal_labels, visible_groups, thermal_groups)
    np.testing.assert_allclose(shared, [[1 / 3, 0, 1 / 2], [0, 1, 0]])
    none = shared_people(np.array([-1]), np.array([0]), np.array([0]), np.array([0]))
    assert none.shape == (0, 1)


def test_known_people_outweigh_looks():
    same = np.eye(2)
    cost = matching_cost(same, same, shared=np.array([[0.0, 1.0], [1.0, 0.0]]))
    np.testing.assert_allclose(cost, [[0, -1], [-1, 0]])
    assert matching_cost(same, -same).max() == 2
    turned = matching_cost(same, same + 0.1, shared=np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert match_clusters(turned)[0].tolist() == [1, 0]
