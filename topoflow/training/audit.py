"""What is wrong with a series of checkpoints, as far as it can be told without opening them as models.

Public series are wrong more often than people think: a revision serves the weights of another step, a shard is missing,
a folder was copied under another name. `of_folder` and `of_hub` list what is there; `audit_listing` reads nothing else
than such a list. `audit_states` looks at states that were recorded already.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from topoflow.config import HubCheckpoints
from topoflow.errors import InvalidArgument, InvalidFile, said
from topoflow.storage import StoredSet, cell_name, json_bytes, sha256, sha256_of_file
from topoflow.storage.files import open_regular
from topoflow.training import models
from topoflow.training.checkpoints import ADAPTER_FILE, resolve_commits
from topoflow.training.order import misfits, squared_distances

Kind = Literal["missing", "unreadable", "unknown", "same", "architecture", "gap", "order", "off"]
_WEIGHTS = re.compile(r"(?:pytorch_model|adapter_model|model)[\w.-]*\.(?:safetensors|bin)")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
_FORMATS = (".safetensors", ".bin")
_OTHER_SIZE = 0.01  # of the weights' bytes: a header or a few tokens make less
_SAMPLE = 4096  # bytes of each tensor that are read first; only where these agree is all of it read
_PIECE = 1 << 20
_OFTEN = 3  # a distance between steps is even that stands so many times, and for each other one so many times
_VALUES = 1 << 24  # of states of one layer that are held at a time


@dataclass(frozen=True)
class Listed:
    """What a listing says of one checkpoint.

    Attributes
    ----------
    step : int
        The optimiser step that its name says, or that it was given.
    name : str
        Of the folder or revision.
    weights : mapping of str to (str or None)
        A hash of the content of each file of weights; None where the listing has none.
    sizes : mapping of str to int
        Their bytes, as far as they are known.
    architecture : mapping of str to str
        What tells models of another architecture apart, such as the names and shapes of the tensors.
    config : str, optional
        A hash of config.json, where that is all that is known of the architecture.
    says : int, optional
        The step that the checkpoint itself says it is of (trainer_state.json).
    problem : str
        Why its weights cannot be read; empty where they can.
    """

    step: int
    name: str
    weights: Mapping[str, str | None] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    architecture: Mapping[str, str] = field(default_factory=dict)
    config: str | None = None
    says: int | None = None
    problem: str = ""


@dataclass(frozen=True)
class Finding:
    """Something that is not as a series of checkpoints should be.

    Attributes
    ----------
    kind : str
        "missing" (no weights, or not all), "unreadable", "unknown" (nothing says what the weights are), "same" (as
        another step), "architecture", "gap" (steps that an even series lacks), "order" (of another step than its name
        says), "off" (states far from those of all others).
    steps : tuple of int
        Of which checkpoints; of a gap, the steps that are missing.
    what : str
        A sentence.
    stops : bool
        Whether such a checkpoint cannot be recorded.
    """

    kind: Kind
    steps: tuple[int, ...]
    what: str
    stops: bool = False


# --- what is found in a listing -----------------------------------------------------------------


def audit_listing(listing: Sequence[Listed], whole: bool = True) -> list[Finding]:
    """Say what is wrong with a series, from a listing alone.

    Parameters
    ----------
    listing : sequence of Listed
        The checkpoints, in any order.
    whole : bool
        Whether these are all that there are. Of some that were chosen, gaps are meant.

    Returns
    -------
    list of Finding
        Those that stop a recording first. Empty where nothing is found.

    Examples
    --------
    >>> series = [Listed(step, f"step{step}", {"model.safetensors": seen}) for step, seen in enumerate("abb")]
    >>> for found in audit_listing([*series, Listed(3, "step3")]):
    ...     print(found.kind, found.steps, found.what)
    missing (3,) step3 has no weights.
    same (1, 2) step2 has the weights of step1 (.safetensors, b).
    """
    series = sorted(listing, key=lambda one: one.step)
    found = [finding for one in series for finding in _faults(one)]
    found += _bin_alone(series)
    found += _same(series)
    found += _other_architecture(series)
    found += [
        Finding("order", (one.step,), f"{one.name} says that it is of step {one.says} (trainer_state.json).")
        for one in series
        if one.says not in (None, one.step)
    ]
    if whole and (lost := lacking([one.step for one in series])):
        are = "is" if len(lost) == 1 else "are"
        found.append(Finding("gap", lost, f"The steps are even but for {_some(lost)}, which {are} missing."))
    return sorted(found, key=lambda finding: not finding.stops)


def _faults(one: Listed) -> Iterable[Finding]:
    """What is wrong with a checkpoint alone."""
    if one.problem:
        yield Finding("unreadable", (one.step,), f"{one.name} cannot be read: {one.problem}.", stops=True)
        return
    if not one.weights:
        yield Finding("missing", (one.step,), f"{one.name} has no weights.", stops=True)
    for kind in _FORMATS:
        if lost := _lost_shards(name for name in one.weights if name.endswith(kind)):
            files = f"{one.name} lacks {_some(lost)}."
            yield Finding("missing", (one.step,), files, stops=kind == _FORMATS[0])
    if one.weights and None in one.weights.values():
        files = _some([name for name, seen in one.weights.items() if seen is None])
        yield Finding("unknown", (one.step,), f"The listing has no hash of {files} of {one.name}.")


def _lost_shards(names: Iterable[str]) -> list[str]:
    """The files that the names of those that are there speak of: model-00001-of-00002 of a second."""
    there = set(names)
    parts = [found for name in there if (found := _SHARD.fullmatch(name))]
    whole = {
        f"{part[1]}-{number:05d}-of-{part[3]}{part[4]}"
        for part in parts
        for number in range(1, int(part[3]) + 1)
    }
    return sorted(whole - there)


def _bin_alone(series: Sequence[Listed]) -> Iterable[Finding]:
    kinds = {one.step: set(_identities(one, hashed=False)) for one in series}
    if steps := tuple(step for step, there in kinds.items() if there == {".bin"}):
        what = f"Weights are there as .bin alone, which is not opened: of {_some(steps)}."
        yield Finding("missing", steps, what, stops=True)


def _identities(one: Listed, hashed: bool = True) -> dict[str, tuple[str | None, ...]]:
    """What the weights are in each format that they are there in; with `hashed`, where that is known."""
    found = {}
    for kind in _FORMATS:
        seen = [content for name, content in one.weights.items() if name.endswith(kind)]
        if seen and not (hashed and None in seen):
            found[kind] = tuple(sorted(seen, key=str))
    return found


def _same(series: Sequence[Listed]) -> Iterable[Finding]:
    for kind in _FORMATS:
        groups: dict[Any, list[Listed]] = defaultdict(list)
        for one in series:
            if not one.problem and (identity := _identities(one).get(kind)):
                groups[identity].append(one)
        for identity, group in groups.items():
            if len(group) > 1:
                names = [one.name for one in group]
                have = "has" if len(group) == 2 else "have"
                of_what = f"the weights of {names[0]} ({kind}, {str(identity[0])[:12]})"
                what = f"{_some(names[1:])} {have} {of_what}."
                yield Finding("same", tuple(one.step for one in group), what)


def _other_architecture(series: Sequence[Listed]) -> Iterable[Finding]:
    readable = [one for one in series if one.weights]
    for key in sorted({key for one in readable for key in one.architecture}):
        for one in _unlike([(one, one.architecture.get(key)) for one in readable]):
            what = f"{one.name} has another {key} than the others."
            yield Finding("architecture", (one.step,), what, stops=True)
    configs = [(one, one.config) for one in readable if one.config]
    for one in _unlike(configs):
        what = f"{one.name} has another config.json than the others, which is not opened here."
        yield Finding("architecture", (one.step,), what)
    for kind in _FORMATS:
        sizes = [
            (one, sum(size for name, size in one.sizes.items() if name.endswith(kind)))
            for one in readable
            if not _lost_shards(one.weights)
        ]
        usual = float(np.median([size for _, size in sizes if size] or [0]))
        for one, size in sizes:
            if size and abs(size - usual) > _OTHER_SIZE * usual:
                what = f"{one.name} has {size:,} bytes of weights ({kind}), and the others {usual:,.0f}."
                yield Finding("architecture", (one.step,), what)


def _unlike(seen: Sequence[tuple[Listed, str | None]]) -> list[Listed]:
    """Those that are not like most; where there is no most, not like the first."""
    usual = Counter(value for _, value in seen).most_common(1)  # of equal counts, the one that came first
    return [one for one, value in seen if value != usual[0][0]]


def lacking(steps: Sequence[int]) -> tuple[int, ...]:
    """Return the steps that an even series lacks between those that it has.

    Even is a distance, or a doubling, that stands at least three times, and three times as often as all others between
    its first and last. Checkpoints one step apart are twins, whose gaps are meant.

    Parameters
    ----------
    steps : sequence of int
        Optimiser steps, increasing.

    Returns
    -------
    tuple of int
        Increasing; empty where the series is whole, or not even.

    Examples
    --------
    >>> lacking([0, 100, 200, 400, 500]), lacking([0, 1, 2, 4, 8, 32, 64, 128]), lacking([0, 1, 9, 10, 18, 19])
    ((300,), (16,), ())
    """
    found: list[int] = []
    gaps = np.diff(steps).tolist()
    if usual := Counter(gap for gap in gaps if gap > 1).most_common(1):
        even = usual[0][0]
        found += _between(
            steps,
            gaps,
            even,
            lambda low, high: range(low + even, high, even) if (high - low) % even == 0 else (),
        )
    positive = [step for step in steps if step > 0]
    ratios = [high / low for low, high in itertools.pairwise(positive)]
    found += _between(positive, ratios, 2, _doubled)
    return tuple(sorted(set(found)))


def _doubled(low: int, high: int) -> list[int]:
    between = [low << n for n in range(1, 64) if low << n < high]
    return between if between and high == 2 * between[-1] else []


def _between(
    steps: Sequence[int],
    gaps: Sequence[float],
    even: float,
    inside: Callable[[int, int], Sequence[int]],
) -> list[int]:
    """The steps inside gaps that are wider than `even`, where all of these could be filled with such gaps."""
    at = [place for place, gap in enumerate(gaps) if gap == even]
    wide = [place for place in range(at[0], at[-1]) if gaps[place] != even] if at else []
    filled = [inside(steps[place], steps[place + 1]) for place in wide]
    if len(at) < _OFTEN * max(1, len(wide)) or not all(filled):
        return []
    return [step for some in filled for step in some]


def _some(values: Iterable[Any]) -> str:
    listed = [str(value) for value in values]
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return ", ".join(listed[:5]) + more


# --- listings -----------------------------------------------------------------------------------


def of_folder(places: Mapping[int, Path]) -> list[Listed]:
    """List checkpoint folders, with hashes of their tensors.

    Weights are the same if their tensors are, whichever files they lie in. The first bytes of each tensor are hashed,
    and all of them only where those are the same in two checkpoints.

    Parameters
    ----------
    places : mapping of int to Path
        The folders, as `topoflow.training.checkpoints.folders` finds them.

    Returns
    -------
    list of Listed
        One for each, also for one that cannot be read.
    """
    listed = [_list_folder(step, folder) for step, folder in places.items()]
    seen = Counter(content for one in listed for content in one.weights.values())
    twice = [one.step for one in listed if any(seen[content] > 1 for content in one.weights.values())]
    return [_list_folder(one.step, places[one.step], None) if one.step in twice else one for one in listed]


def _list_folder(step: int, folder: Path, most: int | None = _SAMPLE) -> Listed:
    try:
        weights = {
            path.name: sha256_of_file(path)
            for path in sorted(folder.glob("*.bin"))
            if _WEIGHTS.fullmatch(path.name)
        }
        tensors: dict[str, tuple[int, ...]] = {}
        if any(folder.glob("*.safetensors")):
            tensors = models.tensors_of(folder)
            weights["model.safetensors"] = _tensors_hash(folder, most)
        return Listed(
            step,
            folder.name,
            weights,
            architecture=_architecture(folder, tensors),
            says=_step_of(folder / "trainer_state.json"),
        )
    except (InvalidFile, OSError, ValueError) as error:
        return Listed(step, folder.name, problem=said(error))


def _tensors_hash(folder: Path, most: int | None) -> str:
    """The SHA-256 of all tensors in files that `models.tensors_of` has found whole, or of their beginnings."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with open_regular(path) as file:
            begin = 8 + int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(begin - 8))
            for name, tensor in header.items():
                if name == "__metadata__":
                    continue
                start, end = tensor["data_offsets"]
                digest = hashlib.sha256(json_bytes([tensor["dtype"], tensor["shape"]]))
                file.seek(begin + start)
                left = end - start if most is None else min(most, end - start)
                while left and (piece := file.read(min(left, _PIECE))):
                    digest.update(piece)
                    left -= len(piece)
                found[name] = digest.hexdigest()
    return sha256(json_bytes(found))


def _architecture(folder: Path, tensors: Mapping[str, Sequence[int]]) -> dict[str, str]:
    found = (
        {"set of tensors": sha256(json_bytes({name: list(shape) for name, shape in tensors.items()}))}
        if tensors
        else {}
    )
    for name, key, told in (
        ("config.json", "model_type", "model type"),
        (ADAPTER_FILE, "base_model_name_or_path", "base"),
    ):
        if (folder / name).is_file():
            found[told] = str(models.read_foreign_json(folder / name).get(key))
    return found


def _step_of(path: Path) -> int | None:
    """The step that a Trainer wrote; None where it wrote none that can be read."""
    try:
        step = models.read_foreign_json(path).get("global_step")
    except InvalidFile:
        return None
    return step if type(step) is int else None


def revisions_with_steps(repository: str) -> dict[str, int]:
    """Ask the Hub, once, for the branches and tags of a repository whose names say a step.

    Of two names of one step, the branch is taken.

    Raises
    ------
    InvalidArgument
        When the Hub does not answer, or there are no two such names.
    """
    from huggingface_hub import HfApi

    with models.readable_hub_errors("model", repository, "main"):
        refs = HfApi().list_repo_refs(repository)
    found: dict[int, str] = {}
    for name in (ref.name for ref in (*refs.branches, *refs.tags)):
        try:
            (step,) = HubCheckpoints(repository, (name,)).revision_of_step
        except InvalidArgument:
            continue
        found.setdefault(step, name)
    if len(found) < 2:
        expected = "of a repository with revisions whose names say a step, or given with --revisions"
        raise InvalidArgument("--hub", expected, repository)
    return {name: step for step, name in sorted(found.items())}


def of_hub(repository: str, revisions: Mapping[int, str]) -> list[Listed]:
    """List revisions of a Hub repository by one call for each commit, and download nothing.

    Parameters
    ----------
    repository : str
        Its id.
    revisions : mapping of int to str
        Branches, tags or commits by their steps.

    Returns
    -------
    list of Listed
        Hashes are the SHA-256 of LFS, or the git hash of a file that is not in LFS.

    Raises
    ------
    InvalidArgument
        When the Hub does not answer, or lacks a revision.
    """
    from huggingface_hub import HfApi

    commits = resolve_commits(repository, list(revisions.values()))
    trees: dict[str, list[Any]] = {}
    for name in revisions.values():
        if commits[name] not in trees:
            with models.readable_hub_errors("model", repository, name):
                trees[commits[name]] = list(HfApi().list_repo_tree(repository, revision=commits[name]))
    return [_list_tree(step, name, trees[commits[name]]) for step, name in revisions.items()]


def _list_tree(step: int, name: str, tree: Sequence[Any]) -> Listed:
    """What `HfApi.list_repo_tree` says of one revision."""
    files = [entry for entry in tree if hasattr(entry, "blob_id")]
    weights = [file for file in files if _WEIGHTS.fullmatch(file.path)]
    config = [file.blob_id for file in files if file.path in ("config.json", ADAPTER_FILE)]
    return Listed(
        step,
        name,
        {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in weights},
        {file.path: file.size for file in weights},
        config=" ".join(config) or None,
    )


# --- recorded states ----------------------------------------------------------------------------


def audit_states(stored: StoredSet) -> list[Finding]:
    """Say which checkpoints do not fit their places, from recorded states.

    Parameters
    ----------
    stored : StoredSet
        A set of activations.

    Returns
    -------
    list of Finding
        Of the kinds "same", "order" and "off"; `topoflow.training.order.misfits` says what is seen, and what is not.

    Raises
    ------
    InvalidFile
        When a file of the set is not what it must be.
    """
    hashes = stored.manifest["files"]
    groups: dict[Any, list[int]] = defaultdict(list)
    for step in stored.steps:
        groups[tuple(hashes.get(f"{cell_name(step, layer)}.npy") for layer in stored.layers)].append(step)
    found = [
        Finding("same", tuple(steps), f"The states of {_some(steps[1:])} are those of {steps[0]}.")
        for steps in groups.values()
        if len(steps) > 1
    ]
    finite = np.array([True for _ in stored.steps])
    squared = []
    for layer in stored.layers:
        clouds = _clouds(stored, layer)
        finite &= np.isfinite(clouds).all(axis=(1, 2))
        squared.append(squared_distances(np.where(finite[:, None, None], clouds, 0)))
    steps = [step for step, whole in zip(stored.steps, finite, strict=True) if whole]
    broken = tuple(step for step in stored.steps if step not in steps)
    if broken:
        found.append(Finding("off", broken, f"States of {_some(broken)} are not finite."))
    for misfit in misfits(np.array(squared)[:, finite][:, :, finite]):
        at = tuple(steps[place] for place in misfit.at)
        beside = " and ".join(str(steps[place]) for place in misfit.between)
        match misfit.kind:
            case "swapped":
                both = f"The states of {at[0]} and {at[1]} fit in one another's places"
                told = f"{both} (contrast {misfit.contrast:.2f})."
                found.append(Finding("order", at, told))
            case "moved":
                where = f"between {beside}" if len(misfit.between) > 1 else f"at the end beside {beside}"
                told = f"The states of {at[0]} fit {where} (contrast {misfit.contrast:.2f})."
                found.append(Finding("order", at, told))
            case "off":
                told = (
                    f"The states of {at[0]} are far from those before and after, which are near one another."
                )
                found.append(Finding("off", at, told))
    return found


def _clouds(stored: StoredSet, layer: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """States of all checkpoints, of as many prompts as memory allows."""
    first = stored.point_cloud(stored.steps[0], layer)
    every = max(1, -(-first.size * len(stored.steps) // _VALUES))
    return np.array([stored.point_cloud(step, layer)[::every] for step in stored.steps], dtype=np.float64)
