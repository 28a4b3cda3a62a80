"""Does topology move before behaviour?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from topoflow.dynamics.claims import moves
from topoflow.dynamics.claims.rungs import (
    CONTROL,
    SEEDS,
    controls_without_rates,
    in_rate_time,
    margin_test,
    over_seeds,
    rotation_rungs,
)
from topoflow.dynamics.claims.verdict import Climb, Rung, Verdict, adjust, climb
from topoflow.dynamics.design import SPREADS, Decidable, MarginTest, Question
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import SCALE_FREE, Trajectory
from topoflow.dynamics.movement import Moved, centre, moves_test
from topoflow.dynamics.permutation import CANNOT_TELL, Test

CLAIM = "leads"
STATEMENT = "topology moves before behaviour"
STATISTIC = (
    "centre of the squared movement of behaviour (Hellinger) minus that of topology (scale-free), as a share of the "
    "cumulative learning rate"
)
_NO_BEHAVIOUR = "needs next-token probabilities at every twin checkpoint"


def lead(run: Trajectory, moved: Moved) -> float:
    """Centre of behaviour's movement minus topology's, 0 to 1; NaN where either does not move."""
    return (
        math.nan
        if run.behaviour is None
        else centre(run.behaviour, run.rate_clock) - centre(moved, run.rate_clock)
    )


def of_run(run: Trajectory) -> list[Verdict]:
    """What one run says of topology and behaviour: a difference, and no error bar."""
    why = run.why_no_rates or (
        _NO_BEHAVIOUR if run.behaviour is None else "one run has no error bar; compare runs"
    )
    climbed = Climb(CANNOT_TELL, SEEDS, math.nan, (), (), why)  # it gets to no rung
    found = []
    for homology in HOMOLOGY:
        value = math.nan if run.why_no_rates else lead(run, run.movement(SCALE_FREE)[homology])
        number = Test(value, math.nan)
        found.append(climbed.told(CLAIM, homology, number, STATEMENT, STATISTIC, "decided over seeds alone"))
    return found


def _both_move(run: Trajectory, homology: str) -> Test:
    """The less sure of two movements, topology's and behaviour's; without both there is no lead to speak of."""
    moved = (run.movement(SCALE_FREE)[homology], run.behaviour)
    return max((moves_test(one) for one in moved if one is not None), key=lambda test: test.p)


def over_runs(
    labels: Sequence[Sequence[Trajectory]], controls: Sequence[Sequence[Trajectory]] | None
) -> list[Verdict]:
    """Whether topology moves before behaviour on average over seeds, for this base and these prompts."""
    claims = labels[0][0].claims
    rule = (
        f"supported if the mean lead is more than {claims.lead_margin:.2g} over seeds (t test at {claims.level:g}, "
        f"every run moving in both), more than {'that of its controls, and more than ' if controls else ''}under "
        "rotations of the prompts; explained by covariance or the start means that plain geometry leads as much"
    )
    found = []
    for homology in HOMOLOGY:
        climbed = climb(_rungs_over_runs(labels, controls, homology))
        found.append(
            climbed.told(
                CLAIM,
                homology,
                climbed.at(SEEDS),
                f"{STATEMENT}, for this base and these prompts",
                f"mean over seeds of the {STATISTIC}",
                rule,
            )
        )
    return adjust(found, claims.level)


def decidable_over_runs(asked: Question) -> Decidable:
    """Whether so many seeds can show it, and how often; early shares of a pilot say nothing of leads."""
    spreads = SPREADS if asked.pilot else asked.spreads
    test = MarginTest(asked.claims.lead_margin, asked.claims.level, spreads)
    lacks = "" if asked.design.has_behaviour else "needs next-token probabilities (recording.behaviour)"
    why = asked.design.why_no_twins
    return asked.over_seeds(
        CLAIM, "lead, as a share of learning-rate time", test, why, lacks=lacks, controls=False
    )


def _rungs_over_runs(
    labels: Sequence[Sequence[Trajectory]], controls: Sequence[Sequence[Trajectory]] | None, homology: str
) -> list[Rung]:
    """Controls are one more rung, and rotations stay: a control has other answers, rotations keep the geometry, and
    either may lead as much.
    """
    runs = [run for one in labels for run in one]
    claims = runs[0].claims

    def all_move() -> Test | str:
        """The least sure of all movements: every run must move in both."""
        if any(run.behaviour is None for run in runs):
            return _NO_BEHAVIOUR
        return max((_both_move(run, homology) for run in runs), key=lambda test: test.p)

    def by(run: Trajectory) -> float:
        return lead(run, run.movement(SCALE_FREE)[homology])

    def against_controls() -> Test | str:
        assert controls is not None
        if why := controls_without_rates(controls):
            return why
        if any(run.behaviour is None for one in controls for run in one):
            return f"its control {_NO_BEHAVIOUR}"
        of_controls = over_seeds(
            controls, lambda run: by(run) if _both_move(run, homology).p <= claims.moves_level else 0.0
        )
        return margin_test(np.array(over_seeds(labels, by)) - np.array(of_controls), 0.0)

    return [
        moves.rung(runs, homology, claims.moves_level),
        Rung("both move", all_move, claims.level, explains=False, gate=True),
        Rung(
            SEEDS,
            in_rate_time(runs, lambda: margin_test(over_seeds(labels, by), claims.lead_margin)),
            claims.level,
            explains=False,
        ),
        *([Rung(CONTROL, against_controls, claims.level)] if controls else []),
        *rotation_rungs(runs, homology, lead, claims.level),
    ]
