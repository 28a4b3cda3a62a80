"""One HTML file of a whole study: what ran, what may be said of it, its pictures, and what it does not show.

The file stands alone: pictures, style and script are inside, and it loads nothing. The same results give the same
bytes. A missing part (a run, its diagrams, the comparison) is named in the report and does not stop it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from numpy.typing import NDArray

import topoflow
from topoflow import finished, storage
from topoflow.config import Params, flat
from topoflow.dynamics.claims import listed
from topoflow.dynamics.claims.reading import in_order
from topoflow.dynamics.sensitivity import heading, in_words
from topoflow.errors import InvalidFile
from topoflow.figures.of_comparison import read_map
from topoflow.figures.of_run import CLASSES_PICTURE, kept_pictures
from topoflow.names import BAR_COLUMNS, CLASS_VELOCITIES, H1_VELOCITY, RERUN_FLOOR, column, layer_of
from topoflow.report import charts, page
from topoflow.report.page import code, paragraph, prose, shown
from topoflow.storage import layout
from topoflow.storage.files import read_bytes
from topoflow.storage.layout import Run
from topoflow.tracking import note

_RUN_PICTURES = {
    "movement.png": "How fast the diagrams move between twin checkpoints, in the time of the learning rate: what the "
    "verdicts are about. Jitter alone stays in the grey band.",
    "velocity.png": "How far the H1 diagrams moved since the checkpoint before, with behaviour and loss beneath.",
    "heatmap.png": "The same by layer and interval, each layer as a share of its peak.",
    "betti.png": "Betti curves through training (crocker plot): how many holes there are at each distance.",
    "summaries.png": "Summaries of the diagrams at each checkpoint; mean over subsamples.",
    "measures.png": "Simpler measures, and topological ones beside the velocity; each panel has a scale of its own.",
    "distances.png": "How far any two checkpoints are apart.",
    "controls.png": "Recorded states beside Gaussian clouds of the same size.",
    "diagrams.png": "Persistence diagrams at the first, the peak and the last checkpoint.",
    "barcodes.png": "The same diagrams as barcodes.",
}
_CLASSES_CAPTION = (
    "Classes of prompts: velocities beside shuffled labels, and how well a linear probe tells each."
)
_MOST_PROMPTS = 10  # of those behind a change
_LONGEST_TIP = 90  # characters of a prompt that a chart shows
_MOST_NAMED = 128  # checkpoints that are listed one by one
_MAP, _CLASSIFICATION = "map.csv", "classification.csv"
_COMPARISON_PICTURES = {
    "velocity.png": "H1 velocities of all runs, a panel a layer.",
    "separation.png": "How far runs of different labels are apart, and runs of one label with different seeds.",
    "map.png": "All checkpoints of all runs as points of a plane, as far apart as their diagrams where it can be.",
    "effects.png": "Effect sizes between labels; the run is the unit.",
}


@dataclass(frozen=True)
class _Found:
    """One run as far as it is here; what is missing of it, and why, is in the study's list."""

    run: Run
    findings: Mapping[str, Any]
    diagrams: storage.StoredSet | None
    activations: storage.StoredSet | None  # its manifest; of its states the report reads the first

    @property
    def results(self) -> Path:
        return self.run.folder("results")

    @property
    def anchor(self) -> str:
        return f"run-{self.run}"


@dataclass(frozen=True)
class _Study:
    params: Params
    runs: list[_Found]
    comparison: Mapping[str, Any] | None
    pages: Mapping[str, note.Page]  # of runs that MLflow holds
    host: str | None
    prompts_text: bool
    missing: list[str] = field(default_factory=list)


def report(
    params: Params,
    pages: Mapping[str, note.Page] | None = None,
    host: str | None = None,
    prompts_text: bool = True,
) -> tuple[bytes, list[str]]:
    """The report of the study of `params`, drawn from results/, diagrams/ and comparison/ of this folder.

    Parameters
    ----------
    params : Params
    pages : mapping of str to Page, optional
        The MLflow run that holds each run, by the run's name; the report names its id.
    host : str, optional
        Address of the MLflow server: with it, the ids are links.
    prompts_text : bool
        Whether prompts are shown by their text, and not by their lines in data/prompts.jsonl alone.

    Returns
    -------
    page : bytes
        HTML in UTF-8, without time stamp.
    missing : list of str
        What is not in it, and why; empty for a whole study.

    Raises
    ------
    ValueError
        When no run of the study has results.
    """
    study = _look(params, pages or {}, host, prompts_text)
    title = f"Topology of fine-tuning: {', '.join(params.models)}"
    sections = {
        "What may be said": "\n".join(_verdicts(study)),
        "The runs at a glance": _glance(study),
        "Side by side": "\n".join(_side_by_side(study)),
        "Each run": "\n".join(_one_run(study, found) for found in study.runs),
        "What this does not show": _caveats(study),
        "Definitions": _definitions(),
        "Parameters, hashes, versions": _provenance(study),
    }
    sections = {name: body for name, body in sections.items() if body}
    links = "".join(f'<li><a href="#{_anchor(name)}">{escape(name)}</a></li>' for name in sections)
    parts = [
        f"<header>\n<h1>{escape(title)}</h1>",
        '<p class="lede">What persistent homology sees in the hidden states of a language model while it is '
        "fine-tuned, what of it may be claimed, and what not.</p>",
        f"{_what_ran(study)}\n<nav><ul>{links}</ul></nav>\n</header>\n<main>",
    ]
    if study.missing:
        items = "\n".join(f"<li>{escape(reason)}</li>" for reason in study.missing)
        counted = f"{len(study.missing)} part{'s' * (len(study.missing) > 1)}, and how to get them"
        named = page.fold(f"<strong>What is missing here</strong>: {counted}", f"<ul>{items}</ul>")
        parts.append(f'<section class="missing" id="missing">{named}</section>')
    for name, body in sections.items():
        parts.append(f'<section id="{_anchor(name)}">\n<h2>{escape(name)}</h2>\n{body}\n</section>')
    parts.append(f"</main>\n<footer>Made by topoflow {escape(topoflow.__version__)}.</footer>")
    return page.document(title, "\n".join(parts)), study.missing


def _anchor(name: str) -> str:
    return name.lower().replace(",", "").replace(" ", "-")


# --- what there is ------------------------------------------------------------------------------


def _look(params: Params, pages: Mapping[str, note.Page], host: str | None, prompts_text: bool) -> _Study:
    found: list[_Found] = []
    missing: list[str] = []
    wanted = params.runs()
    for run in wanted:
        try:
            found.append(_look_at(params, run, missing))
        except ValueError as error:
            missing.append(f"The run {run}: {error}.")
    if not found:
        raise InvalidFile("results", "must hold those of at least one run, and it holds none", missing[0])
    comparison = None
    try:
        comparison = _comparison(found, [str(run) for run in wanted])
    except ValueError as error:
        missing.append(f"The comparison of runs: {error}.")
    if comparison is not None:
        files = [layout.COMPARISON_FOLDER / name for name in (*_COMPARISON_PICTURES, _MAP, _CLASSIFICATION)]
        missing += [f"A part of the comparison: {path} is not here." for path in files if not path.exists()]
    return _Study(params, found, comparison, pages, host, prompts_text, missing)


def _look_at(params: Params, run: Run, missing: list[str]) -> _Found:
    """Open what there is of a run; a run that params.yaml does not describe is an error."""
    results = run.folder("results")
    findings = finished.read_findings(run)
    activations = _manifest(run.folder("activations"))
    try:
        diagrams = finished.open_diagrams(run)
    except ValueError as error:
        missing.append(f"Pictures of the run {run}: {error}.")
        return _Found(run, findings, None, activations)
    finished.check_findings(findings, results, diagrams)
    if activations is None:
        missing.append(
            f"The hidden states of the run {run}: {run.folder('activations')} is not here, so that its parameters "
            "could not be held against params.yaml."
        )
    else:
        diagrams.check_made_from(activations)
        finished.check_manifest(activations, "activations", layout.again(f"finetune@{run}"))
        finished.FinishedRun(run, activations, diagrams, results, findings).check_parameters(params)
    return _Found(run, findings, diagrams, activations)


def _manifest(folder: Path) -> storage.StoredSet | None:
    """A set of which the manifest alone is read."""
    path = folder / storage.MANIFEST
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return None
    manifest = layout.read_json(path)
    return storage.StoredSet(folder, manifest if isinstance(manifest, dict) else {}, storage.sha256(data))


def _comparison(found: Sequence[_Found], wanted: Sequence[str]) -> Mapping[str, Any] | None:
    """The comparison, if it is of these runs as they are now; None for a study of one run."""
    if len(wanted) < 2:
        return None
    facts, path = finished.read_comparison(), layout.COMPARISON_FOLDER / layout.COMPARISON_FILE
    remedy = "bring it up to date with: dvc repro"
    theirs, ours = facts["runs"], {str(one.run): one.findings["pooled"] for one in found}
    if sorted(theirs) != sorted(wanted):
        raise InvalidFile(path, f"is of {', '.join(sorted(theirs))}", remedy)
    if stale := [name for name, numbers in ours.items() if theirs[name] != numbers]:
        raise InvalidFile(path, f"was made from other results of {', '.join(stale)}", remedy)
    return facts


# --- sections -----------------------------------------------------------------------------------


def _what_ran(study: _Study) -> str:
    params, first, wanted = study.params, study.runs[0], len(study.params.runs())
    summaries = layout.read_columns(first.results / layout.SUMMARIES_FILE, ["step"])
    steps = np.unique(summaries["step"]).astype(int).tolist()
    at = ", ".join(map(str, steps)) if len(steps) <= _MOST_NAMED else f"{steps[0]} to {steps[-1]}"
    layers = {
        one.run.model: ", ".join(str(layer_of(key)) for key in one.findings["layers"]) for one in study.runs
    }
    of_models = "; ".join(
        f"{model}: {names}" if len(layers) > 1 else names for model, names in layers.items()
    )
    some = "" if len(study.runs) == wanted else f" of {wanted}; see what is missing"
    topology = params.topology
    return page.facts(
        {
            "Models": escape(", ".join(params.models)),
            "Objectives": escape(", ".join(params.objectives)),
            "Seeds of training": escape(", ".join(map(str, params.seeds))),
            "Runs": f"{len(study.runs)}{some}",
            "Point clouds": f"{params.prompts.n_prompts} evaluation prompts, {params.recording.pooled.point}; "
            f"{topology.n_subsamples} subsamples of {topology.subsample_size}",
            "Layers": escape(of_models),
            "Checkpoints": f"{len(steps)}, at the optimiser steps {at}",
            "Distances": f"order-{first.findings['order']:g} Wasserstein, Euclidean ground metric, in units of the "
            f"filtration (Euclidean distance of hidden states).{note.first_third(first.findings)}",
        }
    )


def _verdicts(study: _Study) -> Iterator[str]:
    facts = study.comparison
    if facts is not None:
        yield paragraph(
            f"Over {len(facts['runs'])} runs, at level {facts['level']:g}, for this base and these prompts. A claim "
            "climbs a ladder of rival explanations and is supported where it passes all; else the rung that it failed "
            "at says why. “Not supported” is no proof of the opposite; “shown absent” is."
        )
        yield _claims(facts)
        yield from _under_other_choices(
            study, layout.SENSITIVITY_FOLDER, study.params.runs(), f"{len(facts['runs'])} runs"
        )
        return
    several = len(study.params.runs()) > 1
    why = "is not here (see what is missing)" if several else "needs two runs, and this study has one"
    alone = len(study.runs) == 1
    told = (
        "This is what may be said of the one run." if alone else "Each run's own claims stand in its section."
    )
    yield paragraph(f"A comparison of runs {why}. {told}")
    if alone:
        yield _claims(study.runs[0].findings)


def _claims(findings: Mapping[str, Any]) -> str:
    """The table of claims, under a warning where margins came after the states."""
    warning = note.exploratory(findings)
    return (paragraph(warning) if warning else "") + page.claims_table(findings["claims"].values())


def _glance(study: _Study) -> str:
    """A row a run: verdicts and the numbers behind them."""
    # what one run can never tell is left to the comparison
    told = {of["claim"] for one in study.runs for of in one.findings["claims"].values()}
    named = [claim for claim in listed.CLAIMS if claim.alone and (claim.name in told or not claim.of_labels)]
    rows = []
    for one in study.runs:
        pooled, claims = one.findings["pooled"], one.findings["claims"]
        row = [f'<a href="#{one.anchor}">{escape(str(one.run))}</a>']
        for claim in named:
            found = {name: claims.get(f"{claim.name}_{name.lower()}") for name in ("H1", "H0")}
            verdicts = {name: page.verdict(of["verdict"]) for name, of in found.items() if of}
            row.append("".join(f"<div>{name} {verdict}</div>" for name, verdict in verdicts.items()))
        shares = (shown(pooled[name], ".3f") for name in finished.EARLY_SHARES)
        row += ["".join(f"<div>{share}</div>" for share in shares), shown(pooled["peak_step"], "g")]
        row += [shown(pooled[name], ".3f") for name in ("concentration", "concentration_expected")]
        rows.append(row)
    header = ["run", *(escape(claim.heading) for claim in named), "early share<br>H1, H0"]
    header += ["peak of W2<br>at step", "concentration<br>(Eq. 2)", "expected<br>of it"]
    return page.table(header, rows, kind="glance", words=1 + len(named))


def _side_by_side(study: _Study) -> Iterator[str]:
    if len(study.runs) < 2:
        return
    several = len(study.params.models) > 1
    group_of = {one.run: one.run.without_seed(several) for one in study.runs}
    names = {run: f"{group}, seed {run.seed}" for run, group in group_of.items()}
    groups = {names[run]: group for run, group in group_of.items()}
    tables = {names[one.run]: one.results / layout.VELOCITY_FILE for one in study.runs}
    curves = {name: layout.read_velocity(path, H1_VELOCITY) for name, path in tables.items()}
    longest = max(len(steps) for steps, _ in curves.values()) - 1
    twins = any(charts.without_line(steps) for steps, _ in curves.values())
    left_out = " The single steps between twins are left out." if twins else ""
    yield page.chart(
        charts.runs_chart(curves, groups, title="H1 velocity by step, all runs"),
        "H1 velocity of all runs, one layer at a time. Point at a dot for its value. Thin: one seed; bold: mean of the "
        f"seeds. Shaded: the first third of training.{left_out}{charts.thinning(longest)}",
    )
    if study.comparison is None:
        return
    folder = layout.COMPARISON_FOLDER
    if (folder / _MAP).exists():
        paths = {
            layer: (share, {names[run]: path for run, path in of_runs.items() if run in names})
            for layer, (share, of_runs) in read_map(folder / _MAP).items()
        }
        yield page.chart(
            charts.map_chart(paths, groups, title="Map of all checkpoints"),
            "Map of all checkpoints, one layer at a time: classical scaling of the distances between H1 diagrams. "
            "Point at a dot for its run and step. Ring: first checkpoint; square: last.",
        )
    for name, caption in _COMPARISON_PICTURES.items():
        if (folder / name).exists():
            yield page.picture(read_bytes(folder / name), f"{caption} ({name})", caption)
    yield from _told_apart(folder / _CLASSIFICATION)
    yield from _reruns(folder / layout.RERUN_FILE, study.comparison.get("reruns", []))
    how, header, rows = note.added_words(study.comparison.get("added", []))
    if rows:
        yield f"<h3>{note.ADDED_HEADING}</h3>"
        yield paragraph(prose(how))
        yield page.table(header, [list(map(escape, row)) for row in rows], words=3)


def _reruns(path: Path, reruns: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What two trainings from one seed have in common, and the rerun floor beside velocities where it is not 0."""
    if not reruns:
        return
    yield "<h3>Trained twice from one seed</h3>"
    for pair in reruns:
        yield paragraph(escape(pair["sentence"]))
    floor = column(1, RERUN_FLOOR)
    table = layout.read_columns(path, ["layer", floor, H1_VELOCITY])
    if not table[floor].any():
        return
    yield paragraph(
        "H1, in filtration distance: the largest distance between two trainings from one seed at a checkpoint, beside "
        f"the median velocity; each checkpoint is in {path.name}."
    )
    speeds = layout.by_layer(table, H1_VELOCITY)
    cells = [
        [str(layer), f"{floors.max():.3g}", f"{np.nanmedian(speeds[layer]):.3g}"]
        for layer, floors in layout.by_layer(table, floor).items()
    ]
    yield page.table(["layer", "rerun floor", "velocity"], cells)


def _told_apart(path: Path) -> Iterator[str]:
    """How well a classifier tells labels apart, where the comparison has tried."""
    numbers = ("accuracy", "chance", "p", "smallest_p")
    rows = layout.read_rows(path, ("label", "other", *numbers)) if path.exists() else []
    if rows:
        yield "<h3>Told apart on prompts left out</h3>"
        yield paragraph(
            "Share of subsamples of unseen prompts whose label a classifier of their 41 summaries tells, at the "
            "last checkpoint of the deepest layer, all seeds together: it may tell seeds and not labels."
        )
        cells = []
        for row in rows:
            shares = (f"{float(row[name]):.2g}" if row[name] else "–" for name in numbers)
            cells.append([escape(f"{row['label']} and {row['other']}"), *shares])
        yield page.table(["labels", "accuracy", "chance", "p", "smallest p there could be"], cells)


def _one_run(study: _Study, one: _Found) -> str:
    findings, alone = one.findings, len(study.runs) == 1
    path = one.results / layout.VELOCITY_FILE
    steps, velocities = layout.read_velocity(path, H1_VELOCITY)
    low, high = (layout.read_velocity(path, f"{H1_VELOCITY}_{end}")[1] for end in ("low", "high"))
    bands = {layer: (low[layer], high[layer]) for layer in low}
    name = f"{one.run.model}, {one.run.objective}, seed {one.run.seed}"
    cells = [list(map(escape, note.layer_cells(layer, found))) for layer, found in findings["layers"].items()]
    parts = [
        *_in_mlflow(study, one.run),
        "" if alone else _claims(findings),
        page.chart(
            charts.velocity_chart(steps, velocities, bands, title=f"H1 velocity, {name}"),
            "H1 velocity by step. Point at a dot for its value; bands are 95 % intervals over prompts. Shaded: the "
            f"first third of training.{charts.without_line(steps)}{charts.thinning(len(steps) - 1)}",
        ),
        "<h3>Layer by layer</h3>",
        page.table(list(map(escape, note.LAYER_COLUMNS)), cells),
        *(paragraph(prose(line)) for line in note.measured(findings)),
        *_texts(study, one),
        *_prompts_behind(study, one, name, steps, velocities),
        *(paragraph(prose(line)) for line in (*note.rivals(findings), *note.voids(findings))),
        *_classes(findings),
    ]
    parts += _under_other_choices(study, one.run.folder("sensitivity"), [one.run], str(one.run))
    if one.diagrams is not None:
        found = finished.dominated(one.activations, one.diagrams) if one.activations else {}
        parts += [paragraph(prose(words)) for words in note.caveats(one.diagrams.manifest, found)]
        drawn = kept_pictures(one.run, one.diagrams, one.results)
        of_classes = {CLASSES_PICTURE: _CLASSES_CAPTION} if findings.get("classes") else {}
        for file, caption in {**_RUN_PICTURES, **of_classes}.items():
            parts.append(page.picture(drawn[file], f"{caption} ({name})", caption))
    else:
        parts.append(paragraph("Its pictures need its diagrams, which are not here.", "soft"))
    headings = {claim.name: claim.heading for claim in listed.CLAIMS}
    verdicts = " · ".join(
        f"{headings.get(claim['claim'], claim['claim'])} {claim['homology']}: {claim['verdict']}"
        for claim in in_order(findings["claims"].values())
        if claim["p"] is not None
    )
    summary = f'<strong>{escape(name)}</strong> <span class="soft">{escape(verdicts)}</span>'
    return page.fold(summary, "\n".join(parts), kind="run", anchor=one.anchor, unfolded=alone)


def _under_other_choices(study: _Study, folder: Path, runs: Sequence[Run], whose: str) -> Iterator[str]:
    """How verdicts fare under the alternatives of params.yaml, where that was computed."""
    try:
        facts = finished.read_sensitivity(folder, runs)
    except ValueError as error:
        study.missing.append(f"What alternatives say of {whose}: {error}.")
        return
    if facts is None:
        return
    told = facts["agreements"]
    rows = [
        [
            escape(heading(one["name"])),
            page.verdict(one["verdict"]),
            "<br>".join(escape(f"{said}: {'; '.join(names)}") for said, names in one["flips"].items())
            or "nothing",
            f"{one['n_agree']} of {one['n_alternatives']}",
        ]
        for one in told
    ]
    yield "<h3>Under other choices</h3>"
    yield paragraph(escape(in_words(len(told), sum(not one["flips"] for one in told), facts["n_rotations"])))
    yield page.table(["claim", "verdict of the study's own choices", "flipped by", "agree"], rows, words=3)
    caption = "Effects and verdicts under each alternative, and the choices behind them."
    picture = read_bytes(folder / layout.SENSITIVITY_PICTURE)
    yield page.picture(picture, f"{caption} ({whose})", caption)


def _classes(findings: Mapping[str, Any]) -> Iterator[str]:
    """Classes of prompts at both ends of a run, where prompts carry labels; their picture stands below."""
    rows = finished.told_of_classes(findings)
    cells: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["layer"], row["label"]), []).append(row)
    if not cells:
        return
    yield "<h3>Classes of prompts</h3>"
    yield from (paragraph(prose(line)) for line in note.classes(findings))
    header = ["layer", "class", "prompts", "H1 velocity,<br>summed", "H0 velocity,<br>summed",
              "H1 bars,<br>first and last", "AUC of a probe,<br>first and last", "chance reaches"]  # fmt: skip
    table = []
    for (layer, label), of in cells.items():
        moved = [shown(sum(row[name] for row in of[1:]), ".4g") for name in CLASS_VELOCITIES]
        bars, aucs = (" and ".join(shown(row[name], spec) for row in (of[0], of[-1]))
                      for name, spec in ((column(1, "count"), ".3g"), ("auc", ".2f")))  # fmt: skip
        table.append([str(layer), escape(label), str(of[0]["prompts"]), *moved, bars, aucs,
                      shown(of[0]["auc_chance_high"], ".2f")])  # fmt: skip
    yield page.table(header, table, words=2)


def _prompts_of(study: _Study, one: _Found) -> list[str]:
    """The text of each evaluation prompt, where it is here and is to be shown."""
    if one.activations is None or not study.prompts_text:
        return []
    return finished.prompt_texts(one.activations.manifest["prompts_sha256"])


def _prompts_behind(
    study: _Study,
    one: _Found,
    name: str,
    steps: NDArray[np.int64],
    velocities: Mapping[int, NDArray[np.float64]],
) -> Iterator[str]:
    """Which bars and which prompts made the largest change of each layer, where the run has looked."""
    if layout.BARS_FILE not in one.findings["files"]:
        return
    prompts = _prompts_of(study, one)
    fastest = {layer: int(np.argmax(line)) for layer, line in velocities.items()}
    peaks = {layer: (int(steps[at]), int(steps[at + 1])) for layer, at in fastest.items()}
    layers: dict[int, dict[str, list[Any]]] = {}
    for row in layout.read_rows(one.results / layout.BARS_FILE, BAR_COLUMNS):
        layer = int(row["layer"])
        if (int(row["previous_step"]), int(row["step"])) == peaks.get(layer):
            layers.setdefault(layer, {}).setdefault(row["homology"], []).append(_changed_bar(row, prompts))
    if not layers:
        return
    yield "<h3>The prompts behind the largest change</h3>"
    yield page.chart(
        charts.bars_chart(layers, title=f"Bars that changed most, {name}"),
        "The bars that changed most in the fastest interval of each layer, from a ring (before) to a square (after). "
        "Point at one for the prompts that make it: those of its birth edge and its death triangle (of H0, of its "
        "death edge), at both checkpoints.",
    )
    _, rows = note.prompts_behind(one.findings, one.results, prompts)
    busiest = max(layers, key=lambda layer: float(velocities[layer].sum()))
    listed_rows = [row for row in rows if tuple(row[:3]) == (busiest, *peaks[busiest])][:_MOST_PROMPTS]
    yield paragraph(
        f"Layer {busiest}, which moves most, from step {peaks[busiest][0]} to {peaks[busiest][1]}: the prompts with "
        "the largest share in the change of the subsamples that hold them (the mean of loops and components). A share "
        "says who carried the change, and not why."
    )
    cells = [
        [str(line), escape(text) or "–", *(shown(score, ".2g") for score in scores)]
        for _, _, _, line, *scores, text in listed_rows
    ]
    header = ["line", "prompt", "share", "of H1", "of H0", "displacement", "other neighbours"]
    yield page.table(header, cells, words=2)


def _changed_bar(row: Mapping[str, str], prompts: Sequence[str]) -> tuple[Any, Any, str, str]:
    """A row of bars.csv as a chart has it: where the bar was and is, its name, and the prompts that make it."""
    before, after = (
        (float(row[birth]), float(row[death])) if row[birth] else None
        for birth, death in (("birth_before", "death_before"), ("birth", "death"))
    )
    share, n = float(row["share"]), int(row["subsamples"])
    said = [
        f"{row['homology']} bar, {row['kind']}: {100 * share:.2g} % of the change, in {n} of the subsamples"
    ]
    for line in map(int, row["prompts"].split()):
        text = note.text_of(line, prompts)
        said.append(f"{line}: {shorten(text, _LONGEST_TIP, placeholder='…')}" if text else f"prompt {line}")
    return before, after, said[0], "\n".join(said[1:])


def _texts(study: _Study, one: _Found) -> Iterator[str]:
    """What the model answered, at the first checkpoint, the peak and the last."""
    prompts = finished.asked(one.findings, _prompts_of(study, one))
    header, rows = note.texts(one.findings, prompts)
    if rows:
        yield page.table(header, [list(map(escape, row)) for row in rows], words=len(header))


def _in_mlflow(study: _Study, run: Run) -> Iterator[str]:
    """Which MLflow run holds this one, if it is known."""
    if at := study.pages.get(str(run)):
        words = code(at.run_id)
        if study.host:
            address = escape(f"{study.host}/{at.url}")
            words = f'<a href="{address}" target="_blank" rel="noopener">{words}</a>'
            # MLflow shows the report in a frame that no link may leave
            words += '<span class="in-frame"> (this link works once the report is downloaded)</span>'
        yield paragraph(f"MLflow run {words}", "soft")


def _caveats(study: _Study) -> str:
    parts = list(map(prose, note.CAVEATS))
    if study.comparison is not None:
        parts.append(
            "Tests over runs take the run as their unit and count runs as independent, though runs of one study "
            "share their model, their prompts and, for one seed, the order of their rows. A few seeds allow no small "
            "p-value at all, which is said where it is so."
        )
    return "\n".join(map(paragraph, parts))


def _definitions() -> str:
    words = {escape(name.replace("_", " ")): f"{prose(text)}." for name, text in note.definitions().items()}
    words["H0, H1"] = (
        "Persistence diagrams of connected components and of loops (Vietoris-Rips complexes over "
        "Z/2, Euclidean distance of hidden states)."
    )
    words["Betti curve"] = (
        "For each filtration distance t the number of H1 bars with birth ≤ t &lt; death; mean over subsamples."
    )
    rows = "\n".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in words.items())
    return f'<dl class="words">{rows}</dl>'


def _provenance(study: _Study) -> str:
    params, sections = study.params, asdict(study.params)
    chosen: dict[str, Any] = {key: sections[key] for key in ("seed", "models", "objectives", "seeds")}
    for model in params.models:
        chosen |= flat(f"model.{model}", sections["model"][model])
    # each objective with the others that it is made of
    parts = (part for name in params.objectives for part in params.made_of(name))
    for objective in dict.fromkeys([*params.objectives, *parts]):
        chosen |= flat(f"objective.{objective}", sections["objective"][objective])
    for key in ("prompts", "prepare", "finetune", "recording", "topology", "trajectory"):
        chosen |= flat(key, sections[key])
    rows = [[code(key), escape(_plain(key, value))] for key, value in chosen.items()]
    settings = page.table(["parameter", "value"], rows, kind="settings", words=2)
    hashes = page.fold("SHA-256 of what each run was made from", _hashes(study))
    return "\n".join([page.facts(_versions(study)), hashes, page.fold("Parameters (params.yaml)", settings)])


def _plain(key: str, value: Any) -> str:
    """A value as text; of a local path its last name alone, for the rest is the machine's."""
    if key.endswith(".path"):
        return Path(value).name
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _versions(study: _Study) -> dict[str, str]:
    states = [one.activations.manifest for one in study.runs if one.activations]
    diagrams = [one.diagrams.manifest for one in study.runs if one.diagrams]
    found: dict[str, set[str]] = {"topoflow": {topoflow.__version__}}
    for made in (*states, *diagrams):
        for package, version in made["versions"].items():
            found.setdefault(package, set()).add(version)

    def each(manifests: Sequence[Mapping[str, Any]], key: str) -> list[str]:
        return sorted({str(made[key]) for made in manifests})

    facts = {
        "Versions": escape(
            ", ".join(f"{package} {' and '.join(sorted(of))}" for package, of in found.items())
        ),
        "Engine": escape("; ".join(each(diagrams, "engine"))),
        "Complex": escape("; ".join(each(diagrams, "complex"))),
        "Prompts (SHA-256)": " ".join(map(code, each(diagrams, "prompts_sha256"))),
        "Model weights (SHA-256)": " ".join(map(code, each(states, "weights_sha256"))),
    }
    return {name: value for name, value in facts.items() if value}


def _hashes(study: _Study) -> str:
    rows = []
    for one in study.runs:
        stored = [code(of.sha256) if of else "not here" for of in (one.activations, one.diagrams)]
        findings = code(storage.sha256_of_file(one.results / layout.TRAJECTORY_FILE))
        rows.append([escape(str(one.run)), *stored, findings])
    return page.table(["run", "hidden states (manifest)", "diagrams (manifest)", "findings"], rows, words=4)
