"""What is refused leaves no MLflow run and no folder behind: a case for each kind of refusal before training."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import lay_down_study, put, refused, small_params

from topoflow import TopologyCallback
from topoflow.config import load_params
from topoflow.embedded import embedded_folder
from topoflow.errors import InvalidFile, TopoflowError
from topoflow.storage.layout import Run
from topoflow.study import preflight, stages
from topoflow.study import run as study

Changes = dict[str, Any]


def file(text: str) -> Callable[[Path], Changes]:
    """Rows in a file of one's own."""

    def make(folder: Path) -> Changes:
        (folder / "rows.jsonl").write_text(text)
        return {"objective.helpful": {"source": "file", "path": "rows.jsonl"}}

    return make


def prompts_of_one_class(folder: Path) -> Changes:
    rows = [json.dumps({"prompt": f"Name river {n}.", "label": "a"}) + "\n" for n in range(24)]
    (folder / "prompts.jsonl").write_text("".join(rows))
    return {"prompts": {"source": "file", "path": "prompts.jsonl", "n_prompts": 24}}


def model(spoil: Callable[[Path], Any], **keys: Any) -> Callable[[Path], Changes]:
    """A model in a folder, spoilt."""

    def make(folder: Path) -> Changes:
        shutil.copytree(embedded_folder("mini"), folder / "weights")
        spoil(folder / "weights")
        return {"model.tiny": {"source": "folder", "path": "weights", **keys}}

    return make


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def with_code_of_its_own(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "strange",
        "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit('it was run')")


ROW = '{"prompt": "Name a river.", "completion": "The Rhine."}\n'
REFUSED: dict[str, tuple[Callable[[Path], Changes] | Changes, str]] = {
    # text
    "no file of rows": ({"objective.helpful": {"source": "file", "path": "gone.jsonl"}}, "gone.jsonl is"),
    "a file that is no JSON": (file("nonsense\n"), "rows.jsonl is not JSON, line 1"),
    "too few rows": (file(ROW), "prepare.n_rows must be at most what there is to draw from (1 of 'helpful')"),
    "too few prompts": ({"prompts.n_prompts": 100_000}, "prompts.n_prompts must be at most"),
    "labels that are no classes": (
        prompts_of_one_class, "prompts: labels must be of two classes or more"
    ),
    "rows that are all too long": ({"finetune.max_length": 1}, "max_length must be enough for at least one"),
    # the model
    "no folder": ({"model.tiny": {"source": "folder", "path": "gone"}}, "gone"),
    "no weights": (model(lambda f: (f / "model.safetensors").unlink()), "must hold weights as .safetensors"),
    "weights cut off": (model(lambda f: cut_off(f / "model.safetensors")), "not a whole .safetensors file"),
    "no configuration": (model(lambda f: (f / "config.json").unlink()), "must be a model that transformers can open"),
    "a configuration that is no JSON": (model(lambda f: cut_off(f / "config.json")), "must be a model"),
    "no tokenizer": (model(lambda f: (f / "tokenizer.json").unlink()), "must be a model that transformers can open"),
    "code of its own": (model(with_code_of_its_own), "code of its own, which topoflow does not run unasked"),
    "no GGUF file": ({"model.tiny": {"source": "gguf", "path": "gone.gguf"}}, "gone.gguf is not a file"),
    "more layers than there are": (
        lambda folder: {**model(lambda _: None)(folder), "recording.layers": 99},
        "layers must be between 1 and the number of blocks",
    ),
    "a layer that is not there": (
        lambda folder: {**model(lambda _: None)(folder), "recording.layers": [1, 99]},
        "layers must be between 0 (the embedding) and",
    ),
    # recording and training
    "a position before the first token": ({"recording.position": -400}, "position"),
    "a chat template that is not there": (
        lambda folder: {
            **model(lambda f: [path.unlink() for path in f.glob("*.jinja")])(folder),
            "recording.template": "chat",
        },
        "template must be auto, hh or plain",
    ),
    "adapters on nothing": ({"finetune.lora.target_modules": ["nothing"]}, "nothing"),
    "an optimiser that is none": ({"finetune.sft_config": {"optim": "nonsense"}}, "nonsense"),
    "an argument that is none": ({"finetune.sft_config": {"optimm": "sgd"}}, "did you mean 'optim'"),
    "a batch larger than the rows": (
        {"finetune.per_device_train_batch_size": 64, "finetune.sft_config": {"dataloader_drop_last": True}},
        "per_device_train_batch_size must be at most the rows to train on",
    ),
    "arguments of another schedule": (
        {"finetune.sft_config": {"lr_scheduler_kwargs": {"nonsense": 1}}}, "lr_scheduler_kwargs must be"
    ),
    # the machine
    "a kind of device": (
        lambda _: {"model.tiny": {"source": "embedded", "name": "mini", "device": "xpu"}},
        "device must be one that is here: cpu",
    ),
    "a GPU": ({"compute.gpu": 7}, "compute.gpu must be"),
    # checkpoints
    "checkpoints that are not there": (
        {"objective.theirs": {"source": "checkpoints", "path": "gone"}}, "must be a folder with checkpoint-N folders"
    ),
}  # fmt: skip


@pytest.fixture
def asked(tmp_path, monkeypatch, model_cache):
    """A study in the current folder, and what was asked of DVC."""
    called: list[Any] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOFLOW_CACHE", str(model_cache))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setattr(study, "_dvc", lambda *arguments, **_: called.append(arguments))
    lay_down_study(tmp_path, small_params())
    return called


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_leaves_no_run_and_no_folder(asked, tmp_path, kind):
    changes, message = REFUSED[kind]
    params = small_params()
    changed = changes(tmp_path) if callable(changes) else changes
    objective = "theirs" if "objective.theirs" in changed else "helpful"
    for path, value in changed.items():
        put(params, path, value)
    Path("params.yaml").write_text(yaml.safe_dump(params))
    before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    with pytest.raises(ValueError, match=re.escape(message)):
        study.run("tiny", objective, ["finetune.learning_rate=0.01"])  # aside, where there would be a folder
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} == before
    assert asked == []


def test_what_would_run_is_not_refused(asked, caplog):
    params = load_params()
    for objective in ("helpful", "mixed", "helpful_shuffled"):
        preflight.check(params, Run("tiny", objective, 0))
    assert caplog.records == []  # what is left out is said by the stage, once


def test_rows_and_models_of_the_hub_that_the_study_has_are_not_asked_for(asked, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    params = small_params()
    stages.prompts(load_params())
    stages.prepare(load_params(), "helpful")
    put(params, "model.tiny", {"source": "hub", "id": "owner/name"})
    Path("params.yaml").write_text(yaml.safe_dump(params))
    with refused(InvalidFile, path="owner/name"):  # it is nowhere
        preflight.check(load_params(), Run("tiny", "helpful", 0))
    Path("models").mkdir()
    Path("models/tiny.json").write_text("{}")
    preflight.check(load_params(), Run("tiny", "helpful", 0))


@pytest.mark.parametrize(
    "arguments", [{"layers": 99}, {"layers": [0, 99]}, {"position": -400}, {"template": "chat"}], ids=str
)
def test_a_callback_that_is_refused_leaves_no_folder(tmp_path, model, tokenizer, arguments):
    if "template" in arguments:
        tokenizer = type(tokenizer).from_pretrained(_without_template(tokenizer, tmp_path / "tokenizer"))
    chosen = {"layers": 2, **arguments}
    callback = TopologyCallback(["One.", "Two."], folder=tmp_path / "states", behaviour=True, **chosen)
    with pytest.raises(TopoflowError):
        callback.on_train_begin(None, None, None, model=model, processing_class=tokenizer)
    assert not (tmp_path / "states").exists()


def _without_template(tokenizer: Any, folder: Path) -> Path:
    tokenizer.save_pretrained(folder)
    for path in folder.glob("*.jinja"):
        path.unlink()
    return folder
