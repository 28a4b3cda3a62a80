"""One run, from clouds to claims, on planted truth; each number against the function that defines it."""

import itertools
import math
import weakref
from collections import UserList

import numpy as np
import pytest
from support import refused

from topoflow.config import Topology
from topoflow.dynamics import trajectory
from topoflow.dynamics.behaviour import lead_lag
from topoflow.dynamics.cells import cell_diagrams, cell_distances, cell_matchings, mean_known, summarise_cell
from topoflow.dynamics.controls import gaussian_cloud
from topoflow.dynamics.following import SCALE_FREE, follow
from topoflow.dynamics.trajectory import (
    describe_layer,
    describe_movement,
    describe_pooled,
    describe_run,
    follow_layer,
    pooled_velocity,
)
from topoflow.dynamics.velocity import concentration, fitted_floor, velocity_per_step
from topoflow.topology.point_clouds import subsample_plan

PLAN = subsample_plan(60, n_subsamples=6, subsample_size=30, seed=1)
STEPS = [*range(13)]


def run(kind, seed=0, n_layers=2):
    """Two layers of a run of 13 checkpoints: `early` moves to step 4 and rests, `still` does not move at all."""
    rng = np.random.default_rng(seed)
    layers = []
    for _ in range(n_layers):
        start, way = rng.normal(size=(60, 4)), rng.normal(size=(60, 4))
        far = {"early": np.minimum(STEPS, 4), "steady": np.array(STEPS), "still": np.zeros(13)}[kind]
        noise = 0.02 * rng.normal(size=(13, 60, 4)) * (kind != "still")
        layers.append([start + 0.2 * f * way + e for f, e in zip(far, noise, strict=True)])
    return layers


def followed(kind, **options):
    return [
        follow_layer(clouds, [cell_diagrams(c, PLAN) for c in clouds], PLAN, n_replicates=4, **options)
        for clouds in run(kind)
    ]


@pytest.fixture(scope="module")
def early():
    return followed("early")


def test_each_series_is_what_its_name_says(early):
    clouds = run("early")[1]
    cells = [cell_diagrams(cloud, PLAN) for cloud in clouds]
    layer = early[1]
    for h in (0, 1):
        velocity = [cell_distances(a, b, h).mean() for a, b in itertools.pairwise(cells)]
        displacement = [cell_distances(cells[0], b, h).mean() for b in cells[1:]]
        assert layer.series[f"h{h}_velocity"] == pytest.approx(velocity)
        assert layer.series[f"h{h}_displacement"] == pytest.approx(displacement)
    shares = [cell_matchings(a, b, 1)[1].mean() for a, b in itertools.pairwise(cells)]
    assert layer.series["h1_unmatched"] == pytest.approx(shares)
    assert layer.distances[3, 9] == pytest.approx(cell_distances(cells[3], cells[9], 1).mean())
    assert np.allclose(layer.summaries[7], summarise_cell(cells[7]), equal_nan=True)
    drift = np.linalg.norm(clouds[1].mean(axis=0) - clouds[0].mean(axis=0))
    assert layer.series["centroid_drift"][0] == pytest.approx(drift)
    matched = cell_diagrams(gaussian_cloud(clouds[-1], 0, "matched"), PLAN)
    assert np.allclose(layer.controls["matched"][1], summarise_cell(matched), equal_nan=True)
    low, high = layer.series["h1_velocity_low"], layer.series["h1_velocity_high"]
    assert (low <= layer.series["h1_velocity"]).all()
    assert (layer.series["h1_velocity"] <= high).all()


@pytest.mark.parametrize("shapes", [[(30, 3)], [(30, 3), (29, 3)], [(30, 3), (30, 2)]])
def test_a_layer_has_two_checkpoints_or_more_of_one_shape(shapes):
    clouds = [np.random.default_rng(0).normal(size=shape) for shape in shapes]
    plan = [range(12), range(6, 18)]
    with refused(name="clouds", got=1 if len(shapes) == 1 else shapes[1]):
        follow_layer(clouds, [cell_diagrams(cloud, plan) for cloud in clouds], plan, n_replicates=0)


def test_of_more_checkpoints_than_are_paired_only_distances_are_of_fewer(monkeypatch, early):
    monkeypatch.setattr(trajectory, "MOST_PAIRED", 5)
    some = [0, 3, 6, 9, 12]
    assert trajectory.paired_checkpoints(13).tolist() == some
    thinned = followed("early")
    for whole, layer in zip(early, thinned, strict=True):
        np.testing.assert_array_equal(layer.distances, whole.distances[np.ix_(some, some)])
        np.testing.assert_array_equal(layer.summaries, whole.summaries)
        for name, series in whole.series.items():
            np.testing.assert_array_equal(layer.series[name], series)


def test_the_paired_checkpoints_are_different_ones_with_both_ends_and_even_gaps():
    for n in (1, 2, 127, 128, 129, 130, 255, 1000, 10_001):
        places = trajectory.paired_checkpoints(n)
        assert (places[0], places[-1], len(places)) == (0, n - 1, min(n, 128))
        assert set(np.diff(places)) <= {math.floor((n - 1) / 127), math.ceil((n - 1) / 127), 1}


class Alive:
    """Gives items, new ones each time, and knows how many of them there have been at once."""

    def __init__(self, items):
        self.items, self.now, self.most = items, 0, 0

    def __len__(self):
        return len(self.items)

    def __getitem__(self, at):
        item = self.make(self.items[at])
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(item, self.gone)
        return item

    def gone(self):
        self.now -= 1

    def make(self, item):
        return np.array(item) if isinstance(item, np.ndarray) else UserList(item)


def test_no_more_checkpoints_are_held_than_are_compared(monkeypatch):
    monkeypatch.setattr(trajectory, "MOST_PAIRED", 4)
    given = run("steady")[0]
    cells = [cell_diagrams(cloud, PLAN) for cloud in given]
    whole = follow_layer(given, cells, PLAN, n_replicates=4)
    clouds, lazy = Alive(given), Alive(cells)
    found = follow_layer(clouds, lazy, PLAN, n_replicates=4)
    assert clouds.most <= 3
    assert lazy.most <= 4 + 3  # the first, the one before and this one, of which some are among the four
    np.testing.assert_array_equal(found.distances, whole.distances)
    assert found.series.keys() == whole.series.keys()
    for name, series in whole.series.items():
        np.testing.assert_array_equal(found.series[name], series)


def test_a_growing_cloud_moves_but_not_once_its_scale_is_taken_out():
    cloud = run("still")[0][0]
    clouds = [cloud * factor for factor in (1, 2, 3)]
    layer = follow_layer(clouds, [cell_diagrams(c, PLAN) for c in clouds], PLAN, n_replicates=0)
    assert layer.series["h1_velocity"].min() > 0.1
    assert layer.series["h1_velocity_scale_free"] == pytest.approx([0, 0], abs=1e-12)
    assert np.isnan(layer.series["h1_velocity_low"]).all()  # no bands were asked for


def test_the_share_of_bars_without_a_partner_is_of_what_moved_and_missing_where_nothing_did(early):
    still = followed("still")[0]
    assert np.isnan(still.series["h1_unmatched"]).all()
    known, missing = (found["h1_unmatched"] for found in describe_run([early[0], still], STEPS))
    assert known == pytest.approx(early[0].series["h1_unmatched"].mean())
    assert missing is None
    half = [[[], [[1.0, 2.0]]], [[], [[1.0, 2.0]]]], [[[], [[1.0, 2.0]]], [[], [[7.0, 8.0]]]]
    assert mean_known(cell_matchings(*half, 1)[1]) == 1  # the subsample that rests has no share


def test_a_constant_layer_is_missing_and_not_zero():
    clouds = [np.ones((60, 4)) * k for k in (1, 2, 3, 4)]
    layer = follow_layer(clouds, [cell_diagrams(c, PLAN) for c in clouds], PLAN, n_replicates=4)
    assert np.isnan(layer.series["h1_velocity_scale_free"]).all()
    found = describe_run([layer], range(4))[0]
    assert found["h1_concentration"] is None
    assert found["h1_concentration_p_holm"] is None
    assert found["h1_peak_over_sampling_floor"] is None
    pooled = describe_pooled([layer], range(4), [0.1, 0.2, 0.1])
    assert (pooled["settled"], pooled["peak_step"], pooled["concentration"]) == (None, None, None)


def test_subsamples_as_large_as_the_cloud_leave_no_other_prompts_for_bands():
    plan = subsample_plan(20, 2, 20, seed=0)
    clouds = [cloud[:20] for cloud in run("steady")[0][:3]]
    layer = follow_layer(clouds, [cell_diagrams(c, plan) for c in clouds], plan)
    assert np.isnan(layer.series["h1_velocity_low"]).all()
    assert layer.sampling_floor > 0


def test_the_numbers_of_a_layer_are_those_of_their_functions():
    velocity, steps = np.array([3.0, 5.0, 1.0, 0.5, 0.5]), [0, 1, 2, 4, 8, 16]
    found = describe_layer(velocity, [3, 6, 5, 5, 4], steps)
    floor = fitted_floor(velocity, steps)
    assert found["concentration"] == concentration(velocity, steps)
    assert found["floor"] == floor
    assert found["concentration_per_step"] == concentration(velocity_per_step(velocity, steps, floor), steps)
    assert (found["peak_step"], found["peak_velocity"]) == (2, 5.0)
    assert (found["path_length"], found["displacement"], found["straightness"]) == (10.0, 4.0, 0.4)


def test_a_steady_change_on_a_dense_early_schedule_is_no_early_burst():
    """The trap of PROTOCOL: a constant velocity, divided by gaps, looks like a burst."""
    steps = [0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 24, 32, 40, 48]
    constant = describe_layer(np.full(13, 2.0), np.arange(13), steps)
    assert constant["concentration_per_step"] is None  # it is all floor
    steady = describe_layer(0.5 * np.diff(steps), np.arange(13), steps)
    assert steady["concentration_per_step"] == pytest.approx(steady["concentration_expected"])


def test_an_early_burst_has_its_concentration_peak_and_settling_and_a_steady_change_has_not(early):
    burst, steady = describe_pooled(early, STEPS), describe_pooled(followed("steady"), STEPS)
    velocity = np.array([layer.series["h1_velocity"] for layer in early])
    assert burst["concentration"] == pytest.approx(np.mean([concentration(row, STEPS) for row in velocity]))
    assert burst["concentration"] > 1.5 * burst["concentration_expected"] > steady["concentration"]
    assert burst["concentration_p"] < 0.01 < steady["concentration_p"]
    assert burst["settled"] == pytest.approx(4 / 12)
    assert steady["settled"] > 0.5


def test_a_run_of_even_speed_has_not_settled_after_step_0():
    assert (
        describe_layer([1.0, 1.05, 1.0, 0.98], [1.0, 2.0, 3.0, 4.0], [0, 1, 2, 3, 4])["stabilised_step"]
        is None
    )


def test_behaviour_adds_when_it_peaks(early):
    answers = np.exp(-np.arange(12.0))
    found = describe_pooled(early, STEPS, answers)
    assert found["behaviour_peak_step"] == 1
    assert found["peak_difference"] == found["peak_step"] - 1
    lag = lead_lag(pooled_velocity([layer.series["h1_velocity"] for layer in early]), answers, STEPS)
    assert (found["lag"], found["lag_correlation"]) == (lag.lag_checkpoints, lag.correlation.statistic)


def test_movement_is_described_where_there_are_twins_and_missing_where_not():
    rng = np.random.default_rng(0)
    base, way = rng.normal(size=(2, 60, 4))
    steps = [step + twin for step in range(0, 48, 4) for twin in (0, 1)]
    clouds = {step: {1: base + step * way / 48 + 0.01 * rng.normal(size=base.shape)} for step in steps}
    run = follow(clouds, topology=Topology(6, 30))
    found = describe_movement(run)
    assert found["moved_h1"] == run.movement(SCALE_FREE)["H1"].total > 3 * found["jitter_h1"]
    assert abs(found["early_share_h0"]) < 0.2
    assert 0.05 < found["far_prompts"] < 0.2  # normal steps: some are longer than others
    alone = describe_movement(follow({step: clouds[step] for step in steps[::2]}, topology=Topology(6, 30)))
    assert set(alone.values()) == {None}


@pytest.mark.parametrize("far", [1, 10])
def test_the_prompts_that_go_farthest_are_weighed_against_all(far):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(60, 4))
    times = np.where(np.arange(60) >= 57, far, 1)[:, None]
    steps = [step + twin for step in range(0, 48, 4) for twin in (0, 1)]
    clouds = {step: {1: base + 0.01 * step * times, 2: 100 * (base + 0.01 * step * times)} for step in steps}
    found = describe_movement(follow(clouds, topology=Topology(6, 30)))["far_prompts"]
    assert found == pytest.approx(3 * far**2 / (57 + 3 * far**2))
    still = {step: {1: base} for step in steps}
    assert describe_movement(follow(still, topology=Topology(6, 30)))["far_prompts"] is None


@pytest.mark.parametrize("call", [describe_run, describe_pooled])
def test_no_layers_at_all_are_refused(call):
    with refused(name="layers", expected="at least one"):
        call([], [0, 8, 16])


def test_velocities_of_one_layer_alone_are_no_layers():
    with refused(name="velocity", expected="n_layers", got=(2,)):
        pooled_velocity([1.0, 2.0])
    with refused(name="velocity", expected="n_layers", got=(1, 1, 2)):
        pooled_velocity([[[1.0, 2.0]]])
