"""Adapters are recorded on a base that no other adapter has touched, or are refused before anything is recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import llama, refused

from topoflow.config import CheckpointFolder, FolderModel
from topoflow.config.schedule import Schedule
from topoflow.errors import InvalidFile
from topoflow.recording.callback import TopologyCallback
from topoflow.storage.layout import Run
from topoflow.training import checkpoints, models

PROMPTS = ["How do I boil an egg?", "Name a river.", "Why?"]
RUN = Run("base", "theirs", 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("base")
    llama(len(tokenizer), num_hidden_layers=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapter(base: Path, config: Any, home: Path, steps: tuple[int, ...] = (2, 4)) -> None:
    """An adapter whose trained weights have moved a little by each of the steps, saved as a Trainer does."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(1)
    network = get_peft_model(models.open_model(base), config)
    for step in steps:
        with torch.no_grad():
            for weight in network.parameters():
                if weight.requires_grad:
                    weight += 0.05 * torch.randn_like(weight)
        network.save_pretrained(home / f"checkpoint-{step}")


def recorded(base: Path, home: Path, out: Path, steps: tuple[int, ...]) -> np.ndarray:
    """The states of the last of the steps, recorded after the others."""
    source = CheckpointFolder(path=str(home), steps=steps)
    model = FolderModel(path=str(base))
    lines = checkpoints.list_checkpoints(source, RUN)
    series = checkpoints.Series(RUN, lines, source, models.describe("base", model), model)
    callback = TopologyCallback(PROMPTS, [2], Schedule(every=1), folder=out)
    checkpoints.record(series, callback, [2])
    return np.load(out / f"step_{steps[-1]:06d}" / "layer_02.npy")


def by_peft_alone(base: Path, folder: Path) -> np.ndarray:
    """The same states as PEFT's documentation opens an adapter and transformers gives them out."""
    import torch
    from peft import PeftModel

    network = PeftModel.from_pretrained(models.open_model(base), folder).eval()
    tokenizer = models.open_tokenizer(base)
    with torch.no_grad():
        rows = [
            network(**tokenizer(prompt, return_tensors="pt"), output_hidden_states=True).hidden_states[-1][
                0, -1
            ]
            for prompt in PROMPTS
        ]
    return torch.stack(rows).numpy()


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options})


def ia3() -> Any:
    from peft import IA3Config

    return IA3Config(
        target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
    )


KINDS = {
    "plain": lora,
    "gaussian": lambda: lora(init_lora_weights="gaussian"),
    "pissa": lambda: lora(init_lora_weights="pissa"),
    "olora": lambda: lora(init_lora_weights="olora"),
    "orthogonal": lambda: lora(init_lora_weights="orthogonal"),
    "dora": lambda: lora(use_dora=True),
    "embeddings": lambda: lora(target_modules=["q_proj", "embed_tokens"]),
    "trained tokens": lambda: lora(trainable_token_indices=[5, 80]),
    "saved embeddings": lambda: lora(modules_to_save=["embed_tokens"]),
    "ia3": ia3,
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_recorded_after_another_has_the_states_of_one_recorded_alone(base, tmp_path, kind):
    adapter(base, KINDS[kind](), tmp_path / "trained")
    alone = recorded(base, tmp_path / "trained", tmp_path / "alone", (4,))
    after = recorded(base, tmp_path / "trained", tmp_path / "after", (2, 4))
    assert np.array_equal(alone, after)
    witness = by_peft_alone(base, tmp_path / "trained" / "checkpoint-4")
    np.testing.assert_allclose(alone, witness, rtol=1e-4, atol=1e-5)
    first = np.load(tmp_path / "after" / "step_000002" / "layer_02.npy")
    assert not np.allclose(first, alone, rtol=1e-3)  # or nothing was put on


def prompt_learning() -> dict[str, Any]:
    from peft import PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

    kinds = (PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig)
    return {kind.__name__: kind(num_virtual_tokens=2, task_type="CAUSAL_LM") for kind in kinds}


@pytest.mark.parametrize("kind", ["PrefixTuningConfig", "PromptEncoderConfig", "PromptTuningConfig"])
def test_an_adapter_that_adds_to_the_prompt_is_refused_before_anything_is_recorded(base, tmp_path, kind):
    adapter(base, prompt_learning()[kind], tmp_path)
    with refused(InvalidFile, path=tmp_path / "checkpoint-2", remedy="TopologyCallback"):
        checkpoints.list_checkpoints(CheckpointFolder(path=str(tmp_path)), RUN)


def test_every_kind_that_peft_says_learns_a_prompt_is_known():
    from peft.config import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = PEFT_TYPE_TO_CONFIG_MAPPING.items()
    learning = {str(kind.value) for kind, config in kinds if issubclass(config, PromptLearningConfig)}
    assert len(learning) > 3
    assert learning <= set(checkpoints._PROMPT_LEARNING)


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "loftq", "lora_ga", "something_new"])
def test_an_adapter_that_opens_otherwise_each_time_is_refused_and_told_of_the_conversion(
    base, tmp_path, start
):
    adapter(base, lora(), tmp_path)
    path = tmp_path / "checkpoint-4" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "init_lora_weights": start}))
    with refused(
        InvalidFile, path=tmp_path / "checkpoint-4", remedy="path_initial_model_for_weight_conversion"
    ):
        checkpoints.list_checkpoints(CheckpointFolder(path=str(tmp_path)), RUN)


def shard(folder: Path, parts: int) -> None:
    """A model in several files, as a large one is saved."""
    network = models.open_model(folder)
    (folder / "model.safetensors").unlink()
    network.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) >= parts


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_a_part(folder: Path) -> None:
    shard(folder, 3)
    sorted(folder.glob("model-*.safetensors"))[1].unlink()


def lose_a_part_and_the_index(folder: Path) -> None:
    lose_a_part(folder)
    (folder / "model.safetensors.index.json").unlink()


def lose_the_index(folder: Path) -> None:
    shard(folder, 3)
    (folder / "model.safetensors.index.json").unlink()


def index_that_names_what_is_not_there(folder: Path) -> None:
    shard(folder, 2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = sorted(index["weight_map"].values())[0]
    path.write_text(json.dumps(index))


def lose_a_layer(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {name: value for name, value in load_file(path).items() if ".layers.1." not in name}
    save_file(tensors, path, metadata={"format": "pt"})


DAMAGE = {
    "half the weights": lambda folder: half(folder / "model.safetensors"),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "empty weights": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "a part is missing": lose_a_part,
    "a part and the index are missing": lose_a_part_and_the_index,
    "the index is missing": lose_the_index,
    "the index is cut": lambda folder: (shard(folder, 2), half(folder / "model.safetensors.index.json")),
    "the index names what is not there": index_that_names_what_is_not_there,
    "a layer is missing": lose_a_layer,
    "the config is cut": lambda folder: half(folder / "config.json"),
    "the config is a list": lambda folder: (folder / "config.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_model_is_named_before_anything_is_recorded(base, tmp_path, damage):
    for step in (2, 4):
        models.open_model(base).save_pretrained(tmp_path / f"checkpoint-{step}")
    DAMAGE[damage](tmp_path / "checkpoint-4")
    with pytest.raises(InvalidFile) as caught:
        checkpoints.list_checkpoints(CheckpointFolder(path=str(tmp_path)), RUN)
    assert "checkpoint-4" in str(caught.value.path)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("kind", ["cut", "gone"])
def test_a_damaged_adapter_is_named_before_anything_is_recorded(base, tmp_path, file, kind):
    adapter(base, lora(), tmp_path)
    path = tmp_path / "checkpoint-4" / file
    half(path) if kind == "cut" else path.unlink()
    with pytest.raises(InvalidFile) as caught:
        checkpoints.list_checkpoints(CheckpointFolder(path=str(tmp_path)), RUN)
    assert "checkpoint-4" in str(caught.value.path)


def test_a_model_whose_weights_lack_a_layer_is_not_filled_up_with_random_numbers(base, tmp_path):
    models.open_model(base).save_pretrained(tmp_path)
    lose_a_layer(tmp_path)
    with refused(InvalidFile, path=tmp_path, problem="model.layers.1."):
        models.open_model(tmp_path)


def test_a_model_whose_weights_have_another_shape_than_its_config_says_is_refused(base, tmp_path):
    models.open_model(base).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with refused(InvalidFile, path=tmp_path):
        models.open_model(tmp_path)


def test_weights_that_the_model_does_not_use_are_named(base, tmp_path, caplog):
    models.open_model(base).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
    models.open_model(tmp_path)
    assert "model.layers.1." in caplog.text


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"log_history": 3}', '{"log_history": [1]}', '{"log_history": [{"st']
)
def test_a_log_that_cannot_be_read_is_missing_with_a_warning(base, tmp_path, caplog, text):
    adapter(base, lora(), tmp_path)
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text(text)
    source, model = CheckpointFolder(path=str(tmp_path)), FolderModel(path=str(base))
    lines = checkpoints.list_checkpoints(source, RUN)
    series = checkpoints.Series(RUN, lines, source, models.describe("base", model), model)
    assert checkpoints.training_log(series) == []
    assert "trainer_state.json" in caplog.text


def test_tokens_that_the_base_lacks_are_told_to_resize_it(base, tmp_path):
    import torch
    from peft import get_peft_model

    for step in (2, 4):
        network = models.open_model(base)
        network.resize_token_embeddings(len(network.get_input_embeddings().weight) + 8)
        torch.manual_seed(0)
        grown = get_peft_model(network, lora(modules_to_save=["embed_tokens", "lm_head"]))
        grown.save_pretrained(tmp_path / "trained" / f"checkpoint-{step}")
    with refused(InvalidFile, remedy="resize the base"):
        recorded(base, tmp_path / "trained", tmp_path / "out", (2, 4))
