"""Labels of prompts from a file to MLflow and the report, and what keeps the prompts' text out of MLflow."""

from __future__ import annotations

import csv
import html
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
from support import plant_states, refused, small_params, tracking_to

from topoflow.config import parse_params
from topoflow.finished import FinishedRun, told_of_classes
from topoflow.followed import followed
from topoflow.names import CLASS_COLUMNS
from topoflow.recording.callback import TopologyCallback
from topoflow.report.study import report
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study import stages
from topoflow.study.stages.activations import _callback, _seal_activations
from topoflow.training.objectives import labelled_prompts

N = 44
TEXTS = [f"Tell me something of the matter with the number {number}, please." for number in range(N)]
RUNS = [Run("tiny", "helpful", seed) for seed in (0, 1)]
STEPS = [anchor + twin for anchor in range(0, 50, 10) for twin in (0, 1)]


def params_of(folder: Path, **track: Any) -> Any:
    small = small_params()
    return parse_params(
        {
            **small,
            "objectives": ["helpful"],
            "seeds": [0, 1],
            "prompts": {"source": "file", "path": str(folder / "prompts.jsonl"), "n_prompts": N},
            "topology": {**small["topology"], "subsample_size": 20},
            "claims": {**small["claims"], "n_rotations": 39},
            "trajectory": {**small["trajectory"], "n_replicates": 0, "measures": []},
            "track": {**small["track"], **track},
        }
    )


def write_prompts(folder: Path, labels: Any) -> None:
    rows = [
        {"prompt": text} | ({} if label is None else {"label": label})
        for text, label in zip(TEXTS, labels, strict=True)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def plant(params: Any) -> None:
    """What `finetune` leaves of each run, whose prompts of class b move; with answers to two prompts."""
    from topoflow import storage

    labels = layout.read_labels()
    for run in RUNS:
        rng = np.random.default_rng(run.seed)
        odd = np.array([label == "b" for label in labels or ["a"] * N])[:, None]
        cloud, states = rng.normal(size=(N, 3)), {}
        for step in STEPS:
            cloud = cloud + (step % 10 == 0) * np.where(odd, 0.3, 0.1) * rng.normal(size=cloud.shape)
            states[step, 1] = cloud + 0.02 * rng.normal(size=cloud.shape)
        facts = {
            "dtype": "float64", "versions": {}, "hidden_size": 3, "weights_sha256": "00ff",
            "sources": params.sources(run.model, run.objective), "study_seed": params.seed,
            "finetune": params.training(run.objective), "recording": params.recorded(),
            "prompts_sha256": storage.sha256_of_file(layout.PROMPTS_FILE),
        }  # fmt: skip
        plant_states(run, states, **facts, **({} if labels is None else {"labels": labels}))


def logged_study(folder: Path, labels: Any, **track: Any) -> SimpleNamespace:
    """A study of two planted runs, tracked and compared; what MLflow holds, and the terminal said."""
    write_prompts(folder, labels)
    params = params_of(folder, **track)
    stages.prompts(params)
    plant(params)
    with tracking_to(folder):
        run_ids = []
        for run in RUNS:
            stages.diagrams(params, run)
            stages.trajectory(params, run)
            run_ids.append(stages.track(params, run))
        stages.compare(params)
        tables = Path(mlflow.artifacts.download_artifacts(run_id=run_ids[0], artifact_path="topology"))
        logged = mlflow.get_run(run_ids[0]).data
    page = html.unescape(report(params)[0].decode())
    return SimpleNamespace(params=params, logged=logged, tables=tables, page=page, folder=folder)


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One with labels whose prompts' text goes to MLflow, and one without labels whose text does not."""
    found = {}
    for name, labels, track in (
        ("labelled", ["a", "b"] * (N // 2), {}),
        ("plain", [None] * N, {"prompts_text": False}),
    ):
        folder = tmp_path_factory.mktemp(name)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            patch.delenv("MLFLOW_RUN_ID", raising=False)
            found[name] = logged_study(folder, labels, **track)
    return SimpleNamespace(**found)


@pytest.mark.slow
def test_labels_are_seen_wherever_a_run_is(studies):
    one = studies.labelled
    results = one.folder / RUNS[0].folder("results")
    rows = layout.read_rows(results / layout.CLASSES_FILE, CLASS_COLUMNS)
    assert [(int(row["step"]), row["label"]) for row in rows] == [
        (step, name) for name in "ab" for step in STEPS
    ]
    assert {row["prompts"] for row in rows} == {str(N // 2)}
    assert {row["points"] for row in rows} == {"20"}  # of a subsample
    assert rows[0]["h1_velocity"] == ""  # there is no checkpoint before the first
    assert (one.tables / layout.CLASSES_FILE).read_bytes() == (results / layout.CLASSES_FILE).read_bytes()
    facts = layout.read_json(results / layout.TRAJECTORY_FILE)
    moved = {
        name: [row["h0_velocity"] for row in told_of_classes(facts) if row["label"] == name][2::2]
        for name in "ab"
    }
    assert np.sum(moved["b"]) > 1.5 * np.sum(moved["a"])
    last = rows[-1]
    for name in ("h1_velocity", "h0_velocity", "auc"):
        assert one.logged.metrics[f"classes/{name}/b/layer_01"] == pytest.approx(float(last[name]))
    assert one.logged.tags["topoflow.verdict.classes_h0"] == facts["claims"]["classes_h0"]["verdict"]
    note = one.logged.tags["mlflow.note.content"]
    assert "Classes of prompts: a (22), b (22), each compared on 20 points" in note
    assert "some classes of prompts move more than others" in note
    assert (one.tables / "labels.png").stat().st_size > 10_000
    assert "auc" in layout.read_json(one.tables / "definitions.json")
    for said in ("<h3>Classes of prompts</h3>", "<th>classes differ</th>", "a linear probe tells each"):
        assert said in one.page


@pytest.mark.slow
def test_a_study_without_labels_shows_none_of_it(studies):
    one = studies.plain
    results = one.folder / RUNS[0].folder("results")
    assert layout.PROMPTS_FILE.name in {path.name for path in (one.folder / "data").iterdir()}
    line = json.loads((one.folder / layout.PROMPTS_FILE).read_text().splitlines()[0])
    assert isinstance(line, list)  # of messages, as ever
    for folder in (results, one.tables):
        assert not [path.name for path in folder.iterdir() if path.stem == "labels"]
    assert "classes" not in layout.read_json(results / layout.TRAJECTORY_FILE)
    words = layout.read_json(one.tables / "definitions.json")
    assert not {"classes", "auc"} & set(words)
    everything = [*one.logged.metrics, *one.logged.tags.values(), *one.logged.tags, one.page]
    assert not [text for text in everything if "classes of prompts" in text.lower() or "classes/" in text]
    assert "classes differ" not in one.page


def texts_in_store(folder: Path) -> set[str]:
    """The prompts whose text is somewhere in the store of a folder, its database or any of its artifacts."""
    paths = [folder / "mlflow.db", *(path for path in (folder / "mlruns").rglob("*") if path.is_file())]
    assert len(paths) > 20
    data = [path.read_bytes() for path in paths]
    return {text for text in TEXTS if any(text.encode() in of for of in data)}


@pytest.mark.slow
def test_the_store_holds_no_text_of_a_prompt_where_it_is_not_to(studies):
    assert len(texts_in_store(studies.labelled.folder)) > 10  # else nothing is looked at
    assert not texts_in_store(studies.plain.folder)
    table = next((studies.plain.folder / "mlruns").rglob("prompts.json"))
    held = json.loads(table.read_text())
    places = held["columns"].index("prompt"), held["columns"].index("text")
    assert {row[places[1]] for row in held["data"]} == {""}
    assert all(1 <= row[places[0]] <= N for row in held["data"])
    assert any(text in studies.plain.page for text in TEXTS)  # of the report of this machine


@pytest.mark.slow
def test_labels_stay_with_the_set_from_which_all_is_computed_again(studies, monkeypatch):
    one = studies.labelled
    monkeypatch.chdir(one.folder)
    done = FinishedRun.open(RUNS[0])
    again = followed(RUNS[0], done.activations, done.diagrams, one.params)
    assert sorted(again.recorded.labels) == ["a"] * (N // 2) + ["b"] * (N // 2)
    assert again.recorded.labels == tuple(layout.read_labels())


def test_labels_are_drawn_with_their_prompts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels = ["even" if number % 2 == 0 else "odd" for number in range(N)]
    write_prompts(tmp_path, labels)
    params = params_of(tmp_path)
    stages.prompts(params)
    assert "classes of prompts: even (22), odd (22)" in capsys.readouterr().err
    for label, (message,) in zip(layout.read_labels(), layout.read_prompts(), strict=True):
        number = int(message["content"].split("number ")[1].split(",")[0])
        assert label == labels[number]
    stages.prepare(params, "helpful")
    callback = _callback(params, "helpful", layout.read_prompts(), tmp_path)
    (tmp_path / "set").mkdir()
    _seal_activations(tmp_path / "set", {}, callback)  # of no checkpoint
    assert layout.read_json(tmp_path / "set" / "manifest.json")["labels"] == layout.read_labels()


def test_labels_of_a_table_are_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "prompts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "label"], *([text, at % 2] for at, text in enumerate(TEXTS))])
    source = {"source": "file", "path": str(tmp_path / "prompts.csv"), "n_prompts": N}
    _, labels = labelled_prompts(parse_params({**small_params(), "prompts": source}))
    assert sorted(labels) == ["0"] * 22 + ["1"] * 22


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a", None] * (N // 2), "there for each prompt or for none"),
        (["a"] * N, "of two classes or more"),
        (["a"] * (N - 3) + ["b"] * 3, "of two classes or more"),
        ([["a"], "b"] * (N // 2), "words of letters"),
    ],
)
def test_a_column_that_holds_no_classes_is_refused_before_anything_is_trained(
    tmp_path, monkeypatch, labels, expected
):
    monkeypatch.chdir(tmp_path)
    write_prompts(tmp_path, labels)
    with refused(name="prompts: labels", expected=expected, remedy="call the column otherwise"):
        stages.prompts(params_of(tmp_path))
    assert not layout.PROMPTS_FILE.exists()


def test_a_callback_checks_labels_when_it_is_made():
    assert TopologyCallback(TEXTS, labels=["a", "b"] * (N // 2)).labels == ("a", "b") * (N // 2)
    with refused(name="labels", expected="one for each"):
        TopologyCallback(TEXTS, labels=["a", "b"])
