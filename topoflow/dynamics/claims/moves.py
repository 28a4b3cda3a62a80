"""Does the topology move at all, by more than jitter that is forgotten within one optimiser step?"""

from __future__ import annotations

from collections.abc import Sequence

from topoflow.dynamics.claims.verdict import Rung, Verdict, climb
from topoflow.dynamics.design import ONE_RUN, Decidable, Question
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import RAW, Trajectory
from topoflow.dynamics.movement import SMALLEST_MOVES_P, moves_test
from topoflow.dynamics.permutation import Test, stouffer

CLAIM = "moves"
STATEMENT = "the topology moves through training, by more than jitter between neighbouring steps"
STATISTIC = "summed squared movement between twin checkpoints, in standard errors of jitter"
RULE = (
    "supported if p <= {level:g} (one-sided, against simulated jitter like that within twins); jitter that is "
    "remembered for longer than one step counts as movement, and without movement no other claim can be told"
)


def of_run(run: Trajectory) -> list[Verdict]:
    """Whether one run moves."""
    return [_verdict(run, homology) for homology in HOMOLOGY]


def decidable_of_run(asked: Question) -> Decidable:
    """Whether one run can show it."""
    level, why = asked.claims.moves_level, asked.design.why_no_twins or asked.why_no_moves
    return Decidable(CLAIM, ONE_RUN, SMALLEST_MOVES_P, level, asked.enough_twins, why)


def rung(runs: Sequence[Trajectory], homology: str, level: float) -> Rung:
    """The gate of every other claim: that these runs, taken together, move."""

    def test() -> Test | str:
        for run in runs:
            if run.why_no_twins:
                return run.why_no_twins
        tests = [moves_test(run.movement(RAW)[homology]) for run in runs]
        if len(tests) == 1:
            return tests[0]
        return Test(sum(test.value for test in tests) / len(tests), stouffer([test.p for test in tests]))

    return Rung(CLAIM, test, level, explains=False, gate=True)


def _verdict(run: Trajectory, homology: str) -> Verdict:
    level = run.claims.moves_level
    found = climb([rung([run], homology, level)])
    return found.told(CLAIM, homology, found.at(CLAIM), STATEMENT, STATISTIC, RULE.format(level=level))
