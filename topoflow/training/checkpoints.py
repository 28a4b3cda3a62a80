"""The checkpoints of a training that has been, in order: which they are, and each opened as a model.

They are the `checkpoint-N` folders that a Trainer leaves, whole models or PEFT adapters, or revisions of a
repository of the Hugging Face Hub. `list_checkpoints` writes down what they are and refuses what does not belong
together, before anything is computed; `record` opens what was written down, one model at a time.
"""

from __future__ import annotations

import gc
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topoflow.config import CheckpointFolder, CheckpointSource, HubCheckpoints, ModelSource
from topoflow.layout import Run
from topoflow.recording.callback import TopologyCallback, tokenize_prompts
from topoflow.recording.hidden_states import evenly_spaced_layers
from topoflow.storage import behaviour_name, cell_name
from topoflow.training import models

ADAPTER_FILE = "adapter_config.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
_MODEL = "model"  # the kinds of a checkpoint: a whole model, an adapter of the run's, or that model itself
ADAPTER = "adapter"
_BASE = "base"


def step_of(folder: Path) -> int:
    """The optimiser step of a Trainer's checkpoint folder.

    >>> step_of(Path("trainer/checkpoint-16"))
    16
    """
    found = _NAME.fullmatch(folder.name)
    if not found:
        raise ValueError(f"a checkpoint must be a folder called checkpoint-N, got {folder}")
    return int(found[1])


# --- which they are -----------------------------------------------------------------------------


def list_checkpoints(
    source: CheckpointSource, run: Run, trust_remote_code: bool = False
) -> list[dict[str, Any]]:
    """Say which checkpoints a run has, in the order of their steps.

    Returns
    -------
    list of dict
        Each with `model`, `seed` (those of the run), `step`, `name`, `kind` (model, adapter, or base for the run's
        own model), `revision` (the commit, of the Hub), `sha256` (of the files, of a folder), `tokenizer` (whether
        it brings one), `n_layers`, `hidden_size` (of whole models); no path of this machine.

    Raises
    ------
    ValueError
        When there are none, one that was asked for is missing, one is not whole, or they differ in kind or size.
    """
    if isinstance(source, CheckpointFolder):
        found = [_describe_folder(folder, step) for step, folder in folders(source, run).items()]
    else:
        found = _describe_revisions(source, run, trust_remote_code)
    for key in ("kind", "n_layers", "hidden_size"):
        first = found[0]
        for other in found:
            if other[key] != first[key]:
                raise ValueError(
                    f"checkpoints must all be of one kind and size, and {key} is {first[key]} of {first['name']} and "
                    f"{other[key]} of {other['name']}"
                )
    if source.model_is_step_0 and found[0]["step"] > 0:
        found.insert(0, _line(0, run.model, _BASE))
    if len(found) < 2:
        raise ValueError(
            f"checkpoints must be at least 2, with the model as step 0, got {[line['name'] for line in found]}"
        )
    return [{"model": run.model, "seed": run.seed, **line} for line in found]


def _line(step: int, name: str, kind: str, **known: Any) -> dict[str, Any]:
    unknown = dict.fromkeys(("revision", "sha256", "n_layers", "hidden_size"))
    return {"step": step, "name": name, "kind": kind, "tokenizer": False, **unknown, **known}


def _filled(text: str, run: Run) -> str:
    return text.replace("{model}", run.model).replace("{seed}", str(run.seed))


def folders(source: CheckpointFolder, run: Run) -> dict[int, Path]:
    """The checkpoint folders by their steps, increasing; ValueError where there are none, or too few."""
    home = Path(_filled(source.path, run))
    if not home.is_dir():
        raise ValueError(f"path must be a folder with checkpoint-N folders in it, and there is no {home}")
    there = {int(found[1]): path for path in home.iterdir() if (found := _NAME.fullmatch(path.name))}
    if not there:
        raise ValueError(f"path must be a folder with checkpoint-N folders in it, and {home} has none")
    if missing := sorted(set(source.steps) - set(there)):
        raise ValueError(
            f"steps must be checkpoints that {home} has ({', '.join(map(str, sorted(there)))}), "
            f"and it lacks {', '.join(map(str, missing))}"
        )
    return {step: there[step] for step in sorted(source.steps or there)}


def _describe_folder(folder: Path, step: int) -> dict[str, Any]:
    kind = ADAPTER if (folder / ADAPTER_FILE).is_file() else _MODEL
    if kind == _MODEL and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} must hold a model or an adapter, and has no config.json and no {ADAPTER_FILE}"
        )
    weights = [path.name for path in folder.glob("*.safetensors")]
    index = folder / "model.safetensors.index.json"
    wanted = set(json.loads(index.read_bytes())["weight_map"].values()) if index.is_file() else set()
    if not weights or wanted - set(weights):
        raise ValueError(
            f"{folder} must hold whole weights as .safetensors, and lacks "
            f"{', '.join(sorted(wanted - set(weights))) or 'any'} (cut off while it was written?); remove it, or "
            "choose others with `steps`"
        )
    size = _size(folder) if kind == _MODEL else {}
    tokenizer = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    return _line(step, folder.name, kind, sha256=models.identity(folder), tokenizer=tokenizer, **size)


def _size(place: str | Path, **options: Any) -> dict[str, int]:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(place, **options).get_text_config()
    return {"n_layers": config.num_hidden_layers, "hidden_size": config.hidden_size}


def _describe_revisions(source: HubCheckpoints, run: Run, trust: bool) -> list[dict[str, Any]]:
    repository = _filled(source.id, run)
    revisions = source.revision_of_step
    commits = resolve_commits(repository, list(revisions.values()))
    described = []
    for step, revision in revisions.items():
        commit = commits[revision]
        with models.readable_hub_errors("model", repository, revision):
            adapter = _adapter_config(repository, commit) is not None
            size = {} if adapter else _size(repository, revision=commit, trust_remote_code=trust)
        described.append(_line(step, revision, ADAPTER if adapter else _MODEL, revision=commit, **size))
    return described


def resolve_commits(repository: str, revisions: Sequence[str]) -> dict[str, str]:
    """The commit of each revision of a Hub repository, in one question; from the cache where the Hub may not be asked.

    Raises
    ------
    ValueError
        That names every revision which there is not, and some that there are.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    known: dict[str, str] = {}
    if not models.is_offline():
        with models.readable_hub_errors("model", repository, revisions[0]):
            refs = HfApi().list_repo_refs(repository)
        known = {ref.name: ref.target_commit for ref in (*refs.branches, *refs.tags)}
    else:
        cached = (
            Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model") / "refs"
        )
        known = {
            path.relative_to(cached).as_posix(): path.read_text().strip()
            for path in cached.rglob("*")
            if path.is_file()
        }
    known |= {name: name for name in revisions if re.fullmatch(r"[0-9a-f]{40}", name)}
    if missing := [name for name in revisions if name not in known]:
        where = "the cache (HF_HUB_OFFLINE is set)" if models.is_offline() else "the Hub"
        raise ValueError(
            f"revisions must be branches, tags or commits of {repository} that {where} has, and it lacks "
            f"{', '.join(missing)}; it has {', '.join(sorted(known)[:20]) or 'none'}{', ...' * (len(known) > 20)}"
        )
    return {name: known[name] for name in revisions}


def _adapter_config(repository: str, commit: str) -> dict[str, Any] | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return dict(json.loads(Path(hf_hub_download(repository, ADAPTER_FILE, revision=commit)).read_bytes()))
    except EntryNotFoundError:  # also where it is not in the cache of a machine without network
        return None


def model_of(source: CheckpointSource, seed: int) -> tuple[dict[str, Any], bool]:
    """The model that checkpoints are of, as an entry of params.yaml, and whether it is apart from them.

    That is the base of adapters; else it is the first checkpoint.
    """
    run = Run("", "", seed)
    entry: dict[str, Any]
    if isinstance(source, HubCheckpoints):
        repository, revision = _filled(source.id, run), next(iter(source.revision_of_step.values()))
        commit = resolve_commits(repository, [revision])[revision]
        with models.readable_hub_errors("model", repository, revision):
            adapter = _adapter_config(repository, commit)
        entry = {"source": "hub", "id": repository, "revision": revision}
    else:
        folder = next(iter(folders(source, run).values()))
        adapter = json.loads(config.read_bytes()) if (config := folder / ADAPTER_FILE).is_file() else None
        entry = {"source": "folder", "path": str(folder)}
    if adapter is None:
        return entry, False
    base = str(adapter.get("base_model_name_or_path"))
    if Path(base).is_dir():
        return {"source": "folder", "path": base}, True
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        raise ValueError(
            f"model must be given, the one that the adapters were trained on: their {ADAPTER_FILE} says {base!r}, "
            "which is neither a folder here nor a model of the Hub"
        )
    return {"source": "hub", "id": base, "revision": adapter.get("revision") or "main"}, True


# --- each recorded ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """The checkpoints of a run, as `list_checkpoints` wrote them down, and where they are found."""

    run: Run
    lines: Sequence[Mapping[str, Any]]
    source: CheckpointSource
    description: Mapping[str, Any]  # of the run's model
    model_source: ModelSource
    seed: int  # of the study

    def __post_init__(self) -> None:
        if not self.lines:
            raise ValueError(
                f"no checkpoints of model {self.run.model!r}, seed {self.run.seed} are written down; write them down "
                f"with: dvc repro --force --single-item prepare@{self.run.objective}"
            )
        for line in self.lines:
            for key in ("n_layers", "hidden_size"):
                if line[key] not in (None, self.description[key]):
                    raise ValueError(
                        f"checkpoints must be of the size of model {self.run.model!r} ({key} "
                        f"{self.description[key]}), got {line[key]} of {line['name']}"
                    )

    @property
    def trust(self) -> bool:
        return bool(getattr(self.model_source, "trust_remote_code", False))


def record(
    series: Series, callback: TopologyCallback, layers: int | Sequence[int], n_threads: int = 1
) -> None:
    """Record checkpoints one after another, one model in memory at a time.

    `callback` has a folder, and is asked for `layers`.

    The callback is told what a trainer would tell it that is at each step in turn. What its folder holds whole is
    not recorded again; only the last of it is opened, because the answers of the next are compared with its.

    Raises
    ------
    ValueError
        When a checkpoint is not the one that was written down, or does not fit the model or the prompts.
    """
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments

    torch.set_num_threads(n_threads)
    tokenizer = _tokenizer(series)
    tokens = tokenize_prompts(tokenizer, callback.prompts, callback.max_length)
    largest = max(map(max, tokens))
    arguments = TrainingArguments(f"{callback.folder}/trainer", report_to="none")
    recorded = itertools.takewhile(
        lambda line: _is_recorded(line["step"], series, callback, layers), series.lines
    )
    begun = max(len(list(recorded)) - 1, 0)
    for line, network in _models(series, series.lines[begun:]):
        if (size := network.get_input_embeddings().num_embeddings) <= largest:
            raise ValueError(
                f"{line['name']} must know every token of the prompts (up to number {largest}), and knows {size}; its "
                "tokenizer is another"
            )
        network.to(arguments.device)
        told = {"model": network, "processing_class": tokenizer}
        state = TrainerState(global_step=line["step"], max_steps=line["step"])
        if line is series.lines[begun]:
            callback.on_train_begin(arguments, state, TrainerControl(), **told)
        else:
            callback.on_step_end(arguments, state, TrainerControl(), **told)
        del network, told  # before the next one is opened


def _is_recorded(step: int, series: Series, callback: TopologyCallback, layers: int | Sequence[int]) -> bool:
    """Whether the callback's folder holds a checkpoint whole."""
    n_layers = series.description["n_layers"]
    chosen = evenly_spaced_layers(n_layers, layers) if isinstance(layers, int) else layers
    names = [f"{cell_name(step, layer)}.npy" for layer in chosen] + [
        behaviour_name(step)
    ] * callback.behaviour
    return all(Path(callback.folder or "", name).is_file() for name in names)


def training_log(series: Series) -> list[dict[str, float]]:
    """What the trainer logged up to the last checkpoint, as far as that holds it."""
    if not isinstance(series.source, CheckpointFolder):
        return []
    path = _fetch(series, series.lines[-1])[0] / "trainer_state.json"
    if not path.is_file():
        return []
    log = json.loads(path.read_bytes())["log_history"]
    return [{name: value for name, value in entry.items() if isinstance(value, int | float)} for entry in log]


def _models(series: Series, lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Each checkpoint and its model, in float32 and eval mode; adapters are put on the run's model and taken off."""
    base: Any = None
    for line in lines:
        if line["kind"] != _MODEL and base is None:
            base, _ = models.load(series.description, series.model_source, series.seed)
        if line["kind"] == _BASE:
            yield line, base
            continue
        folder, downloaded = _fetch(series, line)
        if line["sha256"] and (found := models.identity(folder)) != line["sha256"]:
            raise ValueError(
                f"{line['name']} must be the checkpoint that was written down (SHA-256 {line['sha256'][:12]}), and "
                f"the files there now are {found[:12]}; write it down anew with: "
                f"dvc repro --force --single-item prepare@{series.run.objective}"
            )
        if line["kind"] == ADAPTER:
            network = _put_on(base, folder, line["name"], series.run.model)
            yield line, network
            base = network.unload()
        else:
            base = None  # the run's own model is not needed a second time
            network = models.open_model(folder, series.trust)
            yield line, network
        del network
        gc.collect()
        if downloaded and getattr(series.source, "remove_downloads", False):
            _remove_from_cache(folder)


def _tokenizer(series: Series) -> Any:
    """The one tokenizer of all checkpoints: that of the first that brings one, else that of the run's model."""
    for line in series.lines:
        if line["tokenizer"]:
            return models.open_tokenizer(_fetch(series, line)[0], series.trust)
    folder = models.locate(series.description, series.model_source, series.seed)
    return models.open_tokenizer(folder, series.trust)


def _fetch(series: Series, line: Mapping[str, Any]) -> tuple[Path, bool]:
    """The folder of a checkpoint, and whether it has been downloaded just now."""
    source = series.source
    if isinstance(source, CheckpointFolder):
        return Path(_filled(source.path, series.run)) / line["name"], False
    repository, downloaded = _filled(source.id, series.run), False
    try:
        folder = models.download(repository, line["revision"], cached=True)
    except ValueError:
        downloaded = True
    if downloaded or not any(folder.glob("*.safetensors")):  # its config.json may have come alone
        folder, downloaded = models.download(repository, line["revision"]), True
    if not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"revision {line['name']} of {repository} must have weights as .safetensors, and has none; where you trust "
            "it, convert it: from_pretrained(ID, revision=...).save_pretrained('FOLDER/checkpoint-N')"
        )
    return folder, downloaded


def _put_on(base: Any, folder: Path, name: str, model: str) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(base, str(folder)).eval()
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"{name} must be an adapter of the model {model!r}, and does not fit it: {error}"
        ) from error


def _remove_from_cache(folder: Path) -> None:
    """Delete a snapshot from the Hub's cache, and the files that no other revision there shares."""
    from huggingface_hub import scan_cache_dir

    scan_cache_dir(folder.parents[2]).delete_revisions(folder.name).execute()
