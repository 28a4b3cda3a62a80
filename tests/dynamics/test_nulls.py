import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support import refused

from topoflow.dynamics import nulls
from topoflow.dynamics.nulls import (
    concentration_test,
    holm,
    permuted_rows,
)
from topoflow.dynamics.velocity import (
    concentration,
    expected_concentration,
    fitted_floor,
    velocity_per_step,
)

reproducible = settings(deadline=None, derandomize=True, max_examples=50)
DENSE_EARLY = [0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128]
SHORT = [0, 1, 2, 4, 8, 20]


def some_velocity(seed, n_intervals):
    return np.random.default_rng(seed).gamma(2, size=n_intervals)


class TestConcentrationTest:
    @pytest.mark.parametrize("per_step", [False, True])
    @pytest.mark.parametrize("seed", range(5))
    def test_it_is_the_share_of_all_orders_with_at_least_this_concentration(self, seed, per_step):
        velocity = some_velocity(seed, 5)
        values = velocity_per_step(velocity, SHORT, fitted_floor(velocity, SHORT)) if per_step else velocity
        null = [concentration(order, SHORT) for order in itertools.permutations(values)]
        found = concentration_test(velocity, SHORT, per_step=per_step)
        assert found.statistic == pytest.approx(concentration(values, SHORT))
        assert found.expected == pytest.approx(np.mean(null))
        assert found.p_value == pytest.approx(np.mean(np.array(null) >= found.statistic - 1e-12))
        assert found.exact

    def test_it_is_the_p_value_of_scipys_exact_permutation_test(self):
        velocity = some_velocity(7, 8)
        early = velocity[:2], velocity[2:]  # of nine steps the first third is three: two of the gaps below
        steps = [0, 1, 3, 4, 5, 6, 7, 8, 9]
        witness = stats.permutation_test(early, lambda a, b: a.sum(), alternative="greater", n_resamples=999)
        found = concentration_test(velocity, steps)
        assert (found.n_permutations, found.p_value) == (28, pytest.approx(witness.pvalue))

    def test_random_orders_agree_with_all_orders(self):
        velocity = some_velocity(3, 11)
        exact = concentration_test(velocity, DENSE_EARLY)
        found = concentration_test(velocity, DENSE_EARLY, n_permutations=exact.n_permutations - 1)
        assert exact.exact
        assert not found.exact
        error = math.sqrt(exact.p_value * (1 - exact.p_value) / found.n_permutations)
        assert found.p_value == pytest.approx(exact.p_value, abs=4 * error + 1 / found.n_permutations)

    def test_random_orders_never_give_zero(self):
        found = concentration_test(np.arange(60, 0, -1.0) ** 9, range(61), n_permutations=2000)
        assert found.p_value == 1 / 2001

    def test_ties_count_against_whatever_their_rounding(self):
        for scale in (0.1, 1 / 3, 1e-200, 1e200):
            assert concentration_test(np.full(9, scale), range(10)).p_value == 1
            assert concentration_test(np.full((3, 9), scale), range(10)).p_value == 1

    def test_one_large_velocity_has_the_chance_of_the_first_third(self):
        assert concentration_test([9.0, *[0.0] * 11], range(13)).p_value == pytest.approx(1 / 3)
        assert expected_concentration(range(13)) == pytest.approx(1 / 3)

    @reproducible
    @given(seed=st.integers(0, 1000), copies=st.integers(1, 4))
    def test_a_layer_many_times_over_is_no_more_evidence_than_once(self, seed, copies):
        velocity = some_velocity(seed, 11)
        many = velocity * np.geomspace(1e-5, 1e5, copies)[:, None]
        once, found = (concentration_test(v, DENSE_EARLY) for v in (velocity, many))
        assert found.p_value == once.p_value
        assert found.statistic == pytest.approx(once.statistic, rel=1e-12)

    def test_over_layers_the_statistic_is_the_mean_concentration_and_all_are_permuted_alike(self):
        layers = np.stack([some_velocity(seed, 5) for seed in range(3)])
        orders = [layers[:, order] for order in map(list, itertools.permutations(range(5)))]
        null = np.array([np.mean([concentration(v, SHORT) for v in order]) for order in orders])
        found = concentration_test(layers, SHORT)
        assert found.statistic == pytest.approx(null[0])
        assert found.p_value == pytest.approx(np.mean(null >= null[0] - 1e-12))

    def test_a_layer_at_rest_is_left_out(self):
        velocity = some_velocity(0, 5)
        assert concentration_test([velocity, np.zeros(5)], SHORT) == concentration_test(velocity, SHORT)

    def test_a_run_at_rest_is_missing(self):
        found = concentration_test(np.zeros((2, 5)), SHORT)
        assert math.isnan(found.statistic)
        assert math.isnan(found.p_value)

    def test_a_run_of_two_checkpoints_says_nothing(self):
        assert concentration_test([1.0], [0, 5]).p_value == 1

    def test_noise_on_a_dense_early_schedule_looks_early_per_step_but_not_plain(self):
        velocity = np.array([1.3, 1.0, 1.2, 1.1, 1.3, 1.0, 1.2, 1.1, 1.3, 1.2, 1.1])
        assert concentration_test(velocity, DENSE_EARLY).p_value > 0.3
        per_step = concentration_test(velocity, DENSE_EARLY, per_step=True)
        assert per_step.statistic > per_step.expected

    def test_malformed_layers_and_counts_are_named(self):
        with refused(name="velocity", got="velocity[1] = -1.0"):
            concentration_test([[1.0, 1.0], [1.0, -1.0]], [0, 1, 2])
        with refused(name="n_permutations", got=0):
            concentration_test([1.0, 1.0], [0, 1, 2], n_permutations=0)


class TestHolm:
    def test_it_is_holms_example_worked_by_hand(self):
        # 4 * .01, 3 * .02, 2 * .03 and then 1 * .04, which may not fall below its predecessor
        np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])

    @reproducible
    @given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8), level=st.sampled_from([0.01, 0.05, 0.3]))
    def test_it_rejects_what_stepping_down_rejects(self, p, level):
        adjusted = holm(p)
        rejected = set()
        for position, index in enumerate(np.argsort(p)):
            if (len(p) - position) * p[index] > level:
                break
            rejected.add(int(index))
        assert {i for i in range(len(p)) if adjusted[i] <= level} == rejected

    @reproducible
    @given(p=st.lists(st.floats(0, 1), min_size=1, max_size=8), seed=st.integers(0, 99))
    def test_it_lies_between_the_p_value_and_bonferroni_in_any_order(self, p, seed):
        adjusted = holm(p)
        assert (adjusted >= p).all()
        assert (adjusted <= np.minimum(1, len(p) * np.array(p))).all()
        order = np.random.default_rng(seed).permutation(len(p))
        np.testing.assert_array_equal(holm(np.array(p)[order]), adjusted[order])

    def test_missing_tests_stay_missing_and_do_not_count(self):
        np.testing.assert_array_equal(holm([0.2, math.nan, 0.01]), [0.2, math.nan, 0.02])
        assert np.isnan(holm([math.nan, math.nan])).all()
        assert holm([]).shape == (0,)

    def test_what_is_no_probability_is_named(self):
        with refused(name="p_values", got=1.5):
            holm([0.1, 1.5])


def test_a_seed_gives_the_same_p_value_and_another_seed_another():
    velocity = some_velocity(0, 40)
    first, again, other = (
        concentration_test(velocity, range(41), n_permutations=2000, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_rows_permuted_in_blocks_are_those_permuted_at_once(monkeypatch):
    values = np.arange(7.0)
    (whole,) = permuted_rows(np.random.default_rng(1), values, 50)
    monkeypatch.setattr(nulls, "_ROWS", 7 * 8)
    blocks = list(permuted_rows(np.random.default_rng(1), values, 50))
    assert [len(block) for block in blocks] == [8] * 6 + [2]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert (np.sort(whole, axis=1) == values).all()
