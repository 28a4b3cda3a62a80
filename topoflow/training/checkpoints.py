"""The checkpoints of a finished training, in order: which they are, and each opened as a model.

They are the `checkpoint-N` folders that a Trainer leaves, whole models or PEFT adapters, or revisions of a
repository of the Hugging Face Hub. `list_checkpoints` writes down what they are and refuses what does not belong
together, before anything is computed; `record` opens what was written down, one model at a time.
"""

from __future__ import annotations

import gc
import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from topoflow.config import CheckpointFolder, CheckpointSource, HubCheckpoints, ModelSource
from topoflow.errors import InvalidArgument, InvalidFile, Words, quoted, said
from topoflow.processes import in_background
from topoflow.recording.callback import TopologyCallback, tokenize_prompts
from topoflow.recording.hidden_states import evenly_spaced_layers
from topoflow.storage import layout, recorded_names
from topoflow.storage.files import read_text
from topoflow.storage.layout import Run
from topoflow.training import models

logger = logging.getLogger(__name__)

ADAPTER_FILE = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
# Ways to begin an adapter after which the same files give the same model each time they are opened. Others draw random
# numbers into the base's weights (pissa_niter_N), or need data that the files do not hold.
_REPEATABLE = ("gaussian", "pissa", "olora", "eva", "orthogonal")
_NAME = re.compile(r"checkpoint-(\d+)")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
# PEFT's kinds that add vectors to the prompt or to its attention
_PROMPT_LEARNING = (
    "PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "CPT",
    "CARTRIDGE",
    "ADAPTION_PROMPT",
)
_MODEL = "model"  # the kinds of a checkpoint: a whole model, an adapter of the run's, or that model itself
ADAPTER = "adapter"
_BASE = "base"


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
    InvalidArgument, InvalidFile
        When there are none, one that was asked for is missing, one is damaged, or they differ in kind, size or
        tensors.
    """
    if isinstance(source, CheckpointFolder):
        there = folders(source, run)
        found = [_describe_folder(folder, step, trust_remote_code) for step, folder in there.items()]
    else:
        found = _describe_revisions(source, run, trust_remote_code)
    for key in ("kind", "n_layers", "hidden_size"):
        first = found[0]
        for other in found:
            if other[key] != first[key]:
                got = Words(f"{key} {first[key]} of {first['name']} and {other[key]} of {other['name']}")
                raise InvalidArgument("checkpoints", "all of one kind and size", got)
    if isinstance(source, CheckpointFolder):
        _check_alike(list(there.values()))
    if source.model_is_step_0 and found[0]["step"] > 0:
        found.insert(0, _line(0, run.model, _BASE))
    if len(found) < 2:
        names = [line["name"] for line in found]
        raise InvalidArgument("checkpoints", "at least 2, with the model as step 0", names)
    return [{"model": run.model, "seed": run.seed, **line} for line in found]


def steps_of(source: CheckpointSource, run: Run) -> list[int]:
    """The steps of a run's checkpoints, increasing, which are not looked into."""
    found = list(folders(source, run) if isinstance(source, CheckpointFolder) else source.revision_of_step)
    return [0, *found] if source.model_is_step_0 and found[0] > 0 else found


def _line(step: int, name: str, kind: str, **known: Any) -> dict[str, Any]:
    unknown = dict.fromkeys(("revision", "sha256", "n_layers", "hidden_size"))
    return {"step": step, "name": name, "kind": kind, "tokenizer": False, **unknown, **known}


def _filled(text: str, run: Run) -> str:
    return text.replace("{model}", run.model).replace("{seed}", str(run.seed))


def folders(source: CheckpointFolder, run: Run) -> dict[int, Path]:
    """The checkpoint folders by their steps, increasing; refused where there are none, or too few."""
    home = Path(_filled(source.path, run))
    if not home.is_dir():
        raise InvalidFile(home, "must be a folder with checkpoint-N folders in it, and it is none")
    there = {int(found[1]): path for path in home.iterdir() if (found := _NAME.fullmatch(path.name))}
    if not there:
        raise InvalidFile(home, "must be a folder with checkpoint-N folders in it, and it has none")
    if missing := sorted(set(source.steps) - set(there)):
        raise InvalidArgument("steps", f"checkpoints that {home} has {tuple(sorted(there))}", missing)
    return {step: there[step] for step in sorted(source.steps or there)}


def _describe_folder(folder: Path, step: int, trust: bool) -> dict[str, Any]:
    kind = ADAPTER if (folder / ADAPTER_FILE).is_file() else _MODEL
    if kind == _MODEL and not (folder / "config.json").is_file():
        raise InvalidFile(
            folder, f"must hold a model or an adapter, and has no config.json and no {ADAPTER_FILE}"
        )
    models.tensors_of(folder)
    size = {}
    if kind == ADAPTER:
        _check_adapter(folder, models.read_foreign_json(folder / ADAPTER_FILE))
    else:
        size = _size(models.open_config(folder, trust))
    tokenizer = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    return _line(step, folder.name, kind, sha256=models.identity(folder), tokenizer=tokenizer, **size)


def _check_alike(places: Sequence[Path]) -> None:
    """Refuse a checkpoint whose tensors are not those of the first: what one lacks would be random numbers."""
    first = models.tensors_of(places[0])
    for folder in places[1:]:
        here = models.tensors_of(folder)
        differing = sorted(name for name in first.keys() | here.keys() if first.get(name) != here.get(name))
        if differing:
            name = differing[0]
            raise InvalidFile(
                folder,
                f"must have the tensors of {places[0].name}, and {name} has the shape {here.get(name, 'of nothing')} "
                f"here and {first.get(name, 'of nothing')} there ({len(differing)} differ)",
                "choose the checkpoints that belong together with `steps`",
            )


def _check_adapter(place: Path | str, config: Mapping[str, Any]) -> None:
    """Refuse an adapter whose states would not be those of the model that was trained."""
    kind = str(config.get("peft_type"))
    if kind in _PROMPT_LEARNING:
        raise InvalidFile(
            place,
            f"is a PEFT adapter of the kind {said(kind)}, which adds trained vectors to the prompt instead of "
            "changing the model, and cannot be recorded from its files",
            "record it while it trains, with TopologyCallback",
        )
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _REPEATABLE:
        raise InvalidFile(
            place,
            f"is an adapter that began with init_lora_weights={start!r}, which changes the base in a way "
            "that its files do not hold, so that it is another model each time it is opened",
            "save each checkpoint as a plain LoRA, with PEFT's save_pretrained(OUT, "
            "path_initial_model_for_weight_conversion=START), START being the adapter as it was before training",
        )
    if isinstance(place, Path) and not (place / _ADAPTER_WEIGHTS).is_file():
        raise InvalidFile(
            place, f"must hold the adapter's weights, and has no {_ADAPTER_WEIGHTS}", "copy it again"
        )


def _describe_revisions(source: HubCheckpoints, run: Run, trust: bool) -> list[dict[str, Any]]:
    repository = _filled(source.id, run)
    revisions = source.revision_of_step
    commits = resolve_commits(repository, list(revisions.values()))
    described = []
    for step, revision in revisions.items():
        commit = commits[revision]
        size = {}
        with models.readable_hub_errors("model", repository, revision):
            adapter = _adapter_config(repository, commit)
            if adapter is None:
                size = _size_on_hub(repository, commit, trust)
        if adapter is not None:
            _check_adapter(f"{repository} at {revision}", adapter)
        kind = _MODEL if adapter is None else ADAPTER
        described.append(_line(step, revision, kind, revision=commit, **size))
    return described


def _size_on_hub(repository: str, commit: str, trust: bool) -> dict[str, int]:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(repository, revision=commit, trust_remote_code=trust)
    return _size(config.get_text_config())


def _size(config: Any) -> dict[str, int]:
    return {"n_layers": config.num_hidden_layers, "hidden_size": config.hidden_size}


def resolve_commits(repository: str, revisions: Sequence[str]) -> dict[str, str]:
    """The commit of each revision of a Hub repository, in one question; from the cache where the Hub may not be asked.

    Raises
    ------
    InvalidArgument
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
            path.relative_to(cached).as_posix(): read_text(path).strip()
            for path in cached.rglob("*")
            if path.is_file()
        }
    known |= {name: name for name in revisions if re.fullmatch(r"[0-9a-f]{40}", name)}
    if missing := [name for name in revisions if name not in known]:
        where = "the cache (HF_HUB_OFFLINE is set)" if models.is_offline() else "the Hub"
        has = f"it has {', '.join(sorted(known)[:20]) or 'none'}{', ...' * (len(known) > 20)}"
        expected = f"branches, tags or commits of {repository} that {where} has"
        raise InvalidArgument("revisions", expected, missing, has)
    return {name: known[name] for name in revisions}


def _adapter_config(repository: str, commit: str) -> dict[str, Any] | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = Path(hf_hub_download(repository, ADAPTER_FILE, revision=commit))
    except EntryNotFoundError:  # also where it is not in the cache of a machine without network
        return None
    return models.read_foreign_json(path)


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
        path = folder / ADAPTER_FILE
        adapter = models.read_foreign_json(path) if path.is_file() else None
        entry = {"source": "folder", "path": str(folder)}
    if adapter is None:
        return entry, False
    base = str(adapter.get("base_model_name_or_path"))
    if Path(base).is_dir():
        return {"source": "folder", "path": base}, True
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base):
        remedy = (
            f"their {ADAPTER_FILE} says {quoted(base)}, which is neither a folder here nor a model of the Hub"
        )
        raise InvalidArgument("model", "given, the one that the adapters were trained on", None, remedy)
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

    def __post_init__(self) -> None:
        if not self.lines:
            path = layout.rows_file(self.run.objective)
            problem = f"has no checkpoints of model {self.run.model!r}, seed {self.run.seed}"
            remedy = f"write them down with: dvc repro --force --single-item prepare@{self.run.objective}"
            raise InvalidFile(path, problem, remedy)
        for line in self.lines:
            for key in ("n_layers", "hidden_size"):
                if line[key] not in (None, self.description[key]):
                    size = f"of the size of model {self.run.model!r} ({key} {self.description[key]})"
                    raise InvalidArgument("checkpoints", size, Words(f"{line[key]} of {line['name']}"))

    @property
    def trust(self) -> bool:
        return bool(getattr(self.model_source, "trust_remote_code", False))

    @property
    def frozen(self) -> bool:
        return is_one_base(self.lines)


def is_one_base(lines: Sequence[Mapping[str, Any]]) -> bool:
    """Whether checkpoints are one base and adapters on it; a whole model has updates that bfloat16 would lose."""
    return all(line["kind"] != _MODEL for line in lines)


def record(
    series: Series, callback: TopologyCallback, layers: int | Sequence[int], n_threads: int = 1
) -> None:
    """Record checkpoints one after another, one model in memory at a time; the next one's files are read meanwhile.

    `callback` has a folder, and is asked for `layers`.

    The callback sees what it would see in a training: one step after another. A checkpoint that its folder holds whole
    is not recorded again. The last of these is opened all the same, because the answers of the next one are compared
    with its answers.

    Raises
    ------
    InvalidArgument, InvalidFile
        When a checkpoint is not the one that was written down, or does not fit the model or the prompts.
    """
    import torch
    from transformers import TrainerControl, TrainerState, TrainingArguments

    torch.set_num_threads(n_threads)
    tokenizer = _tokenizer(series)
    tokens = tokenize_prompts(tokenizer, callback.prompts, callback.max_length, callback.template)
    largest = max(map(max, tokens))
    arguments = TrainingArguments(
        f"{callback.folder}/trainer", report_to="none", use_cpu=series.model_source.device == "cpu"
    )
    recorded = itertools.takewhile(
        lambda line: _is_recorded(line["step"], series, callback, layers), series.lines
    )
    begun = max(len(list(recorded)) - 1, 0)
    for line, network in _models(series, series.lines[begun:]):
        # the weight, since an adapter may stand in the embedding's place
        if (size := len(network.get_input_embeddings().weight)) <= largest:
            raise InvalidArgument(
                f"{line['name']}",
                f"a model that knows every token of the prompts (up to number {largest})",
                f"one that knows {size}",
                "take the tokenizer that it was trained with; if that has tokens of its own, resize the base to the "
                "checkpoint's tokenizer",
            )
        if not (
            series.model_source.device_map or series.model_source.quantization
        ):  # which place it themselves
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
    names = recorded_names(step, chosen, callback.behaviour, bool(callback.quantities))
    return all(Path(callback.folder or "", name).is_file() for name in names)


def training_log(series: Series) -> list[dict[str, float]]:
    """What the trainer logged up to the last checkpoint, as far as that holds it."""
    if not isinstance(series.source, CheckpointFolder):
        return []
    path = _fetch(series, series.lines[-1])[0] / "trainer_state.json"
    if not path.is_file():
        return []
    try:
        log = models.read_foreign_json(path).get("log_history")
        if not isinstance(log, list) or not all(isinstance(entry, dict) for entry in log):
            raise InvalidFile(path, "must have a list of mappings called log_history")
    except InvalidFile as error:  # the states are all there, and only the loss beside them is not
        logger.warning("The loss of this training is missing: %s", error)
        return []
    numbers = [{name: value for name, value in entry.items() if type(value) in (int, float)} for entry in log]
    return [entry for entry in numbers if "step" in entry]


def _models(series: Series, lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Each checkpoint and its model, opened as the model's entry says, in eval mode.

    While one is used, the files of the next are fetched and checked, which also brings them into the system's memory:
    opening it then takes a fraction of a second. Two models are never open at once. Every adapter is put on a base of
    its own, opened anew: PEFT changes the weights of the base for some adapters (PiSSA, OLoRA) and does not give them
    back when the adapter is taken off.
    """
    home = None
    if any(line["kind"] != _MODEL for line in lines):
        home = models.locate(series.description, series.model_source)
    coming = in_background(_checked, series, lines[0], home)
    for line, following in zip(lines, [*lines[1:], None], strict=True):
        folder, downloaded = coming.result()
        network = _opened(series, line, folder, home)
        if following is not None:
            coming = in_background(_checked, series, following, home)
        yield line, network
        del network
        gc.collect()
        if downloaded and getattr(series.source, "remove_downloads", False):
            wait([coming])  # what is fetched may share files with this one
            _remove_from_cache(folder)


def _checked(series: Series, line: Mapping[str, Any], home: Path | None) -> tuple[Path, bool]:
    """The folder of a checkpoint, which holds what was written down, and whether it has been downloaded just now."""
    if line["kind"] == _BASE:
        assert home is not None
        return home, False
    folder, downloaded = _fetch(series, line)
    if line["sha256"] and (found := models.identity(folder)) != line["sha256"]:
        raise InvalidFile(
            folder,
            f"must be the checkpoint that was written down (SHA-256 {line['sha256'][:12]}), and there are now the "
            f"files {found[:12]}",
            f"write it down again with: dvc repro --force --single-item prepare@{series.run.objective}",
        )
    return folder, downloaded


def _opened(series: Series, line: Mapping[str, Any], folder: Path, home: Path | None) -> Any:
    if line["kind"] != ADAPTER:
        return models.open_model(folder, series.trust, series.model_source, series.frozen)
    assert home is not None
    base = models.open_model(home, series.trust, series.model_source, series.frozen)
    return _with_adapter(base, folder, line["name"], series.run.model)


def _tokenizer(series: Series) -> Any:
    """The one tokenizer of all checkpoints: that of the first that brings one, else that of the run's model."""
    for line in series.lines:
        if line["tokenizer"]:
            return models.open_tokenizer(_fetch(series, line)[0], series.trust)
    folder = models.locate(series.description, series.model_source)
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
        raise InvalidFile(
            f"revision {line['name']} of {repository}",
            "must have weights as .safetensors, and has none",
            "where you trust it, convert it: "
            "from_pretrained(ID, revision=...).save_pretrained('FOLDER/checkpoint-N')",
        )
    return folder, downloaded


def _with_adapter(base: Any, folder: Path, name: str, model: str) -> Any:
    from peft import PeftModel

    try:
        return PeftModel.from_pretrained(base, str(folder)).eval()
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
            raise  # memory that ran out says nothing about the adapter
        raise InvalidFile(
            folder,
            f"must be an adapter of the model {model!r}, and {name} does not fit it: {said(error)}",
            "name the model that it was trained on with --model; if it brings new tokens, resize the base "
            "to the checkpoint's tokenizer",
        ) from error


def _remove_from_cache(folder: Path) -> None:
    """Delete a snapshot from the Hub's cache, and the files that no other revision there shares."""
    from huggingface_hub import scan_cache_dir

    scan_cache_dir(folder.parents[2]).delete_revisions(folder.name).execute()
