"""Which prompts made a change: planted ones come first, shares add up, and symmetries hold."""

from __future__ import annotations

import numpy as np
import pytest
from support import refused

from topoflow.dynamics.attribution import Attribution, attribute, attribute_layer, prompt_cell
from topoflow.dynamics.following import follow
from topoflow.errors import InvalidArgument
from topoflow.topology.distances import wasserstein_distance
from topoflow.topology.persistence import subsample_diagrams
from topoflow.topology.point_clouds import distance_matrix, subsample_plan

N, GROUP = 120, 12


def told(before, after, plan, order=2.0) -> Attribution:
    return attribute(prompt_cell(before, plan), prompt_cell(after, plan), order)


def planted(kind, seed):
    """Clouds before and after, with jitter, and the prompts that were moved."""
    rng = np.random.default_rng(seed)
    cloud, group = rng.normal(size=(N, 6)), rng.choice(N, GROUP, replace=False)
    axes = np.linalg.qr(rng.normal(size=(6, 3)))[0].T
    if kind == "loop":
        cloud[group] = 30 * axes[2] + 0.2 * rng.normal(size=(GROUP, 6))
    later = cloud.copy()
    turns = 2 * np.pi * np.arange(GROUP) / GROUP
    later[group] += 6 * (
        np.stack([np.cos(turns), np.sin(turns)], 1) @ axes[:2] if kind == "loop" else axes[0]
    )
    pair = (later, cloud) if kind == "merge" else (cloud, later)
    return *(states + 0.05 * rng.normal(size=states.shape) for states in pair), group


@pytest.mark.parametrize("kind", ["loop", "split", "merge"])
@pytest.mark.parametrize("seed", range(3))
def test_planted_prompts_come_first(kind, seed):
    before, after, group = planted(kind, seed)
    found = told(before, after, subsample_plan(N, 16, 50, seed))
    assert np.isin(found.order[:GROUP], group).mean() > 0.9


def test_prompts_that_only_change_places_do_not_come_first_though_they_go_as_far():
    before, after, group = planted("split", 0)
    others = np.setdiff1d(np.arange(N), group)[:GROUP]
    after[others] = after[np.roll(others, 1)]
    found = told(before, after, subsample_plan(N, 16, 50, 0))
    assert np.isin(found.order[:GROUP], group).mean() > 0.9
    by_neighbours = np.argsort(-found.neighbours, kind="stable")[:GROUP]
    assert np.isin(by_neighbours, others).any()


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0])
def test_bars_are_the_edges_of_the_matching_that_the_distance_sums(order):
    before, after, _ = planted("loop", 0)
    plan = subsample_plan(N, 6, 40, 0)
    found = told(before, after, plan, order)
    cells = [subsample_diagrams(distance_matrix(cloud), plan) for cloud in (before, after)]
    for homology, changed in found.bars.items():
        powers = 0.0
        for one, other in zip(*cells, strict=True):
            powers += wasserstein_distance(one[int(homology[1])], other[int(homology[1])], order) ** order
        told_of = 0.0
        for bar in changed:
            if bar.before and bar.after:
                length = np.hypot(bar.after[0] - bar.before[0], bar.after[1] - bar.before[1])
            else:
                birth, death = bar.before or bar.after
                length = (death - birth) / np.sqrt(2)
            assert bar.share == pytest.approx(bar.n_subsamples * length**order / powers, rel=1e-9)
            told_of += bar.n_subsamples * length**order
        assert told_of == pytest.approx(powers, rel=1e-9)
        assert sum(bar.share for bar in changed) == pytest.approx(1)
        assert [bar.share for bar in changed] == sorted((bar.share for bar in changed), reverse=True)


def test_the_shares_of_one_subsample_are_one_together():
    before, after, _ = planted("split", 1)
    found = told(before, after, [list(range(60))])
    for share in found.shares.values():
        assert share[:60].sum() == pytest.approx(1)
        assert np.isnan(share[60:]).all()  # no subsample holds them
    assert not np.isin(found.order[:60], range(60, N)).any()


def test_another_order_of_prompts_gives_the_same_scores_in_that_order():
    before, after, _ = planted("loop", 1)
    plan = subsample_plan(N, 8, 40, 0)
    found, turn = told(before, after, plan), np.random.default_rng(0).permutation(N)
    place = np.argsort(turn)  # where each prompt has gone
    other = told(before[turn], after[turn], place[plan])
    for one, another in zip(
        (*found.shares.values(), found.displacement, found.neighbours),
        (*other.shares.values(), other.displacement, other.neighbours),
        strict=True,
    ):
        np.testing.assert_allclose(another, one[turn], rtol=1e-7, atol=1e-12)


def test_a_common_drift_and_another_unit_change_no_share():
    before, after, _ = planted("split", 2)
    plan = subsample_plan(N, 8, 40, 0)
    found, moved = told(before, after, plan), told(8 * before, 8 * (after + 100), plan)
    for homology, share in found.shares.items():
        np.testing.assert_allclose(moved.shares[homology], share, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moved.displacement, 8 * found.displacement, rtol=1e-6)
    assert np.array_equal(moved.neighbours, found.neighbours)


def test_there_and_back_is_told_alike():
    before, after, _ = planted("merge", 0)
    plan = subsample_plan(N, 8, 40, 0)
    one, other = told(before, after, plan), told(after, before, plan)
    for homology, share in one.shares.items():
        np.testing.assert_allclose(other.shares[homology], share, rtol=1e-9)
    kinds = {"born": "died", "died": "born", "matched": "matched"}
    count = {kind: sum(bar.kind == kind for bar in one.bars["H1"]) for kind in kinds}
    assert {kinds[kind]: n for kind, n in count.items()} == {
        kind: sum(bar.kind == kind for bar in other.bars["H1"]) for kind in kinds
    }


def test_where_nothing_moves_no_bar_changed_and_no_prompt_has_a_share():
    cloud = np.random.default_rng(0).normal(size=(30, 3))
    found = told(cloud, cloud, [list(range(20))])
    assert found.bars == {"H1": (), "H0": ()}
    assert not found.share.any()
    assert not found.neighbours.any()


def test_of_a_ring_with_one_point_that_moves_along_it_that_point_has_the_whole_change():
    angles = 2 * np.pi * np.arange(12) / 12
    moved = angles + 0.2 * (np.arange(12) == 5)
    ring, wider = (np.stack([np.cos(at), np.sin(at)], axis=1) for at in (angles, moved))
    found = told(ring, wider, [list(range(12))])
    bar = found.bars["H1"][0]
    assert bar.kind == "matched"
    assert bar.before[1] == pytest.approx(bar.after[1])  # the bar is born later, and dies as it did
    assert bar.after[0] == pytest.approx(2 * np.sin(np.pi / 12 + 0.1))
    assert 5 in bar.prompts
    assert found.order[0] == 5
    assert found.shares["H1"][5] > 0.9


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("plan", ([[0.0], [1.0]], [0, 1])),
        ("plan", ([[0.0], [1.0]], [[0, 2]])),
        ("plan", ([[0.0], [1.0]], [[0.0, 1.0]])),
        ("cloud", ([0.0, 1.0], [[0, 1]])),
    ],
)
def test_cells_that_make_no_sense_are_refused_by_name(name, arguments):
    with refused(InvalidArgument, name=name):
        prompt_cell(*arguments)


def test_cells_of_other_prompts_or_plans_are_refused():
    cloud = np.random.default_rng(0).normal(size=(10, 2))
    cell = prompt_cell(cloud, [[0, 1, 2]])
    for other in (prompt_cell(cloud, [[0, 1, 3]]), prompt_cell(cloud[:9], [[0, 1, 2]])):
        with refused(InvalidArgument, name="after"):
            attribute(cell, other)
    with refused(InvalidArgument, name="order"):
        attribute(cell, cell, 0.5)


class TestTrajectory:
    @pytest.fixture(scope="class")
    def run(self):
        rng = np.random.default_rng(0)
        clouds = rng.normal(size=(3, 40, 4))
        return follow(
            {step: {1: cloud, 2: 2 * cloud} for step, cloud in zip((0, 8, 16), clouds, strict=True)}
        )

    def test_prompts_are_those_of_the_clouds_and_the_plan(self, run):
        recorded = run.recorded
        for since, before in ((None, 8), (0, 0)):
            found = run.prompts(16, 2, since)
            clouds = [recorded.cloud(step, 2) for step in (before, 16)]
            (expected,) = attribute_layer(clouds, recorded.plan, [(0, 1)])
            assert np.array_equal(found.shares["H1"], expected.shares["H1"])
            assert found.bars == expected.bars

    @pytest.mark.parametrize(
        ("name", "arguments"),
        [("layer", (8, 3)), ("step", (0, 1)), ("step", (9, 1)), ("since", (8, 1, 8)), ("since", (8, 1, 3))],
    )
    def test_what_was_not_recorded_is_refused_by_name(self, run, name, arguments):
        with refused(InvalidArgument, name=name):
            run.prompts(*arguments)
