import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from support import in_another_process, refused
from witnesses import circle, gudhi_diagrams, in_float32

from topoflow.topology.distances import wasserstein_distance
from topoflow.topology.persistence import (
    choose_engine,
    finite_bars,
    subsample_diagrams,
    vietoris_rips_diagrams,
)
from topoflow.topology.point_clouds import distance_matrix, subsample_plan

reproducible = settings(deadline=None, derandomize=True, max_examples=60)
seeds = st.integers(0, 2**32 - 1)


def as_ripser_reads(distances):
    """In float32, of which GUDHI must give the very same numbers."""
    return np.asarray(distances, dtype=np.float32).astype(float)


def assert_same(found, expected):
    assert len(found) == len(expected)
    bars = np.concatenate([*found, *expected])
    longest = np.max(bars, where=np.isfinite(bars), initial=0.0)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float64
        assert np.array_equal(in_float32(one, longest), in_float32(other, longest)), (one, other)


@st.composite
def grids(draw):
    """Few points on a small grid: ties everywhere, duplicates often."""
    n_points, n_coordinates = draw(st.integers(1, 14)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(seeds))
    return rng.integers(0, draw(st.integers(1, 4)), size=(n_points, n_coordinates), endpoint=True).astype(
        float
    )


@st.composite
def clouds(draw):
    return np.random.default_rng(draw(seeds)).normal(size=(draw(st.integers(1, 16)), draw(st.integers(1, 5))))


@st.composite
def dissimilarities(draw):
    """Symmetric matrices without the triangle inequality, off-diagonal zeros included."""
    n_points = draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(seeds))
    upper = np.triu(rng.integers(0, 9, size=(n_points, n_points)) / 8, k=1)
    return upper + upper.T


def projective_plane():
    """A distance whose Vietoris-Rips complex at 1 is the projective plane.

    Points are the faces of its 6-vertex triangulation (the hemi-icosahedron), at distance 1 if one contains
    the other and 2 if not: the barycentric subdivision is a flag complex.
    """
    triangles = ["012", "023", "034", "045", "051", "124", "235", "341", "452", "513"]
    faces = {frozenset(part) for t in triangles for k in (1, 2, 3) for part in itertools.combinations(t, k)}
    faces = sorted(faces, key=lambda face: (len(face), sorted(face)))
    assert len(faces) == 6 + 15 + 10
    comparable = np.array([[x < y or y < x for y in faces] for x in faces])
    return np.where(comparable, 1.0, 2.0) - 2.0 * np.eye(len(faces))


engines = pytest.mark.parametrize(
    ("engine", "digits"), [("lune", 1e-12), ("redzed", 1e-12), ("ripser", 1e-6)]
)


class TestKnownShapes:
    def test_the_unit_square_has_three_components_to_join_and_one_loop(self):
        h0, h1 = vietoris_rips_diagrams([[0, 0], [1, 0], [1, 1], [0, 1]])
        assert h0.tolist() == [[0, 1], [0, 1], [0, 1], [0, math.inf]]
        np.testing.assert_allclose(h1, [[1, math.sqrt(2)]], rtol=1e-7)

    @engines
    @pytest.mark.parametrize("radius", [1.0, 0.5, 25.0])
    @pytest.mark.parametrize("n_points", [4, 5, 6, 7, 31, 32, 33, 64, 100])
    def test_a_circle_has_one_loop_from_the_side_to_the_inscribed_triangle(
        self, engine, digits, n_points, radius
    ):
        points, side, death = circle(n_points, radius)
        h0, h1 = vietoris_rips_diagrams(points, engine=engine)
        np.testing.assert_allclose(h1, [[side, death]], rtol=digits)
        np.testing.assert_allclose(finite_bars(h0)[:, 1], np.full(n_points - 1, side), rtol=digits)

    def test_two_distant_clusters_have_one_long_h0_bar(self):
        cluster = np.random.default_rng(0).normal(size=(20, 3))
        other = cluster + np.array([100, 0, 0])
        h0, _ = vietoris_rips_diagrams(np.vstack([cluster, other]))
        deaths = finite_bars(h0)[:, 1]
        assert (deaths > 50).sum() == 1
        assert deaths.max() == pytest.approx(cdist(cluster, other).min(), rel=1e-6)

    @engines
    def test_collinear_points_have_no_loop(self, engine, digits):
        position = np.random.default_rng(1).normal(size=80)
        h0, h1 = vietoris_rips_diagrams(position[:, None] * [1.0, 2.0, -2.0], engine=engine)
        assert h1.shape == (0, 2)
        gaps = np.sort(3 * np.diff(np.sort(position)))
        np.testing.assert_allclose(finite_bars(h0)[:, 1], gaps, rtol=max(digits, 1e-9))

    def test_the_octahedron_has_a_void(self):
        _, h1, h2 = vietoris_rips_diagrams(np.vstack([np.eye(3), -np.eye(3)]), maxdim=2)
        assert h1.shape == (0, 2)
        np.testing.assert_allclose(h2, [[math.sqrt(2), 2]], rtol=1e-6)

    def test_coefficients_tell_the_projective_plane_from_a_disc(self):
        over = {
            coeff: vietoris_rips_diagrams(projective_plane(), 2, metric="precomputed", thresh=1, coeff=coeff)
            for coeff in (2, 3, 127)
        }
        assert [over[2][k].tolist() for k in (1, 2)] == [[[1, math.inf]], [[1, math.inf]]]
        for coeff in (3, 127):
            assert [len(over[coeff][k]) for k in (1, 2)] == [0, 0]


class TestConventions:
    def test_twenty_points_and_seven_duplicates_have_nineteen_finite_h0_bars(self):
        points = np.random.default_rng(2).normal(size=(20, 600)) + 5
        h0, h1 = vietoris_rips_diagrams(np.vstack([points, points[:7]]))
        assert len(finite_bars(h0)) == 19
        assert_same([h0, h1], vietoris_rips_diagrams(points))

    def test_one_point_has_one_component_and_nothing_else(self):
        h0, h1, h2 = vietoris_rips_diagrams([[3.0, 4.0]], maxdim=2)
        assert h0.tolist() == [[0, math.inf]]
        assert h1.shape == h2.shape == (0, 2)

    def test_a_constant_cloud_has_one_component_and_nothing_else(self):
        h0, h1 = vietoris_rips_diagrams(np.full((12, 5), 0.1))
        assert h0.tolist() == [[0, math.inf]]
        assert h1.shape == (0, 2)

    def test_auto_is_lune_where_it_can_serve_then_redzed_then_ripser(self):
        points = np.random.default_rng(4).normal(size=(30, 3))
        (_, auto), (_, lune), (_, ripser) = (
            vietoris_rips_diagrams(points, engine=e) for e in ("auto", "lune", "ripser")
        )
        assert np.array_equal(auto, lune)
        assert not np.array_equal(auto, ripser)  # float64's digits against float32's
        for options, engine in (
            ({"maxdim": 2}, "redzed"),
            ({"thresh": 1.0}, "redzed"),
            ({"coeff": 3}, "ripser"),
            ({"coeff": 3, "maxdim": 2}, "ripser"),
        ):
            assert choose_engine("auto", **options) == engine
        for engine in ("lune", "redzed", "ripser"):
            assert choose_engine(engine) == engine

    @pytest.mark.parametrize(
        ("name", "expected", "got"),
        [("maxdim", "at most 1", 2), ("coeff", "2", 3), ("thresh", "infinite", 1.0)],
    )
    def test_lune_says_what_it_cannot_do(self, name, expected, got):
        with refused(name=name, expected=f"{expected} for the lune engine", got=got):
            vietoris_rips_diagrams(np.eye(4), engine="lune", **{name: got})

    def test_bars_are_sorted_by_birth_then_death(self):
        for bars in vietoris_rips_diagrams(np.random.default_rng(5).normal(size=(60, 3))):
            assert bars.tolist() == sorted(bars.tolist())
            assert len(bars) > 5

    def test_more_coordinates_than_points_are_no_reason_to_warn(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            vietoris_rips_diagrams(np.random.default_rng(6).normal(size=(10, 64)))
            vietoris_rips_diagrams(np.random.default_rng(6).normal(size=(10, 10)))

    def test_a_threshold_leaves_more_bars_that_never_die(self):
        square = [[0, 0], [1, 0], [1, 1], [0, 1]]
        h0, h1 = vietoris_rips_diagrams(square, thresh=1.2)
        assert h0.tolist() == [[0, 1], [0, 1], [0, 1], [0, math.inf]]
        assert h1.tolist() == [[1, math.inf]]
        h0, h1 = vietoris_rips_diagrams(square, thresh=0.5)
        assert h0.tolist() == [[0, math.inf]] * 4
        assert h1.shape == (0, 2)

    @pytest.mark.parametrize("exponent", [-1000, -140, 140, 1000])
    def test_the_unit_of_length_neither_overflows_nor_vanishes_in_float32(self, exponent):
        points = np.random.default_rng(7).normal(size=(25, 3))
        expected = [np.ldexp(bars, exponent) for bars in vietoris_rips_diagrams(points, thresh=2.0)]
        scaled = vietoris_rips_diagrams(np.ldexp(points, exponent), thresh=math.ldexp(2.0, exponent))
        assert_same(scaled, expected)

    def test_finite_bars_leaves_out_essential_bars_only(self):
        diagram = [[0, math.inf], [0, 2], [1, math.inf], [3, 3]]
        assert finite_bars(diagram).tolist() == [[0, 2], [3, 3]]
        assert finite_bars(np.empty((0, 2))).shape == (0, 2)


class TestAgainstGudhi:
    @reproducible
    @given(
        points=grids(),
        thresh=st.sampled_from([math.inf, 1.0, 1.5, 2.0]),
        engine=st.sampled_from(["auto", "redzed", "ripser"]),
    )
    def test_ties_and_duplicates_give_gudhis_bars(self, points, thresh, engine):
        found = vietoris_rips_diagrams(points, engine=engine, thresh=thresh)
        assert_same(found, gudhi_diagrams(as_ripser_reads(cdist(points, points)), 1, thresh))

    @reproducible
    @given(
        points=clouds(),
        maxdim=st.integers(0, 2),
        coeff=st.sampled_from([2, 3, 11]),
        engine=st.sampled_from(["auto", "ripser"]),
    )
    def test_random_clouds_give_gudhis_bars(self, points, maxdim, coeff, engine):
        found = vietoris_rips_diagrams(points, maxdim, engine, coeff=coeff)
        assert_same(found, gudhi_diagrams(as_ripser_reads(distance_matrix(points)), maxdim, coeff=coeff))

    @reproducible
    @given(
        distances=dissimilarities(),
        thresh=st.sampled_from([math.inf, 0.5, 1.0]),
        engine=st.sampled_from(["auto", "ripser"]),
    )
    def test_matrices_that_are_no_metric_give_gudhis_bars(self, distances, thresh, engine):
        found = vietoris_rips_diagrams(distances, engine=engine, metric="precomputed", thresh=thresh)
        assert_same(found, gudhi_diagrams(as_ripser_reads(distances), 1, thresh))

    def test_a_subsample_of_the_papers_size_gives_gudhis_bars(self):
        rng = np.random.default_rng(8)
        points = (
            rng.normal(size=(160, 64)) * np.arange(1, 65) ** -0.7
            + rng.normal(size=(8, 64))[rng.integers(8, size=160)]
        )
        assert_same(vietoris_rips_diagrams(points), gudhi_diagrams(as_ripser_reads(distance_matrix(points))))


class TestInvariance:
    @reproducible
    @given(points=st.one_of(grids(), clouds()), seed=seeds)
    def test_the_order_of_the_points_does_not_matter(self, points, seed):
        distances = distance_matrix(points)
        order = np.random.default_rng(seed).permutation(len(points))
        shuffled = vietoris_rips_diagrams(distances[np.ix_(order, order)], metric="precomputed")
        assert_same(shuffled, vietoris_rips_diagrams(distances, metric="precomputed"))

    @reproducible
    @given(points=clouds(), seed=seeds, scale=st.floats(1e-3, 1e3))
    def test_diagrams_scale_with_the_cloud_and_ignore_where_it_lies(self, points, seed, scale):
        rng = np.random.default_rng(seed)
        turn, _ = np.linalg.qr(rng.normal(size=(points.shape[1],) * 2))
        moved = scale * (points @ turn) + scale * rng.normal(size=points.shape[1])
        for one, other in zip(vietoris_rips_diagrams(moved), vietoris_rips_diagrams(points), strict=True):
            assert wasserstein_distance(one, scale * other) <= 1e-5 * scale


class TestSubsamples:
    def test_each_row_of_the_plan_gives_the_diagrams_of_its_points(self):
        points = np.random.default_rng(9).normal(size=(60, 5))
        plan = subsample_plan(60, 5, 25, seed=1)
        found = subsample_diagrams(distance_matrix(points), plan)
        assert len(found) == 5
        for row, diagrams in zip(plan, found, strict=True):
            expected = vietoris_rips_diagrams(cdist(points[row], points[row]), metric="precomputed")
            for one, other in zip(diagrams, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-6)

    def test_options_reach_the_engine(self):
        distances = projective_plane()
        for coeff, endless in ((2, [1, 1, 1]), (3, [1, 0, 0])):  # the Betti numbers of the projective plane
            (found,) = subsample_diagrams(
                distances, [range(len(distances))], maxdim=2, thresh=1.0, coeff=coeff
            )
            assert [np.isinf(bars[:, 1]).sum() for bars in found] == endless

    @pytest.mark.parametrize(
        ("plan", "expected", "got"),
        [
            ([0, 1], "of shape (n_subsamples, subsample_size)", (2,)),
            (np.zeros((0, 3), dtype=int), "of shape", (0, 3)),
            ([[0.0, 1.0]], "point indices", "float64"),
            ([[0, 4]], "from 0 to 3", 4),
            ([[0, -1]], "from 0 to 3", -1),
            ([[0, 1, 2], [2, 1, 2]], "different points", [2, 1, 2]),
        ],
    )
    def test_a_malformed_plan_is_named(self, plan, expected, got):
        with refused(name="plan", expected=expected, got=got):
            subsample_diagrams(np.ones((4, 4)) - np.eye(4), plan)

    def test_a_malformed_matrix_is_named(self):
        with refused(name="distances", expected="symmetric"):
            subsample_diagrams([[0, 1], [2, 0]], [[0, 1]])


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "expected", "got"),
        [
            ("engine", "one of auto, lune, redzed, ripser", "gpu"),
            ("metric", "one of euclidean, cosine, precomputed", "manhattan"),
            ("maxdim", "a whole number, 0 or more", -1),
            ("maxdim", "a whole number", 1.0),
            ("coeff", "a prime", 4),
            ("coeff", "a prime", 9),
            ("coeff", "a whole number, 2 or more", 1),
            ("coeff", "at most 127 for the ripser engine", 131),
            ("thresh", "positive", 0),
            ("thresh", "positive", -1.0),
            ("thresh", "positive", math.nan),
        ],
    )
    def test_options_out_of_range_are_named(self, name, expected, got):
        with refused(name=name, expected=expected, got=got):
            vietoris_rips_diagrams(np.eye(5), **{name: got})
        if name != "metric":
            with refused(name=name, expected=expected, got=got):
                subsample_diagrams(np.ones((5, 5)) - np.eye(5), [[0, 1]], **{name: got})

    def test_a_dimension_that_would_end_the_process_is_named(self):
        points = np.random.default_rng(10).normal(size=(200, 2))
        with refused(name="maxdim", expected="ripser engine to number all simplices of 200 points", got=9):
            vietoris_rips_diagrams(points, 9, "ripser", thresh=1e-6)
        highest = vietoris_rips_diagrams(points, 8, "ripser", thresh=1e-6)  # is still computed
        assert len(highest) == 9
        assert len(vietoris_rips_diagrams(points[:30], 40, "ripser", thresh=1e-6)) == 41
        with refused(name="maxdim", expected="simplices of 200 points", got=11):
            vietoris_rips_diagrams(points, 11, thresh=1e-6)

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_nan_and_infinity_never_reach_the_engine(self, bad):
        with refused(name="points", expected="finite"):
            vietoris_rips_diagrams([[0.0, 1.0], [bad, 2.0]])
        with refused(name="distances", expected="finite"):
            vietoris_rips_diagrams([[0.0, bad], [bad, 0.0]], metric="precomputed")

    @pytest.mark.parametrize(
        ("diagram", "expected", "got"),
        [
            ([0.0, 1.0], "of shape (n_bars, 2)", (2,)),
            ([[0.0, 1.0, 2.0]], "of shape (n_bars, 2)", (1, 3)),
            ([], "of shape (n_bars, 2)", (0,)),
            ([["0", "1"]], "real numbers", "<U1"),
            ([[0, 1], [0, math.nan]], "free of NaN", "the bar (0.0, nan) at row 1"),
            ([[math.inf, math.inf]], "free of an infinite birth", "the bar (inf, inf) at row 0"),
            ([[-math.inf, 0]], "free of an infinite birth", "the bar (-inf, 0.0) at row 0"),
            ([[0, -math.inf]], "free of a death before its birth", "the bar (0.0, -inf) at row 0"),
            ([[2, 1]], "free of a death before its birth", "the bar (2.0, 1.0) at row 0"),
        ],
    )
    def test_a_malformed_diagram_is_named(self, diagram, expected, got):
        with refused(name="diagram", expected=expected, got=got):
            finite_bars(diagram)


def test_the_pure_layer_imports_neither_torch_nor_transformers_nor_mlflow():
    code = (
        "import sys, topoflow.topology.persistence, topoflow.topology.summaries, topoflow.topology.distances;"
        "import topoflow.topology.point_clouds, topoflow.dynamics.velocity;"
        "topoflow.topology.persistence.vietoris_rips_diagrams([[0.0], [1.0]]);"
        "print(sorted({'torch', 'transformers', 'mlflow'} & set(sys.modules)))"
    )
    assert in_another_process(code) == "[]\n"
