"""Advice from numbers at checkpoints: planted truth, exact error rates, and silence where nothing is known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom
from support import REPOSITORY, refused

from topoflow.dynamics import advice
from topoflow.dynamics.advice import (
    ALL,
    BEHAVIOUR,
    FEWEST,
    GEOMETRY,
    HELD_OUT,
    SIMPLER,
    TOPOLOGY,
    TRAINING,
    Course,
    Worth,
    alarm,
    best_kind,
    choose,
    geometry_numbers,
    held_out_numbers,
    strangeness,
    together,
    topology_numbers,
    training_numbers,
)

STEPS = tuple(range(0, 48, 4))


def walk(rng: np.random.Generator, drift: float = 0.0, since: int = 0) -> Course:
    """A run of three numbers that wander, and from one checkpoint on drift away as well."""
    numbers = rng.normal(size=(len(STEPS) - 1, 3)).cumsum(axis=0)
    numbers[since:] += drift
    return Course(STEPS, {BEHAVIOUR: numbers})


@pytest.mark.parametrize(
    ("n_healthy", "level", "rate"), [(19, 0.05, 1 / 20), (39, 0.05, 2 / 40), (9, 0.05, 1 / 10)]
)
def test_as_many_healthy_runs_are_alarmed_of_as_is_said(n_healthy, level, rate):
    n, false = 400, 0
    for seed in range(n):
        rng = np.random.default_rng([seed, n_healthy])
        run, *healthy = [walk(rng) for _ in range(n_healthy + 1)]
        found = alarm(run, healthy, BEHAVIOUR, level)
        assert found.rate == pytest.approx(rate)
        assert found.raised == (found.step is not None)
        false += found.raised
    low, high = binom.ppf([0.001, 0.999], n, rate)
    assert low <= false <= high  # exact: neither more nor fewer


def test_a_run_that_goes_wrong_is_alarmed_of_when_it_does():
    rng = np.random.default_rng(0)
    healthy = [walk(rng) for _ in range(19)]
    found = alarm(walk(rng, drift=60.0, since=5), healthy, BEHAVIOUR)
    assert found.p == 1 / 20
    assert found.step == STEPS[6]  # the sixth interval's end
    assert found.scores[5:].min() > 3 * found.scores[:5].max()


def test_a_run_that_is_too_calm_is_as_strange_as_one_that_is_too_wild():
    rng = np.random.default_rng(0)
    healthy = [walk(rng) for _ in range(19)]
    for away in (-40.0, 40.0):
        assert alarm(walk(rng, drift=away), healthy, BEHAVIOUR).raised


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_run_that_diverges_is_alarmed_of_from_there_on(wrong):
    rng = np.random.default_rng(1)
    healthy = [walk(rng) for _ in range(19)]
    run = healthy.pop()
    healthy.append(walk(rng))
    calm = alarm(run, healthy, BEHAVIOUR)
    assert not calm.raised
    run.kinds[BEHAVIOUR][7:, 1] = wrong
    found = alarm(run, healthy, BEHAVIOUR)
    assert found.raised
    assert found.step == STEPS[8]
    assert np.isinf(found.scores[7:]).all()


def test_one_healthy_run_that_diverged_does_not_hide_another():
    rng = np.random.default_rng(2)
    healthy = [walk(rng) for _ in range(39)]
    healthy[0].kinds[BEHAVIOUR][:] = np.nan
    bad = walk(rng, drift=60.0)
    found = alarm(bad, healthy, BEHAVIOUR)
    assert found.p == 2 / 40  # behind the one that diverged
    assert found.raised


def test_strangeness_is_the_distance_from_the_others_in_their_standard_deviations():
    numbers = np.random.default_rng(0).normal(size=(12, 4, 5))
    others = numbers[1:]
    wanted = np.sqrt((((numbers[0] - others.mean(axis=0)) / others.std(axis=0, ddof=1)) ** 2).mean(axis=1))
    np.testing.assert_allclose(strangeness(numbers)[0], wanted)
    order = np.random.default_rng(1).permutation(12)
    np.testing.assert_allclose(strangeness(numbers[order]), strangeness(numbers)[order])  # all alike


def test_a_number_that_is_the_same_in_all_runs_says_nothing():
    numbers = np.random.default_rng(0).normal(size=(12, 4, 2))
    numbers[..., 1] = 7.0
    half = strangeness(numbers[..., :1]) / np.sqrt(2)
    np.testing.assert_allclose(strangeness(numbers), half)


def test_too_few_healthy_runs_and_others_are_refused():
    rng = np.random.default_rng(0)
    healthy = [walk(rng) for _ in range(FEWEST)]
    run = walk(rng)
    with refused(name="healthy", got=FEWEST - 1):
        alarm(run, healthy[1:], BEHAVIOUR)
    with refused(name="healthy", expected="recorded as the run is"):
        alarm(run, [*healthy, replace(run, steps=tuple(2 * step for step in STEPS))], BEHAVIOUR)
    with refused(name="healthy", expected=TOPOLOGY):
        alarm(run, healthy, TOPOLOGY)
    with refused(name="numbers"):
        strangeness(np.zeros((2, 3, 1)))


def test_the_kind_that_is_worth_most_is_taken_of_those_that_all_runs_have():
    worth = [
        Worth(TOPOLOGY, 0.9, 0.8, 0.95),
        Worth(BEHAVIOUR, 0.7, 0.6, 0.8),
        Worth(GEOMETRY, 0.6, 0.49, 0.7),
    ]
    numbers = np.zeros((2, 1))
    both = Course((0, 1, 2), {TOPOLOGY: numbers, BEHAVIOUR: numbers})
    one, chance = Course((0, 1, 2), {BEHAVIOUR: numbers}), Course((0, 1, 2), {GEOMETRY: numbers})
    found = [best_kind(runs, worth) for runs in ([both, both], [both, one], [chance, chance])]
    assert [one and one.kind for one in found] == [TOPOLOGY, BEHAVIOUR, None]


def test_what_kinds_are_worth_is_what_the_benchmark_measured():
    measured = json.loads((REPOSITORY / "benchmarks" / "advice.json").read_text(encoding="utf-8"))[
        "one_class"
    ]
    for one in advice.WORTH:
        found = measured[one.kind]
        assert one.auroc == round(found["auroc"], 3)
        assert [one.low, one.high] == [round(bound, 3) for bound in found["interval"]]
    shipped = {HELD_OUT, BEHAVIOUR, TRAINING, GEOMETRY, TOPOLOGY, SIMPLER, ALL}
    assert {one.kind for one in advice.WORTH} == shipped
    assert list(advice.WORTH) == sorted(advice.WORTH, key=lambda one: -one.auroc)


def test_the_checkpoint_of_the_least_own_loss_is_chosen_and_what_was_forgotten_is_said():
    losses = {
        "helpful": np.array([2.0, 1.5, 1.0, 1.2]),
        "harmless": np.array([1.0, 1.0, 1.4, 3.0]),
    }
    found = choose(Course((0, 8, 16, 24), {}, losses, ("harmless",)))
    assert found.step == 16
    assert "at the last step, 24, it is 1.2" in found.reason
    assert "harmless has risen from 1 to 1.4" in found.reason
    kept = choose(Course((0, 8, 16, 24), {}, losses | {"harmless": np.ones(4)}, ("harmless",)))
    assert "risen" not in kept.reason


def test_a_mix_is_judged_by_all_that_it_is_made_of():
    losses = {"helpful": np.array([1.0, 0.5, 0.9]), "harmless": np.array([1.0, 1.2, 0.6])}
    assert choose(Course((0, 8, 16), {}, losses)).step == 16
    assert choose(Course((0, 8, 16), {}, losses, ("harmless",))).step == 8


def test_without_held_out_losses_the_last_checkpoint_is_chosen_and_a_diverged_one_is_not():
    assert choose(Course((0, 8, 16), {})).step == 16
    losses = {"helpful": np.array([2.0, 1.0, np.nan])}
    found = choose(Course((0, 8, 16), {}, losses))
    assert found.step == 8
    assert "not finite" in found.reason


def test_geometry_and_topology_know_no_unit_and_start_at_nothing():
    rng = np.random.default_rng(0)
    measured = {name: rng.uniform(0.1, 1.0, size=(5, 2)) for name in advice.GEOMETRIC}
    larger = {name: values * (7.0 if name == "mean_distance" else 1.0) for name, values in measured.items()}
    found = geometry_numbers(measured)
    np.testing.assert_allclose(geometry_numbers(larger), found)
    np.testing.assert_allclose(
        found[:, 2:4], np.log(measured["mean_distance"][1:] / measured["mean_distance"][0])
    )
    np.testing.assert_allclose(found[:, 6:], measured["mean_cosine"][1:] - measured["mean_cosine"][0])
    velocities = {name: rng.uniform(0.1, 1.0, size=(4, 2)) for name in advice.VELOCITIES}
    summaries = {name: np.full((5, 2), 3.0) for name in advice.PERSISTENCE}
    found = topology_numbers(velocities, summaries)
    np.testing.assert_allclose(np.exp(found[:, :2]), velocities["h0_velocity"])
    assert not found[:, -8:].any()  # nothing has grown


def test_several_kinds_stand_together_only_where_all_are_there():
    numbers = np.arange(6.0).reshape(3, 2)
    kinds = {HELD_OUT: numbers, BEHAVIOUR: numbers, TRAINING: numbers, GEOMETRY: numbers}
    found = together(kinds)
    assert set(found) == {*kinds, SIMPLER}
    assert found[SIMPLER].shape == (3, 8)
    assert set(together({**kinds, TOPOLOGY: numbers})) == {*kinds, TOPOLOGY, SIMPLER, ALL}
    assert set(together({BEHAVIOUR: numbers, TOPOLOGY: numbers})) == {BEHAVIOUR, TOPOLOGY}


def test_logged_numbers_are_means_between_checkpoints():
    logged = {"loss": [1.0, 3.0, 4.0, 6.0], "norm": [1.0, 1.0, 1.0, np.inf]}
    found = np.exp(training_numbers((0, 2, 4), logged))
    assert found.round(9).tolist() == [[2.0, 1.0], [5.0, np.inf]]


def test_held_out_numbers_need_a_loss_of_ones_own():
    with refused(name="losses"):
        held_out_numbers({"harmless": np.ones(2)}, ("harmless",))
