"""An MLflow run into which a training logs: no server, whatever it does, stops or slows the training.

What MLflow does not take is in loss.csv, from which `topoflow track` fills the run or makes it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from topoflow.errors import NoAnswer, said
from topoflow.recording.sender import Sender
from topoflow.storage.layout import Run
from topoflow.tracking.logged_models import Checkpoint, log_checkpoints
from topoflow.tracking.plugin import context_tags
from topoflow.tracking.store import (
    address,
    answering,
    brief,
    experiments,
    lacking,
    log_batches,
    loggable,
    open_store,
    set_tags,
    start_run,
    tagged,
    wants_system_metrics,
)
from topoflow.tracking.unfinished import ACTIVATIONS_TAG, KEY_TAG, Note, Status

logger = logging.getLogger(__name__)

# Seconds that a training that is done waits for what is left to be sent; one that was stopped waits less.
PATIENCE = 30.0
_PATIENCE_WHEN_STOPPED = 3.0
_LONGEST_PARAM = 6000  # MLflow takes no longer ones


class LiveRun:
    """The run of `MLFLOW_RUN_ID` (as under `mlflow run`), or a new one, filled by a thread."""

    def __init__(self, name: str) -> None:
        self._name, self._folder = name, Path.cwd()
        self._joined = os.environ.get("MLFLOW_RUN_ID")
        # a joined run belongs to the process that started it: it is left running here, also after an error
        self._note = None if self._joined else Note()
        self._run: Any = None
        self._activations: str | None = None
        self._recorded: set[Checkpoint] = set()
        self._takes_models, self._warned = True, False
        advice = "the training goes on, and `topoflow track` logs what is missing"
        self._sender = Sender(self._send, f"MLflow at {address()}", advice)

    def callback(self) -> Any:
        """For a Trainer: logs its parameters, and what it logs, under the names of Hugging Face's MLflow callback."""
        from transformers import TrainerCallback

        live = self

        class Live(TrainerCallback):
            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                config = getattr(kwargs.get("model"), "config", None)
                live.log_params({**(config.to_dict() if config else {}), **args.to_dict()})

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
                if state.is_world_process_zero:
                    live.log(logs, state.global_step)

        return Live()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters that the run lacks; those that are too long for MLflow are left out."""
        texts = [(name, str(value)) for name, value in params.items()]
        self._sender.add([(name, text) for name, text in texts if len(text) <= _LONGEST_PARAM])

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log the numbers of a step; a missing value is no metric, neither 0 nor NaN."""
        self._sender.add([(name, value, step) for name, value in loggable(metrics)])

    def log_checkpoint(self, run: Run, step: int) -> None:
        """Have a checkpoint that was recorded made a logged model; `topoflow track` gives it its metrics."""
        self._sender.add([Checkpoint(run, step)])

    def tag_activations(self, sha256: str) -> None:
        """Say which activation set the training left, once it is whole."""
        self._activations = sha256

    def end(self, status: Status, patience: float) -> None:
        """Send what is left and end the run, as far as MLflow does so within `patience` seconds."""
        if self._note:
            self._note.ends(status, self._activations)
        self._sender.close(patience, partial(self._finish, status))
        if self._note:
            self._note.leave()

    # --- in the thread ---

    def _send(self, rows: Sequence[Any]) -> None:
        """Log metrics, parameters, which are pairs, and checkpoints."""
        run = self._begun()
        numbers = [row for row in rows if isinstance(row, tuple)]
        params = dict(row for row in numbers if len(row) == 2)
        log_batches(run, (row for row in numbers if len(row) == 3), lacking(params, run.data.params))
        if new := {row for row in rows if isinstance(row, Checkpoint)}:
            self._recorded |= new
            self._log_checkpoints(run)

    def _log_checkpoints(self, run: Any) -> None:
        """Log new checkpoints and those that MLflow refused before; a refusal does not hold up the rest."""
        try:
            if self._takes_models:
                self._takes_models = bool(log_checkpoints(run, self._recorded))
        except Exception as error:
            if not self._warned:
                advice = "`topoflow track` makes those that are missing"
                logger.warning("MLflow did not take a checkpoint as a model (%s); %s", said(error), advice)
            self._warned = True

    def _begun(self) -> Any:
        """The run: the first call joins it or makes it, unless it was made and only MLflow's answer was lost."""
        import mlflow

        if self._run is not None:
            return self._run
        with suppress(mlflow.MlflowException):
            open_store()
        client = mlflow.MlflowClient()
        context = context_tags(self._folder)
        if self._joined:
            run = client.get_run(self._joined)
            if tags := lacking(context, run.data.tags):
                set_tags(self._joined, tags)
        else:
            assert self._note is not None
            there = tagged(client, experiments(client), KEY_TAG, self._note.tags[KEY_TAG])
            if there:
                run = there[0]
            else:  # what starts here is active in this thread alone
                tags = {**context, **self._note.tags}
                run = start_run(self._name, tags, system_metrics=wants_system_metrics())
        self._run = run
        return run

    def _finish(self, status: Status) -> None:
        import mlflow

        client, run_id = mlflow.MlflowClient(), self._begun().info.run_id
        if self._activations:
            client.set_tag(run_id, ACTIVATIONS_TAG, self._activations)
        if self._note:
            if (active := mlflow.active_run()) and active.info.run_id == run_id:
                mlflow.end_run(status)  # with what MLflow measures of the machine, if it does
            else:
                client.set_terminated(run_id, status)
            self._note.done()


@contextmanager
def training_run(name: str) -> Iterator[LiveRun]:
    """Join the run of `MLFLOW_RUN_ID`, or start one called `name`, while a model trains.

    MLflow that is down, slow or broken stops nothing. It costs no more than a warning and, at the end, `PATIENCE`
    seconds.
    """
    with brief(0):
        live = LiveRun(name)
        status: Status = "FAILED"
        patience = _PATIENCE_WHEN_STOPPED
        try:
            yield live
            status, patience = "FINISHED", PATIENCE
        except Exception:
            patience = PATIENCE
            raise
        finally:
            live.end(status, patience)


@contextmanager
def whole_run(name: str, folder: Path) -> Iterator[str]:
    """Join the run of `MLFLOW_RUN_ID`, or start one called `name`, for all stages of a run; gives its id.

    Parameters
    ----------
    name : str
        The name of a run to which the user has given none.
    folder : Path
        Where the stages run, for the tags.

    Raises
    ------
    NoAnswer
        When the run cannot be begun.
    """
    import mlflow

    note, run = Note(), None
    status: Status = "FAILED"
    try:
        with answering():
            open_store()
            # a run that `mlflow run` made has not been through the plugin
            run = mlflow.start_run(
                tags={**context_tags(folder), **note.tags}, log_system_metrics=wants_system_metrics()
            )
            if _is_random(run.info.run_name):  # the user gave the run no name
                mlflow.MlflowClient().update_run(run.info.run_id, name=name)
        yield str(run.info.run_id)
        status = "FINISHED"
    finally:
        note.ends(status)
        if run is None:  # perhaps made, and only the answer was lost
            note.leave()
        else:
            _end(note, lambda: mlflow.end_run(status))


@contextmanager
def handed_on(note: Note, run_id: str) -> Iterator[Any]:
    """End a run after the block, whatever happens in it, unless the process that should end the run has done so.

    Gives a function that sets the status which the run then gets; without a call it is KILLED.
    """
    import mlflow

    said_last: list[Status] = ["KILLED"]  # as by Ctrl-C, which the job receives from the terminal as well

    def end() -> None:
        client = mlflow.MlflowClient()
        if client.get_run(run_id).info.status == "RUNNING":
            client.set_terminated(run_id, said_last[-1])

    try:
        yield said_last.append
    finally:
        note.ends(said_last[-1])
        _end(note, end)


def _end(note: Note, end: Callable[[], None]) -> None:
    """End a run; where MLflow does not hear it, the next command in this study does."""
    try:
        with answering():
            end()
        note.done()
    except NoAnswer as error:
        logger.warning(
            "the MLflow run is not ended, and the next topoflow command here ends it: %s", error.reason
        )
        note.leave()


def _is_random(name: str) -> bool:
    """Whether MLflow made up a run's name, such as treasured-wolf-569."""
    # private, since nothing public says who has named a run that `mlflow run` made: `--run-name`, or a store by lot
    from mlflow.utils import name_utils

    predicate, _, rest = name.partition("-")
    noun, _, number = rest.partition("-")
    words = predicate in name_utils._GENERATOR_PREDICATES and noun in name_utils._GENERATOR_NOUNS
    return words and number.isdecimal()
