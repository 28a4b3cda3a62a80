"""Hidden states of one token of each prompt, or their mean over its tokens, at chosen layers of a causal model.

Layers are counted as `output_hidden_states=True` of transformers counts them: 0 is the embedding's output, k the output
of block k, and L the last block's output AFTER the model's final norm (also of Mamba, whose own list is shifted: it
leaves the embedding out and has the last block twice, before the norm and after). Between blocks it is the residual
stream: where blocks normalise what they read (pre-norm: Llama, GPT-2) no norm is applied to it, where they normalise
what they write (post-norm: OLMo 2, the second norms of Gemma 2) it is the sum of what their norms gave.

The model's own forward pass makes the states, in the precision that it trains in (autocast included), and ends at the
deepest layer asked for. Only one row a prompt of the chosen layers is ever kept, and no logits but those of the
token after the last.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from topoflow.config.pooling import Kind, Pooling
from topoflow.errors import DoesNotFit, InvalidArgument, Words
from topoflow.recording.behaviour import Answers, Behaviour, to_compare
from topoflow.recording.ranks import sharded_modules
from topoflow.topology.point_clouds import check_whole_number

logger = logging.getLogger(__name__)

# How the last layer is recorded, for manifests.
FINAL_NORM = "applied at the last layer"


def evenly_spaced_layers(n_layers: int, count: int) -> tuple[int, ...]:
    """Space layers evenly over the blocks of a model, the last one included.

    Layer 0 is left out: prompts that end in the same token, as under a chat template, all have the same
    embedding there (see `TopologyCallback`).

    Parameters
    ----------
    n_layers : int
        Number of blocks.
    count : int
        Number of layers wanted.

    Returns
    -------
    tuple of int
        Layers between 1 and `n_layers`, increasing.

    Raises
    ------
    InvalidArgument
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
        raise InvalidArgument("layers", f"between 1 and the number of blocks ({n_layers})", count)
    if count == 1:
        return (n_layers,)
    gap = (n_layers - 1) / (count - 1)
    return tuple(int(1 + i * gap + 0.5) for i in range(count))


def resolve_layers(model: nn.Module, layers: int | Sequence[int]) -> tuple[int, ...]:
    """The layers to record: a number of evenly spaced ones, or a list checked against the model's depth."""
    return layers_of(len(_blocks(_decoder(model))), layers)


def layers_of(n_layers: int, layers: int | Sequence[int]) -> tuple[int, ...]:
    """As `resolve_layers`, of a model of so many blocks.

    >>> layers_of(30, 3), layers_of(30, [30, 0])
    ((1, 16, 30), (0, 30))
    """
    if not isinstance(layers, Sequence | np.ndarray):
        return evenly_spaced_layers(n_layers, check_whole_number("layers", layers, at_least=1))
    chosen = tuple(sorted({check_whole_number("layers", layer, at_least=0) for layer in layers}))
    if not chosen or chosen[0] < 0 or chosen[-1] > n_layers:
        raise InvalidArgument("layers", f"between 0 (the embedding) and {n_layers}", list(layers))
    return chosen


def prompt_states(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    layers: Sequence[int],
    *,
    pooling: Kind = "last",
    position: int = -1,
) -> dict[int, torch.Tensor]:
    """Compute the hidden state of the last real token of each sequence, by one forward pass without the head.

    Another token's, or the mean over all real ones, where `pooling` and `position` ask for that.

    Where FSDP has sharded the model, all ranks must call this equally often, each with a batch of its own.
    `record_states` makes the batches, and leaves the model as it was found; this does neither.

    Parameters
    ----------
    model : nn.Module
        A causal language model of transformers, or PEFT's wrapper of one.
    input_ids, attention_mask : Tensor of shape (n_sequences, length)
        Padded on either side; the last real token is found by the mask.
    layers : sequence of int
        Layers as `output_hidden_states=True` counts them.
    pooling : str
        "last", the state of one token, or "mean", of all real tokens (virtual ones of prompt tuning are none).
    position : int
        Which token, counted from the end of the real ones: -1 is the last. A mean has none.

    Returns
    -------
    dict of int to Tensor of shape (n_sequences, hidden_size)
        In the model's own dtype (means in float32 at least), each on the device of its layer.

    Raises
    ------
    InvalidArgument
        When the model is no decoder of transformers, or passes something other than hidden states from block to block,
        or a sequence has no token at `position`.

    Examples
    --------
    At layer 0 a token's state is its embedding. Here the last real tokens are 3 and 5; 0 is padding.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = dict(vocab_size=9, hidden_size=4, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    >>> model = LlamaForCausalLM(LlamaConfig(**sizes))
    >>> input_ids, mask = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    >>> states = prompt_states(model, input_ids, mask, layers=[0, 2])
    >>> {layer: tuple(rows.shape) for layer, rows in states.items()}
    {0: (2, 4), 2: (2, 4)}
    >>> torch.equal(states[0], model.get_input_embeddings().weight[[3, 5]])
    True
    """
    pooled = Pooling(pooling, position)
    pooled.check_lengths(attention_mask.sum(dim=1).tolist(), "input_ids")
    return _states(model, input_ids, attention_mask, layers, pooled)


def _states(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    layers: Sequence[int],
    pooled: Pooling,
) -> dict[int, torch.Tensor]:
    if sharded_modules(model):  # FSDP must finish the pass that it has begun
        with (
            _narrow_head(model, attention_mask),
            _rows(model, attention_mask, layers, pooled) as (states, inputs),
        ):
            model(input_ids=input_ids, **inputs)
        return states
    with _rows(model, attention_mask, layers, pooled, stop=True) as (states, inputs), suppress(_Reached):
        model(input_ids=input_ids, **inputs)
    return states


def prompt_states_and_logits(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    layers: Sequence[int],
    pooled: Pooling = Pooling(),  # noqa: B008 (frozen)
) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """As `prompt_states`, and the logits of the token after the last, shape (n_sequences, vocab_size).

    The model's own forward pass makes them, with whatever it does to logits; but its head is given the last
    rows alone, whatever is recorded, so that logits of whole sequences never exist.
    """
    if _head(model) is None:
        raise InvalidArgument("model", "one with a head that makes logits", Words(type(model).__name__))
    with (
        _narrow_head(model, attention_mask),
        _rows(model, attention_mask, layers, pooled) as (states, inputs),
    ):
        output = model(input_ids=input_ids, **inputs)
    return states, output[0][:, 0]


class _Reached(Exception):
    """Ends a forward pass at the deepest layer asked for."""


@contextmanager
def _rows(
    model: nn.Module,
    attention_mask: torch.Tensor,
    layers: Sequence[int],
    pooled: Pooling,
    stop: bool = False,
) -> Iterator[tuple[dict[int, torch.Tensor], dict[str, Any]]]:
    """Catch a row for each sequence at the layers while the block runs the model with the inputs it is given."""
    decoder = _decoder(model)
    blocks = _blocks(decoder)
    states: dict[int, torch.Tensor] = {}

    def keep(layer: int, hidden: torch.Tensor) -> None:
        if hidden.dim() != 3:
            expected = "one whose hidden states are of shape (batch, length, hidden_size) from block to block"
            got = Words(f"{type(decoder).__name__}, which passes {tuple(hidden.shape)}")
            raise InvalidArgument("model", expected, got)
        mean = pooled.pooling == "mean"
        row = _mean(hidden, attention_mask) if mean else _at(hidden, attention_mask, pooled.position)
        states[layer] = row.detach()
        if stop and layer == max(layers):
            raise _Reached

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
                else decoder.register_forward_hook(lambda _, args, output: keep(len(blocks), output[0]))
            )
            hooks.callback(handle.remove)
        yield states, inputs


@contextmanager
def _narrow_head(model: nn.Module, attention_mask: torch.Tensor) -> Iterator[None]:
    """Give the model's head, if it has one, the rows of the last tokens alone."""
    if (head := _head(model)) is None:
        yield
        return

    def narrow(_: nn.Module, args: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        return (_at(args[0], attention_mask, -1).unsqueeze(1), *args[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        handle.remove()


def _at(hidden: torch.Tensor, attention_mask: torch.Tensor, position: int) -> torch.Tensor:
    """The rows of the real tokens at a position from the end, (n_sequences, hidden_size), in memory of their own."""
    # counted from the end: a prompt-tuning adapter puts virtual tokens before the real ones
    place = position - attention_mask.flip(1).argmax(dim=1)
    # a model may be spread over devices
    rows = torch.arange(len(place), device=hidden.device)
    return hidden[rows, place.to(hidden.device)]


def _mean(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The means over the real tokens, (n_sequences, hidden_size), summed in float32 at least."""
    real = attention_mask.to(hidden.device, torch.bool).unsqueeze(2)
    # virtual tokens of prompt tuning stand before the real ones; what padding holds may be no number
    kept = hidden[:, -real.shape[1] :].masked_fill(~real, 0)
    return kept.sum(dim=1, dtype=torch.promote_types(hidden.dtype, torch.float32)) / real.sum(dim=1)


def record_states(
    model: nn.Module,
    token_ids: Sequence[Sequence[int]],
    layers: Sequence[int],
    *,
    pad_token_id: int,
    batch_size: int = 64,
    batch_tokens: int | None = None,
    dtype: str = "float32",
    behaviour: Behaviour | Answers | None = None,
    pooling: Kind = "last",
    position: int = -1,
) -> dict[int, npt.NDArray[Any]]:
    """Record the point clouds of one checkpoint: by default the last-token states of all prompts at each layer.

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
    batch_tokens : int, optional
        Tokens a forward pass at most, those of padding among them; a longer prompt has a pass of its own.
    dtype : str
        The dtype of the arrays returned: "float16", "float32" or "float64".
    behaviour : Behaviour, optional
        Is given the next-token distribution of each prompt, batch by batch; that after the last token, always.
    pooling : str
        What a point is: "last", the state of one token; "mean", the mean over all tokens of the prompt.
    position : int
        Which token, counted from the end: -1 is the last, -2 the one before. A mean has none.

    Returns
    -------
    dict of int to ndarray of shape (n_prompts, hidden_size)
        In the order of `token_ids`.

    Raises
    ------
    InvalidArgument
        As `prompt_states` does, before any pass; or when the model is not in memory.

    Examples
    --------
    At layer 0 the clouds are embeddings of the last tokens, here 3 and 5.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = dict(vocab_size=9, hidden_size=4, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2)
    >>> model = LlamaForCausalLM(LlamaConfig(**sizes))
    >>> clouds = record_states(model, [[1, 2, 3], [4, 5]], layers=[0, 2], pad_token_id=0)
    >>> {layer: cloud.shape for layer, cloud in clouds.items()}
    {0: (2, 4), 2: (2, 4)}
    >>> np.array_equal(clouds[0], model.get_input_embeddings().weight[[3, 5]].detach().numpy())
    True
    """
    pooled = Pooling(pooling, position)
    pooled.check_lengths([len(ids) for ids in token_ids], "token_ids")
    batches = batches_by_length(token_ids, batch_size, batch_tokens)
    rows = record_batches(
        model,
        token_ids,
        batches,
        layers,
        pad_token_id=pad_token_id,
        dtype=dtype,
        behaviour=behaviour,
        pooled=pooled,
    )
    order = np.concatenate(batches)
    return {layer: in_order(order, [states]) for layer, states in rows.items()}


def in_order(prompts: npt.NDArray[np.int64], parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """One array in the order of the prompts, from rows of the `prompts` in any; a prompt may come twice.

    Examples
    --------
    >>> in_order(np.array([2, 0, 1, 0]), [np.array([[7], [5]]), np.array([[6], [5]])]).tolist()
    [[5], [6], [7]]
    """
    rows = np.concatenate(parts)
    whole = np.empty((prompts.max() + 1, *rows.shape[1:]), rows.dtype)
    whole[prompts] = rows
    return whole


def batches_by_length(
    token_ids: Sequence[Sequence[int]], batch_size: int, batch_tokens: int | None = None
) -> list[npt.NDArray[np.int64]]:
    """Indices of the prompts, batch by batch: of similar lengths, so that little is spent on padding.

    A batch has at most `batch_tokens`, those of padding among them, unless it is one prompt.

    Examples
    --------
    >>> [batch.tolist() for batch in batches_by_length([[5, 6, 7], [8], [9, 9]], 2)]
    [[1, 2], [0]]
    >>> [batch.tolist() for batch in batches_by_length([[5, 6, 7], [8], [9, 9]], 2, batch_tokens=3)]
    [[1], [2], [0]]
    """
    by_length = np.argsort([len(ids) for ids in token_ids], kind="stable")
    starts: list[int] = []
    for place, prompt in enumerate(by_length):  # the longest up to here
        size = place - starts[-1] if starts else batch_size
        if size == batch_size or (batch_tokens and (size + 1) * len(token_ids[prompt]) > batch_tokens):
            starts.append(place)
    return [by_length[start:end] for start, end in zip(starts, [*starts[1:], len(by_length)], strict=False)]


def record_batches(
    model: nn.Module,
    token_ids: Sequence[Sequence[int]],
    batches: list[npt.NDArray[np.int64]],
    layers: Sequence[int],
    *,
    pad_token_id: int,
    dtype: str = "float32",
    behaviour: Behaviour | Answers | None = None,
    pooled: Pooling = Pooling(),  # noqa: B008 (frozen)
) -> dict[int, npt.NDArray[Any]]:
    """As `record_states`, for the given batches of prompts and in their order.

    A batch that does not fit into the device's memory is halved in `batches`, with all that follow it, which are no
    shorter, until it fits: the next checkpoint begins with the smaller ones. An error of one prompt alone passes.

    Raises
    ------
    DoesNotFit
        When a batch does not fit and FSDP has sharded the model: the other ranks are in the midst of the same pass.
    """
    device = input_device(model)
    rows: dict[int, list[npt.NDArray[Any]]] = {layer: [] for layer in layers}
    overflowed: set[int] = set()
    done = 0
    with undisturbed(model):
        while done < len(batches):
            chosen = batches[done]
            filled = padded([token_ids[i] for i in chosen], pad_token_id, device)
            try:
                found, log_probabilities = _forward(model, *filled, layers, pooled, behaviour is not None)
                if behaviour is not None:
                    behaviour.add(chosen, to_compare(log_probabilities))
            except RuntimeError as error:
                if not _is_out_of_memory(error) or len(chosen) == 1:
                    raise
                if sharded_modules(model):
                    shape = f"{len(chosen)} prompts of {filled[0].shape[1]} tokens"
                    obstacle = (
                        f"a forward pass over {shape} needs more memory than this rank has, and under FSDP no rank can "
                        "halve it alone; record fewer tokens at once (batch_tokens of TopologyCallback)"
                    )
                    raise DoesNotFit([obstacle]) from error
                found = {}
            if not found:  # only here, since the error holds on to what the pass has allocated
                _halve(batches, done)
                continue
            for layer, states in found.items():
                values = states.to("cpu", torch.float64 if dtype == "float64" else torch.float32).numpy()
                with np.errstate(over="ignore"):  # which is said in a sentence
                    rows[layer].append(values.astype(dtype, copy=False))
                if (np.isfinite(values) & ~np.isfinite(rows[layer][-1])).any():
                    overflowed.add(layer)
            done += 1
    if overflowed:
        logger.warning(
            "states overflowed %s at layer %s; record with dtype float32",
            dtype, ", ".join(map(str, sorted(overflowed))),
        )  # fmt: skip
    return {layer: np.concatenate(parts) for layer, parts in rows.items()}


@contextmanager
def noting_how(model: nn.Module) -> Iterator[dict[str, str | None]]:
    """Note how the model's forward passes within the block compute, for manifests; no machine's name is in it.

    Filled by the first pass: `device` (`cpu`, or kind and make, `cuda NVIDIA H100 80GB HBM3`), `compute_dtype` (of the
    hidden states between blocks) and `autocast` (the dtype that autocast computes in; None where it is off).
    """
    found: dict[str, str | None] = {}

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if found:
            return
        hidden = args[0] if args else kwargs["hidden_states"]
        kind = hidden.device.type
        name = getattr(torch.get_device_module(hidden.device), "get_device_name", lambda _: "")(hidden.device)
        found["device"] = f"{kind} {name}".strip()
        found["compute_dtype"] = _short(hidden.dtype)
        found["autocast"] = (
            _short(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None
        )

    first = _blocks(_decoder(model))[0]
    handle = first.register_forward_pre_hook(note, prepend=True, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a smaller batch may help: CUDA's, MPS's, XPU's and the CPU's messages, and cuBLAS's own."""
    from accelerate.utils.memory import should_reduce_batch_size

    return (
        isinstance(error, torch.OutOfMemoryError)
        or should_reduce_batch_size(error)
        or "CUBLAS_STATUS_ALLOC_FAILED" in str(error)
    )


def input_device(model: nn.Module) -> torch.device:
    """Where the model reads token ids: on its embedding's device, or the one on which offloading runs that.

    Raises
    ------
    InvalidArgument
        When the embedding has no numbers (torch's device "meta").
    """
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    hook = getattr(embedding, "_hf_hook", None)  # accelerate has no public name for it
    for one in getattr(hook, "hooks", [hook]):
        if (device := getattr(one, "execution_device", None)) is not None:
            return torch.device(device)
    device = next(embedding.parameters(), next(model.parameters())).device
    if device.type == "meta":
        raise InvalidArgument("model", "in memory, or offloaded by accelerate", device)
    return device


def _forward(
    model: nn.Module,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    layers: Sequence[int],
    pooled: Pooling,
    with_logits: bool,
) -> tuple[dict[int, torch.Tensor], torch.Tensor]:
    """States and, if asked for, log-probabilities of the next token."""
    if not with_logits:
        return _states(model, input_ids, attention_mask, layers, pooled), torch.empty(0)
    states, logits = prompt_states_and_logits(model, input_ids, attention_mask, layers, pooled)
    return states, logits.float().log_softmax(dim=1)


def _halve(batches: list[npt.NDArray[np.int64]], start: int) -> None:
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
    size = (len(batches[start]) + 1) // 2
    batches[start:] = [batch[i : i + size] for batch in batches[start:] for i in range(0, len(batch), size)]
    logger.warning("out of memory: from here on, %d prompts a forward pass are recorded", size)


def padded(
    sequences: Sequence[Sequence[int]], pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids as one batch, filled up on the right, and the mask of what is not filling."""
    length = max(map(len, sequences))
    input_ids = torch.full((len(sequences), length), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(sequences):
        input_ids[row, : len(ids)] = torch.as_tensor(ids)
        attention_mask[row, : len(ids)] = 1
    return input_ids.to(device), attention_mask.to(device)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate `model` without leaving a trace: a hook must not change the training it watches."""
    modes = [(module, module.training) for module in model.modules()]
    # an LM may draw random numbers even in eval mode (a router's jitter, say)
    devices = {
        weights.device.index for weights in model.parameters() if weights.is_cuda
    }  # it may be on several
    if torch.cuda.is_available():
        devices.add(torch.cuda.current_device())
    with torch.random.fork_rng(sorted(devices)), torch.no_grad():
        model.eval()
        for module in filter(_packs_itself, model.modules()):
            module.training = True
        try:
            yield
            # FSDP keeps the root's parameters gathered, for a backward pass that will not come
            for module in sharded_modules(model):
                module.reshard()  # type: ignore[operator]
        finally:
            for module, training in modes:
                module.training = training


def _packs_itself(module: nn.Module) -> bool:
    """Whether it holds 4-bit weights, which bitsandbytes packs on some CPUs when a module in eval mode reads them.

    No gradient comes through packed weights, and they stay packed. Nothing else depends on the mode of such a module.
    """
    return isinstance(module, nn.Linear) and hasattr(module.weight, "quant_state")


def _decoder(model: nn.Module) -> nn.Module:
    """The part of the model that makes hidden states, without the head that makes logits."""
    if not hasattr(model, "get_decoder"):
        raise InvalidArgument("model", "a causal language model of transformers", Words(type(model).__name__))
    if getattr(model.config, "is_encoder_decoder", False):
        why = "a prompt's last token is recorded as the model is about to answer"
        got = Words(f"the encoder-decoder {type(model).__name__}")
        raise InvalidArgument("model", f"decoder-only ({why})", got)
    return model.get_decoder()  # type: ignore[no-any-return, operator]


def _head(model: nn.Module) -> nn.Module | None:
    """What makes logits of hidden states, if anything does."""
    return getattr(model, "get_output_embeddings", lambda: None)()


def _blocks(decoder: nn.Module) -> nn.ModuleList:
    """The decoder's stack of blocks, whatever the architecture calls it."""
    depth = decoder.config.num_hidden_layers  # type: ignore[union-attr]
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise InvalidArgument("model", f"one with a list of {depth} blocks", Words(type(decoder).__name__))
