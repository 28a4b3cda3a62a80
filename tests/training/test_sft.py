"""What users bring to the training: arguments of TRL's, targets of adapters, a preset."""

import copy
import json
from dataclasses import replace

import pytest
from support import REPOSITORY, refused, rows, system

from topoflow.config import Finetune, Lora, load_params
from topoflow.config.sft_fields import PASSED_ON, REFUSED
from topoflow.errors import UnknownKey
from topoflow.training import sft

ROWS = rows(4)
SMALL = Finetune(max_steps=1, per_device_train_batch_size=2, lora=Lora(r=2, alpha=8, dropout=0.25))


def tuned(model, tokenizer, folder, settings):
    trained, _ = sft.finetune(model, tokenizer, ROWS, settings, 0, folder / "trainer")
    return trained


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_training_computes_on_as_many_threads_as_it_is_told(
    model, tokenizer, tmp_path, monkeypatch, n_threads
):
    told = []
    monkeypatch.setattr(sft.torch, "set_num_threads", told.append)
    tuned(model, tokenizer, tmp_path, replace(SMALL, n_threads=n_threads))
    assert told == [n_threads]


def test_an_argument_that_sft_config_does_not_have_is_named_with_the_nearest():
    settings = replace(SMALL, sft_config={"weight_dekay": 0.1})
    with refused(UnknownKey, section="finetune.sft_config", key="weight_dekay", nearest="weight_decay"):
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
    params = load_params(REPOSITORY / "topoflow" / "presets" / "hh_rlhf_7b.yaml")
    assert {source.id for source in params.objective.values() if hasattr(source, "id")} == {
        "Anthropic/hh-rlhf"
    }
    assert params.seeds == (0, 1, 2)
    on_any_machine = {**params.finetune.sft_config, "use_cpu": True}
    settings = replace(params.finetune, max_steps=1, warmup_steps=0, sft_config=on_any_machine)
    trained = tuned(model, tokenizer, tmp_path, settings)
    assert trained.peft_config["default"].r == 16
    assert json.loads(json.dumps(params.training("helpful")))["sft_config"]["bf16"] is True


def test_every_argument_of_trl_is_decided():
    from dataclasses import fields

    from trl import SFTConfig

    of_trl = {field.name for field in fields(SFTConfig)}
    assert of_trl - PASSED_ON - REFUSED.keys() == set()
    assert of_trl >= PASSED_ON
    assert not PASSED_ON & REFUSED.keys()


@pytest.mark.parametrize(
    "key",
    ["chat_template_path", "eos_token", "pad_token", "padding_free", "model_init_kwargs", "torch_compile"],
)
def test_what_would_part_training_from_recording_is_refused(key):
    with refused(name=f"sft_config.{key}"):
        Finetune(sft_config={key: True})


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_activation_checkpointing_is_on_in_training_and_plan_under_either_name(
    model, tokenizer, tmp_path, name
):
    settings = replace(SMALL, sft_config={name: True})
    assert settings.checkpoints_activations
    tuned(model, tokenizer, tmp_path, settings)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_two_names_that_contradict_each_other_are_refused():
    with refused(name="sft_config.gradient_checkpointing"):
        Finetune(sft_config={"gradient_checkpointing": True, "activation_checkpointing": False})


def test_a_training_without_a_batch_is_an_error(model, tokenizer, tmp_path):
    further = {"dataloader_drop_last": True}
    settings = replace(SMALL, per_device_train_batch_size=8, sft_config=further)
    with refused(name="per_device_train_batch_size", got=8):
        tuned(model, tokenizer, tmp_path, settings)


def test_rows_that_a_template_refuses_are_left_out_with_a_count(tokenizer, caplog):
    refusing = copy.deepcopy(tokenizer)
    refusing.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    briefed = {**ROWS[0], "prompt": [system("Be brief."), *ROWS[0]["prompt"]]}
    fitting, lengths = sft.rows_that_fit([briefed, ROWS[1]], refusing, 512)
    assert [row["prompt"] for row in fitting] == [ROWS[1]["prompt"]]
    assert len(lengths) == 1
    assert "row 1: no system" in caplog.text
    with refused(remedy="no system"):
        sft.rows_that_fit([briefed], refusing, 512)


def test_a_tokenizer_without_an_end_of_text_is_refused(tokenizer):
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = None
    with refused(name="tokenizer"):
        sft.rows_that_fit(ROWS, endless, 512)


def test_packed_rows_do_not_see_one_another(model, tokenizer, tmp_path):
    settings = replace(SMALL, per_device_train_batch_size=4, learning_rate=1e-12)
    losses = []
    for packing in (False, True):
        chosen = replace(settings, sft_config={"packing": packing})
        _, log = sft.finetune(copy.deepcopy(model), tokenizer, ROWS, chosen, 0, tmp_path / str(packing))
        losses.append(log[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
