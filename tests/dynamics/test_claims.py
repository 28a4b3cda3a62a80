import itertools
import math

import numpy as np
import pytest

from topoflow.dynamics.nulls import checkpoint_test, concentration_test
from topoflow.dynamics.published import early_test, transience_test
from topoflow.dynamics.velocity import stabilised_at

EVEN = range(13)
EARLY = [7.0, 6.0, 5.0, 5.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
DENSE_EARLY = [0, 1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256]
PARAMS = [*range(9), 16, 24, 32, 40, 48]  # dense early: {every: 8, dense_until: 8}


class TestEarlyTest:
    def test_the_p_value_is_the_largest_of_its_nulls(self):
        velocity = np.random.default_rng(0).gamma(2, size=12)
        place = np.r_[0, velocity.cumsum()]
        distances = abs(place[:, None] - place)
        found = early_test(velocity, DENSE_EARLY, distances)
        assert found.plain == concentration_test(velocity, DENSE_EARLY)
        assert found.per_step == concentration_test(velocity, DENSE_EARLY, per_step=True)
        assert found.checkpoints == checkpoint_test(distances, DENSE_EARLY)
        assert found.p_value == max(t.p_value for t in (found.plain, found.per_step, found.checkpoints))

    def test_without_distances_the_velocities_decide_alone(self):
        found = early_test(EARLY, EVEN)
        assert found.checkpoints is None
        assert found.p_value < 0.01

    def test_on_an_even_schedule_plain_and_per_step_say_the_same(self):
        found = early_test(EARLY, EVEN)
        assert found.plain == found.per_step

    def test_uniform_change_on_a_dense_early_schedule_is_not_early(self):
        velocity = np.hypot(0.3, 0.1 * np.diff(DENSE_EARLY))
        assert early_test(velocity, DENSE_EARLY).p_value > 0.5

    def test_a_constant_velocity_is_all_floor_and_no_evidence(self):
        found = early_test(np.full(12, 0.7), DENSE_EARLY)
        assert math.isnan(found.per_step.p_value)
        assert found.p_value == 1

    def test_a_run_at_rest_is_missing(self):
        assert math.isnan(early_test(np.zeros(12), EVEN).p_value)

    @pytest.mark.parametrize(("steps", "n_early", "least"), [(EVEN, 4, 3), (PARAMS, 9, 6)])
    def test_how_much_of_the_first_third_a_burst_must_fill_depends_on_the_schedule(
        self, steps, n_early, least
    ):
        def p_of(filled):
            velocity = np.ones(len(steps) - 1)
            velocity[:filled] = 100
            return early_test(velocity, steps).p_value

        # README.md and docs/concepts/nulls.md name these numbers
        assert [filled for filled in range(2, n_early + 1) if p_of(filled) <= 0.05] == [
            *range(least, n_early + 1)
        ]


class TestTransienceTest:
    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("floor", [0.0, 0.8])
    def test_it_is_the_share_of_all_orders_that_settle_as_early(self, seed, floor):
        steps = [0, 1, 2, 4, 8, 20]
        velocity = np.random.default_rng(seed).gamma(0.3, size=5)
        settled = [stabilised_at(order, steps, floor) for order in itertools.permutations(velocity)]
        null = np.array([20 if step is None else step for step in settled])
        found = transience_test(velocity, steps, floor)
        assert found.p_value == pytest.approx(np.mean(null <= null[0]))
        assert found.expected == pytest.approx(np.mean(null / 20))
        assert found.stabilised_at == settled[0]
        if settled[0] is None:
            assert math.isnan(found.statistic)
            assert found.p_value == 1
        else:
            assert found.statistic == null[0] / 20

    def test_an_early_burst_is_found_with_its_peak(self):
        found = transience_test([3.0, 9.0, 4.0, 0.1, 0.2, 0.1, 0.3, 0.1], range(5, 50, 5))
        assert (found.peak_step, found.stabilised_at) == (15, 20)
        assert found.p_value == 1 / math.comb(8, 3)

    def test_a_run_that_never_leaves_its_floor_shows_no_peak(self):
        found = transience_test([1.0, 1.1, 0.9], [0, 1, 2, 9], floor=1.0)
        assert (found.stabilised_at, found.p_value) == (0, 1)

    def test_a_run_at_rest_shows_no_peak(self):
        assert transience_test([0.0, 0.0], [0, 1, 2]).p_value == 1
