"""Rungs, the one rule from p-values to verdicts, and the nulls of the last rungs."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import topoflow
from topoflow.dynamics.claims.objectives import all_labels_test, dispersion_test, location_test
from topoflow.dynamics.claims.rungs import margin_test, rotation_rungs
from topoflow.dynamics.claims.verdict import Rung, Verdict, adjust, climb
from topoflow.dynamics.movement import Movement
from topoflow.dynamics.permutation import Test, decide, monte_carlo_p, stouffer, surrogates_needed
from topoflow.dynamics.surrogates import COVARIANCE, START, any_rotation, coordinates, kept_start
from topoflow.topology.point_clouds import distance_matrix

YES, NO, AGAINST = Test(2.0, p=0.001), Test(1.0, p=0.4), Test(0.5, p=0.9, p_absent=0.01)


def rungs(*tests, gate=False):
    names = ("first", "second", "third")
    return [
        Rung(name, lambda test=test: test, 0.05, explains=bool(place), gate=gate and not place)
        for place, (name, test) in enumerate(zip(names, tests, strict=False))
    ]


@pytest.mark.parametrize(
    ("tests", "gate", "verdict", "rung"),
    [
        ((YES, YES, YES), False, "supported", "third"),
        ((NO, YES), False, "not supported", "first"),
        ((AGAINST, YES), False, "shown absent", "first"),
        ((YES, NO, YES), False, "not supported beyond second", "second"),
        ((YES, AGAINST, YES), False, "explained by second", "second"),
        ((NO, YES), True, "cannot tell", "first"),
        ((YES, "needs twins"), False, "cannot tell", "second"),
        ((YES, Test(1.0, p=0.2, smallest_p=0.2)), False, "cannot tell", "second"),
        ((Test(1.0, p=float("nan")),), False, "cannot tell", "first"),
    ],
)
def test_the_first_rung_that_fails_decides(tests, gate, verdict, rung):
    found = climb(rungs(*tests, gate=gate))
    assert (found.verdict, found.rung) == (verdict, rung)
    assert found.steps[-1][0] == rung


def test_no_rung_is_tested_after_the_one_that_failed():
    def never():
        raise AssertionError("tested")

    assert climb([*rungs(NO), Rung("second", never, 0.05)]).rung == "first"


def test_the_p_value_of_a_claim_is_the_largest_of_its_rungs():
    assert climb(rungs(YES, Test(1.0, p=0.04), YES)).p == 0.04


@given(st.lists(st.floats(0.0001, 1.0), min_size=1, max_size=4))
def test_adjusted_p_values_are_no_smaller_and_keep_their_order(values):
    verdicts = [Verdict("early", "H1", "supported", "x", None, None, None, p, "", "") for p in values]
    found = adjust(verdicts, 0.05)
    adjusted = [verdict.p for verdict in found]
    assert all(new >= old for old, new in zip(values, adjusted, strict=True))
    assert np.sort(adjusted).tolist() == [adjusted[place] for place in np.argsort(values, kind="stable")]
    assert all((verdict.verdict == "supported") == (verdict.p <= 0.05) for verdict in found)
    # bounds of Holm's procedure
    assert min(adjusted) == pytest.approx(min(1.0, min(values) * len(values)))


def test_a_claim_without_a_p_value_stays_as_it_is():
    cannot = Verdict("early", "H1", "cannot tell", "moves", None, None, None, None, "", "")
    assert adjust([cannot, replace(cannot, p=0.5, verdict="not supported")], 0.05)[0] == cannot


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(-3, 3))
def test_drawing_fewer_surrogates_never_changes_the_decision(seed, observed):
    null = np.random.default_rng(seed).normal(size=199)
    drawn = list(surrogates_needed(observed, lambda number: null[number], 199, 0.05))
    whole, part = monte_carlo_p(observed, null), monte_carlo_p(observed, drawn)
    assert (whole <= 0.05) == (part <= 0.05)
    assert 19 <= len(drawn) <= 199
    if part <= 0.05:
        assert part == whole


def test_stouffer_of_one_is_itself_and_of_two_halves_is_a_half():
    assert stouffer([0.03]) == pytest.approx(0.03)
    assert stouffer([0.5, 0.5]) == pytest.approx(0.5)


def test_rotations_are_an_exact_null_of_gaussian_trajectories():
    """Of prompts that move jointly Gaussian, a rotated run is as any other: ranks are uniform."""
    ranks = []
    for seed in range(200):
        rng = np.random.default_rng([seed, 1])
        path = np.cumsum(rng.normal(size=(3, 12, 2)), axis=0)
        law = any_rotation(12)

        def fourth_moment(turn, path=path):
            return float(((turn @ (path[2] - path[0])) ** 4).sum())

        null = [fourth_moment(law.draw(np.random.default_rng([seed, number]))) for number in range(19)]
        ranks.append(monte_carlo_p(fourth_moment(np.eye(12)), null))
    assert 0.01 <= np.mean(np.array(ranks) <= 0.05) <= 0.10
    assert abs(np.mean(ranks) - 0.525) < 0.06


def test_rotations_keep_every_second_moment_over_time_and_the_start():
    rng = np.random.default_rng(0)
    first, later = rng.normal(size=(2, 60, 4))
    turn = any_rotation(60).draw(rng)
    for a in (first, later):
        np.testing.assert_allclose((turn @ a).mean(axis=0), a.mean(axis=0), atol=1e-12)
        for b in (first, later):
            np.testing.assert_allclose((turn @ a).T @ (turn @ b), a.T @ b, atol=1e-10)
    keep = kept_start([first]).draw(rng)
    np.testing.assert_allclose(keep @ first, first, atol=1e-10)
    assert np.abs(keep @ later - later).max() > 0.5


def test_near_copies_part_under_rotations_that_keep_the_start_as_they_do_in_the_run():
    rng = np.random.default_rng(0)
    places = rng.normal(size=(10, 100))
    start = places[np.arange(40) % 10] + 0.01 * rng.normal(size=(40, 100))
    later = start + rng.normal(size=start.shape)
    turn = kept_start([start]).draw(rng)
    before, after = distance_matrix(later), distance_matrix(turn @ later)
    copies = np.arange(40)[:, None] % 10 == np.arange(40) % 10
    np.testing.assert_allclose(after[copies], before[copies], atol=1e-6)
    assert np.abs(after - before)[~copies].max() > 1


def test_a_hidden_space_that_turns_from_step_to_step_changes_nothing_under_any_rotation():
    rng = np.random.default_rng(0)
    places, steps = rng.normal(size=(10, 60)), [step + twin for step in range(0, 20, 4) for twin in (0, 1)]
    start = places[np.arange(40) % 10] + 0.01 * rng.normal(size=(40, 60))
    clouds = {step: {1: start + 0.1 * step * rng.normal(size=start.shape)} for step in steps}
    turned = {
        step: {1: layers[1] @ np.linalg.qr(rng.normal(size=(60, 60)))[0]} for step, layers in clouds.items()
    }
    run, again = (topoflow.follow(some, topology=topoflow.Topology(2, 20)) for some in (clouds, turned))
    for kind in (COVARIANCE, START):
        for homology in ("H1", "H0"):
            ours, theirs = (one.rotated(kind, 0)[homology].squared for one in (run, again))
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "start",
    [np.ones((20, 4)), np.zeros((20, 4)), np.ones((2, 3)), np.full((12, 1), 0.1), np.eye(30)],
    ids=["all alike", "zero", "two prompts", "alike but for rounding", "one-hot"],
)
def test_a_start_of_any_shape_has_rotations_that_keep_distances_and_the_mean(start):
    turn = kept_start([start]).draw(np.random.default_rng(0))
    np.testing.assert_allclose(turn @ turn.T, np.eye(len(start)), atol=1e-9)
    np.testing.assert_allclose(turn.sum(axis=1), 1, atol=1e-9)


def test_a_layer_that_says_nothing_takes_no_direction_from_another():
    rng = np.random.default_rng(0)
    alive, dead = rng.normal(size=(60, 6)), np.full((60, 5), 0.1)
    turn = kept_start([alive, dead]).draw(rng)
    np.testing.assert_allclose(turn @ alive, alive, atol=1e-9)


def test_few_coordinates_hold_all_distances_of_a_wide_cloud():
    cloud = np.random.default_rng(0).normal(size=(10, 300)) + 5
    few = coordinates(cloud)
    assert few.shape == (10, 10)
    wide, narrow = (np.linalg.norm(x[:, None] - x, axis=-1) for x in (cloud, few))
    np.testing.assert_allclose(narrow, wide, rtol=1e-9)


def test_margin_test_agrees_with_scipy():
    from scipy import stats

    values = np.random.default_rng(3).normal(0.2, 0.1, size=7)
    found = margin_test(values, 0.1)
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0.1, alternative="greater").pvalue)
    assert found.p_absent == pytest.approx(stats.ttest_1samp(values, 0.1, alternative="less").pvalue)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_labels_are_swapped_within_seeds_in_every_way():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6, 3))
    found = location_test(a, b)
    differences = a - b
    gram = differences @ differences.T
    by_hand = [
        sum(s[i] * s[j] * gram[i, j] for i in range(6) for j in range(6) if i != j) / 30
        for s in (np.array([1 if code >> i & 1 else -1 for i in range(6)]) for code in range(64))
    ]
    observed = (gram.sum() - np.trace(gram)) / 30
    assert found.value == pytest.approx(observed)
    assert found.p == pytest.approx(np.mean(np.array(by_hand) >= observed - 1e-9))


def test_three_equal_labels_are_rarely_told_apart_and_one_other_is():
    p_values = []
    for seed in range(100):
        vectors = np.random.default_rng(seed).normal(size=(3, 4, 5))
        p_values.append(all_labels_test(list(vectors)).p)
    assert np.mean(np.array(p_values) <= 0.05) <= 0.10
    vectors[2] += 3
    assert all_labels_test(list(vectors)).p <= 8 / 216  # the eight ways to swap the two that are alike


def test_labels_that_spread_differently_between_seeds_are_seen_to_and_others_rarely():
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(100, 2, 6, 5))
    assert np.mean([dispersion_test(a, b, n_permutations=99) <= 0.05 for a, b in pairs]) <= 0.10
    assert np.mean([dispersion_test(a, 10 * b, n_permutations=99) <= 0.05 for a, b in pairs[:20]]) >= 0.9


def test_a_decision_at_the_level_itself_is_a_rejection():
    assert decide(Test(1.0, p=0.05), 0.05) == "supported"


def test_movement_is_heard_where_jitter_shrinks_by_orders_of_magnitude():
    """A slow drift after a noisy beginning: the sum hears the beginning alone, the second score hears the rest."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        size = np.geomspace(1.0, 0.001, 13)[:, None]
        way = np.cumsum(0.05 * size, axis=0) * rng.normal(size=(1, 40))
        a, b = (6 * way + size * rng.normal(size=(13, 40)) * 0.1 for _ in range(2))
        still = Movement(*(size * rng.normal(size=(13, 40)) * 0.1 for _ in range(2)))
        found.append((Movement(a, b).moves.p <= 0.01, still.moves.p <= 0.01))
    moving, resting = np.sum(found, axis=0)
    assert moving == 20
    assert resting <= 2


@pytest.mark.parametrize(
    ("centre", "verdict"),
    [
        (0.3, "supported"),
        (1.0, "shown absent"),  # surrogates do as much: they explain it
        (1.5, "not supported"),  # they do clearly more, and are no description of this run
    ],
)
def test_surrogates_explain_what_they_reproduce_and_not_what_they_overshoot(centre, verdict):
    drawn = centre + np.random.default_rng(0).normal(scale=0.02, size=39)
    run = SimpleNamespace(
        claims=SimpleNamespace(n_rotations=39),
        unrotated={"H0": 1.0},
        rotated=lambda kind, number: {"H0": drawn[number]},
    )
    for rung in rotation_rungs([run], "H0", lambda run, moved: moved, 0.05):
        assert decide(rung.test(), 0.05) == verdict
