"""params.yaml as frozen dataclasses, one a section: every choice of a study, checked when it is read.

Each class is a section, each field a key. A key that is not a field is an error that names the nearest
one, and so is a value of the wrong type; both before anything is computed.
"""

from topoflow.config.mappings import apply_overrides, flat, read_mapping, split_overrides
from topoflow.config.reading import PARAMS_FILE, load_params, parse_params
from topoflow.config.schedule import Schedule
from topoflow.config.sections import (
    LR_SCHEDULER_TYPES,
    NAME_PATTERN,
    Compute,
    Finetune,
    Lora,
    Params,
    Prepare,
    Prompts,
    Recording,
    Topology,
    Track,
    Trajectory,
)
from topoflow.config.sources import (
    MODEL_SOURCES,
    OBJECTIVE_SOURCES,
    TEXT_SOURCES,
    CheckpointFolder,
    CheckpointSource,
    EmbeddedModel,
    FileText,
    FolderModel,
    HubCheckpoints,
    HubModel,
    HubText,
    MixedText,
    ModelSource,
    ObjectiveSource,
    PackageModel,
    PlainText,
    SampleText,
    TextSource,
)

__all__ = [
    "LR_SCHEDULER_TYPES",
    "MODEL_SOURCES",
    "NAME_PATTERN",
    "OBJECTIVE_SOURCES",
    "PARAMS_FILE",
    "TEXT_SOURCES",
    "CheckpointFolder",
    "CheckpointSource",
    "Compute",
    "EmbeddedModel",
    "FileText",
    "Finetune",
    "FolderModel",
    "HubCheckpoints",
    "HubModel",
    "HubText",
    "Lora",
    "MixedText",
    "ModelSource",
    "ObjectiveSource",
    "PackageModel",
    "Params",
    "PlainText",
    "Prepare",
    "Prompts",
    "Recording",
    "SampleText",
    "Schedule",
    "TextSource",
    "Topology",
    "Track",
    "Trajectory",
    "apply_overrides",
    "flat",
    "load_params",
    "parse_params",
    "read_mapping",
    "split_overrides",
]
