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

from topoflow.config import EmbeddedModel, FolderModel, HubModel, ModelSource, Params
from topoflow.embedded import embedded_folder
from topoflow.errors import InvalidArgument
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study.cost import Rates, Size, Texts, padded
from topoflow.training import models

logger = logging.getLogger(__name__)

_STEPS = 4  # of training; the first warms up
_OPERATIONS = 1e11  # that may be spent on prompts: some seconds on a core


@dataclass(frozen=True)
class Found:
    """A model as far as it is at hand without a download of weights, and its texts."""

    size: Size
    texts: Texts
    network: Any  # on no device, where its weights are not needed yet
    tokenizer: Any
    folder: Path | None  # with its weights, where they are here
    rows: Sequence[Any]
    prompts: Sequence[Any]
    source: ModelSource

    @property
    def trust(self) -> bool:
        return bool(getattr(self.source, "trust_remote_code", False))


def look(params: Params, run: Run) -> Found:
    """Find out what a run's costs depend on; no weights are loaded or downloaded.

    Raises
    ------
    InvalidArgument
        When the model's configuration cannot be had.
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
    with models.readable_hub_errors("model", str(place["pretrained_model_name_or_path"]), "its revision"):
        config = AutoConfig.from_pretrained(**place, trust_remote_code=trust)
        tokenizer = _tokenizer(place, trust)
    with torch.device("meta"):  # shapes without memory
        network = from_config(config, dtype=torch.float32, trust_remote_code=trust)
    prompts, rows, assumed = _texts(params, run)
    lengths = Texts(*_lengths(params, tokenizer, prompts, rows), assumed)
    size = _size(network, params)
    return Found(size, lengths, network, tokenizer, folder, rows, prompts, source)


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


def _tokenizer(place: dict[str, Any], trust: bool) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=trust)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _texts(params: Params, run: Run) -> tuple[Sequence[Any], Sequence[Any], bool]:
    """The run's prompts and rows; bundled ones in their place where they cannot be had, and whether that is so."""
    from topoflow.samples import load_samples
    from topoflow.training.objectives import evaluation_prompts, training_rows

    checkpoints = params.checkpoints(run.objective)
    try:
        prompts = evaluation_prompts(params)
        return prompts, [] if checkpoints else training_rows(params, run.objective, prompts), False
    except ValueError as error:
        logger.warning("the plan uses bundled texts instead of the run's: %s", error)
    sample = [
        {"prompt": [{"role": "user", "content": row["prompt"]}],
         "completion": [{"role": "assistant", "content": row["completion"]}]}
        for row in load_samples("helpful")
    ]  # fmt: skip
    few = [sample[at % len(sample)] for at in range(max(params.prompts.n_prompts, params.prepare.n_rows))]
    prompts = [row["prompt"] for row in few[: params.prompts.n_prompts]]
    return prompts, [] if checkpoints else few[: params.prepare.n_rows], True


def _lengths(
    params: Params, tokenizer: Any, prompts: Sequence[Any], rows: Sequence[Any]
) -> tuple[list[int], list[int]]:
    from topoflow.recording.callback import tokenize_prompts
    from topoflow.training.sft import rows_that_fit

    tokens = tokenize_prompts(tokenizer, prompts, params.recording.max_length, params.recording.template)
    lengths = rows_that_fit(rows, tokenizer, params.finetune.max_length)[1] if rows else []
    multiple = params.finetune.arguments.get("pad_to_multiple_of")
    if isinstance(multiple, int):
        lengths = [-(-length // multiple) * multiple for length in lengths]
    return [*map(len, tokens)], lengths


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


def measure(params: Params, run: Run, found: Found, start: float) -> Rates:
    """Time some steps of the real training, the recording of real prompts, and one cell of real size, in seconds.

    Parameters
    ----------
    params : Params
    run : Run
    found : Found
    start : float
        Seconds that the libraries took to load.
    """
    import torch

    from topoflow.training import sft

    torch.set_num_threads(params.finetune.n_threads)
    began = time.perf_counter()
    network = _network(found, params.finetune.lora is not None)
    opened = time.perf_counter() - began
    chosen = _some(found, params)
    batch = params.finetune.per_device_train_batch_size * params.finetune.gradient_accumulation_steps
    rows = found.rows or [
        {"prompt": prompt, "completion": [{"role": "assistant", "content": "x"}]} for prompt in chosen
    ]
    marks: list[tuple[str, float]] = []
    watch = _stopwatch(params, chosen, marks)
    settings = replace(params.finetune, max_steps=_STEPS, warmup_steps=0)
    few = [rows[at % len(rows)] for at in range(_STEPS * batch)]
    with tempfile.TemporaryDirectory() as folder:
        _, log = sft.finetune(network, found.tokenizer, few, settings, 0, Path(folder), watch)
    at = {
        name: [when for what, when in marks if what == name]
        for name in ("step", "stepped", "recording", "recorded")
    }
    tokens = np.diff([0, *(entry["num_tokens"] for entry in log if "num_tokens" in entry)])
    spent = np.subtract(at["stepped"], at["step"])
    prompt_tokens, row_tokens = _lengths(params, found.tokenizer, chosen, few)
    # real tokens are what the log counts, padded ones what is computed
    share = padded(row_tokens, settings.per_device_train_batch_size) / max(1, sum(row_tokens))
    cells = [watch.clouds[step][layer] for step in watch.steps for layer in watch.layers[-1:]]
    return Rates(
        training_token=float(spent[1:].sum() / (tokens[1:].sum() * share)),
        forward_token=(at["recorded"][0] - at["recording"][0])
        / padded(sorted(prompt_tokens), params.recording.batch_size),
        open_model=opened,
        start=start,
        **_topology_rates(params, cells if found.folder else [], found.size.hidden_size),
    )


def _network(found: Found, frozen: bool) -> Any:
    """The model with its weights, or with any of the same sizes where these are not here."""
    import torch
    from transformers import AutoModelForCausalLM

    if found.folder is not None:
        return models.open_model(found.folder, found.trust, found.source, frozen)
    if any(weights.is_meta for weights in found.network.parameters()):
        from_config: Any = AutoModelForCausalLM.from_config
        dtype = models.weights_dtype(found.source, found.size.n_parameters, frozen)
        return from_config(
            found.network.config, dtype=getattr(torch, dtype), trust_remote_code=found.trust
        ).eval()
    return found.network


def _stopwatch(params: Params, prompts: Sequence[Any], marks: list[tuple[str, float]]) -> Any:
    """A callback that records as the study does, and notes when recordings and steps begin and end."""
    from topoflow.config.schedule import Schedule
    from topoflow.recording.callback import TopologyCallback

    def mark(what: str) -> None:
        marks.append((what, time.perf_counter()))

    class Stopwatch(TopologyCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            mark("recording")
            super().on_train_begin(*args, **kwargs)
            mark("recorded")

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            mark("step")

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            mark("stepped")
            super().on_step_end(*args, **kwargs)

    recording = params.recording
    return Stopwatch(
        prompts, recording.layers, Schedule(twins=0), batch_size=recording.batch_size,
        batch_tokens=recording.batch_tokens, max_length=recording.max_length,
        behaviour=recording.behaviour,
    )  # fmt: skip


def _some(found: Found, params: Params) -> Sequence[Any]:
    """As many prompts, of all lengths, as take seconds: all of them of a small model."""
    mean = float(np.mean(found.texts.prompts))
    affordable = _OPERATIONS / (2 * found.size.n_parameters * mean)
    n = int(min(len(found.prompts), max(8, affordable)))
    by_length = np.argsort(found.texts.prompts, kind="stable")
    return [found.prompts[at] for at in by_length[np.linspace(0, len(by_length) - 1, n).astype(int)]]


def _topology_rates(params: Params, cells: Sequence[Any], hidden_size: int) -> dict[str, float]:
    """The rates of one cell at its real size; Gaussian states stand in for recorded ones that are few or random."""
    from threadpoolctl import threadpool_limits

    from topoflow.dynamics.cells import cell_distances, summarise_cell
    from topoflow.storage import diagram_bytes
    from topoflow.topology.persistence import subsample_diagrams
    from topoflow.topology.point_clouds import distance_matrix, subsample_plan

    topology, n = params.topology, params.prompts.n_prompts
    rng = np.random.default_rng(0)
    if cells and len(cells[0]) == n:
        first, last = (np.asarray(cell, np.float64) for cell in cells)
    else:  # a spectrum that falls so that they have about as many H1 bars as trained models' states
        spectrum = (1 + np.arange(hidden_size)) ** -1.5
        first, moved = (rng.normal(size=(n, hidden_size)) * spectrum for _ in range(2))
        last = first + 0.02 * moved
    plan = subsample_plan(n, topology.n_subsamples, topology.subsample_size, params.seed)
    order = params.trajectory.resolved_order

    def timed(call: Any) -> tuple[Any, float]:
        call()  # what is compiled or loaded at first
        began = time.perf_counter()
        return call(), time.perf_counter() - began

    with threadpool_limits(1, user_api="blas"):
        distances, matrix = timed(lambda: distance_matrix(first))
        cell, diagrams = timed(lambda: subsample_diagrams(distances, plan, 1, topology.engine))
        other = subsample_diagrams(distance_matrix(last), plan, 1, topology.engine)
        stored, voids = cell, 0.0
        if topology.maxdim > 1:
            stored, with_voids = timed(lambda: subsample_diagrams(distances, plan, 2, topology.engine))
            voids = max(0.0, with_voids - diagrams) / len(plan)
        _, summary = timed(lambda: summarise_cell(stored))
        _, h1 = timed(lambda: cell_distances(cell, other, 1, order))
        _, h0 = timed(lambda: cell_distances(cell, other, 0, order))
    return {
        "matrix": matrix,
        "diagram": diagrams / len(plan),
        "summary": summary,
        "h1_distance": h1 / len(plan),
        "h0_distance": h0 / len(plan),
        "cell_bytes": len(diagram_bytes(stored)),
        "voids": voids,
    }
