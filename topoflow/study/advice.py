"""`topoflow advise`: which checkpoint of a finished run to take, and whether it looks unlike healthy runs.

Reads the tables in results/ alone, and computes nothing again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from topoflow.config import PARAMS_FILE, Params, load_params
from topoflow.dynamics import advice
from topoflow.dynamics.advice import Course, Worth
from topoflow.errors import InvalidArgument, InvalidFile
from topoflow.finished import read_findings
from topoflow.storage import layout
from topoflow.storage.layout import Run

_LOSS = "held_out_loss/"  # of quantities.csv, before an objective's name
_LOGGED = ("loss", "grad_norm", "entropy", "mean_token_accuracy")  # of loss.csv


def advise(params: Params, runs: Sequence[Run], healthy: Path | None = None) -> str:
    """Give advice on finished runs: lines to read.

    Parameters
    ----------
    params : Params
    runs : sequence of Run
        Of this study.
    healthy : Path, optional
        A study whose runs are healthy; by default this one. Its controls do not count.

    Raises
    ------
    InvalidFile
        When a run is not finished, or its tables have been altered.
    """
    root = Path() if healthy is None else healthy
    of_root = params if healthy is None else load_params(root / PARAMS_FILE)
    others = [run for run in finished(of_root, root) if not of_root.is_control(run.objective)]
    courses = {run: course(params, run) for run in runs}
    known = {run: course(of_root, run, root) for run in others}
    lines, used = [], dict[str, Worth]()
    for run, followed in courses.items():
        beside = [
            one
            for other, one in known.items()
            if other.model == run.model and (healthy is not None or other != run)
        ]
        said, worth = _of_run(followed, beside)
        lines += [str(run), *said]
        used.update({worth.kind: worth} if worth else {})
    return "\n".join([*lines, *map(_told, used.values())])


def finished(params: Params, root: Path = Path()) -> list[Run]:
    """The runs of the study in a folder that are finished; InvalidFile where there is none."""
    found = [
        run for run in params.runs() if (root / run.folder("results") / layout.TRAJECTORY_FILE).is_file()
    ]
    if not found:
        raise InvalidFile(root, "has no finished run of its params.yaml", "finish one with: topoflow run")
    return found


def named(params: Params, text: str) -> Run:
    """The run that MODEL/OBJECTIVE/SEED names; InvalidArgument where it is none."""
    model, _, rest = text.partition("/")
    objective, _, seed = rest.partition("/")
    if not seed.isdecimal():
        raise InvalidArgument("--run", "MODEL/OBJECTIVE/SEED, such as tiny/helpful/0", text)
    run = Run(model, objective, int(seed))
    params.check_names(run)
    return run


def course(params: Params, run: Run, root: Path = Path()) -> Course:
    """The numbers of a finished run at its checkpoints, out of its tables.

    Parameters
    ----------
    params : Params
        Of the study in the folder `root`.
    run : Run
    root : Path
    """
    read_findings(run, root)
    results = root / run.folder("results")
    velocity = layout.read_columns(results / layout.VELOCITY_FILE)
    summaries = layout.read_columns(results / layout.SUMMARIES_FILE)
    steps = tuple(int(step) for step in np.unique(summaries["step"]))
    layers = np.unique(summaries["layer"])

    def of_layers(table: dict[str, advice.Series], name: str) -> advice.Series:
        return np.stack([table[name][table["layer"] == layer] for layer in layers], axis=1)

    kinds = {
        advice.TOPOLOGY: advice.topology_numbers(
            {name: of_layers(velocity, name) for name in advice.VELOCITIES},
            {name: of_layers(summaries, name) for name in advice.PERSISTENCE},
        )
    }
    measures = results / layout.MEASURES_FILE  # which older runs do not have, and others not whole
    measured = layout.read_columns(measures) if measures.is_file() else {}
    if set(advice.GEOMETRIC) <= set(measured):
        kinds[advice.GEOMETRY] = advice.geometry_numbers(
            {name: of_layers(measured, name) for name in advice.GEOMETRIC}
        )
    behaviour = layout.read_columns(results / layout.BEHAVIOUR_FILE)
    if behaviour["step"].tolist() == list(steps[1:]):
        kinds[advice.BEHAVIOUR] = advice.behaviour_numbers(behaviour["velocity"], behaviour["displacement"])
    logged = layout.read_columns(results / layout.LOSS_FILE, finite=False)
    if set(_LOGGED) <= set(logged) and logged["step"].tolist() == list(range(1, steps[-1] + 1)):
        kinds[advice.TRAINING] = advice.training_numbers(steps, {name: logged[name] for name in _LOGGED})
    losses = _losses(results, steps)
    own = set(params.made_of(run.objective))
    others = tuple(name for name in losses if name not in own)
    if len(others) < len(losses):
        kinds[advice.HELD_OUT] = advice.held_out_numbers(losses, others)
    return Course(steps, advice.together(kinds), losses, others)


def _losses(results: Path, steps: Sequence[int]) -> dict[str, advice.Series]:
    """Held-out losses by objective, as far as they were measured at each checkpoint."""
    path = results / layout.QUANTITIES_FILE
    if not path.is_file():
        return {}
    table = layout.read_columns(path)
    if table["step"].tolist() != list(steps):
        return {}
    return {name.removeprefix(_LOSS): values for name, values in table.items() if name.startswith(_LOSS)}


def _of_run(run: Course, others: Sequence[Course]) -> tuple[list[str], Worth | None]:
    """The lines on a run, and the kind of numbers that its health was told by."""
    choice = advice.choose(run)
    lines = [f"    checkpoint: step {choice.step}, {choice.reason}"]
    alike = [one for one in others if one.steps == run.steps]
    if len(alike) < advice.FEWEST:
        there = f"{len(alike)} healthy runs were recorded at its steps"
        return [*lines, f"    health: cannot tell; {there}, and fewer than {advice.FEWEST} say nothing"], None
    worth = advice.best_kind([run, *alike])
    if worth is None:
        return [*lines, "    health: cannot tell; no numbers of its kinds have been seen to tell"], None
    found = advice.alarm(run, alike, worth.kind)
    beside = f"beside {found.n_healthy} healthy runs (p = {found.p:.3f}; {100 * found.rate:.1f} % of healthy ones are"
    if found.raised:
        said = f"alarm; from step {found.step} on its numbers ({worth.kind}) are unusual {beside} so too)"
    else:
        said = f"its numbers ({worth.kind}) are not unusual {beside})"
    return [*lines, f"    health: {said}"], worth


def _told(worth: Worth) -> str:
    """What a kind of numbers was worth where that was measured."""
    area = f"{worth.auroc:.2f} ({worth.low:.2f} to {worth.high:.2f})"
    return (
        f"By {worth.kind}, spoiled trainings of `tiny` were told from healthy ones with an AUROC of {area}: much goes "
        "wrong unseen, and an alarm says unlike and not wrong."
    )
