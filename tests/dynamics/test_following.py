"""The public layer for arrays: what fits is followed, what does not is refused by name, and planted truths come out."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from support import refused, ring

import topoflow
from topoflow.dynamics.claims.listed import gated
from topoflow.dynamics.claims.verdict import Verdict
from topoflow.dynamics.following import RAW, SCALE_FREE, Trajectory

STEPS = [step + twin for step in range(0, 48, 4) for twin in (0, 1)]
TOPOLOGY = topoflow.Topology(5, 32)
CLAIMS = topoflow.Claims(n_rotations=39, rotation_subsamples=5)


def run(share, seed, jitter=0.05, base_seed=0, scale=None, label=0):
    """One training in which a ring forms as `share` says of the step, and the cloud grows as `scale` does."""
    base = np.random.default_rng(base_seed).normal(size=(80, 8))
    rng = np.random.default_rng([seed, label, 1])
    clouds = {}
    for step in STEPS:
        cloud = ring(base, share(step)) * (1 if scale is None else scale(step))
        clouds[step] = {1: cloud + jitter * rng.normal(size=base.shape)}
    return topoflow.follow(clouds, topology=TOPOLOGY, claims=CLAIMS)


def early(step):
    return 1 - np.exp(-step / 5)


def said(verdicts):
    return {(v.claim, v.homology): v.verdict for v in verdicts}


def test_an_early_loop_climbs_the_whole_ladder():
    trajectory = run(early, 0)
    found = said(trajectory.verdicts)
    assert found["moves", "H1"] == found["early", "H1"] == found["early", "H0"] == "supported"
    verdict = next(v for v in trajectory.verdicts if (v.claim, v.homology) == ("early", "H1"))
    assert [name for name, outcome in verdict.steps if outcome == "passed"] == [
        "moves", "raw", "scale", "the learning rate", "few prompts", "covariance", "the start",
    ]  # fmt: skip
    assert verdict.rung == "the start"
    assert verdict.p == pytest.approx(2 / 40)  # no rotation of 39 came near, and two homologies


def test_jitter_alone_cannot_tell():
    found = said(run(lambda step: 0.0, 1).verdicts)
    assert set(found.values()) == {"cannot tell"}


def test_a_late_loop_is_shown_not_to_be_early():
    assert (
        said(run(lambda step: 1 / (1 + np.exp(-(step - 38) / 2)), 2).verdicts)["early", "H1"]
        == "shown absent"
    )


def test_early_growth_is_explained_by_scale():
    found = run(lambda step: 0.0, 3, jitter=0.02, scale=lambda step: 1 + 0.6 * (1 - np.exp(-step / 6)))
    assert said(found.verdicts)["early", "H0"] == "explained by scale"


@pytest.fixture(scope="module")
def as_fast_as_the_rate():
    """A ring that forms as fast as a falling learning rate: clouds by step, and the rates."""
    rates = np.exp(-np.arange(48) / 8)
    done = np.concatenate([[0], np.cumsum(rates)]) / rates.sum()
    base, rng = np.random.default_rng(0).normal(size=(80, 8)), np.random.default_rng(5)
    return {s: {1: ring(base, done[s]) + 0.02 * rng.normal(size=base.shape)} for s in STEPS}, rates


def test_a_loop_that_forms_as_fast_as_the_learning_rate_falls_is_explained_by_it(as_fast_as_the_rate):
    clouds, rates = as_fast_as_the_rate
    in_steps = topoflow.follow(clouds, topology=TOPOLOGY, claims=CLAIMS)
    assert said(in_steps.verdicts)["early", "H1"] == said(in_steps.verdicts)["early", "H0"] == "supported"
    in_rates = topoflow.follow(clouds, rates, topology=TOPOLOGY, claims=CLAIMS)
    assert said(in_rates.verdicts)["early", "H1"] == "explained by the learning rate"


def test_where_the_learning_rates_are_not_known_nothing_in_their_time_can_be_told(as_fast_as_the_rate):
    clouds, _ = as_fast_as_the_rate
    known = topoflow.follow(clouds, topology=TOPOLOGY, claims=CLAIMS)

    def unknown():
        return Trajectory(replace(known.recorded, rates_known=False), CLAIMS)

    one = unknown().verdicts
    over = [
        *topoflow.compare({"a": [unknown(), unknown()]}, kind="runs").verdicts,
        *topoflow.compare({"a": [unknown(), unknown()], "b": [unknown(), unknown()]}, kind="models").verdicts,
    ]
    controlled = topoflow.compare({"a": [known] * 2}, kind="runs", controls={"a": [unknown()] * 2}).verdicts
    (of_control,) = {v.why for v in controlled if v.claim == "early"}
    assert of_control == "its control needs the learning rate of every optimiser step"
    assert "supported" not in {v.verdict for v in controlled if v.claim in ("early", "calm")}
    for verdict in (*one, *over):
        if verdict.claim not in ("moves", "amount"):
            assert verdict.verdict == "cannot tell", verdict
        if verdict.claim in ("early", "timing"):
            assert verdict.why.endswith("needs the learning rate of every optimiser step")
            assert verdict.value is None
    assert said(one)["moves", "H1"] == "supported"


def test_a_run_without_a_burst_in_its_first_half_is_said_to_have_none():
    late = [run(lambda step: 1 / (1 + np.exp(-(step - 38) / 2)), seed) for seed in range(3)]
    calm = [v for v in topoflow.compare({"ring": late}, kind="runs").verdicts if v.claim == "calm"]
    assert {v.verdict for v in calm} == {"cannot tell"}
    assert all("needs a burst in the first half, and 1 of 3 seeds have none" in v.why for v in calm)


def test_without_twins_nothing_can_be_told_and_the_reason_is_said():
    rng = np.random.default_rng(0)
    clouds = {step: {1: rng.normal(size=(40, 4))} for step in range(0, 50, 5)}
    verdicts = topoflow.follow(clouds, topology=topoflow.Topology(4, 20)).verdicts
    assert {v.verdict for v in verdicts} == {"cannot tell"}
    assert all("twin checkpoints" in v.why for v in verdicts)


def remembered(steps, memory, seed, last=75):
    """A cloud that does not move, under jitter that each step remembers of the step before."""
    rng = np.random.default_rng(seed)
    base, noise = rng.normal(size=(40, 4)), rng.normal(size=(40, 4))
    clouds = {}
    for step in range(last + 1):
        if step in steps:
            clouds[step] = {1: base + 0.05 * noise}
        noise = memory * noise + np.sqrt(1 - memory**2) * rng.normal(size=noise.shape)
    return topoflow.follow(clouds, topology=topoflow.Topology(4, 20))


def test_triplets_take_less_remembered_jitter_for_movement_than_twins():
    anchors = topoflow.Schedule(twins=13, triplets=True).anchors(75)
    twins, triplets = (sorted({t + k for t in anchors for k in range(n)}) for n in (2, 3))
    found = {}
    for steps in (twins, triplets):
        runs = [remembered(steps, 0.7, seed) for seed in range(8)]
        assert runs[0].anchors == anchors
        moved = [run.movement(SCALE_FREE)["H0"] for run in runs]
        found[len(steps)] = np.mean([one.total / one.total_jitter for one in moved])
    assert 0 < found[39] < 0.8 * found[26]
    still = [remembered(triplets, 0.0, seed).movement(SCALE_FREE)["H0"].moves.p for seed in range(8)]
    assert min(still) > 0.01


def test_triplets_find_what_twins_find():
    anchors = topoflow.Schedule(twins=13, triplets=True).anchors(50)
    clouds, base = {}, np.random.default_rng(0).normal(size=(80, 8))
    rng = np.random.default_rng(1)
    for step in sorted({t + k for t in anchors for k in range(3)}):
        clouds[step] = {1: ring(base, early(step)) + 0.05 * rng.normal(size=base.shape)}
    found = said(topoflow.follow(clouds, topology=TOPOLOGY, claims=CLAIMS).verdicts)
    assert found["early", "H1"] == found["early", "H0"] == "supported"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"learning_rate": [1.0] * 3}, "learning_rate"),
        ({"learning_rate": [-1.0] * 50}, "learning_rate"),
        ({"behaviour": {0: np.ones((3, 2))}}, "behaviour[0]"),
        ({"behaviour": {0: np.ones((40, 2))}}, "behaviour[0]"),
        ({"topology": topoflow.Topology(4, 41)}, "topology.subsample_size"),
        ({"clouds": {0: {1: np.zeros((40, 2))}}}, "clouds"),
        ({"clouds": {0: {1: np.zeros((40, 2))}, 1: {2: np.zeros((40, 2))}}}, "clouds[1]"),
        ({"clouds": {0: {1: np.zeros((40, 2))}, 1: {1: np.zeros((41, 2))}}}, "clouds[1][1]"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, name):
    given = {"clouds": {step: {1: np.zeros((40, 2))} for step in (0, 1, 48, 49)}, **change}
    with refused(name=name):
        topoflow.follow(**given)


def test_layers_of_other_scales_weigh_alike():
    base, rng = np.random.default_rng(0).normal(size=(60, 6)), np.random.default_rng(1)
    clouds = {step: {1: ring(base, early(step)) + 0.05 * rng.normal(size=base.shape)} for step in STEPS}
    one = topoflow.follow(clouds, topology=TOPOLOGY, claims=CLAIMS)
    both = topoflow.follow(
        {step: {1: layers[1], 2: 1000 * layers[1]} for step, layers in clouds.items()},
        topology=TOPOLOGY,
        claims=CLAIMS,
    )
    for kind in (RAW, SCALE_FREE):
        np.testing.assert_allclose(
            one.movement(kind)["H1"].squared, both.movement(kind)["H1"].squared, rtol=1e-6
        )


def test_the_same_input_gives_the_same_verdicts():
    assert run(early, 7).verdicts == run(early, 7).verdicts


def test_where_loops_have_no_power_that_stands_beside_the_verdict(as_fast_as_the_rate):
    clouds, rates = as_fast_as_the_rate
    decaying = topoflow.follow(clouds, rates, topology=TOPOLOGY, claims=CLAIMS)
    constant = topoflow.follow(clouds, topology=TOPOLOGY, claims=CLAIMS)
    assert (decaying.rate_decays, constant.rate_decays) == (True, False)

    def beside(trajectory, claim):
        return {v.homology: v.beside for v in trajectory.verdicts if v.claim == claim}

    assert beside(decaying, "early")["H1"].endswith("read H0")
    assert beside(decaying, "early")["H0"] == beside(constant, "early")["H1"] == ""
    assert beside(run(early, 3), "early")["H1"] == beside(run(early, 3), "calm")["H0"] == ""
    assert "three seeds" in beside(run(lambda step: step / 48, 3), "calm")["H1"]


def test_where_loops_have_no_power_their_absence_is_not_shown_either():
    late = run(lambda step: 1 / (1 + np.exp(-(step - 38) / 2)), 3)
    rates = 1 + np.cos(np.pi * np.arange(48) / 48)
    decaying = Trajectory(replace(late.recorded, learning_rate=rates), CLAIMS)
    assert said(late.verdicts)["early", "H1"] == said(late.verdicts)["early", "H0"] == "shown absent"
    assert said(decaying.verdicts)["early", "H1"] == "not supported"
    assert said(decaying.verdicts)["early", "H0"] == "shown absent"
    over = [topoflow.compare({"ring": [one] * 3}, kind="runs").verdicts for one in (late, decaying)]
    assert [said(verdicts)["early", "H1"] for verdicts in over] == ["shown absent", "not supported"]


def test_calm_waits_for_early():
    def verdict(claim, said, p):
        return Verdict(claim, "H1", said, "", 1.0, None, None, p, "", "")

    found = gated([verdict("early", "not supported", 0.3), verdict("calm", "supported", 0.01)])
    assert (found[1].verdict, found[1].rung, found[1].p) == ("not supported beyond early", "early", 0.3)


# --- over runs ---


def test_three_seeds_of_an_early_loop_support_early_and_their_controls_do_not_explain_it():
    runs = [run(early, seed) for seed in range(3)]
    slow = [run(lambda step: step / 48, seed, label=1) for seed in range(3)]
    for controls in (None, {"ring": slow}):
        found = topoflow.compare({"ring": runs}, kind="runs", controls=controls).verdicts
        assert said(found)["early", "H1"] == "supported"
    explained = topoflow.compare({"ring": runs}, kind="runs", controls={"ring": runs}).verdicts
    assert said(explained)["early", "H1"] == "explained by the control"


def test_controls_in_which_nothing_moves_explain_nothing():
    runs = [run(early, seed) for seed in range(3)]
    still = [run(lambda step: 0.0, seed, label=1) for seed in range(3)]
    found = said(topoflow.compare({"ring": runs}, kind="runs", controls={"ring": still}).verdicts)
    assert found["early", "H1"] == found["early", "H0"] == "supported"


def test_one_seed_cannot_tell_and_says_how_many_it_needs():
    found = topoflow.compare({"ring": [run(early, 0)]}, kind="runs").verdicts
    early_of = next(v for v in found if (v.claim, v.homology) == ("early", "H1"))
    assert early_of.verdict == "cannot tell"
    assert "needs 2 seeds, and has 1" in early_of.why


def test_objectives_need_six_seeds_and_then_are_told_apart():
    def group(share, n, label):
        return [run(share, seed, label=label) for seed in range(n)]

    few = topoflow.compare({"a": group(early, 3, 0), "b": group(early, 3, 1)}).verdicts
    assert {v.verdict for v in few} == {"cannot tell"}
    assert "needs 6 seeds of each label, and has 3" in few[0].why
    assert few[0].beside == ""
    apart = topoflow.compare({"a": group(early, 6, 0), "b": group(lambda s: 0.4 * early(s), 6, 1)}).verdicts
    assert apart[0].p == 1 / 32
    assert said(apart)["objectives", "H1"] == "supported"
    assert re.fullmatch(r"test of equal spread between seeds: p = [01]\.?\d*", apart[0].beside)
    alike = topoflow.compare({"a": group(early, 6, 0), "b": group(early, 6, 1)}).verdicts
    assert "supported" not in said(alike).values()


def test_models_are_compared_by_their_own_starts():
    def group(share, base, label):
        return [run(share, seed, base_seed=base, label=label) for seed in range(6)]

    alike = said(topoflow.compare({"a": group(early, 0, 0), "b": group(early, 1, 1)}, kind="models").verdicts)
    assert alike["amount", "H1"] != "supported"
    other = topoflow.compare(
        {"a": group(early, 0, 0), "b": group(lambda s: 0.2 * early(s), 1, 1)}, kind="models"
    )
    assert said(other.verdicts)["amount", "H1"] == "supported"
    still = topoflow.compare(
        {"a": group(lambda s: 0.0, 0, 0), "b": group(lambda s: 0.0, 1, 1)}, kind="models"
    )
    assert {v.verdict for v in still.verdicts} == {"cannot tell"}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"kind": "seeds"}, "kind"),
        ({"runs": {}}, "runs"),
        ({"kind": "objectives"}, "runs"),
        ({"controls": {"a": []}}, "controls['a']"),
        ({"runs": {"a": [1], "b": []}}, "runs"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused_by_name(change, name):
    runs = {"a": [run(lambda step: 0.0, 0)]}
    with refused(name=name):
        topoflow.compare(**{"runs": runs, "kind": "runs", **change})
