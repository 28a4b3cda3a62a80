"""The stage that makes activations: a training, or checkpoints that are there, with the hook that records."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topoflow import storage, telling
from topoflow.config import Params, Schedule
from topoflow.storage import layout
from topoflow.storage.files import read_bytes, remove
from topoflow.storage.layout import Run, write_table
from topoflow.study.stages.provenance import code_sha256, versions
from topoflow.training import devices

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from topoflow.recording.callback import TopologyCallback
    from topoflow.recording.quantities import Quantity


def finetune(params: Params, run: Run) -> None:
    """Fine-tune and record: activations/, tuned/ (the trained weights) and loss.csv.

    Where the objective is a finished training, its checkpoints are recorded, and tuned/ says which they are. A call
    that was interrupted is taken up where it stopped, and the bytes in the end are the same. The MLflow run that is
    active is joined, or one is started, and tagged with the activation set; MLflow that fails stops nothing.
    """
    devices.check_single_process()
    if params.compute.gpu is not None or not params.model_source(run.model).device_map:
        devices.pin_one_gpu(params.compute.gpu)
    from topoflow.recording.callback import NOTE_FILE
    from topoflow.tracking.live import training_run

    description, evaluation, made_from = _before_recording(params, run)
    # nothing goes on from what other code began
    code = code_sha256()
    key = storage.sha256(storage.json_bytes({**made_from, "code": code}))
    folder, losses = run.folder("activations"), run.folder("results") / layout.LOSS_FILE
    make = _record if params.checkpoints(run.objective) else _train
    with training_run(str(run)) as live:
        with storage.writing(folder, key) as work:
            if not (work / storage.MANIFEST).is_file():  # else it was interrupted when all was done
                recording = _callback(params, run.objective, evaluation, work)
                if params.track.models:
                    recording.on_record = partial(live.log_checkpoint, run)
                with storage.writing(run.folder("tuned"), key) as tuned:
                    log = make(params, run, description, recording, tuned, live.callback())
                _say_what_was_made(run, recording, log)
                _write_loss(log, losses)
                _seal_activations(
                    work,
                    {
                        **made_from,
                        "loss_sha256": storage.sha256_of_file(losses),
                        "claims": asdict(params.claims),  # as declared before anything was seen
                        "learning_rates": recording.learning_rates or _logged_rates(log, recording.steps[-1]),
                    },
                    recording,
                )
            for leftover in ("trainer", "behaviour"):
                remove(work / leftover)
            (work / NOTE_FILE).unlink(missing_ok=True)
        live.tag_activations(storage.open_set(folder, storage.ACTIVATIONS).sha256)


_Log = Sequence[Mapping[str, float]]


def _train(
    params: Params,
    run: Run,
    description: Mapping[str, Any],
    recording: TopologyCallback,
    tuned: Path,
    tracker: TrainerCallback,
) -> _Log:
    """Fine-tune; returns the trainer's log."""
    from topoflow.training import models, sft

    assert recording.folder is not None
    trainer = recording.folder / "trainer"
    network, tokenizer = models.load(description, params.model_source(run.model), _is_frozen(params, run))
    rows = layout.read_training_rows(run.objective)
    trained, log = sft.finetune(
        network,
        tokenizer,
        rows,
        params.finetune_of(run.objective),
        run.seed,
        trainer,
        recording,
        [tracker, telling.at_checkpoints(recording)],
        params.compute.save_steps,
        params.model_source(run.model).device,
    )
    _save_weights(trained, description, tuned)
    return log


def _record(
    params: Params,
    run: Run,
    description: Mapping[str, Any],
    recording: TopologyCallback,
    tuned: Path,
    tracker: TrainerCallback,  # nothing trains
) -> _Log:
    """Record checkpoints that are there; returns their trainer's log."""
    from topoflow.training import checkpoints

    source = params.checkpoints(run.objective)
    assert source is not None
    lines = _checkpoints_of(run)
    series = checkpoints.Series(run, lines, source, description, params.model_source(run.model))
    told, logged = telling.of_finished(recording, [line["step"] for line in lines]), recording.on_record

    def on_record(step: int) -> None:
        told(step)
        if logged is not None:
            logged(step)

    recording.on_record = on_record
    n_threads = params.finetune_of(run.objective).n_threads
    checkpoints.record(series, recording, params.recording.layers, n_threads)
    storage.write_file(tuned / "checkpoints.json", storage.json_bytes(lines))
    return checkpoints.training_log(series)


def _say_what_was_made(run: Run, recording: TopologyCallback, log: _Log) -> None:
    losses = [entry["loss"] for entry in log if "loss" in entry]
    fell = f", loss {losses[0]:.4g} to {losses[-1]:.4g}" if losses else ""
    telling.say(f"{run}: {len(recording.steps)} checkpoints to step {recording.steps[-1]}{fell}")


def _checkpoints_of(run: Run) -> list[dict[str, Any]]:
    """Those that `prepare` wrote down of a run."""
    lines = layout.read_checkpoints(run.objective)
    return [line for line in lines if (line["model"], line["seed"]) == (run.model, run.seed)]


def _before_recording(params: Params, run: Run) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    """The model's description, the evaluation prompts, and what an activation set of them is made from."""
    from topoflow.recording.hidden_states import FINAL_NORM
    from topoflow.training.models import weights_dtype

    description = layout.read_model(layout.model_file(run.model))
    layout.read_training_rows(run.objective)  # or a message that says what to make
    evaluation = layout.read_prompts()
    made_from = {
        "format": storage.ACTIVATIONS,
        "model": run.model,
        "revision": description["revision"],
        "weights_sha256": description["sha256"],
        "objective": run.objective,
        "rows_sha256": storage.sha256_of_file(layout.rows_file(run.objective)),
        "prompts_sha256": storage.sha256_of_file(layout.PROMPTS_FILE),
        "n_prompts": len(evaluation),
        "hidden_size": description["hidden_size"],
        "dtype": params.recording.dtype,
        "sources": params.sources(run.model, run.objective),
        "study_seed": params.seed,
        "seed": run.seed,
        "finetune": params.training(run.objective),
        "recording": params.recorded(),
        "pooling": params.recording.pooled.words,
        "final_norm": FINAL_NORM,
        "versions": versions("torch", "transformers", "trl", "peft"),
    }
    if params.checkpoints(run.objective):
        made_from["checkpoints"] = _checkpoints_of(run)
    source = params.model_source(run.model)
    dtype = weights_dtype(source, description["n_parameters"], _is_frozen(params, run))
    if source.dtype is None and dtype != "float32":  # else the model's entry says it
        made_from["weights_dtype"] = dtype
    return description, evaluation, made_from


def _is_frozen(params: Params, run: Run) -> bool:
    """Whether the weights that are opened stay as they are, under adapters."""
    if params.checkpoints(run.objective):
        from topoflow.training.checkpoints import is_one_base

        return is_one_base(_checkpoints_of(run))
    return params.finetune_of(run.objective).lora is not None


def schedule_of(params: Params, objective: str) -> Schedule:
    """When an objective is recorded: a variant at the steps of its objective, though its learning rates are others.

    The two could not be compared otherwise. A variant of another number of steps can be compared with none.
    """
    schedule, trained = params.recording.schedule, params.finetune_of(objective)
    if not schedule.needs_learning_rates or trained == params.finetune:
        return schedule
    if trained.max_steps != params.finetune.max_steps:
        return schedule
    from topoflow.training.sft import learning_rates

    return Schedule(steps=schedule.checkpoints(trained.max_steps, learning_rates(params.finetune)))


def _callback(params: Params, objective: str, evaluation: Sequence[Any], folder: Path) -> TopologyCallback:
    from topoflow.recording.callback import TopologyCallback

    recording = params.recording
    measured = [quantity(params, objective) for quantity in QUANTITIES]
    return TopologyCallback(
        evaluation,
        recording.layers,
        schedule_of(params, objective),
        folder=folder,
        batch_size=recording.batch_size,
        batch_tokens=recording.batch_tokens,
        max_length=recording.max_length,
        dtype=recording.dtype,
        behaviour=recording.behaviour,
        seed=params.seed,
        quantities=[quantity for quantity in measured if quantity is not None],
        template=recording.template,
        pooling=recording.pooling,
        position=recording.position,
        labels=layout.read_labels(),
    )


def _held_out_loss(params: Params, objective: str) -> Quantity | None:
    from topoflow.recording.quantities import held_out_loss

    rows = {} if params.checkpoints(objective) else layout.read_held_out_rows(objective)
    trained = params.finetune_of(objective)
    size = trained.per_device_train_batch_size  # which fits into memory
    return held_out_loss(rows, batch_size=size, max_length=trained.max_length) if rows else None


def _answers(params: Params, objective: str) -> Quantity | None:
    from topoflow.recording.quantities import greedy_answers

    recording, prompts = params.recording, layout.read_prompts()
    # evenly spread: the first ones of a mix all come from one of its parts. They are named by their place, from 1 on.
    places = {
        (2 * number + 1) * len(prompts) // (2 * recording.answers) for number in range(recording.answers)
    }
    if not places:
        return None
    asked = {str(place + 1): prompts[place] for place in sorted(places)}
    return greedy_answers(asked, max_length=recording.max_length, template=recording.template)


# What a study measures of the model at each checkpoint: what makes each of parameters and an objective, or None.
QUANTITIES: tuple[Callable[[Params, str], Quantity | None], ...] = (_held_out_loss, _answers)


def _logged_rates(log: _Log, last: int) -> list[float] | None:
    """The learning rate of every optimiser step up to the last, where the log of a finished training has them all.

    >>> _logged_rates([{"step": 1, "learning_rate": 0.2}, {"step": 2, "learning_rate": 0.1}], 2)
    [0.2, 0.1]
    >>> _logged_rates([{"step": 2, "learning_rate": 0.1}], 2) is None
    True
    """
    from topoflow.recording.learning_rates import rates_so_far

    rates = rates_so_far(log, None, last)
    return rates if rates and all(0 <= rate < math.inf for rate in rates) else None


def _seal_activations(work: Path, made_from: Mapping[str, Any], callback: TopologyCallback) -> None:
    """Make a working folder with every checkpoint in it an activation set."""
    steps, layers = callback.steps, callback.layers
    kinds = callback.behaviour, bool(callback.quantities)
    names = [name for step in steps for name in storage.recorded_names(step, layers, *kinds)]
    facts = {**made_from, **callback.computed_as, "steps": list(steps), "layers": list(layers)}
    if callback.labels is not None:
        facts["labels"] = list(callback.labels)
    if callback.quantities:
        facts["quantities"] = {quantity.name: quantity.definition for quantity in callback.quantities}
    storage.seal(work, facts, names)


def _save_weights(trained: Any, description: Mapping[str, Any], work: Path) -> None:
    """The trained weights (the adapter under LoRA): no path of this machine in them, the same bytes each time."""
    trained.save_pretrained(work)
    (work / "README.md").unlink(missing_ok=True)  # PEFT's model card template, empty
    adapter = work / "adapter_config.json"
    if adapter.exists():
        config = json.loads(read_bytes(adapter))
        revision = description["revision"]
        config["base_model_name_or_path"] = description["source"] + (f" ({revision})" if revision else "")
        if isinstance(config["target_modules"], list):
            config["target_modules"].sort()  # PEFT writes a set, in random order
        storage.write_file(adapter, storage.json_bytes(config))


def _write_loss(log: Iterable[Mapping[str, float]], path: Path) -> None:
    """The trainer's log of each step, without what depends on the machine's speed."""
    rows = [entry for entry in log if "loss" in entry]
    # the last row's order: earlier ones of a resumed training were sorted when they were kept. Another's may have none
    names = [name for name in (rows[-1] if rows else ("loss",)) if name not in ("step", "train_runtime")]
    write_table(path, ["step", *names], ([row["step"], *(row.get(n) for n in names)] for row in rows))
