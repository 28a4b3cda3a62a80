"""How often verdicts are given on planted worlds, few replicates each: `pytest -s` prints the rates.

`benchmarks/verdicts.py` runs all worlds with replicates enough for the bars; the bounds here are loose.
"""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import topoflow
from topoflow import storage
from topoflow.dynamics.claims.rungs import margin_test
from topoflow.dynamics.movement import Movement, moves_test
from topoflow.dynamics.permutation import decide

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import shuffled
import verdicts
import worlds

SEED = 15  # not the benchmark's


def counts(section, name, n):
    """How often each verdict of each claim and homology is given in n replicates of a world."""
    world = next(one for one in verdicts.sections()[section] if one.name == name)
    found = Counter(one for replicate in range(n) for one in world.judge([SEED, *name.encode(), replicate]))
    for claim, homology in dict.fromkeys((claim, homology) for claim, homology, _ in found):
        of_claim = {said: k for (c, h, said), k in sorted(found.items()) if (c, h) == (claim, homology)}
        print(f"{section} | {name} | {claim}, {homology} | of {n}: {of_claim}")
    return found


@pytest.mark.parametrize("n_anchors", [13, 8, 5])
def test_jitter_that_shrinks_is_called_movement_as_rarely_as_the_level_says(n_anchors):
    rng = np.random.default_rng([SEED, n_anchors])
    size = 0.03 + 0.12 * np.exp(-np.linspace(0, 6, n_anchors))
    seen = rng.normal(size=(4, 30))  # four directions of jitter, seen in thirty features
    rejected = 0
    for _ in range(200):
        a, b = (size[:, None] * rng.normal(size=(n_anchors, 4)) @ seen for _ in range(2))
        rejected += moves_test(Movement(a, b)).p <= 0.01
    print(f"moves under shrinking jitter, {n_anchors} anchors: {rejected} of 200 at 0.01")
    assert rejected <= 8  # a normal null rejects at least 19 times


@pytest.mark.parametrize(
    "name",
    [
        "shrinking jitter",
        "walk, cosine",
        # fast at first, as copies part
        pytest.param("walk from near copies", marks=pytest.mark.slow),
        pytest.param("walk from near copies, the space turns late", marks=pytest.mark.slow),
        "drift, cosine",
        "growth",
        "4 movers of 80",
        "late loop",
    ],
)
def test_what_is_not_early_is_hardly_ever_called_early(name):
    found = counts("One run, 13 anchors", name, 20)
    for homology in ("H1", "H0"):
        assert found["early", homology, "supported"] <= 2
        assert found["calm", homology, "supported"] <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["early loop, wide", "near copies gather early"])
def test_what_is_early_is_found_in_states_of_more_dimensions_than_prompts(name):
    assert counts("One run, 13 anchors", name, 5)["early", "H0", "supported"] >= 4


@pytest.mark.parametrize("speed", [1 - np.arange(48) / 48, np.where(np.arange(48) < 24, 1.0, 0.85)])
def test_a_steady_decline_and_a_slower_second_half_are_no_burst_and_calm(speed):
    supported = 0
    for replicate in range(8):
        rng = np.random.default_rng([SEED, replicate])
        path = worlds.drift(rng, worlds.base(rng), speed)
        run = verdicts.follow(worlds.record(path, rng, worlds.twin_steps(False)), path.learning_rate, (5, 32))
        supported += sum(v.verdict == "supported" for v in run.verdicts if v.claim == "calm")
    assert supported <= 1


def test_topology_does_not_lead_where_all_prompts_translate_alike():
    found = counts("Runs of one study", "all prompts translate, cosine", 3)
    for homology, n in itertools.product(("H1", "H0"), (3, 6)):
        assert found[f"leads, {n} seeds", homology, "cannot tell"] == 3  # topology does not move at all


@pytest.mark.slow
def test_what_leads_in_controls_as_well_is_not_said_of_the_objective_and_controls_at_rest_explain_nothing():
    name = "cosine and an early loop"
    loop, drift = verdicts.STUDIES[name][0], verdicts.CONTROLS[name]
    start = worlds.base(np.random.default_rng(SEED), "gauss", verdicts.N, verdicts.SIZE)

    def runs(how, number):
        rngs = (np.random.default_rng([SEED, number, run]) for run in range(6))
        return {"a": [verdicts.recorded(how(rng, start), rng, 0) for rng in rngs]}

    leading = runs(loop, 0)
    said = {
        what: {
            v.homology: v for v in topoflow.compare(leading, "runs", controls).verdicts if v.claim == "leads"
        }
        for what, controls in {
            "none": None,
            "alike": runs(loop, 1),
            "drift": runs(drift, 2),
            "rest": runs(worlds.WORLDS["jitter"][0], 3),
        }.items()
    }
    assert {what: of_both["H0"].verdict for what, of_both in said.items()} == {
        "none": "supported", "alike": "not supported beyond the control", "drift": "supported", "rest": "supported",
    }  # fmt: skip
    assert [rung for rung, _ in said["drift"]["H0"].steps][-3:] == ["the control", "covariance", "the start"]


@pytest.mark.parametrize("name", ["scaled by 15 %", "noisier states"])
def test_labels_that_differ_in_scale_or_spread_alone_are_not_told_apart(name):
    found = counts("Objectives, six seeds", name, 8)
    for homology in ("H1", "H0"):
        assert found["objectives", homology, "supported"] <= 2


def test_a_millionth_in_each_of_nine_runs_is_nothing_and_a_run_that_rests_is_not_dropped():
    for tiny in (np.full(9, 1e-6), 1e-6 * (1 + np.arange(9))):
        assert decide(margin_test(tiny, margin=0.1), 0.05) == "shown absent"
        assert decide(margin_test(tiny, margin=0.0), 0.05) == "not supported"
    assert margin_test([0.4, np.nan, 0.5], margin=0.1) == "nothing moves at seed number 2 of 3"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["walk", "drift, cosine", "30 % slower later"])
def test_runs_that_share_a_base_and_prompts_are_not_taken_for_more_than_they_are(name):
    """As independent runs, two of fifteen such studies would be "early" by chance."""
    found = counts("Runs of one study", name, 40)
    for homology, n, held in itertools.product(("H1", "H0"), (3, 6), ("", " and controls")):
        assert (
            found[f"early, {n} seeds{held}", homology, "supported"] <= 4
        )  # of 40; 5 % gives more once in 20


@pytest.mark.slow
def test_an_early_loop_is_nearly_always_called_early():
    found = counts("One run, 13 anchors", "early loop", 4)
    for homology in ("H1", "H0"):
        assert found["early", homology, "supported"] >= 3
        assert found["early", homology, "shown absent"] == 0


@pytest.mark.slow
def test_equal_objectives_are_hardly_ever_told_apart_and_others_nearly_always():
    equal = counts("Objectives, six seeds", "equal", 6)
    apart = counts("Objectives, six seeds", "loop of .5 in one", 6)
    for homology in ("H1", "H0"):
        assert equal["objectives", homology, "supported"] <= 1
        assert apart["objectives", homology, "supported"] >= 5


@pytest.mark.slow
def test_models_that_evolve_alike_from_other_starts_are_hardly_ever_told_apart():
    found = counts("Models, six seeds", "equal evolution from another start", 6)
    for homology in ("H1", "H0"):
        for claim in (verdicts.AMOUNT, verdicts.TIMING):
            assert found[claim, homology, "supported"] <= 2


def test_trainings_on_shuffled_answers_have_the_same_prompts_and_permutations_of_their_own():
    from topoflow.training.objectives import evaluation_prompts, training_rows

    params = shuffled.params()
    prompts = evaluation_prompts(params)
    rows = [training_rows(params, name, prompts) for name in (shuffled.OF, *map(shuffled.name, range(3)))]
    for one, other in combinations(rows, 2):
        assert [row["prompt"] for row in one] == [row["prompt"] for row in other]
        same = sum(x["completion"] == y["completion"] for x, y in zip(one, other, strict=True))
        assert same < 0.02 * len(one)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """As the folder of trainings on shuffled answers, but few, and of states that walk."""
    folder, rng = tmp_path_factory.mktemp("trainings"), np.random.default_rng(SEED)
    steps = worlds.twin_steps(True)
    start = worlds.base(rng, n=shuffled.N_PROMPTS)
    for number in range(14):
        path = worlds.walk(rng, start, cosine=True)
        for step, layers in worlds.record(path, rng, steps).items():
            cell = shuffled.place(folder, number) / f"{storage.cell_name(step, 1)}.npy"
            storage.write_file(cell, storage.array_bytes(layers[1]))
        facts = {"steps": steps, "layers": [1], "learning_rates": path.learning_rate.tolist()}
        storage.write_file(cell.parents[1] / "recorded.json", storage.json_bytes(facts))
    return folder


@pytest.mark.slow
def test_labels_given_by_lot_differ_in_nothing(trainings, monkeypatch):
    monkeypatch.setattr(shuffled, "N", 14)
    assert shuffled.missing(trainings) == []
    found = Counter(
        one for replicate in range(10) for one in verdicts.six_against_six(trainings, [replicate])
    )
    for homology in ("H1", "H0"):
        for claim in ("objectives", "early, 6 seeds and controls"):
            of_claim = {said: k for (c, h, said), k in found.items() if (c, h) == (claim, homology)}
            assert sum(of_claim.values()) == 10
            assert of_claim.get("supported", 0) <= 2, of_claim
            assert "cannot tell" not in of_claim
