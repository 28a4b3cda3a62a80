"""The note of a run: what was found, in words, and what it does not show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topoflow import layout


def write_note(model: str, objective: str, results: Path, manifest: Mapping[str, Any]) -> str:
    """Markdown for the run's page.

    Parameters
    ----------
    model, objective : str
        Which run.
    results : Path
        Its folder under results/.
    manifest : mapping
        Of its activation set.
    """
    facts = json.loads((results / layout.TRAJECTORY_FILE).read_text(encoding="utf-8"))
    steps = manifest["steps"]
    lines = [
        f"### Topology of `{model}` fine-tuned on `{objective}`",
        "",
        f"{manifest['n_prompts']} evaluation prompts, last-token states of layers "
        f"{', '.join(map(str, manifest['layers']))}, {len(steps)} checkpoints from step {steps[0]} to {steps[-1]}. "
        f"Distances are order-{facts['order']:g} Wasserstein with Euclidean ground metric between H1 diagrams of the "
        "same subsample, in units of the filtration (Euclidean distance of hidden states).",
        "",
        "| layer | peak at step | peak velocity | concentration | expected if order did not matter "
        "| per step | from first to last checkpoint |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_row(name, found) for name, found in facts["layers"].items()]
    lines += ["", *_caveats(facts)]
    return "\n".join(lines) + "\n"


def _row(name: str, found: Mapping[str, Any]) -> str:
    cells = [
        str(int(name.removeprefix("layer_"))),
        _number(found["h1_peak_step"], "d"),
        _number(found["h1_peak_velocity"], ".4g"),
        _number(found["h1_concentration"], ".3f"),
        _number(found["h1_concentration_expected"], ".3f"),
        _number(found["h1_concentration_per_step"], ".3f"),
        _number(found["h1_displacement"], ".4g"),
    ]
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, spec: str) -> str:
    return "nothing moved" if value is None else format(value, spec)


def _caveats(facts: Mapping[str, Any]) -> list[str]:
    constant = sorted({layer for _, layer in facts["constant_cells"]})
    lines = [
        "Concentration is the share of all movement (velocities summed over checkpoints) in the first third of the "
        "optimiser steps; it says *early* only where it is well above the expected share beside it.",
        "",
        "**What this does not show.** One run has no error bars: nothing here is tested against chance, and no noise "
        "floor is subtracted, so small velocities may be jitter (the per-step column inflates it where checkpoints "
        "are dense). Scale is not removed: a cloud that only grows moves too. Topology says nothing of how well "
        "the model answers.",
    ]
    if constant:
        lines += [
            "",
            f"Layer {', '.join(map(str, constant))} is constant at some checkpoints: all prompts have one and the "
            "same state there, so it has no topology to speak of.",
        ]
    return lines
