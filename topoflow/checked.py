"""Classes whose fields pydantic checks; what it refuses becomes an error of this package.

Build such a class as any dataclass, by keyword or by position; `read` makes one of a mapping. A type says what a field
may hold, `__post_init__` what fields must be to one another.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from numbers import Integral, Real
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import AfterValidator, BeforeValidator, Field, Strict, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from topoflow.errors import InvalidArgument, TopoflowError, UnknownKey, quoted

T = TypeVar("T")


def _whole_in(value: Any) -> Any:
    """A whole number of NumPy's is one."""
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else value


def _number_in(value: Any) -> Any:
    try:
        is_number = isinstance(value, Real) and not isinstance(value, Integral)
        return float(value) if is_number or isinstance(value, str) else _whole_in(value)
    except ValueError:
        return value


def _each_once(values: Sequence[Any]) -> Sequence[Any]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("each_once", "a list that names each once")
    return values


# More than anybody's study has of anything that is counted, and few enough that a slip is refused and not computed.
Whole = Annotated[int, Strict(), Field(le=2**31 - 1), BeforeValidator(_whole_in)]
Natural = Annotated[Whole, Field(ge=0)]  # 0 or more
Count = Annotated[Whole, Field(ge=1)]
# Also of text, as a Python caller or another YAML may give it.
Number = Annotated[float, Strict(), Field(allow_inf_nan=False), BeforeValidator(_number_in)]
Share = Annotated[Number, Field(gt=0, lt=1)]
Flag = Annotated[bool, Strict()]
each_once = AfterValidator(_each_once)

# What was expected, by pydantic's type of error; completes the sentence "`name` must be ...".
WORDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping",
    "model_type": "a mapping",
    "none_required": "null",
    "missing": "given",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "like {pattern}",
}


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def checked(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass whose fields are checked by their types.

    Examples
    --------
    >>> @checked
    ... class Lora:
    ...     r: Count = 16
    >>> Lora(8)
    Lora(r=8)
    >>> Lora(r=0)
    Traceback (most recent call last):
    topoflow.errors.InvalidArgument: r must be at least 1, got 0
    """
    known = tuple(name for part in reversed(cls.__mro__) for name in inspect.get_annotations(part))

    def refuse_unknown(given: Any) -> Any:
        for key in given if isinstance(given, dict) else ():
            if key not in known:  # as pydantic's extra="forbid", which does not know what else there is
                raise UnknownKey("", key, known)  # `problem` knows where
        return given

    cls._refuse_unknown = pydantic.model_validator(mode="before")(refuse_unknown)  # type: ignore[attr-defined]
    made: Any = pydantic.dataclasses.dataclass(frozen=True)(cls)
    build, signature = made.__init__, inspect.signature(made)

    @functools.wraps(build)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        given = signature.bind(*args, **kwargs).arguments
        try:
            build(self, **given)
        except ValidationError as error:
            raise problem(error, given) from None

    made.__init__ = __init__
    return made  # type: ignore[no-any-return]


def read(kind: Callable[..., T], value: Any, place: str = "", whole: str = "it") -> T:
    """Read a value from outside as a class; an error names it by its key path `place`, or as `whole` without one."""
    try:
        return typing.cast(T, adapter(kind).validate_python(value))
    except ValidationError as error:
        raise problem(error, value, place, whole) from None


@functools.cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """The adapter that checks values as a class; it is made once, since that takes a while."""
    return TypeAdapter(kind)


def problem(error: ValidationError, value: Any, place: str = "", whole: str = "it") -> TopoflowError:
    """The first thing that pydantic refuses in a value, as an error of this package.

    For a union, that is what it refuses in the option that the value looks most like.
    """

    def depth(one: Mapping[str, Any]) -> tuple[int, bool]:
        return len(one["loc"]), not one["type"].endswith("_type")

    first: Mapping[str, Any] = max(error.errors(include_url=False), key=depth)
    missing = first["loc"][-1] if first["type"] == "missing" else None
    for part in first["loc"]:  # what the value does not hold is what pydantic calls an option of a union
        if isinstance(value, Mapping) and (part in value or part == missing):
            place, value = f"{place}.{part}".lstrip("."), value.get(part)
        elif isinstance(value, list | tuple) and isinstance(part, int):
            place, value = f"{place}[{part}]", value[part]
    place, context = quoted(place)[1:-1], first.get("ctx", {})
    if isinstance(ours := context.get("error"), UnknownKey):
        return UnknownKey(".".join(filter(None, (place, ours.section))) or whole, ours.key, ours.known)
    if isinstance(ours, TopoflowError):
        return ours.within(place)
    expected = WORDS[first["type"]].format(**context) if first["type"] in WORDS else first["msg"]
    return InvalidArgument(place or whole, expected, first["input"])


def look_up(name: Any, known: Mapping[str, Any], kind: str) -> Any:
    """What a name stands for; for an unknown name, the error lists the known ones."""
    if not isinstance(name, str) or name not in known:
        raise InvalidArgument(kind, f"one of {', '.join(sorted(known))}", name)
    return known[name]
