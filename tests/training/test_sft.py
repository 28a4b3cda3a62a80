"""What users bring to the training: arguments of TRL's, targets of adapters, a preset."""

import json
from dataclasses import replace

import pytest
from support import REPOSITORY

from topoflow.config import Finetune, Lora, load_params
from topoflow.training import sft

ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Q {i}?"}],
        "completion": [{"role": "assistant", "content": "A."}],
    }
    for i in range(4)
]
SMALL = Finetune(max_steps=1, per_device_train_batch_size=2, lora=Lora(r=2, alpha=8, dropout=0.25))


def tuned(model, tokenizer, folder, settings):
    trained, _ = sft.finetune(model, tokenizer, ROWS, settings, 0, folder / "trainer")
    return trained


def test_an_argument_that_sft_config_does_not_have_is_named_with_the_nearest():
    settings = replace(SMALL, sft_config={"weight_dekay": 0.1})
    with pytest.raises(ValueError, match=r"got 'weight_dekay'; did you mean 'weight_decay'\?"):
        sft.sft_arguments(settings)


def test_arguments_reach_the_training(model, tokenizer, tmp_path):
    settings = replace(SMALL, sft_config={"max_grad_norm": 1e-12, "optim": "sgd"})
    trained = tuned(model, tokenizer, tmp_path, settings)
    moved = [w.detach().abs().max().item() for n, w in trained.named_parameters() if "lora_B" in n]
    assert max(moved) < 1e-12  # clipped to nothing


@pytest.mark.parametrize(
    ("targets", "found"),
    [
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        (("q_proj", "v_proj"), {"q_proj", "v_proj"}),
        (r".*layers\.[01]\.mlp\.up_proj", {"up_proj"}),
    ],
)
def test_adapters_are_where_they_are_wanted(model, tokenizer, tmp_path, targets, found):
    settings = replace(SMALL, lora=replace(SMALL.lora, target_modules=targets))
    trained = tuned(model, tokenizer, tmp_path, settings)
    adapted = [name for name, _ in trained.named_parameters() if "lora_A" in name]
    assert {name.split(".lora_A")[0].rpartition(".")[2] for name in adapted} == found
    assert len(adapted) == {"all-linear": 28}.get(str(targets), 8 if len(found) == 2 else 2)
    config = trained.peft_config["default"]
    assert (config.r, config.lora_alpha, config.lora_dropout) == (2, 8, 0.25)


def test_the_preset_of_hh_rlhf_can_be_trained_with(model, tokenizer, tmp_path):
    params = load_params(REPOSITORY / "presets" / "hh_rlhf_7b.yaml")
    assert {source.id for source in params.objective.values() if hasattr(source, "id")} == {
        "Anthropic/hh-rlhf"
    }
    assert params.seeds == (0, 1, 2)
    on_any_machine = {**params.finetune.sft_config, "use_cpu": True}
    settings = replace(params.finetune, max_steps=1, warmup_steps=0, sft_config=on_any_machine)
    trained = tuned(model, tokenizer, tmp_path, settings)
    assert trained.peft_config["default"].r == 16
    assert json.loads(json.dumps(params.training("helpful")))["sft_config"]["bf16"] is True
