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
        One a claim, homology and, where labels are compared, pair of labels.

    Examples
    --------
    >>> from topoflow.dynamics.claims.verdict import Verdict
    >>> Comparison([Verdict("early", "H1", "supported", "seeds", 0.2, 0.1, 0.3, 0.01, "", "")]).verdicts[0].verdict
    'supported'
    """

    verdicts: list[Verdict]

    def table(self) -> str:
        """Return the verdicts as a table for a terminal or a notebook: a row a claim, a column a homology.

        Returns
        -------
        str
            Print it.

        Examples
        --------
        >>> Comparison([]).table().split()[:5]
        ['claim', 'loops', '(H1)', 'components', '(H0)']
        """
        return plain_table(map(asdict, self.verdicts))


def compare(
    runs: Mapping[str, Sequence[Trajectory]],
    kind: str = "objectives",
    controls: Mapping[str, Sequence[Trajectory]] | None = None,
) -> Comparison:
    """Compare runs by label, with seeds as the units.

    Use it for any statement about more than one run. Runs of one study share their base and their prompts, so every
    statement is "for this base and these prompts". Two or three objectives need six seeds each to be told apart
    (`topoflow.dynamics.chances.seeds_for_pairs`).

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
        Its `verdicts`; `table()` prints them.

    Raises
    ------
    InvalidArgument
        If labels are missing, have no runs or differ in seeds, prompts, layers or checkpoints, or controls do not fit.

    Examples
    --------
    Runs of six seeds, in which prompts move onto a ring or to four corners. Labels can be swapped within six seeds in
    32 ways, so p is at least 1/32.

    >>> import numpy as np
    >>> from topoflow.config import Topology
    >>> from topoflow.dynamics.following import follow
    >>> base = np.random.default_rng(0).normal(size=(30, 2))
    >>> targets = {"ring": 3 * base / np.linalg.norm(base, axis=1, keepdims=True), "corners": 3 * np.sign(base)}
    >>> def run(target, seed):
    ...     rng, steps = np.random.default_rng(seed), [t + twin for t in range(0, 40, 8) for twin in (0, 1)]
    ...     clouds = {t: {1: base + t / 33 * (target - base) + 0.02 * rng.normal(size=(30, 2))} for t in steps}
    ...     return follow(clouds, topology=Topology(4, 20))
    >>> runs = {label: [run(target, seed) for seed in range(6)] for label, target in targets.items()}
    >>> [(found.homology, found.verdict, found.p) for found in compare(runs).verdicts]
    [('H1', 'supported', 0.03125), ('H0', 'supported', 0.03125)]

    With two seeds nothing can be told.

    >>> (h1, h0) = compare({label: group[:2] for label, group in runs.items()}).verdicts
    >>> h1.verdict, h1.why
    ('cannot tell', 'needs 6 seeds of each label, and has 2')
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
