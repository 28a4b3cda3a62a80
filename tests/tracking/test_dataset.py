"""Activation sets as datasets of MLflow runs: logged into a real store, read back, and resolved to the bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import numpy as np
import pytest
from support import call, commit_all, contents, refused

from topoflow import storage
from topoflow.errors import InvalidArgument, InvalidFile
from topoflow.tracking.dataset import ActivationsSource, from_activations, md5_in_lock

PLACE = "activations/tiny/helpful/seed_0"


def write_set(folder: Path, seed: int = 0) -> None:
    """An activation set of 3 checkpoints and 2 layers."""
    rng = np.random.default_rng(seed)
    names = []
    for step in (0, 2, 4):
        for layer in (1, 5):
            name = f"{storage.cell_name(step, layer)}.npy"
            storage.write_file(folder / name, storage.array_bytes(rng.normal(size=(6, 8)).astype(np.float32)))
            names.append(name)
    manifest = {"format": storage.ACTIVATIONS, "model": "tiny", "objective": "helpful", "seed": seed,
                "steps": [0, 2, 4], "layers": [1, 5], "n_prompts": 6, "hidden_size": 8, "dtype": "float32"}  # fmt: skip
    storage.seal(folder, manifest, names)


@pytest.fixture
def registered():
    """The source as MLflow registers it by its entry point."""
    from mlflow.data.dataset_source_registry import _dataset_source_registry

    before = list(_dataset_source_registry.sources)
    _dataset_source_registry.sources[:] = [
        source for source in before if source.__name__ != ActivationsSource.__name__
    ]
    _dataset_source_registry.register(ActivationsSource)
    yield
    _dataset_source_registry.sources[:] = before


@pytest.fixture(scope="module")
def pushed(tmp_path_factory, warm):
    """A folder with a study, whose pipeline has made a set, and the remote that it was pushed to."""
    home = tmp_path_factory.mktemp("pushed")
    folder = home / "study"
    folder.mkdir()
    call(folder, "git", "init", "--quiet", "--initial-branch", "main")
    dvc = partial(call, folder, "dvc", programs=warm)
    dvc("init", "--quiet")
    dvc("remote", "add", "--default", "--quiet", "storage", str(home / "remote"))
    write_set(home / "made")
    make = f"{sys.executable} -c \"import shutil; shutil.copytree('{home}/made', '{PLACE}')\""
    pipeline = {"stages": {"finetune": {"cmd": make, "outs": [PLACE]}}}
    (folder / "dvc.yaml").write_text(json.dumps(pipeline))
    (folder / "activations").mkdir()
    dvc("repro", "--quiet")
    dvc("push", "--quiet")
    return home


@pytest.fixture
def repository(pushed, tmp_path):
    """That study in the test's folder, committed, with a remote of its own there."""
    shutil.copytree(pushed, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "study/.dvc/config"
    config.write_text(config.read_text().replace(str(pushed), str(tmp_path)))
    commit_all(tmp_path / "study")
    return tmp_path / "study"


def logged(dataset) -> mlflow.entities.Dataset:
    """The dataset as a real store gives it back."""
    with mlflow.start_run() as run:
        mlflow.log_input(dataset, context="topology")
    (used,) = mlflow.get_run(run.info.run_id).inputs.dataset_inputs
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "topology"}
    return used.dataset


def test_a_folder_is_logged_with_its_profile_and_found_again(tmp_path, fresh_store, registered):
    write_set(tmp_path / "set")
    found = logged(from_activations(tmp_path / "set"))
    digest = storage.sha256_of_file(tmp_path / "set" / "manifest.json")
    assert (found.name, found.digest) == ("activations tiny-helpful-0", digest[:32])
    assert found.source_type == "topoflow_activations"
    assert json.loads(found.source)["uri"] == (tmp_path / "set").as_posix()
    assert json.loads(found.profile) == {
        "n_prompts": 6, "hidden_size": 8, "layers": [1, 5], "steps": [0, 2, 4], "dtype": "float32", "seed": 0,
        "n_files": 6, "manifest_sha256": digest, "source": (tmp_path / "set").as_posix(),
    }  # fmt: skip
    columns = json.loads(found.schema)["mlflow_colspec"]
    assert [column["name"] for column in columns] == ["layer_01", "layer_05"]
    stored = mlflow.data.get_source(found).load()
    assert stored.folder == tmp_path / "set"
    assert stored.point_cloud(4, 5).shape == (6, 8)


def test_a_name_and_a_digest_may_be_given(tmp_path, fresh_store):
    write_set(tmp_path / "set")
    found = logged(from_activations(str(tmp_path / "set"), name="mine", digest="abc"))
    assert (found.name, found.digest) == ("mine", "abc")


def test_another_set_in_the_folder_is_not_taken_for_the_logged_one(tmp_path):
    write_set(tmp_path / "set")
    source = from_activations(tmp_path / "set").source
    shutil.rmtree(tmp_path / "set")
    with refused(InvalidFile, path=tmp_path / "set", problem="must be a whole set"):
        source.load()
    write_set(tmp_path / "set", seed=1)
    with refused(InvalidFile, path=source.uri, problem="must hold the activation set "):
        source.load()


def test_a_flipped_byte_is_noticed(tmp_path):
    write_set(tmp_path / "set")
    source = from_activations(tmp_path / "set").source
    cell = tmp_path / "set" / "step_000002" / "layer_05.npy"
    cell.write_bytes(cell.read_bytes()[:-1] + b"\x00")
    with refused(InvalidFile, path=cell, problem="does not match its manifest"):
        source.load()
    with refused(InvalidFile, path=cell, problem="does not match its manifest"):
        from_activations(tmp_path / "set")


def test_mlflow_can_tell_an_activation_set_from_other_sources(tmp_path, registered):
    write_set(tmp_path / "set")
    source = mlflow.data.dataset_source_registry.resolve_dataset_source(str(tmp_path / "set"))
    assert isinstance(source, ActivationsSource)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("[]")
    for raw in (tmp_path / "other", str(tmp_path), "https://example.org/x.csv", 3, None, "\0"):
        assert not ActivationsSource._can_resolve(raw)


@pytest.mark.slow
def test_a_set_that_is_gone_comes_back_from_dvcs_cache_and_from_its_remote(
    tmp_path, repository, fresh_store, registered
):
    found = logged(from_activations(repository / PLACE))
    lock = (repository / "dvc.lock").read_text()
    md5 = json.loads(found.profile)["dvc_md5"]
    assert md5.endswith(".dir")
    assert md5 in lock
    wanted = contents(tmp_path / "made")
    shutil.rmtree(repository / PLACE)
    write_set(repository / PLACE, seed=1)  # a later training has put another set there
    (repository / "dvc.lock").unlink()
    source = mlflow.data.get_source(found)
    assert contents(source.load(tmp_path / "from cache").folder) == wanted
    shutil.rmtree(repository / ".dvc" / "cache")
    brought = source.load(tmp_path / "from remote")
    assert contents(brought.folder) == wanted
    assert brought.point_cloud(4, 5).shape == (6, 8)
    shutil.rmtree(repository / ".dvc" / "cache")
    shutil.rmtree(tmp_path / "remote")
    with refused(InvalidFile, problem="DVC cannot bring back the one logged"):
        source.load()


@pytest.mark.slow
def test_a_dvc_url_names_a_set_at_a_revision_and_its_bytes_come_from_the_remote(
    tmp_path, repository, fresh_store, registered
):
    shutil.rmtree(repository / PLACE)
    shutil.rmtree(repository / ".dvc" / "cache")
    url = f"dvc+file://{repository}?rev=main#{PLACE}"
    found = logged(from_activations(url))
    assert json.loads(found.source)["uri"] == url
    assert json.loads(found.profile)["steps"] == [0, 2, 4]
    stored = mlflow.data.get_source(found).load(tmp_path / "here")
    assert contents(stored.folder) == contents(tmp_path / "made")
    with refused(name="dst_path", expected="an empty folder"):
        mlflow.data.get_source(found).load(tmp_path / "here")


class GitHandler(SimpleHTTPRequestHandler):
    """Serves the files of a folder, and the git repositories under /git/ as a git server does."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self.path.startswith("/git/"):
            return super().do_GET()
        path, _, query = self.path.removeprefix("/git").partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = {"GIT_PROJECT_ROOT": self.directory, "GIT_HTTP_EXPORT_ALL": "1", "REQUEST_METHOD": self.command,
                 "PATH_INFO": path, "QUERY_STRING": query, "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                 "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "CONTENT_LENGTH": str(len(body)),
                 "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", "")}  # fmt: skip
        done = subprocess.run(
            ["git", "http-backend"], input=body, env={**os.environ, **asked}, capture_output=True
        )
        header, _, answer = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in header.decode().splitlines())
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for key, value in {**fields, "Content-Length": str(len(answer))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_GET  # noqa: N815 (the name that http.server calls)


@pytest.fixture
def web(tmp_path):
    """The address of a server of this test's folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(GitHandler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_git_and_dvc_may_both_be_reached_over_http_only(tmp_path, repository, fresh_store, registered, web):
    call(repository, "dvc", "remote", "modify", "--quiet", "storage", "url", f"{web}/remote")
    commit_all(repository)
    call(repository, "git", "tag", "v1")
    call(tmp_path, "git", "clone", "--quiet", "--bare", str(repository), "published.git")
    shutil.rmtree(repository)
    url = f"dvc+{web}/git/published.git?rev=v1#{PLACE}"
    found = logged(from_activations(url))
    stored = mlflow.data.get_source(found).load(tmp_path / "here")
    assert contents(stored.folder) == contents(tmp_path / "made")
    shutil.rmtree(tmp_path / "remote")
    with refused(InvalidFile, path=url, problem="must name an activation set that DVC has or can fetch"):
        from_activations(url)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "error", "attributes"),
    [
        ("dvc+{}", InvalidArgument, {"name": "source"}),
        ("dvc+{}?branch=main#x", InvalidArgument, {"name": "source"}),
        (
            "dvc+{}?rev=nothing#activations",
            InvalidFile,
            {"problem": "must name a DVC repository and a revision"},
        ),
        ("dvc+{}/nowhere#activations", InvalidFile, {"problem": "must name a DVC repository and a revision"}),
        ("dvc+{}?rev=main#nothing", InvalidFile, {"problem": "must name an activation set"}),
    ],
)
def test_a_url_that_names_no_set_is_refused(repository, url, error, attributes):
    with refused(error, **attributes):
        from_activations(url.format(repository))


@pytest.mark.parametrize(
    "lock",
    [
        b"<<<<<<< HEAD\nstages: {}\n=======\nstages: {}\n>>>>>>> theirs\n",
        b"\x00\xff\xfe",
        b"[]",
        b"stages: 3",
        b"stages: {a: {outs: [{md5: 1}]}}",
        b"stages: {a: 3}",
    ],
)
def test_a_lock_that_is_half_merged_or_damaged_is_named(tmp_path, lock):
    (tmp_path / "dvc.lock").write_bytes(lock)
    with refused(InvalidFile, path=tmp_path / "dvc.lock") as caught:
        md5_in_lock(tmp_path / "activations")
    assert len(str(caught.value)) < 600
