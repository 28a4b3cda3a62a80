"""What may be said: one file a claim, with its statistic, its ladder of rival explanations, and its words.

A new claim about runs is one file and a name in `verdicts_of_run` and in `topoflow.dynamics.comparing.compare`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from topoflow.dynamics.claims.margins import Claims
from topoflow.dynamics.claims.verdict import Verdict
from topoflow.dynamics.permutation import SUPPORTED

if TYPE_CHECKING:
    from topoflow.dynamics.following import Trajectory

__all__ = ["Claims", "Verdict", "verdicts_of_run"]


def verdicts_of_run(run: Trajectory) -> list[Verdict]:
    """Every claim about one run, in the order in which they are told: what moves, when, whether it then is calm."""
    from topoflow.dynamics.claims import calm, early, leads, moves

    return after_early([verdict for claim in (moves, early, calm, leads) for verdict in claim.of_run(run)])


def after_early(verdicts: list[Verdict]) -> list[Verdict]:
    """Gatekeeping: a burst and then calm is supported only where "early" is, and its p-value is no smaller."""
    early = {verdict.homology: verdict for verdict in verdicts if verdict.claim == "early"}
    found = []
    for verdict in verdicts:
        before = early.get(verdict.homology)
        if verdict.claim == "calm" and verdict.verdict == SUPPORTED and before is not None:
            p = None if before.p is None or verdict.p is None else max(before.p, verdict.p)
            verdict = replace(verdict, p=p)
            if before.verdict != SUPPORTED:
                said = "not supported beyond early"
                verdict = replace(
                    verdict, verdict=said, rung="early", steps=(*verdict.steps, ("early", said)),
                    rule=f"{verdict.rule}; and only where 'early' is supported",
                )  # fmt: skip
        found.append(verdict)
    return found
