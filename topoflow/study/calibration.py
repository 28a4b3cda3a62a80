"""What costs depend on, looked up and measured on this machine: the model's size, the texts' tokens, and rates."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from topoflow.config import EmbeddedModel, FolderModel, HubModel, ModelSource, Params
from topoflow.dynamics.labels import classes_of
from topoflow.embedded import embedded_folder
from topoflow.errors import InvalidArgument, InvalidFile
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study.cost import FRAGMENTED, Rates, Size, Texts, most_tokens
from topoflow.training import models

logger = logging.getLogger(__name__)

_STEPS = 4  # of training at most; the first warms up
_LONG_ENOUGH = 6.0  # seconds of steps after which no further one is made
_OPERATIONS = 4e11  # that may be spent on a recording: some seconds on a core
_STEP_OPERATIONS = 2e12  # and on a step; of larger batches some rows are taken
_ON_ACCELERATOR = 100  # times as many on one
_ANSWERED = 4  # tokens of each answer
_OF_A_PRODUCT = 0.5  # of the rate of one matrix product, that a model's passes are assumed to reach


@dataclass(frozen=True)
class Found:
    """A model as far as it is at hand without a download of weights, and its texts."""

    size: Size
    texts: Texts
    tokenizer: Any
    folder: Path | None  # with its weights, where they are here
    rows: Sequence[Any]  # those that are trained on, none too long; as many as `texts.rows`
    prompts: Sequence[Any]
    labels: Sequence[str] | None  # of the prompts
    source: ModelSource

    @property
    def trust(self) -> bool:
        return bool(getattr(self.source, "trust_remote_code", False))


def look(params: Params, run: Run, stand_in: bool = True) -> Found:
    """Find out what a run's costs depend on; no weights are loaded or downloaded.

    Parameters
    ----------
    params : Params
    run : Run
    stand_in : bool
        Whether bundled texts may stand for those of the run where these cannot be had, and what is left out is said.

    Raises
    ------
    InvalidArgument
        When the model's configuration cannot be had.
    InvalidFile
        When it cannot be read.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from_config: Any = AutoModelForCausalLM.from_config

    source = params.model_source(run.model)
    folder = _folder(params, run, source)
    trust = getattr(source, "trust_remote_code", False)
    place: dict[str, Any] = {"pretrained_model_name_or_path": folder}
    if folder is None:
        if not isinstance(source, HubModel):
            remedy = f"make it with: topoflow model --model {run.model}"
            raise InvalidArgument("model", "one that has been made", run.model, remedy)
        place = {"pretrained_model_name_or_path": source.id, "revision": source.revision}
    name = str(place["pretrained_model_name_or_path"])
    with models.readable_loading_errors(name), models.readable_hub_errors("model", name, "its revision"):
        config = AutoConfig.from_pretrained(**place, trust_remote_code=trust)
        tokenizer = _tokenizer(place, trust)
        with torch.device("meta"):  # shapes without memory
            network = from_config(config, dtype=torch.float32, trust_remote_code=trust)
    prompts, labels, rows, assumed = _texts(params, run, stand_in)
    asked, answered, fitting = _lengths(params, tokenizer, prompts, rows, warn=stand_in)
    size = _size(network, params)
    weights = folder if folder is not None and _has_weights(folder, source) else None
    texts = Texts(asked, answered, assumed, tuple(map(len, classes_of(labels or ()).values())))
    return Found(size, texts, tokenizer, weights, fitting, prompts, labels, source)


def _folder(params: Params, run: Run, source: ModelSource) -> Path | None:
    """Where the model's weights are on this machine, if they are."""
    if isinstance(source, FolderModel):
        return Path(source.path)
    if isinstance(source, EmbeddedModel):
        return embedded_folder(source.name)
    described = layout.model_file(run.model)
    if isinstance(source, HubModel):
        try:
            return models.download(source.id, source.revision, cached=True)
        except ValueError:
            return None
    return models.locate(layout.read_model(described), source) if described.is_file() else None


def _has_weights(folder: Path, source: ModelSource) -> bool:
    """Whether a folder has all weights; what is damaged is refused, but for a download that has only begun."""
    if not any(folder.glob("*.safetensors")):
        return False
    try:
        models.tensors_of(folder)
    except InvalidFile:
        if isinstance(source, HubModel):
            return False
        raise
    return True


def _tokenizer(place: dict[str, Any], trust: bool) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=trust)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _texts(
    params: Params, run: Run, stand_in: bool
) -> tuple[Sequence[Any], Sequence[str] | None, Sequence[Any], bool]:
    """The run's prompts with their labels, and rows.

    Bundled ones in their place where they cannot be had, and whether that is so.
    """
    from topoflow.samples import load_samples
    from topoflow.training.objectives import labelled_prompts, training_rows

    checkpoints = params.checkpoints(run.objective)
    try:
        prompts, labels = labelled_prompts(params)
        return prompts, labels, [] if checkpoints else training_rows(params, run.objective, prompts), False
    except ValueError as error:
        if not stand_in:
            raise
        logger.warning("the plan uses bundled texts instead of the run's: %s", error)
    sample = [
        {"prompt": [{"role": "user", "content": row["prompt"]}],
         "completion": [{"role": "assistant", "content": row["completion"]}]}
        for row in load_samples("helpful")
    ]  # fmt: skip
    few = [sample[at % len(sample)] for at in range(max(params.prompts.n_prompts, params.prepare.n_rows))]
    prompts = [row["prompt"] for row in few[: params.prompts.n_prompts]]
    return prompts, None, [] if checkpoints else few[: params.prepare.n_rows], True


def _lengths(
    params: Params, tokenizer: Any, prompts: Sequence[Any], rows: Sequence[Any], warn: bool = True
) -> tuple[list[int], list[int], Sequence[Any]]:
    """Tokens of each prompt, and of each row that is short enough; these rows."""
    from topoflow.recording.callback import tokenize_prompts
    from topoflow.training.sft import rows_that_fit

    tokens = tokenize_prompts(tokenizer, prompts, params.recording.max_length, params.recording.template)
    longest = params.finetune.max_length
    fitting, lengths = rows_that_fit(rows, tokenizer, longest, warn=warn) if rows else ([], [])
    multiple = params.finetune.arguments.get("pad_to_multiple_of")
    if isinstance(multiple, int):
        lengths = [-(-length // multiple) * multiple for length in lengths]
    return [*map(len, tokens)], lengths, fitting


def _size(network: Any, params: Params) -> Size:
    from topoflow.training.sft import lora_config

    config = network.config.get_text_config()
    trainable = total = sum(weights.numel() for weights in network.parameters())
    if (adapter := lora_config(params.finetune)) is not None:
        import copy

        from peft import get_peft_model

        adapted = get_peft_model(copy.deepcopy(network), adapter)
        trainable = sum(weights.numel() for weights in adapted.parameters() if weights.requires_grad)
    return Size(total, trainable, config.num_hidden_layers, config.hidden_size, config.vocab_size)


# --- rates --------------------------------------------------------------------------------------

Times = npt.NDArray[np.float64]  # seconds on the clock, and of CPU


def now() -> Times:
    """The clock and the time of CPU that this process has used, in seconds, when an accelerator has done its work."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


@dataclass(frozen=True)
class Measured:
    """What was measured on this machine.

    Attributes
    ----------
    clock, cpu : Rates
        In seconds on the clock, which other processes lengthen, and in seconds of CPU.
    peak : int or None
        Bytes of memory that this process, or the accelerator, held at most, with what longer trainings add; None where
        batches were smaller than the run's.
    assumed : tuple of str
        What stands for something that could not be measured.
    """

    clock: Rates
    cpu: Rates
    peak: int | None
    assumed: tuple[str, ...]


def measure(params: Params, found: Found, start: Times, frozen: bool) -> Measured:
    """Time some steps of the real training, the recording of real prompts, and one cell of real size.

    The first step and the first recording are left out: they find caches cold. Rows are drawn evenly from all lengths
    that are trained on, and one batch is of the longest, which says what memory is needed. Of a model whose weights are
    not here one matrix product is timed, and the rest is arithmetic.

    Parameters
    ----------
    params : Params
    found : Found
    start : ndarray, shape (2,)
        Seconds that the libraries took to load, on the clock and of CPU.
    frozen : bool
        Whether the model's weights stay as they are, under adapters.
    """
    import torch

    torch.set_num_threads(params.finetune.n_threads)
    if found.folder is None:
        of_model, cells, peak, assumed = _by_a_product(params, found, frozen)
    else:
        of_model, cells, peak, assumed = _by_training(params, found, found.folder, frozen)
    timed = {**of_model, **_topology_rates(params, cells, found), "start": start}
    cell_bytes = timed.pop("cell_bytes")
    clock, cpu = (
        Rates(cell_bytes=cell_bytes, **{name: float(times[at]) for name, times in timed.items()})
        for at in (0, 1)
    )
    return Measured(clock, cpu, peak, assumed)


_OfModel = tuple[dict[str, Any], Sequence[Any], int | None, tuple[str, ...]]


def _by_a_product(params: Params, found: Found, frozen: bool) -> _OfModel:
    """Rates of a model without its weights: its operations, at the rate of one matrix product in its dtype."""
    import torch

    dtype = getattr(torch, models.weights_dtype(found.source, found.size.n_parameters, frozen))
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    side = 8192 if device.type != "cpu" else 1024
    one = torch.ones(side, side, dtype=dtype, device=device)
    one @ one
    began = now()
    one @ one
    spent = now() - began
    per_operation = spent / (2 * side**3 * _OF_A_PRODUCT)
    counted = Rates.assumed(found.size, params, 1.0)
    names = ("training_token", "forward_token", "held_out_token", "answered")
    rates = {name: getattr(counted, name) * per_operation for name in names}
    rates |= {name: np.full(2, getattr(counted, name)) for name in ("open_model", "compared")}
    said = (
        f"rates of the model, whose weights are not here: its operations, at {_OF_A_PRODUCT:.0%} of the "
        f"{1e-9 * 2 * side**3 / spent[0]:.0f} GFLOP/s of a matrix product",
    )
    return rates, [], None, said


def _by_training(params: Params, found: Found, weights: Path, frozen: bool) -> _OfModel:
    """Rates of a model that is here, from steps of its training with recordings before and after."""
    from topoflow.training import sft

    began = now()
    network = models.open_model(weights, found.trust, found.source, frozen)
    opened = now() - began
    held = _held()
    prompts = _some(found, params)
    batch, rows, whole = _batches(params, found, prompts)
    watch = _stopwatch(params, prompts, found, batch)
    settings = replace(
        params.finetune,
        max_steps=_STEPS,
        warmup_steps=0,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
    )
    counting = network.get_input_embeddings().register_forward_pre_hook(watch.count)
    with tempfile.TemporaryDirectory() as folder:
        sft.finetune(
            network, found.tokenizer, rows, settings, 0, Path(folder), watch, device=found.source.device
        )
    counting.remove()
    per_step, tokens = np.diff(np.array(watch.steps_timed), axis=1)[1:, 0], np.array(watch.tokens[1:])
    recorded = watch.recorded / watch.passed
    rates = {
        "training_token": per_step.sum(axis=0) / tokens.sum(),
        "forward_token": recorded,
        "held_out_token": watch.timed.get("held_out_loss", recorded),
        "answered": watch.timed.get("answers", np.zeros(2)),
        "compared": np.zeros(2),  # a part of recording
        "open_model": opened,
    }
    # lengths of all sizes leave pieces between them, which a few steps have not made yet
    peak = round(_held() + FRAGMENTED * (_held() - held)) if whole else None
    cells = [watch.clouds[step][layer] for step in watch.steps for layer in watch.layers[-1:]]
    return rates, cells, peak, ()


def _batches(params: Params, found: Found, prompts: Sequence[Any]) -> tuple[int, Sequence[Any], bool]:
    """Rows a step, the rows, and whether that is the run's own largest batch.

    Where checkpoints are recorded nothing is trained, and prompts stand for rows.
    """
    import torch

    if not found.rows:
        rows = [
            {"prompt": prompt, "completion": [{"role": "assistant", "content": "x"}]} for prompt in prompts
        ]
        return 1, rows[:1] * _STEPS, False
    longest_first = np.argsort(found.texts.rows, kind="stable")[::-1]
    budget = _STEP_OPERATIONS * (_ON_ACCELERATOR if torch.accelerator.is_available() else 1)
    affordable = budget / (6 * found.size.n_parameters * found.texts.rows[longest_first[0]])
    wanted = params.finetune.per_device_train_batch_size
    batch = int(min(wanted, max(1, affordable)))
    # evenly from all lengths; the first step warms up, and is of the longest
    even = longest_first[np.linspace(0, len(longest_first) - 1, (_STEPS - 1) * batch).astype(int)]
    mixed = np.random.default_rng(0).permutation(even)
    chosen = [*longest_first[np.arange(batch) % len(longest_first)], *mixed]
    return batch, [found.rows[at] for at in chosen], batch == wanted


def _held() -> int:
    """The most bytes of memory that this process has held, of an accelerator's where there is one."""
    import psutil
    import torch

    if torch.accelerator.is_available():
        return int(torch.accelerator.max_memory_reserved())
    info = psutil.Process().memory_info()
    if hasattr(info, "peak_wset"):  # Windows
        return int(info.peak_wset)
    import resource
    import sys

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _stopwatch(params: Params, prompts: Sequence[Any], found: Found, batch: int) -> Any:
    """A callback that records and measures as the study does, and notes how long steps and recordings take."""
    import torch

    from topoflow.config.schedule import Schedule
    from topoflow.recording.callback import TopologyCallback

    class Stopwatch(TopologyCallback):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.steps_timed: list[tuple[Times, Times]] = []
            self.tokens: list[int] = []
            self.timed: dict[str, Times] = {}  # of a token, by quantity
            self.measuring = self.recorded = np.zeros(2)
            self.passed = 0  # tokens that were recorded since the last step

        def count(self, module: Any, args: Any) -> None:
            if module.training:
                self.tokens[-1] += args[0].numel()
            else:
                self.passed += args[0].numel()

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.tokens.append(0)
            self.began = now()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            ended = now()
            self.steps_timed.append((self.began, ended))
            spent = sum(float((until - since)[0]) for since, until in self.steps_timed[1:])
            if spent > _LONG_ENOUGH:
                control.should_training_stop = True
            self.measuring, self.passed = np.zeros(2), 0
            super().on_step_end(args, state, control, **kwargs)
            self.recorded = now() - ended - self.measuring  # in the end that of the last step

    recording = params.recording
    bounded = bool(found.rows) and torch.accelerator.is_available()  # of the run, whatever its batch is here
    watch = Stopwatch(
        prompts, recording.layers, Schedule(twins=0), batch_size=recording.batch_size,
        batch_tokens=most_tokens(params, bounded), max_length=recording.max_length, behaviour=recording.behaviour,
        template=recording.template,
    )  # fmt: skip
    watch.quantities = _quantities(params, prompts, found, batch, watch)
    return watch


def _quantities(params: Params, prompts: Sequence[Any], found: Found, batch: int, watch: Any) -> Any:
    """What the study measures at a checkpoint, of fewer rows and shorter answers; `watch` is told the time."""
    from topoflow.recording.quantities import Quantity, greedy_answers, held_out_loss

    def watched(quantity: Quantity, n_tokens: int) -> Quantity:
        def measure(model: Any, tokenizer: Any) -> Any:
            recorded, began = watch.passed, now()
            measured = quantity.measure(model, tokenizer)
            spent, watch.passed = now() - began, recorded
            watch.timed[quantity.name] = spent / n_tokens
            watch.measuring = watch.measuring + spent
            return measured

        return replace(quantity, measure=measure)

    settings, recording, made = params.finetune, params.recording, []
    if params.prepare.held_out and found.rows:
        middle = _of_all_lengths(found.texts.rows, batch + 2)[1:-1]
        few = [found.rows[at] for at in middle]
        tokens = batch * max(found.texts.rows[at] for at in middle)
        loss = held_out_loss({"rows": few}, batch_size=batch, max_length=settings.max_length)
        made.append(watched(loss, tokens))
    if recording.answers:
        asked = [prompts[at % len(prompts)] for at in range(recording.answers)]
        answers = greedy_answers(
            asked, max_new_tokens=_ANSWERED, max_length=recording.max_length, template=recording.template
        )
        made.append(watched(answers, _ANSWERED))
    return tuple(made)


def _some(found: Found, params: Params) -> Sequence[Any]:
    """As many prompts, of all lengths, as take seconds: all of them of a small model."""
    import torch

    mean = float(np.mean(found.texts.prompts))
    budget = _OPERATIONS * (_ON_ACCELERATOR if torch.accelerator.is_available() else 1)
    affordable = budget / (2 * found.size.n_parameters * mean)
    n = int(min(len(found.prompts), max(8, affordable)))
    return [found.prompts[at] for at in _of_all_lengths(found.texts.prompts, n)]


def _of_all_lengths(lengths: Sequence[int], n: int) -> npt.NDArray[np.int64]:
    """Places of n texts, from the shortest to the longest, evenly spread."""
    by_length = np.argsort(lengths, kind="stable")
    return np.asarray(by_length[np.linspace(0, len(by_length) - 1, n).astype(int)], np.int64)


def _topology_rates(params: Params, cells: Sequence[Any], found: Found) -> dict[str, Any]:
    """The rates of one cell at its real size; Gaussian states stand in for recorded ones that are few or random."""
    from threadpoolctl import threadpool_limits

    from topoflow.dynamics.cells import cell_distances, summarise_cell
    from topoflow.storage import diagram_bytes
    from topoflow.topology.persistence import subsample_diagrams
    from topoflow.topology.point_clouds import distance_matrix, subsample_plan

    topology, n, hidden_size = params.topology, params.prompts.n_prompts, found.size.hidden_size
    rng = np.random.default_rng(0)
    if cells and len(cells[0]) == n:
        first, last = (np.asarray(cell, np.float64) for cell in cells)
    else:  # a spectrum that falls so that they have about as many H1 bars as trained models' states
        spectrum = (1 + np.arange(hidden_size)) ** -1.5
        first, moved = (rng.normal(size=(n, hidden_size)) * spectrum for _ in range(2))
        last = first + 0.02 * moved
    plan = subsample_plan(n, topology.n_subsamples, topology.subsample_size, params.seed)
    order = params.trajectory.resolved_order
    with threadpool_limits(1, user_api="blas"):
        distances, matrix = _timed(lambda: distance_matrix(first))
        cell, diagrams = _timed(lambda: subsample_diagrams(distances, plan, 1, topology.engine))
        other = subsample_diagrams(distance_matrix(last), plan, 1, topology.engine)
        stored, voids = cell, np.zeros(2)
        if topology.maxdim > 1:
            stored, with_voids = _timed(lambda: subsample_diagrams(distances, plan, 2, topology.engine))
            voids = np.maximum(0.0, with_voids - diagrams) / len(plan)
        _, summary = _timed(lambda: summarise_cell(stored))
        _, h1 = _timed(lambda: cell_distances(cell, other, 1, order))
        _, h0 = _timed(lambda: cell_distances(cell, other, 0, order))
        of_labels = _label_rates(params, [first, last, first], found.labels) if found.labels else {}
    return {
        **of_labels,
        "matrix": matrix,
        "diagram": diagrams / len(plan),
        "summary": summary,
        "h1_distance": h1 / len(plan),
        "h0_distance": h0 / len(plan),
        "cell_bytes": len(diagram_bytes(stored)),
        "voids": voids,
    }


def _label_rates(params: Params, clouds: Sequence[Any], labels: Sequence[str]) -> dict[str, Times]:
    """The rates of what the claim `classes` computes of one cell, at the real sizes of its classes."""
    from topoflow.dynamics.classes import SHAPE, Drawing, class_velocities, probe

    topology, few = params.topology, 3
    how = Drawing(
        few, params.claims.rotation_subsamples, topology.subsample_size, params.trajectory.resolved_order,
        topology.engine,
    )  # fmt: skip
    _, labelings = _timed(lambda: class_velocities(clouds, labels, how=how))
    _, ways = _timed(lambda: class_velocities(clouds, labels, SHAPE, replace(how, n_shuffles=0)))
    _, probed = _timed(lambda: probe(clouds[1], labels))
    cells = len(clouds)
    return {"labeling": labelings / (1 + few) / cells, "way": ways / cells, "probe": probed}


def _timed(call: Any) -> tuple[Any, Times]:
    call()  # what is compiled or loaded at first
    began = now()
    return call(), now() - began
