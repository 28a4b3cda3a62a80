"""What is recorded of a model at checkpoints beside its hidden states: a few numbers or texts, with their definition.

A quantity of one's own is a name, a definition and a function; `TopologyCallback` takes any number of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from numbers import Real
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from topoflow.errors import InvalidArgument
from topoflow.names import metric_name
from topoflow.recording.callback import plain_text, tokenize_prompts, tokenizer_in
from topoflow.recording.hidden_states import batches_by_length, input_device, padded, undisturbed
from topoflow.topology.point_clouds import check_whole_number

Measured = dict[str, float | str]  # by name in MLflow
Measure = Callable[[Any, Any], Mapping[str, float | str]]


@dataclass(frozen=True)
class Quantity:
    """Something measured of a model at each checkpoint, as numbers or texts with names.

    Use it for what hidden states do not say: a loss, the score of a probe, the norm of the weights, an answer. Numbers
    become charts in MLflow, texts a table at the first checkpoint, the peak and the last. The model is in
    evaluation mode and has no gradients then, and the training goes on as if nothing had been measured.

    Parameters
    ----------
    name : str
        The section of its charts in MLflow: letters, digits and underscores.
    definition : str
        What the numbers are, with their unit.
    measure : callable
        Is given the model and the Trainer's `processing_class`, and returns a number or a text for each name. Where
        several processes train, each is asked, and what the first finds is kept.

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

    def of(self, model: nn.Module, tokenizer: Any) -> Measured:
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
        if not isinstance(found, Mapping) or not all(isinstance(it, Real | str) for it in found.values()):
            expected = "a function that returns a number or a text for each name"
            raise InvalidArgument(f"measure of quantity {self.name!r}", expected, found)
        return {
            metric_name(self.name, str(key)): it if isinstance(it, str) else float(it)
            for key, it in found.items()
        }


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


def greedy_answers(
    prompts: Sequence[Any] | Mapping[str, Any],
    *,
    max_new_tokens: int = 40,
    max_length: int = 512,
    template: str = "auto",
) -> Quantity:
    """What a model answers to a few prompts at each checkpoint, taking the likeliest token each time.

    Parameters
    ----------
    prompts : sequence of str or of lists of messages, or mapping of str to such
        Few, since each answer takes as many forward passes as it has tokens; all are answered in one batch.
    max_new_tokens : int
        Tokens of an answer at most.
    max_length : int
        Tokens kept of a prompt, its end.
    template : str
        How messages become text, as in `TopologyCallback`.

    Returns
    -------
    Quantity
        Its texts are called as the prompts are; those of a sequence 1, 2 and so on.

    Raises
    ------
    InvalidArgument
        When there are no prompts, or a number is not positive.

    Examples
    --------
    >>> greedy_answers(["2 + 2 ="]).name
    'answers'
    """
    max_new_tokens = check_whole_number("max_new_tokens", max_new_tokens, at_least=1)
    max_length = check_whole_number("max_length", max_length, at_least=1)
    if not len(prompts):
        raise InvalidArgument("prompts", "at least one", prompts)
    if not isinstance(prompts, Mapping):
        prompts = {str(number): prompt for number, prompt in enumerate(prompts, 1)}
    names, asked = list(prompts), list(prompts.values())

    def measure(model: Any, processing_class: Any) -> dict[str, str]:
        tokenizer = tokenizer_in(processing_class)
        ids = tokenize_prompts(processing_class, asked, max_length, template)
        longest, device = max(map(len, ids)), input_device(model)
        pad = tokenizer.pad_token_id or 0  # masked, so any will do
        rows = torch.tensor([[pad] * (longest - len(row)) + row for row in ids], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids], device=device)
        greedy = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
        found = model.generate(input_ids=rows, attention_mask=mask, generation_config=greedy)[:, longest:]
        texts = tokenizer.batch_decode(found, skip_special_tokens=True)
        return {name: text.strip() for name, text in zip(names, texts, strict=True)}

    return Quantity(
        "answers", f"greedy answers to a few evaluation prompts, {max_new_tokens} tokens at most", measure
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
