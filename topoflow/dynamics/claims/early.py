"""Is reorganisation early: faster in the first third of training than scale, the learning rate, a few prompts,
covariance, or a structured start explain?
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from topoflow.dynamics.claims import moves
from topoflow.dynamics.claims.rungs import (
    CONTROL,
    FEW,
    RATE,
    controls_without_rates,
    in_rate_time,
    margin_test,
    over_seeds,
    rotation_rungs,
    unless_weak,
    weak_in_loops,
)
from topoflow.dynamics.claims.verdict import Climb, Rung, Verdict, adjust, climb
from topoflow.dynamics.design import EFFECTS, OF_A_DIFFERENCE, Decidable, MarginTest, Question
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import RAW, SCALE_FREE, WITHOUT_FAR, Trajectory
from topoflow.dynamics.movement import (
    Moved,
    Movement,
    contrast,
    early_share,
    moves_test,
    path_length,
    ratio_test,
)
from topoflow.dynamics.permutation import Test

CLAIM = "early"
_RAW, _SCALE = "raw", "scale"
STATISTIC = (
    "share of the scale-free speed in the first third of the cumulative learning rate, above the third's own share "
    "(speed: root of the mean squared movement between twins; 0 at constant speed)"
)
_EFFECT = "early share, above that at constant speed"
_LEFT_OF_RAW, _LEFT_OF_ALL = 0.25, 0.5  # of the movement: less is left of it, and the rung explains it


def of_run(run: Trajectory) -> list[Verdict]:
    """Whether one run reorganises early; jitter is the error, so the verdict is about this run."""
    claims = run.claims
    found = [_verdict(run, climb(_rungs_of_run(run, homology)), homology) for homology in HOMOLOGY]
    return adjust(found, claims.level)


def decidable_of_run(asked: Question) -> Decidable:
    """Whether one run can show it, and how often by its speed alone."""

    def rejects(moved: Moved) -> bool:
        return ratio_test(moved, asked.design.clock, asked.claims.ratio).p <= asked.level

    design = asked.design
    return asked.of_one_run(CLAIM, _EFFECT, EFFECTS, design.early_speed, rejects, design.why_no_twins)


def _verdict(run: Trajectory, found: Climb, homology: str) -> Verdict:
    claims = run.claims
    value = math.nan
    if not run.why_no_rates:
        value = early_share(run.movement(SCALE_FREE)[homology], run.rate_clock)
    rule = (
        f"supported if every rung rejects at {claims.level:g}: early speed more than {claims.ratio:g} times the late "
        "one as recorded, with scale taken out, in learning-rate time, and without the 5 % of prompts that go "
        f"farthest, and more than under rotations of the prompts, free or with the start kept"
    )
    statement = "this run reorganises early: in the first third of training"
    beside = weak_in_loops([run], homology, found)
    return found.told(CLAIM, homology, Test(value, math.nan), statement, STATISTIC, rule, beside=beside)


def _rungs_of_run(run: Trajectory, homology: str) -> list[Rung]:
    claims = run.claims

    def ratio(kind: str, in_steps: bool) -> Test:
        clock = run.step_clock if in_steps else run.rate_clock
        return ratio_test(run.movement(kind)[homology], clock, claims.ratio)

    def scale() -> Test:
        return _what_is_left(
            run.movement(SCALE_FREE)[homology],
            _LEFT_OF_RAW * run.movement(RAW)[homology].total,
            ratio(SCALE_FREE, in_steps=True),
            claims.moves_level,
        )

    def few() -> Test:
        return _what_is_left(
            run.movement(WITHOUT_FAR)[homology],
            _LEFT_OF_ALL * run.movement(SCALE_FREE)[homology].total,
            ratio(WITHOUT_FAR, in_steps=False),
            1.0,
        )

    return [
        moves.rung([run], homology, claims.moves_level),
        Rung(
            _RAW,
            lambda: unless_weak([run], homology, ratio(RAW, in_steps=True)),
            claims.level,
            explains=False,
        ),
        Rung(_SCALE, scale, claims.level),
        Rung(RATE, in_rate_time([run], lambda: ratio(SCALE_FREE, in_steps=False)), claims.level),
        Rung(FEW, few, claims.level),
        *rotation_rungs([run], homology, early_contrast, claims.level),
    ]


def _what_is_left(moved: Movement, much: float, test: Test, moves_level: float) -> Test:
    """The test, or absence where what is left of the movement is shown to be less than `much`."""
    little = float(stats.norm.cdf((moved.total - much) / (moved.total_error or 1e-300)))
    if moves_test(moved).p <= moves_level:
        return Test(test.value, test.p, min(test.p_absent, little))
    return Test(test.value, 1.0, little)


def early_contrast(run: Trajectory, moved: Moved) -> float:
    """Squared movement per unit of cumulative learning rate, early minus late."""
    return contrast(moved, run.rate_clock)


# --- over runs ----------------------------------------------------------------------------------


def over_runs(
    labels: Sequence[Sequence[Trajectory]], controls: Sequence[Sequence[Trajectory]] | None
) -> list[Verdict]:
    """Whether training does this, for this base and these prompts: seeds are the units.

    Parameters
    ----------
    labels : sequence of sequences of Trajectory
        Runs by label, in the same order of seeds.
    controls : likewise, optional
        The controls of each label's runs, one by one. With them, they are the null and rotations are not needed.
    """
    claims = labels[0][0].claims
    found = []
    for homology in HOMOLOGY:
        climbed = climb(_rungs_over_runs(labels, controls, homology))
        rule = (
            f"supported if every rung rejects at {claims.level:g}, over seeds: the mean share is more than "
            f"{claims.early_margin:g} as recorded, with scale taken out, in learning-rate time, without the 5 % of "
            f"prompts that go farthest, and more than {'its controls' if controls else 'under rotations'}"
        )
        found.append(
            climbed.told(
                CLAIM,
                homology,
                climbed.at(RATE) or _mean(labels, homology),
                "training reorganises early: in its first third, for this base and these prompts",
                f"mean over seeds of the {STATISTIC}",
                rule,
                beside=weak_in_loops([run for runs in labels for run in runs], homology, climbed),
            )
        )
    return adjust(found, claims.level)


def decidable_over_runs(asked: Question) -> Decidable:
    """Whether so many seeds can show it, and how often."""
    wider = OF_A_DIFFERENCE if asked.design.has_controls else 1.0
    test = MarginTest(asked.claims.early_margin, asked.claims.level, asked.spreads, wider)
    return asked.over_seeds(CLAIM, _EFFECT, test, asked.design.why_no_twins)


def share(run: Trajectory, homology: str, kind: str = SCALE_FREE, in_steps: bool = False) -> float:
    """`early_share` of one run."""
    clock = run.step_clock if in_steps else run.rate_clock
    return early_share(run.movement(kind)[homology], clock)


def _mean(labels: Sequence[Sequence[Trajectory]], homology: str) -> Test | None:
    """The number alone, of a claim that stopped before its rung."""
    runs = [run for runs in labels for run in runs]
    if any(run.why_no_rates for run in runs):
        return None
    return Test(float(np.mean([share(run, homology) for run in runs])), math.nan)


def _rungs_over_runs(
    labels: Sequence[Sequence[Trajectory]], controls: Sequence[Sequence[Trajectory]] | None, homology: str
) -> list[Rung]:
    runs = [run for one in labels for run in one]
    claims = runs[0].claims

    def shares(kind: str, in_steps: bool = False) -> Test | str:
        return margin_test(
            over_seeds(labels, lambda run: share(run, homology, kind, in_steps)), claims.early_margin
        )

    def scale() -> Test | str:
        raw = over_seeds(labels, lambda run: run.movement(RAW)[homology].total)
        free = over_seeds(labels, lambda run: run.movement(SCALE_FREE)[homology].total)
        if min(raw) > 0:
            left = margin_test(np.array(free) / np.array(raw) - _LEFT_OF_RAW, 0.0)
            if isinstance(left, Test) and left.p_absent <= claims.level:
                return Test(left.value, 1.0, left.p_absent)
        return shares(SCALE_FREE, in_steps=True)

    def against_controls() -> Test | str:
        assert controls is not None
        pairs = [list(zip(*both, strict=True)) for both in zip(labels, controls, strict=True)]
        if why := controls_without_rates(controls):
            return why
        differences = [
            float(
                np.mean([share(run, homology) - _explained(run, control, homology) for run, control in seed])
            )
            for seed in zip(*pairs, strict=True)
        ]
        return margin_test(differences, claims.early_margin)

    rungs = [
        moves.rung(runs, homology, claims.moves_level),
        Rung(
            _RAW,
            lambda: unless_weak(runs, homology, shares(RAW, in_steps=True)),
            claims.level,
            explains=False,
        ),
        Rung(_SCALE, scale, claims.level),
        Rung(RATE, in_rate_time(runs, lambda: shares(SCALE_FREE)), claims.level),
        Rung(FEW, lambda: shares(WITHOUT_FAR), claims.level),
    ]
    if controls:
        return [*rungs, Rung(CONTROL, against_controls, claims.level)]
    return [*rungs, *rotation_rungs(runs, homology, early_contrast, claims.level)]


def _explained(run: Trajectory, control: Trajectory, homology: str) -> float:
    """The early share of a control, counted as far as it moves beside the run: one that rests explains nothing."""
    found = share(control, homology)
    if math.isnan(found):
        return 0.0
    length, of_run = (
        path_length(one.movement(SCALE_FREE)[homology], one.rate_clock) for one in (control, run)
    )
    return found * length / max(length, of_run)
