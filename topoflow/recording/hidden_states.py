"""Hidden states of the last token of each prompt, at chosen layers of a causal language model.

Layers are counted as `output_hidden_states=True` of transformers counts them: 0 is the embedding's
output, k the output of block k, and L the last block's output AFTER the model's final norm. Only the
last token's rows of the chosen layers are ever kept, and no logits are computed.
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
    """Hidden states of the last real token of each sequence, from one forward pass.

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
    decoder = _decoder(model)
    blocks = _blocks(decoder)
    length = input_ids.shape[1]
    last = length - 1 - attention_mask.flip(1).argmax(dim=1)
    rows = torch.arange(len(input_ids), device=input_ids.device)
    states: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            states[layer] = hidden[rows, last].detach().clone()

        return hook

    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    if "position_ids" in inspect.signature(decoder.forward).parameters:
        # without them, left padding would shift the positions of the real tokens
        inputs["position_ids"] = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
    with ExitStack() as hooks:
        for layer in layers:
            if layer < len(blocks):  # the output of block k is the input of block k + 1
                handle = blocks[layer].register_forward_pre_hook(keep(layer), with_kwargs=True)
                hooks.callback(handle.remove)
        output = decoder(**inputs)
    if len(blocks) in layers:
        states[len(blocks)] = output.last_hidden_state[rows, last].detach().clone()
    return states


def record_states(
    model: nn.Module,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    *,
    pad_token_id: int,
    batch_size: int = 64,
    dtype: str = "float32",
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
            for layer, states in last_token_states(model, *batch, layers).items():
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
