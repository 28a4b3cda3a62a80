import numpy as np
import pytest
from scipy import stats
from support import refused

from topoflow.dynamics.cells import cell_diagrams, cell_distances, cell_matchings
from topoflow.dynamics.prompts import concentration_interval, prompt_bands, sampling_floor
from topoflow.dynamics.velocity import concentration
from topoflow.topology.distances import wasserstein_distance
from topoflow.topology.persistence import vietoris_rips_diagrams
from topoflow.topology.point_clouds import subsample_plan


def some_cloud(seed=0, n_points=60, n_coordinates=3):
    return np.random.default_rng(seed).normal(size=(n_points, n_coordinates))


class TestSamplingFloor:
    def test_two_halves_are_the_distance_of_their_diagrams(self):
        # Four points, two halves of two: three ways to halve them, so the floor is a mean over known distances.
        cloud = np.array([[0.0], [1.0], [3.0], [7.0]])
        ways = []
        for half in ([0, 1], [0, 2], [0, 3]):
            rest = [i for i in range(4) if i not in half]
            a, b = (vietoris_rips_diagrams(cloud[part])[0] for part in (half, rest))
            ways.append(wasserstein_distance(a, b))
        found = sampling_floor(cloud, subsample_size=2, n_pairs=200)
        assert not found.is_approximate
        assert found.disjoint[0] == pytest.approx(np.mean(ways), rel=0.1)
        assert found.disjoint[1] == 0

    def test_a_size_that_does_not_fit_twice_is_replaced_and_said(self):
        found = sampling_floor(some_cloud(n_points=31), subsample_size=20, n_pairs=3)
        assert (found.subsample_size, found.is_approximate) == (15, True)
        assert sampling_floor(some_cloud(n_points=31), subsample_size=15, n_pairs=3).is_approximate is False

    def test_it_scales_with_the_cloud_and_a_constant_cloud_has_none(self):
        once, thrice = (sampling_floor(scale * some_cloud(), 20, n_pairs=4) for scale in (1, 3))
        np.testing.assert_allclose(thrice.disjoint, 3 * once.disjoint, rtol=1e-9)
        assert not sampling_floor(np.ones((10, 4)), 5).disjoint.any()

    def test_bars_without_a_partner_are_as_many_as_between_clouds_that_have_nothing_in_common(self):
        cloud, other = (some_cloud(seed, 120, 16) for seed in (0, 1))
        plan = subsample_plan(120, 8, 60, seed=0)
        floor = sampling_floor(cloud, 60, n_pairs=8)
        near, far = (
            cell_matchings(cell_diagrams(cloud, plan), cell_diagrams(moved, plan), 1)[1].mean()
            for moved in (cloud + 0.02 * other, other)
        )
        assert 2 * near < floor.unmatched[1]
        assert floor.unmatched[1] == pytest.approx(far, rel=0.5)
        assert np.isnan(sampling_floor(np.ones((10, 4)), 5).unmatched).all()

    def test_a_seed_repeats_it(self):
        first, again, other = (sampling_floor(some_cloud(), 20, 4, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.disjoint, again.disjoint)
        assert (first.disjoint != other.disjoint).any()

    def test_malformed_arguments_are_named(self):
        with refused(name="cloud", expected="at least two points", got=1):
            sampling_floor([[1.0, 2.0]])
        with refused(name="n_pairs", got=0):
            sampling_floor(some_cloud(), 20, n_pairs=0)


class TestPromptBands:
    @pytest.mark.parametrize("dimension", [0, 1])
    def test_the_velocity_is_that_of_the_plan(self, dimension):
        clouds, plan = [some_cloud(seed) for seed in range(3)], subsample_plan(60, 6, 20)
        found = prompt_bands(clouds, plan, n_replicates=3, n_subsamples=2, dimension=dimension)
        cells = [cell_diagrams(cloud, plan) for cloud in clouds]
        expected = [cell_distances(cells[t], cells[t + 1], dimension).mean() for t in (0, 1)]
        np.testing.assert_allclose(found.velocity, expected, rtol=1e-12)

    def test_bands_surround_the_velocity_and_widen_with_the_level(self):
        clouds, plan = [some_cloud(seed) for seed in range(2)], subsample_plan(60, 6, 20)
        narrow, wide = (prompt_bands(clouds, plan, n_replicates=8, level=level) for level in (0.5, 0.99))
        assert 0 <= wide.lower[0] < narrow.lower[0] < narrow.velocity[0] < narrow.upper[0] < wide.upper[0]

    def test_no_change_has_no_band(self):
        cloud = some_cloud()
        found = prompt_bands([cloud, cloud], subsample_plan(60, 4, 20), n_replicates=3)
        assert not found.upper.any()

    def test_subsamples_larger_than_half_the_prompts_still_have_bands(self):
        clouds = [some_cloud(seed, n_points=24) for seed in range(2)]
        assert prompt_bands(clouds, subsample_plan(24, 4, 18), n_replicates=6).standard_error[0] > 0

    @pytest.mark.parametrize(
        ("name", "given", "expected", "got"),
        [
            ("clouds", [some_cloud()], "at least two checkpoints", 1),
            ("clouds", [some_cloud(), some_cloud(n_points=61)], "the same prompts", "60 and 61 points"),
            ("plan", [[0, 1]], "at least two subsamples", (1, 2)),
            ("level", 1, "between 0 and 1", 1),
            ("dimension", 2, "0 or 1", 2),
            ("n_replicates", 1, "a whole number, 2 or more", 1),
        ],
    )
    def test_malformed_arguments_are_named(self, name, given, expected, got):
        arguments = {"clouds": [some_cloud()] * 2, "plan": [[0, 1], [1, 2]], name: given}
        with refused(name=name, expected=expected, got=got):
            prompt_bands(**arguments)

    @pytest.mark.slow
    def test_bands_cover_the_velocity_of_all_prompts_there_could_be(self):
        """Nominal 95 %; the standard error is checked against the spread of independent sets of prompts."""

        def two_checkpoints(seed, n_prompts):
            rng = np.random.default_rng(seed)
            before = rng.normal(size=(n_prompts, 3))
            return before, before * [1.4, 1.0, 0.8] + 0.2 * rng.normal(size=before.shape)

        many = prompt_bands(
            two_checkpoints(10**6, 4000), subsample_plan(4000, 3000, 20), n_replicates=2, n_subsamples=2
        )
        truth = many.velocity[0]
        found = [prompt_bands(two_checkpoints(s, 80), subsample_plan(80, 32, 20)) for s in range(200)]
        covered = np.mean([bands.lower[0] <= truth <= bands.upper[0] for bands in found])
        spread = np.std([bands.velocity[0] for bands in found])
        said = np.sqrt(np.mean([bands.standard_error[0] ** 2 for bands in found]))
        print(
            f"\nbands: coverage {covered:.3f} of nominal 0.95, standard error {said:.4f}, truly {spread:.4f}"
        )
        assert 0.92 <= covered <= 0.99
        assert 0.9 * spread <= said <= 1.3 * spread


class TestConcentrationInterval:
    STEPS = range(5)  # two of four velocities are early

    @staticmethod
    def run(seed, n_prompts):
        """Two layers, of the same prompts, that stretch and shake, more at first."""
        rng = np.random.default_rng(seed)
        start = rng.normal(size=(n_prompts, 3))
        for way in ([1.0, 0.6, 0.3], [0.5, 0.5, 0.1]):
            far = np.cumsum([0.0, *way, 0.1])
            yield [start * [1 + f, 1, 1 - f / 4] + 0.1 * rng.normal(size=start.shape) for f in far]

    @classmethod
    def measured(cls, seed, n_prompts=80, n_plan=32, **options):
        plan = subsample_plan(n_prompts, n_plan, 20)
        bands = [prompt_bands(clouds, plan, **options) for clouds in cls.run(seed, n_prompts)]
        value = np.mean([concentration(b.velocity, cls.STEPS) for b in bands])
        return value, concentration_interval([b.replicates for b in bands], cls.STEPS)

    def test_it_surrounds_the_mean_concentration_within_0_and_1(self):
        value, (low, high) = self.measured(0, n_replicates=8)
        assert 0 <= low < value < high <= 1

    def test_what_moves_only_early_has_no_uncertainty(self):
        cloud = some_cloud()
        bands = prompt_bands(
            [cloud, 2 * cloud, 2 * cloud, 2 * cloud], subsample_plan(60, 6, 20), n_replicates=3
        )
        assert concentration_interval([bands.replicates], range(4)) == (1, 1)

    def test_layers_at_rest_are_left_out(self):
        cloud = some_cloud()
        clouds, plan = [some_cloud(seed) for seed in range(4)], subsample_plan(60, 6, 20)
        moved, still = (prompt_bands(c, plan, n_replicates=3).replicates for c in (clouds, [cloud] * 4))
        assert concentration_interval([still, moved], range(4)) == concentration_interval([moved], range(4))
        assert np.isnan(concentration_interval([still], range(4))).all()

    def test_errors_that_layers_share_do_not_average_out(self):
        clouds, plan = [some_cloud(seed) for seed in range(4)], subsample_plan(60, 6, 20)
        layer = prompt_bands(clouds, plan, n_replicates=6).replicates
        one, two = (concentration_interval([layer] * n, range(4)) for n in (1, 2))
        assert one == pytest.approx(two, rel=1e-12)

    def test_a_level_out_of_its_range_is_named(self):
        with refused(name="level", got=95):
            concentration_interval([], range(4), 95)

    @pytest.mark.slow
    def test_it_covers_the_concentration_of_all_prompts_there_could_be(self):
        truth, _ = self.measured(10**6, n_prompts=4000, n_plan=2000, n_replicates=2, n_subsamples=2)
        found = [self.measured(seed) for seed in range(200)]
        covered = np.mean([low <= truth <= high for _, (low, high) in found])
        spread = np.std([value for value, _ in found])
        width = np.mean([high - low for _, (low, high) in found]) / 2 / stats.t.ppf(0.975, 39)
        print(
            f"\nconcentration: coverage {covered:.3f} of nominal 0.95, standard error {width:.4f}, truly {spread:.4f}"
        )
        assert 0.92 <= covered <= 0.99
        assert 0.9 * spread <= width <= 1.4 * spread
