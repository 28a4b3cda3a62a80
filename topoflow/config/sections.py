"""The sections of params.yaml as frozen dataclasses, and `Params`, all of it."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
import typing
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Strict, Tag
from pydantic_core import PydanticCustomError

from topoflow.checked import Count, Flag, Natural, Number, Whole, checked, each_once, look_up, read
from topoflow.config.mappings import read_mapping
from topoflow.config.pooling import Kind, Pooling, Position
from topoflow.config.schedule import Schedule
from topoflow.config.sft_fields import REFUSED
from topoflow.config.sources import (
    MODEL_SOURCES,
    OBJECTIVE_SOURCES,
    TEXT_SOURCES,
    CheckpointFolder,
    CheckpointSource,
    EmbeddedModel,
    HubCheckpoints,
    Key,
    MixedText,
    ModelSource,
    ObjectiveSource,
    PlainText,
    Rerun,
    SampleText,
    ShuffledText,
    TextSource,
    Variant,
    by_source,
)
from topoflow.dynamics.claims.margins import Claims
from topoflow.embedded import EMBEDDED
from topoflow.errors import InvalidArgument
from topoflow.storage.layout import Run

if typing.TYPE_CHECKING:
    from topoflow.topology.prepared import Preparation


def _named(name: str) -> str:
    """Names become folder names, stage names and metric names: no dots (DVC reads them as paths), no slashes."""
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise PydanticCustomError("name", "a name of letters, digits, _ and -, 64 at most")
    if name == "prompts":
        raise PydanticCustomError("name", "another name, since every study has a file of prompts")
    return name


Name = Annotated[Key, AfterValidator(_named)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**32)]  # what NumPy's seed takes
Machine = Annotated[Whole, Field(le=2**14)]  # threads and workers, which begin as soon as they are asked for
# By the discriminator, a word other than "published" has one error: that it is no number.
Order = Annotated[
    Annotated[Number, Field(ge=1), Tag("number")] | Annotated[Literal["published"], Tag("published")],
    Discriminator(lambda value: "published" if value == "published" else "number"),
]
Metric = Literal["euclidean", "cosine"]
Scale = Literal["none", "median", "zscore"]
Clock = Literal["steps", "learning_rate", "checkpoints"]
Factor = Annotated[Number, Field(gt=0, le=100)]
Sample = Annotated[Whole, Field(le=10**6)]  # what a plan of subsamples holds


def _in_line(prompts: Any) -> Any:
    """Put the keys of the source of text, which stand in line in params.yaml, into a mapping of their own.

    A misspelt n_prompts stays outside this mapping, so that the error can name the nearest key.
    """
    if not isinstance(prompts, dict):
        return prompts
    own = {key: prompts[key] for key in prompts if difflib.get_close_matches(str(key), ["n_prompts"])}
    return {"text": {key: prompts[key] for key in prompts if key not in own}, **own}


def _opened(given: Any) -> Any:
    """Arguments of `trl.SFTConfig`, read from their file where a path is given."""
    arguments = read_mapping(given) if isinstance(given, str) else given
    for key in arguments if isinstance(arguments, dict) else ():
        if reason := REFUSED.get(key):
            raise InvalidArgument(str(key), "left out", arguments[key], reason)
    return arguments


@checked
class Prompts:
    """The evaluation prompts: `n_prompts` drawn once, the same for every checkpoint and objective."""

    text: Annotated[TextSource, by_source(TEXT_SOURCES)]
    n_prompts: Annotated[Count, Field(ge=2)] = 750


@checked
class Prepare:
    """The training rows of an objective; `n_rows` are drawn, none of a dialogue with an evaluation prompt in it.

    On `held_out` further rows the loss is measured at each checkpoint: of the objective itself, or of what it is made
    of, and of the objectives `held_out_of`, which says what a training forgets. Where fewer are left, on those.
    """

    n_rows: Count = 600
    held_out: Natural = 0
    held_out_of: tuple[str, ...] = ()


@checked
class Lora:
    """Low-rank adapters; names as in `peft.LoraConfig`. Default target: every linear layer of the blocks."""

    r: Count = 16
    alpha: Count = 32
    dropout: Annotated[Number, Field(ge=0, lt=1)] = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"


@checked
class Finetune:
    """TRL's SFT; names as in `trl.SFTConfig`. `lora: null` trains all weights.

    `n_threads` is a parameter because the order of summation, and so the bytes, depend on it. `sft_config` are further
    arguments of `trl.SFTConfig`, as a mapping or as the path of a YAML file with one; what topoflow sets is refused.
    A `learning_rate` of 0 is a negative control: every step is made, and none changes a weight.
    """

    max_steps: Annotated[Count, Field(le=10**7)] = 48
    per_device_train_batch_size: Count = 8
    gradient_accumulation_steps: Count = 1
    learning_rate: Annotated[Number, Field(ge=0)] = 1e-3
    # Those of transformers' schedules that need no further settings and no evaluation during training. Spelled out,
    # because importing transformers would slow every command.
    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] = "cosine"
    warmup_steps: Natural = 0
    max_length: Count = 512
    n_threads: Annotated[Machine, Field(ge=1)] = 1
    lora: Lora | None = field(default_factory=Lora)
    sft_config: Annotated[str | dict[str, Any] | None, BeforeValidator(_opened)] = None

    def __post_init__(self) -> None:
        """Refuse an old name of an option that differs from its new name: TRL would silently take the new one."""
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
        """Whether training keeps only the inputs of blocks, under either name of the option."""
        given = self.arguments
        return bool(given.get("activation_checkpointing", given.get("gradient_checkpointing")))


@checked
class Recording:
    """What the hook records: `layers` is a number of evenly spaced layers or a list of them.

    A prompt longer than `max_length` tokens keeps its end, where the model is about to answer.
    """

    layers: Count | Annotated[tuple[Natural, ...], Field(min_length=1), each_once] = 5
    schedule: Schedule = field(default_factory=Schedule)
    batch_size: Count = 64
    batch_tokens: Count | None = None  # of a pass; null: on an accelerator those of a training batch
    max_length: Count = 512
    dtype: Literal["float16", "float32", "float64"] = "float32"
    behaviour: Flag = True  # next-token distributions too, compared between checkpoints
    template: Literal["auto", "chat", "hh", "plain"] = "auto"  # how a prompt becomes text (TopologyCallback)
    answers: Annotated[Natural, Field(le=64)] = 0  # prompts, evenly spread, answered greedily each time
    pooling: Kind = "last"  # these two: which tokens make a point, see Pooling
    position: Position = -1

    def __post_init__(self) -> None:
        Pooling(self.pooling, self.position)

    @property
    def pooled(self) -> Pooling:
        """Which tokens of a prompt make its point."""
        return Pooling(self.pooling, self.position)


@checked
class Topology:
    """Vietoris-Rips persistence of `n_subsamples` overlapping subsamples of `subsample_size` points.

    Parameters
    ----------
    n_subsamples : int
        Number of subsamples, 1 or more; their mean is what is reported.
    subsample_size : int
        Number of points in each, 2 or more, and at most those of the cloud.
    maxdim : int
        Highest homology dimension: 1 as in the protocol, for components and loops (H0 and H1), or 2 for voids (H2) as
        well. Claims are about H1 and H0 in either case.
    engine : str
        "auto", "lune", "redzed" or "ripser" (see `topoflow.vietoris_rips_diagrams`).
    metric : str
        "euclidean", or "cosine": points are put at length 1, and their distance is sqrt(2 - 2 cos).
    normalise : str
        "none", "median" (each cloud divided by its median distance) or "zscore" (each coordinate divided by its
        standard deviation at the first checkpoint).
    pca : int, optional
        Number of leading directions of the first checkpoint's cloud that clouds are projected to.

    Raises
    ------
    InvalidArgument
        When a number is outside its range, the engine is not known, or it cannot compute `maxdim`.

    Examples
    --------
    >>> Topology(n_subsamples=16, subsample_size=40).engine
    'auto'
    >>> Topology(subsample_size=1)
    Traceback (most recent call last):
    topoflow.errors.InvalidArgument: subsample_size must be at least 2, got 1
    """

    n_subsamples: Annotated[Sample, Field(ge=1)] = 64
    subsample_size: Annotated[Count, Field(ge=2)] = 160
    maxdim: Literal[1, 2] = 1  # the protocol studies H0 and H1
    engine: str = "auto"
    metric: Metric = "euclidean"
    normalise: Scale = "none"
    pca: Count | None = None

    def __post_init__(self) -> None:
        # not at import: NumPy would slow the command line
        from topoflow.topology.persistence import ENGINES, choose_engine

        look_up(self.engine, dict.fromkeys(ENGINES), "engine")
        choose_engine(self.engine, self.maxdim, n_points=self.subsample_size)

    @property
    def preparation(self) -> Preparation:
        """What is done to a cloud before its distances are taken."""
        from topoflow.topology.prepared import Preparation

        return Preparation(self.metric, self.normalise, self.pca)


@checked
class Trajectory:
    """Distances between diagrams: the `order` of the Wasserstein distance, Euclidean ground metric.

    `order: published` stands for two choices: order 1, which persim computes, whatever the paper calls it, and a first
    third of the concentration (Eq. 2) that is counted in checkpoints. A number counts the third in optimiser steps.
    Bands come from `n_replicates` half-samples of the prompts (0 for none). `measures` names what is computed beside
    topology, of `topoflow.dynamics.measures.listed.MEASURES`; "cheap" stands for all that are not dear. Names of H2,
    such as `h2_silhouette`, are refused unless `maxdim` is 2.
    """

    order: Order = 2.0
    n_replicates: Annotated[Sample, Field(ge=0)] = 20
    measures: Annotated[tuple[str, ...], each_once] = ("cheap",)

    def __post_init__(self) -> None:
        from topoflow.dynamics.measures.listed import chosen

        chosen(self.measures)
        if self.n_replicates == 1:
            raise InvalidArgument("n_replicates", "2 or more, or 0 for no bands", 1)

    @property
    def resolved_order(self) -> float:
        """The order as a number.

        >>> Trajectory(order="published").resolved_order, Trajectory().resolved_order
        (1.0, 2.0)
        """
        return 1.0 if self.order == "published" else float(self.order)

    @property
    def clock(self) -> str:
        """In what the first third of the concentration is counted: a name of `topoflow.dynamics.twins.CLOCKS`.

        >>> Trajectory(order="published").clock, Trajectory(order=1).clock
        ('checkpoints', 'steps')
        """
        return "checkpoints" if self.order == "published" else "steps"


@checked
class Joint:
    """Choices that one alternative changes together; of those left out, the study's own hold.

    `subsample_size` and `n_subsamples` are shares of the study's own.
    """

    order: Annotated[Number, Field(ge=1)] | None = None
    clock: Clock | None = None
    metric: Metric | None = None
    normalise: Scale | None = None
    subsample_size: Factor | None = None
    n_subsamples: Factor | None = None


@checked
class Sensitivity:
    """The alternatives under which `topoflow sensitivity` computes every verdict again: declare them before the run.

    Each changes one choice of the study alone, and a `joint` one several.
    """

    order: tuple[Annotated[Number, Field(ge=1)], ...] = (1.0, 2.0)  # of the Wasserstein distance
    clock: tuple[Clock, ...] = ("steps", "learning_rate", "checkpoints")  # what a first third is a third of
    metric: tuple[Metric, ...] = ("euclidean", "cosine")
    normalise: tuple[Scale, ...] = ("none", "median", "zscore")
    subsample_size: tuple[Factor, ...] = (0.5, 1.5)  # shares of `topology.subsample_size`
    n_subsamples: tuple[Factor, ...] = (0.5,)  # shares of `topology.n_subsamples`
    leave_out_layers: Flag = True  # one layer at a time
    prompt_blocks: Annotated[Natural, Field(le=1000)] = 10  # one of so many blocks at a time; 0 for none
    joint: tuple[Joint, ...] = ()
    n_rotations: Annotated[Natural, Field(le=10**6)] = 0  # for each rung of each alternative; 0 for none

    def __post_init__(self) -> None:
        if self.prompt_blocks == 1:
            raise InvalidArgument("prompt_blocks", "2 or more, or 0 for none", 1)


@checked
class Track:
    """What goes to MLflow: `summaries` names those of the 41 numbers that become metrics (all are in the table).

    Names of H2, such as `h2_count`, are refused unless `maxdim` is 2. With `models` each checkpoint is a LoggedModel.
    Without `prompts_text` no prompt's text goes there: tables, notes and the report name prompts by their lines alone.
    """

    summaries: tuple[str, ...] = ()
    models: Flag = True
    prompts_text: Flag = True

    def __post_init__(self) -> None:
        from topoflow.topology.summaries import summary_names

        for name in self.summaries:
            look_up(name, dict.fromkeys(summary_names(2)), "summaries")


@checked
class Compute:
    """Where results are computed, which never changes them: on CPUs of one kind the bytes are the same.

    `backend` is threads, processes, dask or ray; `n_jobs` the number of workers, -1 for one a core that the process may
    use (`topoflow.machine.cores`); `address` that of a running Dask scheduler or Ray cluster (without it, one is
    started on this machine). `gpu` is the number of the GPU that trains and records, counted among those that are
    visible; without it, the first.
    `save_steps` is the least number of optimiser steps between two saves of what a training needs to resume. It saves
    at recorded steps, and the last save stays on disk until the end; 0 for none.
    """

    backend: Literal["threads", "processes", "dask", "ray"] = "threads"
    n_jobs: Annotated[Machine, Field(ge=-(2**14))] = -1
    address: str | None = None
    save_steps: Natural = 8
    gpu: Natural | None = None

    def __post_init__(self) -> None:
        if self.address is not None and self.backend not in ("dask", "ray"):
            raise InvalidArgument("address", "left out unless the backend is dask or ray", self.address)
        if self.n_jobs == 0:
            raise InvalidArgument("n_jobs", "a number of workers, or -1 for one a core", 0)


@checked
class Params:
    """All of params.yaml."""

    models: Annotated[tuple[str, ...], Field(min_length=1), each_once]
    objectives: Annotated[tuple[str, ...], Field(min_length=1), each_once]
    model: dict[Name, Annotated[ModelSource, by_source(MODEL_SOURCES)]]
    objective: dict[Name, Annotated[ObjectiveSource, by_source(OBJECTIVE_SOURCES)]]
    prompts: Annotated[Prompts, BeforeValidator(_in_line)]
    seed: Seed = 0
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), each_once] = (0,)
    prepare: Prepare = field(default_factory=Prepare)
    finetune: Finetune = field(default_factory=Finetune)
    recording: Recording = field(default_factory=Recording)
    topology: Topology = field(default_factory=Topology)
    trajectory: Trajectory = field(default_factory=Trajectory)
    claims: Claims = field(default_factory=Claims)
    sensitivity: Sensitivity = field(default_factory=Sensitivity)
    track: Track = field(default_factory=Track)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        for kind, listed, known in (
            ("model", self.models, self.model),
            ("objective", self.objectives, self.objective),
        ):
            for name in listed:
                look_up(name, known, kind)
        for name in self.prepare.held_out_of:
            look_up(name, self.objective, "prepare.held_out_of")
        for name, text in self.objective.items():
            if text == SampleText("prompts"):
                raise InvalidArgument(
                    f"objective.{name}",
                    "text with answers to train on",
                    "prompts",
                    "these samples have none",
                )
            self._check_parts(name)
        for key, names in (
            ("track.summaries", self.track.summaries),
            ("trajectory.measures", self.trajectory.measures),
        ):
            if self.topology.maxdim < 2 and (lacking := [name for name in names if name.startswith("h2_")]):
                raise InvalidArgument(key, "free of names in h2_ unless topology.maxdim is 2", lacking[0])
        if self.topology.subsample_size > (most := self.prompts.n_prompts):
            raise InvalidArgument(
                "topology.subsample_size", f"at most prompts.n_prompts ({most})", self.topology.subsample_size
            )
        for name in self.objectives:
            self._check_schedule(name)
            self._check_weights(name)
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

    def _check_weights(self, objective: str) -> None:
        """Refuse weights that nothing can train: all of them in 4 bits, or in float16, which loses small updates."""
        if self.checkpoints(objective) or self.finetune_of(objective).lora:
            return
        remedy = "train adapters (finetune.lora), which are float32"
        for name in self.models:
            source = self.model[name]
            if source.quantization:
                expected = "left out where finetune.lora is null"
                raise InvalidArgument(f"model.{name}.quantization", expected, source.quantization, remedy)
            if source.dtype == "float16":
                expected = "float32 or bfloat16 where finetune.lora is null"
                raise InvalidArgument(f"model.{name}.dtype", expected, source.dtype, remedy)

    def _check_parts(self, name: str) -> None:
        """Refuse an objective made of others that it cannot be made of."""
        match self.objective[name]:
            case MixedText(of=shares):
                parts, kinds, expected = list(shares), PlainText, "objectives with text of their own"
            case ShuffledText(of=part):
                parts, kinds, expected = [part], TextSource, "an objective with text of its own, or a mix"
            case Rerun(of=part) | Variant(of=part):
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

    def _check_layers(self) -> None:
        """Refuse layers that an embedded model does not have; other models say their depth only once opened."""
        layers = self.recording.layers
        deepest = layers if isinstance(layers, int) else max(layers)
        for name in self.models:
            source = self.model[name]
            if isinstance(source, EmbeddedModel) and deepest > (there := EMBEDDED[source.name].n_layers):
                got = layers if isinstance(layers, int) else list(layers)
                raise InvalidArgument(
                    "recording.layers", f"at most {there}, the layers of model {name!r}", got
                )

    def runs(self) -> list[Run]:
        """The runs of a bare `dvc repro`: every model with every objective and every seed."""
        return [Run(*key) for key in itertools.product(self.models, self.objectives, self.seeds)]

    def check_names(self, run: Run) -> None:
        """Refuse a run whose model or objective does not exist, before its name becomes a path."""
        look_up(run.model, self.model, "model")
        look_up(run.objective, self.objective, "objective")

    def model_source(self, name: str) -> ModelSource:
        """The source of the model called `name`; InvalidArgument that lists the models where there is none."""
        return typing.cast(ModelSource, look_up(name, self.model, "model"))

    def objective_source(self, name: str) -> ObjectiveSource:
        """What the objective called `name` is; InvalidArgument that lists the objectives where there is none."""
        return typing.cast(ObjectiveSource, look_up(name, self.objective, "objective"))

    def checkpoints(self, objective: str) -> CheckpointSource | None:
        """The checkpoints of a finished training, where an objective is one; None where it is to be trained."""
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
        chosen = _merged(dataclasses.asdict(self.finetune), variant.finetune)
        return read(Finetune, chosen, f"objective.{objective}.finetune")

    def is_control(self, objective: str) -> bool:
        """Whether an objective exists to be compared with another one: `shuffled`, a rerun, or a variant."""
        return isinstance(self.objective_source(objective), ShuffledText | Rerun | Variant)

    def controls(self) -> dict[str, str]:
        """The objectives of the study with the control of each, where that is of the study as well."""
        found = {name: control_of(self, name) for name in self.objectives}
        return {name: control for name, control in found.items() if control in self.objectives}

    def training(self, objective: str) -> dict[str, Any] | None:
        """How an objective is trained, as manifests say it; None where its training is finished."""
        if self.checkpoints(objective):
            return None
        chosen = dataclasses.asdict(self.finetune_of(objective))
        if not chosen["sft_config"]:  # as manifests from before there was such a key say it
            del chosen["sft_config"]
        return chosen

    def recorded(self) -> dict[str, Any]:
        """How states are recorded, as manifests say it."""
        chosen = dataclasses.asdict(self.recording)
        if not self.recording.schedule.twins:  # as manifests from before there were twins say it
            for key in ("twins", "clock", "triplets"):
                del chosen["schedule"][key]
        for key in ("answers", "template", "pooling", "position", "batch_tokens"):  # nor had they these keys
            if getattr(self.recording, key) == getattr(Recording, key):
                del chosen[key]
        return chosen

    def made_of(self, objective: str) -> list[str]:
        """An objective and those it is made of: the shares of a mix, the objective behind a control."""
        match self.objective_source(objective):
            case MixedText(of=shares):
                return [objective, *shares]
            case ShuffledText(of=part) | Rerun(of=part) | Variant(of=part):
                return [objective, *self.made_of(part)]
        return [objective]

    def _prepared(self) -> dict[str, Any]:
        chosen = dataclasses.asdict(self.prepare)
        if not self.prepare.held_out:  # as manifests from before rows were held out say it
            del chosen["held_out"], chosen["held_out_of"]
        return chosen

    def held_out(self, objective: str) -> list[str]:
        """The objectives on whose held-out rows a training's loss is measured: those that have text of their own."""
        names = dict.fromkeys([*self.made_of(objective), *self.prepare.held_out_of])
        found = [name for name in names if isinstance(self.objective_source(name), PlainText)]
        return found if self.prepare.held_out and not self.checkpoints(objective) else []

    def sources(self, model: str, objective: str) -> dict[str, Any]:
        """What a run's model and text are made from, as written here; of a local path its last name alone.

        The rest of a path is the machine's; what stands there is vouched for by SHA-256s.
        """
        sources = {
            "model": self.model_source(model).written,
            "text": {name: dataclasses.asdict(self.objective[name]) for name in self.made_of(objective)},
            "prompts": dataclasses.asdict(self.prompts),
            "prepare": self._prepared(),
        }
        for source in (sources["model"], sources["prompts"]["text"], *sources["text"].values()):
            if source.get("path"):
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
