"""The rules by which tests become sentences."""

import math

import numpy as np
import pytest
from scipy import stats

from topoflow.dynamics import verdicts
from topoflow.dynamics.nulls import NullTest, sign_flip_test
from topoflow.dynamics.published import transience_test


def test_a_test_that_could_not_have_been_significant_cannot_tell():
    assert verdicts.decide(0.2, 0.2, 0.05) == "cannot tell"
    assert verdicts.decide(math.nan, 0.001, 0.05) == "cannot tell"
    assert verdicts.decide(0.05, 0.001, 0.05) == "supported"
    assert verdicts.decide(0.0500001, 0.001, 0.05) == "not supported"


def test_pooling_weighs_layers_alike_and_leaves_out_those_at_rest():
    pooled = verdicts.pooled_velocity([[1.0, 3.0], [200.0, 200.0], [0.0, 0.0]])
    assert pooled == pytest.approx([(0.25 + 0.5) / 2, (0.75 + 0.5) / 2])
    assert not verdicts.pooled_velocity(np.zeros((2, 3))).any()


def test_four_runs_cannot_tell_and_six_alike_support():
    few = verdicts.early_in_runs([0.1] * 4, [0.2] * 4, 0.05, 0)
    assert (few.verdict, few.p) == ("cannot tell", 1 / 16)
    many = verdicts.early_in_runs([0.1, 0.12, 0.2, 0.1, 0.3, 0.1], [0.2] * 6, 0.05, 0)
    assert (many.verdict, many.p) == ("supported", 1 / 64)
    assert many.low < many.value < many.high


def test_both_the_plain_and_the_per_step_test_must_reject():
    plain, per_step = [0.1] * 6, [0.2, -0.3, 0.1, -0.2, 0.1, 0.0]
    found = verdicts.early_in_runs(plain, per_step, 0.05, 0)
    assert found.p == sign_flip_test(per_step).p_value > 0.05
    assert found.verdict == "not supported"
    missing = verdicts.early_in_runs(plain, [math.nan] * 6, 0.05, 0)
    assert (missing.verdict, missing.p) == ("cannot tell", None)


def test_topology_leads_only_if_it_peaks_earlier():
    assert verdicts.leads_in_runs([-2, -1, -3, -2, -1, -1], 0.05, 0).verdict == "supported"
    later = verdicts.leads_in_runs([2, 1, 3, 2, 1, 1], 0.05, 0)
    assert (later.verdict, later.value) == ("not supported", pytest.approx(10 / 6))


def test_a_single_velocity_above_the_threshold_cannot_tell():
    peak = [0.0] * 12
    peak[2] = 1.0
    found = verdicts.transience_verdict(transience_test(peak, range(13)), 0.05)
    assert (found.verdict, found.p) == ("cannot tell", pytest.approx(3 / 12))


def test_runs_that_settle_early_support_transience():
    found = verdicts.transient_in_runs([0.1] * 6, [0.6] * 6, 0.05, 0)
    assert (found.verdict, found.value) == ("supported", pytest.approx(0.5))


def test_the_interval_of_a_mean_is_students():
    values = np.array([0.2, 0.5, 0.9, 0.4])
    expected = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
    assert verdicts.mean_interval([*values, math.nan]) == pytest.approx(expected)
    assert verdicts.mean_interval([1.0]) == (None, None)


def test_the_table_has_a_cell_for_each_column():
    found = [verdicts.leads_in_runs([1, 2], 0.05, 0)]
    (row,) = verdicts.table_rows(found)
    assert len(row) == len(verdicts.TABLE)
    assert row[verdicts.TABLE.index("verdict")] == "cannot tell"


def test_topology_that_moves_against_behaviour_does_not_move_with_it():
    against = NullTest(-0.9, 0.0, 0.001, 9999, exact=False)
    assert verdicts.geometry_verdict(against, 0.05).verdict == "not supported"
    assert (
        verdicts.geometry_verdict(NullTest(0.9, 0.0, 0.001, 9999, exact=False), 0.05).verdict == "supported"
    )
    missing = NullTest(math.nan, 0.0, math.nan, 9999, exact=False)
    assert verdicts.geometry_verdict(missing, 0.05).verdict == "cannot tell"
