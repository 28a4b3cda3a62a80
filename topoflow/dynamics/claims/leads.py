"""Does topology move before behaviour?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from topoflow.dynamics.claims import moves
from topoflow.dynamics.claims.rungs import SEEDS, in_rate_time, margin_test, over_seeds, rotation_rungs
from topoflow.dynamics.claims.verdict import Climb, Rung, Verdict, adjust, climb
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import SCALE_FREE, Trajectory
from topoflow.dynamics.movement import Moved, centre, moves_test
from topoflow.dynamics.permutation import CANNOT_TELL, Test

CLAIM = "leads"
STATEMENT = "behaviour alone does not show it: topology moves before behaviour"
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
    climbed = Climb(CANNOT_TELL, SEEDS, math.nan, (), ())  # it gets to no rung
    found = []
    for homology in HOMOLOGY:
        value = math.nan if run.why_no_rates else lead(run, run.movement(SCALE_FREE)[homology])
        number = Test(value, math.nan)
        found.append(climbed.told(CLAIM, homology, number, STATEMENT, STATISTIC, f"{CANNOT_TELL}: {why}"))
    return found


def over_runs(
    labels: Sequence[Sequence[Trajectory]], controls: Sequence[Sequence[Trajectory]] | None
) -> list[Verdict]:
    """Whether topology moves before behaviour on average over seeds, for this base and these prompts."""
    runs = [run for one in labels for run in one]
    claims = runs[0].claims
    found = []
    for homology in HOMOLOGY:

        def all_move(homology: str = homology) -> Test | str:
            """The least sure of all movements: every run must move in both."""
            if any(run.behaviour is None for run in runs):
                return _NO_BEHAVIOUR
            tests = [
                moves_test(moved)
                for run in runs
                for moved in (run.movement(SCALE_FREE)[homology], run.behaviour)
                if moved is not None
            ]
            return max(tests, key=lambda test: test.p)

        def leads(homology: str = homology) -> Test | str:
            return margin_test(
                over_seeds(labels, lambda run: lead(run, run.movement(SCALE_FREE)[homology])),
                claims.lead_margin,
            )

        climbed = climb(
            [
                moves.rung(runs, homology, claims.moves_level),
                Rung("both move", all_move, claims.level, explains=False, gate=True),
                Rung(SEEDS, in_rate_time(runs, leads), claims.level, explains=False),
                *rotation_rungs(runs, homology, lead, claims.level),
            ]
        )
        rule = (
            f"supported if the mean lead is more than {claims.lead_margin:.2g} over seeds (t test at {claims.level:g}, "
            "every run moving in both) and more than under rotations of the prompts; explained by covariance or the "
            "start means that plain geometry leads as much"
        )
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
