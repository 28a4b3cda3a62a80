"""Text: an objective's training rows and the evaluation prompts, as TRL's conversational prompt/completion.

Rows are read from the forms people have: HH-RLHF as published (`chosen`: the dialogue as text), TRL's
`prompt`/`completion` (text or messages) and `messages`. What is trained on is the last assistant turn;
what comes before it is the prompt.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topoflow.config import FileText, MixedText, Params, PlainText, SampleText, TextSource
from topoflow.samples import load_samples
from topoflow.training.models import readable_hub_errors

Message = dict[str, str]
Row = dict[str, list[Message]]

_LONGEST_LINE = 16 << 20
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


def evaluation_prompts(params: Params) -> list[list[Message]]:
    """The fixed evaluation prompts, drawn once by the seed: one point of every cloud each.

    Raises
    ------
    ValueError
        When the source has fewer than `prompts.n_prompts` distinct prompts.
    """
    chosen: dict[str, list[Message]] = {}
    for name, text, count in _parts(params, "prompts", params.prompts.text, params.prompts.n_prompts):
        distinct = {_identity(row["prompt"]): row["prompt"] for row in _source_rows(text)}
        pool = [(key, prompt) for key, prompt in distinct.items() if key not in chosen]
        if len(pool) < count:
            raise ValueError(
                f"prompts.n_prompts must be at most the distinct prompts there are: {count} are wanted of "
                f"{name!r}, which has {len(pool)}"
            )
        order = _generator(params.seed, f"prompts {name}").permutation(len(pool))
        chosen.update(pool[i] for i in order[:count])
    return list(chosen.values())


def training_rows(params: Params, objective: str, prompts: Sequence[list[Message]]) -> list[Row]:
    """The training rows of an objective, in training order, none of a dialogue with an evaluation prompt in it.

    Left out are rows that go on from an evaluation prompt, and rows that an evaluation prompt goes on from: their
    answers would be trained on, and stand in the prompt.

    A mix takes its shares from the rows that its objectives would draw alone.

    Raises
    ------
    ValueError
        When the objective has fewer than `prepare.n_rows` distinct rows left.
    """
    held_out = {_identity(prompt) for prompt in prompts}
    beginnings = {start for prompt in prompts for start in _beginnings(prompt)}
    rows = []
    source = params.objective_source(objective)
    if not isinstance(source, TextSource):
        raise ValueError(f"objective must be text to train on, got the checkpoints {objective!r}")
    for name, text, count in _parts(params, objective, source, params.prepare.n_rows):
        distinct = {}
        for row in _source_rows(text):
            dialogue = _identity(row["prompt"] + row["completion"])
            goes_on = not held_out.isdisjoint(_beginnings(row["prompt"]))
            if row["completion"] and not goes_on and dialogue not in beginnings:
                distinct[dialogue] = row
        if len(distinct) < count:
            raise ValueError(
                f"prepare.n_rows must be at most the distinct rows without an evaluation prompt: {count} are "
                f"wanted of {name!r}, which has {len(distinct)}"
            )
        pool = list(distinct.values())
        rows += [pool[i] for i in _generator(params.seed, name).permutation(len(pool))[:count]]
    return [rows[i] for i in _generator(params.seed, f"order of {objective}").permutation(len(rows))]


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


def _source_rows(text: PlainText) -> Iterator[Row]:
    """Every usable row of a source, in its own order."""
    if isinstance(text, SampleText):
        yield from parse_rows(load_samples(text.name), f"samples {text.name}")
    elif isinstance(text, FileText):
        yield from parse_rows(read_jsonl(text.path), text.path)
    else:
        import datasets

        with readable_hub_errors("dataset", text.id, text.revision):
            rows = datasets.load_dataset(
                text.id, data_dir=text.data_dir, revision=text.revision, split=text.split
            )
        yield from parse_rows(rows, text.id)


def read_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl or .jsonl.gz file.

    Raises
    ------
    ValueError
        When the file is missing or a line is not a JSON object; the line's number is named.
    """
    if not Path(path).is_file():
        raise ValueError(f"path must be a .jsonl or .jsonl.gz file, and {path} is none")
    for number, line in enumerate(_lines(Path(path)), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} line {number} must be a JSON object: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path} line {number} must be a JSON object, got {row!r}")
        yield row


def _lines(path: Path) -> Iterator[str]:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            while line := lines.readline(_LONGEST_LINE + 1):
                if len(line) > _LONGEST_LINE:  # a few bytes of gzip may stand for any number of them
                    raise ValueError(f"{path} must have lines of at most {_LONGEST_LINE} characters")
                yield line
    except (gzip.BadGzipFile, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise ValueError(f"{path} must be whole UTF-8 text, gzipped if it is called .gz: {error}") from None


def jsonl_bytes(rows: Iterable[Any]) -> bytes:
    """Rows as JSON lines, one form for equal rows."""
    return "".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows).encode()


def parse_rows(rows: Iterable[Mapping[str, Any]], origin: str) -> Iterator[Row]:
    """Rows in any of the known forms as `{"prompt": messages, "completion": messages}`.

    Dialogues that do not end in an answer of the assistant are left out: HH-RLHF holds a few. Prompts
    without a completion (evaluation prompts) have an empty one.

    Examples
    --------
    >>> row = {"chosen": "\\n\\nHuman: Hi.\\n\\nAssistant: Hello!"}
    >>> next(parse_rows([row], "example"))
    {'prompt': [{'role': 'user', 'content': 'Hi.'}], 'completion': [{'role': 'assistant', 'content': 'Hello!'}]}
    """
    for number, row in enumerate(rows, 1):
        where = f"row {number} of {origin}"
        if "prompt" in row and "chosen" in row:  # a preference with its prompt apart
            row = {"prompt": row["prompt"], "completion": row["chosen"]}
        if "chosen" in row:
            chosen = row["chosen"]
            messages = parse_dialogue(chosen) if isinstance(chosen, str) else _check_messages(chosen, where)
        elif "messages" in row:
            messages = _check_messages(row["messages"], where)
        elif "prompt" in row:
            messages = _as_messages(row["prompt"], "user", where)
            if "completion" not in row:
                if messages := _merge_turns(messages):
                    yield {"prompt": messages, "completion": []}
                continue
            messages = messages + _as_messages(row["completion"], "assistant", where)
        else:
            raise ValueError(f"{where} must have 'chosen', 'messages' or 'prompt', got {sorted(row)}")
        messages = _merge_turns(messages)
        if len(messages) >= 2 and messages[-1]["role"] == "assistant":
            yield {"prompt": messages[:-1], "completion": messages[-1:]}


def parse_dialogue(text: str) -> list[Message]:
    """A dialogue of HH-RLHF as messages.

    >>> parse_dialogue("\\n\\nHuman: Hi.\\n\\nAssistant: Hello!\\n\\nHuman: Bye.")[-1]
    {'role': 'user', 'content': 'Bye.'}
    """
    _, *parts = _HH_TURN.split("\n\n" + text.lstrip("\n"))
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _HH_ROLES[speaker], "content": content.strip()} for speaker, content in turns]


def _as_messages(value: Any, role: str, where: str) -> list[Message]:
    return (
        [{"role": role, "content": value.strip()}]
        if isinstance(value, str)
        else _check_messages(value, where)
    )


def _check_messages(value: Any, where: str) -> list[Message]:
    try:
        messages = [{"role": item["role"], "content": item["content"].strip()} for item in value]
    except (AttributeError, TypeError, KeyError):
        raise ValueError(
            f"{where} must hold text or messages with 'role' and 'content', got {value!r}"
        ) from None
    for message in messages:
        if message["role"] not in ("system", "user", "assistant"):
            raise ValueError(f"{where} must hold roles system, user and assistant, got {message['role']!r}")
    return messages


def _merge_turns(messages: Iterable[Message]) -> list[Message]:
    """Empty turns dropped and neighbours of one role joined: chat templates expect them to alternate."""
    merged: list[Message] = []
    for message in messages:
        if not message["content"]:
            continue
        if merged and merged[-1]["role"] == message["role"]:
            content = merged.pop()["content"] + "\n\n" + message["content"]
            message = {"role": message["role"], "content": content}
        merged.append(message)
    return merged


def _beginnings(messages: Sequence[Message]) -> Iterator[str]:
    """A dialogue as it stood after each turn: many of HH-RLHF's go on from one another."""
    return (_identity(messages[:end]) for end in range(1, len(messages) + 1))


def _identity(messages: Sequence[Message]) -> str:
    """What makes two dialogues the same: their words, whatever the case and the white space."""
    return "\n".join(f"{m['role']}: {' '.join(m['content'].casefold().split())}" for m in messages)


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """Random choices from the one seed, independent between purposes."""
    return np.random.default_rng([seed, *purpose.encode()])
