"""The store that MLflow tracks to now, and the one way in which this package asks it."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import islice
from json import JSONDecodeError
from numbers import Real
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

from topoflow.errors import InvalidFile, NoAnswer
from topoflow.processes import call
from topoflow.storage.files import check_place
from topoflow.tracking.plugin import context_tags

logger = logging.getLogger(__name__)

_SQLITE = "sqlite:///"
# Seconds to wait for another process that sets up the same fresh store.
_PATIENCE = 120.0
# SQLite takes some thousands of values in one query.
_MOST_EXPERIMENTS = 1000
# The key, value and optimiser step of a metric; of one of a logged model its id, and name and digest of a dataset.
Row = tuple[str, float, int] | tuple[str, float, int, str, str, str]
# MLflow takes 100 parameters in one request, and with the metrics 1000.
_MOST_METRICS, _MOST_PARAMS, _MOST_TAGS = 900, 100, 100


@contextmanager
def brief(retries: int) -> Iterator[None]:
    """Have MLflow give up soon, unless the user has said when: by its own defaults it takes minutes."""
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries), "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
              # what MLflow prints there is a name that the server has said
              "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}  # fmt: skip
    unset = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(unset)
    try:
        yield
    finally:
        for key in unset:
            os.environ.pop(key, None)


@contextmanager
def answering() -> Iterator[None]:
    """Say in one line, and not in a traceback, that MLflow is down or refuses; also as a decorator.

    Raises
    ------
    NoAnswer
        In place of what MLflow, and the libraries by which it asks, raise.
    """
    import requests
    from alembic.util.exc import CommandError
    from google.protobuf.json_format import Error as NotAsAgreed  # type: ignore[import-untyped]
    from mlflow import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with brief(2):
            yield
    # a proxy's page with status 200 is JSON that does not parse
    except (
        MlflowException, SQLAlchemyError, CommandError, NotAsAgreed, requests.RequestException, JSONDecodeError,
    ) as error:  # fmt: skip
        remedy = "finished work is kept; run the command again once MLflow answers"
        raise NoAnswer(f"MLflow at {address()}", error, remedy) from None


def open_store() -> None:
    """Set up a fresh SQLite store's tables, one process at a time, and whole or not at all.

    Several processes at once would break it, and so would one that is killed meanwhile. A server sets up its own store.
    In a temporary copy of a study (see `lasting`) the store is that of the study.

    Raises
    ------
    mlflow.MlflowException
        When the store cannot be reached.
    """
    import mlflow

    given = mlflow.get_tracking_uri()
    uri = absolute_uri(given)
    if uri != given:
        mlflow.set_tracking_uri(uri)
    if uri.startswith(_SQLITE):
        _make_where_it_lasts(uri)
        with _alone_with(uri):
            _make_whole(_database(uri))
            mlflow.search_experiments(max_results=1)


def _make_where_it_lasts(uri: str) -> None:
    """Make a fresh store and a new experiment in the study, and not in the copy of it in which this process runs.

    MLflow puts the files of both beside the process that makes them, for good.
    """
    import mlflow

    here = Path.cwd()
    if (study := lasting(here)) == here:
        return
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "Default"
    if not _database(uri).is_file() or not mlflow.get_experiment_by_name(name):
        code = """
import sys, mlflow
from topoflow.tracking.store import open_store
mlflow.set_tracking_uri(sys.argv[1])
open_store()
mlflow.set_experiment(sys.argv[2])
"""
        call([sys.executable, "-c", code, uri, name], cwd=study, stdout=subprocess.DEVNULL)


def _make_whole(database: Path) -> None:
    """Make a fresh database elsewhere and put it in its place: MLflow cannot go on with one that is half made."""
    import mlflow

    if database.exists():
        return
    draft = database.with_name(f".{database.name}.draft")
    with suppress(OSError):  # where it cannot be, MLflow makes one in place, or says what it thinks of that
        draft.unlink(missing_ok=True)
        mlflow.MlflowClient(f"{_SQLITE}{draft}").search_experiments(max_results=1)
        os.link(draft, database)  # and nothing where another, such as `mlflow ui`, has made one meanwhile
    draft.unlink(missing_ok=True)


def _database(uri: str) -> Path:
    return Path(uri.removeprefix(_SQLITE).partition("?")[0])


def lasting(path: Path) -> Path:
    """Where a path of the current study stands for good.

    `dvc exp run --temp` and `--queue` compute in a copy of the study that DVC then deletes; the environment names the
    study. In such a copy this is the same place in the study, everywhere else the path itself.
    """
    study = os.environ.get("DVC_ROOT")
    if not study or "DVC_EXP_BASELINE_REV" not in os.environ:
        return path
    here, found = Path.cwd(), path.resolve()
    copy = next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), here)
    return Path(study) / found.relative_to(copy) if found.is_relative_to(copy) else path


def absolute_uri(uri: str) -> str:
    """A tracking URI that means the same store in every folder, its path as it is on disk.

    Where a study's path has a space, MLflow's own URI has escapes, and MLflow makes a folder of the escaped name.

    Raises
    ------
    InvalidFile
        When MLflow cannot be given the path: it reads an address now with escapes and now without them.
    """
    # a store of files, where MLflow allows it
    if uri != "databricks" and (parts := urlsplit(uri)).scheme in ("", "file") and not parts.netloc:
        return lasting(Path(unquote(parts.path)).resolve()).as_uri()
    if not uri.startswith(_SQLITE):
        return uri
    path, mark, options = uri.removeprefix(_SQLITE).partition("?")
    database = lasting(Path(unquote(path)).resolve())
    check_place(database)
    return f"{_SQLITE}{database}{mark}{options}"


@contextmanager
def _alone_with(uri: str) -> Iterator[None]:
    """Lock the folder of a SQLite store: the folder itself, so that no lock file is planted, emptied or left behind."""
    try:
        folder = os.open(_database(uri).parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # MLflow will say what it thinks of it
        yield
        return
    try:
        deadline, told = time.monotonic() + _PATIENCE, False
        with suppress(OSError):  # a file system without locks
            while time.monotonic() < deadline:
                try:
                    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told and time.monotonic() > deadline - _PATIENCE + 5:
                        logger.warning("waiting for another process that sets up %s", uri)
                        told = True
                    time.sleep(0.05)
        yield
    finally:
        os.close(folder)


def address() -> str:
    """Where MLflow tracks to, the same from every folder and without user name and password."""
    import mlflow

    uri = absolute_uri(mlflow.get_tracking_uri())
    return uri if uri.startswith(_SQLITE) else without_password(uri).partition("?")[0]


def without_password(uri: str) -> str:
    """A URI without user name and password.

    >>> without_password("https://me:secret@example.org:5000/mlflow")
    'https://example.org:5000/mlflow'
    """
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri


def served() -> bool:
    """Whether MLflow tracks to a server, and not to a database itself."""
    import mlflow

    return str(mlflow.get_tracking_uri()).startswith(("http://", "https://"))


def check_destination(uri: str | None, whose: str) -> None:
    """Refuse a database in a file that sends files to a server: they would go with the user's MLflow credentials.

    A database lies in a study, and a study may be a stranger's.

    Parameters
    ----------
    uri : str, optional
        Where the store says that files go.
    whose : str
        What they are files of.
    """
    parts = urlsplit(uri or "")
    web = parts.scheme in ("http", "https") or (parts.scheme == "mlflow-artifacts" and parts.netloc)
    if web and not served():
        raise InvalidFile(
            address(),
            f"says that the files of {whose} go to the server {without_password(uri or '')}",
            "to log there, set MLFLOW_TRACKING_URI to that server",
        )


# --- what is there ------------------------------------------------------------------------------


def every(search: Callable[[str | None], Any]) -> list[Any]:
    """All that a search of MLflow finds, page by page; `search` takes the token of a page."""
    found: list[Any] = []
    token: str | None = None
    seen: set[str | None] = set()
    while token not in seen:
        seen.add(token)
        page = search(token)
        found += page
        token = page.token or None
    return found


def experiments(client: Any) -> list[str]:
    """The ids of all experiments: a run may have been logged into any."""
    return [str(it.experiment_id) for it in every(lambda token: client.search_experiments(page_token=token))]


def tagged(client: Any, among: Sequence[str], tag: str, value: str) -> list[Any]:
    """The runs of experiments with a tag of this value, newest first."""
    query = f"tags.`{tag}` = '{value}'"
    newest = ["attributes.start_time DESC"]
    found: list[Any] = []
    for start in range(0, len(among), _MOST_EXPERIMENTS):
        some = list(among[start : start + _MOST_EXPERIMENTS])
        found += every(
            lambda token, some=some: client.search_runs(some, query, order_by=newest, page_token=token)  # type: ignore[misc]
        )
    return sorted(found, key=lambda run: -run.info.start_time) if len(among) > _MOST_EXPERIMENTS else found


def start_run(
    name: str, tags: Mapping[str, str], run_id: str | None = None, system_metrics: bool | None = False
) -> Any:
    """Start a run, or go on with the run `run_id`, even where this process is part of another run.

    As with `mlflow.start_run`, the run is active in this thread and is a context manager that ends it. `system_metrics`
    is what `wants_system_metrics` gives.
    """
    import mlflow

    tags = {} if run_id else {**context_tags(), **tags}  # a run keeps what it was tagged with when it began
    joined = os.environ.pop("MLFLOW_RUN_ID", None)
    try:
        return mlflow.start_run(
            run_id, run_name=name, nested=True, tags=tags, log_system_metrics=system_metrics
        )
    finally:
        if joined:
            os.environ["MLFLOW_RUN_ID"] = joined


def wants_system_metrics() -> bool | None:
    """The log_system_metrics of `mlflow.start_run`: None, the user's own choice, but False where psutil is missing.

    Without psutil MLflow fails, and only after it has made the run.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

    if find_spec("psutil") is not None:
        return None
    if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():  # type: ignore[no-untyped-call]
        logger.warning("MLflow logs no system metrics without psutil: pip install psutil")
    return False


def log_batches(run: Any, metrics: Iterable[Row], params: Mapping[str, str] = MappingProxyType({})) -> None:
    """Log metrics and parameters in as few requests as MLflow takes.

    All have the time at which the run began, so that what is logged again, as after a lost answer, is not there twice.
    MLflow refuses metrics of a logged model that it has already: see `logged_models.with_models`.
    """
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client, run_id, start = MlflowClient(), run.info.run_id, run.info.start_time
    # a missing value is no metric: neither 0 nor NaN
    found = (
        Metric(key, value, start, step, *of) for key, value, step, *of in metrics if math.isfinite(value)
    )
    named = (Param(*pair) for pair in params.items())
    while True:
        some, few = list(islice(found, _MOST_METRICS)), list(islice(named, _MOST_PARAMS))
        if not some and not few:
            return
        client.log_batch(run_id, metrics=some, params=few, synchronous=True)


def loggable(metrics: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What MLflow accepts of what a trainer logs: finite numbers, under names of characters that it knows.

    >>> list(loggable({"loss": 0.5, "reward (mean)": 1, "note": "text", "grad_norm": float("nan")}))
    [('loss', 0.5), ('reward _mean_', 1.0)]
    """
    for name, value in metrics.items():
        # a missing value is no metric: neither 0 nor NaN
        if isinstance(value, Real):
            with suppress(OverflowError):
                if not math.isfinite(value):
                    continue
                yield re.sub(r"[^0-9A-Za-z_\-. :/]", "_", name)[:250], float(value)


def lacking(wanted: Mapping[str, str], present: Mapping[str, str]) -> dict[str, str]:
    """The wanted entries that are not there yet: a run keeps the tags with which it began."""
    return {key: value for key, value in wanted.items() if key not in present}


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags in their order, in as few requests as MLflow takes; one that marks a run as complete comes last."""
    from mlflow import MlflowClient
    from mlflow.entities import RunTag

    client, found = MlflowClient(), (RunTag(key, value) for key, value in tags.items())
    while some := list(islice(found, _MOST_TAGS)):
        client.log_batch(run_id, tags=some, synchronous=True)
