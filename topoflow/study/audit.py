"""A series of checkpoints audited: where to look, and how what was found is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from topoflow import storage
from topoflow.config import CheckpointFolder, CheckpointSource, HubCheckpoints
from topoflow.errors import InvalidArgument, InvalidFile, Words, printable
from topoflow.storage.layout import Run
from topoflow.telling import show_table
from topoflow.training import audit as audits
from topoflow.training import models
from topoflow.training.audit import Finding
from topoflow.training.checkpoints import folders

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = 8  # steps of one finding


@dataclass(frozen=True)
class Audited:
    """What was looked at, and what was found.

    Attributes
    ----------
    series : str
        Its folder or repository.
    steps : tuple of int
        The checkpoints.
    looked_at : str
        "weights" or "states".
    findings : tuple of Finding
    """

    series: str
    steps: tuple[int, ...]
    looked_at: str
    findings: tuple[Finding, ...]


def audit(
    folder: str | None = None,
    steps: Sequence[int] = (),
    hub: str | None = None,
    revisions: Mapping[str, int | None] | None = None,
) -> Audited:
    """Audit a folder of checkpoints, a set of recorded states, or revisions of a Hub repository.

    Parameters
    ----------
    folder : str, optional
        With checkpoint-N folders, or an activation set. This or `hub`.
    steps : sequence of int
        Only these of the checkpoint-N folders; all where it is empty.
    hub : str, optional
        A repository's id.
    revisions : mapping of str to (int or None), optional
        Which, and their steps where names do not say them; all whose names do, where this is None.

    Raises
    ------
    InvalidArgument, InvalidFile
        When an option does not fit, or there is no such series.
    """
    if folder is None:
        assert hub is not None
        if steps:
            raise InvalidArgument(
                "--steps", "left out with --hub, which has --revisions", Words(str(list(steps)))
            )
        whole = revisions is None
        chosen = audits.revisions_with_steps(hub) if revisions is None else revisions
        return _of_source(HubCheckpoints(hub, dict(chosen)), Run("", "", 0), whole)
    if revisions is not None:
        raise InvalidArgument("--revisions", "left out without --hub", Words("--revisions and a folder"))
    if (Path(folder) / storage.MANIFEST).is_file():
        if steps:
            raise InvalidArgument("--steps", "left out for recorded states", Words(str(list(steps))))
        stored = storage.open_set(folder, storage.ACTIVATIONS)
        return Audited(folder, stored.steps, "states", tuple(audits.audit_states(stored)))
    return _of_source(CheckpointFolder(folder, tuple(steps)), Run("", "", 0), not steps)


def _of_source(source: CheckpointSource, run: Run, whole: bool) -> Audited:
    if isinstance(source, CheckpointFolder):
        places = folders(source, run)
        series, listing = str(next(iter(places.values())).parent), audits.of_folder(places)
    else:
        series = source.id.replace("{model}", run.model).replace("{seed}", str(run.seed))
        listing = audits.of_hub(series, source.revision_of_step)
    steps = tuple(one.step for one in listing)
    return Audited(series, steps, "weights", tuple(audits.audit_listing(listing, whole)))


def before_recording(source: CheckpointSource | None, run: Run) -> None:
    """Audit the checkpoints that are to be recorded, and say what was found.

    Raises
    ------
    InvalidFile
        When one of them cannot be recorded.
    """
    assert source is not None
    if isinstance(source, HubCheckpoints) and models.is_offline():
        print("The revisions are not audited, because HF_HUB_OFFLINE forbids to ask the Hub.", flush=True)
        return
    audited = _of_source(source, run, whole=isinstance(source, CheckpointFolder) and not source.steps)
    show(audited)
    if stopping := [finding.what for finding in audited.findings if finding.stops]:
        raise InvalidFile(
            audited.series,
            f"has checkpoints that cannot be recorded: {' '.join(stopping[:3])}",
            "choose others with --steps or --revisions",
        )


def as_json(audited: Audited) -> str:
    """What was found, as one line of JSON with sorted keys."""
    return storage.json_bytes(asdict(audited)).decode().strip()


def show(audited: Audited) -> None:
    """Print what was found, as a table."""
    n = len(audited.findings)
    found = {0: "nothing was found", 1: "1 finding"}.get(n, f"{n} findings")
    series = printable(audited.series)
    print(
        f"\nAudit of the {audited.looked_at} of {len(audited.steps)} checkpoints in {series}: {found}.",
        flush=True,
    )
    if n:
        show_table(rich_table(audited.findings))


def rich_table(findings: Sequence[Finding]) -> Table:
    """The findings as a table that rich prints."""
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    columns = Column("finding", no_wrap=True), Column("steps", ratio=2), Column("what", ratio=5)
    table = Table(*columns, box=box.HORIZONTALS, show_lines=True, expand=True, pad_edge=False)
    for one in findings:
        more = ", ..." if len(one.steps) > _SHOWN else ""
        steps = ", ".join(map(str, one.steps[:_SHOWN])) + more
        table.add_row(*(Text(printable(cell)) for cell in (one.kind, steps, one.what)))
    return table
