"""Real processes killed, stopped, starved of disk and files: what was whole stays whole, and a rerun ends the same."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import numpy as np
import psutil
import pytest
import yaml
from support import (
    REPOSITORY,
    call,
    contents,
    entry_points_folder,
    environment,
    lay_down_study,
    path_with,
    small_params,
)

from topoflow import storage
from topoflow.errors import InvalidArgument

sys.path.insert(0, str(Path(__file__).parent))
from conftest import RUN, SET, tries

OUTS = {
    "diagrams": f"diagrams/{SET}",
    "trajectory": f"results/{SET}",
    "prompts": "data",
    "prepare": "data",
    "model": "models",
}
ARGUMENTS = {
    "diagrams": RUN,
    "trajectory": RUN,
    "prompts": (),
    "prepare": ("--objective", "helpful"),
    "model": ("--model", "tiny"),
    "finetune": RUN,
}


def assert_nothing_half(folder: Path) -> None:
    """Every file that has its name is whole, in a set and in the folder where one is being made."""
    for path in folder.rglob("*"):
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                assert set(arrays) == {"h0", "h1", "h0_offsets", "h1_offsets"}
        elif path.suffix == ".json" and "trainer" not in path.parts:
            json.loads(path.read_bytes())
        elif path.suffix in (".csv", ".jsonl") and path.stat().st_size:
            assert path.read_bytes().endswith(b"\n")
    for form in (storage.ACTIVATIONS, storage.DIAGRAMS):
        place = folder / form.split(".")[1].partition("/")[0] / SET
        if place.exists():
            storage.open_set(place, form)


# --- killed -------------------------------------------------------------------------------------


class Kills:
    """Random moments of a stage, until it was killed so often as is asked: one that had ended before does not count."""

    def __init__(self, seed: int, wanted: int, earliest: float = 0.0, latest: float = 1.0) -> None:
        self.wanted, self.killed, self.tried = wanted, 0, 0
        self._random, self._ends = random.Random(seed), (earliest, latest)

    def moments(self, duration: float) -> Iterator[float]:
        """Seconds after which to kill what takes `duration`, less after each that came too late."""
        while self.killed < self.wanted:
            assert self.tried < 6 * self.wanted, f"{self.killed} of {self.tried} killed"
            self.tried += 1
            yield self._random.uniform(*self._ends) * duration * 0.7 ** (self.tried - 1 - self.killed)

    def count(self, status: int) -> None:
        self.killed += status == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["diagrams", "trajectory", "prompts", "prepare", "model"])
def test_killed_at_a_random_moment_a_stage_goes_on_and_ends_with_the_same_bytes(study, stage):
    out = study.folder / OUTS[stage]
    expected = contents(out)
    assert study(stage, *ARGUMENTS[stage]) == 0, study.output
    kills = Kills(7, tries(2))
    for moment in kills.moments(study.seconds):
        if stage in ("diagrams", "trajectory"):
            shutil.rmtree(out)
        kills.count(study(stage, *ARGUMENTS[stage], after=moment))
        assert_nothing_half(study.folder)
        begun = {
            p.relative_to(work).as_posix(): p.stat().st_ino
            for work in study.folder.glob(".topoflow/writing/diagrams*-*")
            for p in work.rglob("*.npz")
        }
        assert study(stage, *ARGUMENTS[stage]) == 0, study.output
        found = {name: data for name, data in contents(out).items() if not name.endswith(".part")}
        assert found == {name: data for name, data in expected.items() if name in found}
        assert set(found) >= set(expected) - {"loss.csv"}
        for name, inode in begun.items():  # what was finished was not computed again
            assert (out / name).stat().st_ino == inode
    print(f"{stage}: {kills.killed} of {kills.tried} killed")


@pytest.mark.slow
def test_killed_at_a_random_moment_finetune_leaves_nothing_half_and_no_run_running(study):
    expected = contents(study.folder / f"activations/{SET}"), contents(study.folder / f"tuned/{SET}")
    assert study("finetune", *RUN) == 0, study.output
    kills = Kills(8, tries(), 0.2, 0.9)
    for moment in kills.moments(study.seconds):
        for kind in ("activations", "tuned"):
            shutil.rmtree(study.folder / kind)
        kills.count(study("finetune", *RUN, after=moment))
        assert_nothing_half(study.folder)
        assert study("finetune", *RUN) == 0, study.output
        found = contents(study.folder / f"activations/{SET}"), contents(study.folder / f"tuned/{SET}")
        assert found == expected
    statuses = {run.info.status for run in runs(study.folder)}
    assert statuses <= {"FINISHED", "KILLED"}  # none of the latter where it was killed before its run began
    print(f"finetune: {kills.killed} of {kills.tried} killed")


@pytest.mark.slow
def test_killed_at_a_random_moment_track_logs_nothing_twice(study):
    (before,) = runs(study.folder)
    expected = {key: history(study.folder, before, key) for key in before.data.metrics}
    (study.folder / "mlflow.db").unlink()
    assert study("track", *RUN) == 0, study.output  # into a fresh store, to know how long it takes
    kills = Kills(9, tries(), 0.3, 0.9)
    for moment in kills.moments(study.seconds):
        (study.folder / "mlflow.db").unlink()
        kills.count(study("track", *RUN, after=moment))
        assert study("track", *RUN) == 0, study.output
        (run,) = runs(study.folder)  # that of the call that was killed, if it had begun one
        assert run.info.status == "FINISHED"
        assert "topoflow.trajectory" in run.data.tags
        for key, values in expected.items():
            if key.startswith(("topology/", "behaviour/", "loss")):
                assert history(study.folder, run, key) == values, key
    print(f"track: {kills.killed} of {kills.tried} killed")


def runs(folder: Path) -> list:
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    return mlflow.search_runs(search_all_experiments=True, output_format="list")


def history(folder: Path, run, key: str) -> list:
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]


# --- stopped ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_that_is_stopped_ends_soon_says_how_to_go_on_and_its_run_has_ended(study, number):
    shutil.rmtree(study.folder / "activations")
    status = study("finetune", *RUN, when=".topoflow/writing/activations*-*/step_000001/*.npy", signal=number)
    assert status == 128 + number, study.output
    assert study.seconds < 20
    assert "Stopped. What was finished is kept; go on with: topoflow finetune --model tiny" in study.output
    assert "Traceback" not in study.output
    before = ["FINISHED"]  # of the whole study
    statuses = sorted(run.info.status for run in runs(study.folder))
    if "does not answer" in study.output:  # a busy machine: in its seconds it got no further with MLflow
        assert study("prompts") == 0, study.output  # the next command sees to it
        statuses = sorted(run.info.status for run in runs(study.folder))
        assert statuses in (before, ["FAILED", *before])  # the run may never have been begun
    else:
        assert statuses == ["FAILED", *before]


def stopped(folder: Path, cache: Path, command: Sequence[str], when: str, number: int) -> str:
    """What a command says that gets a signal as soon as there is a file; soon, and with none of its processes left."""
    settings = environment(
        PYTHONPATH=str(REPOSITORY),
        TOPOFLOW_CACHE=str(cache),
        MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db",
    )
    with (
        open(folder.parent / "log", "w+") as log,
        subprocess.Popen(
            [sys.executable, "-m", "topoflow", *command], cwd=folder, env=settings, stdout=log, stderr=log
        ) as process,
    ):
        while not list(folder.glob(when)):
            assert process.poll() is None, (folder.parent / "log").read_text()
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert time.monotonic() - began < 20
        _, alive = psutil.wait_procs(children, timeout=5)
        assert alive == []
        said = (folder.parent / "log").read_text()
    assert f"Stopped. What was finished is kept; go on with: topoflow {' '.join(command)}" in said
    assert "Traceback" not in said
    return said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_diagrams_in_processes_of_their_own_stop_with_them_and_go_on_where_they_were(study, number):
    params = yaml.safe_load((study.folder / "params.yaml").read_text())
    params["compute"] |= {"backend": "processes", "n_jobs": 2}
    params["topology"]["n_subsamples"] = 20_000  # so that a cell takes a second
    (study.folder / "params.yaml").write_text(yaml.safe_dump(params))
    working = ".topoflow/writing/diagrams*-*/step_*/*.npz"
    stopped(study.folder, study.cache, ["diagrams", *RUN], working, number)
    kept = {path.name: path.stat().st_ino for path in study.folder.glob(working)}
    assert kept
    assert_nothing_half(study.folder)
    assert study("diagrams", *RUN) == 0, study.output
    made = {path.stat().st_ino for path in study.folder.glob(f"diagrams/{SET}/step_*/*.npz")}
    assert set(kept.values()) <= made
    assert len(made) == 8


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_whole_run_that_is_stopped_takes_dvc_and_its_stage_along_and_goes_on(
    tmp_path, model_cache, warm, number
):
    folder = tmp_path / "study"
    params = small_params()
    params["finetune"]["max_steps"] = 300  # seconds after the first, so that it is stopped at work
    params["recording"]["schedule"] = {"every": 300, "dense_until": 1}
    lay_down_study(folder, params)
    recorded = ".topoflow/writing/activations*-*/step_000001/*.npy"
    command = ["run", "--objective", "helpful"]
    stopped(folder, model_cache, command, recorded, number)
    assert [run.info.status for run in runs(folder)] == ["FAILED"]
    assert not list(folder.glob("activations/*/*/*"))
    again = call(
        folder, "topoflow", *command, programs=warm,
        TOPOFLOW_CACHE=str(model_cache), MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db",
    )  # fmt: skip
    assert "Running stage 'prompts'" not in again.stderr  # what was finished
    assert "Running stage 'finetune@tiny-helpful-0'" in again.stderr
    assert sorted(run.info.status for run in runs(folder)) == ["FAILED", "FINISHED"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["topoflow", "run", "--objective", "helpful"],
        ["mlflow", "run", ".", "-b", "topoflow", "-P", "objective=helpful"],
    ],
    ids=["topoflow run", "mlflow run"],
)
def test_the_run_of_a_command_that_was_killed_is_ended_by_the_next_command(
    tmp_path, model_cache, warm, command
):
    folder = tmp_path / "study"
    params = small_params()
    params["finetune"]["max_steps"] = 3000  # not done before it is killed
    params["recording"]["schedule"] = {"every": 3000, "dense_until": 1}
    lay_down_study(folder, params)
    settings = environment(
        PYTHONPATH=path_with(entry_points_folder(tmp_path / "plugins")),
        TOPOFLOW_CACHE=str(model_cache),
        MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db",
    )
    moments, killed = random.Random(11), 0
    for _ in range(tries()):
        with (
            open(tmp_path / "log", "w+") as log,
            subprocess.Popen(command, cwd=folder, env=settings, stdout=log, stderr=log) as process,
        ):
            while not list(folder.glob(".topoflow/runs/*.json")):
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.02)
            time.sleep(moments.uniform(0, 12))
            children = psutil.Process(process.pid).children(recursive=True)
            for each in (process, *children):
                with suppress(psutil.NoSuchProcess):
                    each.kill()
        psutil.wait_procs(children, timeout=10)
        killed += process.returncode == -signal.SIGKILL
        left = [run for run in runs(folder) if run.info.status == "RUNNING"]
        call(
            folder, "topoflow", "model", "--model", "tiny", programs=warm,
            TOPOFLOW_CACHE=str(model_cache), MLFLOW_TRACKING_URI=f"sqlite:///{folder}/mlflow.db",
        )  # fmt: skip
        print(f"{len(left)} left RUNNING")
        assert {run.info.status for run in runs(folder)} <= {"KILLED"}
    print(f"{command[0]} run: {killed} killed, {len(runs(folder))} runs")


CHILDREN = """
import subprocess, sys
from topoflow.processes import call, stop_when_told
stop_when_told()
child = "import subprocess, sys, time; subprocess.Popen(['sleep', '300']); print('up', flush=True); time.sleep(300)"
call([sys.executable, "-c", child])
"""


@contextmanager
def family(script: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A process that runs a script like `CHILDREN`, and all that it has begun."""
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout.readline() == "up\n"
        yield process, psutil.Process(process.pid).children(recursive=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_no_child_and_no_childs_child_lives_on(tmp_path, number):
    with family(CHILDREN, tmp_path) as (process, children):
        assert len(children) == 2
        started = time.monotonic()
        process.send_signal(number)
        process.wait(30)
        assert time.monotonic() - started < 20
        _, alive = psutil.wait_procs(children, timeout=5)
        assert alive == []


def test_a_hangup_that_nohup_has_ignored_stays_ignored():
    script = """
import os, signal
from topoflow.processes import stop_when_told
signal.signal(signal.SIGHUP, signal.SIG_IGN)
stop_when_told()
os.kill(os.getpid(), signal.SIGHUP)
print("on")
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert result.stdout == "on\n", result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_arrives_in_a_destructor_is_not_lost(number):
    script = f"""
import os, time
from topoflow.processes import stop_when_told
stop_when_told()
class Dying:
    def __del__(self):
        os.kill(os.getpid(), {int(number)})
        time.sleep(0.1)
try:
    Dying()
    time.sleep(60)
except KeyboardInterrupt as error:
    print(type(error).__name__)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert result.stdout.strip() == ("KeyboardInterrupt" if number == signal.SIGINT else "Stopped"), (
        result.stderr
    )


@pytest.mark.slow
def test_a_child_that_will_not_hear_is_killed(tmp_path):
    script = CHILDREN.replace("import subprocess, sys, time;", "import signal, subprocess, sys, time; "
                              "signal.signal(2, signal.SIG_IGN); signal.signal(15, signal.SIG_IGN);")  # fmt: skip
    with family(script, tmp_path) as (process, children):
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        _, alive = psutil.wait_procs(children, timeout=5)
        assert alive == []


# --- starved ------------------------------------------------------------------------------------

LIMIT_FILES = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"
LIMIT_OPEN = (
    "import resource; n = os.open('/dev/null', 0); resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))"
)
NOBODY = "import os; os.setgid(65534); os.setuid(65534)"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["diagrams", "trajectory", "prompts", "prepare", "model"])
@pytest.mark.parametrize(
    ("fault", "message"), [(LIMIT_FILES.format(200), "File too large"), (LIMIT_OPEN, "Too many open files")]
)
def test_no_room_for_a_byte_or_a_file_is_one_clear_error_and_damages_nothing(study, stage, fault, message):
    before = {name: data for name, data in contents(study.folder).items() if not name.startswith(".topoflow")}
    status = study(stage, *ARGUMENTS[stage], before=fault)
    assert status == 1, study.output
    assert message in study.output
    assert study.output.count("Error: ") == 1
    assert "Traceback" not in study.output
    after = {name: data for name, data in contents(study.folder).items() if not name.startswith(".topoflow")}
    assert after == before
    assert study(stage, *ARGUMENTS[stage]) == 0, study.output
    after = {name: data for name, data in contents(study.folder).items() if not name.startswith(".topoflow")}
    assert after == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
def test_a_folder_that_is_read_only_is_one_clear_error(study):
    for path in [study.folder, *study.folder.parents]:
        if path == Path(path.anchor) or path.name == "tmp":
            break
        path.chmod(0o755)
    before = contents(study.folder)
    assert study("prompts", before=NOBODY) == 1
    assert "Permission denied" in study.output
    assert "Traceback" not in study.output
    assert contents(study.folder) == before


# --- two at once --------------------------------------------------------------------------------


def test_a_second_writer_of_results_or_of_a_set_is_refused_by_name_and_the_first_goes_on(study):
    place = study.folder / ".topoflow" / "locks"
    for stage, name in (("diagrams", f"diagrams/{SET}"), ("trajectory", f"results/{SET}")):
        before = contents(study.folder / name)
        with open(place / f"{name.replace('/', '+')}.lock", "a") as first:
            fcntl.flock(first, fcntl.LOCK_EX)
            assert study(stage, *RUN) == 1
            assert f"{name} is being written by " in study.output
        assert contents(study.folder / name) == before
        assert study(stage, *RUN) == 0, study.output
        assert contents(study.folder / name) == before


def test_a_second_writer_of_a_file_is_refused_by_name(study):
    with open(study.folder / "data/prompts.jsonl.part", "wb") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        assert study("prompts") == 1
        assert "data/prompts.jsonl is being written by another process" in study.output


# --- other inputs -------------------------------------------------------------------------------


def test_other_prompts_or_weights_than_the_states_were_recorded_with_are_refused_with_both_hashes(study):
    manifest = json.loads((study.folder / f"activations/{SET}/manifest.json").read_bytes())
    prompts, model = study.folder / "data/prompts.jsonl", study.folder / "models/tiny.json"
    kept = prompts.read_bytes()
    prompts.write_bytes(kept[::-1])
    assert study("diagrams", *RUN) == 1
    assert manifest["prompts_sha256"][:12] in study.output
    assert storage.sha256(kept[::-1])[:12] in study.output
    prompts.write_bytes(kept)
    described = json.loads(model.read_bytes())
    model.write_bytes(storage.json_bytes({**described, "sha256": "f" * 64}))
    for stage in ("diagrams", "finetune"):
        assert study(stage, *RUN) == 1
        assert described["sha256"][:12] in study.output
        assert "f" * 12 in study.output


def test_sets_of_another_run_and_diagrams_of_other_states_are_refused(study):
    other = study.folder / "diagrams/tiny/harmless/seed_0"
    for kind in ("activations", "diagrams", "results"):
        shutil.copytree(study.folder / kind / SET, study.folder / kind / "tiny/harmless/seed_0")
    assert study("track", "--model", "tiny", "--objective", "harmless") == 1
    assert "must be a set of tiny-harmless-0, and it is one of ('tiny', 'helpful', 0)" in study.output
    manifest = json.loads((other / "manifest.json").read_bytes())
    (study.folder / f"diagrams/{SET}/manifest.json").write_bytes(
        storage.json_bytes({**manifest, "activations": "e" * 64})
    )
    assert study("trajectory", *RUN) == 1
    assert "e" * 12 in study.output
    assert manifest["activations"][:12] in study.output


# --- numbers that are not finite ----------------------------------------------------------------------


@pytest.mark.slow
def test_states_that_diverge_are_left_out_named_in_the_note_and_never_a_metric(study):
    folder = study.folder / f"activations/{SET}"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    last = manifest["steps"][-1]
    for layer in manifest["layers"]:
        path = folder / f"{storage.cell_name(last, layer)}.npy"
        cloud = np.load(path)
        cloud[0] = np.nan if layer == 1 else np.inf
        storage.write_file(path, storage.array_bytes(cloud))
    storage.seal(folder, {k: v for k, v in manifest.items() if k != "files"}, list(manifest["files"]))
    for stage in ("diagrams", "trajectory", "track"):
        assert study(stage, *RUN) == 0, study.output
    stored = storage.open_set(study.folder / f"diagrams/{SET}", storage.DIAGRAMS)
    assert stored.steps == tuple(manifest["steps"][:-1])
    assert stored.manifest["not_finite"] == [[last, layer] for layer in manifest["layers"]]
    newest = runs(study.folder)[0]
    assert (
        f"**States are not finite** (NaN or infinity) from step {last} on"
        in newest.data.tags["mlflow.note.content"]
    )
    assert all(np.isfinite(value) for value in newest.data.metrics.values())
    assert last not in [step for step, _ in history(study.folder, newest, "topology/h1_velocity/layer_02")]


def test_a_layer_that_was_never_finite_is_left_out_and_the_others_go_on(study):
    folder = study.folder / f"activations/{SET}"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for step in manifest["steps"]:
        path = folder / f"{storage.cell_name(step, 1)}.npy"
        storage.write_file(path, storage.array_bytes(np.full_like(np.load(path), np.nan)))
    storage.seal(folder, {k: v for k, v in manifest.items() if k != "files"}, list(manifest["files"]))
    assert study("diagrams", *RUN) == 0, study.output
    stored = storage.open_set(study.folder / f"diagrams/{SET}", storage.DIAGRAMS)
    assert (stored.steps, stored.layers) == (tuple(manifest["steps"]), (2,))
    path = folder / f"{storage.cell_name(0, 2)}.npy"
    storage.write_file(path, storage.array_bytes(np.full_like(np.load(path), np.inf)))
    storage.seal(folder, {k: v for k, v in manifest.items() if k != "files"}, list(manifest["files"]))
    assert study("diagrams", *RUN) == 1
    assert "must hold a layer that is finite at two checkpoints or more" in study.output


# --- names and text -----------------------------------------------------------------------------

VALUES = ["$(touch x)", "`touch x`", "a;touch x", "'", '"', "a\nb", "--help", "--flag", "../helpful", "/etc/passwd",
          "é" * 50, "x" * 100_000, "\x1b[2J", "prompts", "", " ", "helpful\n", "con/../helpful", "\u202e"]  # fmt: skip


@pytest.mark.parametrize("value", VALUES)
def test_a_name_that_is_none_is_an_enum_error_and_no_file(study, value):
    before = contents(study.folder)
    for arguments in (
        ("prepare", f"--objective={value}"),
        ("finetune", "--model", "tiny", f"--objective={value}"),
        ("diagrams", f"--model={value}", "--objective", "helpful"),
        ("run", f"--objective={value}"),
    ):
        assert study(*arguments) in (1, 2)
        assert "must be one of" in study.output
        assert "Traceback" not in study.output
        assert "\x1b" not in study.output
    assert contents(study.folder) == before


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/b", "a.b", "prompts", "-x", "", "a\n", "é", "a" * 65, "a+b"]
)
def test_params_name_no_model_and_no_objective_that_is_a_path(name):
    from topoflow.config import parse_params

    for kind in ("model", "objective"):
        params = small_params()
        params[kind][name] = params[kind]["tiny" if kind == "model" else "helpful"]
        with pytest.raises(InvalidArgument) as caught:
            parse_params(params)
        assert caught.value.name.startswith(kind)
        assert caught.value.expected.startswith("another name" if name == "prompts" else "a name of letters")


def test_a_formula_in_a_table_is_text_and_a_note_has_no_html(tmp_path):
    from topoflow.storage.layout import write_table
    from topoflow.tracking.note import verdict_table

    write_table(tmp_path / "t.csv", ["a"], [["=1+1"], ["@x"], ["+1"], ["-1"], [-1.5], ["plain"]])
    assert (tmp_path / "t.csv").read_text().splitlines()[1:] == [
        "'=1+1",
        "'@x",
        "'+1",
        "'-1",
        "-1.5",
        "plain",
    ]
    hostile = "<img src=x onerror=alert(1)> | b\nc"
    words = ("claim", "homology", "statement", "statistic", "verdict", "rule", "beside", "why")
    claim = dict.fromkeys(words, hostile)
    numbers = {"value": 1.0, "low": None, "high": None, "p": None}
    table = "\n".join(verdict_table([{**claim, **numbers, "steps": [(hostile, hostile)]}]))
    assert "<img" not in table
    assert "&lt;img" in table


@pytest.mark.slow
def test_a_planted_token_is_in_no_file_that_a_study_leaves(study):
    secret = "hf_" + "PLANTED" * 5
    for name in ("activations", "diagrams", "results", "tuned", "mlflow.db", "mlruns"):
        path = study.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    secrets = {"HF_TOKEN": secret, "HUGGING_FACE_HUB_TOKEN": secret, "AWS_SECRET_ACCESS_KEY": secret}
    for stage in ("finetune", "diagrams", "trajectory", "track"):
        assert study(stage, *RUN, **secrets) == 0, study.output
        assert secret not in study.output
    files = contents(study.folder)
    assert "mlflow.db" in files
    assert len(files) > 30
    assert [name for name, data in files.items() if secret.encode() in data] == []


HOSTILE = "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_runs_no_script_that_a_strangers_text_holds(study):
    params = yaml.safe_load((study.folder / "params.yaml").read_text())
    params["objective"]["stranger"] = {"source": "file", "path": HOSTILE}
    params["objectives"] = ["helpful", "stranger"]
    (study.folder / "params.yaml").write_text(yaml.safe_dump(params))
    path = study.folder / f"results/{SET}/trajectory.json"
    facts = json.loads(path.read_bytes())
    for claim in facts["claims"].values():
        claim |= dict.fromkeys(("statement", "statistic", "rule", "beside", "why"), HOSTILE)
    path.write_bytes(storage.json_bytes(facts))
    assert study("report") == 0, study.output
    assert HOSTILE not in (study.folder / "report.html").read_text()
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=3000",
        "--dump-dom",
    ]
    result = subprocess.run(
        [*command, f"file://{study.folder}/report.html"], capture_output=True, text=True, timeout=120
    )
    assert "</html>" in result.stdout, result.stderr
    title = result.stdout.partition("<title>")[2].partition("</title>")[0]
    assert title
    assert "pwned" not in title
    assert "onerror=&quot;" in result.stdout or 'onerror="document' in result.stdout  # as text, it is there
    assert '<img src="x"' not in result.stdout


def test_the_text_of_prompts_is_in_tables_notes_and_reports_of_mlflows_and_in_no_other_result(study):
    prompts = (study.folder / "data/prompts.jsonl").read_text().splitlines()
    text = max((message["content"] for line in prompts for message in json.loads(line)), key=len).encode()[
        :60
    ]
    holding = {name for name, data in contents(study.folder).items() if text in data}
    assert "data/prompts.jsonl" in holding
    elsewhere = {Path(name) for name in holding if not name.startswith("data/")} - {Path("mlflow.db")}
    assert {path.parts[0] for path in elsewhere} <= {"mlruns"}
    assert {path.name for path in elsewhere} <= {"texts.json", "prompts.json", "note.md", "report.html"}
