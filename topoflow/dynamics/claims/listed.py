"""Every claim. A new one is a file beside this one and a line in `CLAIMS`, or in `BETWEEN`, and nothing else.

The verdict table, the note, the report, MLflow's metrics, the CSV files and `topoflow plan` take from here what they
show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from topoflow.dynamics.claims import calm, classes, early, leads, models, moves, objectives
from topoflow.dynamics.claims.verdict import Verdict
from topoflow.dynamics.design import Decidable, Question
from topoflow.dynamics.following import Trajectory
from topoflow.dynamics.permutation import SUPPORTED

Labels = Sequence[Sequence[Trajectory]]  # runs by label, in the same order of seeds


@dataclass(frozen=True)
class Claim:
    """A claim about runs.

    Attributes
    ----------
    name
        As in its verdicts.
    heading
        The heading of its column, where each run has a row.
    of_run
        Its verdicts about one run, one a homology.
    decidable_of_run
        Whether one run can decide it, before it runs; None where no single run ever does.
    over_runs
        Its verdicts about runs by label and the controls of each, if any; None where only single runs have it.
    decidable_over_runs
        Whether seeds can decide it, before they run; None where only single runs have it.
    after
        The claim without which this one is not supported, "" if there is none.
    said
        The verb that says in a note that it is supported, as in "H1 and H0 move"; "" to say "supported".
    of_labels
        Whether it is about one run whose prompts carry labels, and about no other: a plan does not speak of it.
    """

    name: str
    heading: str
    of_run: Callable[[Trajectory], list[Verdict]]
    decidable_of_run: Callable[[Question], Decidable] | None
    over_runs: Callable[[Labels, Labels | None], list[Verdict]] | None = None
    decidable_over_runs: Callable[[Question], Decidable] | None = None
    after: str = ""
    said: str = ""
    of_labels: bool = False

    @property
    def alone(self) -> bool:
        """Whether one run can decide it."""
        return self.of_labels or self.decidable_of_run is not None


CLAIMS = (  # in the order in which they are told: without movement there is nothing to tell, and calm needs a burst
    Claim(moves.CLAIM, "moves", moves.of_run, moves.decidable_of_run, said="move"),
    Claim(
        early.CLAIM, "early", early.of_run, early.decidable_of_run, early.over_runs, early.decidable_over_runs
    ),
    Claim(
        calm.CLAIM, "burst, then calm", calm.of_run, calm.decidable_of_run, calm.over_runs, calm.decidable_over_runs,
        after=early.CLAIM,
    ),
    Claim(leads.CLAIM, "before behaviour", leads.of_run, None, leads.over_runs, leads.decidable_over_runs),
    Claim(classes.CLAIM, "classes differ", classes.of_run, None, of_labels=True),
)  # fmt: skip


@dataclass(frozen=True)
class Between:
    """Claims about what differs between labels.

    Attributes
    ----------
    compared
        Their verdicts about runs by label.
    decidable
        Whether a design can decide them, before it runs: one answer a claim.
    """

    compared: Callable[[Mapping[str, Sequence[Trajectory]]], list[Verdict]]
    decidable: Callable[[Question], list[Decidable]]


BETWEEN: dict[str, tuple[Between, ...]] = {  # by the kind of comparison
    "objectives": (Between(objectives.compared, objectives.decidable),),
    "models": (Between(models.compared, models.decidable),),
}


def verdicts_of_run(run: Trajectory) -> list[Verdict]:
    """What may be said of one run."""
    return gated([verdict for claim in CLAIMS for verdict in claim.of_run(run)])


def verdicts_over_runs(labels: Labels, controls: Labels | None) -> list[Verdict]:
    """What may be said of runs together, seeds being the units."""
    return gated(
        [verdict for claim in CLAIMS if claim.over_runs for verdict in claim.over_runs(labels, controls)]
    )


def verdicts_between(kind: str, runs: Mapping[str, Sequence[Trajectory]]) -> list[Verdict]:
    """What may be said of how runs of one label differ from those of another."""
    return [verdict for between in BETWEEN[kind] for verdict in between.compared(runs)]


def gated(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Gatekeeping: a claim that comes `after` another is supported only where that is, with no smaller p-value."""
    after = {claim.name: claim.after for claim in CLAIMS}
    known = {(verdict.claim, verdict.homology): verdict for verdict in verdicts}
    found = []
    for verdict in verdicts:
        gate = after.get(verdict.claim, "")
        before = known.get((gate, verdict.homology))
        if before is not None and verdict.verdict == SUPPORTED:
            p = None if before.p is None or verdict.p is None else max(before.p, verdict.p)
            verdict = replace(verdict, p=p)
            if before.verdict != SUPPORTED:
                said = f"not supported beyond {gate}"
                verdict = replace(
                    verdict, verdict=said, rung=gate, steps=(*verdict.steps, (gate, said)),
                    rule=f"{verdict.rule}; and only where '{gate}' is supported",
                )  # fmt: skip
        found.append(verdict)
    return found
