"""The stages that show what was found: in MLflow, side by side, as one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from topoflow import storage
from topoflow.config import Params
from topoflow.errors import printable
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.telling import show_table


def track(params: Params, run: Run, run_id: str | None = None) -> str:
    """Log the topology of one run to MLflow; returns the id of the run that holds it."""
    from topoflow.finished import read_findings
    from topoflow.tracking.runs import log_topology

    logged = log_topology(params, run, run_id)
    _say_what_was_found(str(run), read_findings(run))
    return logged


def _say_what_was_found(whose: str, findings: Mapping[str, Any]) -> None:
    from topoflow.dynamics.claims.reading import rich_table
    from topoflow.tracking.note import exploratory

    print(printable(f"\nWhat may be said of {whose}:"), flush=True)
    show_table(rich_table(findings["claims"].values()))
    if said := exploratory(findings):
        print(printable(f"\n{said}"), flush=True)


def compare(params: Params, run_ids: Sequence[str] = (), folder: Path = layout.COMPARISON_FOLDER) -> None:
    """Runs side by side, with a verdict on each claim: those of the study, or any MLflow runs that topoflow made."""
    from topoflow.figures.of_comparison import pictures
    from topoflow.finished import FinishedRun
    from topoflow.report.study import report as write
    from topoflow.study.comparison import compare_runs, seal, without_controls
    from topoflow.tracking.runs import locate_run, log_comparison, pages_of, server

    located = [locate_run(run_id) for run_id in run_ids] or [(run, Path()) for run in params.runs()]
    members = [FinishedRun.open(run, root) for run, root in located]
    facts = compare_runs(params, members, folder)
    for name, picture in pictures(folder, facts, without_controls(params, members)).items():
        storage.write_file(folder / name, picture)
    facts = seal(folder, facts)
    _say_what_was_found(f"{len(members)} runs", facts)
    for row in facts["added"]:
        said = f"{row['target']} of {row['model']}: {row['sentence']}"
        print(
            printable(f"{said} (gain {row['gain']:+.3f}, {row['low']:+.3f} to {row['high']:+.3f})"),
            flush=True,
        )
    for pair in facts.get("reruns", []):
        print(printable(pair["sentence"]), flush=True)
    pages = pages_of(members)
    study = not run_ids and folder == layout.COMPARISON_FOLDER
    page = write(params, pages, server(), params.track.prompts_text)[0] if study else None
    log_comparison(folder, facts, pages, page)


def report(params: Params, out: Path, mlflow: bool = False) -> list[str]:
    """The whole study as one HTML file that can be mailed; returns what is missing in it.

    With `mlflow` it names the MLflow run of each run, and links to it where a server is tracked to.
    """
    from topoflow.finished import FinishedRun
    from topoflow.report.study import report as write
    from topoflow.tracking.runs import pages_of, server

    whole = []
    for run in params.runs() if mlflow else ():
        with suppress(ValueError):  # the report names what is missing
            whole.append(FinishedRun.open(run))
    page, missing = write(params, pages_of(whole), server()) if mlflow else write(params)
    storage.write_file(out, page)
    return missing
