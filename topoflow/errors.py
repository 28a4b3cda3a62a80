"""What topoflow raises when it is given something that it cannot use: types with attributes, one sentence each.

Every error here is a ValueError, so that a caller who knows only Python's own types catches it too. Tests assert
the type and its attributes; the sentence is free to get better. Text that came from outside is shortened and freed
of control characters before it is quoted.
"""

from __future__ import annotations

import copyreg
import difflib
import re
import reprlib
from collections.abc import Sequence
from numbers import Number
from os import PathLike
from pathlib import Path
from typing import Any

# The longest quotation of what was given, in characters: enough to recognise it, and not a file of it.
LONGEST_QUOTE = 200


def printable(text: str) -> str:
    """Text of a stranger's without what would steer a terminal: control characters stand as their escapes.

    >>> print(printable("red: " + chr(27) + "[31m"))
    red: \\x1b[31m
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def said(error: BaseException | str) -> str:
    """The words of another library, program or server, fit to be quoted in a message or a warning.

    It is their first line, shortened, without control characters, and without user name and password in addresses.

    >>> said("no answer from http://me:secret@example.org/" + chr(27) + "[2J" + chr(10) + "<html>")
    'no answer from http://example.org/\\\\x1b[2J'
    """
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    line = printable(re.sub(r"(?<=://)[^/\s]*@", "", line))
    return line if len(line) <= 2 * LONGEST_QUOTE else line[: 2 * LONGEST_QUOTE] + "..."


_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = LONGEST_QUOTE
_shortened.maxlist = _shortened.maxdict = 8


def quoted(value: Any) -> str:
    """A value as an error message quotes it: its repr, some `LONGEST_QUOTE` characters of it, whatever it is.

    >>> quoted("yes")
    "'yes'"
    >>> len(quoted([["a" * 10**6] * 1000] * 1000)) <= LONGEST_QUOTE + 3
    True
    """
    if isinstance(value, Number) and hasattr(value, "item"):  # one of NumPy's, which says its type
        value = value.item()
    try:
        text = printable(_shortened.repr(value))
    except (RecursionError, ValueError):  # ValueError: an integer of more digits than Python prints
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "..."


class Words(str):
    """A description of what came, which an error quotes without quotation marks.

    >>> quoted(Words("3 of them"))
    '3 of them'
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class TopoflowError(ValueError):
    """The base of all errors that topoflow raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle an error with its attributes, so that one of a worker reaches the caller as it is."""
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]

    def within(self, place: str) -> TopoflowError:
        """The same error where what it names lies at a place of something larger, such as a section of params.yaml."""
        return self


class InvalidArgument(TopoflowError):
    """An argument, option or key has a value that it cannot have.

    Attributes
    ----------
    name : str
        The argument, or the key of params.yaml with dots (`finetune.max_steps`).
    expected : str
        What it must be; completes the sentence "`name` must be ...".
    got : object
        What came.

    Examples
    --------
    >>> raise InvalidArgument("subsample_size", "at most the number of points (750)", 800)
    Traceback (most recent call last):
    topoflow.errors.InvalidArgument: subsample_size must be at most the number of points (750), got 800
    """

    def __init__(self, name: str, expected: str, got: Any, remedy: str = "") -> None:
        self.name, self.expected, self.got, self.remedy = name, expected, got, remedy
        end = f"; {remedy}" if remedy else ""
        super().__init__(f"{name} must be {expected}, got {quoted(got)}{end}")

    def within(self, place: str) -> InvalidArgument:
        name = f"{place}.{self.name}".strip(".")
        return InvalidArgument(name, self.expected, self.got, self.remedy)


class UnknownKey(TopoflowError):
    """A mapping has a key that nothing reads.

    Attributes
    ----------
    section : str
        The mapping: its key path in params.yaml, or that file.
    key : object
        What is not known.
    known : sequence of str
        The keys there are.
    nearest : str or None
        The known key that was probably meant.

    Examples
    --------
    >>> raise UnknownKey("finetune", "max_step", ["max_length", "max_steps"])
    Traceback (most recent call last):
    topoflow.errors.UnknownKey: finetune has no key 'max_step'; did you mean 'max_steps'?
    """

    def __init__(self, section: str, key: Any, known: Sequence[str]) -> None:
        self.section, self.key, self.known = section, key, known
        self.nearest = next(iter(difflib.get_close_matches(str(key), known, n=1)), None)
        hint = f"did you mean {self.nearest!r}?" if self.nearest else f"it has {', '.join(sorted(known))}"
        super().__init__(f"{section} has no key {quoted(key)}; {hint}")


class InvalidFile(TopoflowError):
    """A file or folder is not what it must be: missing, cut off, altered, or of another kind.

    Attributes
    ----------
    path : path
        Which one.
    problem : str
        What is wrong with it; completes the sentence "`path` ...".
    remedy : str
        What to do about it, best a command.

    Examples
    --------
    >>> raise InvalidFile("results/velocity.csv", "is not the table that was written", "make it again with: dvc repro")
    Traceback (most recent call last):
    topoflow.errors.InvalidFile: results/velocity.csv is not the table that was written; make it again with: dvc repro
    """

    def __init__(self, path: str | PathLike[str], problem: str, remedy: str = "") -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        end = f"; {remedy}" if remedy else ""
        super().__init__(f"{printable(str(path))} {problem}{end}")


class NoAnswer(TopoflowError):
    """A service does not answer, or answers that it will not.

    Attributes
    ----------
    service : str
        Which one, with its address where it has one.
    reason : str
        What it, or the library that asked it, said.
    remedy : str
        What to do about it.

    Examples
    --------
    >>> raise NoAnswer("MLflow at http://host:5000", "connection refused", "start it")
    Traceback (most recent call last):
    topoflow.errors.NoAnswer: MLflow at http://host:5000 does not answer: connection refused; start it
    """

    def __init__(self, service: str, reason: BaseException | str, remedy: str = "") -> None:
        self.service, self.reason, self.remedy = service, said(reason), remedy
        end = f"; {remedy}" if remedy else ""
        super().__init__(f"{service} does not answer: {self.reason}{end}")


class DoesNotFit(TopoflowError):
    """A run needs more than this machine has.

    Attributes
    ----------
    obstacles : tuple of str
        What it needs, and what there is.

    Examples
    --------
    >>> raise DoesNotFit(["90 GB of disk are needed, and 20 GB are free"])
    Traceback (most recent call last):
    topoflow.errors.DoesNotFit: 90 GB of disk are needed, and 20 GB are free
    """

    def __init__(self, obstacles: Sequence[str]) -> None:
        self.obstacles = tuple(obstacles)
        super().__init__("; and ".join(self.obstacles))


class CommandFailed(TopoflowError):
    """A command of another program has failed, and has said why itself.

    Attributes
    ----------
    command : str
    folder : path
        Where it ran.
    remedy : str
        What is left, and what to do.

    Examples
    --------
    >>> raise CommandFailed("dvc repro", "/study", "finished stages are kept")
    Traceback (most recent call last):
    topoflow.errors.CommandFailed: dvc repro failed in /study (see above); finished stages are kept
    """

    def __init__(self, command: str, folder: Path | str, remedy: str) -> None:
        self.command, self.folder, self.remedy = command, folder, remedy
        super().__init__(f"{command} failed in {folder} (see above); {remedy}")
