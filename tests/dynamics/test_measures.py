"""Measures beside topology: known answers, what rotation and scale do to each, and independent witnesses."""

from __future__ import annotations

from itertools import combinations

import gudhi
import gudhi.representations
import numpy as np
import pytest
from ripser import ripser
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform
from scipy.stats import ortho_group

from topoflow.dynamics.cells import cell_diagrams
from topoflow.dynamics.features import GRID
from topoflow.dynamics.measures.dimension import effective_rank, mle_dimension, participation_ratio, two_nn
from topoflow.dynamics.measures.divergence import divergence_of, rtd, rtd_scale_free
from topoflow.dynamics.measures.geometry import centroid_drift, distance_change, variance_change
from topoflow.dynamics.measures.listed import IN_VELOCITY, MEASURES, chosen
from topoflow.dynamics.measures.measure import Cell
from topoflow.dynamics.measures.similarity import (
    cka_distance,
    mean_cosine,
    procrustes_distance,
    rms_displacement,
)
from topoflow.dynamics.measures.vectors import landscape, landscape_distance, silhouette_distance
from topoflow.errors import InvalidArgument
from topoflow.topology.point_clouds import subsample_plan

CLOUD = np.random.default_rng(0).normal(size=(30, 3)) * [1, 2, 5]
HERE = Cell(CLOUD, [])


def moved(scale: float = 1.0, by: float = 0.0) -> Cell:
    mean = CLOUD.mean(axis=0)
    return Cell(mean + scale * (CLOUD - mean) + by * np.array([2.0, 3.0, 6.0]), [])


def test_a_translation_drifts_and_changes_nothing_else():
    assert centroid_drift(HERE, moved(by=1)) == pytest.approx(7)
    assert variance_change(HERE, moved(by=1)) == pytest.approx(0, abs=1e-9)
    assert distance_change(HERE, moved(by=1)) == pytest.approx(0, abs=1e-9)


def test_a_scaling_about_the_mean_does_not_drift():
    assert centroid_drift(HERE, moved(3)) == pytest.approx(0, abs=1e-9)
    assert variance_change(HERE, moved(3)) == pytest.approx(8 * CLOUD.var(axis=0).sum())
    assert distance_change(HERE, moved(3)) == pytest.approx(2 * pdist(CLOUD).mean())


@pytest.mark.parametrize("measure", IN_VELOCITY, ids=lambda measure: measure.name)
def test_the_way_back_is_as_far_as_the_way_there(measure):
    there = measure.of(HERE, moved(2, by=1))
    assert there > 1
    assert measure.of(moved(2, by=1), HERE) == pytest.approx(there)


# --- all of them --------------------------------------------------------------------------------

PLAN = subsample_plan(30, 4, 26, seed=0)
OF_TWO = [measure for measure in MEASURES if measure.n_cells == 2]
OF_ONE = [measure for measure in MEASURES if measure.n_cells == 1]
SCALE_FREE = [
    "cka_distance", "procrustes_distance", "rtd_scale_free",
    *(f"h{h}_{name}" for h in (0, 1, 2) for name in ("silhouette", "landscape")),
]  # fmt: skip


def hollow(n: int = 30) -> np.ndarray:
    """Points about a sphere, so that there are components, loops and a void."""
    points = np.random.default_rng(2).normal(size=(n, 3))
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def cell_of(cloud: np.ndarray) -> Cell:
    return Cell(cloud, cell_diagrams(cloud, PLAN, maxdim=2), PLAN)


def rotation(n: int, seed: int = 0) -> np.ndarray:
    return ortho_group.rvs(n, random_state=seed)


@pytest.mark.parametrize("measure", OF_TWO, ids=lambda measure: measure.name)
def test_a_measure_of_two_cells_is_0_between_equals_positive_else_and_the_same_both_ways(measure):
    other = hollow() * [1, 1.4, 0.8] + 1 + 0.1 * np.random.default_rng(1).normal(size=(30, 3))
    here, there = cell_of(hollow()), cell_of(other)
    assert measure.of(here, here) == pytest.approx(0, abs=1e-7)
    assert measure.of(here, there) > 1e-4
    assert measure.of(there, here) == pytest.approx(measure.of(here, there))


@pytest.mark.parametrize("measure", [it for it in OF_TWO if it.name in SCALE_FREE], ids=lambda it: it.name)
def test_turning_moving_and_scaling_are_no_change_to_a_measure_that_knows_no_scale(measure):
    turned = cell_of(7 * hollow() @ rotation(3) + [1, 2, 3])
    assert measure.of(cell_of(hollow()), turned) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("measure", OF_ONE, ids=lambda measure: measure.name)
def test_a_rotation_changes_no_measure_of_one_cell_and_another_size_only_the_distance(measure):
    found = measure.of(cell_of(3 * CLOUD @ rotation(3)))
    factor = 3 if measure.name == "mean_distance" else 1
    assert found == pytest.approx(factor * measure.of(cell_of(CLOUD)))


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_a_constant_cloud_has_no_number_or_0_and_no_warning(measure):
    still = np.ones((30, 3))
    cells = [Cell(still, cell_diagrams(still, PLAN), PLAN) for _ in range(measure.n_cells)]
    found = measure.of(*cells)
    assert np.isnan(found) or found == pytest.approx(float(measure.name == "mean_cosine"))


def test_all_that_are_not_dear_are_chosen_together_and_others_by_name():
    cheap = {measure.name for measure in chosen(["cheap"])}
    assert cheap == {
        "rms_displacement", "cka_distance", "procrustes_distance", "mean_distance", "effective_rank",
        "participation_ratio",
        "two_nn", "mle_dimension", "mean_cosine", "h0_silhouette", "h0_landscape", "h1_silhouette", "h1_landscape",
    }  # fmt: skip
    assert {measure.name for measure in chosen(["cheap", "rtd", "h2_landscape"])} == cheap | {
        "rtd",
        "h2_landscape",
    }
    assert chosen([]) == ()
    with pytest.raises(InvalidArgument) as caught:
        chosen(["centroid_drift"])  # stands in velocity.csv already
    assert (caught.value.name, caught.value.got) == ("measures", "centroid_drift")


# --- similarity ---------------------------------------------------------------------------------


def unbiased_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """Song et al. 2012, equation 5, as it is printed."""
    n = len(x)
    k, m = (cloud @ cloud.T * (1 - np.eye(n)) for cloud in (x, y))
    one = np.ones(n)
    mean = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ m) + mean - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3)))


@pytest.mark.parametrize("n_coordinates", [2, 5, 60])
def test_cka_is_the_ratio_of_unbiased_estimates_of_hsic(n_coordinates):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, n_coordinates)) + 1
    y = x @ rng.normal(size=(n_coordinates, 7)) + rng.normal(size=(20, 7))
    expected = 1 - unbiased_hsic(x, y) / np.sqrt(unbiased_hsic(x, x) * unbiased_hsic(y, y))
    assert cka_distance(Cell(x, []), Cell(y, [])) == pytest.approx(expected)


def test_cka_of_independent_clouds_is_0_on_average_however_many_coordinates_they_have():
    found, usual = [], []
    for pair in np.random.default_rng(4).normal(size=(200, 2, 20, 200)):
        found.append(cka_distance(*(Cell(cloud, []) for cloud in pair)))
        one, other = (cloud @ cloud.T for cloud in pair - pair.mean(axis=1, keepdims=True))
        usual.append(1 - np.sum(one * other) / np.linalg.norm(one) / np.linalg.norm(other))
    assert np.mean(found) == pytest.approx(1, abs=0.02)
    assert np.mean(usual) < 0.2


def test_cka_needs_four_prompts():
    assert np.isnan(cka_distance(Cell(CLOUD[:3], []), Cell(CLOUD[:3] ** 2, [])))


@pytest.mark.parametrize("n_coordinates", [3, 60])
def test_procrustes_is_scipys(n_coordinates):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 25, n_coordinates)) + 2
    found = procrustes_distance(Cell(x, []), Cell(y, []))
    assert procrustes(x, y)[2] == pytest.approx(1 - (1 - found**2 / 2) ** 2)  # it fits the size as well
    x, y = (cloud - cloud.mean(axis=0) for cloud in (x, y))
    x, y = (cloud / np.linalg.norm(cloud) for cloud in (x, y))
    turn, _ = orthogonal_procrustes(x, y)
    assert found == pytest.approx(np.linalg.norm(x @ turn - y))


def test_displacement_sees_the_rotation_that_procrustes_takes_out():
    quarter = CLOUD - CLOUD.mean(axis=0)
    quarter = quarter[:, :2] @ [[0, 1], [-1, 0]]
    here, there = Cell(CLOUD[:, :2] - CLOUD[:, :2].mean(axis=0), []), Cell(quarter, [])
    assert procrustes_distance(here, there) == pytest.approx(0, abs=1e-6)
    way = np.sqrt(2) * np.linalg.norm(here.cloud, axis=1)
    assert rms_displacement(here, there) == pytest.approx(np.sqrt(np.mean(way**2)))


def test_the_mean_cosine_is_that_of_all_pairs():
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(CLOUD, 2)]
    assert mean_cosine(HERE) == pytest.approx(np.mean(cosines))
    assert mean_cosine(Cell(CLOUD + 1e6, [])) == pytest.approx(1)
    assert np.isnan(mean_cosine(Cell(np.zeros((3, 2)), [])))


# --- dimension ----------------------------------------------------------------------------------


def with_spectrum(values: list[float], n: int, n_coordinates: int) -> Cell:
    """A cloud about 0 with these singular values, turned at random, and moved away."""
    basis = np.linalg.qr(
        np.column_stack([np.ones(n), np.random.default_rng(6).normal(size=(n, len(values)))])
    )[0]
    return Cell(basis[:, 1:] * values @ rotation(n_coordinates)[: len(values)] + 5, [])


@pytest.mark.parametrize(("n", "n_coordinates"), [(40, 10), (12, 50)])
def test_ranks_are_those_of_a_planted_spectrum(n, n_coordinates):
    equal = with_spectrum([2.0] * 6, n, n_coordinates)
    assert effective_rank(equal) == pytest.approx(6)
    assert participation_ratio(equal) == pytest.approx(6)
    steep = with_spectrum([4.0, 2.0, 1.0, 1.0], n, n_coordinates)
    shares = np.array([4, 2, 1, 1]) / 8
    assert effective_rank(steep) == pytest.approx(np.exp(-np.sum(shares * np.log(shares))))
    assert participation_ratio(steep) == pytest.approx((16 + 4 + 1 + 1) ** 2 / (256 + 16 + 1 + 1))


def ball(n: int, dimension: int, n_coordinates: int, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(n, dimension))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    flat = directions * rng.uniform(size=(n, 1)) ** (1 / dimension)
    return flat @ rotation(n_coordinates)[:dimension]


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
@pytest.mark.parametrize("estimate", [two_nn, mle_dimension])
def test_a_ball_has_its_dimension_whatever_space_it_lies_in(estimate, dimension):
    found = estimate(Cell(ball(2000, dimension, 20), []))
    assert found == pytest.approx(dimension, rel=0.12)  # near the rim balls look smaller


@pytest.mark.parametrize("estimate", [two_nn, mle_dimension])
def test_points_that_coincide_do_not_decide_the_dimension(estimate):
    cloud = ball(500, 2, 5)
    doubled = np.concatenate([cloud, np.repeat(cloud[:1], 60, axis=0)])
    assert estimate(Cell(doubled, [])) == pytest.approx(estimate(Cell(cloud, [])), rel=0.05)
    assert np.isnan(estimate(Cell(np.repeat(cloud[:5], 2, axis=0), [])))
    assert np.isnan(estimate(Cell(cloud[:2], [])))


def test_the_likelihood_estimate_is_the_mean_of_inverses():
    found = []
    for row in squareform(pdist(CLOUD)):
        near = np.sort(row)[1:21]
        found.append(np.mean(np.log(near[19] / near[:19])))
    assert mle_dimension(HERE) == pytest.approx(1 / np.mean(found))


# --- diagrams -----------------------------------------------------------------------------------


def test_landscapes_are_gudhis():
    [[_, bars]] = cell_diagrams(ball(60, 2, 2), [range(60)])
    n_levels = len(bars)
    theirs = gudhi.representations.Landscape(
        num_landscapes=n_levels, resolution=len(GRID), sample_range=[GRID[0], GRID[-1]], keep_endpoints=True
    )
    expected = theirs.fit_transform([bars / 0.3]).reshape(n_levels, len(GRID)) / np.sqrt(2)
    assert n_levels > 5
    assert landscape(bars, unit=0.3) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("homology", [0, 1])
def test_distances_of_functions_are_integrals(homology):
    here, there = cell_of(CLOUD), cell_of(CLOUD * [1, 1, 3])
    level = np.zeros((2, 100, len(GRID)))
    mean = np.zeros((2, len(GRID)))
    for side, cell in enumerate((here, there)):
        for diagrams in cell.diagrams:
            bars = diagrams[homology][np.isfinite(diagrams[homology][:, 1])] / np.median(pdist(cell.cloud))
            tents = np.clip(np.minimum(GRID - bars[:, :1], bars[:, 1:] - GRID), 0, None)
            level[side, : len(bars)] += np.sort(tents, axis=0)[::-1] / len(cell.diagrams)
            if len(bars):
                mean[side] += np.average(tents, axis=0, weights=bars[:, 1] - bars[:, 0]) / len(cell.diagrams)
    spacing = GRID[1]
    expected = np.sqrt(np.sum((level[1] - level[0]) ** 2) * spacing)
    assert landscape_distance(here, there, homology) == pytest.approx(expected)
    expected = np.sqrt(np.sum((mean[1] - mean[0]) ** 2) * spacing)
    assert silhouette_distance(here, there, homology) == pytest.approx(expected)


def test_without_h2_there_is_no_distance_of_h2():
    cells = [Cell(cloud, cell_diagrams(cloud, PLAN), PLAN) for cloud in (CLOUD, 2 * CLOUD)]
    assert np.isnan(silhouette_distance(*cells, homology=2))
    assert np.isnan(landscape_distance(*cells, homology=2))


# --- representation topology divergence ----------------------------------------------------------


def relative_bars(one: np.ndarray, other: np.ndarray) -> float:
    """Sum of H1 bars of the joint complex relative to that of `one`: a cone over that, simplex by simplex."""
    n, joint = len(one), np.minimum(one, other)
    tree = gudhi.SimplexTree()
    tree.insert([n], 0.0)
    for size in (1, 2, 3):
        for simplex in combinations(range(n), size):
            edges = [*combinations(simplex, 2)]
            tree.insert([*simplex], max((joint[edge] for edge in edges), default=0.0))
            tree.insert([*simplex, n], max((one[edge] for edge in edges), default=0.0))
    tree.compute_persistence(persistence_dim_max=False, min_persistence=0.0)
    bars = tree.persistence_intervals_in_dimension(1)
    return float(np.sum(bars[:, 1] - bars[:, 0])) if len(bars) else 0.0


def papers_matrix(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The matrix of Barannikov et al., algorithm 1: half of `one` between the copies, and a further point."""
    n = len(one)
    matrix = np.full((2 * n + 1, 2 * n + 1), np.inf)
    half = np.where(np.tri(n, k=-1, dtype=bool), np.inf, one)
    matrix[:n, :n], matrix[n : 2 * n, n : 2 * n] = one, np.minimum(one, other)
    matrix[:n, n : 2 * n], matrix[n : 2 * n, :n] = half.T, half
    matrix[:n, -1] = matrix[-1, :n] = 0
    np.fill_diagonal(matrix, 0)
    return matrix


@pytest.mark.parametrize("seed", range(5))
def test_the_divergence_is_relative_homology_and_that_of_the_papers_own_matrix(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(11, 3))
    one, other = (squareform(pdist(cloud)) for cloud in (x, x + 0.8 * rng.normal(size=x.shape)))
    found = divergence_of(one, other)
    assert found > 0.1
    assert found == pytest.approx(relative_bars(one, other))
    bars = ripser(papers_matrix(one, other), distance_matrix=True, maxdim=1)["dgms"][1]
    assert np.isfinite(bars).all()
    assert found == pytest.approx(float(np.sum(bars[:, 1] - bars[:, 0])), rel=1e-5)


def test_rtd_is_the_mean_over_subsamples_and_directions():
    here, there = (Cell(cloud, [], PLAN) for cloud in (CLOUD, CLOUD * [1, 0.5, 1.5]))
    one, other = (squareform(pdist(cell.cloud)) for cell in (here, there))
    of = [
        divergence_of(*(matrix[np.ix_(row, row)] for matrix in pair))
        for row in PLAN
        for pair in ((one, other), (other, one))
    ]
    assert rtd(here, there) == pytest.approx(np.mean(of))
    of = [divergence_of(a / np.quantile(pdist(cell.cloud), 0.9), b / np.quantile(pdist(last.cloud), 0.9))
          for row in PLAN
          for cell, last in ((here, there), (there, here))
          for a, b in [(squareform(pdist(cell.cloud[row])), squareform(pdist(last.cloud[row])))]]  # fmt: skip
    assert rtd_scale_free(here, there) == pytest.approx(np.mean(of))
