"""Where models, text and checkpoints come from: a class each, chosen by the key `source`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from topoflow.config.checks import check_least, check_positive, look_up
from topoflow.errors import InvalidArgument
from topoflow.samples import SAMPLE_NAMES


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
        check_least(self, 1, "hidden_size", "n_layers", "n_heads", "intermediate_size", "pretrain_batch_size")
        check_least(self, 0, "pretrain_steps")
        check_least(self, 259, "vocab_size")
        check_positive(self, "pretrain_learning_rate")
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


@dataclass(frozen=True)
class SampleText:
    """Text bundled with topoflow: `helpful`, `harmless` or `prompts` (these have no answers)."""

    name: str

    def __post_init__(self) -> None:
        look_up(self.name, dict.fromkeys(SAMPLE_NAMES), "name")


@dataclass(frozen=True)
class FileText:
    """A local file (JSON lines or an array, .gz or not; .csv; .parquet) or a folder that `datasets` saved."""

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
        if not all(share > 0 for share in self.of.values()) or not 0 < sum(self.of.values()) < math.inf:
            raise InvalidArgument("of", "objectives with positive shares of a finite sum", self.of)


@dataclass(frozen=True)
class ShuffledText:
    """A negative control: the rows of another objective, whose answers change places among its prompts."""

    of: str


@dataclass(frozen=True)
class Variant:
    """The rows of another objective under another training: `finetune` holds what differs from the section."""

    of: str
    finetune: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.finetune:
            raise InvalidArgument("finetune", "what differs from the section finetune", self.finetune)
        if isinstance(self.finetune.get("sft_config"), str):  # nobody would notice that the file has changed
            raise InvalidArgument(
                "finetune.sft_config", "a mapping in a variant", self.finetune["sft_config"]
            )


PlainText = SampleText | FileText | HubText
TextSource = PlainText | MixedText
TEXT_SOURCES: dict[str, type[Any]] = {
    "samples": SampleText,
    "file": FileText,
    "hub": HubText,
    "mix": MixedText,
}


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
ObjectiveSource = TextSource | ShuffledText | Variant | CheckpointSource
OBJECTIVE_SOURCES: dict[str, type[Any]] = {
    **TEXT_SOURCES,
    "shuffled": ShuffledText,
    "variant": Variant,
    "checkpoints": CheckpointFolder,
    "revisions": HubCheckpoints,
}
