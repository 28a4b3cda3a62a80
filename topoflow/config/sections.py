"""The sections of params.yaml as frozen dataclasses, and `Params`, all of it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topoflow.config.checks import LARGEST_MACHINE, check_least, look_up
from topoflow.config.mappings import read_mapping
from topoflow.config.schedule import Schedule
from topoflow.config.sft_fields import REFUSED
from topoflow.config.sources import (
    CheckpointFolder,
    CheckpointSource,
    EmbeddedModel,
    HubCheckpoints,
    MixedText,
    ModelSource,
    ObjectiveSource,
    PlainText,
    SampleText,
    ShuffledText,
    TextSource,
    Variant,
)
from topoflow.dynamics.claims.margins import Claims
from topoflow.errors import InvalidArgument
from topoflow.layout import Run

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


@dataclass(frozen=True)
class Prompts:
    """The evaluation prompts: `n_prompts` drawn once, the same for every checkpoint and objective."""

    text: TextSource
    n_prompts: int = 750

    def __post_init__(self) -> None:
        check_least(self, 2, "n_prompts")


@dataclass(frozen=True)
class Prepare:
    """The training rows of an objective; `n_rows` are drawn, none of a dialogue with an evaluation prompt in it."""

    n_rows: int = 600

    def __post_init__(self) -> None:
        check_least(self, 1, "n_rows")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters; names as in `peft.LoraConfig`. Default target: every linear layer of the blocks."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        check_least(self, 1, "r", "alpha")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be at least 0 and less than 1, got {self.dropout}")


@dataclass(frozen=True)
class Finetune:
    """TRL's SFT; names as in `trl.SFTConfig`. `lora: null` trains all weights.

    `n_threads` is a parameter because the order of summation, and so the bytes, depend on it. `sft_config` are further
    arguments of `trl.SFTConfig`, as a mapping or as the path of a YAML file with one; what topoflow sets is refused.
    A `learning_rate` of 0 is a negative control: every step is made, and none changes a weight.
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
            if reason := REFUSED.get(key):
                raise ValueError(f"sft_config must not hold {key!r}: {reason}")
        self._check_checkpointing()
        check_least(self, 1, "max_steps", most=10**7)
        check_least(self, 1, "per_device_train_batch_size", "gradient_accumulation_steps")
        check_least(self, 1, "max_length")
        check_least(self, 1, "n_threads", most=LARGEST_MACHINE)
        check_least(self, 0, "warmup_steps")
        if not 0 <= self.learning_rate < math.inf:  # NaN as well
            raise InvalidArgument("learning_rate", "a finite number of at least 0", self.learning_rate)
        look_up(self.lr_scheduler_type, dict.fromkeys(LR_SCHEDULER_TYPES), "lr_scheduler_type")

    def _check_checkpointing(self) -> None:
        """Refuse an old name that says another thing than the new one: TRL would silently take the new."""
        given = self.arguments
        for end in ("", "_kwargs"):
            old, new = f"gradient_checkpointing{end}", f"activation_checkpointing{end}"
            if old in given and new in given and given[old] != given[new]:
                raise InvalidArgument(f"sft_config.{old}", f"what {new} says, or left out", given[old])

    @property
    def arguments(self) -> dict[str, Any]:
        """`sft_config` as a mapping."""
        return dict(self.sft_config) if isinstance(self.sft_config, dict) else {}

    @property
    def checkpoints_activations(self) -> bool:
        """Whether training keeps only what a block is given, under either of the option's names."""
        given = self.arguments
        return bool(given.get("activation_checkpointing", given.get("gradient_checkpointing")))


@dataclass(frozen=True)
class Recording:
    """What the hook records: `layers` is a number of evenly spaced layers or a list of them.

    Of a prompt longer than `max_length` tokens the end is kept, because its last token is the one recorded.
    """

    layers: int | tuple[int, ...] = 5
    schedule: Schedule = field(default_factory=lambda: Schedule(twins=13))
    batch_size: int = 64
    max_length: int = 512
    dtype: str = "float32"
    behaviour: bool = True  # next-token distributions too, compared between checkpoints

    def __post_init__(self) -> None:
        check_least(self, 1, "batch_size", "max_length")
        if isinstance(self.layers, int):
            check_least(self, 1, "layers")
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
        # not at import: NumPy would slow the command line
        from topoflow.topology.persistence import ENGINES
        from topoflow.topology.point_clouds import LARGEST_PLAN

        check_least(self, 1, "n_subsamples", most=LARGEST_PLAN)
        check_least(self, 2, "subsample_size")
        look_up(self.engine, dict.fromkeys(ENGINES), "engine")
        if self.maxdim != 1:
            raise ValueError(f"maxdim must be 1 (the protocol studies H0 and H1), got {self.maxdim}")


@dataclass(frozen=True)
class Trajectory:
    """Distances between diagrams: the `order` of the Wasserstein distance, Euclidean ground metric.

    Bands come from `n_replicates` half-samples of the prompts (0 for none).
    """

    order: float = 2.0
    n_replicates: int = 20

    def __post_init__(self) -> None:
        if not 1 <= self.order < math.inf:  # NaN as well
            raise ValueError(f"order must be a finite number of at least 1, got {self.order}")
        from topoflow.topology.point_clouds import LARGEST_PLAN

        check_least(self, 0, "n_replicates", most=LARGEST_PLAN)
        if self.n_replicates == 1:
            raise ValueError(f"n_replicates must be 2 or more, or 0 for no bands, got {self.n_replicates}")


@dataclass(frozen=True)
class Track:
    """What goes to MLflow: `summaries` names those of the 41 numbers that become metrics (all are in the table)."""

    summaries: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        from topoflow.topology.summaries import SUMMARY_NAMES

        for name in self.summaries:
            look_up(name, dict.fromkeys(SUMMARY_NAMES), "summaries")


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
        check_least(self, 0, "save_steps")
        look_up(self.backend, dict.fromkeys(("threads", "processes", "dask", "ray")), "backend")
        if self.address is not None and self.backend not in ("dask", "ray"):
            raise ValueError(
                f"address must be left out unless the backend is dask or ray, got {self.address!r}"
            )
        check_least(self, -LARGEST_MACHINE, "n_jobs", most=LARGEST_MACHINE)
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
    claims: Claims = field(default_factory=Claims)
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
            self._check_parts(name)
        if self.topology.subsample_size > self.prompts.n_prompts:
            raise ValueError(
                "topology.subsample_size must be at most prompts.n_prompts "
                f"({self.prompts.n_prompts}), got {self.topology.subsample_size}"
            )
        for name in self.objectives:
            self._check_schedule(name)
        self._check_layers()

    def _check_schedule(self, objective: str) -> None:
        schedule, most = self.recording.schedule, self.finetune_of(objective).max_steps
        key = f"objective.{objective}.finetune" if self._variant(objective) else "finetune"
        if max(schedule.steps, default=0) > most:
            raise InvalidArgument(
                "recording.schedule.steps", f"at most {key}.max_steps ({most})", list(schedule.steps)
            )
        if schedule.twins and not schedule.anchors(most):
            expected = f"false where {key}.max_steps is {most}, too few for one"
            raise InvalidArgument("recording.schedule.triplets", expected, True)

    def _check_parts(self, name: str) -> None:
        """Refuse an objective made of others that it cannot be made of."""
        match self.objective[name]:
            case MixedText(of=shares):
                parts, kinds, expected = list(shares), PlainText, "objectives with text of their own"
            case ShuffledText(of=part):
                parts, kinds, expected = [part], TextSource, "an objective with text of its own, or a mix"
            case Variant(of=part):
                parts, kinds = [part], TextSource | ShuffledText
                expected = "an objective with text of its own, a mix or a shuffled one"
            case _:
                return
        for part in parts:
            look_up(part, self.objective, f"objective.{name}.of")
            if not isinstance(self.objective[part], kinds):
                raise InvalidArgument(f"objective.{name}.of", expected, part)
        if self._variant(name):
            self.finetune_of(name)  # refused here

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
                look_up(name, known, kind)
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
        look_up(run.model, self.model, "model")
        look_up(run.objective, self.objective, "objective")

    def model_source(self, name: str) -> ModelSource:
        """The source of the model called `name`; ValueError that lists the models where there is none."""
        return typing.cast(ModelSource, look_up(name, self.model, "model"))

    def objective_source(self, name: str) -> ObjectiveSource:
        """What the objective called `name` is; ValueError that lists the objectives where there is none."""
        return typing.cast(ObjectiveSource, look_up(name, self.objective, "objective"))

    def checkpoints(self, objective: str) -> CheckpointSource | None:
        """The checkpoints that are an objective, of a training that has been; None where it is to be trained."""
        source = self.objective_source(objective)
        return source if isinstance(source, CheckpointFolder | HubCheckpoints) else None

    def _variant(self, objective: str) -> Variant | None:
        source = self.objective_source(objective)
        return source if isinstance(source, Variant) else None

    def finetune_of(self, objective: str) -> Finetune:
        """The section `finetune` as it holds for an objective: a variant changes some of it.

        >>> from topoflow.config import apply_overrides, parse_params, read_mapping
        >>> variant = "{source: variant, of: harmless, finetune: {lr_scheduler_type: constant}}"
        >>> params = parse_params(apply_overrides(read_mapping("params.yaml"), [f"objective.constant={variant}"]))
        >>> params.finetune_of("harmless").lr_scheduler_type, params.finetune_of("constant").lr_scheduler_type
        ('cosine', 'constant')
        """
        if (variant := self._variant(objective)) is None:
            return self.finetune
        from topoflow.config.reading import read_section  # it reads this module's sections

        chosen = _merged(dataclasses.asdict(self.finetune), variant.finetune)
        return read_section(Finetune, chosen, f"objective.{objective}.finetune")

    def is_control(self, objective: str) -> bool:
        """Whether an objective is there to hold another against: `shuffled`, or a variant."""
        return isinstance(self.objective_source(objective), ShuffledText | Variant)

    def controls(self) -> dict[str, str]:
        """The objectives of the study with the control of each, where that is of the study as well."""
        found = {name: control_of(self, name) for name in self.objectives}
        return {name: control for name, control in found.items() if control in self.objectives}

    def training(self, objective: str) -> dict[str, Any] | None:
        """How an objective is trained, as manifests say it; None where that has been before."""
        if self.checkpoints(objective):
            return None
        chosen = dataclasses.asdict(self.finetune_of(objective))
        if not chosen[
            "sft_config"
        ]:  # manifests from before there was such a key are still those of these parameters
            del chosen["sft_config"]
        return chosen

    def recorded(self) -> dict[str, Any]:
        """How states are recorded, as manifests say it."""
        chosen = dataclasses.asdict(self.recording)
        if not self.recording.schedule.twins:  # as manifests from before there were twins say it
            for key in ("twins", "clock", "triplets"):
                del chosen["schedule"][key]
        return chosen

    def made_of(self, objective: str) -> list[str]:
        """An objective, and the others that it is made of: shares of a mix, what a control is a control of."""
        match self.objective_source(objective):
            case MixedText(of=shares):
                return [objective, *shares]
            case ShuffledText(of=part) | Variant(of=part):
                return [objective, *self.made_of(part)]
        return [objective]

    def sources(self, model: str, objective: str) -> dict[str, Any]:
        """What a run's model and text are made from, as written here; of a local path its last name alone.

        The rest of a path is the machine's; what stands there is vouched for by SHA-256s.
        """
        sources = {
            "model": dataclasses.asdict(self.model_source(model)),
            "text": {name: dataclasses.asdict(self.objective[name]) for name in self.made_of(objective)},
            "prompts": dataclasses.asdict(self.prompts),
            "prepare": dataclasses.asdict(self.prepare),
        }
        for source in (sources["model"], sources["prompts"]["text"], *sources["text"].values()):
            if "path" in source:
                source["path"] = Path(source["path"]).name
            source.pop("remove_downloads", None)  # changes no result
        return sources


def control_of(params: Params, objective: str) -> str | None:
    """The objective that is the primary control of another: the first that is `shuffled` of it.

    Those of the study come before others. A variant is no primary control: its training is another.

    >>> from topoflow.config import load_params
    >>> control_of(load_params(), "harmless"), control_of(load_params(), "harmless_shuffled")
    ('harmless_shuffled', None)
    """
    names = (*params.objectives, *params.objective)
    return next((name for name in names if params.objective[name] == ShuffledText(objective)), None)


def _merged(section: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A section with changes put into it, as `--set` puts them: of an inner mapping, the keys named."""
    merged = dict(section)
    for key, value in changes.items():
        inner = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(merged[key], value) if inner else value
    return merged
