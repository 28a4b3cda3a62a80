"""Fixtures that many tests share; what they are made of is in support.py."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TQDM_DISABLE", "1")
# one thread: bit-for-bit tests, and two cores that other tests need as well
os.environ.setdefault("OMP_NUM_THREADS", "1")
# an MLflow server of a test needs none of the dozen processes that run jobs
os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
# begun by a shell's `&`, pytest ignores Ctrl-C, and so would all processes that tests begin and send one
signal.signal(signal.SIGINT, signal.default_int_handler)
# likewise a hangup, under nohup
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Take what was imported out of the garbage collector's sight, which sweeps over it many times a test otherwise.

    Trainers, transformers and topoflow ask for a collection again and again; it is half of the CPU of such tests.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Likewise what a test has imported; what it has left warns here, and in no other test."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _mlflow_tracks_where_it_did() -> Iterator[None]:
    """What one test has told MLflow holds for no other."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    if "mlflow" in sys.modules and os.environ.get("MLFLOW_TRACKING_URI") != before:
        from support import track_as

        track_as(before)


@pytest.fixture(autouse=True, scope="session")
def _checkout_stays_as_it_is() -> Iterator[None]:
    """No test leaves a file beside the sources: another copies them meanwhile. (CI builds site/ beside the tests.)"""
    from support import REPOSITORY

    before = {path.name for path in REPOSITORY.iterdir()} | {"site"}
    yield
    made = {path.name for path in REPOSITORY.iterdir()} - before
    assert {name for name in made if not name.startswith(".") or "mlflow" in name} == set()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from topoflow.embedded.recipe import byte_tokenizer

    return byte_tokenizer()


@pytest.fixture
def model(tokenizer: Any) -> Any:
    """A Llama of 4 blocks with random weights, the same ones each time."""
    from support import llama

    return llama(len(tokenizer))


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of programs that begin without seconds of imports; see warm.py."""
    from support import environment
    from warm import forking

    with forking(tmp_path_factory.mktemp("warm") / "bin", environment()) as folder:
        yield folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of an MLflow store in which nothing is yet; MLflow takes seconds to make one."""
    import mlflow

    database = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{database}").search_experiments()
    return database


@pytest.fixture
def fresh_store(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    """Where MLflow tracks to during a test: a store in the test's folder, its files in `mlruns` there."""
    from support import tracking_to

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ?", [f"{tmp_path}/mlruns/0"])
    with tracking_to(tmp_path) as mlflow:
        yield mlflow.get_tracking_uri()


@pytest.fixture(scope="session")
def model_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where embedded models of this test session go, and not into the user's cache."""
    return tmp_path_factory.mktemp("cache")
