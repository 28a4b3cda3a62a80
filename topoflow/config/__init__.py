"""params.yaml as frozen dataclasses, one a section: every choice of a study, checked by pydantic when it is read.

Each class is a section, each field a key. A key that is not a field is an error that names the nearest
one, and so is a value of the wrong type; both before anything is computed.
"""

from topoflow.config.mappings import apply_overrides, flat, read_mapping, split_overrides, yaml_bytes
from topoflow.config.reading import PARAMS_FILE, load_params, parse_params
from topoflow.config.schedule import Schedule
from topoflow.config.sections import (
    Compute,
    Finetune,
    Joint,
    Lora,
    Params,
    Prepare,
    Prompts,
    Recording,
    Sensitivity,
    Topology,
    Track,
    Trajectory,
    control_of,
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
    GgufModel,
    HubCheckpoints,
    HubModel,
    HubText,
    MixedText,
    ModelSource,
    ObjectiveSource,
    Opening,
    PackageModel,
    PlainText,
    Rerun,
    SampleText,
    ShuffledText,
    TextSource,
    Variant,
)
from topoflow.dynamics.claims.margins import Claims

__all__ = [
    "MODEL_SOURCES", "OBJECTIVE_SOURCES", "PARAMS_FILE", "TEXT_SOURCES", "CheckpointFolder", "CheckpointSource",
    "Claims", "Compute", "EmbeddedModel", "FileText", "Finetune", "FolderModel", "GgufModel", "HubCheckpoints",
    "HubModel", "HubText", "Joint", "Lora", "MixedText", "ModelSource", "ObjectiveSource", "Opening", "PackageModel",
    "Params", "PlainText", "Prepare", "Prompts", "Recording", "Rerun", "SampleText", "Schedule", "Sensitivity",
    "ShuffledText", "TextSource", "Topology", "Track", "Trajectory", "Variant", "apply_overrides", "control_of", "flat",
    "load_params", "parse_params", "read_mapping", "split_overrides", "yaml_bytes",
]  # fmt: skip
