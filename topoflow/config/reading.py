"""From a mapping to `Params`: every key and type checked, and errors that name the nearest key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from topoflow.config.checks import look_up
from topoflow.config.mappings import apply_overrides, read_mapping
from topoflow.config.sections import Params, Prompts
from topoflow.config.sources import (
    MODEL_SOURCES,
    OBJECTIVE_SOURCES,
    TEXT_SOURCES,
    ModelSource,
    ObjectiveSource,
    TextSource,
)
from topoflow.errors import InvalidArgument

PARAMS_FILE = Path("params.yaml")
T = TypeVar("T")


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


def parse_params(mapping: Mapping[str, Any]) -> Params:
    """Check a mapping as read from params.yaml and make it a `Params`."""
    return read_section(Params, mapping, "")


def read_section(section: type[T], mapping: Any, where: str) -> T:
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
    except InvalidArgument as error:
        name = f"{where}.{error.name}".lstrip(".")
        raise InvalidArgument(name, error.expected, error.got, error.remedy) from None
    except ValueError as error:
        raise ValueError(f"{where}.{error}" if where else str(error)) from None


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as an instance of the annotation `kind`."""
    if kind is Any:
        return value
    if kind in _SOURCES:
        return _read_source(_SOURCES[kind], value, where)
    if dataclasses.is_dataclass(kind):
        return read_section(typing.cast(type[Any], kind), value, where)
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
            return float(value)  # also of text, as a Python caller or another YAML may give it
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
    section = look_up(value["source"], sources, f"{where}.source")
    return read_section(section, {key: value[key] for key in value if key != "source"}, where)


def _nearest(key: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(sorted(known))}"
