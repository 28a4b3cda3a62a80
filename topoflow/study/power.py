"""What a run or a study can decide, before it runs: `dynamics.power` asked with params.yaml, as lines to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from topoflow.config import Params
from topoflow.dynamics import power
from topoflow.dynamics.claims import listed
from topoflow.dynamics.design import JITTERS, SPREADS, Decidable, Design
from topoflow.dynamics.twins import find_twins


def run_decides(params: Params, design: Design) -> str:
    """What one run, recorded as `design` says, can decide: lines to read."""
    head = f"What this run can decide: {_of_twins(design)}"
    found = power.of_run(design, params.claims)
    return "\n".join([head, *_lines(found), *_powers(found, "assumed")])


def study_decides(
    params: Params,
    designs: Mapping[str, Design],
    pilot: float | None = None,
    source: str = "assumed",
    jitters: Sequence[float] = (),
) -> str:
    """What a study can decide: lines to read.

    Parameters
    ----------
    params : Params
    designs : mapping of str to Design
        How the runs of each objective, and of each control, are recorded.
    pilot : float, optional
        Standard deviation of early shares between seeds, where it is known.
    source : str
        Where that is from.
    jitters : sequence of float, optional
        What jitter makes of the movement of single runs, where it is known.
    """
    controls = params.controls()
    names = [name for name in designs if not params.is_control(name)]
    n_controls = sum(name in controls for name in names)
    has_controls = 0 < n_controls == len(names)
    of_whom: dict[tuple[int, ...], list[str]] = {}
    for name, design in designs.items():
        of_whom.setdefault(tuple(find_twins(design.steps)), []).append(name)
    # comparisons are no better than the worst recording
    worst = min(designs.values(), key=lambda design: (not design.why_no_twins, not design.why_no_halves))
    study = replace(
        worst,
        n_seeds=len(params.seeds),
        n_objectives=len(names),
        n_models=len(params.models),
        has_controls=has_controls,
    )
    held = "each with its control" if has_controls else f"{n_controls or 'none'} with its control"
    counted = [
        f"{_counted(len(names), 'objective')}, {held}",
        *(_counted(len(listed), kind) for listed, kind in ((params.models, "model"), (params.seeds, "seed"))),
    ]
    lines = [f"What this study can decide: {', '.join(counted)}; {_of_twins(study)}"]
    if len(of_whom) > 1:
        groups = "; ".join(", ".join(group) for group in of_whom.values())
        lines.append(
            f"Objectives have twins at other steps, and cannot be compared with one another: {groups}"
        )
    found = [
        *_alone(power.of_run(worst, params.claims, jitters or JITTERS)),
        *power.of_study(study, params.claims, SPREADS if pilot is None else [pilot], pilot is not None),
    ]
    return "\n".join([*lines, *_lines(found), *_powers(found, source)])


def never(params: Params, design: Design) -> str:
    """Which claims about one run can never be decided, and why; empty if all can."""
    why: dict[str, list[str]] = {}
    for one in _alone(
        power.of_run(design, params.claims, jitters=())
    ):  # no power is asked for, and none simulated
        if not one.can_decide:
            why.setdefault(one.why, []).append(one.claim)
    return "; ".join(f"{', '.join(claims)}: {reason}" for reason, claims in why.items())


def _alone(found: Sequence[Decidable]) -> list[Decidable]:
    """Those that some single run can decide."""
    names = {claim.name for claim in listed.CLAIMS if claim.alone}
    return [one for one in found if one.claim in names]


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _of_twins(design: Design) -> str:
    n_early, n_late = design.n_intervals
    return f"{_counted(len(design.clock), 'twin')}, {n_early} early and {n_late} later intervals"


def _lines(found: Sequence[Decidable]) -> list[str]:
    """A line a claim, and one more for what would be enough."""
    lines = [f"{'claim':<36}{'smallest p':<12}can it be supported?"]
    for one in found:
        name, smallest = f"{one.claim}, {one.unit}", f"{one.smallest_p:.2g}" if one.smallest_p else "any"
        lines.append(f"{name:<36}{smallest:<12}{'yes' if one.can_decide else f'never: {one.why}'}")
        if one.enough:
            lines.append(f"    enough: {one.enough}")
    return lines


def _powers(found: Sequence[Decidable], source: str) -> list[str]:
    """For each claim a line with the effects, and one for each spread with the power to find them."""
    lines = ["power to find"]
    for one in found:
        for place, (spread, powers) in enumerate(one.power.items()):
            if not place:
                effects = "".join(f"{effect:<8.4g}" for effect in powers)
                lines.append(f"{f'{one.claim}, {one.unit}: {one.effect}':<72}{effects}")
            cells = "".join(f"{f'{100 * value:.0f} %':<8}" for value in powers.values())
            lines.append(f"{f'    {one.spread} {spread:.2g}':<72}{cells}")
    if len(lines) == 1:
        return []
    return [
        *lines,
        f"Spread: the standard deviation between seeds ({source}).",
        "Jitter: the standard error that it gives to the squared movement of a run, as a share of it.",
        "A verdict must pass more rungs: its power is at most that of the test shown here.",
    ]
