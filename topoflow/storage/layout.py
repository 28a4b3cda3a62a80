"""Where the files of a study stand, and how its small tables are read and written."""

from __future__ import annotations

import csv
import io
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from topoflow.errors import InvalidFile
from topoflow.names import SHOWN_SUMMARIES
from topoflow.storage import schemas
from topoflow.storage.files import open_text, read_text, sha256_of_file, write_file

PROMPTS_FILE = Path("data/prompts.jsonl")
VARIANT = "finetune"  # the key of the first line of a variant's rows
HELD_OUT = "held_out"  # the key of lines after the training rows, not trained on: whose rows they are
COMPARISON_FOLDER = Path("comparison")
LOSS_FILE = "loss.csv"
VELOCITY_FILE = "velocity.csv"
SUMMARIES_FILE = "summaries.csv"
TRAJECTORY_FILE = "trajectory.json"
COMPARISON_FILE = "comparison.json"
DISTANCES_FILE = "distances.csv"
CONTROLS_FILE = "controls.csv"
BEHAVIOUR_FILE = "behaviour.csv"
MOVEMENT_FILE = "movement.csv"
SENSITIVITY_FOLDER = Path("sensitivity")
SENSITIVITY_TABLE, SENSITIVITY_PICTURE, SENSITIVITY_FILE = (
    f"sensitivity.{end}" for end in ("csv", "png", "json")
)
QUANTITIES_FILE, MEASURES_FILE, ADDED_FILE = "quantities.csv", "measures.csv", "added.csv"
RERUN_FILE = "rerun.csv"
BARS_FILE, PROMPT_SCORES_FILE = "bars.csv", "prompts.csv"
CLASSES_FILE = "labels.csv"  # of a run whose prompts carry labels; trajectory.json has the same rows
# Tables that are vouched for where they exist: older runs and comparisons lack some.
LATER_RUN_TABLES = (QUANTITIES_FILE, MEASURES_FILE, BARS_FILE, PROMPT_SCORES_FILE)
LATER_TABLES = (*LATER_RUN_TABLES, ADDED_FILE, RERUN_FILE)
# What trajectory.json names the SHA-256 of, and what comparison.json does.
RUN_TABLES = (VELOCITY_FILE, SUMMARIES_FILE, DISTANCES_FILE, CONTROLS_FILE, BEHAVIOUR_FILE, MOVEMENT_FILE)
COMPARISON_TABLES = (
    "comparison.csv", "separation.csv", "map.csv", "effects.csv", "classification.csv", "verdicts.csv"
)  # fmt: skip
COMPARISON_PICTURES = ("velocity.png", "separation.png", "map.png", "effects.png", "verdicts.png")
# The summaries that stand beside those of Gaussian clouds in the table of controls.
CONTROL_SUMMARIES = SHOWN_SUMMARIES


def model_file(model: str) -> Path:
    return Path("models") / f"{model}.json"


@dataclass(frozen=True)
class Run:
    """One fine-tuning of a study.

    >>> run = Run("tiny", "helpful", 0)
    >>> str(run), run.folder("diagrams").as_posix()
    ('tiny-helpful-0', 'diagrams/tiny/helpful/seed_0')
    """

    model: str
    objective: str
    seed: int  # of training: the order of the rows and the first adapter weights

    def __str__(self) -> str:
        return f"{self.model}-{self.objective}-{self.seed}"

    def folder(self, kind: str) -> Path:
        """Where outs of the run stand: kind is activations, tuned, diagrams, results or sensitivity."""
        return Path(kind) / self.model / self.objective / f"seed_{self.seed}"

    def without_seed(self, several_models: bool) -> str:
        """The name that the run shares with those of other seeds: its objective, after its model if there are several.

        >>> Run("tiny", "helpful", 0).without_seed(True)
        'tiny, helpful'
        """
        return f"{self.model}, {self.objective}" if several_models else self.objective


def rows_file(objective: str) -> Path:
    return PROMPTS_FILE.with_name(f"{objective}.jsonl")


def again(stage: str, root: Path = Path(), force: bool = True) -> str:
    """The command that makes the outs of one stage again, as the end of an error's sentence.

    >>> again("compare")
    'make it again with: dvc repro --force --single-item compare'
    """
    where = "" if root == Path() else f" (in {root})"
    return f"make it again with: dvc repro {'--force ' * force}--single-item {stage}{where}"


def hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of files of a folder, by name: what vouches for results."""
    return {name: sha256_of_file(folder / name) for name in names}


def check_hashes(
    folder: Path, vouched: Mapping[str, str], remedies: Mapping[str, str], remedy: str, partly: bool = False
) -> None:
    """Refuse a folder of results in which a file is not the one that its manifest vouches for.

    Parameters
    ----------
    folder : Path
    vouched : mapping of str to str
        File name to SHA-256, as `hashes` gives them.
    remedies : mapping of str to str
        What to do about a file of this name; `remedy` for those of any other.
    partly : bool
        Whether files may be missing.

    Raises
    ------
    InvalidFile
        At the first that is missing or another.
    """
    for name, digest in vouched.items():
        path, told = folder / name, remedies.get(name, remedy)
        if not path.is_file():
            if partly and not path.exists():
                continue
            raise InvalidFile(path, "is missing", told)
        if (found := sha256_of_file(path)) != digest:
            problem = f"has been altered since it was made (SHA-256 {str(digest)[:12]}, and now {found[:12]})"
            raise InvalidFile(path, problem, told)


def read_json_lines(path: Path) -> list[Any]:
    return [_parse(line, path) for line in _read(path).split("\n") if line]


def read_model(path: Path) -> dict[str, Any]:
    """A model's description, as models/NAME.json holds it."""
    return dict(schemas.check("model", path, read_json(path), again(f"model@{path.stem}")))


def read_prompts(path: Path = PROMPTS_FILE) -> list[Any]:
    """The evaluation prompts, one a line."""
    return [line["prompt"] if isinstance(line, dict) else line for line in _prompt_lines(path)]


def read_labels(path: Path = PROMPTS_FILE) -> list[str] | None:
    """The label of each evaluation prompt; None where they carry none."""
    labels = [line["label"] for line in _prompt_lines(path) if isinstance(line, dict)]
    return labels or None


def _prompt_lines(path: Path) -> list[Any]:
    lines = read_json_lines(path)
    return [schemas.check("prompt", path, line, again("prompts")) for line in lines]


def read_training_rows(objective: str) -> list[Any]:
    """The training rows that `prepare` drew of an objective, one a line.

    The first line of a variant is no row: it says what differs in its training, so that DVC knows when that changes.
    """
    lines = [line for line in read_json_lines(rows_file(objective)) if HELD_OUT not in line]
    return lines[1:] if lines and VARIANT in lines[0] else lines


def read_held_out_rows(objective: str) -> dict[str, list[Any]]:
    """The rows on which the loss of a training is measured, by the objective that they are of."""
    found: dict[str, list[Any]] = {}
    for line in read_json_lines(rows_file(objective)):
        if name := line.pop(HELD_OUT, None):
            found.setdefault(name, []).append(line)
    return found


def read_checkpoints(objective: str) -> list[dict[str, Any]]:
    """The checkpoints that `prepare` wrote down of an objective, one a line."""
    path = rows_file(objective)
    return [
        schemas.check("checkpoint", path, line, again(f"prepare@{objective}"))
        for line in read_json_lines(path)
    ]


def read_json(path: Path) -> Any:
    return _parse(_read(path), path)


def _parse(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # too deeply nested
        raise InvalidFile(path, f"is not JSON as an earlier stage writes it: {error}", _AGAIN) from None


def _read(path: Path) -> str:
    with _explained(path):
        return read_text(path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Raise InvalidFile, which names the file, in place of what reading it as text or as a table raises."""
    try:
        yield
    except FileNotFoundError:
        # in a new clone or git worktree of a study, what git does not hold is in DVC's cache or remote
        raise InvalidFile(
            path,
            "must have been made by an earlier stage",
            "make it with: dvc repro; or fetch it, where a remote has it, with: dvc pull",
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidFile(path, f"is not UTF-8 text: {error}", _AGAIN) from None
    except csv.Error as error:
        raise _no_table(path, error) from None


_AGAIN = "make it again with: dvc repro"
# Columns that name a row and are always there.
_KEYS = ("layer", "step", "previous_step", "other_step")


def _no_table(path: Path, problem: object) -> InvalidFile:
    return InvalidFile(path, f"is not a table as topoflow writes it: {problem}", _AGAIN)


def _check_columns(path: Path, fields: Sequence[str], columns: Sequence[str]) -> None:
    if lost := [name for name in columns if name not in fields]:
        more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
        raise _no_table(path, f"it lacks the columns {', '.join(lost[:4])}{more}")


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A CSV file; a missing value (None or NaN) is an empty field, a float its shortest exact form."""
    write_file(path, _lines(header, rows))


def _lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[bytes]:
    """The lines of a CSV file, one at a time, since a table may be too large to hold."""
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    plain = (["" if value is None or value != value else _plain(value) for value in row] for row in rows)
    for row in chain([header], plain):
        writer.writerow(row)
        yield line.getvalue().encode()
        line.seek(0)
        line.truncate()


def _plain(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + value  # else a spreadsheet would run it
    return value.item() if isinstance(value, np.generic) else value


def read_rows(path: Path, columns: Sequence[str] = ()) -> list[dict[str, str]]:
    """The rows of a table with names in it; `columns` must be there."""
    reader = csv.DictReader(io.StringIO(_read(path), newline=""))
    with _explained(path):
        _check_columns(path, reader.fieldnames or (), columns)
        rows = list(reader)
    if any(None in row or None in row.values() for row in rows):
        raise _no_table(path, "a row is not as long as the header")
    return rows


def read_columns(
    path: Path, columns: Sequence[str] | None = None, finite: bool = True
) -> dict[str, npt.NDArray[np.float64]]:
    """A table of numbers by its columns; an empty field, a missing value, is NaN.

    It is read a row at a time, and eight bytes a number are held.

    Parameters
    ----------
    path : Path
    columns : sequence of str, optional
        The columns to hold, which must be there; without it, all.
    finite : bool
        Whether to refuse infinity, which only what a trainer logs may hold.

    Returns
    -------
    dict of str to ndarray of float64, shape (n_rows,)

    Raises
    ------
    InvalidFile
        When there is no such table, it is not one of numbers, or lacks a column; the message names the file.
    """
    with _explained(path), open_text(path) as file:
        table = _columns(path, csv.reader(file), columns)
    for name, values in table.items():
        if finite and np.isinf(values).any():
            raise _no_table(path, f"{name} holds an infinite number")
        if name in _KEYS and not ((values >= 0) & (values < 2**53) & (values == np.floor(values))).all():
            raise _no_table(path, f"{name} must be whole numbers")
    return table


def _columns(
    path: Path, rows: Iterator[list[str]], columns: Sequence[str] | None
) -> dict[str, npt.NDArray[np.float64]]:
    fields = next(rows, [])
    _check_columns(path, fields, columns or ())
    if len(set(fields)) < len(fields):
        raise _no_table(path, "two columns have one name")
    held = {name: array("d") for name in (fields if columns is None else columns)}
    places = [(fields.index(name), values) for name, values in held.items()]
    for row in filter(None, rows):
        if len(row) != len(fields):
            raise _no_table(path, "a row is not as long as the header")
        try:
            for place, values in places:
                values.append(float(row[place]) if row[place] else math.nan)
        except ValueError as error:
            raise _no_table(path, error) from None
    return {name: np.array(values) for name, values in held.items()}


def read_table(path: Path, columns: Sequence[str] = (), finite: bool = True) -> list[dict[str, float]]:
    """The rows of a small table of numbers, as `read_columns` has all its columns, `columns` among them."""
    table = read_columns(path, finite=finite)
    _check_columns(path, list(table), columns)
    return [
        dict(zip(table, row, strict=True)) for row in zip(*(v.tolist() for v in table.values()), strict=True)
    ]


def read_velocity(
    path: Path, column: str
) -> tuple[npt.NDArray[np.int64], dict[int, npt.NDArray[np.float64]]]:
    """The checkpoints of a velocity table, and one column of it a layer."""
    table = read_columns(path, ["layer", "previous_step", "step", column])
    before, after = by_layer(table, "previous_step"), by_layer(table, "step")
    if not after:
        raise _no_table(path, "it has no rows")
    first = min(after)
    steps = np.array([before[first][0], *after[first]], dtype=np.int64)
    alike = all(
        np.array_equal(before[layer], steps[:-1]) and np.array_equal(after[layer], steps[1:])
        for layer in after
    )
    if not alike or (np.diff(steps) <= 0).any():
        raise _no_table(path, "each layer must have every step, once and in order")
    return steps, by_layer(table, column)


def by_layer(table: Mapping[str, npt.NDArray[np.float64]], name: str) -> dict[int, npt.NDArray[np.float64]]:
    """One column of a table that has the column `layer`, in pieces: the values of each layer, from the shallowest."""
    return {int(layer): table[name][table["layer"] == layer] for layer in np.unique(table["layer"])}
