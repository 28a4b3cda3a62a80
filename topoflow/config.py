"""params.yaml as frozen dataclasses, one a section: every choice of a study, checked when it is read.

Each class is a section, each field a key. A key that is not a field is an error that names the nearest
one, and so is a value of the wrong type; both before anything is computed.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import itertools
import math
import re
import shlex
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from topoflow.layout import Run
from topoflow.recording.schedule import Schedule
from topoflow.training.samples import SAMPLE_NAMES

PARAMS_FILE = Path("params.yaml")
# Names become folder names, stage names and metric names: no dots (DVC reads them as paths), no slashes.
NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Those of transformers' schedules that need no further settings and no evaluation during training. Spelled out,
# because importing transformers would slow every command.
LR_SCHEDULER_TYPES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)

T = TypeVar("T")


def _check_least(section: Any, least: float, *names: str) -> None:
    for name in names:
        if getattr(section, name) < least:
            raise ValueError(f"{name} must be at least {least}, got {getattr(section, name)}")


def _check_positive(section: Any, name: str) -> None:
    if not 0 < getattr(section, name) < math.inf:  # NaN as well
        raise ValueError(f"{name} must be a positive number, got {getattr(section, name)}")


# --- where a model comes from -------------------------------------------------------------------


@dataclass(frozen=True)
class EmbeddedModel:
    """A small Llama with a byte-level tokenizer, made from the seed and pretrained on the bundled text."""

    vocab_size: int = 1024  # of the tokenizer: 256 bytes, 3 special tokens, and merged pairs
    hidden_size: int = 128
    n_layers: int = 5
    n_heads: int = 4
    intermediate_size: int = 352
    pretrain_steps: int = 150
    pretrain_batch_size: int = 16
    pretrain_learning_rate: float = 5e-3

    def __post_init__(self) -> None:
        _check_least(
            self, 1, "hidden_size", "n_layers", "n_heads", "intermediate_size", "pretrain_batch_size"
        )
        _check_least(self, 0, "pretrain_steps")
        _check_least(self, 259, "vocab_size")
        _check_positive(self, "pretrain_learning_rate")
        if self.hidden_size % (2 * self.n_heads):  # rotary embeddings turn pairs of coordinates
            raise ValueError(f"hidden_size must be a multiple of 2 n_heads, got {self.hidden_size}")


@dataclass(frozen=True)
class PackageModel:
    """GGUF weights inside a wheel of the package index, pinned by the wheel's SHA-256."""

    requirement: str
    sha256: str
    file: str


@dataclass(frozen=True)
class HubModel:
    """A model of the Hugging Face Hub; `revision` is a branch, tag or commit."""

    id: str
    revision: str = "main"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class FolderModel:
    """A local folder as `save_pretrained` writes it."""

    path: str
    trust_remote_code: bool = False


ModelSource = EmbeddedModel | PackageModel | HubModel | FolderModel
MODEL_SOURCES: dict[str, type[Any]] = {
    "embedded": EmbeddedModel,
    "package": PackageModel,
    "hub": HubModel,
    "folder": FolderModel,
}


# --- where text comes from ----------------------------------------------------------------------


@dataclass(frozen=True)
class SampleText:
    """Text bundled with topoflow: `helpful`, `harmless` or `prompts` (these have no answers)."""

    name: str

    def __post_init__(self) -> None:
        _known(self.name, dict.fromkeys(SAMPLE_NAMES), "name")


@dataclass(frozen=True)
class FileText:
    """A local .jsonl or .jsonl.gz file, one dialogue a line (see `training.objectives`)."""

    path: str


@dataclass(frozen=True)
class HubText:
    """A dataset of the Hugging Face Hub, one dialogue a row."""

    id: str
    revision: str = "main"
    data_dir: str | None = None
    split: str = "train"


@dataclass(frozen=True)
class MixedText:
    """Shares of other objectives, such as `{helpful: 0.5, harmless: 0.5}`."""

    of: dict[str, float]

    def __post_init__(self) -> None:
        if not self.of or any(not 0 < share < math.inf for share in self.of.values()):
            raise ValueError(f"of must hold at least one objective with a positive share, got {self.of}")


PlainText = SampleText | FileText | HubText
TextSource = PlainText | MixedText
TEXT_SOURCES: dict[str, type[Any]] = {
    "samples": SampleText,
    "file": FileText,
    "hub": HubText,
    "mix": MixedText,
}


# --- where checkpoints come from that others have trained ---------------------------------------


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of a training that has been: the `checkpoint-N` folders of a Trainer, models or PEFT adapters.

    `{model}` and `{seed}` in `path` stand for those of the run. `steps` chooses some; without it, all are taken.
    The run's model is step 0, unless `model_is_step_0` is false or there is a checkpoint-0.
    """

    path: str
    steps: tuple[int, ...] = ()
    model_is_step_0: bool = True

    def __post_init__(self) -> None:
        if len(set(self.steps)) < len(self.steps) or min(self.steps, default=0) < 0:
            raise ValueError(f"steps must be different optimiser steps, 0 or later, got {list(self.steps)}")


@dataclass(frozen=True)
class HubCheckpoints:
    """Training checkpoints that were published as revisions (branches, tags, commits) of a Hub repository.

    `step512` says its step; of other names it is given, as in `{step0: null, a1b2c3: 512}`. `{model}` and `{seed}`
    in `id` stand for those of the run. `remove_downloads` deletes each from the Hub's cache once it is recorded, if it
    was not there before.
    """

    id: str
    revisions: tuple[str, ...] | dict[str, int | None]
    model_is_step_0: bool = False
    remove_downloads: bool = False

    def __post_init__(self) -> None:
        found = self.revision_of_step
        if self.model_is_step_0 and 0 in found:
            raise ValueError(f"model_is_step_0 must be false where a revision is, got step 0 of {found[0]!r}")

    @property
    def revision_of_step(self) -> dict[int, str]:
        """The revisions by their steps, increasing."""
        given = self.revisions if isinstance(self.revisions, dict) else dict.fromkeys(self.revisions)
        steps: dict[int, str] = {}
        for revision, step in given.items():
            number = _step_of(revision) if step is None else step
            if number < 0 or number in steps:
                raise ValueError(
                    f"revisions must be of different optimiser steps, 0 or later, got {number} of {revision!r}"
                    + (f" and of {steps[number]!r}" if number in steps else "")
                )
            steps[number] = revision
        if len(steps) < len(self.revisions) or not steps:
            raise ValueError(f"revisions must name at least one, each once, got {list(self.revisions)}")
        return dict(sorted(steps.items()))


def _step_of(revision: str) -> int:
    """The optimiser step in a name: the number after `step`, else the only number."""
    found = re.findall(r"step[-_]?(\d+)", revision, re.IGNORECASE) or re.findall(r"\d+", revision)
    if len(found) != 1:
        raise ValueError(
            f"revisions must say their steps, as step512 does, or be given them, got {revision!r}"
        )
    return int(found[0])


CheckpointSource = CheckpointFolder | HubCheckpoints
ObjectiveSource = TextSource | CheckpointSource
OBJECTIVE_SOURCES: dict[str, type[Any]] = {
    **TEXT_SOURCES,
    "checkpoints": CheckpointFolder,
    "revisions": HubCheckpoints,
}


# --- the stages ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompts:
    """The evaluation prompts: `n_prompts` drawn once, the same for every checkpoint and objective."""

    text: TextSource
    n_prompts: int = 750

    def __post_init__(self) -> None:
        _check_least(self, 2, "n_prompts")


@dataclass(frozen=True)
class Prepare:
    """The training rows of an objective; `n_rows` are drawn, none of a dialogue with an evaluation prompt in it."""

    n_rows: int = 600

    def __post_init__(self) -> None:
        _check_least(self, 1, "n_rows")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters; names as in `peft.LoraConfig`. Default target: every linear layer of the blocks."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        _check_least(self, 1, "r", "alpha")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1, got {self.dropout}")


# Arguments of trl.SFTConfig, and of TRL's command line beside it, that are not the user's to set, and why.
_FINETUNE_KEYS = (
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "max_length",
)
_SET_HERE = {
    **dict.fromkeys(("seed", "data_seed"), "it is the run's, of `seeds`"),
    **dict.fromkeys(("num_train_epochs", "warmup_ratio"), "training is counted in steps, finetune.max_steps"),
    **dict.fromkeys(
        ("output_dir", "overwrite_output_dir"), "the trainer's folder is deleted when the run is whole"
    ),
    **dict.fromkeys(
        ("save_strategy", "save_steps", "save_total_limit", "save_only_model", "resume_from_checkpoint"),
        "compute.save_steps says what is kept, and resuming is automatic",
    ),
    **dict.fromkeys(
        ("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter"),
        "loss.csv has every step",
    ),
    **dict.fromkeys(("report_to", "run_name"), "training logs to the run's MLflow run"),
    **dict.fromkeys(
        ("eval_strategy", "eval_steps", "do_eval", "load_best_model_at_end"),
        "there is no evaluation set; hidden states are recorded at recording.schedule",
    ),
    **dict.fromkeys(
        ("completion_only_loss", "assistant_only_loss", "dataset_text_field"),
        "only the answer of a row is trained on",
    ),
    **dict.fromkeys(("push_to_hub", "hub_model_id"), "the weights stay in tuned/"),
    **dict.fromkeys(
        ("model_name_or_path", "model_revision", "trust_remote_code", "dtype", "torch_dtype"),
        "say it of the model, under `model`",
    ),
    **dict.fromkeys(("dataset_name", "dataset_config", "datasets"), "say it of the text, under `objective`"),
    **dict.fromkeys(
        ("use_peft", "lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
        "say it under finetune.lora",
    ),
    "disable_tqdm": "bars are shown where there is a terminal",
}


@dataclass(frozen=True)
class Finetune:
    """TRL's SFT; names as in `trl.SFTConfig`. `lora: null` trains all weights.

    `n_threads` is a parameter because the order of summation, and so the bytes, depend on it. `sft_config` are further
    arguments of `trl.SFTConfig`, as a mapping or as the path of a YAML file with one; what topoflow sets is refused.
    """

    max_steps: int = 48
    per_device_train_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    lr_scheduler_type: str = "cosine"
    warmup_steps: int = 0
    max_length: int = 512
    n_threads: int = 1
    lora: Lora | None = field(default_factory=Lora)
    sft_config: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.sft_config, str):
            object.__setattr__(self, "sft_config", read_mapping(self.sft_config))
        for key in self.sft_config or ():
            if reason := _SET_HERE.get(key) or (key in _FINETUNE_KEYS and f"say finetune.{key}"):
                raise ValueError(f"sft_config must not hold {key!r}: {reason}")
        _check_least(self, 1, "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps")
        _check_least(self, 1, "max_length", "n_threads")
        _check_least(self, 0, "warmup_steps")
        _check_positive(self, "learning_rate")
        _known(self.lr_scheduler_type, dict.fromkeys(LR_SCHEDULER_TYPES), "lr_scheduler_type")


@dataclass(frozen=True)
class Recording:
    """What the hook records: `layers` is a number of evenly spaced layers or a list of them.

    Of a prompt longer than `max_length` tokens the end is kept, because its last token is the one recorded.
    """

    layers: int | tuple[int, ...] = 5
    schedule: Schedule = field(default_factory=lambda: Schedule(every=8, dense_until=8))
    batch_size: int = 64
    max_length: int = 512
    dtype: str = "float32"
    behaviour: bool = True  # next-token distributions too, compared between checkpoints

    def __post_init__(self) -> None:
        _check_least(self, 1, "batch_size", "max_length")
        if isinstance(self.layers, int):
            _check_least(self, 1, "layers")
        elif not self.layers or min(self.layers) < 0 or len(set(self.layers)) < len(self.layers):
            raise ValueError(
                "layers must be a number of layers, or a list that names at least one, each once, counted "
                f"from 0 (the embedding), got {list(self.layers)}"
            )
        if self.dtype not in ("float16", "float32", "float64"):
            raise ValueError(f"dtype must be float16, float32 or float64, got {self.dtype}")


@dataclass(frozen=True)
class Topology:
    """Vietoris-Rips persistence of `n_subsamples` overlapping subsamples of `subsample_size` points."""

    n_subsamples: int = 64
    subsample_size: int = 160
    maxdim: int = 1
    engine: str = "auto"

    def __post_init__(self) -> None:
        _check_least(self, 1, "n_subsamples")
        _check_least(self, 2, "subsample_size")
        from topoflow.topology.persistence import ENGINES  # not at import: NumPy would slow the command line

        _known(self.engine, dict.fromkeys(ENGINES), "engine")
        if self.maxdim != 1:
            raise ValueError(f"maxdim must be 1 (the protocol studies H0 and H1), got {self.maxdim}")


@dataclass(frozen=True)
class Trajectory:
    """Distances between diagrams: the `order` of the Wasserstein distance, Euclidean ground metric.

    Bands come from `n_replicates` half-samples of the prompts (0 for none); tests are made at `level`.
    """

    order: float = 2.0
    n_replicates: int = 20
    level: float = 0.05

    def __post_init__(self) -> None:
        if not 1 <= self.order < math.inf:  # NaN as well
            raise ValueError(f"order must be a finite number of at least 1, got {self.order}")
        if self.n_replicates < 0 or self.n_replicates == 1:
            raise ValueError(f"n_replicates must be 2 or more, or 0 for no bands, got {self.n_replicates}")
        if not 0 < self.level < 1:
            raise ValueError(f"level must be between 0 and 1, got {self.level}")


@dataclass(frozen=True)
class Track:
    """What goes to MLflow: `summaries` names those of the 41 numbers that become metrics (all are in the table)."""

    summaries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        from topoflow.topology.summaries import SUMMARY_NAMES

        for name in self.summaries:
            _known(name, dict.fromkeys(SUMMARY_NAMES), "summaries")


@dataclass(frozen=True)
class Compute:
    """Where results are computed, which never changes them: on CPUs of one kind the bytes are the same.

    `backend` is threads, processes, dask or ray; `n_jobs` the number of workers, -1 for one a core; `address`
    that of a running Dask scheduler or Ray cluster (without it, one is started on this machine).
    `save_steps` is how far apart, at least, the optimiser steps are at which a training keeps what it needs to go
    on after an interruption (recorded ones, of which the last is left on disk until the end); 0 for none.
    """

    backend: str = "threads"
    n_jobs: int = -1
    address: str | None = None
    save_steps: int = 8

    def __post_init__(self) -> None:
        _check_least(self, 0, "save_steps")
        _known(self.backend, dict.fromkeys(("threads", "processes", "dask", "ray")), "backend")
        if self.address is not None and self.backend not in ("dask", "ray"):
            raise ValueError(
                f"address must be left out unless the backend is dask or ray, got {self.address!r}"
            )
        if self.n_jobs == 0:
            raise ValueError("n_jobs must be a number of workers, or -1 for one a core, got 0")


@dataclass(frozen=True)
class Params:
    """All of params.yaml."""

    models: tuple[str, ...]
    objectives: tuple[str, ...]
    model: dict[str, ModelSource]
    objective: dict[str, ObjectiveSource]
    prompts: Prompts
    seed: int = 0
    seeds: tuple[int, ...] = (0,)
    prepare: Prepare = field(default_factory=Prepare)
    finetune: Finetune = field(default_factory=Finetune)
    recording: Recording = field(default_factory=Recording)
    topology: Topology = field(default_factory=Topology)
    trajectory: Trajectory = field(default_factory=Trajectory)
    track: Track = field(default_factory=Track)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:  # what NumPy's seed takes
            raise ValueError(f"seed must be 0 to {2**32 - 1}, got {self.seed}")
        if (
            not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or not all(0 <= s < 2**32 for s in self.seeds)
        ):
            raise ValueError(f"seeds must be different numbers, 0 to {2**32 - 1}, got {list(self.seeds)}")
        self._check_names()
        for name, text in self.objective.items():
            if text == SampleText("prompts"):
                raise ValueError(
                    f"objective.{name} must be text with answers to train on, and the samples 'prompts' have none"
                )
            for part in text.of if isinstance(text, MixedText) else ():
                if not isinstance(self.objective_source(part), PlainText):
                    kind = "checkpoints" if self.checkpoints(part) else "mix"
                    raise ValueError(f"a mix is made of plain objectives, got the {kind} {part!r}")
        if self.topology.subsample_size > self.prompts.n_prompts:
            raise ValueError(
                "topology.subsample_size must be at most prompts.n_prompts "
                f"({self.prompts.n_prompts}), got {self.topology.subsample_size}"
            )
        if max(self.recording.schedule.steps, default=0) > self.finetune.max_steps:
            raise ValueError(
                f"recording.schedule.steps must be at most finetune.max_steps ({self.finetune.max_steps}), "
                f"got {list(self.recording.schedule.steps)}"
            )
        self._check_layers()

    def _check_names(self) -> None:
        for kind, listed, known in (
            ("model", self.models, self.model),
            ("objective", self.objectives, self.objective),
        ):
            for name in known:
                if name == "prompts":
                    raise ValueError(f"{kind} names must not be 'prompts', which is a file of every study")
                if not NAME_PATTERN.fullmatch(name):
                    raise ValueError(f"{kind} names are letters, digits, _ and -, got {name!r}")
            for name in listed:
                _known(name, known, kind)
            if not listed or len(set(listed)) < len(listed):
                raise ValueError(f"{kind}s must name at least one {kind}, each once, got {list(listed)}")

    def _check_layers(self) -> None:
        """Of other models than embedded ones, the depth is known when they are opened."""
        layers = self.recording.layers
        for name in self.models:
            source = self.model[name]
            if isinstance(source, EmbeddedModel):
                deepest = layers if isinstance(layers, int) else max(layers)
                if deepest > source.n_layers:
                    raise ValueError(
                        f"recording.layers must be at most model.{name}.n_layers ({source.n_layers}), "
                        f"got {layers if isinstance(layers, int) else list(layers)}"
                    )

    def runs(self) -> list[Run]:
        """The runs of a bare `dvc repro`: every model with every objective and every seed."""
        return [Run(*key) for key in itertools.product(self.models, self.objectives, self.seeds)]

    def check_names(self, run: Run) -> None:
        """Refuse a run of a model or objective that there is not, before its name becomes a path."""
        _known(run.model, self.model, "model")
        _known(run.objective, self.objective, "objective")

    def model_source(self, name: str) -> ModelSource:
        """The source of the model called `name`; ValueError that lists the models where there is none."""
        return typing.cast(ModelSource, _known(name, self.model, "model"))

    def objective_source(self, name: str) -> ObjectiveSource:
        """What the objective called `name` is; ValueError that lists the objectives where there is none."""
        return typing.cast(ObjectiveSource, _known(name, self.objective, "objective"))

    def checkpoints(self, objective: str) -> CheckpointSource | None:
        """The checkpoints that are an objective, of a training that has been; None where it is to be trained."""
        source = self.objective_source(objective)
        return source if isinstance(source, CheckpointFolder | HubCheckpoints) else None

    def training(self, objective: str) -> dict[str, Any] | None:
        """How an objective is trained, as manifests say it; None where that has been before."""
        if self.checkpoints(objective):
            return None
        chosen = dataclasses.asdict(self.finetune)
        if not chosen[
            "sft_config"
        ]:  # manifests from before there was such a key are still those of these parameters
            del chosen["sft_config"]
        return chosen

    def sources(self, model: str, objective: str) -> dict[str, Any]:
        """What a run's model and text are made from, as written here; of a local path its last name alone.

        The rest of a path is the machine's; what stands there is vouched for by SHA-256s.
        """
        text = self.objective_source(objective)
        names = list(text.of) if isinstance(text, MixedText) else []
        sources = {
            "model": dataclasses.asdict(self.model_source(model)),
            "text": {name: dataclasses.asdict(self.objective[name]) for name in [objective, *names]},
            "prompts": dataclasses.asdict(self.prompts),
            "prepare": dataclasses.asdict(self.prepare),
        }
        for source in (sources["model"], sources["prompts"]["text"], *sources["text"].values()):
            if "path" in source:
                source["path"] = Path(source["path"]).name
            source.pop("remove_downloads", None)  # changes no result
        return sources


def flat(prefix: str, value: Any) -> dict[str, Any]:
    """A nested mapping as `prefix.key` -> value.

    >>> flat("lora", {"r": 2, "of": {"a": 1}})
    {'lora.r': 2, 'lora.of.a': 1}
    """
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: inner for name in value for key, inner in flat(f"{prefix}.{name}", value[name]).items()}


# --- reading ------------------------------------------------------------------------------------


def load_params(path: str | Path = PARAMS_FILE, overrides: Sequence[str] = ()) -> Params:
    """Read and check a params.yaml.

    Parameters
    ----------
    path : path
        The file.
    overrides : sequence of str
        Assignments such as `finetune.max_steps=40`, applied to what was read.

    Raises
    ------
    ValueError
        When the file is missing or malformed, or when a key or value is not what its section expects.
    """
    return parse_params(apply_overrides(read_mapping(path), overrides))


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The YAML mapping in a file, unchecked."""
    try:
        mapping = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} must exist in the folder of the study, and it does not") from None
    except OSError as error:  # a folder, or a name that is none: params.yaml may name the file
        raise ValueError(f"{str(path)[:200]} must be a file that can be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} must be YAML: {error}") from None
    if not isinstance(mapping, dict):
        raise ValueError(f"{path} must hold a mapping, got {type(mapping).__name__}")
    _check_size(mapping, path)
    return mapping


def _check_size(mapping: Any, path: str | Path) -> None:
    """Refuse what is small in a file and boundless in memory: aliases of aliases, or one inside itself."""
    count, left = 0, [mapping]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple | set):
            left += value
        if (count := count + 1) > 100_000:
            raise ValueError(f"{path} must hold at most 100000 values, aliases counted each time")


def apply_overrides(mapping: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of `mapping` with each `section.key=value` applied; values are read as YAML.

    >>> apply_overrides({"finetune": {"max_steps": 48}}, ["finetune.max_steps=40", "seed=1"])
    {'finetune': {'max_steps': 40}, 'seed': 1}
    """
    changed = copy.deepcopy(dict(mapping))
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ValueError(f"set must be like finetune.max_steps=40, got {override!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ValueError(f"set: the value of {path} must be YAML, got {text!r}") from None
        section = changed
        for key in keys[:-1]:
            if not isinstance(section.get(key), dict):
                section[key] = {}
            section = section[key]
        section[keys[-1]] = value
    return changed


def split_overrides(texts: Iterable[str]) -> list[str]:
    """The overrides in texts that may hold several: split at spaces, but neither in quotes nor in brackets.

    >>> split_overrides(["finetune.max_steps=40 recording.layers=[1, 3]", "seed=1"])
    ['finetune.max_steps=40', 'recording.layers=[1, 3]', 'seed=1']
    """
    assignments: list[str] = []
    for text in texts:
        try:
            words = shlex.split(text)
        except ValueError:
            raise ValueError(f"set must have each quote closed, got {text!r}") from None
        begun = len(assignments)
        for word in words:
            last = assignments[-1] if len(assignments) > begun else ""
            if sum(map(last.count, "[{")) > sum(map(last.count, "]}")):
                assignments[-1] += f" {word}"
            else:
                assignments.append(word)
    return assignments


def parse_params(mapping: Mapping[str, Any]) -> Params:
    """Check a mapping as read from params.yaml and make it a `Params`."""
    return _read(Params, mapping, "")


def _read(section: type[T], mapping: Any, where: str) -> T:
    """An instance of the dataclass `section` from a mapping; `where` is its key path, for errors."""
    label = where or "params.yaml"
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{label} must be a mapping, got {mapping!r}")
    hints = typing.get_type_hints(section)
    # A text source is written in line: `prompts: {source: samples, name: prompts, n_prompts: 750}`.
    # A misspelt n_prompts is no key of the source, so that its error can name the nearest one.
    if section is Prompts:
        own = {key: mapping[key] for key in mapping if difflib.get_close_matches(str(key), ["n_prompts"])}
        mapping = {"text": {key: mapping[key] for key in mapping if key not in own}, **own}
    values = {}
    for key, value in mapping.items():
        if key not in hints:
            raise ValueError(f"{label} has no key {key!r}{_nearest(str(key), hints)}")
        inner = where if key == "text" else f"{where}.{key}".lstrip(".")
        values[key] = _convert(hints[key], value, inner)
    fields = dataclasses.fields(section)  # type: ignore[arg-type]
    required = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    if missing := sorted(required - values.keys()):
        raise ValueError(f"{label} must have the key {missing[0]!r}, and it has {sorted(map(str, mapping))}")
    try:
        return section(**values)
    except ValueError as error:
        raise ValueError(f"{where}.{error}" if where else str(error)) from None


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as an instance of the annotation `kind`."""
    if kind is Any:
        return value
    if kind in _SOURCES:
        return _read_source(_SOURCES[kind], value, where)
    if dataclasses.is_dataclass(kind):
        return _read(typing.cast(type[Any], kind), value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _convert(_option(arguments, value), value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, got {value!r}")
        return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be a mapping, got {value!r}")
        return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is types.NoneType:
        if value is not None:
            raise ValueError(f"{where} must be null, got {value!r}")
        return None
    return _convert_scalar(kind, value, where)


def _option(options: Sequence[Any], value: Any) -> Any:
    """The one of a union's `options` that `value` looks like, so that its error is the one to read."""

    def fits(option: Any) -> bool:
        if isinstance(value, list | tuple):
            return typing.get_origin(option) is tuple
        if isinstance(value, Mapping):
            return dataclasses.is_dataclass(option) or typing.get_origin(option) is dict
        return isinstance(option, type) and isinstance(value, option)

    return next(filter(fits, options), options[0])


def _convert_scalar(kind: type[Any], value: Any, where: str) -> Any:
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as text
        except (TypeError, ValueError, OverflowError):
            pass
    elif isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{where} must be {_KIND_NAMES[kind]}, got {value!r}")


_SOURCES: dict[Any, dict[str, type[Any]]] = {
    ModelSource: MODEL_SOURCES,
    TextSource: TEXT_SOURCES,
    ObjectiveSource: OBJECTIVE_SOURCES,
}
_KIND_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _read_source(sources: Mapping[str, type[Any]], value: Any, where: str) -> Any:
    if not isinstance(value, Mapping) or "source" not in value:
        raise ValueError(f"{where} must be a mapping with a key 'source', got {value!r}")
    section = _known(value["source"], sources, f"{where}.source")
    return _read(section, {key: value[key] for key in value if key != "source"}, where)


def _known(name: Any, known: Mapping[str, Any], kind: str) -> Any:
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"{kind} must be one of {', '.join(sorted(known))}, got {name!r}")
    return known[name]


def _nearest(key: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(sorted(known))}"
