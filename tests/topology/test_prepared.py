"""Clouds that are prepared: their Euclidean distances are the ones that are asked for."""

from typing import get_args, get_type_hints

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from support import refused
from threadpoolctl import threadpool_limits

import topoflow
from topoflow.config import Recording
from topoflow.recording.callback import TEMPLATES
from topoflow.recording.live import LiveTopology
from topoflow.topology.prepared import METRICS, SCALES, Preparation

CLOUD, FIRST = np.random.default_rng(0).normal(size=(2, 30, 5)) * [1, 2, 3, 40, 0.1]


def distances(points):
    return cdist(points, points)


def test_nothing_is_done_by_default():
    assert Preparation().plain
    assert Preparation().words == ""
    assert np.array_equal(Preparation()(CLOUD, FIRST), CLOUD)


def test_cosine_is_the_chord_between_directions():
    found = distances(Preparation(metric="cosine")(CLOUD))
    np.testing.assert_allclose(found**2 / 2, cdist(CLOUD, CLOUD, "cosine"), atol=1e-12)


def test_zscore_divides_by_the_spread_of_the_first_cloud_and_leaves_what_is_constant():
    first, cloud = FIRST.copy(), CLOUD.copy()
    first[:, 2] = cloud[:, 2] = 7.0
    found = distances(Preparation(normalise="zscore")(cloud, first))
    kept = [0, 1, 3, 4]
    wanted = cdist(cloud[:, kept], cloud[:, kept], "seuclidean", V=first[:, kept].var(axis=0))
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_pca_projects_to_the_leading_directions_of_the_first_cloud():
    found = distances(Preparation(pca=2)(CLOUD, FIRST))
    np.testing.assert_allclose(found, distances(PCA(2).fit(FIRST).transform(CLOUD)), atol=1e-9)


def test_the_median_distance_is_one_whatever_came_before():
    prepared = Preparation(metric="cosine", normalise="median", pca=3)
    found = distances(prepared(CLOUD, FIRST))[np.triu_indices(30, 1)]
    assert np.median(found) == pytest.approx(1)
    assert prepared.words.count(",") == 2
    still = Preparation(normalise="median")(np.ones((4, 2)))
    assert np.array_equal(still, np.ones((4, 2)))  # one point has no median distance to divide by


def test_diagrams_of_a_cloud_are_those_of_the_prepared_one():
    asked = topoflow.vietoris_rips_diagrams(CLOUD, metric="cosine", normalise="zscore", pca=3)
    made = topoflow.vietoris_rips_diagrams(Preparation("cosine", "zscore", 3)(CLOUD))
    for one, other in zip(asked, made, strict=True):
        assert np.array_equal(one, other)


def test_a_run_of_arrays_is_followed_in_the_prepared_clouds():
    steps = [anchor + twin for anchor in range(0, 48, 8) for twin in (0, 1)]
    rng = np.random.default_rng(1)
    clouds = {step: {1: FIRST + 0.1 * rng.normal(size=FIRST.shape)} for step in steps}
    asked = topoflow.follow(clouds, topology=topoflow.Topology(4, 15, metric="cosine", normalise="zscore"))
    prepared = Preparation("cosine", "zscore")
    made = {step: {1: prepared(layers[1], clouds[0][1])} for step, layers in clouds.items()}
    plain = topoflow.follow(made, topology=topoflow.Topology(4, 15))
    assert asked.verdicts == plain.verdicts
    other = topoflow.follow(clouds, topology=topoflow.Topology(4, 15))
    assert other.movement("raw")["H1"].squared.tolist() != asked.movement("raw")["H1"].squared.tolist()


def test_topology_that_is_computed_while_training_prepares_by_its_first_checkpoint():
    live = LiveTopology(30, 4, 15, prepared=Preparation("cosine", "zscore"))
    plain = LiveTopology(30, 4, 15)
    for cloud in (FIRST, CLOUD):
        made = plain.update({1: Preparation("cosine", "zscore")(cloud, FIRST)})
        assert live.update({1: cloud}) == made


def test_what_is_learnt_from_the_first_cloud_is_learnt_once_and_has_the_same_bits_on_any_threads(monkeypatch):
    decomposed = []
    svd = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *a, **k: decomposed.append(1) or svd(*a, **k))
    wide = np.random.default_rng(2).normal(size=(3, 200, 300))
    found = []
    for n_threads in (1, 2):
        with threadpool_limits(n_threads, user_api="blas"):
            prepared = Preparation("cosine", "zscore", 40).fitted(wide[0])
            found.append([prepared(cloud).tobytes() for cloud in wide])
    assert found[0] == found[1]
    assert len(decomposed) == 2


def test_params_yaml_takes_the_names_that_there_are():
    hints = get_type_hints(topoflow.Topology)
    assert get_args(hints["metric"]) == METRICS
    assert get_args(hints["normalise"]) == SCALES
    assert get_args(get_type_hints(Recording)["template"]) == TEMPLATES


def test_what_cannot_be_done_is_refused_by_name():
    with refused(name="metric", expected="cosine", got="manhattan"):
        Preparation(metric="manhattan")
    with refused(name="normalise", expected="zscore", got="minmax"):
        Preparation(normalise="minmax")
    with refused(name="pca", expected="1 or more", got=0):
        Preparation(pca=0)
    with refused(name="points", expected="other than 0"):
        Preparation(metric="cosine")([[0.0, 0.0], [1.0, 0.0]])
    with refused(name="metric", got="precomputed"):
        topoflow.vietoris_rips_diagrams(np.zeros((3, 3)), metric="precomputed", pca=2)
