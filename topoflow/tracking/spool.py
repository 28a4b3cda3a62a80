"""What is logged while a model trains goes to a file first and from there to MLflow: no server can stop a training.

Inside `spooled`, what any code of this process logs to MLflow (Hugging Face's callback as well) is written to
.topoflow/spool/*.jsonl and sent by a thread, in order. What the store does not take before the block ends stays in the
file, and `replay` sends it later.

Once and no more: the file says how far it was sent, and what was sent just before a process died is recognised by the
store, because a metric keeps the time at which it was logged.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import logging
import math
import os
import re
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from topoflow.storage import WORK_FOLDER
from topoflow.tracking.journal import Entry, Journal

logger = logging.getLogger(__name__)

SPOOL_TAG = "topoflow.spool"
# Seconds that a training that is done waits for what is left to be sent; one that was stopped waits less.
PATIENCE = 60.0
_PATIENCE_WHEN_STOPPED = 3.0
_LONGEST_PAUSE = 30.0  # between two attempts
_GATHER = 2.0  # a trainer logs each step by itself: what comes within this time goes in one request
# MLflow takes at most these many in one request, each and in all.
_MOST = {"metrics": 1000, "params": 100, "tags": 100}
_MOST_IN_ALL = 1000
# What a store refuses it would refuse again; all else is a store that cannot answer now.
_REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")


@contextmanager
def spooled() -> Iterator[None]:
    """Have everything that the block logs to MLflow outlive a store that fails.

    Runs are begun, and the run of `MLFLOW_RUN_ID` is read, at once where the store answers; where it does not, the run
    is created by `replay`. The status of a run that the block did not begin is not touched.

    Raises
    ------
    mlflow.MlflowException
        When the store answers, and there is no such run or experiment.
    """
    import mlflow

    _be_brief()
    store = mlflow.MlflowClient()._tracking_client.store
    if "log_batch" in vars(store):  # a block inside another
        yield
        return
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{uuid.uuid4().hex[:6]}.jsonl"
    sender = _Sender(_Originals(store), Journal(WORK_FOLDER.absolute() / "spool" / name, _address()))
    substitutes = _Substitutes(sender)
    for method in _METHODS:
        setattr(store, method, getattr(substitutes, method))
    patience = _PATIENCE_WHEN_STOPPED
    try:
        yield
        patience = PATIENCE
    except Exception:
        patience = PATIENCE
        raise
    finally:
        for method in _METHODS:
            delattr(store, method)
        sender.finish(patience)


def _be_brief() -> None:
    """With MLflow's defaults one request to a server that is down takes minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")


@contextmanager
def answering() -> Iterator[None]:
    """Say in one line, and not in a traceback, that MLflow is down or refuses; also as a decorator.

    Raises
    ------
    ValueError
        In place of MLflow's own exceptions.
    """
    import mlflow

    _be_brief()
    try:
        yield
    except mlflow.MlflowException as error:
        raise ValueError(
            f"MLflow at {_address()} must take what is logged, and did not: {_first_line(error)}; what was finished is "
            "kept, and once it does, the same command goes on"
        ) from error


def open_store() -> None:
    """Set up a fresh store's tables, one process at a time: several at once would break it.

    Raises
    ------
    mlflow.MlflowException
        When the store cannot be reached.
    """
    import mlflow

    digest = hashlib.sha256(_address().encode()).hexdigest()[:16]
    with open(Path(tempfile.gettempdir()) / f"topoflow-{os.getuid()}-{digest}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        mlflow.search_experiments(max_results=1)


def replay(root: Path = Path()) -> tuple[int, list[str]]:
    """Send what trainings of the study in `root` could not.

    Returns
    -------
    sent, kept : int, list of str
        How many files of the spool are sent now, and deleted; and of each other one why it is not.
    """
    import mlflow

    sent, kept = 0, []
    for path in sorted((root / WORK_FOLDER).glob("**/spool/*.jsonl")):
        try:
            journal = Journal(path)
        except BlockingIOError:
            kept.append(f"{path} is being written by another process")
            continue
        except ValueError as error:
            kept.append(str(error))
            continue
        with journal:
            address = journal.address
            if address == _address():  # as it is here, with the password that the file has not
                address = mlflow.get_tracking_uri()
            try:
                store = mlflow.MlflowClient(address)._tracking_client.store
                journal.end_what_was_killed()
                _send(_Originals(store), journal)
            except Exception as error:
                kept.append(f"{path} could not be sent to {journal.address}: {_first_line(error)}")
                continue
            journal.delete()
            sent += 1
    return sent, kept


def _address() -> str:
    """Where MLflow tracks to, the same from every folder and without user name and password."""
    import mlflow

    uri, scheme = mlflow.get_tracking_uri(), "sqlite:///"
    if uri.startswith(scheme):
        return scheme + str(Path(uri.removeprefix(scheme)).resolve())
    return without_password(uri)


def without_password(uri: str) -> str:
    """A URI without user name and password.

    >>> without_password("https://me:secret@example.org:5000/mlflow")
    'https://example.org:5000/mlflow'
    """
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri


def _first_line(error: BaseException) -> str:
    """Of what an error says, without user name and password in the addresses that MLflow quotes."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"(?<=://)[^/\s]*@", "", line)[:500]


# --- to the store -------------------------------------------------------------------------------

_METHODS = (
    "create_run",
    "get_run",
    "get_experiment",
    "get_experiment_by_name",
    "update_run_info",
    "log_batch",
    "log_batch_async",
    "log_metric",
    "log_param",
    "set_tag",
)


class _Originals:
    """The store's own methods, whatever stands in their place."""

    def __init__(self, store: Any) -> None:
        self.store = store
        for name in _METHODS:
            setattr(self, name, functools.partial(getattr(type(store), name), store))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def _send(store: Any, journal: Journal) -> None:
    """Send what is left, in order; raises what the store does when it cannot answer."""
    from mlflow import MlflowException

    alone = False
    while left := journal.left():
        count = 1 if alone else _together(left)
        try:
            _apply(store, journal, left[:count])
        except MlflowException as error:
            if not _is_refusal(error):
                raise
            if count > 1:  # one of them is refused, and the others are not to be lost with it
                alone = True
                continue
            logger.warning("MLflow refuses what was logged: %s", _first_line(error))
        journal.mark(count)
        alone = False


def _together(left: Sequence[Entry]) -> int:
    """How many of the first entries make one request."""
    count, held = 0, dict.fromkeys(_MOST, 0)
    for entry in left:
        if entry["kind"] != "batch" or entry["run_id"] != left[0]["run_id"]:
            break
        held = {part: number + len(entry[part]) for part, number in held.items()}
        if any(held[part] > most for part, most in _MOST.items()) or sum(held.values()) > _MOST_IN_ALL:
            break
        count += 1
    return max(count, 1)


def _apply(store: Any, journal: Journal, entries: Sequence[Entry]) -> None:
    from mlflow.entities import Metric, Param, RunStatus, RunTag

    first = entries[0]
    run_id = journal.run_ids.get(first["run_id"], first["run_id"])
    if first["kind"] == "create":
        if first["run_id"] not in journal.run_ids:
            journal.created(first["run_id"], _create(store, first))
    elif first["kind"] == "update":
        status = first["status"]
        # a run that has ended in the meantime, as by hand, keeps its status
        if status and store.get_run(run_id).info.status not in ("RUNNING", "SCHEDULED"):
            return
        store.update_run_info(
            run_id, status and RunStatus.from_string(status), end_time=first["end"], run_name=first["name"]
        )
    elif first["kind"] == "batch":
        kinds = {"metrics": Metric, "params": Param, "tags": RunTag}
        parts = {part: [kind(*it) for e in entries for it in e[part]] for part, kind in kinds.items()}
        store.log_batch(run_id, **parts)


def _create(store: Any, entry: Entry) -> str:
    """Create a run that began without the store, unless that was done and only its answer was lost."""
    from mlflow.entities import RunTag, ViewType

    experiment_id = str(entry["experiment_id"])
    if "experiment" in entry:
        found = store.get_experiment_by_name(entry["experiment"])
        experiment_id = found.experiment_id if found else store.create_experiment(entry["experiment"])
    query = f"tags.`{SPOOL_TAG}` = '{entry['run_id']}'"
    if there := store.search_runs([experiment_id], query, ViewType.ALL):
        return str(there[0].info.run_id)
    tags = [RunTag(*tag) for tag in entry["tags"]]
    run = store.create_run(experiment_id, entry["user"], entry["start"], tags, entry["name"])
    return str(run.info.run_id)


class _Sender:
    """A thread that sends what a journal holds, and tries again later where the store does not answer."""

    def __init__(self, store: Any, journal: Journal) -> None:
        self.store, self.journal = store, journal
        self._wake, self._ending = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="topoflow-spool", daemon=True)
        self._thread.start()

    def add(self, entry: Entry) -> None:
        self.journal.append(entry)
        self._wake.set()

    def _run(self) -> None:
        pause = 1.0
        while True:
            self._wake.wait()
            self._wake.clear()
            self._ending.wait(_GATHER)
            try:
                _send(self.store, self.journal)
                self._failure, pause = None, 1.0
            except Exception as error:  # whatever happens to tracking, training goes on
                if self._failure is None:
                    logger.warning(
                        "MLflow does not answer; logging is kept until it does: %s", _first_line(error)
                    )
                self._failure = error
                self._ending.wait(pause)
                pause = 1.0 if self._ending.is_set() else min(2 * pause, _LONGEST_PAUSE)
                if self._ending.is_set():
                    time.sleep(0.5)
                self._wake.set()
            if self._ending.is_set() and not self.journal.left():
                return

    def finish(self, patience: float) -> None:
        self._ending.set()
        self._wake.set()
        self._thread.join(patience)
        left = len(self.journal.left())
        if left:
            reason = "it is slow" if self._failure is None else _first_line(self._failure)
            logger.warning(
                "%d entries were not sent to MLflow (%s); they are kept in %s. Send them later with: "
                "topoflow track --replay",
                left, reason, self.journal.path,
            )  # fmt: skip
        else:
            self.journal.delete()
        self.journal.__exit__()


class _Substitutes:
    """What stands in the place of a store's methods."""

    def __init__(self, sender: _Sender) -> None:
        self.sender = sender
        self.store = sender.store
        self._runs: dict[str, Any] = {}
        self._begun: set[str] = set()

    def create_run(
        self, experiment_id: str, user_id: str, start_time: int, tags: list[Any], run_name: str | None
    ) -> Any:
        from mlflow.entities import RunTag

        here = uuid.uuid4().hex  # by this tag a run is found of which the store said nothing
        tags = [*tags, RunTag(SPOOL_TAG, here)]
        try:
            if experiment_id.startswith(_BY_NAME):
                raise ConnectionError("the experiment could not be asked for")
            run = self.store.create_run(experiment_id, user_id, start_time, tags, run_name)
            self.sender.add({"kind": "begin", "run_id": run.info.run_id})
        except Exception as error:
            _raise_refusal(error)
            run = _local_run(here, experiment_id, user_id, start_time, tags, run_name)
            entry = {
                "kind": "create",
                "run_id": run.info.run_id,
                "experiment_id": experiment_id,
                "user": user_id,
                "start": start_time,
                "tags": [(tag.key, str(tag.value)) for tag in tags],
                "name": run_name,
            }
            if experiment_id.startswith(_BY_NAME):
                entry["experiment"] = experiment_id.removeprefix(_BY_NAME)
            self.sender.add(entry)
        self._runs[run.info.run_id] = run
        self._begun.add(run.info.run_id)
        return run

    def get_run(self, run_id: str) -> Any:
        if run_id not in self._begun:
            try:
                self._runs[run_id] = self.store.get_run(run_id)
            except Exception as error:
                _raise_refusal(error)
                self._runs.setdefault(run_id, _local_run(run_id, "0", "", int(time.time() * 1000), [], None))
        return self._runs[run_id]

    def get_experiment(self, experiment_id: str) -> Any:
        from mlflow.entities import Experiment

        try:
            return self.store.get_experiment(experiment_id)
        except Exception as error:
            _raise_refusal(error)
            return Experiment(experiment_id, experiment_id, "", "active")

    def get_experiment_by_name(self, name: str) -> Any:
        from mlflow.entities import Experiment

        try:
            return self.store.get_experiment_by_name(name)
        except Exception as error:
            _raise_refusal(error)
            return Experiment(_BY_NAME + name, name, "", "active")

    def update_run_info(
        self, run_id: str, run_status: Any, end_time: int | None, run_name: str | None
    ) -> Any:
        from mlflow.entities import RunStatus

        status = RunStatus.to_string(run_status) if run_status is not None and run_id in self._begun else None
        if status or run_name:
            self.sender.add(
                {"kind": "update", "run_id": run_id, "status": status, "end": end_time, "name": run_name}
            )
        return self.get_run(run_id).info

    def log_batch(
        self, run_id: str, metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Sequence[Any] = ()
    ) -> None:
        entry = {
            "kind": "batch",
            "run_id": run_id,
            # a missing value is no metric: neither 0 nor NaN
            "metrics": [(m.key, m.value, m.timestamp, m.step) for m in metrics if math.isfinite(m.value)],
            "params": [(param.key, str(param.value)) for param in params],
            "tags": [(tag.key, str(tag.value)) for tag in tags],
        }
        if entry["metrics"] or entry["params"] or entry["tags"]:
            self.sender.add(entry)

    def log_batch_async(
        self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]
    ) -> Any:
        from mlflow.utils.async_logging.run_operations import RunOperations

        self.log_batch(run_id, metrics, params, tags)
        return RunOperations([])  # type: ignore[no-untyped-call]

    def log_metric(self, run_id: str, metric: Any) -> None:
        self.log_batch(run_id, metrics=[metric])

    def log_param(self, run_id: str, param: Any) -> None:
        self.log_batch(run_id, params=[param])

    def set_tag(self, run_id: str, tag: Any) -> None:
        self.log_batch(run_id, tags=[tag])


_BY_NAME = "named "  # an experiment whose id the store could not be asked for


def _raise_refusal(error: Exception) -> None:
    """Raise what a store that answers has said, and nothing that one says which cannot."""
    if _is_refusal(error):
        raise error


def _is_refusal(error: Exception) -> bool:
    """Whether the store answers that this cannot be; a database that is busy is a bad request to MLflow as well."""
    return getattr(error, "error_code", None) in _REFUSALS and "sqlalche.me" not in str(error)


def _local_run(
    run_id: str, experiment_id: str, user: str, start_time: int, tags: list[Any], name: str | None
) -> Any:
    from mlflow.entities import Run, RunData, RunInfo, RunStatus

    status = RunStatus.to_string(RunStatus.RUNNING)
    info = RunInfo(run_id, experiment_id, user, status, start_time, None, "active", run_name=name)
    return Run(info, RunData(tags=tags))
