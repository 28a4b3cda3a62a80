"""What a design can decide, held against simulated studies, all sign patterns, and the tests themselves."""

import itertools

import numpy as np
import pytest
from scipy import stats
from support import refused

from topoflow.dynamics.chances import (
    pilot_spread,
    power_of_a_pair,
    power_of_a_run,
    power_over_seeds,
    seeds_for_absence,
    seeds_for_pairs,
    seeds_needed,
    smallest_paired_p,
    smallest_rotation_p,
)
from topoflow.dynamics.claims import Claims, listed, models, objectives
from topoflow.dynamics.claims.rungs import margin_test
from topoflow.dynamics.design import Design
from topoflow.dynamics.movement import ratio_test
from topoflow.dynamics.permutation import monte_carlo_p
from topoflow.dynamics.power import of_run, of_study

TWINS = [anchor + twin for anchor in range(0, 52, 4) for twin in (0, 1)]  # 13 anchors


def by_claim(found):
    return {one.claim: one for one in found}


@pytest.mark.parametrize(("spread", "needed", "for_absence"), [(0.05, [3, 4, 8], 4), (0.08, [3, 6, 18], 6)])
def test_the_seeds_needed_are_those_of_the_design(spread, needed, for_absence):
    assert [seeds_needed(effect, spread) for effect in (0.30, 0.20, 0.15)] == needed
    assert seeds_for_absence(spread) == for_absence


@pytest.mark.parametrize(
    ("effect", "spread", "n_seeds"), [(0.2, 0.05, 3), (0.3, 0.15, 4), (0.15, 0.08, 6), (0.1, 0.05, 5)]
)
def test_power_is_the_share_of_simulated_studies_in_which_the_margin_test_rejects(effect, spread, n_seeds):
    rng = np.random.default_rng(20260619)
    studies = rng.normal(effect, spread, size=(2000, n_seeds))
    error = studies.std(axis=1, ddof=1) / np.sqrt(n_seeds)
    p = stats.t.sf((studies.mean(axis=1) - 0.10) / error, n_seeds - 1)
    assert p[0] == pytest.approx(margin_test(studies[0], 0.10).p)  # it is that test
    expected = power_over_seeds(effect, spread, n_seeds)
    assert abs((p <= 0.05).mean() - expected) < 4 * np.sqrt(0.25 / 2000)


def test_power_never_falls_as_seeds_are_added_however_large_the_effect():
    for effect, spread in itertools.product((0.11, 0.2, 0.6), (1e-4, 0.01, 0.1, 5.0)):
        powers = [power_over_seeds(effect, spread, n) for n in range(1, 65)]
        assert powers[0] == 0
        assert np.diff(powers).min() > -1e-9
        assert all(0 <= power <= 1 for power in powers)
    assert power_over_seeds(0.0, 1e-4, 64) == pytest.approx(0)


@pytest.mark.parametrize("n_seeds", range(1, 8))
def test_the_smallest_p_of_a_pair_is_that_of_all_sign_patterns(n_seeds):
    differences = np.ones((n_seeds, 2))
    gram = differences @ differences.T - np.diag(np.full(n_seeds, 2.0))
    values = [np.array(s) @ gram @ np.array(s) for s in itertools.product((1, -1), repeat=n_seeds)]
    assert smallest_paired_p(n_seeds) == np.mean(np.array(values) >= values[0] - 1e-12)
    test = objectives.location_test(differences, np.zeros((n_seeds, 2)))
    assert (test.smallest_p, test.p) == (smallest_paired_p(n_seeds), smallest_paired_p(n_seeds))


def test_the_smallest_p_of_rotations_is_that_of_a_statistic_which_none_of_them_reaches():
    assert monte_carlo_p(1.0, np.zeros(199)) == smallest_rotation_p(199)


@pytest.mark.parametrize(("effect", "n_seeds"), [(0.5, 6), (1.0, 7), (2.0, 6), (0.0, 8)])
def test_the_power_of_a_pair_is_how_often_the_test_of_a_pair_rejects_in_one_direction(effect, n_seeds):
    rng = np.random.default_rng(1)
    studies = rng.normal(effect, 1, size=(400, n_seeds, 1))
    rejected = [objectives.location_test(one, np.zeros((n_seeds, 1))).p <= 0.05 for one in studies]
    assert abs(np.mean(rejected) - power_of_a_pair(effect, n_seeds)) < 0.12  # four standard errors of both
    assert power_of_a_pair(effect, n_seeds) <= power_of_a_pair(effect + 1, n_seeds)


def test_seeds_for_pairs_reach_the_level_and_one_fewer_does_not():
    for n_labels, n_pvalues in ((2, 1), (3, 1), (4, 6), (5, 10)):
        needed = seeds_for_pairs(n_labels)
        assert smallest_paired_p(needed) * n_pvalues <= 0.05 < smallest_paired_p(needed - 1) * n_pvalues


def test_each_claim_that_is_told_over_runs_says_beforehand_whether_they_can_decide_it():
    for claim in listed.CLAIMS:
        assert (claim.over_runs is None) == (claim.decidable_over_runs is None), claim.name


class TestOneRun:
    def test_thirteen_twins_can_decide_everything_but_a_lead(self):
        found = by_claim(of_run(Design(TWINS)))
        assert [name for name, one in found.items() if not one.can_decide] == ["leads"]
        assert found["early"].smallest_p == 0.01  # 200 clouds, two homologies
        assert Design(TWINS).n_intervals == (4, 8)

    @pytest.mark.parametrize(
        "steps",
        [
            range(0, 49, 8),  # no twins
            TWINS[:8],  # four anchors
            [*TWINS[:10], 480],  # through a small part of the training
        ],
    )
    def test_without_twins_through_the_training_nothing_can_ever_be_decided(self, steps):
        found = of_run(Design(list(steps)))
        assert not any(one.can_decide for one in found)
        assert all(one.why for one in found)

    def test_without_an_early_interval_nothing_can_be_decided(self):
        # in learning-rate time the first interval's middle lies beyond the third
        rates = np.r_[np.full(4, 100.0), np.ones(47)]
        assert Design(TWINS, rates).n_intervals[0] == 0
        assert not any(one.can_decide for one in of_run(Design(TWINS, rates)))

    def test_too_few_rotations_cannot_decide_early_but_what_moves(self):
        found = by_claim(of_run(Design(TWINS), Claims(n_rotations=38)))
        assert (found["moves"].can_decide, found["early"].can_decide) == (True, False)
        assert by_claim(of_run(Design(TWINS), Claims(n_rotations=39)))["early"].can_decide

    def test_power_grows_with_the_effect_and_falls_with_jitter_and_is_the_level_at_the_margin(self):
        found = by_claim(of_run(Design(TWINS)))
        for claim in ("early", "calm"):
            powers = np.array([list(of_effect.values()) for of_effect in found[claim].power.values()])
            assert (np.diff(powers, axis=0) <= 0).all()
            assert (np.diff(powers, axis=1) * (1 if claim == "early" else -1) >= 0).all()
        design, early = Design(TWINS), np.arange(12) < 4

        def power(ratio):
            def is_early(moved):
                return ratio_test(moved, design.clock, 1.5).p <= 0.05

            return power_of_a_run(np.where(early, ratio, 1.0), design.clock, 0.1, is_early)

        assert power(1.5) < 0.08  # it is the margin
        assert power(4.0) > 0.9

    def test_calm_needs_a_window_in_each_half(self):
        steps = [0, 1, 4, 5, 8, 9, 12, 13, 48, 49]  # no anchor between 12 and 48
        found = by_claim(of_run(Design(steps)))
        assert (found["early"].can_decide, found["calm"].can_decide) == (True, False)


class TestAStudy:
    def test_six_seeds_of_three_objectives_with_controls_suffice(self):
        found = by_claim(of_study(Design(TWINS, n_seeds=6, n_objectives=3, has_controls=True)))
        assert {name for name, one in found.items() if one.can_decide} == {
            "early", "calm", "leads", "objectives",
        }  # fmt: skip
        assert found["early"].smallest_p == 0  # no rotations are needed
        assert found["objectives"].smallest_p == 1 / 32

    def test_every_claim_has_a_line_and_what_is_missing_is_said(self):
        found = by_claim(of_study(Design(TWINS, has_behaviour=False)))
        assert len(found) == 6
        assert found["objectives"].why == "needs 2 objectives, and has 1"
        assert found["early"].why == "needs 2 seeds, and has 1"
        two = by_claim(of_study(Design(TWINS, n_seeds=2, n_objectives=4, n_models=2, has_behaviour=False)))
        assert {name for name, one in two.items() if one.can_decide} == {
            "early", "calm", models.AMOUNT, models.TIMING,
        }  # fmt: skip
        assert two["objectives"].why == "needs 8 seeds, and has 2"
        assert two["objectives"].smallest_p == 1

    def test_a_gate_that_no_movement_can_open_is_said_beforehand(self):
        found = by_claim(of_run(Design(TWINS), Claims(moves_level=0.001)))
        assert not any(one.can_decide for one in found.values())
        assert "moves_level is 0.001" in found["early"].why
        assert by_claim(of_run(Design(TWINS)))["moves"].smallest_p == 0.002

    def test_power_is_that_of_one_of_two_homologies_and_smaller_against_controls(self):
        plain = by_claim(of_study(Design(TWINS, n_seeds=4)))["early"].power
        assert plain[0.05][0.30] == power_over_seeds(0.30, 0.05, 4, level=0.025)
        held = by_claim(of_study(Design(TWINS, n_seeds=4, has_controls=True)))["early"].power
        assert held[0.05][0.20] == power_over_seeds(0.20, 0.05 * np.sqrt(2), 4, level=0.025)

    def test_models_are_shown_alike_with_the_seeds_named(self):
        needed = 6  # at a spread of 0.05, as named
        found = by_claim(of_study(Design(TWINS, n_models=2), spreads=[0.05]))[models.TIMING]
        assert f"{needed} to show absence" in found.enough
        rng = np.random.default_rng(0)
        shares = rng.normal(0, 0.05, size=(2, 2000, needed))
        differences = shares[0] - shares[1]
        t = (0.10 - abs(differences.mean(axis=1))) / (differences.std(axis=1, ddof=1) / np.sqrt(needed))
        assert (stats.t.sf(t, needed - 1) <= 0.05).mean() >= 0.78

    def test_two_models_need_two_seeds_each(self):
        found = by_claim(of_study(Design(TWINS, n_models=2, n_seeds=1)))
        assert {found[claim].why for claim in (models.AMOUNT, models.TIMING)} == {"needs 2 seeds, and has 1"}

    def test_a_pilot_says_nothing_of_leads(self):
        found = by_claim(of_study(Design(TWINS, n_seeds=3), spreads=[0.07], pilot=True))
        assert list(found["early"].power) == [0.07]
        assert list(found["leads"].power) == [0.05, 0.10, 0.15]


def test_a_pilots_spread_is_that_within_labels_where_labels_have_seeds():
    assert pilot_spread({"a": [0.1, 0.2, 0.3], "b": [1.1, 1.2, 1.3]}) == pytest.approx(0.1)
    assert pilot_spread({"a": [0.1], "b": [0.2], "c": [0.3]}) == pytest.approx(0.1)
    assert pilot_spread({"a": [0.1], "b": [0.2]}) is None


@pytest.mark.parametrize("spread", [0.0, -1.0, np.nan, np.inf])
def test_a_spread_is_a_positive_number(spread):
    with refused(name="spread"):
        power_over_seeds(0.2, spread, 3)
