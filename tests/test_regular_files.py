"""Nobody is led outside a study by what lies in it, and nothing is waited for without a word."""

from __future__ import annotations

import ast
import errno
import os
import re
import shutil
import signal
import subprocess
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from support import holding, refused

from topoflow import storage
from topoflow.config import load_params
from topoflow.errors import InvalidFile
from topoflow.storage import files, writing

SET = "activations/tiny/helpful/seed_0"
KEY = "0" * 64


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A folder of the user's with files in it; the study beside it is the current folder."""
    folder = tmp_path / "of the user"
    (folder / "step_000000").mkdir(parents=True)
    (folder / "thesis.txt").write_text("years of work")
    (folder / "step_000000" / "layer_00.npy").write_text("more of it")
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    yield folder
    assert (folder / "thesis.txt").read_text() == "years of work"
    assert (folder / "step_000000" / "layer_00.npy").read_text() == "more of it"
    assert len(list(folder.rglob("*"))) == 3


def link(path: str | Path, target: Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def write_a_set() -> None:
    with writing(SET, KEY) as work:
        storage.write_file(work / "step_000000" / "layer_00.npy", b"new")
        storage.seal(
            work, {"format": storage.ACTIVATIONS, "steps": [0], "layers": [0]}, ["step_000000/layer_00.npy"]
        )


# --- links --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "planted",
    [
        ".topoflow",
        ".topoflow/writing",
        f".topoflow/writing/{SET.replace('/', '+')}-{KEY[:16]}",
        f".topoflow/writing/{SET.replace('/', '+')}-{KEY[:16]}/step_000000",
        f".topoflow/writing/{SET.replace('/', '+')}-{KEY[:16]}/trainer",
        ".topoflow/locks",
        "activations",
        "activations/tiny",
        SET,
    ],
)
def test_a_folder_that_is_a_link_is_refused_by_name_before_anything_is_written(outside, planted):
    link(planted, outside)
    with refused(InvalidFile, path=Path(planted)) as caught:
        write_a_set()
    assert caught.value.remedy


@pytest.mark.parametrize("name", [f"{SET.replace('/', '+')}.lock", "new.lock"])
@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
def test_a_lock_that_leads_elsewhere_is_refused_and_its_target_keeps_its_bytes(outside, name, plant):
    path = Path(".topoflow/locks") / name
    path.parent.mkdir(parents=True)
    plant(path, outside / "thesis.txt")
    with refused(InvalidFile, path=path), files.locked(name.removesuffix(".lock"), "the thesis"):
        pass


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
def test_nothing_is_written_through_a_planted_part_file(outside, plant):
    plant(Path("report.html.part"), outside / "thesis.txt")
    storage.write_file(Path("report.html"), b"page")
    assert Path("report.html").read_bytes() == b"page"


def test_a_file_that_leads_elsewhere_is_replaced_and_not_written_through(outside):
    link("report.html", outside / "thesis.txt")
    storage.write_file(Path("report.html"), b"page")
    assert not Path("report.html").is_symlink()


@pytest.mark.parametrize("folder", ["data", "results", "comparison", ".topoflow/pictures"])
def test_no_folder_of_a_study_may_lead_elsewhere(outside, folder):
    link(folder, outside)
    with refused(InvalidFile, path=Path(folder)):
        storage.write_file(Path(folder, "prompts.jsonl"), b"")


def test_a_work_file_with_another_name_elsewhere_is_refused(outside):
    path = Path(f".topoflow/writing/{SET.replace('/', '+')}-{KEY[:16]}/behaviour/now.f32")
    path.parent.mkdir(parents=True)
    path.hardlink_to(outside / "thesis.txt")
    with refused(InvalidFile, path=path):
        write_a_set()


def test_what_is_removed_is_the_link_and_not_its_target(outside):
    files.remove(link("pictures", outside))
    link("folder/inner", outside)
    files.remove(Path("folder"))
    files.remove(Path("folder"))  # gone already
    assert os.listdir() == []


def test_the_study_itself_may_stand_behind_a_link(outside, tmp_path, monkeypatch):
    monkeypatch.chdir(link(tmp_path / "elsewhere", Path.cwd()))
    write_a_set()
    assert (Path(SET) / storage.MANIFEST).is_file()


# --- pipes and devices --------------------------------------------------------------------------


def within_seconds(function, *arguments):
    """What a call returns or raises; it fails, and does not hang, where the call waits."""

    def alarm(*_):
        raise AssertionError("waits for ever")

    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(10)
    try:
        return function(*arguments)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
@pytest.mark.parametrize("read", [files.read_bytes, files.read_text, files.sha256_of_file, load_params])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path, kind, read):
    path = tmp_path / "params.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with refused(InvalidFile, problem=kind):
        within_seconds(read, path)


@pytest.mark.parametrize("name", [storage.MANIFEST, "step_000000/layer_00.npy"])
def test_a_pipe_in_a_set_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_a_set()
    Path(SET, name).unlink()
    os.mkfifo(Path(SET, name))
    with refused(InvalidFile, path=Path(SET, name)):
        within_seconds(storage.open_set, SET, storage.ACTIVATIONS)


def test_a_pipe_in_place_of_a_part_file_or_of_a_lock_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("report.html.part")
    within_seconds(storage.write_file, Path("report.html"), b"page")
    assert Path("report.html").read_bytes() == b"page"
    Path(".topoflow/locks").mkdir(parents=True)
    os.mkfifo(".topoflow/locks/inputs.lock")
    with refused(InvalidFile, path=Path(".topoflow/locks/inputs.lock")):
        within_seconds(files.locked("inputs", "data").__enter__)


# --- another disk -------------------------------------------------------------------------------


def test_a_set_on_another_disk_is_made_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replace = os.replace

    def replace_on_one_disk(source, target):
        disks = [Path(path).parts[0] == "activations" for path in (source, target)]
        if disks[0] != disks[1]:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_on_one_disk)
    with suppress(KeyboardInterrupt), writing(SET, KEY) as work:
        (work / "kept").write_bytes(b"")
        raise KeyboardInterrupt
    with writing(SET, KEY) as work:
        assert (work / "kept").exists()  # what was interrupted is found again
    write_a_set()
    write_a_set()  # in place of another
    assert [path.name for path in Path(SET).parent.iterdir()] == ["seed_0"]
    assert list(Path(".topoflow/writing").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="only root may mount")
def test_a_set_on_a_mounted_disk_is_made_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("activations").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "activations"], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine mounts nothing")
    try:
        write_a_set()
        write_a_set()
        assert [path.name for path in Path(SET).parent.iterdir()] == ["seed_0"]
    finally:
        subprocess.run(["umount", "activations"], check=True)


# --- locks --------------------------------------------------------------------------------------

HOLDER = """
import sys
from topoflow.storage.files import locked
with locked(sys.argv[1], "data", shared=sys.argv[2] == "shared"):
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path, monkeypatch):
    """Begin a process that holds a lock until its standard input is closed."""
    monkeypatch.chdir(tmp_path)
    with ExitStack() as begun:
        yield lambda name, how: begun.enter_context(holding(HOLDER, name, how))


def test_who_waits_for_a_lock_is_told_for_whom_and_gets_it_in_the_end(held, caplog):
    process = held("inputs", "alone")
    threading.Timer(0.5, process.stdin.close).start()
    with files.locked("inputs", "the inputs"):
        pass
    assert f"Waiting for the inputs, which process {process.pid} on " in caplog.text


def test_ctrl_c_ends_the_wait(held):
    held("inputs", "alone")
    main = threading.main_thread().ident
    threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        within_seconds(files.locked("inputs", "the inputs").__enter__)


def test_those_that_share_a_lock_do_not_wait_for_one_another(held):
    process = held("prompts", "shared")
    with files.locked("prompts", "the prompts", wait=False, shared=True):
        pass
    with (
        refused(InvalidFile, problem="is being written by"),
        files.locked("prompts", "the prompts", wait=False),
    ):
        pass
    process.kill()  # a lock ends with its process
    process.wait()
    with files.locked("prompts", "the prompts", wait=False):
        pass


# --- in the whole package -----------------------------------------------------------------------

OPENS = r"(^|\.)open|\.(read|write)_(text|bytes)|shutil\.(copy\w*|move|rmtree)|memmap"
MAY = {
    "cli open": "/dev/null",
    "study.pins Path(str(path.locate())).read_bytes": "files of the installed topoflow",
    "study.pins installed.read_text": "metadata of an installed distribution",
    "study.pins shutil.copyfile": "of the clone that runs, into a new temporary folder",
    "study.pins shutil.copytree": "of the clone that runs, into a new temporary folder",
    "study.pins wheels[0].read_bytes": "what was just built, in a new temporary folder",
    "recording.behaviour np.memmap": "in a working folder, which is looked through first, or without a name",
    "report.page files('topoflow.report').joinpath(f'page.{kind}').read_text": "the package's own",
    "report.page Image.open": "from memory",
    "samples (resources.files('topoflow') / 'samples' / f'{name}.yaml').read_text": "the package's own",
    "study.scaffold (source / name).read_text": "the package's own",
    "study.sensitivity FinishedRun.open": "which opens by topoflow.storage.files",
    "study.stages.reporting FinishedRun.open": "which opens by topoflow.storage.files",
    "storage.sets archive.open": "from memory",
    "tracking.dataset files.read_bytes": "DVC's view of a repository",
    "tracking.dataset shutil.copyfile": "refuses pipes; into an empty folder",
    "tracking.evaluator picture.write_bytes": "into a new temporary folder",
    "tracking.plugin (place / 'dvc.lock').read_bytes": "seen to be a file; every import of MLflow runs this",
    "tracking.runs (folder / 'definitions.json').write_bytes": "into a new temporary folder",
    "tracking.runs (folder / 'note.md').write_text": "into a new temporary folder",
    "tracking.runs (folder / name).write_bytes": "into a new temporary folder",
    "tracking.runs FinishedRun.open": "which opens by topoflow.storage.files",
    "tracking.runs shutil.copyfile": "refuses pipes; into a new temporary folder",
    "tracking.store os.open": "a folder, and nothing in it",
    "tracking.unfinished os.open": "never through a link, and waits for no pipe",
    "training.models requirements.write_text": "into a new temporary folder",
    "training.models gguf.open": "into a new temporary folder",
    "training.models archive.open": "out of a wheel that pip has checked",
    "training.models shutil.copyfileobj": "from that wheel into that folder",
    "training.models shutil.copytree": "what was just built, into a new folder",
}


def test_files_are_opened_emptied_and_removed_in_one_place():
    """Elsewhere a pipe would be waited for, and a link followed: what may, says why."""
    home = Path(files.__file__).parents[1]
    found = set()
    for path in sorted(home.rglob("*.py")):
        module = path.relative_to(home).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and module != "storage.files":
                function = ast.unparse(node.func)
                if re.search(f"({OPENS})$", function):
                    found.add(f"{module} {function}")
    assert found <= set(MAY)
