"""The note of a run: what was found, in words, and what it does not show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from textwrap import shorten
from typing import Any
from urllib.parse import quote

from topoflow.config.pooling import Pooling
from topoflow.dynamics.added import TARGETS
from topoflow.dynamics.claims import listed
from topoflow.dynamics.claims.reading import in_order, rungs, sort_of
from topoflow.dynamics.claims.verdict import known
from topoflow.dynamics.measures import listed as measures
from topoflow.finished import told_of_classes
from topoflow.names import (
    H1_UNMATCHED,
    H1_UNMATCHED_OF_OTHER_PROMPTS,
    PROMPT_COLUMNS,
    column,
    layer_of,
    metric_name,
)
from topoflow.storage import layout
from topoflow.topology.dominance import DOMINANT, Dominance
from topoflow.topology.prepared import Preparation

_LONGEST = 8000  # characters of a note; MLflow cuts off what is beyond, in the middle of a word
_MOST_LINKED = 12  # runs of a comparison; more links leave no room for the verdicts, and the report has them
# Beside every number that a run holds: what it is, with its unit.
_DEFINITIONS = {
    "velocity": "Wasserstein distance of the given order, Euclidean ground metric, between the diagrams of the "
    "same subsample at consecutive checkpoints; mean over subsamples; filtration distance",
    "displacement": "likewise between the first checkpoint and this one; filtration distance",
    "concentration": "share of the summed velocities that falls to intervals ending within the first third of "
    "the optimiser steps; of the checkpoints, under `trajectory.order: published`",
    "concentration_per_step": "likewise with each velocity, its floor taken out in squares, divided by the "
    "optimiser steps of its interval",
    "concentration_expected": "share of the intervals that end within the first third: the mean of either "
    "concentration when its terms are permuted, and what a steady change gives per step",
    "floor": "f of the least-squares fit v^2 = f^2 + (rate x optimiser steps of the interval)^2 with neither "
    "below 0; 0 where all intervals are equally long, which leaves it undetermined; filtration distance",
    "concentration_p": "one-sided p of the concentration when the velocities come in any order (for _per_step, the "
    "rates); consecutive velocities share a checkpoint's noise, so it is too small under noise alone, which the claim "
    "`early` guards against; _holm: adjusted for the number of layers",
    "stabilised_step": "optimiser step after which every velocity stays below their median + 10 % of their peak",
    "straightness": "displacement at the end as a share of the summed velocities",
    "sampling_floor": "mean H1 distance of two disjoint sets of prompts at the first checkpoint: a yardstick for "
    "comparisons of different prompts. Velocities compare the same prompts and can be real below it; filtration "
    "distance",
    "behaviour": "Jensen-Shannon divergence of the next-token distributions after each prompt, since the checkpoint "
    "before (velocity) and since the first (displacement); mean over prompts; nats",
    "velocity_scale_free": "velocity of clouds divided by their median pairwise distance; no unit",
    "unmatched": "share of the velocity, to the power of its order, that comes from bars that the best matching of the "
    "two diagrams leaves without a partner; mean over subsamples, of a layer mean over intervals; 0 to 1. As large as "
    "between two sets of other prompts (_of_other_prompts), or near 1, the velocity no longer measures how far",
    "far_prompts": "share that the 5 % of prompts that go farthest make of the squared movement of the states "
    "themselves, from one anchor to the next and with jitter; layers weigh alike; 0.05 where all prompts move alike",
    "velocity_low": "95 % band of the velocity over prompts (half-samples, delete-d jackknife); filtration distance",
    "prompt_share": "share of a prompt in the change of the diagrams of the subsamples that hold it (of the "
    "distance to the power of its order), by the bars that it makes: h1_share, h0_share, and their mean (share); 0 to "
    "1, and 1 / subsample_size on average",
    "prompt_displacement": "how far the state of a prompt went, beyond the mean way of all; filtration distance",
    "prompt_neighbours": "share of the 10 nearest prompts of a prompt that are others than before; 0 to 1",
    "peak_step": "optimiser step at which the interval with the largest velocity ends",
}


# The same of classes, where prompts carry labels.
OF_CLASSES = {
    "classes": "velocity of the points of one class of prompts, as many of each class, and the 95 % band of shuffled "
    "labels (_shuffled_low, _shuffled_high); filtration distance",
    "auc": "area under the curve of a logistic regression on the states that tells a class from the others, mean over "
    "five folds of prompts left out; 0.5 knows nothing, which gives auc_chance_low to auc_chance_high in 95 %",
}


def definitions() -> dict[str, str]:
    """What each quantity is, in words with its unit; simpler measures last."""
    return {**_DEFINITIONS, **{measure.name: measure.definition for measure in measures.MEASURES}}


@dataclass(frozen=True)
class Page:
    """The page of a run in MLflow's UI, which shows notes: so links there begin with `#`, whatever the host.

    >>> Page("0", "ab12").artifact("topology/velocity.png")
    '#/experiments/0/runs/ab12/artifacts/topology/velocity.png?workflowType=machine_learning'
    """

    experiment_id: str
    run_id: str

    @property
    def url(self) -> str:
        return self._tab("")

    def artifact(self, path: str) -> str:
        return self._tab(f"/artifacts/{quote(path)}")

    def _tab(self, tab: str) -> str:
        # else MLflow goes over to its view for language model applications, which shows no training
        return f"#/experiments/{self.experiment_id}/runs/{self.run_id}{tab}?workflowType=machine_learning"

    def picture(self, path: str, words: str) -> str:
        """An artifact shown in the note, as Markdown: the picture is a link to its own page."""
        source = f"get-artifact?path={quote(path, safe='')}&run_uuid={self.run_id}"
        return f"[![{words}]({source})]({self.artifact(path)})"


def write_note(
    findings: Mapping[str, Any],
    activations: Mapping[str, Any],
    diagrams: Mapping[str, Any],
    page: Page,
    model: Mapping[str, Any] | None = None,
    prompts: Mapping[str, str] | None = None,
    dominated: Mapping[int, Dominance] | None = None,
) -> str:
    """Markdown for the run's page.

    Parameters
    ----------
    findings : mapping
        What trajectory.json holds: `order`, `claims`, and `layers` with the numbers of each.
    activations, diagrams : mapping
        The manifests of the two sets.
    model : mapping, optional
        What models/NAME.json says of the model.
    prompts : mapping, optional
        The prompts of the answers that were recorded (`topoflow.finished.asked`).
    dominated : mapping of int to Dominance, optional
        Layers with most of their variance along one direction.
    page : Page
        The page of the run, whose pictures are in the folder `topology`.
    """
    steps, recording = activations["steps"], activations.get("recording", {})
    pooled = Pooling(**{key: recording[key] for key in ("pooling", "position") if key in recording})
    lines = [
        # MLflow folds a note after a few lines
        _first_line(findings, f"All [pictures and tables]({page.artifact('topology')})."),
        "",
        f"`{activations['model']}` fine-tuned on `{activations['objective']}`, seed {activations['seed']}: "
        f"{activations['n_prompts']} evaluation prompts, of each the {pooled.point} at layers "
        f"{', '.join(map(str, activations['layers']))}; {len(steps)} checkpoints from step {steps[0]} to {steps[-1]}. "
        f"Distances are order-{findings['order']:g} Wasserstein with Euclidean ground metric between H1 diagrams of "
        f"the same subsample, in units of the filtration (Euclidean distance of hidden states{_prepared(diagrams)})."
        + first_third(findings)
        + asked_as(recording.get("template", "auto"), (model or {}).get("chat_template"), pooled)
        + opened_as(activations),
        "",
        *verdict_table(findings["claims"].values()),
        "",
        page.picture("topology/movement.png", "Movement between twin checkpoints, beside jitter alone"),
        "",
        page.picture("topology/velocity.png", "H1 velocity by step"),
        "",
        *_table(LAYER_COLUMNS, (layer_cells(name, found) for name, found in findings["layers"].items())),
        "",
        *measured(findings),
        "",
        *texts_table(findings, prompts or {}),
        *rivals(findings),
        *voids(findings),
        *classes(findings),
    ]
    for paragraph in (*CAVEATS, *caveats(diagrams, dominated or {})):
        lines += ["", paragraph]
    lines += ["", *simpler(findings)]  # last: where a note is cut off, definitions.json has them
    return _fitting(lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Cells under their heading, as lines of Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return [lines[0], f"|{'---|' * len(header)}", *lines[1:]]


def first_third(findings: Mapping[str, Any]) -> str:
    """In what the first third of the concentration is counted, as a sentence; "" where it is optimiser steps.

    >>> first_third({"first_third": "checkpoints"}), first_third({})
    (' The first third of the concentration (Eq. 2) is counted in checkpoints.', '')
    """
    of = findings.get("first_third", "steps")
    return "" if of == "steps" else f" The first third of the concentration (Eq. 2) is counted in {of}."


def _fitting(lines: Sequence[str]) -> str:
    """The lines that MLflow keeps; where it does not keep all of them, the last line says so.

    >>> _fitting(["short"]), len(_fitting(["x" * 999] * 9)) < 8000
    ('short\\n', True)
    """
    text = "\n".join(lines) + "\n"
    if len(text) <= _LONGEST:
        return text
    last = "\n\nThis note is too long for MLflow; the rest is among the artifacts.\n"
    return text[: text.rindex("\n", 0, _LONGEST - len(last))] + last


# What a table says of a layer: the heading, the number in trajectory.json, and how it is written.
_LAYER_NUMBERS = {
    "peak at step": ("peak_step", "d"),
    "peak velocity": ("peak_velocity", ".4g"),
    "in units of other prompts": ("peak_over_sampling_floor", ".2f"),
    "concentration": ("concentration", ".3f"),
    "per step": ("concentration_per_step", ".3f"),
    "either, if order did not matter": ("concentration_expected", ".3f"),
    "settled after step": ("stabilised_step", "d"),
    "from first to last checkpoint": ("displacement", ".4g"),
}
LAYER_COLUMNS = ("layer", *_LAYER_NUMBERS)


def layer_cells(name: str, found: Mapping[str, Any]) -> list[str]:
    """One layer's numbers under `LAYER_COLUMNS`, from what trajectory.json holds of it."""
    cells = {number: _number(found[column(1, number)], spec) for number, spec in _LAYER_NUMBERS.values()}
    if found[column(1, "peak_step")] is not None and found[column(1, "stabilised_step")] is None:
        cells["stabilised_step"] = "still moving"
    return [str(layer_of(name)), *cells.values()]


def _dominance_caveat(dominated: Mapping[int, Dominance], prepared: Preparation) -> str:
    """What to mind of layers with most of their variance along one direction.

    >>> _dominance_caveat({7: Dominance(0.83, 0.79, 12)}, Preparation())[:99]
    '**Most of the variance lies along one direction** at layer 7 (83 %, 79 % in coordinate 12 alone) at'
    """
    at = []
    for layer, shares in dominated.items():
        alone = f", {_percent([shares.coordinate])} in coordinate {shares.index} alone"
        said = prepared.pca is None and shares.coordinate > DOMINANT
        at.append(f"{layer} ({_percent([shares.direction])}{alone if said else ''})")
    others = [
        ("`topology.normalise: zscore` gives each coordinate the same weight, which mends one that is too large",
         prepared.normalise == "zscore"),
        ("`topology.metric: cosine` takes out how long states are, which mends a direction that is their length",
         prepared.metric == "cosine"),
        ("`topology.pca` keeps this direction and drops small ones, so it mends nothing here by itself",
         prepared.pca is not None),
    ]  # fmt: skip
    advice = "; ".join(said for said, done in others if not done)
    return (
        f"**Most of the variance lies along one direction** at layer {', '.join(at)} at the first checkpoint: it adds "
        "more to the mean squared distance of two prompts than all others together, so at large distances diagrams say "
        "there what happens along it. See whether the verdicts stay with clouds prepared otherwise, for which nothing "
        f"is trained again: {advice or 'this run has tried all three ways'}."
    )


def _prepared(diagrams: Mapping[str, Any]) -> str:
    said = Preparation(**diagrams.get("prepared") or {}).words
    return f", {said}" if said else ""


def asked_as(template: str, has_chat: bool | None, pooled: Pooling = Pooling()) -> str:  # noqa: B008 (frozen)
    """How a prompt became text, as a sentence; "" where it is not known whether the model has a chat template.

    >>> asked_as("auto", True), asked_as("auto", None)
    (' Prompts are put to the model in its chat template.', '')
    """
    if template == "auto" and has_chat is None:
        return ""
    if template == "plain":
        return " Prompts are put to the model as they are, without a template."
    if template == "chat" or (template == "auto" and has_chat):
        return " Prompts are put to the model in its chat template."
    colon = ", so each point is the state of the last `:`" if pooled.of_last_token else ""
    return f" Prompts are put to the model as `Human: ... Assistant:`, without a chat template{colon}."


def opened_as(activations: Mapping[str, Any]) -> str:
    """How the weights of an activation set's model were opened, as a sentence; "" where they are float32.

    >>> opened_as({"weights_dtype": "bfloat16"}), opened_as({"sources": {"model": {"name": "tiny"}}})
    (' The weights were opened in bfloat16.', '')
    """
    entry = activations.get("sources", {}).get("model", {})
    dtype = entry.get("dtype") or activations.get("weights_dtype", "float32")
    if "quantization" in entry:
        return f" The base was opened in 4 bits, and computes in {dtype}."
    return "" if dtype == "float32" else f" The weights were opened in {dtype}."


def texts(findings: Mapping[str, Any], prompts: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """What was recorded as text: the heading, and for each text a row that shows it at each step.

    Answers to prompts come first, in the order of the prompts, each with its prompt where `prompts`
    (`topoflow.finished.asked`) has it.

    >>> found = {"texts": {"0": {"answers/1": "I do not"}, "48": {"answers/1": "A poem."}}}
    >>> texts(found, {"answers/1": "Write me a poem."})
    (['text', 'prompt', 'step 0', 'step 48'], [['answers/1', 'Write me a poem.', 'I do not', 'A poem.']])
    """
    by_step = findings.get("texts", {})
    there = dict.fromkeys(name for found in by_step.values() for name in found)
    names = dict.fromkeys([*(name for name in prompts if name in there), *there])
    rows = [
        [name, prompts.get(name, ""), *(found.get(name, "") for found in by_step.values())] for name in names
    ]
    return ["text", "prompt", *(f"step {step}" for step in by_step)], rows


def prompts_behind(
    findings: Mapping[str, Any], results: Path, prompts: Sequence[str]
) -> tuple[list[str], list[list[Any]]]:
    """The heading and the rows of prompts.csv, with the text of each prompt last where it is known.

    There are no rows where the findings of a run name no such table: an older topoflow wrote none.
    """
    header, rows = [*PROMPT_COLUMNS, "text"], []
    if layout.PROMPT_SCORES_FILE in findings["files"]:
        for row in layout.read_table(results / layout.PROMPT_SCORES_FILE, PROMPT_COLUMNS):
            whole = [int(row[name]) for name in PROMPT_COLUMNS[:4]]
            scores = [known(row[name]) for name in PROMPT_COLUMNS[4:]]
            rows.append([*whole, *scores, text_of(whole[3], prompts)])
    return header, rows


def text_of(line: int, prompts: Sequence[str]) -> str:
    """The text of a prompt by its line in data/prompts.jsonl, counted from 1; "" where it is not known.

    >>> text_of(1, ["Write me a poem."]), text_of(2, ["Write me a poem."])
    ('Write me a poem.', '')
    """
    return prompts[line - 1] if 0 < line <= len(prompts) else ""


def texts_table(findings: Mapping[str, Any], prompts: Mapping[str, str]) -> list[str]:
    header, rows = texts(findings, prompts)
    if not rows:
        return []
    return [*_table(header, ([_text(shorten(cell, 160)) for cell in row] for row in rows)), ""]


def simpler(findings: Mapping[str, Any]) -> list[str]:
    """The measures of a run that are charts beside topology, with their definitions, as lines of Markdown.

    >>> simpler({"measures": ["two_nn"]})[-1]
    '- measures/two_nn: intrinsic dimension from two neighbours (TwoNN).'
    """
    charts = (*measures.IN_VELOCITY, *measures.chosen(findings.get("measures", [])))
    named = (f"- {metric_name('measures', it.name)}: {_text(it.definition)}." for it in charts)
    return ["Measures beside topology, each a chart:", "", *named]


def measured(findings: Mapping[str, Any]) -> list[str]:
    """What was measured of the model at both ends of a run, beside its states, as a sentence; none without it.

    >>> found = {"quantities": {"held_out_loss/helpful": [4.9871, 3.6334]}}
    >>> measured({**found, "quantities_are": {"held_out_loss": "nats a token"}})[0]
    'At the first and the last checkpoint: held_out_loss/helpful 4.987 and 3.633 (held_out_loss: nats a token).'
    """
    found = findings.get("quantities", {})
    if not found:
        return []
    said = ", ".join(
        f"{name} {_or_none(first)} and {_or_none(last)}" for name, (first, last) in found.items()
    )
    known = "; ".join(f"{name}: {definition}" for name, definition in findings["quantities_are"].items())
    return [f"At the first and the last checkpoint: {_text(said)} ({_text(known)})."]


def _or_none(value: float | None) -> str:
    return "no number" if value is None else format(value, ".4g")


def rivals(findings: Mapping[str, Any]) -> list[str]:
    """What to read beside the velocities of a run, a sentence for each number that its trajectory.json has."""
    said = []
    far = findings.get("pooled", {}).get("far_prompts")
    shares, others = (
        [found[name] for found in findings["layers"].values() if found.get(name) is not None]
        for name in (H1_UNMATCHED, H1_UNMATCHED_OF_OTHER_PROMPTS)
    )
    if shares and others:
        said.append(
            f"Of the distance between neighbouring checkpoints, {_percent(shares)} comes from bars without a partner "
            f"(of its power {findings['order']:g}, by layer), and between two sets of other prompts "
            f"{_percent(others)}: near that, or near 100 %, the distance stops measuring."
        )
    if far is not None:
        said.append(
            f"The 5 % of prompts that go farthest make {_percent([far])} of all squared movement of the states, "
            "where 5 % means that all prompts move alike."
        )
    return [" ".join(said)] if said else []


def voids(findings: Mapping[str, Any]) -> list[str]:
    """What H2 does, layer by layer; nothing where it was not computed.

    >>> still = {"h2_peak_step": None, "h2_peak_velocity": 0.0, "h2_concentration": None}
    >>> moving = {"h2_peak_step": 8, "h2_peak_velocity": 0.25, "h2_concentration": 0.5}
    >>> voids({"layers": {"layer_04": moving}})
    ['Voids (H2), of which no claim is made: layer 4 moves most at step 8 (0.25, concentration 0.500).']
    >>> voids({"layers": {"layer_02": still}})
    ['Voids (H2), of which no claim is made: layer 2 does not move.']
    >>> voids({"layers": {"layer_02": {"h1_peak_step": 8}}})
    []
    """
    said = []
    for name, found in findings["layers"].items():
        if "h2_peak_velocity" not in found:
            return []
        moves = f"moves most at step {found['h2_peak_step']} ({_number(found['h2_peak_velocity'], '.4g')}, "
        moves += f"concentration {_number(found['h2_concentration'], '.3f')})"
        said.append(f"layer {layer_of(name)} {'does not move' if found['h2_peak_step'] is None else moves}")
    return [f"Voids (H2), of which no claim is made: {'; '.join(said)}."]


def classes(findings: Mapping[str, Any]) -> list[str]:
    """The classes of prompts as a sentence; none where prompts carry no labels.

    >>> row = {"layer": 4, "step": 8, "label": "safe", "prompts": 30, "points": 20, "auc": 0.75, "auc_chance_high": 0.6}
    >>> told = {"columns": [*row], "rows": [[*row.values()]]}
    >>> classes({"classes": told})[0][:80]
    'Classes of prompts: safe (30), each compared on 20 points (the claim `classes`, '
    """
    rows = told_of_classes(findings)
    if not rows:
        return []
    counts = {row["label"]: row["prompts"] for row in rows}
    last = max(row["step"] for row in rows)
    ends = [(row["auc"], row["auc_chance_high"]) for row in rows if row["step"] == last]
    low, high = min(auc for auc, _ in ends), max(auc for auc, _ in ends)
    named = ", ".join(f"{name} ({n})" for name, n in counts.items())
    return [
        f"Classes of prompts: {_text(named)}, each compared on {rows[0]['points']} points (the claim `classes`, and "
        f"labels.csv). At the last checkpoint a linear probe tells a class from the others with an AUC of {low:.2f} to "
        f"{high:.2f}, where chance reaches {max(chance for _, chance in ends):.2f}: that states know a label does not "
        "say that its class moves more."
    ]


def _percent(shares: Sequence[float]) -> str:
    """The least and the greatest share in percent, or one number where both read alike.

    >>> _percent([0.3, 0.45, 0.121]), _percent([0.12, 0.1201])
    ('12 to 45 %', '12 %')
    """
    ends = dict.fromkeys(f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    return f"{' to '.join(ends)} %"


def verdict_table(claims: Iterable[Mapping[str, Any]]) -> list[str]:
    """Claims with their numbers, the rungs they climbed and their rules, as lines of Markdown."""
    header = ("claim", "of", "verdict", "rungs climbed", "value", "95 % interval", "p")
    rows: list[tuple[str, ...]] = []
    explained: dict[str, list[str]] = {}
    for claim in in_order(claims):
        low, high = claim["low"], claim["high"]
        interval = "–" if low is None or high is None else f"{low:.3g} to {high:.3g}"
        value, p = (("–" if claim[key] is None else format(claim[key], ".3g")) for key in ("value", "p"))
        value = "; ".join(filter(None, (value, _text(claim.get("beside", "")))))
        statement, verdict = (_text(claim[key]) for key in ("statement", "verdict"))
        climbed = _text(" → ".join(rungs(claim["steps"])))
        of = _text(claim["homology"])
        verdict = "; ".join(filter(None, (f"**{verdict}**", _text(claim.get("why", "")))))
        rows.append((statement, of or "–", verdict, climbed or "–", value, interval, p))
        explained.setdefault(f"{_text(claim['statistic'])}; {_text(claim['rule'])}", []).append(statement)
    return [
        *_table(header, rows),
        "",
        *(f"- *{'; '.join(dict.fromkeys(statements))}*: {rule}." for rule, statements in explained.items()),
    ]


def exploratory(findings: Mapping[str, Any]) -> str:
    """A warning where margins were chosen after the states were recorded, of a run or of one that is compared.

    >>> exploratory({"exploratory": True}), exploratory({})
    ('Exploratory: these margins are not those declared before the run.', '')
    """
    if not findings.get("exploratory"):
        return ""
    return "Exploratory: these margins are not those declared before the run."


def _first_line(findings: Mapping[str, Any], last: str) -> str:
    warning = exploratory(findings).replace("Exploratory", "*Exploratory*")
    return " ".join(filter(None, (in_short(findings["claims"].values()), warning, last)))


def in_short(claims: Iterable[Mapping[str, Any]]) -> str:
    """What moves, then the verdict of every other claim, in one line.

    >>> moves = {"claim": "moves", "labels": [], "verdict": "supported"}
    >>> early = {**moves, "claim": "early", "homology": "H0", "verdict": "explained by scale"}
    >>> in_short([early, {**moves, "homology": "H0"}, {**moves, "homology": "H1"}])
    '**H1 and H0 move**; early: H0 explained by scale.'
    """
    found: dict[str, dict[str, list[str]]] = {}
    for claim in in_order(claims):
        of = f" of {_text(' and '.join(claim['labels']))}" if claim["labels"] else ""
        found.setdefault(f"{claim['claim']}{of}", {}).setdefault(claim["verdict"], []).append(
            claim["homology"]
        )
    return "; ".join(_said(claim, verdicts) for claim, verdicts in found.items()) + "."


def _said(claim: str, verdicts: Mapping[str, Sequence[str]]) -> str:
    parts: list[str] = []
    verbs = {known.name: known.said for known in listed.CLAIMS}
    for verdict, homologies in verdicts.items():
        of, supported = " and ".join(filter(None, homologies)), sort_of(verdict) == "supported"
        if supported and (verb := verbs.get(claim)):
            words = f"{of} {verb}{'s' if len(homologies) == 1 else ''}"
        else:
            words = f"{of} {verdict}".strip()
            words = words if parts else f"{claim}: {words}"
        parts.append(f"**{words}**" if supported else words)
    return ", ".join(parts)


def _text(text: str) -> str:
    """Text in a cell of a Markdown table: no HTML, no other cell, no other line."""
    return escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def _number(value: float | None, spec: str) -> str:
    return "nothing moved" if value is None else format(value, spec)


# What no run shows, in paragraphs.
CAVEATS = (
    "Concentration is the share of all movement (velocities summed over checkpoints) in the first third of "
    "training; it says *early* only where it is well above the expected share beside it.",
    "**What this does not show.** One run is one draw of the order of its rows and of its first weights: what it "
    'shows may differ with another seed, which the comparison of runs tests. "Not supported" is no proof of the '
    "opposite. Velocities in the table are not freed of scale: a cloud that only grows moves too (see the column "
    "h1_velocity_scale_free in velocity.csv). A peak below 1 in units of other prompts changed the topology by "
    "less than other prompts would have. A learning rate that decays makes late movement small by itself. Topology "
    "says nothing of how well the model answers.",
)


def caveats(diagrams: Mapping[str, Any], dominated: Mapping[int, Dominance]) -> Iterator[str]:
    """What to mind of one run beside `CAVEATS`, in paragraphs; `diagrams` is the manifest of its diagrams."""
    if constant := sorted({layer for _, layer in diagrams["constant_cells"]}):
        yield (
            f"Layer {', '.join(map(str, constant))} is constant at some checkpoints: all prompts have one and the "
            "same state there, so it has no topology to speak of."
        )
    if not_finite := diagrams.get("not_finite"):
        layers = ", ".join(map(str, sorted({layer for _, layer in not_finite})))
        yield (
            f"**States are not finite** (NaN or infinity) from step {min(step for step, _ in not_finite)} on, at layer "
            f"{layers}: those checkpoints or layers are left out of all that is said here."
        )
    if dominated:
        yield _dominance_caveat(dominated, Preparation(**diagrams.get("prepared") or {}))
    n_prompts, subsample_size = diagrams["n_prompts"], diagrams["subsample_size"]
    if n_prompts < 2 * subsample_size:
        yield (
            f"The unit of other prompts is approximate here: it is measured on halves of {n_prompts // 2} prompts, for "
            f"{n_prompts} prompts hold no two subsamples of {subsample_size} that share none."
        )


def write_comparison_note(
    facts: Mapping[str, Any], pages: Mapping[str, Page], page: Page, *, with_report: bool
) -> str:
    """Markdown for a comparison's page.

    Parameters
    ----------
    facts : mapping
        What comparison.json holds.
    pages : mapping of str to Page
        The pages of the runs compared, by name, as far as MLflow holds them.
    page : Page
        The page of the comparison, whose pictures are in the folder `comparison`.
    with_report : bool
        Whether `report.html` is there as well.
    """
    linked = pages if len(facts["runs"]) <= _MOST_LINKED else {}
    names = [f"[{name}]({linked[name].url})" if name in linked else f"`{name}`" for name in facts["runs"]]
    report = (
        f"The whole study on one page: [report.html]({page.artifact('report.html')})." if with_report else ""
    )
    lines = [
        _first_line(facts, report),
        "",
        f"{len(names)} runs side by side: {', '.join(names)}. Distances are order-{facts['order']:g} Wasserstein with "
        f"Euclidean ground metric between H1 diagrams of the same subsample (the first {facts['n_subsamples']}), in "
        f"units of the filtration.{first_third(facts)}",
        "",
    ]
    lines += [
        *verdict_table(facts["claims"].values()),
        "",
        page.picture("comparison/velocity.png", "H1 velocities of all runs"),
        "",
        *added_table(facts.get("added", [])),
        *(line for pair in facts.get("reruns", []) for line in (_text(pair["sentence"]), "")),
    ]
    return _fitting(lines)


ADDED_HEADING = "What does topology add?"


def added_words(added: Sequence[Mapping[str, Any]]) -> tuple[str, list[str], list[list[str]]]:
    """What topology adds to simpler measures: how it was asked, the heading of a table, and its rows as text."""
    targets = {row["target"] for row in added}
    asked = "; ".join(f"{name}: {what}" for name, what in TARGETS.items() if name in targets)
    how = (
        f"Each target ({asked}) is predicted on seeds left out, by ridge regression from simpler measures, from "
        "topology, and from both; time is among the features of intervals. R2 is the mean over seeds; that of what "
        "knows nothing is 0. The gain is of both over the simpler ones, with its 95 % interval over seeds; p is the "
        "larger of that of the interval and that of a permutation of what topology holds beside the simpler measures."
    )
    header = [
        "target",
        "what may be said",
        "score",
        "simpler",
        "topology",
        "both",
        "gain",
        "95 % interval",
        "p",
    ]
    several = len({row["model"] for row in added}) > 1
    rows = [
        [
            f"{row['target']} of {row['model']}" if several else row["target"],
            row["sentence"],
            row["score"] + (f" (chance {row['chance']:.2f})" if row["chance"] else ""),
            *(f"{row[name]:.3f}" for name in ("simple", "topology", "both")),
            f"{row['gain']:+.3f}",
            f"{row['low']:+.3f} to {row['high']:+.3f}",
            f"{row['p']:.2g}",
        ]
        for row in added
    ]
    return how, header, rows


def added_table(added: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same as lines of Markdown; none where nothing could be asked."""
    how, header, rows = added_words(added)
    if not rows:
        return []
    cells = ([_text(cell) for cell in row] for row in rows)
    return [f"**{ADDED_HEADING}** {how}", "", *_table(header, cells), ""]
