"""Compare runs that were followed: over seeds, between objectives, between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from topoflow.dynamics.claims import listed
from topoflow.dynamics.claims.reading import plain_table
from topoflow.dynamics.claims.verdict import Verdict
from topoflow.dynamics.following import Trajectory
from topoflow.errors import InvalidArgument

KINDS = (*listed.BETWEEN, "runs")


@dataclass(frozen=True)
class Comparison:
    """What several runs say together.

    Attributes
    ----------
    verdicts : list of Verdict
    """

    verdicts: list[Verdict]

    def table(self) -> str:
        """The verdicts as a table for a terminal or a notebook: a row a claim, a column a homology."""
        return plain_table(map(asdict, self.verdicts))


def compare(
    runs: Mapping[str, Sequence[Trajectory]],
    kind: str = "objectives",
    controls: Mapping[str, Sequence[Trajectory]] | None = None,
) -> Comparison:
    """Compare runs by label, with seeds as the units.

    Runs of one study share their base and their prompts, so every statement is "for this base and these prompts".

    Parameters
    ----------
    runs : mapping of str to sequence of Trajectory
        Label, then one run a seed, in the same order of seeds in each label.
    kind
        "objectives": does training on them lead to different places? "models": do they evolve differently, each from
        its own start? "runs": what do all of them have in common (early, calm, leads)?
    controls : mapping of str to sequence of Trajectory, optional
        For kind "runs": the runs of each label's negative control, one a seed in the same order. They replace rotations
        of the prompts as the null of "early" and "calm", and "leads" must exceed both.

    Returns
    -------
    Comparison

    Raises
    ------
    InvalidArgument
        If labels are missing, have no runs or differ in seeds, prompts, layers or checkpoints, or controls do not fit.
    """
    if kind not in KINDS:
        raise InvalidArgument("kind", f"one of {', '.join(KINDS)}", kind)
    _check(runs, kind)
    if controls is not None:
        if kind != "runs":
            raise InvalidArgument("controls", "left out unless the kind is runs", list(controls))
        _check_controls(runs, controls)
    if kind != "runs":
        return Comparison(listed.verdicts_between(kind, runs))
    labels = list(runs.values())
    nulls = None if controls is None else [controls[label] for label in runs]
    return Comparison(listed.verdicts_over_runs(labels, nulls))


def _check(runs: Mapping[str, Sequence[Trajectory]], kind: str) -> None:
    least = 1 if kind == "runs" else 2
    if len(runs) < least:
        raise InvalidArgument("runs", f"at least {least} labels to compare {kind}", list(runs))
    counts = {label: len(group) for label, group in runs.items()}
    if min(counts.values()) < 1 or len(set(counts.values())) > 1:
        raise InvalidArgument("runs", "as many runs of each label, one a seed", counts)
    first = next(iter(runs.values()))[0]
    for label, group in runs.items():
        for run in group:
            for name, mine, its in (
                ("layers", first.recorded.layers, run.recorded.layers),
                ("checkpoints", first.anchors, run.anchors),
                ("subsamples", first.recorded.plan.tolist(), run.recorded.plan.tolist()),
                ("claims", first.claims, run.claims),
            ):
                if mine != its and not (kind == "models" and name in ("layers", "checkpoints")):
                    raise InvalidArgument(f"runs[{label!r}]", f"runs with the same {name} as the others", its)


def _check_controls(
    runs: Mapping[str, Sequence[Trajectory]], controls: Mapping[str, Sequence[Trajectory]]
) -> None:
    for label, group in runs.items():
        found = len(controls.get(label, ()))
        if found != len(group):
            raise InvalidArgument(
                f"controls[{label!r}]", f"{len(group)} runs, one for each of the label's", found
            )
