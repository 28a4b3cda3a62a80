"""From a params.yaml, or a mapping as read from one, to `Params`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topoflow.checked import read
from topoflow.config.mappings import apply_overrides, read_mapping
from topoflow.config.sections import Params

PARAMS_FILE = Path("params.yaml")


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
    InvalidFile
        When the file is missing or malformed.
    InvalidArgument, UnknownKey
        When a value or key is not what its section expects.
    """
    return parse_params(apply_overrides(read_mapping(path), overrides))


def parse_params(mapping: Mapping[str, Any]) -> Params:
    """Check a mapping as read from params.yaml and make it a `Params`."""
    return read(Params, mapping, whole="params.yaml")
