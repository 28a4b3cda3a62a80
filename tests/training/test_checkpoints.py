"""Finished trainings are recorded as they would have been while they ran, whole, or are refused early."""

from __future__ import annotations

import gc
import json
import shutil
import threading
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from small_trainers import trainer
from support import contents, llama, refused, small_params, tracking_to

from topoflow import storage
from topoflow.config import CheckpointFolder, HubCheckpoints, Params, load_params, parse_params
from topoflow.config.schedule import Schedule
from topoflow.errors import InvalidFile
from topoflow.recording.callback import TopologyCallback
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study import stages
from topoflow.training import checkpoints, models
from topoflow.training.checkpoints import list_checkpoints, model_of, resolve_commits

KINDS = ("adapters", "models")


def train(params: Params, folder: Path, kind: str, width: int = 2) -> TopologyCallback:
    """A user's own training with transformers' Trainer, that saves at steps 2 and 4; what was recorded beside it."""
    from peft import LoraConfig, get_peft_model
    from transformers import set_seed

    description = layout.read_json(layout.model_file("tiny"))
    set_seed(0)
    network, tokenizer = models.load(description, params.model_source("tiny"))
    if kind == "adapters":
        network = get_peft_model(
            network, LoraConfig(r=width, target_modules="all-linear", task_type="CAUSAL_LM")
        )
    callback = TopologyCallback(
        layout.read_json_lines(layout.PROMPTS_FILE),
        2,
        Schedule(every=2),
        folder=folder / "seen",
        behaviour=True,
        seed=params.seed,
    )
    saving = {"logging_steps": 1, "save_strategy": "steps", "save_steps": 2}
    trainer(network, folder, callback, given={"processing_class": tokenizer}, **saving).train()
    return callback


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, model_cache: Path) -> Any:
    """A study whose objectives are two trainings that were made here, in `adapters` and `models`."""
    folder = tmp_path_factory.mktemp("checkpoints")
    params = small_params()
    params["objectives"] = list(KINDS)
    for kind in KINDS:
        params["objective"][kind] = {"source": "checkpoints", "path": kind}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, tracking_to(folder):
        patch.chdir(folder)
        patch.setenv("TOPOFLOW_CACHE", str(model_cache))
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        loaded = load_params()
        stages.model(loaded, "tiny")
        stages.prompts(loaded)
        for kind in KINDS:
            train(loaded, folder / kind, kind)
        yield folder


@pytest.fixture
def study(home: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(home)
    return load_params()


@pytest.fixture(scope="module")
def recorded(home: Path) -> Path:
    """That study, with the states of both trainings as they were recorded from the checkpoints."""
    params = load_params()
    for kind in KINDS:
        stages.prepare(params, kind)
        stages.finetune(params, Run("tiny", kind, 0))
    return home


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoints_give_the_bytes_that_the_training_gave_when_it_was_watched(recorded, kind):
    run = Run("tiny", kind, 0)
    stored = storage.open_set(run.folder("activations"), storage.ACTIVATIONS)
    assert stored.steps == (0, 2, 4)
    assert stored.manifest["learning_rates"] == [0.01, 0.0075, 0.005, 0.0025]  # all in its log
    seen, found = contents(recorded / kind / "seen"), contents(run.folder("activations"))
    assert {name for name in found if name.endswith(".npy")} == {n for n in seen if n.endswith(".npy")}
    assert all(seen[name] == found[name] for name in found if name.endswith(".npy"))
    assert stored.divergences(4).min() > 0
    assert stored.manifest["finetune"] is None
    named = [(line["step"], line["name"], line["kind"]) for line in stored.manifest["checkpoints"]]
    assert named == [(0, "tiny", "base"), *((step, f"checkpoint-{step}", kind[:-1]) for step in (2, 4))]
    assert str(recorded) not in json.dumps(stored.manifest)
    losses = layout.read_table(run.folder("results") / layout.LOSS_FILE)
    assert [row["step"] for row in losses] == [1, 2, 3, 4]
    assert all(row["loss"] > 0 for row in losses)


def test_diagrams_trajectory_and_tracking_follow_as_for_a_training_of_ones_own(recorded, study):
    run = Run("tiny", "models", 0)
    stages.diagrams(study, run)
    stages.trajectory(study, run)
    run_id = stages.track(study, run)
    logged = mlflow.get_run(run_id)
    history = mlflow.MlflowClient().get_metric_history(run_id, "topology/h1_velocity/layer_02")
    assert [metric.step for metric in history] == [2, 4]
    assert [m.step for m in mlflow.MlflowClient().get_metric_history(run_id, "loss")] == [1, 2, 3, 4]
    assert logged.info.status == "FINISHED"
    assert logged.data.params["text.path"] == "models"
    assert not any(key.startswith(("finetune.", "prepare.")) for key in logged.data.params)
    source = replace(study.objective["models"], steps=(4,))
    with refused(InvalidFile, path="params.yaml", problem="says sources = "):
        stages.track(replace(study, objective={**study.objective, "models": source}), run)


@pytest.mark.parametrize(("kind", "opened"), [("adapters", 1), ("models", 2)])
def test_an_interrupted_recording_goes_on_and_ends_with_the_same_bytes(
    recorded, study, monkeypatch, kind, opened
):
    run = Run("tiny", kind, 0)
    whole = contents(run.folder("activations"))
    shutil.rmtree(run.folder("activations"))
    record, seen = TopologyCallback._record, []

    def interrupted(self, step, model):
        if len(seen) == opened:
            raise KeyboardInterrupt
        seen.append(step)
        record(self, step, model)

    monkeypatch.setattr(TopologyCallback, "_record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stages.finetune(study, run)
    assert not run.folder("activations").exists()
    opened_at_first, opened = seen[:], 9
    seen.clear()
    stages.finetune(study, run)
    assert seen == [opened_at_first[-1], *(step for step in (0, 2, 4) if step > opened_at_first[-1])]
    assert contents(run.folder("activations")) == whole


def test_one_model_is_in_memory_at_a_time(study, monkeypatch):
    stages.prepare(study, "models")
    opened = []
    whole = models.open_model

    def watched(*arguments):
        gc.collect()
        assert [one for one in opened if one() is not None] == []
        network = whole(*arguments)
        opened.append(weakref.ref(network))
        return network

    monkeypatch.setattr(models, "open_model", watched)
    stages.finetune(study, Run("tiny", "models", 0))
    assert len(opened) == 3


def test_the_next_checkpoint_is_checked_while_one_is_recorded_and_errors_come_in_their_order(
    study, copied, monkeypatch
):
    params = replace(
        study,
        objectives=("theirs",),
        objective={"theirs": CheckpointFolder(path=str(copied / "models"))},
    )
    stages.prepare(params, "theirs")
    weights = copied / "models" / "checkpoint-4" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    hashed, seen, whole, record = threading.Event(), [], models.identity, TopologyCallback._record

    def identity(folder):
        found = whole(folder)
        if folder.name == "checkpoint-4":
            hashed.set()
        return found

    def recorded(self, step, model):
        if step == 2:
            assert hashed.wait(60)  # in vain, if it came after
        record(self, step, model)
        seen.append(step)

    monkeypatch.setattr(models, "identity", identity)
    monkeypatch.setattr(TopologyCallback, "_record", recorded)
    with refused(InvalidFile, path=copied / "models" / "checkpoint-4", problem="that was written down"):
        stages.finetune(params, Run("tiny", "theirs", 0))
    assert seen == [0, 2]


def test_a_path_names_a_folder_for_each_model_and_seed(study, home, tmp_path):
    for seed in (0, 1):
        shutil.copytree(home / "adapters", tmp_path / f"tiny-{seed}")
    source = replace(study.objective["adapters"], path=f"{tmp_path}/{{model}}-{{seed}}")
    params = replace(study, seeds=(0, 1), objectives=("adapters",), objective={"adapters": source})
    stages.prepare(params, "adapters")
    lines = layout.read_json_lines(layout.rows_file("adapters"))
    assert [(line["seed"], line["step"]) for line in lines] == [(s, t) for s in (0, 1) for t in (0, 2, 4)]
    problem = "has no checkpoints of model 'tiny', seed 7"
    with refused(InvalidFile, path=layout.rows_file("adapters"), problem=problem, remedy="prepare@adapters"):
        stages.finetune(params, Run("tiny", "adapters", 7))


@pytest.fixture
def copied(home, tmp_path):
    """Copies of both trainings, to be spoilt."""
    for kind in KINDS:
        shutil.copytree(home / kind, tmp_path / kind)
    return tmp_path


def listed(folder: Path, **changes: Any) -> list[dict[str, Any]]:
    mapping = small_params()
    mapping["objective"]["theirs"] = {"source": "checkpoints", "path": str(folder), **changes}
    return list_checkpoints(parse_params(mapping).checkpoints("theirs"), Run("tiny", "theirs", 0))


def test_steps_are_in_their_order_as_numbers_and_can_be_chosen(copied):
    (copied / "models" / "checkpoint-4").rename(copied / "models" / "checkpoint-10")
    assert [line["step"] for line in listed(copied / "models")] == [0, 2, 10]
    assert [line["step"] for line in listed(copied / "models", model_is_step_0=False)] == [2, 10]
    assert [line["step"] for line in listed(copied / "models", steps=[10])] == [0, 10]
    shutil.copytree(copied / "models" / "checkpoint-2", copied / "models" / "checkpoint-0")
    assert listed(copied / "models")[0]["name"] == "checkpoint-0"


def test_folders_that_hold_no_series_are_refused(copied, tmp_path):
    (tmp_path / "empty").mkdir()
    with refused(InvalidFile, path=tmp_path / "empty", problem="it has none"):
        listed(tmp_path / "empty")
    with refused(InvalidFile, path=tmp_path / "nowhere", problem="it is none"):
        listed(tmp_path / "nowhere")
    with refused(name="steps", expected="has (2, 4)", got=[3, 8]):
        listed(copied / "models", steps=[2, 3, 8])
    with refused(name="checkpoints", expected="at least 2", got=["checkpoint-4"]):
        listed(copied / "models", steps=[4], model_is_step_0=False)


def test_a_folder_that_holds_neither_a_model_nor_an_adapter_is_named(copied):
    shutil.rmtree(copied / "models" / "checkpoint-4")
    (copied / "models" / "checkpoint-4").mkdir()
    with refused(InvalidFile, path=copied / "models" / "checkpoint-4"):
        listed(copied / "models")


def test_checkpoints_that_do_not_belong_together_are_refused(copied, study):
    config = copied / "models" / "checkpoint-4" / "config.json"
    deeper = json.loads(config.read_text())
    config.write_text(json.dumps({**deeper, "num_hidden_layers": 3}))
    with refused(name="checkpoints", got="n_layers 2 of checkpoint-2 and 3 of checkpoint-4"):
        listed(copied / "models")
    shutil.rmtree(copied / "models" / "checkpoint-4")
    shutil.copytree(copied / "adapters" / "checkpoint-4", copied / "models" / "checkpoint-4")
    with refused(name="checkpoints", got="kind model of checkpoint-2 and adapter of checkpoint-4"):
        listed(copied / "models")
    line = {**listed(copied / "adapters")[1], "n_layers": 7, "name": "checkpoint-2"}
    described = layout.read_json(layout.model_file("tiny"))
    with refused(name="checkpoints", expected="model 'tiny' (n_layers 2)", got="7 of checkpoint-2"):
        checkpoints.Series(
            Run("tiny", "x", 0), [line], study.objective["models"], described, study.model["tiny"]
        )


def test_a_checkpoint_changed_after_it_was_written_down_is_refused(study, copied, monkeypatch):
    source = replace(study.objective["models"], path=str(copied / "models"))
    params = replace(study, objective={**study.objective, "models": source})
    stages.prepare(params, "models")
    shutil.copy(
        copied / "models/checkpoint-2/model.safetensors", copied / "models/checkpoint-4/model.safetensors"
    )
    with refused(InvalidFile, path=copied / "models" / "checkpoint-4", remedy="prepare@models"):
        stages.finetune(params, Run("tiny", "models", 0))


def test_prompts_that_a_checkpoint_has_no_tokens_for_are_refused(study, tokenizer, tmp_path):
    for step in (1, 2):
        folder = tmp_path / "small" / f"checkpoint-{step}"
        llama(
            200, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
        ).save_pretrained(folder)
    source = replace(study.objective["models"], path=str(tmp_path / "small"), model_is_step_0=False)
    params = replace(study, objective={**study.objective, "models": source})
    stages.prepare(params, "models")
    with refused(name="checkpoint-1", got="one that knows 200", remedy="resize the base"):
        stages.finetune(params, Run("tiny", "models", 0))


def test_an_adapter_of_another_model_is_refused(study, tmp_path, monkeypatch):
    from peft import LoraConfig, get_peft_model

    for step in (1, 2):
        network = get_peft_model(llama(300), LoraConfig(r=2, target_modules="all-linear"))
        network.save_pretrained(tmp_path / "other" / f"checkpoint-{step}")
    source = replace(study.objective["adapters"], path=str(tmp_path / "other"))
    params = replace(study, objective={**study.objective, "adapters": source})
    stages.prepare(params, "adapters")
    with refused(InvalidFile, path=tmp_path / "other" / "checkpoint-1"):
        stages.finetune(params, Run("tiny", "adapters", 0))


def test_the_model_of_adapters_is_their_base_and_of_models_the_first(home, study, copied):
    assert model_of(study.objective["models"], 0) == (
        {"source": "folder", "path": "models/checkpoint-2"},
        False,
    )
    entry, apart = model_of(study.objective["adapters"], 0)
    assert apart
    assert (Path(entry["path"]) / "model.safetensors").is_file()
    config = copied / "adapters" / "checkpoint-2" / "adapter_config.json"
    of_the_hub = {"source": "hub", "id": "owner/base", "revision": "main"}
    for base, found in (("owner/base", of_the_hub), ("/gone/away", None)):
        config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": base}))
        source = replace(study.objective["adapters"], path=str(copied / "adapters"))
        if found:
            assert model_of(source, 0) == (found, True)
        else:
            with refused(name="model", remedy="says '/gone/away'"):
                model_of(source, 0)


class TestHub:
    COMMITS = ("0123456789" * 4, "abcdef0123" * 4)

    @pytest.fixture
    def hub(self, home, tmp_path, monkeypatch):
        """The Hub's cache on a machine without network: the models of the training as revisions step2 and step4."""
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        repository = tmp_path / "hub" / "models--owner--name"
        (repository / "refs").mkdir(parents=True)
        (repository / "blobs").mkdir()
        for commit, step in zip(self.COMMITS, (2, 4), strict=True):
            self.put(repository, home / "models" / f"checkpoint-{step}", commit)
            (repository / "refs" / f"step{step}").write_text(commit)
        return repository

    @staticmethod
    def put(repository: Path, folder: Path, commit: str) -> None:
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for path in folder.iterdir():
            if path.suffix in (".json", ".jinja", ".safetensors"):
                blob = repository / "blobs" / f"{commit[:4]}-{path.name}"
                shutil.copy(path, blob)
                (snapshot / path.name).symlink_to(blob)

    @staticmethod
    def params(study: Params, **changes: Any) -> Params:
        source = HubCheckpoints("owner/name", ("step4", "step2"), **changes)
        return replace(study, objectives=("theirs",), objective={"theirs": source})

    def test_revisions_are_recorded_in_the_order_of_their_steps(self, study, home, hub):
        params, run = self.params(study), Run("tiny", "theirs", 0)
        stages.prepare(params, "theirs")
        stages.finetune(params, run)
        stored = storage.open_set(run.folder("activations"), storage.ACTIVATIONS)
        assert [line["revision"] for line in stored.manifest["checkpoints"]] == list(self.COMMITS)
        assert stored.steps == (2, 4)
        for name in ("step_000002/layer_01.npy", "step_000004/layer_02.npy"):
            assert (stored.folder / name).read_bytes() == (home / "models/seen" / name).read_bytes()
        assert "remove_downloads" not in json.dumps(stored.manifest)

    def test_downloads_are_removed_if_asked_but_never_what_was_there_before(
        self, study, home, hub, monkeypatch
    ):
        second = hub / "snapshots" / self.COMMITS[1]
        shutil.rmtree(second)
        whole = models.download

        def download(repository, revision, cached=False):
            if not cached and revision == self.COMMITS[1]:
                self.put(hub, home / "models" / "checkpoint-4", revision)
            return whole(repository, revision, cached)

        monkeypatch.setattr(models, "download", download)
        monkeypatch.setattr(checkpoints, "_size_on_hub", lambda *_, **__: {"n_layers": 2, "hidden_size": 16})
        params = self.params(study, remove_downloads=True)
        stages.prepare(params, "theirs")
        stages.finetune(params, Run("tiny", "theirs", 0))
        assert not second.exists()
        assert (hub / "snapshots" / self.COMMITS[0] / "model.safetensors").is_file()
        assert not list((hub / "blobs").glob(f"{self.COMMITS[1][:4]}-*"))

    def test_every_revision_that_is_missing_is_named(self, hub):
        with refused(name="revisions", got=["step1", "step3"], remedy="it has step2, step4"):
            resolve_commits("owner/name", ["step1", "step2", "step3"])
        assert resolve_commits("owner/name", [self.COMMITS[1], "step2"]) == {
            self.COMMITS[1]: self.COMMITS[1],
            "step2": self.COMMITS[0],
        }

    def test_weights_that_would_have_to_be_unpickled_are_refused(self, study, hub):
        (hub / "snapshots" / self.COMMITS[0] / "model.safetensors").unlink()
        params = self.params(study)
        stages.prepare(params, "theirs")
        with refused(InvalidFile, path="revision step2 of owner/name", problem="weights as .safetensors"):
            stages.finetune(params, Run("tiny", "theirs", 0))


@pytest.mark.parametrize(
    ("revisions", "steps"),
    [
        (["step512", "step0"], {0: "step0", 512: "step512"}),
        (["step1000-tokens4B"], {1000: "step1000-tokens4B"}),
        (["ckpt_20", "step-3"], {3: "step-3", 20: "ckpt_20"}),
        ({"main": 143000, "step0": None}, {0: "step0", 143000: "main"}),
    ],
)
def test_steps_are_read_from_revisions(revisions, steps):
    given = tuple(revisions) if isinstance(revisions, list) else revisions
    assert HubCheckpoints("a/b", given).revision_of_step == steps


@pytest.mark.parametrize(
    ("revisions", "name", "got"),
    [
        (("main",), "revisions", "main"),
        (("v1-2",), "revisions", "v1-2"),
        (("step1", "step01"), "revisions", "1 of step1 and of step01"),
        ({"main": -1}, "revisions.main", -1),
        ((), "revisions", ()),
        (("step1", "step1"), "revisions", ("step1", "step1")),
    ],
)
def test_revisions_without_one_step_each_are_refused(revisions, name, got):
    with refused(name=name, got=got):
        HubCheckpoints("a/b", revisions)
