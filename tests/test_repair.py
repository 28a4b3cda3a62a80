"""`topoflow repair` on small outs of DVC's: what is whole is left, and what does not come back is put back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from support import call, refused

from topoflow import storage
from topoflow.errors import InvalidFile
from topoflow.study import repair as module
from topoflow.study.repair import repair

MAKE = "mkdir -p sets/one/inner && cat source > sets/one/a && cat source source > sets/one/inner/b"


def dvc(*arguments: str) -> None:
    call(Path.cwd(), "dvc", *arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "source").write_text("made from this")
    stage = {"cmd": MAKE, "deps": ["source"], "outs": ["sets/one"]}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        dvc("init", "--no-scm", "--quiet")
        dvc("config", "cache.type", "hardlink,copy")
        dvc("repro", "--quiet")
    return folder


@pytest.fixture
def study(made, tmp_path, monkeypatch):
    """A folder with one out, of two files, of a stage."""
    folder = tmp_path / "study"
    subprocess.run(["cp", "-a", made, folder], check=True)  # keeps hard links into DVC's cache
    monkeypatch.chdir(folder)
    return folder


def state() -> dict[str, bytes]:
    """Every file of the out and of DVC's cache."""
    places = (Path("sets"), Path(".dvc/cache"))
    return {str(p): p.read_bytes() for place in places for p in place.rglob("*") if p.is_file()}


def damage(path: str) -> None:
    """Flip a bit in place: where DVC has linked the file, its cache has the damage as well."""
    Path(path).chmod(0o644)
    with open(path, "r+b") as file:
        file.write(b"M")
    Path(path).chmod(0o444)


def test_what_is_whole_is_left_as_it_is_even_if_it_cannot_be_made_again(study):
    Path("source").unlink()
    Path("dvc.yaml").unlink()
    before, inode = state(), os.stat("sets/one/a").st_ino
    (line,) = repair(Path("sets/one"))
    assert "nothing was done" in line
    assert (state(), os.stat("sets/one/a").st_ino) == (before, inode)


def test_damage_that_cannot_be_made_good_is_put_back_as_it_was(study):
    damage("sets/one/a")  # and so in the cache
    Path("source").unlink()
    before = state()
    with refused(InvalidFile, path=study / "sets/one"):
        repair(Path("sets/one"))
    assert state() == before


def test_a_repair_that_is_stopped_puts_everything_back(study, monkeypatch):
    def stop(*_):
        assert not Path("sets/one").exists()
        raise KeyboardInterrupt

    damage("sets/one/a")
    before = state()
    monkeypatch.setattr(module, "_dvc", stop)
    with pytest.raises(KeyboardInterrupt):
        repair(Path("sets/one"))
    assert state() == before


def test_what_a_killed_repair_has_set_aside_is_taken_up(study):
    os.replace("sets/one", "sets/one.damaged")
    assert "nothing was done" in repair(Path("sets/one"))[0]
    assert os.listdir("sets") == ["one"]


def test_damage_is_made_good_and_nothing_is_left_of_it(study):
    before = state()
    damage("sets/one/a")
    assert state() != before
    assert repair(Path("sets/one"))[0] == "1 damaged file removed from DVC's cache."
    assert state() == before


def test_what_is_computed_again_with_other_bytes_says_that_a_gpu_gives_such(study, monkeypatch):
    path = Path("dvc.yaml")
    path.write_text(path.read_text().replace("cat source > sets/one/a", "cat source $NOTE > sets/one/a"))
    monkeypatch.setenv("NOTE", "")
    dvc("repro", "--quiet")
    damage("sets/one/a")
    for held in Path(".dvc/cache/files").rglob("*"):
        if held.is_file() and held.suffix != ".dir":
            damage(str(held))
    Path("note").write_text("rounds otherwise")
    monkeypatch.setenv("NOTE", "note")
    said = repair(Path("sets/one"))[-1]
    assert "is not the same to the byte as before" in said
    assert "On a GPU" in said


def test_damage_in_the_cache_alone_is_made_good_from_what_is_whole(study):
    before = state()
    for path in ("sets/one/a", "sets/one/inner/b"):
        data = Path(path).read_bytes()
        Path(path).unlink()  # no longer linked to the cache
        Path(path).write_bytes(data)
    held = next(
        path for path in Path(".dvc/cache/files").rglob("*") if path.is_file() and path.suffix != ".dir"
    )
    damage(str(held))
    repair(Path("sets/one"))
    assert state() == before


def test_a_set_that_is_whole_by_its_manifest_is_not_replaced_by_the_one_in_dvc_lock(study):
    with storage.writing("sets/one", "0" * 64) as work:
        storage.write_file(work / "a", b"recorded by hand")
        storage.seal(work, {"format": storage.ACTIVATIONS, "steps": [0], "layers": [0]}, ["a"])
    before = state()
    (line,) = repair(Path("sets/one"))
    assert "Nothing was done" in line
    assert state() == before


def test_what_is_no_out_is_refused(study):
    with refused(name="folder"):
        repair(Path("source"))


def test_an_out_that_is_a_link_is_refused(study, tmp_path):
    os.replace("sets/one", tmp_path / "elsewhere")
    Path("sets/one").symlink_to(tmp_path / "elsewhere")
    with refused(InvalidFile, path=Path("sets/one")):
        repair(Path("sets/one"))
    assert (tmp_path / "elsewhere/a").exists()
