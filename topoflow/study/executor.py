"""The runs of a study as jobs, several at a time: on the GPUs of this machine, or on a cluster with Slurm.

A job is `topoflow run` of one run of params.yaml, begun by submitit. On one machine jobs share the study. On a cluster
each has a folder of its own under .topoflow/studies, whose cache is the study's, as DVC's locks know the processes of
one machine only. What jobs write goes to .topoflow/cells, one log a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from topoflow import telling
from topoflow.config import PARAMS_FILE, Params, load_params, read_mapping
from topoflow.errors import CommandFailed, InvalidArgument, Words, printable
from topoflow.processes import call
from topoflow.storage.files import WORK_FOLDER, locked, make_folder, open_log, read_end, remove
from topoflow.storage.layout import Run
from topoflow.study import run as runs

if TYPE_CHECKING:
    from rich.table import Table
    from submitit import Executor, Job
    from submitit.helpers import DelayedSubmission

EXECUTORS = ("local", "slurm")
REPORT = Path("report.html")
_LOGS = WORK_FOLDER / "cells"
_JOBS = _LOGS / "jobs"  # what submitit keeps
# Minutes that a job may take where the user does not say: submitit's own default is five.
_DAY = 24 * 60
_YEAR = 365 * _DAY
# Looks at which a job is in no queue before it counts as ended without a result: a disk that nodes share may show a
# result late.
_LOOKS = 3
_RUNNING = {"RUNNING", "COMPLETING", "SUSPENDED"}  # as squeue says it
_TAIL = 8192  # bytes of a log
_STYLES = {"waiting": "dim", "running": "yellow", "done": "green", "failed": "red"}


@dataclass(frozen=True)
class Cell:
    """One run of a study as a job: what submitit keeps, and calls where the job runs.

    Attributes
    ----------
    run : Run
    folder : str
        The study, as an absolute path.
    aside : bool
        Compute in a folder of its own, as on another machine than the study's other runs.
    device : str, optional
        What `CUDA_VISIBLE_DEVICES` is to say; None leaves it as it is.
    parent : str, optional
        The MLflow run of which the run's own is a child.

    Examples
    --------
    >>> Cell(Run("tiny", "helpful", 0), "/studies/mine", aside=True).command
    ['topoflow', 'run', '--model', 'tiny', '--objective', 'helpful', '--seed', '0', '--aside']
    """

    run: Run
    folder: str
    aside: bool
    device: str | None = None
    parent: str | None = None

    @property
    def command(self) -> list[str]:
        """What a user would type in the study's folder."""
        named = ["--model", self.run.model, "--objective", self.run.objective, "--seed", str(self.run.seed)]
        return ["topoflow", "run", *named, *["--aside"] * self.aside]

    def __call__(self) -> int:
        """Compute the run, or what is left of it; returns the exit status, 0 where all is done."""
        environment = {**os.environ}
        environment.pop("MLFLOW_RUN_ID", None)  # it is the parent's
        if self.parent is not None:
            environment |= _tags(self.parent)
        if self.device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.device
        with contextlib.chdir(self.folder), open_log(log_file(self.run)) as log:
            return call(
                [sys.executable, "-m", *self.command],
                env=environment,
                stdout=log,
                stderr=log,
                preexec_fn=_leave_to_the_job,
            ).returncode

    def checkpoint(self) -> DelayedSubmission:
        """What submitit puts into the queue again when the job must yield: the same, as a run goes on where it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _leave_to_the_job() -> None:
    """Ignore what Slurm sends to all processes of a job that must yield: the job itself ends its children."""
    for number in (signal.SIGUSR2, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def log_file(run: Run) -> Path:
    """Where the jobs of a run write; relative to the study.

    >>> log_file(Run("tiny", "helpful", 0)).as_posix()
    '.topoflow/cells/tiny-helpful-0.log'
    """
    return _LOGS / f"{run}.log"


# --- what is to be computed, and where ----------------------------------------------------------


def chosen_runs(params: Params, only: Sequence[str] = ()) -> list[Run]:
    """The runs of a study whose names match one of the patterns; all without a pattern.

    Raises
    ------
    InvalidArgument
        When a pattern matches no run.

    Examples
    --------
    >>> params = load_params()
    >>> [str(run) for run in chosen_runs(params, ["*-helpful-0"])]
    ['tiny-helpful-0']
    """
    names = {str(run): run for run in params.runs()}
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InvalidArgument("only", f"a run of the study, such as {next(iter(names))}, or *", pattern)
    return [run for name, run in names.items() if not only or any(fnmatchcase(name, one) for one in only)]


def slots(gpus: str | None = None, workers: int | None = None) -> list[str | None]:
    """For each job that may run at a time on this machine, the GPU that it gets; None where there is no GPU.

    Parameters
    ----------
    gpus : str, optional
        Numbers and ranges of numbers, or other names as `CUDA_VISIBLE_DEVICES` takes them, with commas. Without it, all
        that are visible.
    workers : int, optional
        How many jobs; without it, one a GPU, or one. More than there are GPUs share them.

    Raises
    ------
    InvalidArgument
        When a range is empty, or a GPU is named twice.

    Examples
    --------
    >>> slots("0-2,5")
    ['0', '1', '2', '5']
    >>> slots("0,1", workers=3)
    ['0', '1', '0']
    """
    if gpus is None:
        devices = _visible()
    else:
        devices = [device for part in gpus.split(",") for device in _devices(part.strip())]
        if len(set(devices)) < len(devices) or not all(devices):
            raise InvalidArgument("gpus", "different GPUs, such as 0-7 or 0,2", gpus)
    return [*islice(cycle(devices or [None]), workers or len(devices) or 1)]


def _devices(part: str) -> Sequence[str]:
    if found := re.fullmatch(r"(\d+)-(\d+)", part):
        first, last = map(int, found.groups())
        return [str(number) for number in range(first, last + 1)] or [""]
    return [part]


def _visible() -> list[str]:
    if (named := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [device.strip() for device in named.split(",") if device.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _asked(only: Sequence[str]) -> tuple[Params, list[Run]]:
    """The study in the current folder and its chosen runs, of which each would begin."""
    params = load_params()
    asked = chosen_runs(params, only)
    if isinstance(path := (read_mapping(PARAMS_FILE).get("finetune") or {}).get("sft_config"), str):
        # each run would be put aside with what the file says, and the study's own stages would not find it
        remedy = "write its content into params.yaml: finetune: {sft_config: {...}}"
        raise InvalidArgument(
            "finetune.sft_config",
            "a mapping, and not a file, where several runs are computed at once",
            path,
            remedy,
        )
    for model, objective in dict.fromkeys((run.model, run.objective) for run in asked):
        runs.resolve(model, objective)
    return params, asked


# --- the study ----------------------------------------------------------------------------------


def commands(only: Sequence[str] = ()) -> list[str]:
    """Make the inputs of the study in the current folder, and give the command of each run that is not done.

    Each can be typed in the study's folder on any machine that shares it: by Dask, Ray or another scheduler.
    Arguments and errors are those of `study`.
    """
    params, asked = _asked(only)
    runs.make_inputs(params, asked)
    return [shlex.join(Cell(run, str(Path.cwd()), aside=True).command) for run in runs.undone(asked)]


def study(
    executor: str = "local",
    gpus: str | None = None,
    workers: int | None = None,
    only: Sequence[str] = (),
    slurm: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Compute all runs of the study in the current folder, several at a time; then track, compare and report.

    A run that fails stops no other. Called again, it computes what is not done.

    Parameters
    ----------
    executor : str
        "local", or "slurm" for an array of jobs.
    gpus, workers
        As for `slots`. Under Slurm, `workers` is how many jobs of the array may run at a time.
    only : sequence of str
        Names of runs, such as "tiny-helpful-0", or patterns.
    slurm : mapping, optional
        What `submitit.SlurmExecutor.update_parameters` takes, such as `{"partition": "gpu", "time": 240}`.

    Returns
    -------
    list of Run
        Those that `only` left out and that are not done; the comparison waits for them.

    Raises
    ------
    InvalidArgument
        When an argument, or what params.yaml says of a run, is refused; then nothing was begun.
    CommandFailed
        When a run failed. Its log says why.
    """
    from topoflow.tracking.live import whole_run

    params, asked, place = look(executor, gpus, workers, only, slurm)
    with whole_run(f"study of {len(params.runs())} runs", Path.cwd()) as parent:
        runs.make_inputs(params, asked)
        left = runs.undone(asked)
        aside = executor == "slurm"
        cells = [Cell(run, str(Path.cwd()), aside, parent=parent) for run in left]
        failed = compute(cells, place) if cells else []
        if aside and (done := [run for run in left if run not in failed]):
            runs.restore(done)
        if failed:
            logs = ", ".join(str(log_file(run)) for run in failed)
            remedy = f"see {logs}; what is done is kept, and the same command computes the rest"
            raise CommandFailed(f"topoflow run ({', '.join(map(str, failed))})", Path.cwd(), remedy)
        if waiting := runs.undone(params.runs()) if only else []:
            return waiting
        with _parent_of_what_begins(parent):
            runs.finish(params, REPORT)
    return []


def look(
    executor: str, gpus: str | None, workers: int | None, only: Sequence[str], slurm: Mapping[str, Any] | None
) -> tuple[Params, list[Run], Place]:
    """Refuse what `study` would refuse, before anything is begun; gives what was asked for, and where it would run."""
    params, asked = _asked(only)
    if (gpu := params.compute.gpu) is not None:  # counted among the GPUs that a run sees
        raise InvalidArgument("compute.gpu", "left out of a study, whose runs see one GPU each", gpu)
    return params, asked, _place(executor, gpus, workers, slurm)


def _place(executor: str, gpus: str | None, workers: int | None, slurm: Mapping[str, Any] | None) -> Place:
    match executor:
        case "local" if not slurm:
            return local(gpus, workers)
        case "local":
            raise InvalidArgument("slurm", "left out where the executor is local", Words(str(slurm)))
        case "slurm" if gpus is None:
            return cluster(workers, slurm)
        case "slurm":
            raise InvalidArgument("gpus", "left out under Slurm, which gives each job a GPU", gpus)
    raise InvalidArgument("executor", f"one of {', '.join(EXECUTORS)}", executor)


@contextlib.contextmanager
def _parent_of_what_begins(run_id: str) -> Iterator[None]:
    """Have MLflow runs that are made meanwhile, by other processes too, be children of a run."""
    os.environ.update(parent := _tags(run_id))
    try:
        yield
    finally:
        for name in parent:
            del os.environ[name]


def _tags(parent: str) -> dict[str, str]:
    """What MLflow reads the tags of new runs from."""
    return {"MLFLOW_RUN_CONTEXT": json.dumps({"mlflow.parentRunId": parent})}


# --- where jobs run -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where jobs run.

    Attributes
    ----------
    executor : submitit.Executor
    queue : callable
        Gives of the jobs that have not ended, by their ids, the state as Slurm calls it, and why it is that.
    slots : sequence of str or None
        For each job that may be there at a time, the GPU that it gets. Empty where the executor has a queue itself.
    pause : float
        Seconds between two looks.
    """

    executor: Executor
    queue: Callable[[Sequence[Job[int]]], Mapping[str, tuple[str, str]]]
    slots: Sequence[str | None]
    pause: float


def local(gpus: str | None = None, workers: int | None = None) -> Place:
    """This machine; arguments and errors are those of `slots`."""
    import submitit

    devices = slots(gpus, workers)
    executor = submitit.LocalExecutor(_new_folder())
    executor.update_parameters(timeout_min=_YEAR)
    return Place(executor, _processes, devices, pause=0.5)


def cluster(workers: int | None = None, options: Mapping[str, Any] | None = None) -> Place:
    """The cluster of which this machine can submit jobs to Slurm.

    Parameters
    ----------
    workers : int, optional
        How many jobs of the array may run at a time; as many as there is room for without it.
    options : mapping, optional
        As for `study`; None as a value leaves an option to the cluster.

    Raises
    ------
    InvalidArgument
        When there is no `sbatch`, or an option is not known.
    """
    import submitit

    if shutil.which("sbatch") is None:
        raise InvalidArgument("executor", "local where there is no sbatch", "slurm")
    wanted = {"job_name": "topoflow", "time": _DAY, "gpus_per_node": 1, **(options or {})}
    if workers is not None:
        wanted["array_parallelism"] = workers
    wanted["additional_parameters"] = {"requeue": True, **(wanted.get("additional_parameters") or {})}
    executor = submitit.SlurmExecutor(_new_folder())
    try:
        executor.update_parameters(**{key: value for key, value in wanted.items() if value is not None})
    except ValueError as error:
        raise InvalidArgument("slurm", "options of submitit", Words(str(error))) from None
    return Place(executor, _squeue, [], pause=5.0)


def _new_folder() -> Path:
    """Where submitit pickles jobs and what they return: each time another, in which nobody can have put anything."""
    folder = _JOBS / uuid.uuid4().hex
    make_folder(folder)
    return folder.absolute()


def _processes(jobs: Sequence[Job[int]]) -> dict[str, tuple[str, str]]:
    return {job.job_id: ("RUNNING", "") for job in jobs if not job.done()}


def _squeue(jobs: Sequence[Job[int]]) -> dict[str, tuple[str, str]]:
    """By `squeue`, and not as submitit by `sacct`, which has nothing to say on a cluster without accounts."""
    command = ["squeue", "--noheader", "--array", "--me", "--format=%i|%T|%r"]
    asked = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 (no shell)
    if asked.returncode:
        return {job.job_id: ("UNKNOWN", "squeue does not answer") for job in jobs}
    rows = (line.split("|", 2) for line in asked.stdout.splitlines())
    return {job_id: (state, reason) for job_id, state, reason in rows}


# --- from the first job to the last -------------------------------------------------------------

State = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True)
class Standing:
    """How far a run is.

    Attributes
    ----------
    state : State
    said : str
        Of a running one, the last line of its log; of one that failed, its error; of a waiting one, why it waits.
    since : float
        When it came to that state, by `time.monotonic`.
    """

    state: State
    said: str = ""
    since: float = 0.0

    def next(self, state: State, said: str) -> Standing:
        return Standing(state, said, self.since if state == self.state else time.monotonic())


def compute(cells: Sequence[Cell], place: Place) -> list[Run]:
    """Run all cells, and show how far they are; returns the runs that failed.

    Where it is ended from outside, it ends the jobs, and waits for those of this machine.
    """
    waiting, free = deque(cells), deque(place.slots or [None] * len(cells))
    jobs: dict[Cell, Job[int]] = {}
    found = {cell.run: Standing("waiting", since=time.monotonic()) for cell in cells}
    absent: Counter[Run] = Counter()
    with _shown() as show:
        try:
            show(found)
            while waiting or jobs:
                next_ones = [
                    replace(waiting.popleft(), device=free.popleft())
                    for _ in range(min(len(waiting), len(free)))
                ]
                jobs |= _begin(place.executor, next_ones)
                time.sleep(place.pause)
                queue = place.queue([*jobs.values()])
                for cell, job in [*jobs.items()]:
                    run = cell.run
                    state, said = _state(run, job, queue.get(job.job_id))
                    absent[run] = absent[run] + 1 if state == "lost" else 0
                    if state == "lost" and absent[run] < _LOOKS:
                        continue
                    found[run] = found[run].next("failed" if state == "lost" else state, said)
                    if found[run].state in ("done", "failed"):
                        del jobs[cell]
                        free.append(cell.device)
                show(found)
        except BaseException:
            _stop(jobs)
            raise
    return [run for run, standing in found.items() if standing.state == "failed"]


def _begin(executor: Executor, cells: Sequence[Cell]) -> dict[Cell, Job[int]]:
    """Submit cells, under Slurm as one array."""
    if not cells:
        return {}
    for cell in cells:
        remove(log_file(cell.run))
    with _apart(_JOBS / "submitit.log"), executor.batch():
        jobs = [executor.submit(cell) for cell in cells]
    return dict(zip(cells, jobs, strict=True))


@contextlib.contextmanager
def _apart(path: Path) -> Iterator[None]:
    """Have processes that are begun meanwhile write their errors to a file: submitit's own say each Ctrl-C."""
    before = os.dup(2)
    try:
        with open_log(path) as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _state(run: Run, job: Job[int], queued: tuple[str, str] | None) -> tuple[State | Literal["lost"], str]:
    """Where a job is, and what there is to say; "lost" where it is in no queue and has left no result."""
    if queued:
        state, reason = queued
        return ("running", _last_line(log_file(run))) if state in _RUNNING else ("waiting", reason)
    if not job.paths.result_pickle.exists() or job.exception() is not None:
        last = _last_line(log_file(run)) or _last_line(job.paths.stderr) or "nothing"
        return "lost", f"ended without a result, after: {last}"
    return ("failed", _error(run)) if job.result() else ("done", "")


def _stop(jobs: Mapping[Cell, Job[int]]) -> None:
    for job in jobs.values():
        job.cancel(check=False)
    for cell in jobs:
        if not cell.aside:
            with locked(str(cell.run), f"the end of {cell.run}"):
                pass


# --- what is shown ------------------------------------------------------------------------------


def _end_of(log: Path) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        lines = read_end(log, _TAIL).decode(errors="replace").splitlines()
        return [printable(line.strip()) for line in lines if line.strip()]
    return []


def _last_line(log: Path) -> str:
    return (_end_of(log) or [""])[-1]


def _error(run: Run) -> str:
    """The first error near the end of a log, as those after it only say that there was one; or else its last line."""
    lines = _end_of(log_file(run))
    return next((line for line in lines if line.startswith("Error: ")), (lines or [""])[-1])


@contextlib.contextmanager
def _shown() -> Iterator[Callable[[Mapping[Run, Standing]], None]]:
    """Show how far runs are: in a table, or where there is no terminal by a line a change."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(stderr=True), auto_refresh=False) as live:
            yield lambda found: live.update(_table(found), refresh=True)
        return
    told: dict[Run, tuple[str, str]] = {}

    def say(found: Mapping[Run, Standing]) -> None:
        for run, one in found.items():
            if told.get(run) != (one.state, one.said):
                told[run] = (one.state, one.said)
                telling.say(f"{run}: {one.state}{f', {one.said}' if one.said else ''}")

    yield say


def _table(found: Mapping[Run, Standing]) -> Table:
    from rich.table import Table
    from rich.text import Text

    count = Counter(one.state for one in found.values())
    table = Table(title=", ".join(f"{number} {state}" for state, number in count.items()))
    for name in ("run", "state", "for"):
        table.add_column(name, no_wrap=True)
    table.add_column("said last", no_wrap=True, overflow="ellipsis")
    for run, one in found.items():
        lasts = "" if one.state in ("done", "failed") else telling.duration(time.monotonic() - one.since)
        table.add_row(str(run), Text(one.state, style=_STYLES[one.state]), lasts, Text(one.said))
    return table
