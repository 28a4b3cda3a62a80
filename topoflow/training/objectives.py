"""Text: an objective's training rows and the evaluation prompts, as TRL's conversational prompt/completion.

Rows are read from what people have (JSON lines or an array, CSV, parquet, a saved `datasets` folder, the Hub) and in
the forms that `training.dialogues` knows. What is trained on is the last assistant turn; what comes before it is the
prompt.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from topoflow.config import (
    FileText,
    MixedText,
    Params,
    PlainText,
    Rerun,
    SampleText,
    ShuffledText,
    TextSource,
    Variant,
)
from topoflow.dynamics.labels import check_labels
from topoflow.errors import InvalidArgument, InvalidFile, quoted
from topoflow.samples import load_samples
from topoflow.training.dialogues import Message, Row, identity, parse_rows, without_system
from topoflow.training.models import readable_hub_errors

logger = logging.getLogger(__name__)

_LONGEST_LINE = 16 << 20
_LONGEST_ARRAY = 1 << 28  # characters: an array is read whole

# Why a row is not drawn, beside the reasons of `training.dialogues`.
REPEATED = "that repeat another"
UNANSWERED = "without an answer"
HELD_OUT = "that are evaluation prompts or of one dialogue with them"


def evaluation_prompts(params: Params) -> list[list[Message]]:
    """The fixed evaluation prompts, drawn once by the seed: one point of every cloud each.

    Raises
    ------
    InvalidArgument
        When the source has fewer than `prompts.n_prompts` distinct prompts; says how many rows were left out and why.
    """
    return [prompt for prompt, _ in _drawn_prompts(params)]


def labelled_prompts(params: Params) -> tuple[list[list[Message]], tuple[str, ...] | None]:
    """The same with what the column `label` says of each; None where no prompt has one.

    Raises
    ------
    InvalidArgument
        As `evaluation_prompts` does, and as `check_labels` does of what the column holds.
    """
    drawn = _drawn_prompts(params)
    labels = [label for _, label in drawn]
    if all(label is None for label in labels):
        return [prompt for prompt, _ in drawn], None
    try:
        return [prompt for prompt, _ in drawn], check_labels(labels, len(drawn))
    except InvalidArgument as error:
        remedy = "call the column otherwise, if it holds no classes of prompts"
        raise InvalidArgument("prompts: labels", error.expected, error.got, remedy) from None


def _drawn_prompts(params: Params) -> list[tuple[list[Message], Any]]:
    """The evaluation prompts, each with its label; of prompts that are repeated, the label of the last."""
    chosen: dict[str, tuple[list[Message], Any]] = {}
    for name, text, count in _parts(params, "prompts", params.prompts.text, params.prompts.n_prompts):
        reasons: Counter[str] = Counter()
        distinct: dict[str, tuple[list[Message], Any]] = {}
        labels: list[Any] = []
        for row in _source_rows(text, reasons, labels):
            reasons[REPEATED] += identity(row["prompt"]) in distinct
            distinct[identity(row["prompt"])] = row["prompt"], labels.pop()
        pool = [(key, prompt) for key, prompt in distinct.items() if key not in chosen]
        _check_enough("prompts.n_prompts", name, len(pool), count, reasons)
        order = _generator(params.seed, f"prompts {name}").permutation(len(pool))
        chosen.update(pool[i] for i in order[:count])
    return list(chosen.values())


def training_rows(
    params: Params,
    objective: str,
    prompts: Sequence[list[Message]],
    left_out: Counter[str] | None = None,
) -> list[Row]:
    """The training rows of an objective, in training order, none of a dialogue with an evaluation prompt in it.

    Left out are rows that go on from an evaluation prompt, and rows that an evaluation prompt goes on from: their
    answers would be trained on, and stand in the prompt. A system message makes no difference to that.

    A mix takes its shares from the rows that its objectives would draw alone. A variant or a rerun has the rows of its
    objective, and so has a shuffled one, with their prompts in the same places and their answers in others.

    Parameters
    ----------
    params : Params
    objective : str
    prompts : sequence of lists of messages
        The evaluation prompts.
    left_out : Counter, optional
        Is told how many rows of the sources cannot be drawn for each reason; `counted` makes it a sentence.

    Raises
    ------
    InvalidArgument
        When the objective has fewer than `prepare.n_rows` distinct rows left; says how many were left out and why.
        When it is shuffled, and one prompt or answer is that of so many rows that most would keep theirs.
    """
    source = params.objective_source(objective)
    if isinstance(source, Rerun | Variant):
        return training_rows(params, source.of, prompts, left_out)
    if isinstance(source, ShuffledText):
        return _shuffled(params, objective, training_rows(params, source.of, prompts, left_out))
    rows: list[Row] = []
    if not isinstance(source, TextSource):
        raise InvalidArgument("objective", "text to train on and not checkpoints", objective)
    for name, text, count in _parts(params, objective, source, params.prepare.n_rows):
        reasons: Counter[str] = Counter()
        pool = _in_drawn_order(params, name, text, prompts, reasons)
        _check_enough("prepare.n_rows", name, len(pool), count, reasons)
        if left_out is not None:
            left_out.update(reasons)
        rows += pool[:count]
    return [rows[i] for i in _generator(params.seed, f"order of {objective}").permutation(len(rows))]


def held_out_rows(params: Params, objective: str, prompts: Sequence[list[Message]]) -> dict[str, list[Row]]:
    """Rows that no training of the study reads, by the objective that they are of; as `Prepare` says.

    They come after the rows that are drawn for training, in the same order, and none asks what one of those asks.
    """
    found = {}
    for name in params.held_out(objective):
        text = params.objective_source(name)
        assert isinstance(text, PlainText)
        pool = _in_drawn_order(params, name, text, prompts, Counter())
        trained, rest = pool[: params.prepare.n_rows], pool[params.prepare.n_rows :]
        asked = {identity(without_system(row["prompt"])) for row in trained}
        new = [row for row in rest if identity(without_system(row["prompt"])) not in asked]
        found[name] = new[: params.prepare.held_out]
    return {name: rows for name, rows in found.items() if rows}


def _in_drawn_order(
    params: Params, name: str, text: PlainText, prompts: Sequence[list[Message]], reasons: Counter[str]
) -> list[Row]:
    """All distinct rows of a source that can be drawn, in the order in which they are; why others cannot is counted."""
    held_out = {identity(without_system(prompt)) for prompt in prompts}
    beginnings = {start for prompt in prompts for start in _beginnings(prompt)}
    distinct: dict[str, Row] = {}
    for row in _source_rows(text, reasons):
        dialogue = [*row["prompt"], *row["completion"]]
        if not row["completion"]:
            reasons[UNANSWERED] += 1
        elif (
            not held_out.isdisjoint(_beginnings(row["prompt"]))
            or identity(without_system(dialogue)) in beginnings
        ):
            reasons[HELD_OUT] += 1
        else:
            reasons[REPEATED] += identity(dialogue) in distinct
            distinct[identity(dialogue)] = row
    pool = list(distinct.values())
    return [pool[i] for i in _generator(params.seed, name).permutation(len(pool))]


def _shuffled(params: Params, objective: str, rows: Sequence[Row]) -> list[Row]:
    """The same prompts in the same order, each with the answer of another row: of another prompt and another text.

    Rows that share a prompt or an answer are put side by side in an order drawn by the seed. Then each takes the answer
    that lies as many places on as the largest such group is long: as few keep theirs as can be.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(rows)
    asked, answered = (_numbered(identity(row[part]) for row in rows) for part in ("prompt", "completion"))
    shared = coo_array((np.ones(n), (asked, n + answered)), shape=(2 * n, 2 * n))
    groups = connected_components(shared, directed=False)[1][asked]
    drawn = _generator(params.seed, f"answers of {objective}").permutation(n)
    order = drawn[np.argsort(_numbered(groups[drawn]), kind="stable")]
    moved = np.empty(n, dtype=np.int64)
    moved[order] = np.roll(order, -int(np.bincount(groups).max()))
    kept = int((groups[moved] == groups).sum())
    if 2 * kept > n:
        raise InvalidArgument(
            f"objective.{objective}.of",
            "an objective with enough different prompts and answers",
            params.made_of(objective)[1],
            f"{kept:,} of {n:,} rows would keep theirs",
        )
    if kept:
        logger.warning("%d of %d rows of %s keep their own answer, or one like it", kept, n, objective)
    return [
        {**row, "completion": rows[other]["completion"]}
        for row, other in zip(rows, moved.tolist(), strict=True)
    ]


def _numbered(values: Iterable[Hashable]) -> npt.NDArray[np.int64]:
    """Each value's number in the order in which the different ones come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def counted(left_out: Mapping[str, int]) -> str:
    """Rows left out, by reason, as the end of a sentence; empty where none was.

    >>> counted({"without an answer": 3, "that repeat another": 1200})
    '; left out: 3 without an answer, 1,200 that repeat another'
    """
    parts = ", ".join(f"{number:,} {reason}" for reason, number in left_out.items() if number)
    return f"; left out: {parts}" if parts else ""


def _check_enough(key: str, name: str, there_are: int, wanted: int, left_out: Counter[str]) -> None:
    if there_are < wanted:
        raise InvalidArgument(
            key,
            f"at most what there is to draw from ({there_are} of {name!r})",
            wanted,
            counted(left_out)[2:],
        )


def _parts(params: Params, name: str, text: TextSource, total: int) -> Iterator[tuple[str, PlainText, int]]:
    """What a text is drawn from: (name, source, number of rows), one for a plain source, several for a mix."""
    if not isinstance(text, MixedText):
        yield name, text, total
        return
    shares = np.array(list(text.of.values()))
    counts = np.diff(np.rint(np.cumsum([0, *shares]) / shares.sum() * total)).astype(int)
    for part, count in zip(text.of, counts, strict=True):
        source = params.objective_source(part)
        assert isinstance(source, PlainText)  # others are refused when params.yaml is read
        yield part, source, int(count)


def _source_rows(text: PlainText, left_out: Counter[str], labels: list[Any] | None = None) -> Iterator[Row]:
    """Every usable row of a source, in its own order; why others are not is counted, and `labels` told their labels."""
    if isinstance(text, SampleText):
        yield from parse_rows(load_samples(text.name), f"samples {text.name}", left_out, labels)
    elif isinstance(text, FileText):
        yield from parse_rows(read_rows(text.path), text.path, left_out, labels)
    else:
        import datasets

        with readable_hub_errors("dataset", text.id, text.revision):
            rows = datasets.load_dataset(
                text.id, data_dir=text.data_dir, revision=text.revision, split=text.split
            )
        yield from parse_rows(rows, text.id, left_out, labels)


def read_rows(path: str | Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a local file (JSON lines or array, .gz or not; .csv; .parquet), or of a folder that `datasets` saved.

    Nothing is cached, and no code of the data's is run.

    Raises
    ------
    InvalidFile
        When there is none, or it is not what its name says; the line of a JSON file is named.
    """
    path = Path(path)
    if path.is_dir():
        return _saved_rows(path)
    if not path.is_file():
        raise InvalidFile(path, "is neither a file of rows nor a folder that the library datasets saved")
    if path.suffix in (".csv", ".parquet"):
        return _table_rows(path, _csv_batches if path.suffix == ".csv" else _parquet_batches)
    return read_jsonl(path)


def _saved_rows(folder: Path) -> Iterator[Mapping[str, Any]]:
    import datasets

    try:
        rows = datasets.load_from_disk(str(folder.resolve()))
    except (ValueError, OSError, KeyError, TypeError) as error:  # pyarrow's are ValueErrors
        raise InvalidFile(
            folder, f"is no folder that datasets' save_to_disk wrote: {quoted(str(error))}"
        ) from None
    if isinstance(rows, datasets.DatasetDict):
        splits = ", ".join(str(folder / name) for name in rows)
        raise InvalidFile(folder, "holds several splits", f"name one of them: {splits}")
    yield from rows


def _table_rows(path: Path, batches: Callable[[Path], Iterable[Any]]) -> Iterator[Mapping[str, Any]]:
    # not through datasets: it would copy the table to its cache, and guess that an answer "NA" is a missing one
    import pyarrow as pa

    try:
        for batch in batches(path):
            if len(set(batch.schema.names)) < len(batch.schema.names):
                raise InvalidFile(path, f"has two columns of one name: {quoted(batch.schema.names)}")
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InvalidFile(path, f"is no whole {path.suffix} file: {quoted(str(error))}") from None


def _parquet_batches(path: Path) -> Iterable[Any]:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        yield from table.iter_batches(batch_size=1024)


def _csv_batches(path: Path) -> Iterable[Any]:
    import pyarrow as pa
    from pyarrow import csv

    reading = csv.ReadOptions(block_size=_LONGEST_LINE)
    parsing = csv.ParseOptions(newlines_in_values=True)
    with csv.open_csv(path, reading, parsing) as table:
        names = table.schema.names
    # all of it is text: an answer "35", "NA" or "true" is that
    as_text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    with csv.open_csv(path, reading, parsing, as_text) as table:
        yield from table


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON file, .gz or not: one a line, or one array of them.

    Raises
    ------
    InvalidFile
        When the file is missing or holds anything else; the line's number is named.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidFile(path, "is no file")
    first = next((line for line in _lines(path) if line.strip()), "")
    if first.lstrip().startswith("["):
        yield from _array(path)
        return
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            yield _object(line, path, f"line {number}")


def _array(path: Path) -> Iterator[dict[str, Any]]:
    text, length = [], 0
    for line in _lines(path):
        text.append(line)
        if (length := length + len(line)) > _LONGEST_ARRAY:
            raise InvalidFile(path, "is too long for an array", "write one object a line")
    rows = _parsed("".join(text), path, "as an array")
    for number, row in enumerate(rows, 1):
        yield _checked_object(row, path, f"row {number}")


def _object(text: str, path: Path, where: str) -> dict[str, Any]:
    return _checked_object(_parsed(text, path, where), path, where)


def _parsed(text: str, path: Path, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidFile(path, f"is not JSON, {where}: {error}", "write one object a line") from None


def _checked_object(row: Any, path: Path, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InvalidFile(path, f"has no object, {where}: {quoted(row)}", "write one object a line")
    return row


def _lines(path: Path) -> Iterator[str]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as lines:
            while line := lines.readline(_LONGEST_LINE + 1):
                if len(line) > _LONGEST_LINE:  # a few bytes of gzip may stand for any number of them
                    raise InvalidFile(
                        path, f"has a line of over {_LONGEST_LINE} characters", "write one object a line"
                    )
                yield line
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InvalidFile(path, f"is no whole UTF-8 text, gzipped if it is called .gz: {error}") from None


def jsonl_bytes(rows: Iterable[Any]) -> bytes:
    """Rows as JSON lines, one form for equal rows."""
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()


def _beginnings(messages: Sequence[Message]) -> Iterator[str]:
    """A dialogue as it stood after each turn: many of HH-RLHF's go on from one another."""
    turns = without_system(messages)
    return (identity(turns[:end]) for end in range(1, len(turns) + 1))


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """Random choices from the one seed, independent between purposes."""
    return np.random.default_rng([seed, *purpose.encode()])
