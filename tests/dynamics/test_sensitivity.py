"""Verdicts under other choices: what should not matter does not, and what hangs on one choice flips with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import refused, ring

import topoflow
from topoflow.dynamics.cells import cell_diagrams
from topoflow.dynamics.sensitivity import (
    CONCENTRATION,
    OWN,
    PASSES,
    Choices,
    Examination,
    agreements,
    alternatives,
    left_out,
    without_rotations,
)
from topoflow.dynamics.trajectory import describe_pooled, follow_layer
from topoflow.topology.point_clouds import subsample_plan
from topoflow.topology.prepared import Preparation

STEPS = [step + twin for step in range(0, 48, 4) for twin in (0, 1)]
CLAIMS = topoflow.Claims(n_rotations=0)
OWN_CHOICES = Choices(n_subsamples=5, subsample_size=32)
RISE = 1 - np.exp(-np.arange(48) / 5)


def examined(clouds, rates=None, behaviour=None):
    """A run as it was recorded, with its own choices, which are those of these tests."""
    recorded = topoflow.follow(clouds, rates, behaviour).recorded
    return Examination(recorded, OWN_CHOICES, CLAIMS)


def planted(share, seed=0, jitter=0.05, scale=None, layers=(1,)):
    rng = np.random.default_rng(seed)
    bases = {layer: np.random.default_rng(layer).normal(size=(80, 8)) for layer in layers}
    return {
        step: {
            layer: ring(base, share[step]) * (1 if scale is None else scale[step])
            + jitter * rng.normal(size=base.shape)
            for layer, base in bases.items()
        }
        for step in STEPS
    }


def told(run, **declared):
    """The verdicts under the study's own choices and under alternatives, and how they agree."""
    listed = alternatives(run.own, run.recorded.layers, run.n_prompts, **declared)
    verdicts = {one.name: run.verdicts(one.choices) for one in listed}
    return {one.name: one for one in agreements(verdicts)}


def test_a_planted_early_loop_holds_under_all_choices_that_should_not_matter():
    run = examined(planted(RISE))
    found = told(
        run, metric=(), normalise=("median",), subsample_size=(1.5,), n_subsamples=(0.8,), prompt_blocks=4
    )
    assert found["early_h1"].n_alternatives == 1 + 3 + 1 + 1 + 1 + 4
    for name in ("moves_h1", "moves_h0", "early_h1", "early_h0", "concentration_h1"):
        assert found[name].own.verdict == (PASSES if name.startswith("early") else "supported")
        assert found[name].flips == {}, name


def test_what_came_from_scale_flips_where_scale_is_taken_out_and_nowhere_else():
    still, growing = np.zeros(48), 1 + 0.6 * (1 - np.exp(-np.arange(48) / 6))
    run = examined(planted(still, 3, jitter=0.02, scale=growing))
    found = told(run, subsample_size=(), prompt_blocks=2)
    assert found["moves_h0"].own.verdict == "supported"
    # a cloud that grows from the origin keeps its angles; spread is that of the first checkpoint
    assert found["early_h0"].own.verdict == "explained by scale"
    assert found["moves_h0"].flips == {"cannot tell": ["metric cosine", "normalise median"]}


def test_what_the_learning_rate_explains_flips_with_the_clock_alone():
    rates = np.exp(-np.arange(48) / 8)
    share = np.concatenate([[0], np.cumsum(rates)]) / rates.sum()
    run = examined(planted(share, 5, jitter=0.02), rates)
    found = told(run, metric=(), normalise=(), subsample_size=(), prompt_blocks=0)["early_h1"]
    assert found.own.verdict == "explained by the learning rate"
    # told in learning-rate time from the first rung on, nothing is left to be explained
    assert found.flips == {
        PASSES: ["clock steps", "clock checkpoints"],
        "not supported": ["clock learning_rate"],
    }


@pytest.fixture(scope="module")
def two_layers():
    clouds = planted(RISE, 7, layers=(1, 2))
    rng = np.random.default_rng(0)
    answers = {step: rng.dirichlet(np.ones(4) + step / 10, size=80) for step in STEPS}
    return clouds, answers, examined(clouds, behaviour=answers)


KEPT = np.setdiff1d(np.arange(80), left_out(80, (1, 5), 0))


@pytest.mark.parametrize(
    ("changes", "topology", "layers", "prompts"),
    [
        ({"preparation": Preparation("cosine")}, {"metric": "cosine"}, (1, 2), slice(None)),
        ({"preparation": Preparation(normalise="zscore")}, {"normalise": "zscore"}, (1, 2), slice(None)),
        ({"n_subsamples": 2}, {"n_subsamples": 2}, (1, 2), slice(None)),
        ({"subsample_size": 16}, {"subsample_size": 16}, (1, 2), slice(None)),
        ({"without_layer": 1}, {}, (2,), slice(None)),
        ({"without_prompts": (1, 5)}, {}, (1, 2), KEPT),
        ({"order": 1.0}, {}, (1, 2), slice(None)),
    ],
)
def test_an_alternative_is_what_follow_says_of_the_arrays_so_prepared(
    two_layers, changes, topology, layers, prompts
):
    clouds, answers, run = two_layers
    chosen = {step: {layer: clouds[step][layer][prompts] for layer in layers} for step in STEPS}
    witness = topoflow.follow(
        chosen,
        behaviour={step: rows[prompts] for step, rows in answers.items()},
        topology=topoflow.Topology(**{"n_subsamples": 5, "subsample_size": 32, **topology}),
        claims=CLAIMS,
    )
    expected = [v for v in without_rotations(witness.verdicts) if v.claim != "leads"]
    choices = replace(OWN_CHOICES, **changes)
    assert [v for v in run.verdicts(choices).values() if v.claim != CONCENTRATION] == expected
    behaviour = run.trajectory(choices).behaviour
    assert np.array_equal(behaviour.squared, witness.behaviour.squared)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_the_concentration_is_that_which_the_stages_describe(two_layers, order):
    clouds, _, run = two_layers
    plan = subsample_plan(80, 5, 32, 0)
    layers = [
        follow_layer(of, [cell_diagrams(cloud, plan) for cloud in of], plan, order=order, n_replicates=0)
        for of in ([clouds[step][layer] for step in STEPS] for layer in (1, 2))
    ]
    pooled = describe_pooled(layers, STEPS)
    found = run.verdicts(replace(OWN_CHOICES, order=order))["concentration_h1"]
    assert (found.value, found.p) == (pooled["concentration"], pooled["concentration_p"])


def test_diagrams_that_are_known_are_used_and_those_of_other_choices_are_computed(two_layers):
    clouds, _, run = two_layers
    plan, asked = subsample_plan(80, 5, 32, 0), []

    def stored(step, layer):
        asked.append((step, layer))
        return cell_diagrams(clouds[step][layer], plan)

    known = replace(run.recorded, cell=stored)
    other = Examination(known, OWN_CHOICES, CLAIMS)
    fewer = replace(OWN_CHOICES, n_subsamples=2, without_layer=2)
    assert other.verdicts(fewer) == run.verdicts(fewer)
    assert {layer for _, layer in asked} == {1}
    asked.clear()
    other.verdicts(replace(OWN_CHOICES, subsample_size=16))
    assert asked == []


def test_where_rates_are_not_known_their_clock_tells_nothing_and_others_do(two_layers):
    _, _, run = two_layers
    unknown = Examination(replace(run.recorded, rates_known=False), OWN_CHOICES, CLAIMS)
    by = {
        clock: {name: v.verdict for name, v in unknown.verdicts(replace(OWN_CHOICES, clock=clock)).items()}
        for clock in ("learning_rate", "steps", "checkpoints")
    }
    assert by["learning_rate"]["early_h0"] == by["learning_rate"]["concentration_h0"] == "cannot tell"
    assert by["steps"]["early_h0"] == by["checkpoints"]["early_h0"] == PASSES


class TestAlternatives:
    def test_each_changes_one_choice_alone_and_none_is_the_studys_own(self):
        own = Choices(order=1.0, preparation=Preparation("cosine", "median", 5), subsample_size=100)
        found = alternatives(own, (3, 5), 120, joint=[{"order": 2, "clock": "checkpoints"}])
        assert [one.name for one in found if one.choices == own] == [OWN]
        assert len({one.name for one in found}) == len(found)
        said = [one.choices.told((3, 5), 120) for one in found]
        changed = [sum(said[0][key] != told[key] for key in told) for told in said[1:]]
        # of 108 prompts, 100 can be drawn still; 150 of 120 cannot
        assert changed == [1] * (len(found) - 2) + [2]
        assert {one.choices.subsample_size for one in found} == {50, 100}
        assert all(one.choices.preparation.pca == 5 for one in found)

    def test_one_layer_cannot_be_left_out(self):
        assert not [one for one in alternatives(Choices(), (3,), 750) if "layer" in one.name.split()]

    def test_a_subsample_of_all_prompts_shrinks_with_them_and_the_table_says_so(self):
        own = Choices(subsample_size=40)
        (block,) = (one for one in alternatives(own, (3,), 40) if one.name == "without block 1 of 10")
        assert block.choices.told((3,), 40)["subsample_size"] == 36

    def test_a_joint_choice_that_is_not_known_is_refused(self):
        with refused(name="joint", got="colour"):
            alternatives(Choices(), (3,), 40, joint=[{"colour": 1}])

    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(n=st.integers(2, 300), blocks=st.integers(2, 20), seed=st.integers(0, 2**32 - 1))
    def test_each_prompt_is_left_out_once_and_blocks_are_of_equal_size(self, n, blocks, seed):
        found = [left_out(n, (block, blocks), seed) for block in range(blocks)]
        assert sorted(np.concatenate(found).tolist()) == list(range(n))
        sizes = {len(one) for one in found}
        assert max(sizes) - min(sizes) <= 1
