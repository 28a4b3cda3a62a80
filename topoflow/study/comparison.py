"""Several runs side by side: opens their sets, refuses what cannot be compared, and writes comparison/."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from topoflow import storage
from topoflow.compute import map_cells
from topoflow.config import Params, Recording
from topoflow.config.pooling import Pooling
from topoflow.dynamics.cells import cell_diagrams
from topoflow.dynamics.claims.reading import TABLE, table_row
from topoflow.dynamics.classification import classify_summaries, grouped_plan
from topoflow.dynamics.comparing import compare
from topoflow.dynamics.comparison import (
    LabelComparison,
    compare_labels,
    effects,
    pairs_of,
    runs_at_each_checkpoint,
    summary_energy,
)
from topoflow.dynamics.embedding import classical_mds, diagram_distance_matrix
from topoflow.dynamics.following import Trajectory
from topoflow.dynamics.twins import spaced
from topoflow.errors import InvalidArgument, Words
from topoflow.finished import FinishedRun, is_exploratory, published
from topoflow.followed import followed
from topoflow.names import EFFECT_COLUMNS, MAP_COLUMNS, SEPARATION_COLUMNS
from topoflow.storage import layout
from topoflow.storage.layout import Run, write_table
from topoflow.study.added import write_added
from topoflow.study.reruns import write_reruns
from topoflow.topology.summaries import SUMMARY_NAMES, barcode_summaries

logger = logging.getLogger(__name__)

# Of each cell: the mean over a quarter of the overlapping subsamples is hardly less certain, and four times cheaper.
_SUBSAMPLES = 16
# Of the classifier: groups of prompts to leave out (fewer could not give p <= 0.05), and points of a subsample.
_PROMPT_GROUPS, _GROUPED_SIZE, _LEAST_SIZE = 6, 80, 12
_CLASSIFIER_PERMUTATIONS = 99
# What must be equal for a distance between two runs to mean anything.
_MUST_MATCH = {
    "prompts_sha256": "evaluation prompts",
    "layers": "layers",
    "steps": "checkpoints",
    "plan_sha256": "subsample plan",
    "complex": "filtration",
    "prepared": "metric, scale and directions",
    "order": "order of the Wasserstein distance",
    "first_third": "first third of the concentration",
    "pooling": "recorded tokens",
}
# What may differ, but rounds otherwise: of the activations' manifest, which older sets do not say.
_ROUNDS_ALIKE = ("device", "compute_dtype", "autocast", "dtype")


def compare_runs(params: Params, members: Sequence[FinishedRun], folder: Path) -> dict[str, Any]:
    """Compare runs and write tables and verdicts into `folder`; returns the facts, for `seal`.

    Raises
    ------
    InvalidArgument
        When there are fewer than two runs, one twice, or two that cannot be compared; what differs is named.
    """
    check_comparable(members)
    warn_of_rounding(members)
    warn_of_templates(members)
    first = members[0]
    layers, steps = first.diagrams.layers, spaced(first.diagrams.steps)
    seed = params.seed
    # distances between all cells grow with the square of their number: those that pictures show, and no controls
    shown = without_controls(params, members)
    n_subsamples = min(_SUBSAMPLES, first.diagrams.manifest["n_subsamples"])
    tasks = (
        (
            [member.diagrams.diagrams(step, layer) for member in shown for step in steps],
            1,
            first.facts["order"],
            n_subsamples,
        )
        for layer in layers
    )
    matrices = list(
        map_cells(diagram_distance_matrix, tasks, len(layers), params.compute, "distances of all runs")
    )
    distances = np.array([runs_at_each_checkpoint(matrix, len(shown)) for matrix in matrices])

    seeds = [member.run.seed for member in shown]
    found: dict[str, LabelComparison] = {}
    for claim, labels in _labellings(shown).items():
        for name, places in labels:
            chosen = [shown[at] for at in places]
            compared = compare_labels(
                distances[:, :, places][..., places],
                [_label(claim, member) for member in chosen],
                [seeds[at] for at in places],
            )
            if compared is not None:
                found[name] = compared
    claims = claims_over_runs(params, members)
    _write_runs(folder, members)
    _write_distances(folder, shown, layers, steps, matrices, found)
    _write_effects(folder, shown, seed)
    _write_classification(folder, params, shown)
    write_table(folder / "verdicts.csv", TABLE, map(table_row, claims.values()))
    added = write_added(folder, members, shown, params.claims.level, seed)
    reruns = write_reruns(folder, params, members)
    return {
        **{key: value for key, value in published(first.facts).items() if value != "steps"},
        "ground_metric": "euclidean",
        "level": params.claims.level,
        "n_subsamples": n_subsamples,
        "runs": {str(member.run): member.facts["pooled"] for member in members},
        "claims": claims,
        "added": added,
        **({"reruns": reruns} if reruns else {}),
        "exploratory": any(is_exploratory(member.activations, params.claims) for member in members),
    }


def without_controls(params: Params, members: Sequence[FinishedRun]) -> Sequence[FinishedRun]:
    """The runs that are to be told apart: no negative controls, unless there is nothing else."""
    return [member for member in members if not params.is_control(member.run.objective)] or members


def seal(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write comparison.json, once all else is there: the facts, and the SHA-256 of tables and pictures; returns it."""
    names = (*layout.COMPARISON_TABLES, *layout.COMPARISON_PICTURES)
    later = filter(lambda name: (folder / name).is_file(), layout.LATER_TABLES)
    files = layout.hashes(folder, (*names, *later))
    sealed = {**facts, "files": files}
    storage.write_file(folder / layout.COMPARISON_FILE, storage.json_bytes(sealed))
    return sealed


def check_comparable(members: Sequence[FinishedRun]) -> None:
    """Refuse runs of which a distance would mean nothing; what differs is named."""
    names = [str(member.run) for member in members]
    if len(members) < 2 or len(set(names)) < len(names):
        expected = "two or more, each of another model, objective or seed"
        raise InvalidArgument("runs", expected, names)
    first = members[0]
    ours = _made_with(first)
    for member in members[1:]:
        theirs = _made_with(member)
        for key, what in _MUST_MATCH.items():
            if theirs[key] != ours[key]:
                got = Words(f"{ours[key]} of {first.run} and {theirs[key]} of {member.run}")
                raise InvalidArgument("runs", f"of the same {what} to be compared", got)


def _made_with(member: FinishedRun) -> dict[str, Any]:
    """What a run's diagrams were made with; what its manifests leave out is the default."""
    made = {"prepared": "clouds as recorded", **member.diagrams.manifest, **published(member.facts)}
    return {**made, "pooling": member.activations.manifest.get("pooling", Pooling().words)}


def warn_of_rounding(members: Sequence[FinishedRun]) -> None:
    """Say which of the runs' states were computed on another device or in another precision than the first's."""
    first = members[0]
    for member in members[1:]:
        ours, theirs = first.activations.manifest, member.activations.manifest
        for key in _ROUNDS_ALIKE:
            if key in ours and key in theirs and ours[key] != theirs[key]:
                logger.warning(
                    "%s was recorded with %s %s and %s with %s: a part of their distance is rounding",
                    first.run, key, ours[key] or "off", member.run, theirs[key] or "off",
                )  # fmt: skip


def warn_of_templates(members: Sequence[FinishedRun]) -> None:
    """Say where prompts became text in one way for some runs and in another for others, which topology sees as well."""
    found: dict[str, Run] = {}
    for member in members:
        if template := _asked_in(member):
            found.setdefault(template, member.run)
    if len(found) > 1:
        said = ", ".join(f"{template} of {run}" for template, run in found.items())
        logger.warning(
            "prompts were put to the models in different templates (%s): %s; record all with one recording.template",
            said, _TEMPLATE_ALONE,
        )  # fmt: skip


def _asked_in(member: FinishedRun) -> str:
    """The template in which a run's prompts were put to its model; "" where that is not known."""
    template = str(member.activations.manifest.get("recording", {}).get("template", Recording.template))
    if template != "auto":
        return template
    has_chat = member.described().get("chat_template")
    return "" if has_chat is None else "chat" if has_chat else "hh"


def _label(claim: str, member: FinishedRun) -> str:
    return member.run.model if claim == "models" else member.run.objective


def _groups(members: Sequence[FinishedRun]) -> list[str]:
    """The name of each run's group of seeds: its objective, its model, or both, whichever differ."""
    models, objectives = (
        {getattr(member.run, axis) for member in members} for axis in ("model", "objective")
    )
    if len(models) > 1 and len(objectives) > 1:
        return [f"{member.run.model}, {member.run.objective}" for member in members]
    return [_label("objectives" if len(objectives) > 1 else "models", member) for member in members]


def _labellings(members: Sequence[FinishedRun]) -> dict[str, list[tuple[str, list[int]]]]:
    """What to compare: claim -> (name, places of the runs): objectives within a model, models within an objective."""
    labellings: dict[str, list[tuple[str, list[int]]]] = {"objectives": [], "models": []}
    for claim, fixed in (("objectives", "model"), ("models", "objective")):
        for value in dict.fromkeys(getattr(member.run, fixed) for member in members):
            places = [at for at, member in enumerate(members) if getattr(member.run, fixed) == value]
            labels = [_label(claim, members[at]) for at in places]
            if len(set(labels)) < 2:
                continue
            labellings[claim].append((f"{claim} of {value}", places))
            if len(set(labels)) > 2:
                labellings[claim] += [
                    (f"{a} and {b} of {value}", [places[at] for at in pair])
                    for a, b, pair in pairs_of(labels)
                ]
    return labellings


def claims_over_runs(
    params: Params,
    members: Sequence[FinishedRun],
    follow: Callable[[FinishedRun], Trajectory] | None = None,
) -> dict[str, dict[str, Any]]:
    """Every claim over runs, by name: of each model, of each two of its objectives, of each two models.

    `follow` makes of a run what its claims see; by default, as its stored sets have it.

    Seeds are the units, so each comparison is of the seeds that all its labels have. A negative control is what its
    objective is held against, and no objective itself.
    """
    follow = follow or (lambda one: followed(one.run, one.activations, one.diagrams, params))
    runs: dict[tuple[str, str], dict[int, Trajectory]] = {}
    for member in members:
        key = member.run.model, member.run.objective
        runs.setdefault(key, {})[member.run.seed] = follow(member)
    models, objectives = ([*dict.fromkeys(key[place] for key in runs)] for place in (0, 1))
    objectives = [objective for objective in objectives if not params.is_control(objective)]
    asked = {
        member.run.model: (member.described().get("files") or {}, _asked_in(member)) for member in members
    }
    found: dict[str, dict[str, Any]] = {}

    def add(kind: str, groups: Mapping[str, Mapping[int, Trajectory]], of: str, **more: Any) -> None:
        for verdict in compare(_of_seeds(groups, _seeds(groups)), kind, **more).verdicts:
            if kind == "models":
                verdict = replace(verdict, beside=asked_alike(*(asked[model] for model in verdict.labels)))
            found[f"{verdict.name}{of}"] = asdict(verdict)

    for model in models:
        of = f"_of_{model}" if len(models) > 1 else ""
        groups = {objective: runs[model, objective] for objective in objectives if (model, objective) in runs}
        if not _seeds(groups):
            continue
        controls = {name: runs.get((model, params.controls().get(name, "")), {}) for name in groups}
        shared = [seed for seed in _seeds(groups) if all(seed in group for group in controls.values())]
        if shared:
            chosen = {name: {seed: group[seed] for seed in shared} for name, group in groups.items()}
            add("runs", chosen, of, controls=_of_seeds(controls, shared))
        else:
            add("runs", groups, of)
        if len(groups) > 1:
            add("objectives", groups, of)
    for objective in objectives if len(models) > 1 else ():
        groups = {model: runs[model, objective] for model in models if (model, objective) in runs}
        if len(groups) > 1 and _seeds(groups):
            add("models", groups, f"_of_{objective}")
    return found


# What decides how a prompt is put to a model; an old template stands in tokenizer_config.json.
_ASKED_BY = {
    "chat templates": ("chat_template.jinja", "tokenizer_config.json"),
    "tokenizers": ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt"),
}
_TEMPLATE_ALONE = "the template alone can change a cloud's effective rank two- to fourfold"


def asked_alike(one: tuple[Mapping[str, str], str], other: tuple[Mapping[str, str], str]) -> str:
    """Say whether two models were asked alike: what differs between them may be the asking.

    Each is given by the SHA-256 of its files, by name, and the template in which prompts were put to it, "" where
    that is not known. A template that is no chat template is the same for both.

    >>> asked_alike(({"tokenizer.json": "a", "chat_template.jinja": "b"}, "chat"), ({"tokenizer.json": "a"}, "chat"))
    'prompts may be put otherwise to each: their files of chat templates differ'
    >>> asked_alike(({}, "hh"), ({}, "chat"))[:60]
    'prompts are put in different templates (hh and chat): the te'
    """
    files, templates = (one[0], other[0]), (one[1], other[1])
    if all(templates) and len(set(templates)) > 1:
        return f"prompts are put in different templates ({' and '.join(templates)}): {_TEMPLATE_ALONE}"
    if not all(files):
        return "whether prompts were put alike to both is not known"
    by_template = not set(templates) <= {"hh", "plain"}
    differ = [
        what
        for what, names in _ASKED_BY.items()
        if by_template or what != "chat templates"
        if len({tuple(of.get(name) for name in names) for of in files}) > 1
    ]
    if differ:
        return f"prompts may be put otherwise to each: their files of {' and '.join(differ)} differ"
    return "prompts are put alike to both: by the same files of chat template and tokenizer"


def _seeds(groups: Mapping[str, Mapping[int, Any]]) -> list[int]:
    """The seeds that all labels have, in the order of the first."""
    first, *others = groups.values() or ({},)
    return [seed for seed in first if all(seed in other for other in others)]


def _of_seeds(
    groups: Mapping[str, Mapping[int, Trajectory]], seeds: Sequence[int]
) -> dict[str, list[Trajectory]]:
    return {label: [group[seed] for seed in seeds] for label, group in groups.items()}


def _write_runs(folder: Path, members: Sequence[FinishedRun]) -> None:
    """What the paper measures, a row a run: comparison.csv."""
    write_table(
        folder / "comparison.csv",
        ["model", "objective", "seed", *members[0].facts["pooled"]],
        (
            [member.run.model, member.run.objective, member.run.seed, *member.facts["pooled"].values()]
            for member in members
        ),
    )


def _write_distances(
    folder: Path,
    members: Sequence[FinishedRun],
    layers: Sequence[int],
    steps: Sequence[int],
    matrices: Sequence[npt.NDArray[np.float64]],
    found: Mapping[str, LabelComparison],
) -> None:
    """How far runs are from one another, and where that puts them: separation.csv and map.csv."""
    write_table(
        folder / "separation.csv",
        SEPARATION_COLUMNS,
        (
            [name, layer, step, compared.between[row, at], compared.within[row, at]]
            for name, compared in found.items()
            for row, layer in enumerate(layers)
            for at, step in enumerate(steps)
        ),
    )
    maps = [classical_mds(matrix) for matrix in matrices]
    write_table(
        folder / "map.csv",
        MAP_COLUMNS,
        (
            [
                layer,
                member.run.model,
                member.run.objective,
                member.run.seed,
                step,
                *drawn.coordinates[row * len(steps) + at],
                drawn.shown,
                drawn.not_euclidean,
            ]
            for layer, drawn in zip(layers, maps, strict=True)
            for row, member in enumerate(members)
            for at, step in enumerate(steps)
        ),
    )


def _write_effects(folder: Path, members: Sequence[FinishedRun], seed: int) -> None:
    """Effect sizes and energy distances between groups of runs: effects.csv."""
    labels = _groups(members)
    last = [_last_summaries(member) for member in members]
    rows: list[list[Any]] = []
    for a, b, measure, g, delta in effects([member.facts["pooled"] for member in members], labels, seed):
        rows.append([a, b, measure, "Hedges' g", *_ends(g), g.n_a, g.n_b, None, None])
        rows.append([a, b, measure, "Cliff's delta", *_ends(delta), delta.n_a, delta.n_b, None, None])
    for a, b, test in summary_energy(last, labels, seed):
        counts = [labels.count(a), labels.count(b)]
        rows.append(
            [
                a,
                b,
                "summaries at the end",
                "energy distance",
                test.statistic,
                None,
                None,
                *counts,
                test.p,
                test.smallest_p,
            ]
        )
    write_table(folder / "effects.csv", EFFECT_COLUMNS, rows)


def _write_classification(folder: Path, params: Params, members: Sequence[FinishedRun]) -> None:
    """Whether unseen prompts' summaries at the last checkpoint tell the label (Fay et al.): classification.csv.

    All seeds of two groups of runs together, a fold of prompts left out at a time; for the deepest layer.
    """
    first = members[0].diagrams
    n_prompts, layer, step = first.manifest["n_prompts"], first.layers[-1], first.steps[-1]
    size = min(_GROUPED_SIZE, n_prompts // _PROMPT_GROUPS)
    rows: list[list[Any]] = []
    if size >= _LEAST_SIZE:
        plan, groups = grouped_plan(n_prompts, _PROMPT_GROUPS, subsample_size=size, seed=params.seed)
        summaries = [
            barcode_summaries(cell_diagrams(member.activations.point_cloud(step, layer), plan))
            for member in members
        ]
        labels = _groups(members)
        for a, b, places in pairs_of(labels):
            found = classify_summaries(
                np.concatenate([summaries[at] for at in places]),
                np.repeat([labels[at] for at in places], len(plan)),
                np.tile(groups, len(places)),
                n_permutations=_CLASSIFIER_PERMUTATIONS,
                seed=params.seed,
            )
            rows.append(
                [a, b, layer, step, found.accuracy, found.chance, found.p, found.smallest_p, len(groups)]
            )
    header = [
        "label",
        "other",
        "layer",
        "step",
        "accuracy",
        "chance",
        "p",
        "smallest_p",
        "subsamples_of_a_run",
    ]
    write_table(folder / "classification.csv", header, rows)


def _ends(effect: Any) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in (effect.value, effect.low, effect.high)]


def _last_summaries(member: FinishedRun) -> npt.NDArray[np.float64]:
    """All layers' summaries of a run at its last checkpoint, one after another."""
    rows = layout.read_table(member.results / layout.SUMMARIES_FILE, ["step", *SUMMARY_NAMES])
    last = member.diagrams.steps[-1]
    return np.array([[row[name] for name in SUMMARY_NAMES] for row in rows if row["step"] == last]).ravel()
