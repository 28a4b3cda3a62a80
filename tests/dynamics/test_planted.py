"""Runs whose truth is planted, through the whole pipeline: how often does each test say what is true?

`pytest -s -m slow tests/dynamics/test_planted.py` prints the table. A run has 16 checkpoints, clouds of 60 points
and 8 subsamples of 30. Levels are rates over 400 seeded runs, with a standard error of 0.011, powers over 200.
"""

import math
from functools import cache
from itertools import combinations

import numpy as np
import pytest

from topoflow.dynamics.cells import cell_diagrams, cell_distances
from topoflow.dynamics.controls import geometric_baselines, median_distance
from topoflow.dynamics.nulls import path_test, sign_flip_test
from topoflow.dynamics.published import early_test, transience_test
from topoflow.dynamics.velocity import concentration, expected_concentration, peak_step
from topoflow.topology.point_clouds import subsample_plan

N_RUNS = {"level": 400, "power": 200}
RUNS_OF_A_STUDY = 6
PLAN = subsample_plan(n_points=60, n_subsamples=8, subsample_size=30)
EVEN = np.arange(16)  # five of 15 intervals are early
DENSE_EARLY = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 32, 40, 48, 56, 64])  # nine are
SCHEDULES = {"even": EVEN, "dense early": DENSE_EARLY}
JITTER = 0.05


def prompts(rng):
    return rng.normal(size=(60, 4))


def noisy(rng, clouds, jitter=JITTER):
    return [cloud + jitter * rng.normal(size=cloud.shape) for cloud in clouds]


def turned(cloud, towards, angle):
    """Moves every point, and leaves the law of a standard Gaussian cloud what it is."""
    return math.cos(angle) * cloud + math.sin(angle) * towards


def jitter_only(rng, steps):
    return noisy(rng, [prompts(rng)] * len(steps))


def other_prompts_each_time(rng, steps):
    return [prompts(rng) for _ in steps]


def steady_growth(rng, steps):
    """The one change whose topological rate is known to be constant: diagrams scale with the cloud."""
    cloud = prompts(rng)
    return noisy(rng, [(1 + step / steps[-1]) * cloud for step in steps], jitter=0.02)


def steady_drift(rng, steps):
    """As far in each step, in a new direction each time; how far the *topology* gets depends on the cloud."""
    clouds = [prompts(rng)]
    for gap in np.diff(steps):
        clouds.append(turned(clouds[-1], prompts(rng), 2 * gap / steps[-1]))
    return noisy(rng, clouds, jitter=0.02)


def early_burst(rng, steps):
    """Five intervals of 0.4 rad each on the even schedule, eight on the dense one, then noise alone."""
    clouds = [prompts(rng)]
    for interval in range(len(steps) - 1):
        moves = interval < (5 if steps[-1] == EVEN[-1] else 8)
        clouds.append(turned(clouds[-1], prompts(rng), 0.4) if moves else clouds[-1])
    return noisy(rng, clouds)


def circle(rng):
    angle = rng.uniform(0, 2 * np.pi, size=60)
    return np.stack([2 * np.cos(angle), 2 * np.sin(angle), 0 * angle, 0 * angle], axis=1)


def abrupt_change(rng, steps, at=2):
    before, after = prompts(rng), circle(rng)
    return noisy(rng, [before if t <= at else after for t in range(len(steps))])


def abrupt_turn(rng, steps, at=2):
    """One change between two clouds of one law, so that the noise before and after it is alike."""
    before = prompts(rng)
    after = turned(before, prompts(rng), np.pi / 2)
    return noisy(rng, [before if t <= at else after for t in range(len(steps))])


def velocity_of(clouds):
    cells = [cell_diagrams(cloud, PLAN) for cloud in clouds]
    return np.array([cell_distances(cells[t], cells[t + 1], 1).mean() for t in range(len(cells) - 1)])


def distances_of(clouds):
    cells = [cell_diagrams(cloud, PLAN) for cloud in clouds]
    distances = np.zeros((len(cells), len(cells)))
    for a, b in combinations(range(len(cells)), 2):
        distances[a, b] = distances[b, a] = cell_distances(cells[a], cells[b], 1).mean()
    return distances


@cache
def runs(plant, schedule):
    """The velocities of each planted run, its `early_test`, and the p-value of its `path_test`."""
    steps, found = SCHEDULES[schedule], []
    must_be_rare = plant in (jitter_only, other_prompts_each_time, steady_drift)
    for seed in range(N_RUNS["level" if must_be_rare else "power"]):
        distances = distances_of(plant(np.random.default_rng([seed, 1]), steps))
        test = early_test(np.diagonal(distances, 1), steps, distances, n_permutations=3003, seed=seed)
        changes = path_test(distances, steps, n_permutations=3003, seed=seed).p_value
        found.append((np.diagonal(distances, 1), test, changes))
    return found


def rates(plant, schedule):
    """How often each null is rejected at 0.05, and how often all are: then the run is called early."""
    tests = [test for _, test, _ in runs(plant, schedule)]
    found = {
        kind: rejected([getattr(test, kind).p_value for test in tests])
        for kind in ("plain", "per_step", "checkpoints")
    }
    found["early"] = rejected([test.p_value for test in tests])
    found["changes"] = rejected([p_value for _, _, p_value in runs(plant, schedule)])
    report(f"{plant.__name__}, {schedule}", **found)
    return found


def rate_over_studies(plant, n_studies):
    """How often runs that differ in their seed are above expectation together, with the run as unit."""
    p_values = []
    for study in range(n_studies):
        seeds = ([study, seed, 2] for seed in range(RUNS_OF_A_STUDY))
        shares = [
            concentration(velocity_of(plant(np.random.default_rng(seed), EVEN)), EVEN) for seed in seeds
        ]
        p_values.append(sign_flip_test(np.array(shares) - expected_concentration(EVEN)).p_value)
    report(f"{plant.__name__}, even, studies of {RUNS_OF_A_STUDY} runs", sign_flip=rejected(p_values))
    return rejected(p_values)


@cache
def known_floor(schedule):
    """What 95 % of velocities stay below that are noise alone."""
    return float(np.quantile([velocity for velocity, _, _ in runs(jitter_only, schedule)], 0.95))


def rejected(p_values):
    return float(np.mean(np.array(p_values) <= 0.05))  # a missing p-value rejects nothing


def report(what, **numbers):
    print(f"\n{what:60s}" + "".join(f"  {name} {number:.3f}" for name, number in numbers.items()), end=" ")


@pytest.mark.slow
class TestNoChange:
    @pytest.mark.parametrize("schedule", SCHEDULES)
    @pytest.mark.parametrize("plant", [jitter_only, other_prompts_each_time])
    def test_noise_is_called_early_at_the_level(self, plant, schedule):
        found = rates(plant, schedule)
        assert 0.02 <= found["checkpoints"] <= 0.08
        assert 0.02 <= found["early"] <= 0.08
        assert 0.02 <= found["changes"] <= 0.08
        # Not at the level, nor could they be: velocities that share a checkpoint are no exchangeable numbers,
        # and divided by the gap noise is largest where checkpoints are dense. Hence the joint test.
        assert 0.02 <= found["plain"] <= 0.15
        assert found["per_step"] <= (0.15 if schedule == "even" else 0.5)

    def test_studies_of_noise_are_called_early_at_the_level(self):
        assert 0.02 <= rate_over_studies(jitter_only, N_RUNS["level"]) <= 0.08

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_noise_is_hardly_ever_called_transient(self, schedule):
        p_values = [
            transience_test(velocity, SCHEDULES[schedule], known_floor(schedule)).p_value
            for velocity, _, _ in runs(jitter_only, schedule)
        ]
        report(f"jitter_only, {schedule}, floor known", transience=rejected(p_values))
        assert rejected(p_values) <= 0.08


@pytest.mark.slow
class TestUniformChange:
    @pytest.mark.parametrize("schedule", SCHEDULES)
    @pytest.mark.parametrize("plant", [steady_growth, steady_drift])
    def test_it_is_called_early_no_more_often_than_the_level(self, plant, schedule):
        found = rates(plant, schedule)
        assert found["changes"] >= 0.9
        assert found["early"] <= 0.08
        if plant is steady_drift and schedule == "even":
            assert found["early"] >= 0.02
        else:
            # No rate near the level is to be had here. The rate of steady growth has less noise than a
            # shuffled one; on the dense schedule early velocities are smaller, and a test that holds its level
            # against noise of constant size as well is conservative.
            assert found["plain"] <= 0.02

    def test_studies_of_uniform_change_are_called_early_at_the_level(self):
        assert 0.02 <= rate_over_studies(steady_drift, N_RUNS["level"]) <= 0.08


@pytest.mark.slow
class TestEarlyBurst:
    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_it_is_called_early_and_transient(self, schedule):
        found = rates(early_burst, schedule)
        assert min(found["changes"], found["early"]) >= 0.9
        steps = SCHEDULES[schedule]
        tests = [
            transience_test(velocity, steps, known_floor(schedule))
            for velocity, _, _ in runs(early_burst, schedule)
        ]
        settled = np.mean([test.stabilised_at == steps[5 if schedule == "even" else 8] for test in tests])
        power = rejected([test.p_value for test in tests])
        report(f"early_burst, {schedule}, floor known", transience=power, settled_exactly=settled)
        assert power >= 0.9


@pytest.mark.slow
class TestAbruptChange:
    @pytest.mark.parametrize("schedule", SCHEDULES)
    @pytest.mark.parametrize("plant", [abrupt_change, abrupt_turn])
    def test_it_is_called_a_change_and_its_step_is_found(self, plant, schedule):
        assert rates(plant, schedule)["changes"] >= 0.9
        steps = SCHEDULES[schedule]
        exactly = np.mean(
            [peak_step(velocity, steps) == steps[3] for velocity, _, _ in runs(plant, schedule)]
        )
        report(f"{plant.__name__}, {schedule}", peak_found_exactly=exactly)
        assert exactly >= 0.99

    def test_to_a_quieter_cloud_it_is_called_early(self):
        """The Gaussian cloud's own noise is larger than the circle's, so all intervals up to the change stand out."""
        assert rates(abrupt_change, "even")["early"] >= 0.9

    @pytest.mark.parametrize("schedule", SCHEDULES)
    def test_one_velocity_among_equals_can_hardly_be_called_early(self, schedule):
        """By chance it comes early with the probability of the first third, q. A test of level a calls it
        early in a run out of a / q when it truly is (0.15 and 0.08 here), or else would exceed its level."""
        assert rates(abrupt_turn, schedule)["early"] <= 0.2

    def test_but_several_runs_of_it_can(self):
        assert rate_over_studies(abrupt_turn, 50) >= 0.9


class TestSilence:
    """What topology must not see, geometry must, and the other way round."""

    def test_a_translation_is_silent_in_topology_and_not_in_geometry(self):
        cloud = prompts(np.random.default_rng(0))
        clouds = [cloud + 10 * t for t in range(4)]
        np.testing.assert_allclose(velocity_of(clouds), 0, atol=1e-12)
        np.testing.assert_allclose(geometric_baselines(clouds).centroid_drift, 20)

    def test_a_scaling_is_silent_in_scale_free_velocity_and_nowhere_else(self):
        cloud = prompts(np.random.default_rng(0))
        clouds = [cloud * 1.5**t for t in range(4)]
        scale_free = velocity_of([cloud / median_distance(cloud) for cloud in clouds])
        np.testing.assert_allclose(scale_free, 0, atol=1e-12)
        assert velocity_of(clouds).min() > 0.1
        geometry = geometric_baselines(clouds)
        assert geometry.variance_change.min() > 0.1
        assert geometry.distance_change.min() > 0.1

    @pytest.mark.slow
    def test_a_change_of_shape_about_one_mean_is_silent_in_the_centroid_and_not_in_topology(self):
        """The total variance is kept as well; each change is held against that of noise on the same cloud."""
        louder, drifts = [], []
        for seed in range(200):
            rng = np.random.default_rng([seed, 3])
            clouds = [standard(prompts(rng)), standard(circle(rng))]
            repeated = standard(clouds[0] + JITTER * rng.normal(size=clouds[0].shape))
            louder.append(velocity_of(clouds)[0] > velocity_of([clouds[0], repeated])[0])
            drifts.append(geometric_baselines(clouds).centroid_drift[0])
        report("shape about one mean", topology_above_noise=np.mean(louder), largest_drift=max(drifts))
        assert np.mean(louder) >= 0.99
        assert max(drifts) < 1e-12


def standard(cloud):
    centred = cloud - cloud.mean(axis=0)
    return centred / np.sqrt(centred.var(axis=0).sum())
