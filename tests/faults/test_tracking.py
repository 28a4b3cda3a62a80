"""MLflow that is locked, down, slow, broken or restarted: training goes on, and each number arrives exactly once."""

from __future__ import annotations

import http.server
import json
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
from support import REPOSITORY, Server, environment, refused

from topoflow.errors import NoAnswer
from topoflow.recording.sender import Sender
from topoflow.storage.layout import read_table, write_table
from topoflow.tracking import runs as tracking
from topoflow.tracking import store as store_module
from topoflow.tracking.store import answering, every, experiments, log_batches, start_run, tagged
from topoflow.tracking.unfinished import KEY_TAG, Note, end_unfinished

sys.path.insert(0, str(Path(__file__).parent))
from conftest import RUN, SET

# Logs as a training does.
TRAINING = """
import sys, time
from topoflow.tracking import live
live.PATIENCE = float(sys.argv[2])
with live.training_run("fault") as run:
    run.log_params({"a": 1, "b": "two"})
    print("begun", flush=True)
    began = time.monotonic()
    for step in range(1, 21):
        run.log({"loss": 1 / step, "learning_rate": step / 8, "nan": float("nan"), "text": "no number"}, step)
        print(step, flush=True)
        time.sleep(float(sys.argv[1]))
    assert time.monotonic() - began < 20 * float(sys.argv[1]) + 1, "logging took time"
    run.tag_activations("ab" * 32)
print("trained", flush=True)
"""
LOSSES = [(step, 1 / step) for step in range(1, 21)]
ESCAPES = "\x1b]0;owned\x07\x1b[2J"


@pytest.fixture
def dead():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        yield f"http://me:secret@127.0.0.1:{nobody.getsockname()[1]}"


@pytest.fixture
def train(warm):
    """Begins a training that logs, as a process of its own."""

    def begin(
        folder: Path, uri: str, pause: float = 0.0, patience: float = 60.0, **changes: str
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [f"{warm}/python", "-c", TRAINING, str(pause), str(patience)],
            cwd=folder,
            env=environment(PYTHONPATH=str(REPOSITORY), MLFLOW_TRACKING_URI=uri, **changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def trained(training: subprocess.Popen[str]) -> str:
    """What a training that went well said beside; at most two warnings of topoflow's, and none with a password."""
    output, errors = training.communicate(timeout=240)
    assert training.returncode == 0, errors
    assert output.endswith("trained\n")
    assert "Traceback" not in errors
    assert errors.count("does not answer") <= 1
    assert "secret" not in errors
    assert "\x1b" not in errors
    return errors


def fill(folder: Path, uri: str) -> None:
    """What `track` does with the losses of a training."""
    mlflow.set_tracking_uri(uri)
    rows = [[step, loss, step / 8] for step, loss in LOSSES]
    write_table(folder / "loss.csv", ["step", "loss", "learning_rate"], rows)
    end_unfinished(folder)
    client = mlflow.MlflowClient()
    run = tracking._find_run(client, experiments(client), "ab" * 32, "")
    if run is None:
        with start_run("fault", {"topoflow.activations": "ab" * 32}) as run:
            pass
    log_batches(run, tracking._missing_losses(client, run, folder / "loss.csv"))


def assert_all_is_there_once(uri: str, n_runs: int = 1, with_params: bool = True) -> None:
    client = mlflow.MlflowClient(uri)
    found = client.search_runs(["0"])
    assert len(found) == n_runs
    for run in found:
        assert run.info.run_name == "fault"
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "loss")
        assert sorted((m.step, m.value) for m in history) == LOSSES
        rates = client.get_metric_history(run.info.run_id, "learning_rate")
        assert sorted((m.step, m.value) for m in rates) == [(step, step / 8) for step, _ in LOSSES]
        if with_params:
            assert run.data.params == {"a": "1", "b": "two"}
        assert run.data.tags["topoflow.activations"] == "ab" * 32
        assert not {"nan", "text"} & set(run.data.metrics)


def notes(folder: Path) -> list[Path]:
    return list((folder / ".topoflow/runs").glob("*"))


@pytest.mark.slow
def test_a_store_that_answers_has_all_when_the_training_ends(tmp_path, train):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with train(tmp_path, uri, DISABLE_MLFLOW_INTEGRATION="TRUE") as training:
        assert "MLflow at" not in trained(training)
    assert_all_is_there_once(uri)
    assert notes(tmp_path) == []
    fill(tmp_path, uri)
    assert_all_is_there_once(uri)


@pytest.mark.slow
def test_a_locked_sqlite_store_stops_nothing_and_gets_each_number_once(tmp_path, train):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    mlflow.MlflowClient(uri).search_experiments()
    with train(tmp_path, uri, pause=0.1, patience=0.1) as training:
        lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
        for _ in range(10):  # it has perhaps begun its run
            training.stdout.readline()
        lock.execute("BEGIN EXCLUSIVE")
        assert "does not answer" in trained(training)
        lock.execute("ROLLBACK")
        lock.close()
    for _ in range(2):
        fill(tmp_path, uri)
        assert_all_is_there_once(uri, with_params=False)


@pytest.mark.slow
def test_a_server_that_is_down_from_the_beginning_stops_nothing(tmp_path, dead, train):
    with train(tmp_path, dead, patience=0.1) as training:
        said = trained(training)
    assert said.count("http://127.0.0.1") >= 1
    (note,) = notes(tmp_path)
    assert "secret" not in note.read_text()
    # the next command is not stopped either, and the note waits for its own store
    mlflow.set_tracking_uri(dead)
    end_unfinished(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    fill(tmp_path, uri)
    assert_all_is_there_once(uri, with_params=False)
    assert notes(tmp_path) == [note]


@pytest.mark.slow
def test_fifty_runs_that_log_at_once_to_one_server_lose_nothing(tmp_path, server, emptied, warm):
    uri = server.address
    # one process, so that fifty imports need not fit into one machine; each run has its own thread
    script = """
from topoflow.tracking.live import LiveRun
runs = [LiveRun("load") for _ in range(50)]
for step in range(40):
    for number, run in enumerate(runs):
        run.log({f"m{k}": number + k for k in range(10)}, step)
for run in runs:
    run.end("FINISHED", 300)
"""
    result = subprocess.run(
        [f"{warm}/python", "-c", script],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(REPOSITORY), MLFLOW_TRACKING_URI=uri),
        capture_output=True,
        text=True,
        timeout=560,
    )
    assert result.returncode == 0, result.stderr
    assert notes(tmp_path) == [], result.stderr
    client = mlflow.MlflowClient(uri)
    loaded = [run for run in client.search_runs(["0"], max_results=500) if run.info.run_name == "load"]
    assert len(loaded) == 50
    for run in loaded:
        assert run.info.status == "FINISHED"
        assert len(run.data.metrics) == 10, result.stderr
        assert len(client.get_metric_history(run.info.run_id, "m7")) == 40


@pytest.mark.slow
def test_the_run_of_a_training_that_was_killed_does_not_stay_running(tmp_path, train):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = mlflow.MlflowClient(uri)
    client.search_experiments()
    with train(tmp_path, uri, pause=0.5) as training:
        while not client.search_runs(["0"]):
            assert training.stdout.readline(), "the training has ended, and its run is not there"
        mlflow.set_tracking_uri(uri)
        end_unfinished(tmp_path)  # a process that is at work keeps its run
        assert [run.info.status for run in client.search_runs(["0"])] == ["RUNNING"]
        training.send_signal(signal.SIGKILL)
        training.communicate()
    end_unfinished(tmp_path)
    (run,) = client.search_runs(["0"])
    assert run.info.status == "KILLED"
    assert notes(tmp_path) == []


@pytest.mark.slow
def test_eight_processes_that_open_a_fresh_store_at_once_all_find_it(tmp_path, train):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    trainings = [train(tmp_path, uri, patience=200) for _ in range(8)]  # as a busy machine may need
    for training in trainings:
        trained(training)
    assert notes(tmp_path) == []
    assert_all_is_there_once(uri, n_runs=8)


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_sets_up_a_fresh_store_leaves_none_that_is_half_made(
    tmp_path, warm
):
    uri, draft = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / ".mlflow.db.draft"
    opening = "from topoflow.tracking.store import open_store; open_store()"
    settings = environment(PYTHONPATH=str(REPOSITORY), MLFLOW_TRACKING_URI=uri)
    with subprocess.Popen([sys.executable, "-c", opening], cwd=tmp_path, env=settings) as process:
        while process.poll() is None and not (draft.exists() and draft.stat().st_size):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "mlflow.db").exists()
    subprocess.run([f"{warm}/python", "-c", opening], cwd=tmp_path, env=settings, check=True)
    assert not draft.exists()
    assert len(mlflow.MlflowClient(uri).search_experiments()) == 1


def test_a_store_that_another_program_makes_meanwhile_stays(tmp_path, monkeypatch):
    database = tmp_path / "mlflow.db"

    class Slow:
        def __init__(self, uri: str) -> None:
            Path(uri.removeprefix("sqlite:///")).write_bytes(b"ours")

        def search_experiments(self, max_results: int) -> None:
            database.write_bytes(b"theirs")

    monkeypatch.setattr(mlflow, "MlflowClient", Slow)
    store_module._make_whole(database)
    assert database.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [database]


def test_what_a_busy_server_refuses_at_the_end_is_sent_again_and_so_is_the_end_of_the_run():
    told: list[object] = []

    def send(rows: list[object]) -> None:
        refusing = len(told) < 2
        told.append("refused" if refusing else list(rows))
        if refusing:
            raise OSError("busy")

    def end() -> None:
        told.append("done" if told[-1] == "not yet" else "not yet")
        if told[-1] == "not yet":
            raise OSError("busy")

    sender = Sender(send, "MLflow", "they are elsewhere")
    sender.add([1, 2])
    sender.close(30, end)
    assert told == ["refused", "refused", [1, 2], "not yet", "done"]


# --- what a note may do -------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch, fresh_store):
    monkeypatch.chdir(tmp_path)
    return mlflow.MlflowClient()


def test_a_note_ends_no_run_but_its_own_and_none_that_has_ended(tmp_path, store):
    mine, other = Note(), Note()
    killed = store.create_run("0", tags=mine.tags)
    ended = store.create_run("0", tags=other.tags)
    store.set_terminated(ended.info.run_id, "FAILED")
    stranger = store.create_run("0")
    alive = Note()
    at_work = store.create_run("0", tags=alive.tags)
    mine.leave(), other.leave()
    end_unfinished()
    statuses = [store.get_run(run.info.run_id).info.status for run in (killed, ended, stranger, at_work)]
    assert statuses == ["KILLED", "FAILED", "RUNNING", "RUNNING"]
    alive.ends("FINISHED", "ab" * 32)  # and MLflow could not be told
    alive.leave()
    end_unfinished()
    run = store.get_run(at_work.info.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["topoflow.activations"] == "ab" * 32
    assert notes(tmp_path) == []


def test_a_planted_note_is_not_obeyed(tmp_path, store):
    """It names a run, an address, a status that is none; it is a link, a pipe, a folder, or gigabytes."""
    run = store.create_run("0", tags={KEY_TAG: "0" * 32})
    good = Note()
    facts = json.loads(notes(tmp_path)[0].read_text()) | {"key": "0" * 32}
    good.done()
    place = tmp_path / ".topoflow/runs"
    for number, changes in enumerate(
        (
            {"store": "http://stranger:5000"},
            {"store": "f" * 64},
            {"status": "DELETED"},
            {"run_id": run.info.run_id},
            {"key": "x' OR tags.a != '"},
            {"activations": "../../etc"},
            {"ended": -1},
            {"ended": 10**400},
        )
    ):
        (place / f"{number}.json").write_text(json.dumps(facts | changes))
    (tmp_path / "victim").write_text(json.dumps(facts))
    (place / "link.json").symlink_to(tmp_path / "victim")
    os.mkfifo(place / "pipe.json")
    (place / "folder.json").mkdir()
    (place / "cut.json").write_text(json.dumps(facts)[:20])
    with open(place / "large.json", "wb") as large:
        large.truncate(1 << 40)
    before = sorted(notes(tmp_path))
    end_unfinished()
    assert store.get_run(run.info.run_id).info.status == "RUNNING"
    assert sorted(notes(tmp_path)) == before
    assert (tmp_path / "victim").exists()


def test_no_file_in_a_study_sends_credentials_to_a_server(tmp_path, store):
    """A database that a stranger has made may say that the files of its runs lie on his server."""
    from topoflow.errors import InvalidFile

    experiment = store.create_experiment("theirs", artifact_location="http://127.0.0.1:9/their/files")
    run = store.create_run(experiment)
    with refused(InvalidFile, problem="127.0.0.1:9"):
        tracking._check_destination(run)
    tracking._check_destination(store.create_run("0"))


# --- pages --------------------------------------------------------------------------------------


def test_a_run_is_found_on_any_page_and_in_any_of_many_experiments(store, monkeypatch):
    last = store.create_experiment("last")
    first = [store.create_experiment(f"{number}") for number in range(4)]
    for experiment in (last, *first):
        for _ in range(3):
            store.create_run(experiment, tags={"thread": "red"})
    for name in ("search_experiments", "search_runs"):
        search = getattr(store, name)
        one = lambda *given, search=search, **named: search(*given, max_results=1, **named)  # noqa: E731
        monkeypatch.setattr(store, name, one)
    monkeypatch.setattr("topoflow.tracking.store._MOST_EXPERIMENTS", 2)
    among = experiments(store)
    assert sorted(among) == sorted(["0", last, *first])
    found = tagged(store, among, "thread", "red")
    assert len({run.info.run_id for run in found}) == 15
    began = [run.info.start_time for run in found]
    assert began == sorted(began, reverse=True)


def test_pages_that_lead_back_to_themselves_come_to_an_end():
    class Page(list):
        token = "again"

    assert every(lambda token: Page("a")) == ["a", "a"]


def test_each_search_of_mlflow_goes_by_the_one_that_turns_pages():
    sources = REPOSITORY.glob("topoflow/**/*.py")
    lines = [line for path in sources for line in path.read_text().splitlines() if ".search_" in line]
    assert all("page_token" in line or "max_results=1)" in line for line in lines), lines


# --- a real server behind faults ----------------------------------------------------------------


SLOW = 8.0
PAGES = {
    "proxy": (400, "text/html", f"<html>{ESCAPES}bad gateway</html>"),
    "login": (200, "text/html", f"<html>{ESCAPES}please log in</html>"),
    "forgetful": (
        404,
        "application/json",
        json.dumps({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"{ESCAPES}no such run"}),
    ),
}


class Faulty(http.server.ThreadingHTTPServer):
    """Stands before a real MLflow server: passes on, answers badly or late, or takes and loses the answer."""

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
        if page := PAGES.get(mode):
            status, kind, text = page
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())
            return
        if mode == "slow":
            time.sleep(SLOW)
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


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("server"))
    yield running
    running.kill()


@pytest.fixture
def emptied(server):
    """The server is left without runs, whatever the test has found."""
    yield
    client = mlflow.MlflowClient(server.address)
    for run in client.search_runs(["0"]):
        client.delete_run(run.info.run_id)


@pytest.fixture
def faulty(server, emptied):
    with Faulty(server.port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "since"),
    [
        *((mode, "the beginning") for mode in ("broken", "lossy", "slow", "login")),
        *((mode, "the middle") for mode in ("broken", "lossy", "slow", "proxy", "forgetful")),
    ],
)
def test_a_server_with_a_fault_stops_nothing_and_gets_each_number_once(tmp_path, faulty, mode, since, train):
    faulty.mode = mode if since == "the beginning" else "pass"
    with train(tmp_path, faulty.uri, pause=0.1, patience=0.5) as training:
        for _ in range(5):
            training.stdout.readline()
        if since == "the middle":
            while not mlflow.MlflowClient(faulty.uri).search_runs(["0"]):
                assert training.stdout.readline(), "the training has ended, and its run is not there"
        faulty.mode = mode
        trained(training)
    faulty.mode = "pass"
    if mode == "slow" and since == "the beginning":
        time.sleep(SLOW)  # the run itself is still on its way
    for _ in range(2):
        fill(tmp_path, faulty.uri)
        assert_all_is_there_once(faulty.uri, with_params=False)


@pytest.mark.parametrize("mode", ["proxy", "login", "forgetful"])
def test_what_a_server_says_is_one_line_that_cannot_steer_a_terminal(mode, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Faulty(9) as proxy:
        proxy.mode = mode
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        mlflow.set_tracking_uri(proxy.uri.replace("//", "//me:secret@"))
        with pytest.raises(NoAnswer) as caught, answering():
            mlflow.MlflowClient().search_runs(["0"])
        proxy.shutdown()
    assert caught.value.service == f"MLflow at {proxy.uri}"
    assert str(caught.value).isprintable()
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["down", "broken", "no artifacts"])
def test_track_says_that_mlflow_did_not_take_all_and_called_again_logs_the_rest_once(study, faulty, mode):
    def track(uri: str) -> int:
        place = f"mlflow.set_tracking_uri({uri!r})"
        return study("track", *RUN, before=place, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")

    faulty.mode = mode
    assert track("http://127.0.0.1:9" if mode == "down" else faulty.uri) == 1
    assert study.output.count("Error: ") == 1
    assert "finished work is kept" in study.output
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
def test_a_server_that_is_restarted_in_the_middle_stops_nothing_and_gets_each_number_once(
    tmp_path, server, emptied, train
):
    uri = server.address
    with train(tmp_path, uri, pause=0.1) as training:
        for _ in range(5):
            training.stdout.readline()
        server.kill()
        server.start()
        trained(training)
    fill(tmp_path, uri)
    assert_all_is_there_once(uri, with_params=False)


@pytest.mark.slow
def test_a_stage_trains_while_mlflow_is_down_and_track_fills_what_it_never_saw(study, dead):
    """The real stages, in a process where Hugging Face's own callback is switched off as well."""
    import shutil

    for kind in ("activations", "tuned"):
        shutil.rmtree(study.folder / kind)
    (study.folder / "mlflow.db").unlink()
    place = f"mlflow.set_tracking_uri({dead!r}); import topoflow.tracking.live as l; l.PATIENCE = 1"
    assert study("finetune", *RUN, before=place, DISABLE_MLFLOW_INTEGRATION="TRUE") == 0, study.output
    assert study.output.count("does not answer") == 1
    assert study("track", *RUN) == 0, study.output
    client = mlflow.MlflowClient(f"sqlite:///{study.folder}/mlflow.db")
    (run,) = client.search_runs(["0"])
    assert run.info.status == "FINISHED"
    rows = list(read_table(study.folder / f"results/{SET}/loss.csv"))
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [(row["step"], row["loss"]) for row in rows]
