"""What a run or a study will cost and can decide, before it runs, as lines to read: what `topoflow plan` says."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from topoflow.compute import workers
from topoflow.config import Params, load_params, parse_params
from topoflow.errors import TopoflowError
from topoflow.machine import cores, memory_free
from topoflow.storage.layout import Run
from topoflow.study import cost as costs
from topoflow.study import power as deciding
from topoflow.study.cards import BANDWIDTH_EFFICIENCY, EFFICIENCY, Card
from topoflow.study.run import design_of, resolve
from topoflow.telling import duration
from topoflow.training.devices import pin_one_gpu

_ASSUMED = 1e10  # operations a second of a run that cannot fit, and is not tried
_REAL = 20_000_000  # weights of a model in which more threads are quicker


@dataclass(frozen=True)
class Asked:
    """By what a plan is timed: a card, or operations a second; without either, by measuring this machine."""

    flops: float | None = None
    card: Card | None = None


@dataclass(frozen=True)
class Cost:
    """What one run costs, and by which rates: seconds on the clock, and of CPU where they were measured."""

    counts: costs.Counts
    texts: costs.Texts
    dtype: str
    has_chat: bool
    rates: costs.Rates
    cpu_rates: costs.Rates | None
    n_workers: int
    peak: int | None
    notes: tuple[str, ...]
    refusals: list[str]

    @property
    def host_bytes(self) -> int:
        """Memory of the host, as measured where nothing is on an accelerator."""
        measured = None if self.counts.memory.device else self.peak
        return self.counts.memory_bytes if measured is None else measured

    @property
    def device_bytes(self) -> int:
        """Memory of an accelerator, 0 without one."""
        return (self.peak or self.counts.device_bytes) if self.counts.memory.device else 0

    @property
    def seconds(self) -> dict[str, float]:
        return costs.estimate(self.counts, self.rates, self.n_workers)

    @property
    def cpu(self) -> dict[str, float] | None:
        """Of all cores together: what several workers do at once, one would do one after another."""
        return None if self.cpu_rates is None else costs.estimate(self.counts, self.cpu_rates, 1)


def of_run(
    model: str, objective: str, overrides: Sequence[str] = (), asked: Asked = Asked()
) -> tuple[str, list[str]]:
    """What `run` would cost, as lines to read, and why it cannot fit, if it cannot.

    Under `mlflow run` both stay in its MLflow run, as plan.txt.

    Parameters
    ----------
    model, objective, overrides
        As for `run`.
    asked : Asked
        A run that is planned for a card is compared with that card's memory, and with nothing of this machine.
    """
    from topoflow.tracking.note import asked_as
    from topoflow.tracking.runs import log_plan

    chosen, mapping = resolve(model, objective, overrides)
    params = parse_params(mapping)
    found = _cost(params, chosen, asked, _load_libraries(params))
    lines = [costs.table(found.counts, found.texts, found.seconds, found.cpu, found.peak)]
    if asked.card is None:
        lines.append(f"{'disk free':<20}{costs.readable(_disk_free())}")
    lines += [f"{'weights opened in':<20}{found.dtype}", "", *_memory_lines(found.counts), *found.notes]
    recording = params.recording
    lines += ["", asked_as(recording.template, found.has_chat, recording.pooled).strip()]
    lines += ["", deciding.run_decides(params, design_of(params, chosen))]
    text = "\n".join(lines)
    log_plan("\n".join([text, *(f"cannot fit: {refusal}" for refusal in found.refusals)]))
    return text, found.refusals


def of_study(
    overrides: Sequence[str] = (), pilot: Path | None = None, asked: Asked = Asked()
) -> tuple[str, list[str]]:
    """What the study of params.yaml can decide, and what it would cost stage by stage, as lines to read.

    One run of each model is timed, and the others are counted. A model that is not here has no cost.

    Parameters
    ----------
    overrides, asked
        As for `of_run`.
    pilot : Path, optional
        As for `decidable`.

    Returns
    -------
    text, refusals
        As of `of_run`: each reason once.
    """
    decided = decidable(overrides, pilot)  # refused before anything is timed
    params = load_params(overrides=overrides)
    start = _load_libraries(params)
    each: list[Cost] = []
    unknown = []
    for model in params.models:
        of_model: list[Cost] = []
        try:
            for objective in params.objectives:
                like = of_model[0] if of_model else None
                of_model.append(_cost(params, Run(model, objective, params.seeds[0]), asked, start, like))
        except TopoflowError as error:
            unknown.append(f"The cost of {model} is not known: {error}")
            continue
        each += of_model
    lines = _study_lines(params, each) if each else []
    refusals = list(dict.fromkeys(refusal for one in each for refusal in one.refusals))
    disk = _disk_of(params, each)
    if asked.card is None and disk > _disk_free():
        there = f"and {costs.readable(_disk_free())} are free"
        refusals.append(f"the study needs {costs.readable(disk)} of disk, {there}")
    return "\n".join([decided, "", *lines, *unknown]), refusals


def decidable(overrides: Sequence[str] = (), pilot: Path | None = None) -> str:
    """What the study of params.yaml can decide, as lines to read.

    Parameters
    ----------
    overrides
        As for `run`.
    pilot : Path, optional
        A study, or a folder of results, whose finished runs say how far early shares lie apart, and how much
        jitter there is.

    Raises
    ------
    TopoflowError
        When an override is not known, or the pilot has no finished runs.
    """
    from topoflow import finished
    from topoflow.dynamics.chances import pilot_spread

    params = load_params(overrides=overrides)
    designs = {
        name: design_of(params, Run(params.models[0], name, params.seeds[0])) for name in params.objectives
    }
    if pilot is None:
        return deciding.study_decides(params, designs)
    shares = finished.read_early_shares(pilot)
    spreads = [found for labels in shares.values() if (found := pilot_spread(labels)) is not None]
    if not spreads:
        source = f"assumed: {pilot} has fewer than 3 runs in which something moves"
        return deciding.study_decides(params, designs, None, source)
    source = f"early shares: the larger of H1 and H0 in {pilot}; others: assumed"
    return deciding.study_decides(params, designs, max(spreads), source, finished.read_jitters(pilot))


# --- one run ------------------------------------------------------------------------------------


def _load_libraries(params: Params) -> Any:
    """Load what a stage that trains loads; returns the seconds that it took, on the clock and of CPU."""
    import time

    import numpy as np

    began = np.array([time.perf_counter(), time.process_time()])
    import mlflow  # noqa: F401
    import torch  # noqa: F401

    pin_one_gpu(params.compute.gpu)
    from trl import SFTTrainer  # type: ignore[attr-defined]  # noqa: F401

    return np.array([time.perf_counter(), time.process_time()]) - began


def _cost(params: Params, run: Run, asked: Asked, start: Any, like: Cost | None = None) -> Cost:
    """What a run costs; by the rates of another run of the same model, where that was planned before."""
    import torch

    from topoflow.study import calibration
    from topoflow.training import checkpoints, sft

    trained = replace(params, finetune=params.finetune_of(run.objective))
    found = calibration.look(trained, run)
    on_one = asked.card is not None or torch.accelerator.is_available()
    steps, adapters, learning_rates = None, False, None
    frozen = trained.finetune.lora is not None
    if source := trained.checkpoints(run.objective):
        listed = checkpoints.list_checkpoints(source, run, found.trust)
        steps, adapters = [line["step"] for line in listed], listed[-1]["kind"] == checkpoints.ADAPTER
        frozen = checkpoints.is_one_base(listed)
    elif trained.recording.schedule.needs_learning_rates:
        learning_rates = sft.learning_rates(trained.finetune)
    opened = costs.Opened.of(trained, run.model, on_one, found.size.n_parameters, frozen)
    n_held_out = len(trained.held_out(run.objective))

    def count(cell_bytes: float | None) -> costs.Counts:
        return costs.count(
            trained, found.size, found.texts, steps, adapters, cell_bytes, learning_rates, opened, n_held_out
        )

    counts = count(None)
    refusals = _refusals(counts, asked.card)
    n_workers = workers(params.compute)
    cpu_rates, peak = None, None
    if like is not None:
        rates, cpu_rates, peak, notes = like.rates, like.cpu_rates, like.peak, like.notes
    elif asked.card is not None:
        rates = costs.Rates.on_card(found.size, trained, found.texts, opened, asked.card)
        notes = _notes_of_card(asked.card, opened, n_workers)
    elif asked.flops is not None or refusals:
        flops = asked.flops or _ASSUMED
        rates = costs.Rates.assumed(found.size, trained, flops, found.texts.classes)
        notes = (f"assumed: {flops:.3g} operations a second, and topology as in benchmarks/topology.md",)
    else:
        measured = calibration.measure(trained, found, start, frozen)
        rates, cpu_rates, peak = measured.clock, measured.cpu, measured.peak
        notes = _notes_of_measures(measured, trained, found.size.n_parameters, opened)
    has_chat = bool(getattr(found.tokenizer, "chat_template", None))
    counts = count(rates.cell_bytes)
    return Cost(
        counts, found.texts, opened.dtype, has_chat, rates, cpu_rates, n_workers, peak, notes, refusals
    )


def _refusals(counts: costs.Counts, card: Card | None) -> list[str]:
    import torch

    if card is not None:
        return costs.obstacles(counts, math.inf, math.inf, card.name.upper(), card.memory)
    device = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else math.inf
    return costs.obstacles(counts, _disk_free(), memory_free(), device_free=device)


def _disk_free() -> int:
    return shutil.disk_usage(Path.cwd()).free


# --- what is said -------------------------------------------------------------------------------


def _memory_lines(counts: costs.Counts) -> list[str]:
    """What lies in memory at the peak, a line for each place."""
    places = [("host memory", counts.memory.host), ("GPU memory", counts.memory.device)]
    lines = []
    for place, held in places:
        parts = ", ".join(f"{name} {costs.readable(n_bytes)}" for name, n_bytes in held.items())
        lines += [f"{place}, by arithmetic: {parts}"] * bool(held)
    return [*lines, f"the largest pass is that of {counts.memory.largest}"]


def _notes_of_card(card: Card, opened: costs.Opened, n_workers: int) -> tuple[str, ...]:
    peak = card.float32 if opened.computes == "float32" else card.bfloat16
    return (
        f"assumed: {EFFICIENCY:.0%} of {1e-12 * peak:.3g} TFLOP/s in {opened.computes} and "
        f"{BANDWIDTH_EFFICIENCY:.0%} of {1e-12 * card.bandwidth:.3g} TB/s, the peaks in: {card.source}",
        f"assumed: {n_workers} cores for topology, as in benchmarks/topology.md; nothing is measured on this machine "
        "or compared with it",
    )


def _notes_of_measures(
    measured: Any, params: Params, n_parameters: int, opened: costs.Opened
) -> tuple[str, ...]:
    notes = [*(f"assumed: {said}" for said in measured.assumed)]
    of_model = [] if measured.assumed else ["steps and recordings of the model, without the first"]
    memory = ["memory, at its highest"] * (measured.peak is not None)
    notes.insert(0, f"measured here: {', '.join([*of_model, *memory, 'topology of one cell'])}")
    notes.append(
        "assumed: the start and end of stages, from how long libraries took to load; rotations, for two rungs, and "
        "shuffled labels, for three, where prompts carry labels (claims that end sooner need none)"
    )
    threads, there = params.finetune.n_threads, cores()
    changes = "set it before the first run, since the bytes of results depend on it"
    if threads > there:
        notes.append(
            f"finetune.n_threads is {threads}, and this process may use {there} cores: {there} is quicker; {changes}"
        )
    elif threads < there and n_parameters > _REAL and not opened.accelerator:
        notes.append(
            f"finetune.n_threads is {threads}: {there} would use all cores of this process; {changes}"
        )
    return tuple(notes)


def _disk_of(params: Params, each: Sequence[Cost]) -> int:
    """Bytes of disk of a study: what all runs keep, and what one needs meanwhile."""
    kept = sum(one.counts.disk_bytes - one.counts.scratch_bytes for one in each)
    return len(params.seeds) * kept + max((one.counts.scratch_bytes for one in each), default=0)


def _study_lines(params: Params, each: Sequence[Cost]) -> list[str]:
    """A line a stage: one of it, how many there are, all of them, one after another."""
    n_seeds = len(params.seeds)
    n_models = len(each) // len(params.objectives)
    n_runs = n_seeds * len(each)
    n_shown = n_runs - n_seeds * n_models * sum(params.is_control(name) for name in params.objectives)
    clock = _of_stages([one.seconds for one in each], n_seeds, n_models)
    clock["compare"] = 1, costs.comparing(each[0].counts, each[0].rates, n_shown or n_runs, each[0].n_workers)
    cpu = None
    cpus = [one.cpu for one in each if one.cpu is not None]
    if len(cpus) == len(each) and each[0].cpu_rates is not None:
        cpu = _of_stages(cpus, n_seeds, n_models)
        cpu["compare"] = 1, costs.comparing(each[0].counts, each[0].cpu_rates, n_shown or n_runs, 1)
    lines = [
        f"What this study costs: {n_runs} runs, one after another",
        f"{'stage':<20}{'times':<8}{'each':<12}{'all':<12}{'CPU' if cpu else ''}".rstrip(),
    ]
    for stage, (times, seconds) in clock.items():
        of_cpu = duration(cpu[stage][1]) if cpu else ""
        lines.append(
            f"{stage:<20}{times:<8}{duration(seconds / times):<12}{duration(seconds):<12}{of_cpu}".rstrip()
        )
    total = duration(sum(seconds for _, seconds in clock.values()))
    of_cpu = duration(sum(seconds for _, seconds in cpu.values())) if cpu else ""
    host, device = (max(getattr(one, of) for one in each) for of in ("host_bytes", "device_bytes"))
    return [
        *lines,
        f"{'in all':<40}{total:<12}{of_cpu}".rstrip(),
        f"{'disk':<40}{costs.readable(_disk_of(params, each))}",
        f"{'memory of the largest run':<40}{costs.readable(host)}",
        *[f"{'GPU memory of the largest run':<40}{costs.readable(device)}"] * bool(device),
        *dict.fromkeys(note for one in each for note in one.notes),
    ]


def _of_stages(
    each: Sequence[Mapping[str, float]], n_seeds: int, n_models: int
) -> dict[str, tuple[int, float]]:
    """How often each stage runs in a study, and the seconds of all of it."""
    found = {}
    for stage in each[0]:
        if stage == "model":
            found[stage] = n_models, sum(one[stage] for one in each[:: len(each) // n_models])
        elif stage == "inputs":
            n_objectives = len(each) // n_models
            found[stage] = n_objectives, sum(one[stage] for one in each[:n_objectives])
        else:
            found[stage] = n_seeds * len(each), n_seeds * sum(one[stage] for one in each)
    return found
