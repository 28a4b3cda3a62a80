"""What a run will cost before it runs: counted from its parameters, timed by rates that were measured or assumed.

All of it is arithmetic. `calibration` looks at the model and the text, and measures the rates of this
machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from topoflow.config import Params
from topoflow.telling import duration

_FLOAT = 4  # bytes: weights, gradients and moments are float32
# What is written of a diagram, where none has been: of what it holds as float64 (H0 bars are born at 0), deflated.
_DEFLATED = 0.8
_H1_BARS = 0.36  # a point of a subsample, in language models' states
# Seconds, as shares of the start of a stage that trains: the start of any other stage, and the pictures and logging of
# `track`.
_BEGIN = 0.25
_PICTURES = 1.2
_PROCESS = 800_000_000  # bytes of memory of a Python with torch and TRL, or of a GPU's context
# Floats a token that training keeps for the backward pass: a block, in hidden sizes, and the logits, in vocabularies.
# Fitted to what Llamas with adapters on all linear layers hold at their peak, of 12 and 24 blocks and two vocabularies;
# the allocator of a CPU may keep as much again.
_KEPT = 18
_LOGITS = 4.5
_FLOOR_PAIRS = 32  # of sets of prompts, in `sampling_floor`
_BAND_SUBSAMPLES = 8  # a replicate, in `prompt_bands`
_MOST_PAIRED = 128  # checkpoints, in `paired_checkpoints`
_ROOTS = 256  # numbers of a prompt's answer, in `sketched_roots`


@dataclass(frozen=True)
class Size:
    """A model, as far as costs depend on it; `n_trainable` weights are trained (the adapter's under LoRA)."""

    n_parameters: int
    n_trainable: int
    n_layers: int
    hidden_size: int
    vocab_size: int


@dataclass(frozen=True)
class Texts:
    """Tokens of each prompt and of training rows; `assumed` where neither tokenizer nor text was at hand."""

    prompts: Sequence[int]
    rows: Sequence[int]
    assumed: bool = False


@dataclass(frozen=True)
class Counts:
    """What a run does and leaves.

    Tokens are padded ones, of all steps or of one checkpoint. `diagrams`, `h1_distances` and `h0_distances` are those
    of single subsamples, `matrices` and `summaries` those of cells: first of the stage `diagrams`, then of one layer
    in the stage `trajectory`. Bytes are those that stay, but for `scratch_bytes`, which are needed meanwhile.
    """

    steps: int
    models_opened: int
    checkpoints: int
    layers: int
    cells: int
    forward_passes: int
    prompt_tokens: int
    training_tokens: int
    diagrams: tuple[int, int]
    matrices: tuple[int, int]
    summaries: int
    h1_distances: int
    h0_distances: int
    activation_bytes: int
    diagram_bytes: int
    weight_bytes: int
    scratch_bytes: int
    memory_bytes: int

    @property
    def disk_bytes(self) -> int:
        return self.activation_bytes + self.diagram_bytes + self.weight_bytes + self.scratch_bytes


@dataclass(frozen=True)
class Rates:
    """Seconds: of a token in training and in a forward pass, of opening a model, of topology on one core.

    `start` is what a stage that trains takes before it begins. `cell_bytes` are those of a cell's file of diagrams.
    `voids` is what H2 adds to a stored diagram, 0 where it is not computed.
    """

    training_token: float
    forward_token: float
    open_model: float
    matrix: float
    diagram: float
    summary: float
    h1_distance: float
    h0_distance: float
    start: float = 12.0
    cell_bytes: float | None = None  # where none was written
    voids: float = 0.0

    @classmethod
    def assumed(cls, size: Size, params: Params, flops: float) -> Rates:
        """Rates from `flops`, the floating-point operations a second that all devices reach together.

        A token costs 2 operations a weight forward and 2 more backward, and 2 more for the gradients of weights that
        are trained. Topology is that of `benchmarks/topology.md`, one core, states that are not isotropic.
        """
        forward = 2 * size.n_parameters
        points, width = params.prompts.n_prompts, size.hidden_size
        of_a_subsample = params.topology.subsample_size / 160
        area, part = (points / 750) ** 2, of_a_subsample**2
        return cls(
            training_token=(2 * forward + 2 * size.n_trainable) / flops,
            forward_token=forward / flops,
            open_model=_FLOAT * size.n_parameters / 1e9,  # bytes a second
            matrix=area * (2.5e-3 + 1.9e-5 * width),
            diagram=part * 0.5e-3,
            summary=params.topology.n_subsamples * 0.035e-3,
            h1_distance=part * 0.04e-3,
            h0_distance=part * 0.047e-3,
            voids=of_a_subsample**3 * 17e-3 if params.topology.maxdim > 1 else 0.0,
        )


def count(
    params: Params,
    size: Size,
    texts: Texts,
    steps: Sequence[int] | None = None,
    adapters: bool = False,
    cell_bytes: float | None = None,
    learning_rates: Sequence[float] | None = None,
) -> Counts:
    """Count what a run does.

    Parameters
    ----------
    params : Params
    size : Size
    texts : Texts
    steps : sequence of int, optional
        Those of checkpoints that are there already; without it, the run trains, and they are the schedule's.
    adapters : bool
        Whether these are adapters of one model, and not models each.
    cell_bytes : float, optional
        The bytes of a cell's file of diagrams; without it, what language models' states usually leave.
    learning_rates : sequence of float, optional
        Those of the training's optimiser steps, as `Schedule.checkpoints` takes them.

    Examples
    --------
    >>> from topoflow.config import load_params
    >>> size = Size(n_parameters=1_000_000, n_trainable=100_000, n_layers=5, hidden_size=128, vocab_size=1024)
    >>> counts = count(load_params(), size, Texts([40] * 750, [120] * 600))
    >>> counts.checkpoints, counts.cells, counts.forward_passes, counts.activation_bytes
    (26, 130, 312, 70200000)
    """
    settings, recording, topology = params.finetune, params.recording, params.topology
    trained = steps is None
    at = recording.schedule.checkpoints(settings.max_steps, learning_rates) if steps is None else tuple(steps)
    n_steps = settings.max_steps if trained else 0
    t, n = len(at), params.prompts.n_prompts
    paired = min(t, _MOST_PAIRED)
    layers = recording.layers if isinstance(recording.layers, int) else len(recording.layers)
    batch = settings.per_device_train_batch_size
    batches = n_steps * settings.gradient_accumulation_steps
    m, b = topology.subsample_size, topology.n_subsamples
    if cell_bytes is None:
        cell_bytes = b * _DEFLATED * (8 * (m - 1) + 16 * _H1_BARS * m)
    bands = params.trajectory.n_replicates * _BAND_SUBSAMPLES if m < n else 0
    item = {"float16": 2, "float32": 4, "float64": 8}[recording.dtype]
    of_prompts = padded(sorted(texts.prompts), recording.batch_size)
    behaviour, roots = recording.behaviour, min(size.vocab_size, _ROOTS)
    training = _FLOAT * (3 * size.n_trainable) if trained else 0
    return Counts(
        steps=n_steps,
        models_opened=1 if trained or adapters else t,
        checkpoints=t,
        layers=layers,
        cells=t * layers,
        forward_passes=t * math.ceil(n / recording.batch_size),
        prompt_tokens=of_prompts,
        training_tokens=round(
            batches * batch * settings.max_length  # at most
            if settings.arguments.get("packing")
            else batches * padded(texts.rows, batch) / max(1, math.ceil(len(texts.rows) / batch))
        ),
        diagrams=(t * layers * b, t * bands + 2 * _FLOOR_PAIRS + 4 * b),
        matrices=(t * layers, (t if bands else 0) + 1 + 4 + 3 * t),
        summaries=t + 4,
        h1_distances=(3 * (t - 1) + paired * (paired - 1) // 2) * b + (t - 1) * bands + _FLOOR_PAIRS,
        h0_distances=2 * (t - 1) * b + _FLOOR_PAIRS,
        activation_bytes=t * n * (layers * size.hidden_size * item + behaviour * (2 * 8 + roots * 4)),
        diagram_bytes=round(t * layers * cell_bytes),
        weight_bytes=_FLOAT * size.n_trainable if trained else 0,
        # the trainer's checkpoint and the one before, until it is whole; distributions now, before, and first
        scratch_bytes=2 * training * bool(params.compute.save_steps)
        + behaviour * 3 * n * size.vocab_size * 4,
        memory_bytes=_PROCESS
        + _FLOAT * size.n_parameters
        + training
        + _of_a_pass(params, size, texts, trained),
    )


def _of_a_pass(params: Params, size: Size, texts: Texts, trained: bool) -> int:
    """Bytes of memory that the largest forward pass needs, of training or of recording."""
    settings, recording = params.finetune, params.recording
    recorded = max(texts.prompts) * min(recording.batch_size, params.prompts.n_prompts) * 8 * size.hidden_size
    if not trained:
        return _FLOAT * recorded
    # checkpointed, a block keeps what it was given, and one at a time has all
    kept = size.n_layers + _KEPT if settings.checkpoints_activations else size.n_layers * _KEPT
    longest = settings.max_length if settings.arguments.get("packing") else max(texts.rows, default=0)
    longest *= settings.per_device_train_batch_size
    return round(_FLOAT * max(recorded, longest * (kept * size.hidden_size + _LOGITS * size.vocab_size)))


def padded(lengths: Sequence[int], batch_size: int) -> int:
    """Tokens of texts in batches, padded to the longest of each."""
    batches = [lengths[at : at + batch_size] for at in range(0, len(lengths), batch_size)]
    return sum(len(batch) * max(batch) for batch in batches)


def estimate(counts: Counts, rates: Rates, n_workers: int) -> dict[str, float]:
    """Seconds of each stage; a layer's trajectory is one task, so more workers than layers do not help there."""
    layer = (
        counts.matrices[1] * rates.matrix
        + counts.diagrams[1] * rates.diagram
        + counts.summaries * rates.summary
        + counts.h1_distances * rates.h1_distance
        + counts.h0_distances * rates.h0_distance
    )
    cells = counts.matrices[0] * rates.matrix + counts.diagrams[0] * (rates.diagram + rates.voids)
    recorded = counts.checkpoints * counts.prompt_tokens * rates.forward_token
    begin, pictures = _BEGIN * rates.start, _PICTURES * rates.start
    parts = {"model": rates.start}
    parts["finetune"] = rates.start + counts.models_opened * rates.open_model
    parts["finetune"] += counts.training_tokens * rates.training_token + recorded
    parts["diagrams"] = begin + cells / min(n_workers, counts.cells)
    parts["trajectory"] = begin + layer * math.ceil(counts.layers / n_workers)
    parts["track"] = begin + pictures
    return parts


def obstacles(counts: Counts, disk_free: int, memory_free: int) -> list[str]:
    """Why a run cannot fit on this machine; empty where it can."""
    found = []
    if counts.disk_bytes > disk_free:
        found.append(
            f"it needs {readable(counts.disk_bytes)} of disk, and {readable(disk_free)} are free; record fewer layers "
            "or checkpoints (recording.layers, recording.schedule), or free some"
        )
    if counts.memory_bytes > memory_free:
        found.append(
            f"it needs {readable(counts.memory_bytes)} of memory, and {readable(memory_free)} are available; choose a "
            "smaller model, adapters (finetune.lora) or smaller batches (finetune.per_device_train_batch_size)"
        )
    return found


def readable(n_bytes: float) -> str:
    """
    >>> readable(1_536_000), readable(12)
    ('1.5 MB', '12 B')
    """
    if n_bytes < 1000:
        return f"{n_bytes:.0f} B"
    power = min(int(math.log10(n_bytes)) // 3, 4)
    return f"{n_bytes / 1000**power:.1f} {('', 'kB', 'MB', 'GB', 'TB')[power]}"


def table(counts: Counts, texts: Texts, seconds: Mapping[str, float]) -> str:
    """All of it as lines to read."""
    source = "assumed" if texts.assumed else "counted"
    per = sum(texts.prompts) / len(texts.prompts)
    lines = [
        ("checkpoints", f"{counts.checkpoints} of {counts.layers} layers: {counts.cells} cells"),
        (
            "forward passes",
            f"{counts.forward_passes:,} ({counts.checkpoints * counts.prompt_tokens:,} tokens, padded)",
        ),
        ("prompts", f"{len(texts.prompts)}, {per:.0f} tokens each on average ({source})"),
        (
            "training",
            f"{counts.steps} steps, {counts.training_tokens:,} tokens, padded" if counts.steps else "none",
        ),
        ("activations", readable(counts.activation_bytes)),
        ("diagrams", f"{readable(counts.diagram_bytes)} (estimate), {counts.diagrams[0]:,} of them"),
        ("weights kept", readable(counts.weight_bytes)),
        ("meanwhile on disk", readable(counts.scratch_bytes)),
        ("memory", f"{readable(counts.memory_bytes)} (estimate)"),
        *((f"time of {part}", duration(spent)) for part, spent in seconds.items()),
        ("time in all", duration(sum(seconds.values()))),
    ]
    return "\n".join(f"{name:<20}{value}" for name, value in lines)
