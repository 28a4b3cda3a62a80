"""params.yaml as a mapping, before anything in it is checked: read, overridden, flattened."""

from __future__ import annotations

import copy
import io
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from topoflow.errors import InvalidArgument, InvalidFile, quoted, said
from topoflow.storage.files import read_text


def flat(prefix: str, value: Any) -> dict[str, Any]:
    """A nested mapping as `prefix.key` -> value.

    >>> flat("lora", {"r": 2, "of": {"a": 1}})
    {'lora.r': 2, 'lora.of.a': 1}
    """
    if not isinstance(value, dict):
        return {prefix: value}
    return {key: inner for name in value for key, inner in flat(f"{prefix}.{name}", value[name]).items()}


def read_yaml(text: str) -> Any:
    """Text as YAML 1.2, by the parser that DVC uses: one params.yaml must not mean two things.

    >>> read_yaml("{seeds: [010], at: [1:30], objectives: [no], weight_decay: 1e-3}")
    {'seeds': [10], 'at': ['1:30'], 'objectives': ['no'], 'weight_decay': 0.001}
    """
    return YAML(typ="safe", pure=True).load(text)


def yaml_bytes(mapping: Mapping[str, Any]) -> bytes:
    """A mapping as YAML 1.2 that `read_yaml`, and so DVC, reads back as it was.

    PyYAML leaves text unquoted that YAML 1.1 takes for text and YAML 1.2 for a number.

    >>> yaml_bytes({"path": "0o17", "rate": 1e-05})
    b"path: '0o17'\\nrate: 1e-05\\n"
    """
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.BytesIO()
    writer.dump(mapping, text)
    return text.getvalue()


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The YAML mapping in a file, unchecked."""
    try:
        mapping = read_yaml(read_text(path))
    except FileNotFoundError:
        raise InvalidFile(path, "must exist in the folder of the study, and it does not") from None
    except InvalidFile:  # a folder, a pipe: params.yaml may name the file
        raise
    except OSError as error:  # such as a name that is too long
        raise InvalidFile(str(path)[:200], f"must be a file that can be read: {error.strerror}") from None
    except (YAMLError, ValueError, LookupError, TypeError, RecursionError) as error:  # all of them ruamel's
        raise InvalidFile(path, f"must be YAML: {_problem(error)}") from None
    if not isinstance(mapping, dict):
        raise InvalidFile(path, f"must hold a mapping, got {type(mapping).__name__}")
    _check_size(mapping, path)
    return mapping


def _problem(error: BaseException) -> str:
    """What is wrong with YAML and in which line, without the text that ruamel quotes with it."""
    mark = getattr(error, "problem_mark", None)
    return said(getattr(error, "problem", None) or error) + (f" (line {mark.line + 1})" if mark else "")


def _check_size(mapping: Any, path: str | Path) -> None:
    """Refuse a small file that grows without bound in memory, by aliases of aliases or an alias inside itself."""
    count, left = 0, [mapping]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple | set):
            left += value
        if (count := count + 1) > 100_000:
            raise InvalidFile(path, "must hold at most 100000 values, aliases counted each time")


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
            raise InvalidArgument("set", "like finetune.max_steps=40", override)
        try:
            value = read_yaml(text)
        except (YAMLError, ValueError, LookupError, TypeError, RecursionError):
            raise InvalidArgument(f"set: the value of {quoted(path)[1:-1]}", "YAML", text) from None
        _check_size(value, "set")
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
            raise InvalidArgument("set", "text with each quote closed", text) from None
        begun = len(assignments)
        for word in words:
            last = assignments[-1] if len(assignments) > begun else ""
            if sum(map(last.count, "[{")) > sum(map(last.count, "]}")):
                assignments[-1] += f" {word}"
            else:
                assignments.append(word)
    return assignments
