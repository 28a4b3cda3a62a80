"""A run that the stages have finished: verified sets, each made from the one before, and what was found in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoflow import storage
from topoflow.config import Claims, Params
from topoflow.errors import InvalidFile, quoted
from topoflow.names import pooled_name
from topoflow.storage import layout, schemas
from topoflow.storage.files import read_bytes
from topoflow.storage.layout import Run
from topoflow.topology.dominance import Dominance, dominance
from topoflow.topology.persistence import choose_engine
from topoflow.topology.prepared import Preparation

EARLY_SHARES = tuple(pooled_name("early_share", h) for h in ("H1", "H0"))  # of a run, in trajectory.json


@dataclass(frozen=True)
class FinishedRun:
    """One finished run of a study.

    Attributes
    ----------
    run : Run
        Which one.
    activations, diagrams : StoredSet
    results : Path
        The folder of its tables.
    facts : mapping
        What its trajectory.json holds.
    """

    run: Run
    activations: storage.StoredSet
    diagrams: storage.StoredSet
    results: Path
    facts: Mapping[str, Any]

    @classmethod
    def open(cls, run: Run, root: Path = Path()) -> FinishedRun:
        """Open and verify a run of the study in the folder `root`.

        Raises
        ------
        InvalidFile
            When a set or table is missing or altered, or was made from another one than there is now.
        """
        results = root / run.folder("results")
        facts = read_findings(run, root)
        activations, diagrams = open_activations(run, root), open_diagrams(run, root)
        for stored in (activations, diagrams):
            held = tuple(stored.manifest.get(key) for key in ("model", "objective", "seed"))
            if held != (run.model, run.objective, run.seed):
                raise InvalidFile(stored.folder, f"must be a set of {run}, and it is one of {quoted(held)}")
        diagrams.check_made_from(activations)
        check_findings(facts, results, diagrams)
        return cls(run, activations, diagrams, results, facts)

    def described(self) -> dict[str, Any]:
        """What models/NAME.json says of its model: files with their SHA-256, the chat template; empty without one."""
        path = self.results.parents[3] / layout.model_file(self.run.model)
        return layout.read_model(path) if path.is_file() else {}

    def prompts(self) -> list[str]:
        """The text of each evaluation prompt; see the function `prompt_texts`."""
        return prompt_texts(self.activations.manifest["prompts_sha256"], self.results.parents[3])

    @property
    def sha256(self) -> str:
        """Identifies the topology: the diagrams and what was made of them."""
        findings = read_bytes(self.results / layout.TRAJECTORY_FILE)
        return storage.sha256(self.diagrams.sha256.encode() + findings)

    def check_parameters(self, params: Params) -> None:
        """Refuse parameters that are not those of the results: what is recorded is what ran."""
        made = {**self.diagrams.manifest, **self.activations.manifest, **published(self.facts)}
        topology = params.topology
        wanted = {
            "sources": params.sources(self.run.model, self.run.objective),
            "study_seed": params.seed,
            "seed": self.run.seed,
            "finetune": params.training(self.run.objective),
            "recording": params.recorded(),
            "n_subsamples": topology.n_subsamples,
            "subsample_size": topology.subsample_size,
            "maxdim": topology.maxdim,
            "engine": choose_engine(topology.engine, topology.maxdim, n_points=topology.subsample_size),
            "order": params.trajectory.resolved_order,
            "first_third": params.trajectory.clock,
            "prepared": None if topology.preparation.plain else asdict(topology.preparation),
        }
        if "measures" in self.facts:  # older results do not say
            made["measures"], wanted["measures"] = self.facts["measures"], params.trajectory.measures
        for key, value in json.loads(storage.json_bytes(wanted)).items():
            if made.get(key) != value:
                was = quoted(made.get(key))
                raise InvalidFile(
                    "params.yaml",
                    f"says {key} = {value}, and the results of {self.run} were made with {was}",
                    "bring them up to date with: dvc repro",
                )


def prompt_texts(prompts_sha256: str, root: Path = Path()) -> list[str]:
    """What each evaluation prompt asks, its last message.

    Empty where data/prompts.jsonl is not here, or no longer the file that was recorded from.
    """
    path = root / layout.PROMPTS_FILE
    if not path.is_file() or storage.sha256_of_file(path) != prompts_sha256:
        return []
    return [prompt[-1]["content"] for prompt in layout.read_prompts(path)]


def asked(facts: Mapping[str, Any], prompts: Sequence[str]) -> dict[str, str]:
    """The evaluation prompts by the name of the model's answer to each; empty where no text was recorded.

    >>> asked({"texts": {"0": {"answers/1": "I do not"}}}, ["Write me a poem."]), asked({}, ["Write me a poem."])
    ({'answers/1': 'Write me a poem.'}, {})
    """
    answered = prompts if facts.get("texts") else []
    return {f"answers/{number}": prompt for number, prompt in enumerate(answered, 1)}


def told_of_classes(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What trajectory.json says of classes of prompts: a mapping a row of labels.csv; none where there are no labels.

    >>> told_of_classes({"classes": {"columns": ["layer", "auc"], "rows": [[4, 0.9]]}}), told_of_classes({})
    ([{'layer': 4, 'auc': 0.9}], [])
    """
    found = facts.get("classes") or {"columns": [], "rows": []}
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def published(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How the measures of the paper are computed: the order of the distance, and the unit of the first third.

    >>> published({"order": 2.0}), published({"order": 1.0, "first_third": "checkpoints"})
    ({'order': 2.0, 'first_third': 'steps'}, {'order': 1.0, 'first_third': 'checkpoints'})
    """
    return {"order": facts["order"], "first_third": facts.get("first_third", "steps")}


def is_exploratory(activations: storage.StoredSet, claims: Claims) -> bool:
    """Whether margins are others than those that held when the states were recorded."""
    return bool(activations.manifest.get("claims") != asdict(claims))


def open_activations(run: Run, root: Path = Path()) -> storage.StoredSet:
    """The verified activation set of a run, with a manifest that says all that a stage asks of it."""
    stored = storage.open_set(root / run.folder("activations"), storage.ACTIVATIONS)
    check_manifest(stored, "activations", layout.again(f"finetune@{run}", root))
    return stored


def open_diagrams(run: Run, root: Path = Path()) -> storage.StoredSet:
    """The verified diagram set of a run, as `open_activations`."""
    stored = storage.open_set(root / run.folder("diagrams"), storage.DIAGRAMS)
    check_manifest(stored, "diagrams", layout.again(f"diagrams@{run}", root))
    return stored


def check_manifest(stored: storage.StoredSet, kind: str, remedy: str) -> None:
    schemas.check(kind, stored.folder / storage.MANIFEST, stored.manifest, remedy)


def clouds_of(activations: storage.StoredSet, prepared: Preparation) -> Callable[[int, int], NDArray[Any]]:
    """A function that reads the cloud of a step and layer, prepared as the clouds of a diagram set are."""
    if prepared.plain:
        return activations.point_cloud

    @cache
    def of_layer(layer: int) -> Callable[[Any], NDArray[Any]]:
        return prepared.fitted(activations.point_cloud(activations.steps[0], layer))

    return lambda step, layer: of_layer(layer)(activations.point_cloud(step, layer))


def dominated(activations: storage.StoredSet, diagrams: storage.StoredSet) -> dict[int, Dominance]:
    """The layers with most of their variance along one direction at the first checkpoint, as their diagrams see it.

    Layers whose states are not here, or were altered, are left out: the manifest may be all that is here.
    """
    cloud = clouds_of(activations, Preparation(**diagrams.manifest.get("prepared") or {}))
    first, digests = diagrams.steps[0], activations.manifest.get("files", {})
    found = {}
    for layer in diagrams.layers:
        name = f"{storage.cell_name(first, layer)}.npy"
        path = activations.folder / name
        if path.is_file() and storage.sha256_of_file(path) == digests.get(name):
            found[layer] = dominance(cloud(first, layer))
    return {layer: shares for layer, shares in found.items() if shares is not None and shares.dominates}


def read_findings(run: Run, root: Path = Path()) -> Mapping[str, Any]:
    """What trajectory.json says of a run; its tables are verified to be those that it was written with.

    Raises
    ------
    InvalidFile
        When it is missing, of an older topoflow, or vouches for another table than there is; the command that makes
        the file again is named.
    """
    results, remedy = root / run.folder("results"), layout.again(f"trajectory@{run}", root)
    facts = _vouching(results / layout.TRAJECTORY_FILE, (*layout.RUN_TABLES, layout.LOSS_FILE), remedy)
    trained = {layout.LOSS_FILE: layout.again(f"finetune@{run}", root, force=False)}
    layout.check_hashes(results, facts["files"], trained, remedy)
    return facts


def read_early_shares(folder: Path) -> dict[str, dict[str, list[float]]]:
    """The early shares of the finished runs below a folder, such as a study: by homology, and by model and objective.

    Runs in which nothing moved have none.

    Raises
    ------
    InvalidFile
        When there is no finished run, or one that an older topoflow finished.
    """
    found: dict[str, dict[str, list[float]]] = {key: {} for key in EARLY_SHARES}
    for path, pooled in _pooled(folder):
        for key, labels in found.items():
            if pooled[key] is not None:
                labels.setdefault(path.parents[1].as_posix(), []).append(pooled[key])
    return found


def read_jitters(folder: Path) -> list[float]:
    """How large jitter is beside the movement of a typical finished run below a folder, for H1 and for H0.

    It is the standard error that jitter gives to the squared movement of a run, as a share of this movement: the median
    over runs in which something moves. A homology that moves in no run is left out. Errors are those of
    `read_early_shares`.
    """
    found: dict[str, list[float]] = {}
    for _, pooled in _pooled(folder):
        for homology in ("H1", "H0"):
            # an older topoflow did not write them
            moved, jitter = (pooled.get(pooled_name(name, homology)) for name in ("moved", "jitter"))
            if moved and jitter and moved > 0:
                found.setdefault(homology, []).append(jitter / moved)
    return [float(np.median(shares)) for shares in found.values()]


def _pooled(folder: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The numbers of all layers together of each finished run below a folder, and the file that has them."""
    paths = sorted(folder.rglob(layout.TRAJECTORY_FILE))
    if not paths:
        raise InvalidFile(
            folder, f"holds no {layout.TRAJECTORY_FILE}", "name the results of a study, or a study"
        )
    for path in paths:
        remedy = "bring it up to date with: dvc repro"
        yield path, schemas.check("pilot", path, layout.read_json(path), remedy)["pooled"]


def read_comparison() -> Mapping[str, Any]:
    """What comparison.json says; those of its tables and pictures that are here are verified.

    Raises
    ------
    InvalidFile
        When it is missing, of an older topoflow, or vouches for another file than there is.
    """
    names, remedy = (*layout.COMPARISON_TABLES, *layout.COMPARISON_PICTURES), layout.again("compare")
    folder = layout.COMPARISON_FOLDER
    facts = _vouching(folder / layout.COMPARISON_FILE, names, remedy)
    layout.check_hashes(folder, facts["files"], {}, remedy, partly=True)
    return facts


def read_sensitivity(folder: Path, runs: Sequence[Run]) -> Mapping[str, Any] | None:
    """What sensitivity.json says of runs under other choices; None where there is none.

    Raises
    ------
    InvalidFile
        When it was made from other results than there are now, or vouches for another table or picture.
    """
    path = folder / layout.SENSITIVITY_FILE
    if not path.exists():
        return None
    remedy = "make it again with: topoflow sensitivity"
    facts = dict(schemas.check("sensitivity", path, layout.read_json(path), remedy))
    names = (layout.SENSITIVITY_TABLE, layout.SENSITIVITY_PICTURE)
    layout.check_hashes(folder, {name: facts["files"].get(name, "") for name in names}, {}, remedy)
    now = {str(run): storage.sha256_of_file(run.folder("results") / layout.TRAJECTORY_FILE) for run in runs}
    if facts["results"] != now:
        raise InvalidFile(path, "was made from other results than there are now", remedy)
    return facts


def _vouching(path: Path, names: Sequence[str], remedy: str) -> Mapping[str, Any]:
    """A results manifest that names the SHA-256 of the files of these names."""
    facts = layout.read_json(path)
    files = facts.get("files") if isinstance(facts, dict) else None
    if not isinstance(files, dict) or set(files) - {*layout.LATER_TABLES} != set(names):
        raise InvalidFile(
            path, "does not name the SHA-256 of each of its tables: an older topoflow wrote it", remedy
        )
    return dict(schemas.check(path.stem, path, facts, remedy))


def check_findings(facts: Mapping[str, Any], results: Path, diagrams: storage.StoredSet) -> None:
    """Refuse findings that were made from other diagrams than there are now."""
    if facts["diagrams"] != diagrams.sha256:
        then, now = facts["diagrams"], diagrams.sha256
        raise storage.made_from_another(results, diagrams.folder, "SHA-256", then, now)
