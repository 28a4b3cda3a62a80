import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, ttest_ind
from support import refused

from topoflow.dynamics.effects import bootstrap_interval, cliffs_delta, hedges_g

reproducible = settings(deadline=None, derandomize=True, max_examples=60)
samples = st.lists(st.integers(-1000, 1000).map(float), min_size=2, max_size=8)


def normal_samples():
    rng = np.random.default_rng(2025)
    return rng.normal(0, 1, (7, 3))[:, 0], rng.normal(0.7, 1.5, (5, 3))[:, 0]


class TestHedgesG:
    def test_by_hand(self):
        # Means 2 and 4, both variances 1; J(4) = Gamma(2) / (sqrt 2 Gamma(3/2)) = sqrt(2 / pi).
        assert hedges_g([1, 2, 3], [3, 4, 5]).value == pytest.approx(-2 * math.sqrt(2 / math.pi))

    def test_another_library_agrees_up_to_its_approximate_correction(self):
        # pingouin 0.7.0: compute_effsize(a, b, eftype="cohen") and "hedges" (J = 1 - 3 / (4 * 10 - 1)).
        found = hedges_g(*normal_samples()).value
        exact = math.gamma(5) / (math.sqrt(5) * math.gamma(4.5))
        assert found == pytest.approx(-1.8001352425632038 * exact, rel=1e-12)
        assert found == pytest.approx(-1.6616633008275727, rel=1e-3)

    def test_it_is_a_rescaled_t_statistic(self):
        a, b = normal_samples()
        t = ttest_ind(a, b).statistic
        exact = math.gamma(5) / (math.sqrt(5) * math.gamma(4.5))
        assert hedges_g(a, b).value == pytest.approx(exact * t * math.sqrt(1 / 7 + 1 / 5), rel=1e-12)

    def test_it_is_unbiased_in_small_normal_samples(self):
        rng = np.random.default_rng(0)
        found = [
            hedges_g(*rng.normal([[0.8], [0.0]], 1.0, (2, 4)), n=100).value for _ in range(2000)
        ]  # standard error 0.02; Cohen's d would be 15 % too large
        assert np.mean(found) == pytest.approx(0.8, abs=0.05)

    @reproducible
    @given(a=samples, b=samples, scale=st.floats(0.1, 10), shift=st.integers(-100, 100))
    def test_neither_unit_nor_origin_matters_and_swapping_changes_the_sign(self, a, b, scale, shift):
        assume(len(set(a)) > 1 or len(set(b)) > 1)
        found = hedges_g(a, b, n=100).value
        assert hedges_g(b, a, n=100).value == pytest.approx(-found)
        a, b = (scale * (np.array(sample) + shift) for sample in (a, b))
        assert hedges_g(a, b, n=100).value == pytest.approx(found, rel=1e-6, abs=1e-9)

    def test_samples_without_spread_are_equal_or_infinitely_far_apart(self):
        # 0.1 + 0.1 + 0.1 is not 0.3 in float64; a spread of 1e-17 would make the effect a random number.
        same = hedges_g([0.1, 0.1, 0.1], [0.1, 0.1, 0.1])
        assert same.value == 0
        assert math.isnan(same.low)
        assert hedges_g([0.1, 0.1, 0.1], [0.3, 0.3, 0.3]).value == -math.inf

    def test_missing_observations_are_left_out_and_counted(self):
        a, b = normal_samples()
        found = hedges_g([*a, math.nan, math.nan], [math.nan, *b])
        assert (found.n_a, found.n_b, found.n_missing) == (7, 5, 3)
        assert found.value == hedges_g(a, b).value


class TestCliffsDelta:
    def test_by_hand(self):
        assert cliffs_delta([1, 3, 5], [2, 2, 3]).value == pytest.approx((5 - 3) / 9)

    @reproducible
    @given(a=samples, b=samples)
    def test_it_is_the_mann_whitney_statistic_on_another_scale(self, a, b):
        u = mannwhitneyu(a, b).statistic
        assert cliffs_delta(a, b, n=100).value == pytest.approx(2 * u / (len(a) * len(b)) - 1)

    @reproducible
    @given(a=samples, b=samples)
    def test_only_the_order_matters(self, a, b):
        assert cliffs_delta(
            np.exp(np.array(a) / 100), np.exp(np.array(b) / 100), n=100
        ).value == pytest.approx(cliffs_delta(a, b, n=100).value)

    def test_samples_that_do_not_overlap_have_no_interval(self):
        found = cliffs_delta([4, 5, 6], [1, 2, 3])
        assert found.value == 1
        assert math.isnan(found.low)
        assert math.isnan(found.high)


class TestBootstrapInterval:
    def test_the_same_seed_gives_the_same_interval(self):
        a, b = normal_samples()
        assert hedges_g(a, b, seed=3) == hedges_g(a, b, seed=3)
        assert hedges_g(a, b, seed=3) != hedges_g(a, b, seed=4)

    def test_of_a_difference_of_means_it_is_near_the_t_interval_in_large_samples(self):
        rng = np.random.default_rng(1)
        a, b = rng.normal(size=200), rng.normal(size=200)
        found = bootstrap_interval(lambda x, y: x.mean(axis=-1) - y.mean(axis=-1), a, b, n=4000)
        assert found == pytest.approx(ttest_ind(a, b).confidence_interval(), abs=0.02)

    def test_it_holds_the_value_and_grows_with_the_level(self):
        narrow, wide = (hedges_g(*normal_samples(), level=level) for level in (0.8, 0.99))
        assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
        assert (narrow.level, wide.level) == (0.8, 0.99)

    def test_nearly_separated_small_samples_give_an_interval_or_none_and_no_warning(self):
        found = [hedges_g([0, 0, 1], [shift, shift, shift + 1]) for shift in range(6)]
        assert math.isnan(found[1].low)
        assert math.isnan(found[1].high)
        assert all(one.low < one.value < one.high for one in (found[0], *found[2:]))

    @pytest.mark.parametrize(
        ("name", "given", "expected", "got"),
        [
            ("level", 95, "between 0 and 1", 95),
            ("n", 10, "a whole number, 100 or more", 10),
            ("seed", 0.5, "a whole number, 0 or more", 0.5),
            ("a", [1.0], "at least two observations", (1,)),
            ("b", [math.nan, 1.0, math.nan], "at least two observations that are not missing", (1,)),
            ("b", [1.0, math.inf], "finite", "b[1] = inf"),
            ("a", ["x", "y"], "real numbers", "<U1"),
        ],
    )
    def test_errors_name_the_argument(self, name, given, expected, got):
        with refused(name=name, expected=expected, got=got):
            hedges_g(**{"a": [1.0, 2.0], "b": [1.0, 3.0], name: given})

    @pytest.mark.slow
    def test_coverage_is_what_the_docstring_says(self):
        rng = np.random.default_rng(0)
        covered = {}
        for n, low, high in ((3, 0.72, 0.86), (5, 0.88, 0.96), (10, 0.92, 0.98)):
            effects = [
                hedges_g(rng.normal(1, 1, n), rng.normal(0, 1, n), seed=seed, n=999) for seed in range(300)
            ]
            defined = [effect for effect in effects if not math.isnan(effect.low)]
            covered[n] = np.mean([effect.low <= 1 <= effect.high for effect in defined])
            assert low <= covered[n] <= high, covered
            assert len(defined) >= (270 if n == 3 else 300)
        print(covered)
