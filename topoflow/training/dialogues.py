"""Rows in the forms that people have, as one: a dialogue of messages, split before its last answer.

Whatever the spelling (HH-RLHF's text, TRL's prompt/completion and preferences, `messages`, ShareGPT's
`conversations`, Alpaca's `instruction`), a row becomes one dialogue first. All else looks at dialogues only: what is
drawn, what is held out because it is an evaluation prompt, what is trained on.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from topoflow.errors import InvalidArgument

logger = logging.getLogger(__name__)

Message = dict[str, str]
Row = dict[str, list[Message]]

_HH_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_TEXT = re.compile(r"\n*Human:")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_SHAREGPT_ROLES = {"human": "user", "gpt": "assistant"}
_TOOL_ROLES = ("tool", "function", "ipython", "function_call", "observation")
_SURROGATE = re.compile("[\ud800-\udfff]")

# Why a row is left out; each completes "left out: 3 ..."
NO_ANSWER = "that do not end in an answer to something"
NO_TURNS = "whose text has no turns of Human and Assistant"
TOOLS = "with calls of tools"
TWO_DIALOGUES = "whose prompt is not in their dialogue"


class _LeftOut(Exception):
    """A row that cannot be used, and why."""


def parse_rows(
    rows: Iterable[Mapping[str, Any]],
    origin: str,
    left_out: Counter[str] | None = None,
    labels: list[Any] | None = None,
) -> Iterator[Row]:
    """Rows in any of the known forms as `{"prompt": messages, "completion": messages}`.

    Prompts without a completion (evaluation prompts) have an empty one. Rows that cannot be used are left out:
    dialogues that do not end in an answer of the assistant, of which HH-RLHF holds a few; dialogues with calls of
    tools, which would be trained on by halves.

    Parameters
    ----------
    rows : iterable of mappings
    origin : str
        Where they are from, for messages.
    left_out : Counter, optional
        Is told how many rows were left out for each reason.
    labels : list, optional
        Is told what the column `label` holds of each row that is yielded; None where there is none.

    Raises
    ------
    InvalidArgument
        When a row has no known form; its number is named.

    Examples
    --------
    >>> row = {"chosen": "\\n\\nHuman: Hi.\\n\\nAssistant: Hello!"}
    >>> next(parse_rows([row], "example"))
    {'prompt': [{'role': 'user', 'content': 'Hi.'}], 'completion': [{'role': 'assistant', 'content': 'Hello!'}]}
    >>> list(parse_rows([{"prompt": "Hi.", "completion": ""}], "example", reasons := Counter())), reasons
    ([], Counter({'that do not end in an answer to something': 1}))
    """
    reasons: Counter[str] = Counter() if left_out is None else left_out
    mended = 0
    for number, row in enumerate(rows, 1):
        try:
            messages, is_answered = _dialogue(row, f"row {number} of {origin}")
        except _LeftOut as why:
            reasons[str(why)] += 1
            continue
        whole = [{**message, "content": _whole(message["content"])} for message in messages]
        mended += whole != messages
        if (is_answered and (len(whole) < 2 or whole[-1]["role"] != "assistant")) or not whole:
            reasons[NO_ANSWER] += 1
            continue
        if labels is not None:
            labels.append(row.get("label"))
        if is_answered:
            yield {"prompt": whole[:-1], "completion": whole[-1:]}
        else:
            yield {"prompt": whole, "completion": []}
    if mended:
        logger.warning(
            "%d rows of %s have half a character (a lone surrogate), read as U+FFFD", mended, origin
        )


def parse_dialogue(text: str) -> list[Message]:
    """A dialogue of HH-RLHF as messages.

    >>> parse_dialogue("\\n\\nHuman: Hi.\\n\\nAssistant: Hello!\\n\\nHuman: Bye.")[-1]
    {'role': 'user', 'content': 'Bye.'}
    """
    _, *parts = _HH_TURN.split("\n\n" + _unix(text).lstrip("\n"))
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": _HH_ROLES[speaker], "content": content.strip()} for speaker, content in turns]


def identity(messages: Sequence[Message]) -> str:
    """What makes two dialogues the same: their words, whatever the case and the white space."""
    return "\n".join(f"{m['role']}: {' '.join(m['content'].casefold().split())}" for m in messages)


def without_system(messages: Sequence[Message]) -> list[Message]:
    """The turns of user and assistant."""
    return [message for message in messages if message["role"] != "system"]


def _dialogue(row: Mapping[str, Any], where: str) -> tuple[list[Message], bool]:
    """A row's whole dialogue, and whether it is to end in an answer (it is not where only a prompt is given)."""
    # tables give every row all columns; those that a row does not have are null
    given = {key: value for key, value in row.items() if value is not None}
    if given.get("tools"):
        raise _LeftOut(TOOLS)
    if "instruction" in given and "prompt" not in given:  # Alpaca
        given = _from_alpaca(given, where)
    prompt = _turns(given["prompt"], "user", where) if "prompt" in given else []
    if isinstance(system := given.get("system"), str):  # beside ShareGPT's conversations
        prompt = [{"role": "system", "content": system}, *prompt]
    for key in ("chosen", "messages", "conversations", "completion"):
        if key in given:
            break
    else:
        if "prompt" not in given:
            raise InvalidArgument(
                where,
                "a dialogue: 'chosen', 'messages', 'conversations', 'prompt' or 'instruction'",
                sorted(map(str, row)),
            )
        return _merge_turns(prompt), False
    answer = given[key]
    if isinstance(answer, str) and "prompt" not in given and key == "chosen":
        if not _HH_TURN.search("\n\n" + _unix(answer).lstrip("\n")):
            raise _LeftOut(NO_TURNS)
        return _merge_turns([*prompt, *parse_dialogue(answer)]), True
    if isinstance(answer, str) and _is_hh(given.get("prompt")) and not _is_hh(answer):
        # the rest of one text: more turns may follow
        return _merge_turns([*prompt, *parse_dialogue("Assistant:" + answer)]), True
    return _joined(_merge_turns(prompt), _merge_turns(_turns(answer, "assistant", where))), True


def _joined(prompt: list[Message], answer: list[Message]) -> list[Message]:
    """A prompt and what answers it as one dialogue, in which the prompt stands once, wherever it was written."""
    asked, told = without_system(prompt), without_system(answer)
    if not told:
        raise _LeftOut(NO_ANSWER)
    system = [m for m in answer if m["role"] == "system"] or [m for m in prompt if m["role"] == "system"]
    # a whole dialogue begins with a question; what only answers does not, nor what goes on after an answer
    if told[0]["role"] == "assistant":
        return _merge_turns([*prompt, *answer])
    starts = range(len(told) - len(asked) + 1)
    if any(identity(told[at : at + len(asked)]) == identity(asked) for at in starts):
        return _merge_turns([*system, *told])
    if asked[-1]["role"] == "assistant":
        return _merge_turns([*prompt, *answer])
    raise _LeftOut(TWO_DIALOGUES)


def _from_alpaca(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    parts = [row["instruction"], row.get("input", "")]
    if not all(isinstance(part, str) for part in parts) or row.get("history"):
        raise InvalidArgument(where, "an instruction and an input of text, without a history", dict(row))
    asked = {"prompt": "\n\n".join(part.strip() for part in parts if part.strip())}
    if "system" in row:
        asked["system"] = row["system"]
    return {**asked, "completion": row["output"]} if "output" in row else asked


def _turns(value: Any, role: str, where: str) -> list[Message]:
    """Text, HH-RLHF's text or messages, as messages."""
    if not isinstance(value, str):
        return _messages(value, where)
    if _is_hh(value):
        return parse_dialogue(value)
    return [{"role": role, "content": _unix(value).strip()}]


def _is_hh(value: Any) -> bool:
    """Whether it is text in the form of HH-RLHF, and not text that happens to begin with the word Human."""
    if not isinstance(value, str) or not _HH_TEXT.match(value := _unix(value)):
        return False
    return value.startswith("\n\n") or "\n\nAssistant:" in value


def _messages(value: Any, where: str) -> list[Message]:
    messages = []
    try:
        for item in value:
            # datasets' tables give every message all keys; those that it does not have are null
            name = item["role"] if item.get("role") is not None else item["from"]
            if name in _TOOL_ROLES or item.get("tool_calls") or item.get("function_call"):
                raise _LeftOut(TOOLS)
            content = item["content"] if item.get("content") is not None else item["value"]
            messages.append({"role": _SHAREGPT_ROLES.get(name, name), "content": _unix(content).strip()})
    except (AttributeError, TypeError, KeyError):
        raise InvalidArgument(where, "text, or messages with 'role' and 'content'", value) from None
    for message in messages:
        if message["role"] not in ("system", "user", "assistant"):
            raise InvalidArgument(where, "of the roles system, user and assistant", message["role"])
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


def _unix(text: str) -> str:
    """Text with one kind of line end."""
    return text.replace("\r\n", "\n")


def _whole(text: str) -> str:
    """Text that UTF-8 can write: half of a pair of surrogates, as text cut in UTF-16 ends in, is U+FFFD."""
    return (
        text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if _SURROGATE.search(text)
        else text
    )
