"""What a run will cost before it runs: counted from its parameters, timed by rates that were measured or assumed.

All of it is arithmetic. `calibration` looks at the model and the text, and measures the rates of this
machine.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from topoflow.config import Params
from topoflow.dynamics.classes import draw_classes
from topoflow.study.cards import BANDWIDTH_EFFICIENCY, EFFICIENCY, Card
from topoflow.telling import duration
from topoflow.training.models import dtype_by_size

_FLOAT = 4  # bytes
_ITEM = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
# What is written of a diagram, where none has been: of what it holds as float64 (H0 bars are born at 0), deflated.
_DEFLATED = 0.8
_H1_BARS = 0.36  # a point of a subsample, in language models' states
# Seconds, as shares of the start of a stage that trains: the start of any other stage, and the pictures and logging of
# `track`.
_BEGIN = 0.25
_PICTURES = 1.2
_DVC = 0.6  # six processes of DVC's
_PROCESS = 800_000_000  # bytes of memory of a Python with torch and TRL
_CONTEXT = 600_000_000  # and of the context of a GPU
# Floats a token that a block keeps for the backward pass, in hidden sizes: fitted to what Llamas with adapters on all
# linear layers hold at their peak. In bfloat16 too: adapters are float32, and each keeps its input as float32.
_KEPT = 18
# TRL (from 1.16) computes the loss in tiles of so many tokens and words, and no logits of whole sequences exist. A tile
# is in memory this many times as float32: on a CPU by what PyTorch makes of it, on a GPU once, in its full width.
_TILE_TOKENS, _TILE_WORDS = 4096, 32768
_TILES, _TILES_OF_KERNEL = 8, 1
# Bytes of a logit in a pass that makes them all, as held-out losses do: with a copy and its logarithm.
_LOGIT_BYTES = 12
# What an allocator holds beside what is in use, as a share of passes: pieces between what lengths of all sizes left.
FRAGMENTED = 0.3
_FOUR_BITS = 4.5 / 8  # bytes of a weight in NF4, with the scale of each 64
_FLOOR_PAIRS = 32  # of sets of prompts, in `sampling_floor`
_BAND_SUBSAMPLES = 8  # a replicate, in `prompt_bands`
_MOST_PAIRED = 128  # checkpoints, in `paired_checkpoints`
_ROOTS = 256  # numbers of a prompt's answer, in `sketched_roots`
_ANSWER = 40  # tokens, in `greedy_answers`
_COMPARED = 6e-8  # seconds of a core for one probability of an answer that is compared
# Rungs of a run's claims that are held against rotations, as far as claims climb at all; and a rotation of a subsample,
# with its distances, in diagrams.
_RUNGS = 2
_ROTATION = 5
_OPENED = 1e9  # bytes of weights that are opened in a second
_COMPARE_SUBSAMPLES = 16  # of a cell, in `compare`
# Seconds of a core for a diagram of 160 points, and for distances between two.
_DIAGRAM, _H1_DISTANCE, _H0_DISTANCE = 0.5e-3, 0.04e-3, 0.047e-3


@dataclass(frozen=True)
class Size:
    """A model, as far as costs depend on it; `n_trainable` weights are trained (the adapter's under LoRA)."""

    n_parameters: int
    n_trainable: int
    n_layers: int
    hidden_size: int
    vocab_size: int


@dataclass(frozen=True)
class Opened:
    """How weights are held while they are trained: in which dtype, under autocast or not, on which kind of device.

    `autocast` is training in bfloat16 of weights in float32; `four_bits` holds those of the base in NF4.
    """

    dtype: str = "float32"
    autocast: bool = False
    four_bits: bool = False
    accelerator: bool = False

    @classmethod
    def of(cls, params: Params, model: str, accelerator: bool, n_parameters: int, frozen: bool) -> Opened:
        """How a run opens a model, on a machine with an accelerator or without; `frozen` under adapters."""
        source, arguments = params.model_source(model), params.finetune.arguments
        mixed = bool(arguments.get("bf16") or arguments.get("fp16"))
        used = accelerator and source.device != "cpu" and not arguments.get("use_cpu")
        dtype = source.dtype or dtype_by_size(n_parameters, frozen, used)
        return cls(dtype, mixed and dtype == "float32", source.quantization == "4bit", used)

    @property
    def item(self) -> int:
        """Bytes of a weight as it is opened."""
        return _ITEM[self.dtype]

    @property
    def computes(self) -> str:
        """The dtype in which a training multiplies."""
        return "bfloat16" if self.autocast else self.dtype

    def weights(self, size: Size) -> int:
        """Bytes of the model's weights."""
        if not self.four_bits:
            return self.item * size.n_parameters
        embedded = min(2 * size.vocab_size * size.hidden_size, size.n_parameters)  # which stay as they are
        return round(self.item * embedded + _FOUR_BITS * (size.n_parameters - embedded))


@dataclass(frozen=True)
class Memory:
    """Bytes that a run holds at its peak, by what they are: of the host, and of an accelerator where it uses one.

    `largest` is the pass that needs most; its bytes are among the others.
    """

    host: Mapping[str, int]
    device: Mapping[str, int]
    largest: str


@dataclass(frozen=True)
class Texts:
    """Tokens of each prompt and of training rows; `assumed` where neither tokenizer nor text was at hand.

    `classes` are the numbers of prompts of each class that is compared, where prompts carry labels.
    """

    prompts: Sequence[int]
    rows: Sequence[int]
    assumed: bool = False
    classes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Counts:
    """What a run does and leaves.

    Tokens are padded ones, of all steps or of one checkpoint. `diagrams`, `h1_distances` and `h0_distances` are those
    of single subsamples, `matrices` and `summaries` those of cells: first of the stage `diagrams`, then of one layer
    in the stage `trajectory`. `held_out_tokens` and `answers` are those of one checkpoint, `compared` the probabilities
    of next tokens that are compared there with those of the first one and the one before. `rotated` are subsamples, for
    two rungs of rotations: claims that end sooner need fewer. Of one layer, `labelings` are those of two rungs of
    the claim `classes`, `ways` those of the third, and `probes` those of all checkpoints. Bytes are those that stay,
    but for `scratch_bytes`, which are needed meanwhile.
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
    held_out_tokens: int
    answers: int
    compared: int
    rotated: int
    labelings: int
    ways: int
    probes: int
    memory: Memory
    n_subsamples: int

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory.host.values())

    @property
    def device_bytes(self) -> int:
        return sum(self.memory.device.values())

    @property
    def disk_bytes(self) -> int:
        return self.activation_bytes + self.diagram_bytes + self.weight_bytes + self.scratch_bytes


@dataclass(frozen=True)
class Rates:
    """Seconds: of a token in training and in a forward pass, of opening a model, of topology on one core.

    `start` is what a stage that trains takes before it begins. `held_out_token` is one of a held-out row, `answered`
    the next token of all answers together, and `compared` a probability of an answer. `cell_bytes` are those of a
    cell's file of diagrams. `voids` is what H2 adds to a stored diagram, 0 where it is not computed. `labeling` is one
    labeling of the prompts of a cell, `way` the same of ways that were exchanged, and `probe` a cell's probe; all are 0
    where prompts carry no labels.
    """

    training_token: float
    forward_token: float
    open_model: float
    matrix: float
    diagram: float
    summary: float
    h1_distance: float
    h0_distance: float
    held_out_token: float
    answered: float
    compared: float = 0.0  # where it is a part of `forward_token`
    start: float = 12.0
    cell_bytes: float | None = None  # where none was written
    voids: float = 0.0
    labeling: float = 0.0
    way: float = 0.0
    probe: float = 0.0

    @classmethod
    def assumed(cls, size: Size, params: Params, flops: float, classes: Sequence[int] = ()) -> Rates:
        """Rates from `flops`, the floating-point operations a second that all devices reach together.

        A token costs 2 operations a weight forward and 2 more backward, and 2 more for the gradients of weights that
        are trained; where activations are checkpointed, blocks go forward twice. Those of attention itself are not
        counted. Topology is that of `benchmarks/topology.md`, one core, states that are not isotropic. `classes` are
        those of `Texts`.
        """
        forward = 2 * size.n_parameters
        passes = 3 if params.finetune.checkpoints_activations else 2
        points, width = params.prompts.n_prompts, size.hidden_size
        of_a_subsample = params.topology.subsample_size / 160
        area, part = (points / 750) ** 2, of_a_subsample**2
        matrix = area * (2.5e-3 + 1.9e-5 * width)
        labeling = _labeling(params, classes)
        return cls(
            training_token=(passes * forward + 2 * size.n_trainable) / flops,
            forward_token=forward / flops,
            held_out_token=forward / flops,
            answered=params.recording.answers * forward / flops,
            compared=_COMPARED,
            open_model=_FLOAT * size.n_parameters / _OPENED,
            matrix=matrix,
            diagram=part * _DIAGRAM,
            summary=params.topology.n_subsamples * 0.035e-3,
            h1_distance=part * _H1_DISTANCE,
            h0_distance=part * _H0_DISTANCE,
            voids=of_a_subsample**3 * 17e-3 if params.topology.maxdim > 1 else 0.0,
            labeling=labeling,
            way=1.5 * matrix + labeling if classes else 0.0,
            probe=0.2 + 5e-8 * points * width * len(classes) if classes else 0.0,
        )

    @classmethod
    def on_card(cls, size: Size, params: Params, texts: Texts, opened: Opened, card: Card) -> Rates:
        """Rates of one card: a pass takes as long as its operations, or as reading what it reads, whichever is longer.

        Weights are read once a pass, twice under autocast, which also writes its copy. An optimiser step reads and
        writes weights, gradients and two moments. Of the card's peaks, `EFFICIENCY` and `BANDWIDTH_EFFICIENCY` are
        assumed to be reached.
        """

        def seconds(operations: float, read: float, dtype: str) -> float:
            peak = card.float32 if dtype == "float32" else card.bfloat16
            return max(operations / (EFFICIENCY * peak), read / (BANDWIDTH_EFFICIENCY * card.bandwidth))

        counted = cls.assumed(size, params, 1.0, texts.classes)  # operations, where a second has one
        settings, weights = params.finetune, opened.weights(size)
        read = weights + 2 * 2 * size.n_parameters * opened.autocast
        passes = 3 if settings.checkpoints_activations else 2
        trained_on = _in_order(texts.rows, settings.per_device_train_batch_size)
        tokens = _padded(trained_on) / len(trained_on) if trained_on else 1
        recorded = _recorded(params, texts, opened, bool(trained_on))
        prompts = _padded(recorded)
        stepped = 7 * _FLOAT * size.n_trainable / settings.gradient_accumulation_steps
        dtype = opened.computes if texts.rows else opened.dtype  # checkpoints are recorded without autocast
        return replace(
            counted,
            training_token=seconds(counted.training_token * tokens, passes * read + stepped, dtype) / tokens,
            forward_token=seconds(counted.forward_token * prompts, len(recorded) * read, dtype) / prompts,
            held_out_token=seconds(counted.held_out_token * tokens, read, dtype) / tokens,
            answered=seconds(counted.answered, read, dtype),
            open_model=opened.item * size.n_parameters / _OPENED,
        )


def count(
    params: Params,
    size: Size,
    texts: Texts,
    steps: Sequence[int] | None = None,
    adapters: bool = False,
    cell_bytes: float | None = None,
    learning_rates: Sequence[float] | None = None,
    opened: Opened = Opened(),
    n_held_out: int = 1,
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
    opened : Opened
        How the model's weights are held.
    n_held_out : int
        How many objectives give rows on which the loss is measured.

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
    recorded = _recorded(params, texts, opened, trained)
    behaviour, roots = recording.behaviour, min(size.vocab_size, _ROOTS)
    kept = size.n_trainable * (_FLOAT if settings.lora else opened.item) if trained else 0
    held_out = params.prepare.held_out * n_held_out if trained else 0
    labelings = t * (1 + params.claims.n_rotations) * bool(texts.classes)
    trained_on = _in_order(texts.rows, batch)
    trained_tokens = _padded(trained_on)
    return Counts(
        steps=n_steps,
        models_opened=1 if trained or adapters else t,
        checkpoints=t,
        layers=layers,
        cells=t * layers,
        forward_passes=t * len(recorded),
        prompt_tokens=_padded(recorded),
        training_tokens=round(
            batches * batch * settings.max_length  # at most
            if settings.arguments.get("packing")
            else batches * trained_tokens / max(1, len(trained_on))
        ),
        diagrams=(t * layers * b, t * bands + 2 * _FLOOR_PAIRS + 4 * b),
        matrices=(t * layers, (t if bands else 0) + 1 + 4 + 3 * t),
        summaries=t + 4,
        h1_distances=(3 * (t - 1) + paired * (paired - 1) // 2) * b + (t - 1) * bands + _FLOOR_PAIRS,
        h0_distances=2 * (t - 1) * b + _FLOOR_PAIRS,
        activation_bytes=t
        * n
        * (layers * size.hidden_size * _ITEM[recording.dtype] + behaviour * (2 * 8 + roots * 4)),
        diagram_bytes=round(t * layers * cell_bytes),
        weight_bytes=kept,
        # the trainer's checkpoint and the one before, until it is whole; distributions now, before, and first
        scratch_bytes=2 * 3 * kept * bool(params.compute.save_steps)
        + behaviour * 3 * n * size.vocab_size * 4,
        held_out_tokens=round(held_out * trained_tokens / max(1, len(texts.rows))),
        answers=recording.answers,
        compared=behaviour * 2 * n * size.vocab_size,
        rotated=_RUNGS * params.claims.n_rotations * t * layers * params.claims.rotation_subsamples,
        labelings=2 * labelings,
        ways=labelings,
        probes=t * bool(texts.classes),
        memory=memory(params, size, texts, opened, trained),
        n_subsamples=b,
    )


def memory(params: Params, size: Size, texts: Texts, opened: Opened, trained: bool = True) -> Memory:
    """Count the bytes of memory that a run holds at its peak.

    Weights, adapters, gradients and moments stay; of the passes (training, held-out losses, recording) the largest
    counts. Without an accelerator all of it lies in the host's memory; with one, the host holds its process, and the
    weights while they are opened.

    Parameters
    ----------
    params : Params
    size : Size
    texts : Texts
    opened : Opened
    trained : bool
        False where checkpoints are recorded that are there already.

    Examples
    --------
    >>> from topoflow.config import load_params
    >>> size = Size(n_parameters=1_000_000, n_trainable=100_000, n_layers=5, hidden_size=128, vocab_size=1024)
    >>> found = memory(load_params(), size, Texts([40] * 750, [120] * 600), Opened())
    >>> found.host["weights"], found.host["Adam's moments"], found.largest
    (4000000, 800000, 'training')
    """
    weights = {"weights": opened.weights(size)}
    if trained:
        adapters, item = params.finetune.lora is not None, _FLOAT if params.finetune.lora else opened.item
        weights |= {"adapters": item * size.n_trainable} if adapters else {}
        weights |= {"gradients": item * size.n_trainable, "Adam's moments": 2 * item * size.n_trainable}
    passes = _passes(params, size, texts, opened, trained)
    largest = max(passes, key=lambda name: sum(passes[name].values()))
    held = weights | passes[largest]
    held["allocator"] = round(FRAGMENTED * sum(passes[largest].values()))
    if not opened.accelerator:
        return Memory({"process": _PROCESS, **held}, {}, largest)
    return Memory(
        {"process": _PROCESS, "weights": opened.item * size.n_parameters},
        {"context": _CONTEXT, **held},
        largest,
    )


def _passes(
    params: Params, size: Size, texts: Texts, opened: Opened, trained: bool
) -> dict[str, dict[str, int]]:
    """Bytes of each kind of pass, for its largest batch."""
    settings = params.finetune
    each = (
        {
            "states": _FLOAT * _padded([batch]) * 8 * size.hidden_size,
            "logits": params.recording.behaviour * _LOGIT_BYTES * len(batch) * size.vocab_size,
        }
        for batch in _recorded(params, texts, opened, trained)
    )
    found = {"recording": max(each, key=lambda held: sum(held.values()))}
    if not trained:
        return found
    packed = settings.arguments.get("packing")
    longest = settings.max_length if packed else max(texts.rows, default=settings.max_length)
    tokens = settings.per_device_train_batch_size * longest
    # checkpointed, a block keeps what it was given, and one at a time has all
    checkpointed = settings.checkpoints_activations
    kept = size.n_layers + _KEPT if checkpointed else size.n_layers * _KEPT
    words = _TILE_WORDS if opened.accelerator else min(size.vocab_size, _TILE_WORDS)
    tile = min(tokens, _TILE_TOKENS) * words
    training = {
        "activations": _FLOAT * tokens * kept * size.hidden_size,
        "logits": _FLOAT * tile * (_TILES_OF_KERNEL if opened.accelerator else _TILES),
    }
    if opened.autocast:  # the backward pass keeps the copies that frozen weights were multiplied as
        blocks = size.n_parameters - size.vocab_size * size.hidden_size
        training["bfloat16 copies of weights"] = 2 * (blocks // size.n_layers if checkpointed else blocks)
    found["training"] = training
    if params.prepare.held_out:
        found["held-out loss"] = {
            "states": _FLOAT * tokens * 8 * size.hidden_size,
            "logits": _LOGIT_BYTES * tokens * size.vocab_size,
        }
    return found


def _recorded(params: Params, texts: Texts, opened: Opened, trained: bool) -> list[list[int]]:
    """Tokens of the prompts of each pass of a recording, in the batches that `TopologyCallback` makes.

    On an accelerator it takes no more tokens at once than the training that it watches.
    """
    from topoflow.recording.hidden_states import batches_by_length

    most = most_tokens(params, trained and opened.accelerator)
    of_lengths = [range(length) for length in texts.prompts]
    batches = batches_by_length(of_lengths, params.recording.batch_size, most)
    return [[texts.prompts[at] for at in batch] for batch in batches]


def most_tokens(params: Params, bounded: bool) -> int:
    """Tokens of a pass of a recording at most: `bounded` by a batch in training, where a number is not given."""
    settings = params.finetune
    in_training = settings.per_device_train_batch_size * settings.max_length if bounded else sys.maxsize
    return params.recording.batch_tokens or in_training


def _labeling(params: Params, classes: Sequence[int]) -> float:
    """Seconds of a core for the classes of a cell under one labeling: their diagrams, and distances to another's."""
    if not classes:
        return 0.0
    places = {str(at): np.arange(n) for at, n in enumerate(classes)}
    most, n_subsamples = params.topology.subsample_size, params.claims.rotation_subsamples
    rows, size = draw_classes(places, range(1), n_subsamples, most, 0).plan.shape
    return float(rows * (size / 160) ** 2 * (_DIAGRAM + _H1_DISTANCE + _H0_DISTANCE))


def _in_order(lengths: Sequence[int], batch_size: int) -> list[Sequence[int]]:
    return [lengths[at : at + batch_size] for at in range(0, len(lengths), batch_size)]


def _padded(batches: Iterable[Sequence[int]]) -> int:
    """Tokens of texts in batches, padded to the longest of each."""
    return sum(len(lengths) * max(lengths) for lengths in batches)


def estimate(counts: Counts, rates: Rates, n_workers: int) -> dict[str, float]:
    """Seconds of each stage, of `prompts` and `prepare` together ("inputs"), and of DVC in between.

    Rotations are drawn in the stage `trajectory`, and have a line of their own.

    A layer's trajectory is one task, so more workers than layers do not help there.
    """
    layer = (
        counts.matrices[1] * rates.matrix
        + counts.diagrams[1] * rates.diagram
        + counts.summaries * rates.summary
        + counts.h1_distances * rates.h1_distance
        + counts.h0_distances * rates.h0_distance
        + counts.labelings * rates.labeling
        + counts.ways * rates.way
        + counts.probes * rates.probe
    )
    cells = counts.matrices[0] * rates.matrix + counts.diagrams[0] * (rates.diagram + rates.voids)
    recorded = counts.checkpoints * (
        counts.prompt_tokens * rates.forward_token
        + counts.compared * rates.compared
        + counts.held_out_tokens * rates.held_out_token
        + bool(counts.answers) * _ANSWER * rates.answered
    )
    begin, pictures = _BEGIN * rates.start, _PICTURES * rates.start
    parts = {"model": rates.start, "inputs": 2 * begin}
    parts["finetune"] = rates.start + counts.models_opened * rates.open_model
    parts["finetune"] += counts.training_tokens * rates.training_token + recorded
    parts["diagrams"] = begin + cells / min(n_workers, counts.cells)
    parts["trajectory"] = begin + layer * math.ceil(counts.layers / n_workers)
    parts["rotations"] = counts.rotated * _ROTATION * rates.diagram / n_workers
    parts["track"] = begin + pictures
    parts["DVC"] = _DVC * rates.start
    return parts


def comparing(counts: Counts, rates: Rates, n_runs: int, n_workers: int) -> float:
    """Seconds of the stage `compare`: distances between all cells of so many runs, at one checkpoint of each twin."""
    cells = n_runs * math.ceil(counts.checkpoints / 2)
    layer = cells * (cells - 1) / 2 * min(_COMPARE_SUBSAMPLES, counts.n_subsamples) * rates.h1_distance
    return (_BEGIN + _PICTURES) * rates.start + layer * math.ceil(counts.layers / n_workers)


def obstacles(
    counts: Counts,
    disk_free: float,
    memory_free: float,
    device: str = "the GPU",
    device_free: float = math.inf,
) -> list[str]:
    """Why a run cannot fit on this machine, or on another device; empty where it can."""
    found = []
    smaller = (
        "choose a smaller model, adapters (finetune.lora) or smaller batches "
        "(finetune.per_device_train_batch_size)"
    )
    if counts.disk_bytes > disk_free:
        found.append(
            f"it needs {readable(counts.disk_bytes)} of disk, and {readable(disk_free)} are free; record fewer layers "
            "or checkpoints (recording.layers, recording.schedule), or free some"
        )
    if counts.memory_bytes > memory_free:
        found.append(
            f"it needs {readable(counts.memory_bytes)} of memory, and {readable(memory_free)} are available; {smaller}"
        )
    if counts.device_bytes > device_free:
        found.append(
            f"it needs {readable(counts.device_bytes)} of memory on {device}, which has {readable(device_free)}; "
            f"{smaller}, finetune.sft_config.activation_checkpointing, or dtype: bfloat16 for the model"
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


def table(
    counts: Counts,
    texts: Texts,
    seconds: Mapping[str, float],
    cpu: Mapping[str, float] | None = None,
    peak: int | None = None,
) -> str:
    """All of it as lines to read.

    Parameters
    ----------
    counts : Counts
    texts : Texts
    seconds : mapping of str to float
        Of each stage, on the clock.
    cpu : mapping of str to float, optional
        Likewise, of all cores together.
    peak : int, optional
        Bytes of memory where they were measured: of the accelerator, where there is one.
    """
    source = "assumed" if texts.assumed else "counted"
    of_cpu = cpu or {}
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
        ("memory", _memory(counts.memory_bytes, None if counts.memory.device else peak)),
        *([("memory of the GPU", _memory(counts.device_bytes, peak))] * bool(counts.memory.device)),
        *((f"time of {part}", _time(seconds[part], of_cpu.get(part))) for part in seconds),
        ("time in all", _time(sum(seconds.values()), sum(cpu.values()) if cpu else None)),
    ]
    return "\n".join(f"{name:<20}{value}" for name, value in lines)


def _memory(counted: int, measured: int | None) -> str:
    return f"{readable(counted)} (estimate)" if measured is None else f"{readable(measured)} (measured)"


def _time(seconds: float, cpu: float | None) -> str:
    return duration(seconds) if cpu is None else f"{duration(seconds)} ({duration(cpu)} of CPU)"
