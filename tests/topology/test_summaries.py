import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from support import refused
from witnesses import NO_BARS

from topoflow.topology.persistence import subsample_diagrams, vietoris_rips_diagrams
from topoflow.topology.point_clouds import distance_matrix, subsample_plan
from topoflow.topology.summaries import (
    SUMMARY_NAMES,
    barcode_summaries,
    barcode_summary,
    cell_summary,
    summary_names,
)

reproducible = settings(deadline=None, derandomize=True, max_examples=100)
STATISTICS = ("mean", "min", "q1", "median", "q3", "max", "std")


def named(summary):
    return dict(zip(SUMMARY_NAMES, summary.tolist(), strict=True))


def recomputed(h0, h1, h2=None):
    """The 41 numbers, and the 31 of H2 if given, by NumPy's and SciPy's own functions, one at a time."""
    h0, h1, above = (
        np.array([bar for bar in bars if bar[0] < bar[1] < math.inf]).reshape(-1, 2)
        for bars in (h0, h1, () if h2 is None else h2)
    )
    numbers = {}
    for name, values in {
        "h0_death": h0[:, 1],
        "h1_birth": h1[:, 0],
        "h1_death": h1[:, 1],
        "h1_persistence": h1[:, 1] - h1[:, 0],
        "h1_ratio": h1[:, 0] / h1[:, 1],
    }.items():
        for statistic, function in {
            "mean": np.mean,
            "min": np.min,
            "q1": lambda x: np.percentile(x, 25),
            "median": np.median,
            "q3": lambda x: np.percentile(x, 75),
            "max": np.max,
            "std": lambda x: np.std(x, ddof=0),
        }.items():
            numbers[f"{name}_{statistic}"] = function(values) if len(values) else math.nan
    for name, bars in {"h0": h0, "h1": h1}.items():
        lengths = bars[:, 1] - bars[:, 0]
        numbers[f"{name}_total_persistence"] = lengths.sum()
        numbers[f"{name}_count"] = len(lengths)
        numbers[f"{name}_entropy"] = entropy(lengths) if len(lengths) else 0.0
    if h2 is not None:  # H1 under another name
        found = recomputed(h0, above)
        numbers |= {key.replace("h1", "h2"): number for key, number in found.items() if key.startswith("h1")}
    return numbers


@st.composite
def diagrams(draw, births):
    bar = st.tuples(births, st.one_of(st.integers(0, 4).map(float), st.floats(1e-3, 10.0), st.just(math.inf)))
    return np.array([(b, b + length) for b, length in draw(st.lists(bar, max_size=12))]).reshape(-1, 2)


h0_diagrams = diagrams(st.just(0.0))
h1_diagrams = diagrams(st.one_of(st.integers(0, 4).map(float), st.floats(0.0, 10.0)))


class TestNames:
    def test_there_are_41_in_the_order_of_the_protocol(self):
        statistics = [
            f"{measure}_{statistic}"
            for measure in ("h0_death", "h1_birth", "h1_death", "h1_persistence", "h1_ratio")
            for statistic in STATISTICS
        ]
        totals = ["h0_total_persistence", "h0_count", "h0_entropy"]
        totals += ["h1_total_persistence", "h1_count", "h1_entropy"]
        assert list(SUMMARY_NAMES) == statistics + totals
        assert len(set(SUMMARY_NAMES)) == 41


class TestBarcodeSummary:
    def test_every_number_of_a_small_example_is_the_one_worked_out_by_hand(self):
        summary = named(
            barcode_summary([[[0, 1], [0, 2], [0, 4], [0, math.inf]], [[1, 2], [2, 4], [3, 4], [4, 8]]])
        )
        assert summary["h0_death_mean"] == pytest.approx(7 / 3)
        assert [summary[f"h0_death_{s}"] for s in STATISTICS[1:-1]] == [1, 1.5, 2, 3, 4]
        assert summary["h0_death_std"] == pytest.approx(math.sqrt(14 / 9))  # ddof=1 would give sqrt(7/3)
        assert [summary[f"h1_birth_{s}"] for s in STATISTICS[:-1]] == [2.5, 1, 1.75, 2.5, 3.25, 4]
        assert [summary[f"h1_death_{s}"] for s in STATISTICS[:-1]] == [4.5, 2, 3.5, 4, 5, 8]
        assert [summary[f"h1_persistence_{s}"] for s in STATISTICS[:-1]] == [2, 1, 1, 1.5, 2.5, 4]
        assert [summary[f"h1_ratio_{s}"] for s in STATISTICS[:-1]] == [0.5625, 0.5, 0.5, 0.5, 0.5625, 0.75]
        assert [summary["h0_total_persistence"], summary["h0_count"]] == [7, 3]
        assert [summary["h1_total_persistence"], summary["h1_count"]] == [8, 4]
        assert summary["h1_entropy"] == pytest.approx(1.75 * math.log(2))
        assert summary["h0_entropy"] == pytest.approx(math.log(7) - 10 / 7 * math.log(2))

    @reproducible
    @given(h0=h0_diagrams, h1=h1_diagrams)
    def test_every_number_is_numpys_and_scipys(self, h0, h1):
        found, expected = named(barcode_summary([h0, h1])), recomputed(h0, h1)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-13, err_msg=name)

    def test_a_real_cloud_gives_numpys_and_scipys_numbers(self):
        h0, h1 = vietoris_rips_diagrams(np.random.default_rng(0).normal(size=(160, 8)))
        assert len(h1) > 20
        found, expected = named(barcode_summary([h0, h1])), recomputed(h0, h1)
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-11, atol=1e-13)

    @pytest.mark.parametrize("k", [1, 2, 7, 100])
    def test_k_equal_bars_have_entropy_ln_k(self, k):
        summary = named(barcode_summary([[[0, 3.7]] * k, [[1.0, 1.3]] * k]))
        assert summary["h0_entropy"] == pytest.approx(math.log(k), abs=1e-12)
        assert summary["h1_entropy"] == pytest.approx(math.log(k), abs=1e-12)

    def test_the_entropy_of_one_bar_is_plus_zero(self):
        value = named(barcode_summary([[[0, 2]], NO_BARS]))["h0_entropy"]
        assert value == 0
        assert math.copysign(1, value) == 1

    def test_a_bar_too_short_beside_the_others_adds_nothing_to_the_entropy(self):
        summary = named(barcode_summary([[[0, 1e-320], [0, 1e10]], NO_BARS]))
        assert summary["h0_entropy"] == 0
        assert summary["h0_count"] == 2

    def test_no_h1_bar_leaves_28_statistics_missing_and_three_zeros(self):
        summary = named(barcode_summary([[[0, 1], [0, math.inf]], NO_BARS]))
        missing = {name for name, value in summary.items() if math.isnan(value)}
        h1_totals = ("h1_total_persistence", "h1_count", "h1_entropy")
        assert missing == {name for name in SUMMARY_NAMES if name.startswith("h1") and name not in h1_totals}
        assert len(missing) == 28
        assert [summary[name] for name in h1_totals] == [0, 0, 0]

    def test_a_constant_cloud_leaves_the_h0_statistics_missing_too(self):
        summary = barcode_summary(vietoris_rips_diagrams(np.ones((9, 4))))
        assert np.isnan(summary[:35]).all()
        assert summary[35:].tolist() == [0] * 6

    def test_essential_and_zero_length_bars_change_nothing(self):
        h0, h1 = [[0, 1], [0, 3]], [[1, 2], [2, 5]]
        more = barcode_summary([[[0, 0], *h0, [0, math.inf]], [[0, 0], [4, 4], *h1, [3, math.inf]]])
        assert np.array_equal(more, barcode_summary([h0, h1]))

    def test_the_order_of_the_bars_does_not_matter(self):
        h0, h1 = vietoris_rips_diagrams(np.random.default_rng(1).normal(size=(60, 3)))
        reordered = barcode_summary([h0[::-1], h1[::-1]])
        np.testing.assert_allclose(reordered, barcode_summary([h0, h1]), rtol=1e-13)

    def test_lengths_scale_and_ratios_counts_and_entropies_do_not(self):
        h0, h1 = vietoris_rips_diagrams(np.random.default_rng(2).normal(size=(60, 3)))
        without_unit = np.array(
            [any(k in name for k in ("ratio", "count", "entropy")) for name in SUMMARY_NAMES]
        )
        assert without_unit.sum() == 7 + 4
        expected = barcode_summary([h0, h1]) * np.where(without_unit, 1, 8)
        np.testing.assert_allclose(barcode_summary([8 * h0, 8 * h1]), expected, rtol=1e-13)

    def test_h2_adds_31_numbers_and_leaves_the_41_as_they_are(self):
        rng = np.random.default_rng(3)
        h0, h1, h2 = vietoris_rips_diagrams(rng.normal(size=(60, 4)), maxdim=2)
        found = dict(zip(summary_names(2), barcode_summary([h0, h1, h2]).tolist(), strict=True))
        expected = recomputed(h0, h1, h2)
        assert list(found)[41:] == list(expected)[41:]
        assert found["h2_count"] == len(h2) > 3
        np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-11)
        assert np.array_equal(list(found.values())[:41], barcode_summary([h0, h1]))
        assert np.array_equal(cell_summary([list(found.values())]), list(found.values()))

    @pytest.mark.parametrize(
        ("given_diagrams", "name", "expected"),
        [
            ([[[0, 1]]], "diagrams", "those of H0 and H1"),
            ([[[0, 1]], [1, 2]], "diagrams[1]", "of shape (n_bars, 2)"),
            ([[[0, math.nan]], NO_BARS], "diagrams[0]", "NaN"),
            ([[[0, 1]], [[2, 1]]], "diagrams[1]", "a death before its birth"),
            ([[[0, 1]], [[-2, 0]]], "diagrams[1]", "bars born before 0"),
        ],
    )
    def test_errors_name_the_diagram(self, given_diagrams, name, expected):
        with refused(name=name, expected=expected):
            barcode_summary(given_diagrams)


class TestBarcodeSummaries:
    @reproducible
    @given(cell=st.lists(st.tuples(h0_diagrams, h1_diagrams), min_size=1, max_size=9))
    def test_each_row_is_the_summary_of_its_subsample_to_the_last_bit(self, cell):
        expected = np.array([barcode_summary(pair) for pair in cell])
        assert np.array_equal(barcode_summaries(cell), expected, equal_nan=True)

    def test_so_is_each_row_of_a_cell_with_voids_some_of_which_has_none(self):
        distances = distance_matrix(np.random.default_rng(4).normal(size=(80, 4)))
        cell = subsample_diagrams(distances, subsample_plan(80, 5, 40), maxdim=2)
        cell[1] = [cell[1][0], NO_BARS, NO_BARS]
        expected = np.array([barcode_summary(diagrams) for diagrams in cell])
        assert expected.shape == (5, 72)
        assert np.array_equal(barcode_summaries(cell), expected, equal_nan=True)

    def test_the_cells_of_a_cloud_have_numpys_and_scipys_numbers(self):
        distances = distance_matrix(np.random.default_rng(0).normal(size=(120, 30)))
        cell = subsample_diagrams(distances, subsample_plan(120, 8, 60))
        expected = [list(recomputed(*pair).values()) for pair in cell]
        np.testing.assert_allclose(barcode_summaries(cell), expected, rtol=1e-11, atol=1e-13)

    @pytest.mark.parametrize(
        ("cell", "name", "expected"),
        [
            ([], "cell", "at least one subsample"),
            ([[NO_BARS, NO_BARS], [NO_BARS]], "cell[1]", "the diagrams of H0 and H1"),
            ([[NO_BARS] * 3, [NO_BARS] * 2], "cell[1]", "as many diagrams as cell[0] (3)"),
            ([[NO_BARS, [[0, math.nan]]]], "the H1 diagrams of cell[0]", "NaN"),
            ([[NO_BARS, NO_BARS], [[[1, 2, 3]], NO_BARS]], "the H0 diagrams of cell[1]", "of shape"),
            ([[NO_BARS, [[-2, 0]]]], "the H1 diagrams of cell", "bars born before 0"),
        ],
    )
    def test_errors_name_the_subsample(self, cell, name, expected):
        with refused(name=name, expected=expected):
            barcode_summaries(cell)


class TestCellSummary:
    def test_a_mean_is_taken_over_the_subsamples_that_have_the_number(self):
        rows = np.arange(3 * 41, dtype=float).reshape(3, 41)
        rows[0, 7] = rows[1:, 8] = rows[:, 9] = np.nan
        expected = rows[1].copy()
        expected[7], expected[8], expected[9] = rows[1:, 7].mean(), rows[0, 8], np.nan
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = cell_summary(rows)
        np.testing.assert_allclose(found, expected, rtol=1e-14)

    def test_the_zeros_of_an_empty_h1_count_as_zeros(self):
        rows = [barcode_summary([[[0, 1]], NO_BARS]), barcode_summary([[[0, 1]], [[1, 2], [1, 3]]])]
        cell = named(cell_summary(rows))
        assert cell["h1_count"] == 1
        assert cell["h1_total_persistence"] == 1.5
        assert cell["h1_death_mean"] == 2.5

    def test_one_subsample_is_its_own_mean(self):
        row = barcode_summary([[[0, 1], [0, 3]], NO_BARS])
        assert np.array_equal(cell_summary([row]), row, equal_nan=True)

    def test_the_subsamples_are_left_as_they_were(self):
        rows = np.full((2, 41), np.nan)
        cell_summary(rows)
        assert np.isnan(rows).all()

    @pytest.mark.parametrize(
        ("summaries", "expected", "got"),
        [
            (np.zeros(41), "of shape (n_subsamples, 41)", (41,)),
            (np.zeros((3, 40)), "of shape (n_subsamples, 41)", (3, 40)),
            (np.zeros((3, 71)), "of shape (n_subsamples, 41), 31 more", (3, 71)),
            (np.zeros((0, 41)), "of shape (n_subsamples, 41)", (0, 41)),
            (np.full((1, 41), np.inf), "finite or missing", "infinity in h0_death_mean"),
        ],
    )
    def test_errors_name_the_argument(self, summaries, expected, got):
        with refused(name="summaries", expected=expected, got=got):
            cell_summary(summaries)
