"""Where a run of one objective takes place, and what it asks of DVC; the runs themselves are in integration."""

import random
from pathlib import Path

import mlflow
import pytest
import yaml
from support import call, lay_down_study, refused, small_params

from topoflow.config import Claims, load_params
from topoflow.errors import InvalidFile, NoAnswer
from topoflow.storage.layout import Run
from topoflow.study import preflight, stages
from topoflow.study import run as study

FILE = {"source": "file", "path": "rows.jsonl"}


@pytest.fixture
def asked(tmp_path, monkeypatch, fresh_store):
    """A study in the current folder, and what is asked of DVC: (folder, arguments) each."""
    asked = []
    params = small_params()
    params["model"]["mine"] = {"source": "folder", "path": "weights"}
    params["objective"]["rows"] = FILE
    params["objective"]["unlearned"] = {"source": "shuffled", "of": "blend"}
    params["objective"]["blend"] = {"source": "mix", "of": {"helpful": 0.5, "rows": 0.5}}
    lay_down_study(tmp_path, params)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", fresh_store)
    monkeypatch.setattr(stages, "track", lambda *_: None)
    monkeypatch.setattr(study, "_reproduce", lambda _, *arguments: asked.append((Path.cwd(), arguments)))
    monkeypatch.setattr(study, "_out_of_date", lambda _: [])
    monkeypatch.setattr(
        study, "_share_cache", lambda _: None
    )  # three commands of DVC's, in a test of their own
    monkeypatch.setattr(stages, "writes_something_else", lambda *_: True)
    monkeypatch.setattr(
        preflight, "check", lambda *_: None
    )  # of files that are not there; in tests of its own
    return asked


def test_a_folder_aside_is_a_dvc_repository_with_the_cache_of_the_study(tmp_path, monkeypatch):
    lay_down_study(tmp_path, small_params())
    monkeypatch.chdir(tmp_path)
    aside = tmp_path / "aside"
    aside.mkdir()
    study._share_cache(aside)
    told = call(aside, "dvc", "config", "--list").stdout.lower()
    for line in (
        "core.no_scm=true",
        "core.analytics=false",
        "core.check_update=false",
        "cache.type=hardlink,copy",
    ):
        assert line in told
    assert Path(call(aside, "dvc", "cache", "dir").stdout.strip()).resolve() == tmp_path / ".dvc/cache"


def change_params(**sections):
    path = Path("params.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **sections}, sort_keys=False))


def stages_of(run):
    """What DVC is asked for when all inputs are there."""
    return tuple(f"{stage}@{run}" for stage in ("finetune", "diagrams", "trajectory"))


def test_bundled_text_and_embedded_models_are_left_to_dvc(asked):
    study.run("tiny", "mixed")
    assert [arguments for _, arguments in asked] == [stages_of("tiny-mixed-0")]


def test_a_listed_run_that_is_put_aside_has_a_folder_of_its_own_and_the_same_one_again(asked):
    for _ in range(2):
        study.run("tiny", "mixed", aside=True)
    (folder,) = {folder for folder, _ in asked}
    assert folder.parent == Path.cwd() / ".topoflow" / "studies"
    assert asked[-1][1] == stages_of("tiny-mixed-0")


def test_the_inputs_of_several_runs_are_made_once_and_in_order(asked, monkeypatch):
    said = iter([["model@tiny", "prepare@mixed"], []])
    monkeypatch.setattr(study, "_out_of_date", lambda stages: next(said) if len(stages) == 4 else [])
    params = load_params()
    study.make_inputs(params, [Run("tiny", name, seed) for name in ("helpful", "mixed") for seed in (0, 1)])
    assert [arguments for _, arguments in asked] == [("model@tiny", "prepare@mixed")]


def test_a_run_is_not_done_while_one_of_its_stages_is_not(monkeypatch):
    monkeypatch.setattr(study, "_out_of_date", lambda _: ["trajectory@tiny-mixed-1"])
    asked_for = [Run("tiny", "mixed", seed) for seed in (0, 1, 11)]
    assert study.undone(asked_for) == [Run("tiny", "mixed", 1)]


def test_a_run_without_twins_is_warned_of_in_one_line_and_one_with_twins_is_not(asked, caplog):
    study.run("tiny", "mixed")
    (said,) = [record.getMessage() for record in caplog.records if "never" in record.getMessage()]
    assert "moves, early, calm: needs 5 twin checkpoints" in said
    assert "\n" not in said
    caplog.clear()
    study.run("tiny", "mixed", ["finetune.max_steps=48", "recording.schedule={twins: 13}"])
    assert not [record for record in caplog.records if "never" in record.getMessage()]


def test_a_section_that_dvc_would_miss_after_the_training_is_asked_for_before_it_with_the_line_to_add(asked):
    path = Path("params.yaml")
    sections = yaml.safe_load(path.read_text())
    del sections["claims"]
    path.write_text(yaml.safe_dump(sections, sort_keys=False))
    with pytest.raises(InvalidFile) as caught:
        study.run("tiny", "mixed")
    assert asked == []
    line = caught.value.remedy.partition("your own: ")[2]
    path.write_text(f"{path.read_text()}{line}\n")
    assert load_params().claims == Claims()  # as it was without
    study.run("tiny", "mixed")
    assert [arguments for _, arguments in asked] == [stages_of("tiny-mixed-0")]


def test_inputs_from_a_local_file_that_has_not_changed_are_left_as_they_are(asked, monkeypatch):
    monkeypatch.setattr(stages, "writes_something_else", lambda *_: False)
    study.run("mine", "blend")
    assert [arguments for _, arguments in asked] == [stages_of("mine-blend-0")]


def test_inputs_that_dvc_says_are_out_of_date_are_made_first(asked, monkeypatch):
    said = iter([["model@tiny", "prompts"], ["prepare@helpful"], []])
    monkeypatch.setattr(study, "_out_of_date", lambda _: next(said))
    study.run("tiny", "helpful")
    assert [arguments for _, arguments in asked] == [
        ("model@tiny", "prompts"),
        ("prepare@helpful",),
        stages_of("tiny-helpful-0"),
    ]


@pytest.mark.parametrize(
    ("model", "objective", "inputs"),
    [
        ("tiny", "rows", ["prepare@rows"]),
        ("tiny", "unlearned", ["prepare@unlearned"]),
        ("mine", "helpful", ["model@mine"]),
        ("mine", "blend", ["model@mine", "prepare@blend"]),
    ],
)
@pytest.mark.parametrize("listed", [True, False])
def test_stages_that_read_a_local_file_are_run_when_it_has_changed(asked, model, objective, inputs, listed):
    if listed:
        change_params(models=[model], objectives=[objective])
    study.run(model, objective)
    assert [arguments for _, arguments in asked] == [
        *(("--force", stage) for stage in inputs),
        stages_of(f"{model}-{objective}-0"),
    ]
    assert {folder == Path.cwd() for folder, _ in asked} == {listed}


def test_a_server_that_is_down_stops_a_run_at_once_in_one_line_without_its_password(asked, monkeypatch):
    mlflow.set_tracking_uri("http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with refused(NoAnswer, service="MLflow at http://127.0.0.1:9", reason="refused") as caught:
        study.run("tiny", "helpful")
    assert "secret" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert asked == []


@pytest.mark.parametrize("source", [FILE, {"source": "mix", "of": {"helpful": 1, "rows": 1}}])
def test_so_are_the_prompts_if_they_come_from_one(asked, source):
    change_params(prompts={**source, "n_prompts": 24})
    study.run("tiny", "helpful")
    assert asked[0][1] == ("--force", "prompts")


def test_layers_may_be_chosen_that_models_of_the_study_lack_if_the_run_s_model_has_them(asked):
    layers = ["recording.layers=[9]"]
    study.run("mine", "helpful", layers)
    with refused(name="recording.layers", expected="at most 2, the layers of model 'tiny'"):
        study.run("tiny", "helpful", layers)


def test_a_name_that_mlflow_made_up_is_told_from_one_that_a_user_gave():
    from mlflow.utils.name_utils import _generate_random_name

    from topoflow.tracking.live import _is_random

    state = random.getstate()
    random.seed(0)
    try:
        assert all(_is_random(_generate_random_name()) for _ in range(200))
    finally:
        random.setstate(state)
    for name in (
        "my-test-3",
        "treasured-wolf",
        "treasured-wolf-x",
        "wolf-treasured-5",
        "treasured-wolf-5-b",
        "",
    ):
        assert not _is_random(name)
