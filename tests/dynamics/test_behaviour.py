import math

import numpy as np
import pytest
from hypothesis import settings
from support import refused

from topoflow.dynamics.behaviour import lead_lag

reproducible = settings(deadline=None, derandomize=True, max_examples=100)
UNEVEN = [0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256]


def bump(at, n=12):
    return np.exp(-0.5 * (np.arange(n) - at) ** 2)


class TestLeadLag:
    @pytest.mark.parametrize("shift", [-3, -1, 0, 2])
    def test_a_shifted_copy_is_found_at_its_shift(self, shift):
        found = lead_lag(bump(5 + shift), bump(5), range(0, 130, 10))
        assert (found.lag_checkpoints, found.lag_steps) == (shift, 10 * shift)
        assert found.peak_difference == 10 * shift
        assert found.correlation.p_value < 0.05

    def test_the_correlations_are_numpys_divided_by_the_whole_length(self):
        x, y = np.random.default_rng(0).gamma(2, size=(2, 12))
        standard = [(v - v.mean()) / v.std() for v in (x, y)]
        every_lag = np.correlate(*standard, mode="full") / 12  # from lag -11 to 11, x behind y
        found = lead_lag(x, y, range(13), max_lag=11, n_permutations=9)
        assert found.correlation.statistic == pytest.approx(every_lag.max())
        assert found.lag_checkpoints == np.argmax(every_lag) - 11

    def test_swapping_the_two_swaps_the_sign(self):
        x, y = np.random.default_rng(1).gamma(2, size=(2, 12))
        first, other = lead_lag(x, y, UNEVEN), lead_lag(y, x, UNEVEN)
        assert first.peak_difference == -other.peak_difference
        assert first.lag_checkpoints == -other.lag_checkpoints

    def test_the_unit_of_neither_matters(self):
        x, y = np.random.default_rng(2).gamma(2, size=(2, 12))
        first, other = lead_lag(x, y, UNEVEN), lead_lag(1e200 * x, 1e-200 * y, UNEVEN)
        assert first.lag_checkpoints == other.lag_checkpoints
        assert first.correlation.statistic == pytest.approx(other.correlation.statistic)

    def test_an_uneven_schedule_has_a_lag_in_checkpoints_only_and_peaks_in_steps(self):
        found = lead_lag(bump(3), bump(6), UNEVEN)
        assert (found.lag_checkpoints, found.lag_steps, found.peak_difference) == (-3, None, 4 - 12)

    def test_the_longest_lag_is_kept(self):
        assert abs(lead_lag(bump(1), bump(9), range(13), max_lag=2).lag_checkpoints) <= 2

    def test_a_series_that_does_not_move_has_no_lag(self):
        found = lead_lag(np.ones(12), bump(3), range(13))
        assert found.lag_checkpoints is None
        assert found.lag_steps is None
        assert math.isnan(found.correlation.p_value)

    def test_unrelated_series_keep_the_level(self):
        rng = np.random.default_rng(0)
        p = [
            lead_lag(*rng.gamma(2, size=(2, 13)), range(14), n_permutations=199).correlation.p_value
            for _ in range(400)
        ]
        assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08

    def test_malformed_arguments_are_named(self):
        with refused(name="max_lag", got=-1):
            lead_lag([1.0, 2.0], [1.0, 2.0], [0, 1, 2], max_lag=-1)
        with refused(name="velocity", expected="each of the 2 intervals"):
            lead_lag([1.0, 2.0], [1.0], [0, 1, 2])
