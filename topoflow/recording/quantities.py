"""What is recorded of a model at checkpoints beside its hidden states: a few numbers, each with its definition.

A quantity of one's own is a name, a definition and a function; `TopologyCallback` takes any number of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Any

from torch import nn

from topoflow.errors import InvalidArgument
from topoflow.names import metric_name
from topoflow.recording.callback import plain_text, tokenizer_in
from topoflow.recording.hidden_states import batches_by_length, input_device, padded, undisturbed
from topoflow.topology.point_clouds import check_whole_number

Measure = Callable[[Any, Any], Mapping[str, float]]


@dataclass(frozen=True)
class Quantity:
    """Something measured of a model at each checkpoint, as numbers with names.

    Use it for what hidden states do not say: a loss, the score of a probe, the norm of the weights. The model is in
    evaluation mode and has no gradients then, and the training goes on as if nothing had been measured.

    Parameters
    ----------
    name : str
        The section of its charts in MLflow: letters, digits and underscores.
    definition : str
        What the numbers are, with their unit.
    measure : callable
        Is given the model and the Trainer's `processing_class`, and returns a number for each name. Where several
        processes train, each is asked, and what the first finds is kept.

    Raises
    ------
    InvalidArgument
        When the name is none.

    Examples
    --------
    >>> count = Quantity("weights", "number of weights", lambda model, _: {"all": model.num_parameters()})
    >>> count.name
    'weights'
    """

    name: str
    definition: str
    measure: Measure

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise InvalidArgument("name", "letters, digits and underscores", self.name)

    def of(self, model: nn.Module, tokenizer: Any) -> dict[str, float]:
        """Measure a model.

        Parameters
        ----------
        model : nn.Module
            It is left as it was found.
        tokenizer : object
            The Trainer's `processing_class`, or whatever else `measure` is to be given.

        Returns
        -------
        dict of str to float
            The numbers, by their names in MLflow: `name` of the quantity, a slash, and the name of the number.

        Raises
        ------
        InvalidArgument
            When `measure` does not return a number for each name.

        Examples
        --------
        >>> def weights(model, tokenizer):
        ...     return {"all": sum(weight.numel() for weight in model.parameters())}
        >>> Quantity("weights", "number of weights", weights).of(nn.Linear(3, 2), None)
        {'weights/all': 8.0}
        """
        with undisturbed(model):
            found = self.measure(model, tokenizer)
        if not isinstance(found, Mapping) or not all(isinstance(value, Real) for value in found.values()):
            raise InvalidArgument(
                f"measure of quantity {self.name!r}", "a function that returns a number for each name", found
            )
        return {metric_name(self.name, str(key)): float(value) for key, value in found.items()}


def held_out_loss(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], *, batch_size: int = 16, max_length: int = 512
) -> Quantity:
    """Make a quantity of the loss on rows that are not trained on: whether a model learns, and what it forgets.

    It is the mean cross-entropy of the answers' tokens, each row's after its prompt, in nats a token. TRL's
    `eval_loss` of the same rows in one batch, with `completion_only_loss`, is the same number.

    Parameters
    ----------
    rows : mapping of str to sequences
        By name, such as that of an objective, the rows: `{"prompt": ..., "completion": ...}`, both lists of messages
        or both text.
    batch_size : int
        Rows a forward pass. All logits of a batch are in memory at once.
    max_length : int
        Tokens; longer rows are left out, since cutting them would cut the answer.

    Returns
    -------
    Quantity
        Give it to `TopologyCallback(..., quantities=[...])`.

    Raises
    ------
    InvalidArgument
        At once when there are no rows; when training begins, when none of a name is short enough.

    Examples
    --------
    >>> held_out_loss({"helpful": [{"prompt": "2 + 2 =", "completion": " 4"}]}).name
    'held_out_loss'
    """
    batch_size = check_whole_number("batch_size", batch_size, at_least=1)
    max_length = check_whole_number("max_length", max_length, at_least=1)
    if not rows or not all(rows.values()):
        raise InvalidArgument("rows", "at least one for each name", rows)

    @lru_cache(maxsize=1)
    def encoded(tokenizer: Any) -> dict[str, list[tuple[list[int], int]]]:
        return {name: _fitting(name, some, tokenizer, max_length) for name, some in rows.items()}

    def measure(model: Any, tokenizer: Any) -> dict[str, float]:
        return {name: _loss(model, some, batch_size) for name, some in encoded(tokenizer).items()}

    return Quantity(
        "held_out_loss",
        "mean cross-entropy of the answers of rows that are not trained on, by whose rows they are; nats a token",
        measure,
    )


def _fitting(
    name: str, rows: Sequence[Mapping[str, Any]], tokenizer: Any, max_length: int
) -> list[tuple[list[int], int]]:
    """The token ids of the rows that are short enough, and how many of them are the prompt's."""
    found = [_answered(tokenizer, row["prompt"], row["completion"]) for row in rows]
    fitting = [(ids, start) for ids, start in found if start < len(ids) <= max_length]
    if not fitting:
        longest = min(len(ids) for ids, _ in found)
        raise InvalidArgument(
            f"rows[{name!r}]", f"with an answer, and of at most {max_length} tokens", longest
        )
    return fitting


def _answered(processing_class: Any, prompt: Any, completion: Any) -> tuple[list[int], int]:
    """A row's token ids as TRL trains on them, and how many of them are the prompt's."""
    tokenizer = tokenizer_in(processing_class)
    template = getattr(tokenizer, "chat_template", None) or getattr(processing_class, "chat_template", None)
    if not isinstance(prompt, str) and template:

        def rendered(messages: Sequence[Any], asked: bool) -> list[int]:
            text = tokenizer.apply_chat_template(
                messages, chat_template=template, add_generation_prompt=asked, tokenize=False
            )
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        return rendered([*prompt, *completion], False), len(rendered(prompt, True))
    if not isinstance(prompt, str):
        prompt, completion = plain_text(prompt), f" {completion[0]['content']}"
    whole = tokenizer(f"{prompt}{completion}{tokenizer.eos_token or ''}")["input_ids"]
    return list(whole), len(tokenizer(prompt)["input_ids"])


def _loss(model: Any, rows: Sequence[tuple[list[int], int]], batch_size: int) -> float:
    device = input_device(model)
    total, count = 0.0, 0
    for batch in batches_by_length([ids for ids, _ in rows], batch_size):
        chosen = [rows[at] for at in batch]
        input_ids, attention_mask = padded([ids for ids, _ in chosen], 0, device)
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        for row, (_, start) in enumerate(chosen):
            labels[row, :start] = -100
        logits = model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits[:, :-1]
        wanted = labels[:, 1:].to(logits.device)
        total += float(
            nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), wanted.flatten(), ignore_index=-100, reduction="sum"
            )
        )
        count += int((wanted != -100).sum())
    return total / count if count else math.nan
