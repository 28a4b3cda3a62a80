"""The note of a run: what was found, in words, and what it does not show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Beside every number that a run holds: what it is, with its unit.
DEFINITIONS = {
    "velocity": "Wasserstein distance of the given order, Euclidean ground metric, between the diagrams of the "
    "same subsample at consecutive checkpoints; mean over subsamples; filtration distance",
    "displacement": "likewise between the first checkpoint and this one; filtration distance",
    "concentration": "share of the summed velocities that falls to intervals ending within the first third of "
    "the optimiser steps",
    "concentration_per_step": "likewise with each velocity, its floor taken out in squares, divided by the "
    "optimiser steps of its interval",
    "concentration_expected": "share of the intervals that end within the first third: the mean of either "
    "concentration when its terms are permuted, and what a steady change gives per step",
    "floor": "f of the least-squares fit v^2 = f^2 + (rate x optimiser steps of the interval)^2 with neither "
    "below 0; 0 where all intervals are equally long, which leaves it undetermined; filtration distance",
    "peak_step": "optimiser step at which the interval with the largest velocity ends",
}


def write_note(
    findings: Mapping[str, Any], activations: Mapping[str, Any], diagrams: Mapping[str, Any]
) -> str:
    """Markdown for the run's page.

    Parameters
    ----------
    findings : mapping
        What trajectory.json holds: `order`, and `layers` with the numbers of each.
    activations, diagrams : mapping
        The manifests of the two sets.
    """
    steps = activations["steps"]
    lines = [
        f"### Topology of `{activations['model']}` fine-tuned on `{activations['objective']}`",
        "",
        f"{activations['n_prompts']} evaluation prompts, last-token states of layers "
        f"{', '.join(map(str, activations['layers']))}, {len(steps)} checkpoints from step {steps[0]} to {steps[-1]}. "
        f"Distances are order-{findings['order']:g} Wasserstein with Euclidean ground metric between H1 diagrams of "
        "the same subsample, in units of the filtration (Euclidean distance of hidden states).",
        "",
        "| layer | peak at step | peak velocity | concentration | per step | either, if order did not matter "
        "| from first to last checkpoint |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, found) for name, found in findings["layers"].items()]
    lines += ["", *_caveats(diagrams["constant_cells"])]
    return "\n".join(lines) + "\n"


def _row(name: str, found: Mapping[str, Any]) -> str:
    cells = [
        str(int(name.removeprefix("layer_"))),
        _number(found["h1_peak_step"], "d"),
        _number(found["h1_peak_velocity"], ".4g"),
        _number(found["h1_concentration"], ".3f"),
        _number(found["h1_concentration_per_step"], ".3f"),
        _number(found["h1_concentration_expected"], ".3f"),
        _number(found["h1_displacement"], ".4g"),
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, spec: str) -> str:
    return "nothing moved" if value is None else format(value, spec)


def _caveats(constant_cells: Sequence[Sequence[int]]) -> list[str]:
    constant = sorted({layer for _, layer in constant_cells})
    lines = [
        "Concentration is the share of all movement (velocities summed over checkpoints) in the first third of the "
        "optimiser steps; it says *early* only where it is well above the expected share beside it.",
        "",
        "**What this does not show.** One run has no error bars: nothing here is tested against chance, and small "
        "velocities may be jitter (the per-step column takes out only what a steady change cannot explain). Scale "
        "is not removed: a cloud that only grows moves too. Topology says nothing of how well the model answers.",
    ]
    if constant:
        lines += [
            "",
            f"Layer {', '.join(map(str, constant))} is constant at some checkpoints: all prompts have one and the "
            "same state there, so it has no topology to speak of.",
        ]
    return lines
