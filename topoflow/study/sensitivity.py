"""`topoflow sensitivity`: every verdict under declared alternatives, and which of them flip.

What was computed of an alternative is kept in .topoflow/, under the hash of all that decides it: a command that was
stopped goes on, and one that runs again computes nothing twice. The stages of dvc.yaml know nothing of it; tables and
pictures lie in sensitivity/, since a file in results/ would be a reason for DVC to run later stages again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topoflow import storage
from topoflow.compute import map_cells
from topoflow.config import Claims, Params
from topoflow.dynamics.claims.verdict import Verdict
from topoflow.dynamics.sensitivity import (
    OWN,
    Agreement,
    Alternative,
    Choices,
    Examination,
    agreements,
    alternatives,
    heading,
    in_words,
    sort_under,
    without_rotations,
)
from topoflow.errors import InvalidFile, printable
from topoflow.finished import FinishedRun
from topoflow.followed import followed
from topoflow.storage import layout
from topoflow.storage.files import remove
from topoflow.storage.layout import Run
from topoflow.telling import duration, say, show_table, time_left

if TYPE_CHECKING:
    from rich.table import Table

TABLE = (
    "alternative", "order", "clock", "metric", "normalise", "subsample_size", "n_subsamples", "layers", "prompts",
    "n_rotations", "name", "claim", "homology", "value", "p", "verdict", "rung", "agrees",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What the alternatives say of a run or a study, and where it was written."""

    whose: str
    folder: Path
    agreements: list[Agreement]
    n_rotations: int


def of_run(params: Params, run: Run) -> Found:
    """Compute every verdict of a finished run under the alternatives of params.yaml, and write table and picture.

    Raises
    ------
    InvalidFile
        When the run is not finished, or was made under other parameters.
    """
    done = _open(params, run)
    examination = _examination(params, done)
    layers, n_prompts = done.diagrams.layers, examination.n_prompts
    listed = _alternatives(params, layers, n_prompts)
    verdicts = _all(str(run), _key(params, [done]), listed, lambda one: examination.verdicts(one.choices))
    return _write(params, run.folder("sensitivity"), str(run), [done], listed, verdicts, layers, n_prompts)


def of_study(params: Params) -> Found:
    """Likewise for the claims over all runs of a study; of the alternatives, those that such a claim can see."""
    from topoflow.study.comparison import check_comparable, claims_over_runs

    members = [_open(params, run) for run in params.runs()]
    check_comparable(members)
    examinations = {member.run: _examination(params, member) for member in members}
    layers = sorted({layer for member in members for layer in member.diagrams.layers})
    n_prompts = next(iter(examinations.values())).n_prompts
    listed: list[Alternative] = []
    for one in _alternatives(params, layers, n_prompts):
        choices = replace(
            one.choices, order=params.trajectory.resolved_order
        )  # no such claim uses velocities
        if choices not in [other.choices for other in listed]:
            listed.append(Alternative(one.name, choices))

    def compute(one: Alternative) -> dict[str, Verdict]:
        claims = claims_over_runs(
            params, members, lambda member: examinations[member.run].trajectory(one.choices)
        )
        return by_name(claims)

    verdicts = _all("study", _key(params, members), listed, compute)
    return _write(
        params, layout.SENSITIVITY_FOLDER, "the study", members, listed, verdicts, layers, n_prompts
    )


def by_name(claims: Mapping[str, Mapping[str, Any]]) -> dict[str, Verdict]:
    """Claims of a comparison as verdicts in which those that stopped for want of rotations are said to pass.

    A claim that comes after another does so within one model or objective, which the end of its name says.
    """
    groups: dict[str, dict[str, Verdict]] = {}
    for name, facts in claims.items():
        verdict = _verdict(facts)
        groups.setdefault(name.removeprefix(verdict.name), {})[name] = verdict
    found: dict[str, Verdict] = {}
    for group in groups.values():
        found |= zip(group, without_rotations([*group.values()]), strict=True)
    return {name: found[name] for name in claims}


def _open(params: Params, run: Run) -> FinishedRun:
    done = FinishedRun.open(run)
    done.check_parameters(params)
    return done


def _claims(params: Params) -> Claims:
    return replace(params.claims, n_rotations=params.sensitivity.n_rotations)


def _examination(params: Params, done: FinishedRun) -> Examination:
    run = followed(done.run, done.activations, done.diagrams, params)
    raw = replace(run.recorded, cloud=done.activations.point_cloud)

    def mapper(function: Any, tasks: Any, n_tasks: int, label: str) -> Any:
        return map_cells(function, tasks, n_tasks, params.compute, f"{label}, {done.run}")

    return Examination(raw, _own(params), _claims(params), mapper, run.keeper)


def _own(params: Params) -> Choices:
    topology, settings = params.topology, params.trajectory
    return Choices(
        order=settings.resolved_order,
        third=settings.clock,
        preparation=topology.preparation,
        n_subsamples=topology.n_subsamples,
        subsample_size=topology.subsample_size,
    )


def _alternatives(params: Params, layers: Sequence[int], n_prompts: int) -> list[Alternative]:
    declared = asdict(params.sensitivity)
    del declared["n_rotations"]
    joint = [
        {name: value for name, value in changes.items() if value is not None}
        for changes in declared.pop("joint")
    ]
    return alternatives(_own(params), layers, n_prompts, **declared, joint=joint)


# --- computed once ------------------------------------------------------------------------------


def _key(params: Params, members: Sequence[FinishedRun]) -> dict[str, Any]:
    """What decides the verdicts under any alternative."""
    code = ("dynamics", "dynamics/claims", "topology", *(["study"] if len(members) > 1 else []))
    return {
        "runs": {str(member.run): member.diagrams.sha256 for member in members},
        "activations": {str(member.run): member.activations.sha256 for member in members},
        "controls": params.controls(),
        "claims": asdict(_claims(params)),
        "code": storage.code_sha256(*code),
        "versions": {package: version(package) for package in ("numba", "numpy", "ripser", "scipy")},
    }


def _all(
    whose: str,
    key: Mapping[str, Any],
    listed: Sequence[Alternative],
    compute: Callable[[Alternative], dict[str, Verdict]],
) -> dict[str, dict[str, Verdict]]:
    """The verdicts under each alternative: kept, or else computed and kept, with a line for each."""
    home = storage.WORK_FOLDER / "sensitivity" / whose
    paths = {
        one.name: home
        / f"{storage.sha256(storage.json_bytes({**key, 'choices': asdict(one.choices)}))[:16]}.json"
        for one in listed
    }
    found: dict[str, dict[str, Verdict]] = {}
    begun, computed = time.monotonic(), 0
    missing = sum(not path.exists() for path in paths.values())
    for number, one in enumerate(listed, 1):
        path, before = paths[one.name], time.monotonic()
        verdicts = _kept(path)
        told = "kept"
        if verdicts is None:
            verdicts = compute(one)
            storage.write_file(
                path, storage.json_bytes([[name, asdict(of)] for name, of in verdicts.items()])
            )
            computed += 1
            now = time.monotonic()
            told = f"{duration(now - before)}{time_left(now - begun, computed, missing)}"
        found[one.name] = verdicts
        say(f"{whose}: {number} of {len(listed)}, {one.name}: {_differences(found, one)} ({told})")
    for path in set(home.glob("*.json")) - set(paths.values()):  # decided otherwise, by other code, say
        remove(path)
    return found


def _kept(path: Path) -> dict[str, Verdict] | None:
    try:
        return {name: _verdict(facts) for name, facts in layout.read_json(path)}
    except (InvalidFile, TypeError, ValueError, KeyError):  # there is none, or it is damaged
        return None


def _verdict(facts: Mapping[str, Any]) -> Verdict:
    steps = tuple((name, outcome) for name, outcome in facts["steps"])
    return Verdict(**{**facts, "steps": steps, "labels": tuple(facts["labels"])})


def _differences(found: Mapping[str, Mapping[str, Verdict]], one: Alternative) -> str:
    if one.name == OWN:
        return f"{len(found[OWN])} verdicts"
    told = agreements({OWN: found[OWN], one.name: found[one.name]})
    differ = sum(of.n_alternatives - of.n_agree for of in told)
    return f"{differ} of {len(told)} verdicts differ" if differ else "all verdicts agree"


# --- written ------------------------------------------------------------------------------------


def _write(
    params: Params,
    folder: Path,
    whose: str,
    members: Sequence[FinishedRun],
    listed: Sequence[Alternative],
    verdicts: Mapping[str, Mapping[str, Verdict]],
    layers: Sequence[int],
    n_prompts: int,
) -> Found:
    from topoflow.figures.sensitivity import sensitivity_figure
    from topoflow.figures.style import png_bytes

    n_rotations = params.sensitivity.n_rotations
    own = {name: sort_under(verdict.verdict) for name, verdict in verdicts[OWN].items()}
    rows = []
    for one in listed:
        chosen = one.choices.told(layers, n_prompts)
        for name, verdict in verdicts[one.name].items():
            agrees = sort_under(verdict.verdict) == own[name]
            rows.append(
                [
                    one.name, *chosen.values(), n_rotations, name, verdict.claim, verdict.homology,
                    verdict.value, verdict.p, verdict.verdict, verdict.rung, "yes" if agrees else "no",
                ]
            )  # fmt: skip
    told = agreements(verdicts)
    with storage.sole_writer(folder):
        layout.write_table(folder / layout.SENSITIVITY_TABLE, TABLE, rows)
        shown = layout.read_rows(folder / layout.SENSITIVITY_TABLE, TABLE)
        title = f"What {whose} says under {len(listed) - 1} alternatives"
        picture = png_bytes(sensitivity_figure(shown, title=title))
        storage.write_file(folder / layout.SENSITIVITY_PICTURE, picture)
        facts = {
            "results": {
                str(one.run): storage.sha256_of_file(one.results / layout.TRAJECTORY_FILE) for one in members
            },
            "n_rotations": n_rotations,
            "declared": asdict(params.sensitivity),
            "agreements": [_agreement(one) for one in told],
            "files": layout.hashes(folder, (layout.SENSITIVITY_TABLE, layout.SENSITIVITY_PICTURE)),
        }
        storage.write_file(folder / layout.SENSITIVITY_FILE, storage.json_bytes(facts))
    return Found(whose, folder, told, n_rotations)


def _agreement(one: Agreement) -> dict[str, Any]:
    return {
        "name": one.name,
        "verdict": one.own.verdict,
        "n_agree": one.n_agree,
        "n_alternatives": one.n_alternatives,
        "flips": one.flips,
    }


def show(found: Found) -> None:
    """Print what was found, and where it lies."""
    print(printable(f"\nWhat {found.whose} says under the alternatives of params.yaml:"), flush=True)
    show_table(rich_table(found))
    said = in_words(len(found.agreements), sum(not one.flips for one in found.agreements), found.n_rotations)
    print(printable(f"\n{said}\nTable and picture: {found.folder}"), flush=True)


def rich_table(found: Found) -> Table:
    """How many alternatives agree with each verdict, and which choice flips it, as a table that rich prints."""
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    columns = (
        Column("claim", ratio=3), Column("verdict", ratio=3), Column("agree", justify="right", no_wrap=True),
        Column("flipped by", ratio=6),
    )  # fmt: skip
    table = Table(*columns, box=box.HORIZONTALS, show_lines=True, expand=True, pad_edge=False)
    for one in found.agreements:
        flips = "\n".join(f"{said}: {'; '.join(names)}" for said, names in one.flips.items())
        cells = (heading(one.name), one.own.verdict)
        agree = f"{one.n_agree} of {one.n_alternatives}"
        table.add_row(*(Text(printable(cell)) for cell in (*cells, agree, flips or "none")))
    return table
