import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from support import refused

from topoflow.dynamics.twins import clock_of
from topoflow.dynamics.velocity import (
    concentration,
    expected_concentration,
    fitted_floor,
    peak_step,
    stabilised_at,
    velocity_per_step,
)

reproducible = settings(deadline=None, derandomize=True, max_examples=200)
DENSE_EARLY = [0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256]


@st.composite
def runs(draw):
    gaps = draw(st.lists(st.integers(1, 40), min_size=1, max_size=12))
    steps = draw(st.integers(0, 1000)) + np.concatenate([[0], np.cumsum(gaps)])
    speed = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))
    return np.array(draw(st.lists(speed, min_size=len(gaps), max_size=len(gaps)))), steps


class TestConcentration:
    def test_a_third_is_counted_in_steps_and_not_in_checkpoints(self):
        # A third of 60 steps ends at step 20: two of four intervals, four fifths of all change.
        assert concentration([6, 2, 1, 1], [0, 10, 20, 40, 60]) == 0.8
        # On an even schedule of six intervals it is the first two.
        assert concentration([1, 2, 4, 8, 16, 32], range(0, 70, 10)) == 3 / 63

    def test_another_clock_counts_the_third_by_its_own_time(self):
        steps = [0, 10, 20, 30, 60]
        rates = np.repeat([4.0, 1.0], [20, 40])  # of 120 in all, the first interval has 40
        assert concentration([6, 2, 1, 1], steps) == 0.8
        assert concentration([6, 2, 1, 1], steps, clock_of("learning_rate", steps, rates)) == 0.6
        steps = [0, 1, 2, 3, 60]
        assert concentration([6, 2, 1, 1], steps) == 0.9
        assert concentration([6, 2, 1, 1], steps, clock_of("checkpoints", steps)) == 0.6
        assert expected_concentration(steps, clock_of("checkpoints", steps)) == 0.25

    @reproducible
    @given(run=runs())
    def test_a_clock_of_steps_changes_nothing_and_one_of_checkpoints_is_an_even_schedule(self, run):
        velocity, steps = run
        assume(velocity.any())
        assert concentration(velocity, steps, clock_of("steps", steps)) == concentration(velocity, steps)
        by_number = concentration(velocity, steps, clock_of("checkpoints", steps))
        assert by_number == concentration(velocity, range(len(steps)))

    @pytest.mark.parametrize("clock", [[0, 1], [0, 2, 1], [0, 1, math.nan], [[0, 1, 2]]])
    def test_a_clock_that_goes_back_or_does_not_fit_is_refused(self, clock):
        with refused(name="clock", expected="3 numbers that never decrease"):
            concentration([1.0, 1.0], [0, 5, 9], clock)

    def test_the_first_step_need_not_be_zero(self):
        assert concentration([3, 1, 1], [1000, 1010, 1020, 1030]) == 0.6

    @reproducible
    @given(start=st.integers(0, 10**12), gap=st.integers(2, 10**12))
    def test_an_interval_that_ends_on_the_third_is_early_and_one_step_later_is_late(self, start, gap):
        assert concentration([3, 1], [start, start + gap, start + 3 * gap]) == 0.75
        assert concentration([3, 1], [start, start + gap + 1, start + 3 * gap]) == 0
        assert concentration([3, 1], [start, start + gap - 1, start + 3 * gap]) == 0.75

    def test_an_interval_across_the_third_is_late(self):
        assert concentration([1, 5, 1], [0, 1, 20, 30]) == pytest.approx(1 / 7)

    def test_two_checkpoints_have_their_only_interval_end_late(self):
        assert concentration([2.0], [0, 100]) == 0

    def test_nothing_moved_has_no_concentration(self):
        assert math.isnan(concentration([0.0, 0.0], [0, 1, 9]))

    @reproducible
    @given(run=runs())
    def test_it_is_a_share(self, run):
        velocity, steps = run
        assume(velocity.any())
        early = steps[1:] <= steps[0] + (steps[-1] - steps[0]) // 3
        found = concentration(velocity, steps)
        assert 0 <= found <= 1
        assert found == pytest.approx(velocity[early].sum() / velocity.sum(), rel=1e-12)

    @reproducible
    @given(run=runs(), scale=st.floats(1e-250, 1e250), later=st.integers(0, 1000), slower=st.integers(1, 50))
    def test_neither_the_unit_of_length_nor_that_of_time_matters(self, run, scale, later, slower):
        velocity, steps = run
        assume(velocity.any())
        found = concentration(scale * velocity, slower * steps + later)
        assert found == pytest.approx(concentration(velocity, steps), rel=1e-12)

    def test_sums_too_large_for_float64_still_have_a_share(self):
        assert concentration([1.5e308, 1.5e308, 1.5e308], [0, 1, 2, 3]) == pytest.approx(1 / 3)

    def test_reordering_within_the_first_third_changes_not_even_the_last_bit(self):
        rng = np.random.default_rng(0)
        velocity = rng.lognormal(sigma=5, size=90)
        again = np.concatenate([rng.permutation(velocity[:30]), rng.permutation(velocity[30:])])
        assert concentration(again, range(91)) == concentration(velocity, range(91))


class TestExpectedConcentration:
    def test_it_is_the_share_of_intervals_that_end_in_the_first_third(self):
        assert expected_concentration([0, 10, 20, 30]) == pytest.approx(1 / 3)
        assert expected_concentration(DENSE_EARLY) == 10 / 12  # the bound is step 85
        assert expected_concentration([0, 100]) == 0

    @pytest.mark.parametrize("steps", [[0, 1, 2, 4, 30], [5, 6, 11, 20, 21], [0, 8, 9, 10, 11]])
    def test_it_is_the_mean_of_the_concentration_over_all_orders_of_the_velocities(self, steps):
        shares = [concentration(order, steps) for order in itertools.permutations([5.0, 0.0, 1.0, 2.5])]
        assert np.mean(shares) == pytest.approx(expected_concentration(steps))

    def test_equal_velocities_have_the_concentration_to_expect(self):
        found = concentration(np.full(12, 0.3), DENSE_EARLY)
        assert found == pytest.approx(expected_concentration(DENSE_EARLY))


class TestVelocityPerStep:
    @reproducible
    @given(run=runs())
    def test_without_a_floor_it_is_the_velocity_over_the_gap(self, run):
        velocity, steps = run
        np.testing.assert_allclose(velocity_per_step(velocity, steps), velocity / np.diff(steps), rtol=1e-15)

    @reproducible
    @given(rate=st.floats(1e-3, 1e3), floor=st.floats(0, 10))
    def test_a_uniform_change_over_a_noise_floor_comes_out_uniform(self, rate, floor):
        velocity = np.hypot(rate * np.diff(DENSE_EARLY), floor)
        assume(floor < 1e3 * rate)  # beyond it the planted change is lost in the rounding of the velocity
        per_step = velocity_per_step(velocity, DENSE_EARLY, floor)
        np.testing.assert_allclose(per_step, rate, rtol=1e-8)
        assert concentration(per_step, DENSE_EARLY) == pytest.approx(expected_concentration(DENSE_EARLY))

    def test_a_floor_left_in_looks_like_an_early_burst_and_taken_out_does_not(self):
        noise = np.full(12, 0.5)
        left_in = concentration(velocity_per_step(noise, DENSE_EARLY), DENSE_EARLY)
        assert left_in > 0.95 > expected_concentration(DENSE_EARLY)
        assert not velocity_per_step(noise, DENSE_EARLY, floor=0.5).any()

    def test_velocities_below_the_floor_become_zero_and_not_nan(self):
        assert velocity_per_step([1.0, 2.0, 5.0], [0, 1, 2, 4], floor=3.0).tolist() == [0, 0, 2]

    def test_the_floor_is_taken_out_in_squares(self):
        assert velocity_per_step([13.0], [0, 2], floor=5.0).tolist() == [6]

    def test_just_above_the_floor_the_digits_are_kept(self):
        found = velocity_per_step([1 + 2**-40], [0, 1], floor=1.0)
        np.testing.assert_allclose(found, math.sqrt(2**-39 + 2**-80), rtol=1e-15)

    @pytest.mark.parametrize("floor", [-0.1, math.nan, math.inf])
    def test_a_floor_out_of_range_is_named(self, floor):
        with refused(name="floor", got=floor):
            velocity_per_step([1.0], [0, 1], floor)


class TestPeakStep:
    def test_it_is_where_the_fastest_interval_ends(self):
        assert peak_step([1.0, 9.0, 3.0], [0, 2, 7, 8]) == 7
        assert type(peak_step([1.0, 9.0, 3.0], np.array([0, 2, 7, 8]))) is int

    def test_the_first_of_equal_peaks_counts(self):
        assert peak_step([1.0, 3.0, 3.0], [0, 2, 4, 8]) == 4

    def test_a_run_that_never_moved_gives_the_first_interval(self):
        assert peak_step([0.0, 0.0], [5, 6, 7]) == 6


class TestFittedFloor:
    @reproducible
    @given(rate=st.floats(0.01, 1e3), floor=st.floats(0.1, 10))
    def test_a_uniform_change_gives_its_floor_and_then_its_rate(self, rate, floor):
        assume(floor > 0.01 * rate)
        velocity = np.hypot(floor, rate * np.diff(DENSE_EARLY))
        found = fitted_floor(velocity, DENSE_EARLY)
        assert found == pytest.approx(floor, rel=1e-4)
        np.testing.assert_allclose(velocity_per_step(velocity, DENSE_EARLY, found), rate, rtol=1e-4)

    @reproducible
    @given(run=runs(), speed=st.floats(1e-250, 1e250), sign=st.sampled_from([-1, 0, 1]))
    def test_a_constant_velocity_is_all_floor_whatever_its_rounding(self, run, speed, sign):
        steps = run[1]
        assume(len(set(np.diff(steps))) > 1)
        velocity = np.full(len(steps) - 1, speed)
        velocity[::2] *= 1 + sign * 1e-15
        found = fitted_floor(velocity, steps)
        assert found == pytest.approx(speed, rel=1e-9)
        assert not velocity_per_step(velocity, steps, found).any()

    def test_a_velocity_proportional_to_the_gap_has_no_floor(self):
        assert fitted_floor(0.1 * np.diff(DENSE_EARLY), DENSE_EARLY) == 0

    @pytest.mark.parametrize("velocity", [[1.0, 7.0, 2.0], [3.0, 3.0, 3.0]])
    def test_equal_gaps_can_tell_no_floor_and_need_none(self, velocity):
        assert fitted_floor(velocity, [0, 5, 10, 15]) == 0

    def test_a_run_that_never_moved_has_none(self):
        assert fitted_floor([0.0, 0.0], [0, 1, 5]) == 0

    @reproducible
    @given(run=runs(), scale=st.floats(1e-200, 1e200))
    def test_it_scales_with_the_unit_of_length_and_never_exceeds_the_peak(self, run, scale):
        velocity, steps = run
        found = fitted_floor(velocity, steps)
        assert 0 <= found <= velocity.max()
        assert fitted_floor(scale * velocity, steps) == pytest.approx(scale * found, rel=1e-6, abs=0)

    @pytest.mark.parametrize("seed", range(30))
    def test_it_is_the_non_negative_least_squares_fit(self, seed):
        rng = np.random.default_rng(seed)
        velocity = rng.gamma(2, size=12) * (1, np.diff(DENSE_EARLY))[seed % 2]
        model = np.stack([np.ones(12), np.diff(DENSE_EARLY) ** 2], axis=1)
        (floor_squared, _), _ = nnls(model, velocity**2)
        assert fitted_floor(velocity, DENSE_EARLY) == pytest.approx(math.sqrt(floor_squared), rel=1e-8)


class TestStabilisedAt:
    def test_it_is_the_end_of_the_last_interval_above_a_tenth_of_the_peak(self):
        assert stabilised_at([10.0, 0.5, 2.0, 0.9, 0.8], [0, 1, 2, 4, 8, 16]) == 4

    def test_a_tenth_of_the_peak_counts_as_stable(self):
        assert stabilised_at([10.0, 1.0], [0, 1, 2]) == 1
        assert stabilised_at([10.0, 1.001, 0.0], [0, 1, 2, 3]) == 2

    def test_the_floor_is_allowed_for(self):
        assert stabilised_at([10.0, 3.9, 3.0, 4.0], [0, 1, 2, 4, 8]) is None
        assert stabilised_at([10.0, 3.9, 3.0, 4.0], [0, 1, 2, 4, 8], floor=3.0) == 1

    def test_a_run_that_still_moves_at_the_end_has_not_stabilised(self):
        assert stabilised_at([1.0, 2.0, 3.0], [0, 1, 2, 3]) is None
        assert stabilised_at([1.0], [0, 1]) is None

    def test_a_run_that_never_left_its_floor_was_stable_from_the_start(self):
        assert stabilised_at([1.0, 1.1, 0.9], [5, 6, 7, 9], floor=1.0) == 5
        assert stabilised_at([0.0, 0.0], [5, 6, 7]) == 5

    @pytest.mark.parametrize("floor", [-0.1, math.nan, math.inf])
    def test_a_floor_out_of_range_is_named(self, floor):
        with refused(name="floor", got=floor):
            stabilised_at([1.0], [0, 1], floor)


ON_A_RUN = [concentration, fitted_floor, peak_step, stabilised_at, velocity_per_step]


class TestErrors:
    @pytest.mark.parametrize("function", ON_A_RUN)
    @pytest.mark.parametrize(
        ("velocity", "expected", "got"),
        [
            ([1.0], "each of the 2 intervals", (1,)),
            ([1.0, 2.0, 3.0], "each of the 2 intervals", (3,)),
            ([[1.0, 2.0]], "each of the 2 intervals", (1, 2)),
            ([1.0, math.nan], "finite and non-negative", "velocity[1] = nan"),
            ([math.inf, 1.0], "finite and non-negative", "velocity[0] = inf"),
            ([1.0, -0.5], "finite and non-negative", "velocity[1] = -0.5"),
            (["a", "b"], "real numbers", "<U1"),
        ],
    )
    def test_a_malformed_velocity_is_named(self, function, velocity, expected, got):
        with refused(name="velocity", expected=expected, got=got):
            function(velocity, [0, 1, 3])

    @pytest.mark.parametrize("function", [*ON_A_RUN, lambda velocity, steps: expected_concentration(steps)])
    @pytest.mark.parametrize(
        ("steps", "expected", "got"),
        [
            ([0], "at least two optimiser steps", (1,)),
            ([], "at least two optimiser steps", (0,)),
            ([[0, 1, 2]], "a list", (1, 3)),
            ([0, 2, 2], "strictly increasing", "2 before 2"),
            ([0, 5, 3], "strictly increasing", "5 before 3"),
            ([0.0, 1.0, 2.0], "integers", "float64"),
            ([False, True], "integers", "bool"),
        ],
    )
    def test_malformed_steps_are_named(self, function, steps, expected, got):
        with refused(name="steps", expected=expected, got=got):
            function([1.0, 1.0], steps)
