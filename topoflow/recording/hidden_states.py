"""Hidden states of the last token of each prompt, at chosen layers of a causal language model.

Layers are counted as `output_hidden_states=True` of transformers counts them: 0 is the embedding's
output, k the output of block k, and L the last block's output AFTER the model's final norm. Only the
last token's rows of the chosen layers are ever kept, and no logits but those of the token after the last.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from topoflow.recording.behaviour import Behaviour

# How the last layer is recorded, for manifests and notes.
POOLING = "last token"
FINAL_NORM = "applied at the last layer"


def evenly_spaced_layers(n_layers: int, count: int) -> tuple[int, ...]:
    """`count` layers spaced evenly over 1..`n_layers`, the last one included.

    Layer 0 is left out: prompts that end in the same token, as under a chat template, all have the same
    embedding there (see PROTOCOL in the documentation of `TopologyCallback`).

    Raises
    ------
    ValueError
        When there are fewer than `count` layers, or `count` is not positive.

    Examples
    --------
    >>> evenly_spaced_layers(9, 5)
    (1, 3, 5, 7, 9)
    >>> evenly_spaced_layers(30, 5)
    (1, 8, 16, 23, 30)
    >>> evenly_spaced_layers(12, 1)
    (12,)
    """
    if not 1 <= count <= n_layers:
        raise ValueError(f"layers must be between 1 and the number of blocks ({n_layers}), got {count}")
    if count == 1:
        return (n_layers,)
    gap = (n_layers - 1) / (count - 1)
    return tuple(int(1 + i * gap + 0.5) for i in range(count))


def resolve_layers(model: nn.Module, layers: int | Sequence[int]) -> tuple[int, ...]:
    """The layers to record: a number of evenly spaced ones, or a list checked against the model's depth."""
    n_layers = len(_blocks(_decoder(model)))
    if isinstance(layers, int):
        return evenly_spaced_layers(n_layers, layers)
    chosen = tuple(sorted(set(layers)))
    if not chosen or chosen[0] < 0 or chosen[-1] > n_layers:
        raise ValueError(f"layers must be between 0 (the embedding) and {n_layers}, got {list(layers)}")
    return chosen


def last_token_states(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    layers: Sequence[int],
) -> dict[int, torch.Tensor]:
    """Hidden states of the last real token of each sequence, from one forward pass without the head.

    Parameters
    ----------
    model : nn.Module
        A causal language model of transformers, or PEFT's wrapper of one.
    input_ids, attention_mask : Tensor of shape (n_sequences, length)
        Padded on either side; the last real token is found by the mask.
    layers : sequence of int
        Layers as `output_hidden_states=True` counts them.

    Returns
    -------
    dict of int to Tensor of shape (n_sequences, hidden_size)
        In the model's own dtype, on the model's device.
    """
    with _last_rows(model, attention_mask, layers) as (states, inputs):
        _decoder(model)(input_ids=input_ids, **inputs)
    return states


def last_token_states_and_logits(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    layers: Sequence[int],
) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """As `last_token_states`, and the logits of the token after the last, shape (n_sequences, vocab_size).

    The model's own forward pass makes them, with whatever it does to logits; but its head is given the last
    rows alone, so that logits of whole sequences never exist.
    """
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        raise ValueError(f"model must have a head that makes logits, and {type(model).__name__} has none")
    rows, last = _last_places(attention_mask)

    def narrow(_: nn.Module, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0][rows, last].unsqueeze(1), *args[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        with _last_rows(model, attention_mask, layers) as (states, inputs):
            output = model(input_ids=input_ids, **inputs)
    finally:
        handle.remove()
    return states, output.logits[:, 0]


@contextmanager
def _last_rows(
    model: nn.Module, attention_mask: torch.Tensor, layers: Sequence[int]
) -> Iterator[tuple[dict[int, torch.Tensor], dict[str, Any]]]:
    """Catch the last real token's row of the layers while the block runs the model with the inputs it is given."""
    decoder = _decoder(model)
    blocks = _blocks(decoder)
    rows, last = _last_places(attention_mask)
    states: dict[int, torch.Tensor] = {}

    def keep(layer: int, hidden: torch.Tensor) -> None:
        states[layer] = hidden[rows, last].detach().clone()

    def before(layer: int) -> Any:  # the output of block k is the input of block k + 1
        return lambda _, args, kwargs: keep(layer, args[0] if args else kwargs["hidden_states"])

    inputs: dict[str, Any] = {"attention_mask": attention_mask, "use_cache": False}
    if "position_ids" in inspect.signature(decoder.forward).parameters:
        # without them, left padding would shift the positions of the real tokens
        inputs["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    with ExitStack() as hooks:
        for layer in layers:
            handle = (
                blocks[layer].register_forward_pre_hook(before(layer), with_kwargs=True)
                if layer < len(blocks)
                else decoder.register_forward_hook(
                    lambda _, args, output: keep(len(blocks), output.last_hidden_state)
                )
            )
            hooks.callback(handle.remove)
        yield states, inputs


def _last_places(attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the last real token of each sequence stands: row and column indices."""
    last = attention_mask.shape[1] - 1 - attention_mask.flip(1).argmax(dim=1)
    return torch.arange(len(attention_mask), device=attention_mask.device), last


def record_states(
    model: nn.Module,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    *,
    pad_token_id: int,
    batch_size: int = 64,
    dtype: str = "float32",
    behaviour: Behaviour | None = None,
) -> dict[int, npt.NDArray[Any]]:
    """Point clouds of one checkpoint: the last-token states of all prompts at each layer.

    The model is left as it was found: train or eval mode module by module, random state, gradients.

    Parameters
    ----------
    model : nn.Module
        A causal language model of transformers, or PEFT's wrapper of one.
    token_ids : sequence of sequences of int
        The prompts, tokenized, none empty.
    layers : sequence of int
        Layers as `output_hidden_states=True` counts them.
    pad_token_id : int
        Fills the batches; masked, so its value does not matter.
    batch_size : int
        Prompts a forward pass. Batches are of similar lengths, so little is spent on padding.
    dtype : str
        Of the arrays returned.
    behaviour : Behaviour, optional
        Is given the next-token distribution of each prompt, batch by batch.

    Returns
    -------
    dict of int to ndarray of shape (n_prompts, hidden_size)
        In the order of `token_ids`.
    """
    device = next(model.parameters()).device
    by_length = np.argsort([len(ids) for ids in token_ids], kind="stable")
    clouds: dict[int, npt.NDArray[Any]] = {}
    with _undisturbed(model):
        for start in range(0, len(by_length), batch_size):
            chosen = by_length[start : start + batch_size]
            batch = _pad([token_ids[i] for i in chosen], pad_token_id, device)
            if behaviour is None:
                found = last_token_states(model, *batch, layers)
            else:
                found, logits = last_token_states_and_logits(model, *batch, layers)
                behaviour.add(chosen, logits.float().log_softmax(dim=1).cpu().numpy())
            for layer, states in found.items():
                values = states.to("cpu", torch.float64 if dtype == "float64" else torch.float32).numpy()
                cloud = clouds.setdefault(layer, np.empty((len(token_ids), values.shape[1]), dtype))
                cloud[chosen] = values
    return clouds


def _pad(
    sequences: Sequence[Sequence[int]], pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, sequences))
    input_ids = torch.full((len(sequences), length), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(sequences):
        input_ids[row, : len(ids)] = torch.as_tensor(ids)
        attention_mask[row, : len(ids)] = 1
    return input_ids.to(device), attention_mask.to(device)


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate `model` without leaving a trace: a hook must not change the training it watches."""
    training = [module for module in model.modules() if module.training]
    # an LM may draw random numbers even in eval mode (a router's jitter, say)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for module in training:
                module.training = True


def _decoder(model: nn.Module) -> nn.Module:
    """The part of the model that makes hidden states, without the head that makes logits."""
    if not hasattr(model, "get_decoder"):
        raise ValueError(f"model must be a causal language model of transformers, got {type(model).__name__}")
    return model.get_decoder()  # type: ignore[no-any-return, operator]


def _blocks(decoder: nn.Module) -> nn.ModuleList:
    """The decoder's stack of blocks, whatever the architecture calls it."""
    depth = decoder.config.num_hidden_layers  # type: ignore[union-attr]
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"model must have a list of {depth} blocks, and {type(decoder).__name__} has none")
