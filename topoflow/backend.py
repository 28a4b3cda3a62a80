"""`mlflow run . -b topoflow`: a project of topoflow in the Python that runs MLflow, checked before a run exists.

Beside what `mlflow run --env-manager local` does,

- needs no pyenv and no shell: the entry point's command is run as it is written, with this Python;
- checks parameters before anything is logged: what is refused leaves no run behind;
- takes several objectives and seeds, `-P objective=helpful,harmless` or
  `--backend-config '{"objectives": ["helpful", "harmless"], "seeds": [0, 1]}'`: each becomes a run, under one parent
  run. They run one after another, and one that fails does not stop those after it;
- runs the whole study as `topoflow study` does, several runs at a time, with a child run each:
  `--backend-config '{"executor": "local", "gpus": "0-7"}'`;
- waits for the job, also where MLflow was asked not to, and fails when it fails.

A front door like cli.py, and not part of any layer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from topoflow.errors import InvalidArgument, TopoflowError, UnknownKey, Words
from topoflow.processes import call, stop_when_told
from topoflow.study.scaffold import check_version
from topoflow.tracking.live import handed_on
from topoflow.tracking.plugin import context_tags
from topoflow.tracking.store import absolute_uri, answering, set_tags
from topoflow.tracking.unfinished import Note, end_unfinished

# What MLflow puts into every backend's configuration; of no use here.
_OF_MLFLOW = {"ENV_MANAGER", "SYNCHRONOUS", "DOCKER_ARGS", "STORAGE_DIR", "build_image", "docker_auth"}
_OPTIONS = ("objectives", "seeds")
_OF_STUDY = ("executor", "gpus", "workers", "only", "slurm")  # parameters of the entry point `study` as well


class ProjectBackend:
    """What MLflow asks of a project backend."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, Any] | None,
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> _Finished:
        """Run an entry point to its end.

        Returns
        -------
        The finished job, as MLflow's `SubmittedRun`.

        Raises
        ------
        mlflow.exceptions.ExecutionException
            When a parameter or option is refused, and then there is no run; or when a job fails.
        """
        from mlflow.exceptions import ExecutionException

        stop_when_told()
        if asked := {key: _as_text(backend_config[key]) for key in _OF_STUDY if key in backend_config}:
            params = {**(params or {}), **asked}
            entry_point = "study" if entry_point == "main" else entry_point
        try:
            jobs, folder = _jobs(project_uri, entry_point, dict(params or {}), version, backend_config)
        except ValueError as error:
            raise ExecutionException(str(error)) from None
        where = _Place(project_uri, folder, entry_point, version, tracking_uri, str(experiment_id))
        end_unfinished(folder)
        try:
            run_id, failed = where.start(jobs[0]) if len(jobs) == 1 else where.start_all(jobs)
        except ValueError as error:  # MLflow does not answer
            raise ExecutionException(str(error)) from None
        if failed:
            raise ExecutionException(f"Run (ID '{run_id}') failed: {failed}")
        return _Finished(run_id)


@dataclass(frozen=True)
class _Finished:
    """A job that has ended well."""

    run_id: str

    def wait(self) -> bool:
        return True

    def get_status(self) -> str:
        return "FINISHED"

    def cancel(self) -> None:
        """Nothing is left to cancel."""


@dataclass(frozen=True)
class _Job:
    parameters: dict[str, Any]
    arguments: list[str] = field(default_factory=list)  # of `python -m topoflow`
    checked: dict[str, str] = field(default_factory=dict)  # environment variables that say so

    def __str__(self) -> str:
        return shlex.join(self.arguments)


# --- before there is a run ----------------------------------------------------------------------


def _jobs(
    uri: str, entry_point: str, params: dict[str, Any], version: str | None, config: Mapping[str, Any]
) -> tuple[list[_Job], Path]:
    """The jobs, each checked, and the folder of the project."""
    from mlflow.projects import utils

    projects: Any = utils  # which has no types

    for key in set(config) - _OF_MLFLOW - {*_OPTIONS, *_OF_STUDY}:
        raise UnknownKey("backend-config", key, (*_OPTIONS, *_OF_STUDY))
    jobs = [_Job({**params, **axes}) for axes in _axes(params, config)]
    folder = Path(projects.fetch_and_validate_project(uri, version, entry_point, jobs[0].parameters))
    entry = projects.load_project(folder).get_entry_point(entry_point)
    for job in jobs:
        given = {key: str(value) for key, value in job.parameters.items()}
        for key in set(given) - set(entry.parameters):
            raise UnknownKey(f"entry point {entry_point}", key, list(entry.parameters))
        words = shlex.split(entry.compute_command(given, None))
        if words[:3] != ["python", "-m", "topoflow"]:
            expected = "one that runs `python -m topoflow`"
            raise InvalidArgument(f"entry point {entry_point}", expected, Words(shlex.join(words)))
        job.arguments.extend(words[3:])
        with contextlib.chdir(folder):
            check_version()
            job.checked.update(_check(job.arguments))
    return jobs, folder


def _as_text(value: Any) -> str:
    """A value of the backend's configuration as it is typed.

    >>> _as_text("0-7"), _as_text(["tiny-mixed-0", "*-1"]), _as_text({"partition": "gpu", "time": 240})
    ('0-7', "tiny-mixed-0 '*-1'", 'partition=gpu time=240')
    """
    if isinstance(value, Mapping):
        value = [
            f"{key}={json.dumps(one) if not isinstance(one, str) else one}" for key, one in value.items()
        ]
    return shlex.join(value) if isinstance(value, list) else str(value)


def _axes(params: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, str]]:
    """The objective and the seed of each job, as far as they are given."""
    chosen = {}
    for key, option in (("objective", "objectives"), ("seed", "seeds")):
        listed = config.get(option)
        if listed is not None and (not isinstance(listed, list) or not listed):
            raise InvalidArgument(option, "a list of at least one", listed)
        if listed is not None and key in params:
            raise InvalidArgument(key, f"given once, as a parameter or as {option}", Words("both"))
        if listed is not None or key in params:
            values = str(params[key]).split(",") if listed is None else map(str, listed)
            chosen[key] = [value.strip() for value in values]
            if len(set(chosen[key])) < len(chosen[key]):
                raise InvalidArgument(option, "different ones", chosen[key])
    return [dict(zip(chosen, values, strict=True)) for values in itertools.product(*chosen.values())]


def _check(arguments: list[str]) -> dict[str, str]:
    """Refuse what the command would refuse when it begins; the current folder is the study's.

    Gives environment variables that tell the command what it need not check again.
    """
    import click

    from topoflow import cli
    from topoflow.config import load_params, split_overrides
    from topoflow.study import preflight
    from topoflow.study import run as study

    command = cli.main.commands.get(arguments[0]) if arguments else None
    if command is None:
        raise InvalidArgument("command", f"one of {', '.join(cli.main.commands)}", arguments[:1])
    try:
        asked = command.make_context(arguments[0], arguments[1:]).params
    except click.exceptions.Exit:
        raise InvalidArgument(
            "a parameter", "given a value, and no option of its own", arguments[1:]
        ) from None
    except click.ClickException as error:
        raise TopoflowError(error.format_message()) from None
    if command.name == "study":
        from topoflow.study import executor

        executor.look(*(asked[option] for option in _OF_STUDY))
        return {}
    overrides = split_overrides(asked.get("overrides", ()))
    if command.name == "plan":
        if asked["objective"] is not None:
            study.resolve(asked["model"], asked["objective"], overrides)
        return {}
    if command.name in ("run", "record"):
        given = (asked["model"], asked["objective"], overrides)
        if command.name == "record":
            options = ("checkpoints", "steps", "hub", "revisions", "remove_downloads")
            source = cli.checkpoint_source(*(asked[option] for option in options))
            given = study.resolve_record(source, *given, asked["seed"])
        return preflight.check_once(*study.resolve(*given, asked["seed"]))
    params = load_params()
    if asked.get("model"):
        params.model_source(asked["model"])
    if asked.get("objective"):
        params.objective_source(asked["objective"])
    return {}


# --- the runs -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """What the jobs of one `mlflow run` have in common."""

    uri: str
    folder: Path
    entry_point: str
    version: str | None
    tracking_uri: str
    experiment_id: str

    @answering()
    def start_all(self, jobs: list[_Job]) -> tuple[str, str]:
        """Run each job under one parent run; returns the parent's id and which failed, if any."""
        import mlflow

        client = mlflow.MlflowClient()
        names = [", ".join(map(str, job.parameters.values())) for job in jobs]
        note = Note(self.folder)
        parent = client.create_run(
            self.experiment_id,
            tags={"mlflow.project.entryPoint": self.entry_point, **self._tags(note)},
            run_name=f"{len(jobs)} runs: {'; '.join(names)}",
        )
        parent_id = str(parent.info.run_id)
        failed = []
        with handed_on(note, parent_id) as end:
            for job, name in zip(jobs, names, strict=True):
                if self.start(job, parent_id)[1]:
                    failed.append(name)
            end("FAILED" if failed else "FINISHED")
        return parent_id, "; ".join(failed)

    @answering()
    def start(self, job: _Job, parent_id: str | None = None) -> tuple[str, str]:
        """Run one job in an MLflow run of its own; returns the run's id and how it failed, if it did."""
        from mlflow.projects import utils

        note = Note(self.folder)
        created = utils.get_or_create_run(  # type: ignore[no-untyped-call]
            None,
            self.uri,
            self.experiment_id,
            str(self.folder),
            self.version,
            self.entry_point,
            job.parameters,
        )
        run_id = str(created.info.run_id)
        with handed_on(note, run_id) as end:
            set_tags(run_id, {**self._tags(note), **({"mlflow.parentRunId": parent_id} if parent_id else {})})
            status = self._call(job, run_id)
            end("FAILED" if status else "FINISHED")
        return run_id, f"exit status {status}" if status else ""

    def _tags(self, note: Note) -> dict[str, str]:
        return {"mlflow.project.backend": "topoflow", **note.tags, **context_tags(self.folder)}

    def _call(self, job: _Job, run_id: str) -> int:
        """Run the command in the project's folder as part of the MLflow run; returns its exit status."""
        environment = {
            **os.environ,
            **job.checked,
            "MLFLOW_RUN_ID": run_id,
            "MLFLOW_TRACKING_URI": absolute_uri(self.tracking_uri),
            "MLFLOW_EXPERIMENT_ID": self.experiment_id,
        }
        environment.pop("MLFLOW_EXPERIMENT_NAME", None)
        command = [sys.executable, "-m", "topoflow", *job.arguments]
        return call(command, cwd=self.folder, env=environment).returncode
