"""Classes of prompts: equal points, what each null keeps, planted classes, and a probe beside other ways to its AUC."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from support import refused

from topoflow.config import Topology
from topoflow.dynamics import power
from topoflow.dynamics.cells import cell_diagrams, cell_distances
from topoflow.dynamics.claims import Claims
from topoflow.dynamics.classes import (
    KINDS,
    RAW,
    SCALE,
    SHAPE,
    Drawing,
    class_diagrams,
    class_velocities,
    difference,
    draw_classes,
    probe,
)
from topoflow.dynamics.design import Design
from topoflow.dynamics.following import follow
from topoflow.dynamics.labels import LEAST, MOST, check_labels, classes_of
from topoflow.dynamics.sensitivity import Choices, Examination
from topoflow.topology.persistence import vietoris_rips_diagrams

LABELS = ["a", "b"] * 30
STEPS = [anchor + twin for anchor in range(0, 50, 10) for twin in (0, 1)]
ODD = np.array([label == "b" for label in LABELS])[:, None]


def clouds_of(seed, way, jitter=0.02):
    """Clouds at twins, by step; `way` says how far the prompts of each label go between anchors."""
    rng = np.random.default_rng(seed)
    cloud, found = rng.normal(size=(60, 4)), {}
    for at, step in enumerate(STEPS):
        if at % 2 == 0 and at:
            cloud = cloud + np.where(ODD, way["b"], way["a"]) * rng.normal(size=cloud.shape)
        found[step] = {1: cloud + jitter * rng.normal(size=cloud.shape)}
    return found


def told(clouds, labels=LABELS, n_rotations=39):
    run = follow(clouds, topology=Topology(4, 30), claims=Claims(n_rotations=n_rotations), labels=labels)
    from topoflow.dynamics.claims.classes import of_run

    return run, {verdict.homology: verdict for verdict in of_run(run)}


# --- labels ---


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a"] * 59, "one for each of the 60 prompts"),
        ("a" * 60, "one for each of the 60 prompts"),
        (["a", None] * 30, "there for each prompt or for none"),
        (["a", ""] * 30, "there for each prompt or for none"),
        (["a", float("nan")] * 30, "there for each prompt or for none"),
        (["a"] * 60, "of two classes or more"),
        (["a"] * (61 - LEAST) + ["b"] * (LEAST - 1), "of two classes or more"),
        (["a/b", "c"] * 30, "words of letters"),
        ([1.5, 2.5] * 30, "words of letters"),
        (["x" * 65, "c"] * 30, "words of letters"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, expected):
    with refused(name="labels", expected=expected):
        check_labels(labels, 60)
    with refused(name="labels", expected=expected):
        follow({0: {1: np.eye(60)}, 8: {1: np.eye(60)}}, labels=labels)


def test_too_many_classes_are_refused_and_small_ones_are_left_out():
    many = [str(number) for number in range(MOST + 1) for _ in range(LEAST)]
    with refused(name="labels", expected=f"at most {MOST}", got=MOST + 1):
        check_labels(many, len(many))
    few = many[: MOST * LEAST] + ["rare"] * (LEAST - 1)
    assert sorted(classes_of(check_labels(few, len(few)))) == sorted(set(many[: MOST * LEAST]))


def test_labels_may_be_truth_values_or_numbers():
    assert set(check_labels([True, np.False_] * 20, 40)) == {"true", "false"}
    assert set(check_labels([0, np.int64(1)] * 20, 40)) == {"0", "1"}


# --- velocities ---


def test_each_class_has_as_many_points_and_no_other_than_its_own():
    classes = {"a": np.arange(30), "b": np.arange(30, 120), "c": np.arange(120, 145)}
    drawn = draw_classes(classes, range(4), n_subsamples=3, most=160, seed=0)
    assert drawn.plan.shape[1] == 25
    for at, places in enumerate(classes.values()):
        rows = drawn.plan[drawn.owner == at]
        assert len(rows) == (1 if len(places) == 25 else 3)
        assert np.isin(rows, places).all()
        assert all(len(np.unique(row)) == 25 for row in rows)
    shuffled = drawn.plan[drawn.owner == 3]  # class a of the first shuffle
    assert not np.isin(shuffled, classes["a"]).all()
    capped = draw_classes(classes, range(1), n_subsamples=3, most=10, seed=0)
    assert capped.plan.shape == (9, 10)


def test_velocities_are_those_of_the_cells_of_each_class_by_itself():
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(60, 4)) for _ in range(3)]
    found = class_velocities(clouds, LABELS, how=Drawing(n_shuffles=3))
    for at, label in enumerate("ab"):
        own = [cell_diagrams(cloud[np.array(LABELS) == label], [list(range(30))]) for cloud in clouds]
        for h in (0, 1):
            wanted = [cell_distances(x, y, h)[0] for x, y in pairwise(own)]
            assert found[f"H{h}"][0, at] == pytest.approx(wanted, rel=1e-9)


def test_a_class_that_is_larger_in_all_has_the_same_velocities_without_scale():
    rng = np.random.default_rng(1)
    clouds = [rng.normal(size=(60, 4)) for _ in range(3)]
    larger = [np.where(ODD, 100 * cloud + 7, cloud) for cloud in clouds]
    one, other = (class_velocities(of, LABELS, SCALE, Drawing(n_shuffles=5)) for of in (clouds, larger))
    for h in ("H1", "H0"):
        assert one[h] == pytest.approx(other[h], rel=1e-6)


def test_ways_that_are_exchanged_keep_starts_and_know_nothing_of_where_a_class_goes_as_a_whole():
    rng = np.random.default_rng(2)
    start = rng.normal(size=(60, 4))
    moved = [start, start + np.where(ODD, 9.0, 0.0), start + np.where(ODD, 20.0, -3.0)]  # each class rigidly
    found = class_velocities(moved, LABELS, SHAPE, Drawing(n_shuffles=5))
    assert np.abs(found["H0"]).max() < 1e-9
    clouds = [start, *(start + rng.normal(size=start.shape) for _ in range(2))]
    of_ways, raw = (class_velocities(clouds, LABELS, kind, Drawing(n_shuffles=5)) for kind in (SHAPE, RAW))
    assert of_ways["H1"][0] == pytest.approx(raw["H1"][0], rel=1e-9)  # nothing is exchanged in the first
    assert (of_ways["H1"][1:] != raw["H1"][1:]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_shuffles_are_drawn_by_the_seed(kind):
    clouds = [np.random.default_rng(step).normal(size=(60, 4)) for step in range(2)]
    once, again, other = (
        class_velocities(clouds, LABELS, kind, Drawing(n_shuffles=3, seed=seed))["H1"] for seed in (0, 0, 1)
    )
    assert np.array_equal(once, again)
    assert np.array_equal(once[0], other[0])
    assert not np.array_equal(once[1:], other[1:])


def test_the_difference_counts_between_anchors_and_beyond_the_jitter_of_each_class():
    still, going = [2.0, 2.0, 2.0, 2.0, 2.0], [2.0, 4.0, 2.0, 4.0, 2.0]
    steps = [0, 1, 8, 9, 16, 17]
    # squares beyond jitter: 0 and 2 x 12; their spread 12, and the mean of all squares (8 + 32) / 2
    assert difference([still, going], steps) == pytest.approx(12 / 20)
    assert difference([[0.0] * 5] * 2, steps) != difference([[0.0] * 5] * 2, steps)  # NaN: nothing moves


# --- the claim ---


@pytest.mark.parametrize("seed", range(3))
def test_a_class_that_alone_moves_is_found(seed):
    run, verdicts = told(clouds_of(seed, {"a": 0.0, "b": 0.3}))
    assert verdicts["H0"].verdict == "supported"
    assert verdicts["H0"].p == pytest.approx(2 / 40)  # adjusted for H1
    assert [name for name, _ in verdicts["H0"].steps] == ["moves", *KINDS]
    assert verdicts["H0"].value == pytest.approx(1.0, abs=0.2)
    moved = run.classes[1].velocity["H0"][0, :, 1::2].sum(axis=1)
    assert moved[1] > 3 * moved[0]


def test_classes_that_move_alike_are_not_told_apart():
    supported = [told(clouds_of(seed, {"a": 0.2, "b": 0.2}))[1]["H0"].verdict for seed in range(12)]
    assert supported.count("supported") <= 1


@pytest.mark.parametrize("spread", [3.0, 10.0])
def test_a_class_that_moves_more_only_because_it_is_spread_wider_stops_at_scale(spread):
    rungs = []
    for seed in range(4):
        clouds = clouds_of(seed, {"a": 0.2, "b": 0.2})
        wider = {step: {1: np.where(ODD, spread * of[1], of[1])} for step, of in clouds.items()}
        rungs.append(told(wider)[1]["H0"].rung)
    assert rungs.count("scale") >= 3


def test_without_labels_there_is_no_such_verdict_and_no_class():
    run = follow(clouds_of(0, {"a": 0.0, "b": 0.3}), topology=Topology(4, 30), claims=Claims(n_rotations=0))
    assert not run.classes
    assert "classes" not in {verdict.claim for verdict in run.verdicts}
    assert "classes" not in {found.claim for found in power.of_run(Design(STEPS))}


def test_too_few_shuffles_and_too_few_prompts_cannot_tell():
    clouds = clouds_of(0, {"a": 0.0, "b": 0.3})
    run, verdicts = told(clouds, n_rotations=38)
    assert verdicts["H0"].why == "needs 39 shuffles of the labels, and claims.n_rotations allows 38"
    fewer = replace(run, recorded=replace(run.recorded, labels=("a", "b", "c", "d") * 15), _of_classes={})
    from topoflow.dynamics.claims.classes import of_run

    assert fewer.classes == {}
    assert {verdict.verdict for verdict in of_run(fewer)} == {"cannot tell"}


def test_classes_that_do_not_move_cannot_be_told_apart():
    cloud = np.random.default_rng(0).normal(size=(60, 4))
    run, verdicts = told({step: {1: cloud} for step in STEPS})
    assert {verdict.verdict for verdict in verdicts.values()} == {"cannot tell"}
    assert np.isnan(run.class_differences(RAW)["H1"]).all()


def test_a_block_of_prompts_that_sensitivity_leaves_out_takes_its_labels_along():
    run, _ = told(clouds_of(0, {"a": 0.0, "b": 0.3}))
    own = Choices(n_subsamples=4, subsample_size=30)
    examined = Examination(run.recorded, own, Claims(n_rotations=0))
    fewer = examined.trajectory(replace(own, without_prompts=(0, 5), order=1.0)).recorded
    assert len(fewer.labels) == len(fewer.cloud(0, 1)) == 48
    assert fewer.order == 1.0
    kept = [(run.recorded.cloud(0, 1)[:, 0] == point[0]).nonzero()[0][0] for point in fewer.cloud(0, 1)]
    assert fewer.labels == tuple(LABELS[place] for place in kept)


# --- the probe ---


def test_the_auc_is_that_of_cross_validation():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(60, 6)) + 0.7 * ODD
    auc, _ = probe(cloud, LABELS, seed=3)
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    wanted = cross_val_score(model, cloud, np.array(LABELS) == "b", cv=folds, scoring="roc_auc").mean()
    assert auc == pytest.approx([wanted, wanted])


def test_states_that_know_nothing_stay_within_chance_and_a_class_apart_is_told():
    rng = np.random.default_rng(0)
    labels = ["a", "b", "c"] * 25
    inside = []
    for _ in range(40):
        auc, chance = probe(rng.normal(size=(75, 5)), labels)
        inside.append((chance[:, 0] <= auc) & (auc <= chance[:, 1]))
    assert 0.88 <= np.mean(inside) <= 1.0
    apart = rng.normal(size=(75, 5)) + 8 * np.array([label == "c" for label in labels])[:, None]
    auc, chance = probe(apart, labels)
    assert auc[2] == 1.0
    assert auc[0] < 0.9  # from b nothing tells it
    assert chance == pytest.approx(
        np.array([[0.5 - reach, 0.5 + reach] for reach in [chance[0, 1] - 0.5] * 3])
    )


def test_diagrams_of_a_class_are_those_of_its_points_alone():
    cloud = np.random.default_rng(3).normal(size=(50, 4))
    found = class_diagrams(cloud, ["a"] * 20 + ["b"] * 30, Drawing(n_subsamples=3))
    for one, other in zip(found["a"][0], vietoris_rips_diagrams(cloud[:20]), strict=True):
        np.testing.assert_allclose(one, other)
    moved = np.vstack(
        [cloud[:20] + 9, cloud[20:]]
    )  # a class of its own: where it lies does not matter to the other
    for before, after in zip(
        found["b"], class_diagrams(moved, ["a"] * 20 + ["b"] * 30, Drawing(n_subsamples=3))["b"], strict=True
    ):
        np.testing.assert_allclose(before[1], after[1])
    assert [len(of_class) for of_class in found.values()] == [1, 3]
