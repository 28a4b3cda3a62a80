"""MLflow that is locked, down, slow, broken or restarted: training goes on, and each number arrives exactly once."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from support import REPOSITORY, environment

from topoflow.tracking.spool import without_password

sys.path.insert(0, str(Path(__file__).parent))
from conftest import RUN

# Logs as a training does: through MLflow's fluent functions, some asynchronously, as Hugging Face's callback.
TRAINING = """
import sys, time
import mlflow
from topoflow.tracking import spool
from topoflow.tracking.runs import training_run
spool.PATIENCE = float(sys.argv[2])
with training_run("fault") as tracked:
    mlflow.log_params({"a": 1, "b": "two"}, synchronous=False)
    for step in range(1, 21):
        mlflow.log_metrics({"loss": 1 / step, "nan": float("nan")}, step=step, synchronous=False)
        print(step, flush=True)
        time.sleep(float(sys.argv[1]))
    tracked.tag_activations("ab" * 32)
print("trained", flush=True)
"""
STEPS = [(step, 1 / step) for step in range(1, 21)]


def train(
    folder: Path, uri: str, pause: float = 0.0, patience: float = 60.0, **changes: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRAINING, str(pause), str(patience)],
        cwd=folder,
        env=environment(PYTHONPATH=str(REPOSITORY), MLFLOW_TRACKING_URI=uri, **changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def replay(folder: Path, uri: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "topoflow", "track", "--replay"],
        cwd=folder,
        env=environment(
            PYTHONPATH=str(REPOSITORY), MLFLOW_TRACKING_URI=uri, MLFLOW_HTTP_REQUEST_MAX_RETRIES="1"
        ),
        capture_output=True,
        text=True,
    )
    return result.stdout + result.stderr


def assert_all_is_there_once(uri: str, n_runs: int = 1, status: str = "FINISHED") -> None:
    client = mlflow.MlflowClient(uri)
    found = client.search_runs(["0"])
    assert len(found) == n_runs
    for run in found:
        assert run.info.run_name == "fault"
        assert run.info.status == status
        assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == STEPS
        assert run.data.params == {"a": "1", "b": "two"}
        assert run.data.tags["topoflow.activations"] == "ab" * 32
        assert "nan" not in run.data.metrics


def spool(folder: Path) -> list[Path]:
    return list((folder / ".topoflow").glob("spool/*.jsonl"))


def test_a_locked_sqlite_store_stops_nothing_and_gets_each_number_once(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.MlflowClient(uri).search_experiments()
    with train(tmp_path, uri, patience=0.1) as training:
        lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
        training.stdout.readline()  # it has begun its run
        lock.execute("BEGIN EXCLUSIVE")
        _, errors = training.communicate(timeout=120)
        assert training.returncode == 0, errors
        assert "are kept in" in errors
        assert "topoflow track --replay" in errors
        lock.execute("ROLLBACK")
        lock.close()
    assert len(spool(tmp_path)) == 1
    assert "Sent what 1 training had left to send." in replay(tmp_path, uri)
    assert spool(tmp_path) == []
    assert_all_is_there_once(uri)
    assert "Sent what 0 trainings" in replay(tmp_path, uri)
    assert_all_is_there_once(uri)


def test_a_server_that_is_down_from_the_beginning_stops_nothing(tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        dead = f"http://me:secret@127.0.0.1:{nobody.getsockname()[1]}"
        with train(tmp_path, dead, patience=0.1, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0") as training:
            output, errors = training.communicate(timeout=240)
        assert training.returncode == 0, errors
        assert output.endswith("trained\n")
        (left,) = spool(tmp_path)
        said = replay(tmp_path, dead)
        assert "could not be sent to http://127.0.0.1" in said
        assert "secret" not in said + errors
    text = left.read_text()
    assert "secret" not in text
    # it comes up elsewhere: as a store here
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    left.write_text(text.replace(without_password(dead), uri))
    assert "Sent what 1 training had left" in replay(tmp_path, uri)
    assert_all_is_there_once(uri)


@pytest.mark.slow
def test_a_replay_that_is_killed_anywhere_and_repeated_sends_nothing_twice(tmp_path):
    from topoflow.tracking import spool as module

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with train(tmp_path, dead, patience=0.1, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0") as training:
            assert training.wait(240) == 0
    (left,) = spool(tmp_path)
    lines = left.read_text().replace(dead, uri).splitlines(keepends=True)
    store = mlflow.MlflowClient(uri)._tracking_client.store
    # what a kill leaves: sent, and no word of it in the file; or half a word
    for cut, torn in ((1, ""), (4, '{"sen'), (9, ""), (len(lines), '{"here": "x')):
        left.write_text("".join(lines) + torn)
        with module.Journal(left) as journal:
            journal.entries = journal.entries[:cut]
            module._send(module._Originals(store), journal)
    left.write_text("".join(lines))
    assert module.replay(tmp_path) == (1, [])
    assert_all_is_there_once(uri)


@pytest.mark.slow
def test_the_run_of_a_training_that_was_killed_does_not_stay_running(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.MlflowClient(uri).search_experiments()
    with train(tmp_path, uri, pause=0.2) as training:
        for _ in range(5):
            training.stdout.readline()
        training.send_signal(signal.SIGKILL)
        training.communicate()
    (run,) = mlflow.MlflowClient(uri).search_runs(["0"])
    assert run.info.status == "RUNNING"
    assert "Sent what 1 training" in replay(tmp_path, uri)
    client = mlflow.MlflowClient(uri)
    assert client.get_run(run.info.run_id).info.status == "KILLED"
    found = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")]
    assert found == STEPS[: len(found)]
    assert len(found) >= 4


@pytest.mark.slow
def test_a_full_disk_costs_the_spool_and_not_the_training(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.MlflowClient(uri).search_experiments()
    limited = TRAINING.replace(
        'for step in range(1, 21):', 'import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, 1 << 22))\n'
        '    spool_file = open("/dev/full", "wb", buffering=0)\n'
        '    import gc; [setattr(o, "_file", spool_file) for o in gc.get_objects() if type(o).__name__ == "Journal"]\n'
        '    for step in range(1, 21):',
    )  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", limited, "0", "60"],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(REPOSITORY), MLFLOW_TRACKING_URI=uri),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "No space left on device" in result.stderr
    assert_all_is_there_once(uri)


@pytest.mark.slow
def test_eight_processes_that_open_a_fresh_store_at_once_all_find_it(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    trainings = [train(tmp_path, uri) for _ in range(8)]
    for training in trainings:
        _, errors = training.communicate(timeout=400)
        assert training.returncode == 0, errors
    assert spool(tmp_path) == []
    assert_all_is_there_once(uri, n_runs=8)


# --- a real server behind faults ----------------------------------------------------------------


class Faulty(http.server.ThreadingHTTPServer):
    """Stands before a real MLflow server: passes on, answers 500, answers late, or takes and loses the answer."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        self.mode, self.behind = "pass", port
        super().__init__(("127.0.0.1", 0), _Passing)

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Passing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        mode = self.server.mode
        if mode == "broken" or (mode == "no artifacts" and "/mlflow-artifacts/" in self.path):
            self.send_error(500)
            return
        if mode == "slow":
            time.sleep(30)
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.server.behind}{self.path}", body or None, method=self.command
        )
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, data = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, data = error.code, error.read()
        except OSError:
            self.send_error(502)
            return
        if mode == "lossy" and self.command == "POST":  # it was done, and nobody hears of it
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        pass


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """An MLflow server that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, _free_port()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                   "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]  # fmt: skip
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=environment(), process_group=0, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.5)
        pytest.fail("the MLflow server did not come up")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    running = Server(folder)
    yield running
    running.kill()


@pytest.fixture
def faulty(server):
    with Faulty(server.port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()
    client = mlflow.MlflowClient(f"http://127.0.0.1:{server.port}")
    for run in client.search_runs(["0"]):
        client.delete_run(run.info.run_id)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["broken", "lossy", "slow"])
@pytest.mark.parametrize("since", ["the beginning", "the middle"])
def test_a_server_with_a_fault_stops_nothing_and_gets_each_number_once(tmp_path, faulty, mode, since):
    faulty.mode = mode if since == "the beginning" else "pass"
    retries = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with train(tmp_path, faulty.uri, pause=0.1, patience=0.5, **retries) as training:
        for _ in range(5):
            training.stdout.readline()
        faulty.mode = mode
        _, errors = training.communicate(timeout=400)
        assert training.returncode == 0, errors
    faulty.mode = "pass"
    if mode == "slow":
        time.sleep(31)  # what is on its way arrives
    if spool(tmp_path):
        assert "Sent what 1 training" in replay(tmp_path, faulty.uri)
    assert_all_is_there_once(faulty.uri)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["down", "broken", "no artifacts"])
def test_track_says_that_mlflow_did_not_take_all_and_called_again_logs_the_rest_once(study, faulty, mode):
    def track(uri: str) -> int:
        place = f"mlflow.set_tracking_uri({uri!r})"
        return study("track", *RUN, before=place, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")

    faulty.mode = mode
    assert track("http://127.0.0.1:9" if mode == "down" else faulty.uri) == 1
    assert study.output.count("Error: ") == 1
    assert "what was finished is kept" in study.output
    assert "Traceback" not in study.output
    client = mlflow.MlflowClient(faulty.uri)
    begun = [run.info.status for run in client.search_runs(["0"])] if mode == "no artifacts" else []
    assert begun == ["FAILED"] * (mode == "no artifacts")
    faulty.mode = "pass"
    assert track(faulty.uri) == 0, study.output
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert "topoflow.trajectory" in run.data.tags
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "topology")}
    assert {"topology/velocity.png", "topology/velocity.csv", "topology/note.md"} <= names
    for key in ("topology/h1_velocity/layer_02", "loss"):
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, key)]
        assert len(steps) == len(set(steps)) >= 3
    assert track(faulty.uri) == 0, study.output
    assert len(client.search_runs(["0"])) == 1


@pytest.mark.slow
def test_a_server_that_is_restarted_in_the_middle_stops_nothing_and_gets_each_number_once(tmp_path, server):
    uri = f"http://127.0.0.1:{server.port}"
    with train(tmp_path, uri, pause=0.1, patience=120) as training:
        for _ in range(5):
            training.stdout.readline()
        server.kill()
        server.start()
        _, errors = training.communicate(timeout=400)
        assert training.returncode == 0, errors
    if spool(tmp_path):
        assert "Sent what 1 training" in replay(tmp_path, uri)
    assert_all_is_there_once(uri)
    client = mlflow.MlflowClient(uri)
    client.delete_run(client.search_runs(["0"])[0].info.run_id)


@pytest.mark.slow
def test_fifty_runs_that_log_at_once_to_one_server_lose_nothing(tmp_path, server):
    uri = f"http://127.0.0.1:{server.port}"
    # one process, so that fifty imports need not fit into one machine; each run has its sender and spool of its own
    script = """
import sys, threading
import mlflow
from mlflow.entities import Metric
client = mlflow.MlflowClient()
from topoflow.tracking.spool import spooled
with spooled():
    def one(number):
        run = client.create_run("0", run_name="load")
        for step in range(100):
            client.log_batch(run.info.run_id, [Metric(f"m{k}", number + k, step, step) for k in range(10)])
        client.set_terminated(run.info.run_id)
    threads = [threading.Thread(target=one, args=(n,)) for n in range(50)]
    [t.start() for t in threads]; [t.join() for t in threads]
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(REPOSITORY), MLFLOW_TRACKING_URI=uri),
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert result.returncode == 0, result.stderr
    for _ in range(10):  # a server that is overrun answers some of it late
        if spool(tmp_path):
            said = replay(tmp_path, uri)
    assert spool(tmp_path) == [], said
    client = mlflow.MlflowClient(uri)
    loaded = [run for run in client.search_runs(["0"], max_results=500) if run.info.run_name == "load"]
    assert len(loaded) == 50
    for run in loaded:
        assert run.info.status == "FINISHED"
        assert len(run.data.metrics) == 10
        assert len(client.get_metric_history(run.info.run_id, "m7")) == 100
        client.delete_run(run.info.run_id)


def test_what_is_sent_together_is_what_mlflow_takes_in_one_request():
    from mlflow.utils.validation import _validate_batch_log_limits

    from topoflow.tracking.spool import _together

    parts = {"metrics": [0] * 90, "params": [0] * 9, "tags": [0] * 9}
    count = _together([{"kind": "batch", "run_id": "a", **parts}] * 30)
    _validate_batch_log_limits(**{part: values * count for part, values in parts.items()})
    assert count == 9
