"""The Trainers of transformers and TRL, each with what it can do; docs/how-to/many-gpus.md has this as a table."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_trainers import PROMPTS, TRAINERS, build
from support import refused

from topoflow.config import Topology
from topoflow.config.schedule import Schedule
from topoflow.embedded.recipe import byte_tokenizer
from topoflow.recording.callback import TopologyCallback, tokenize_prompts

pytestmark = pytest.mark.slow

FORMS = {
    "all weights": {},
    "LoRA": {"lora": True},
    "all weights in bf16": {"bf16": True},
    "LoRA in bf16": {"lora": True, "bf16": True},
    "activation checkpointing": {"activation_checkpointing": True},
    "LoRA and activation checkpointing": {"lora": True, "activation_checkpointing": True},
    "LoRA on 4 bits in bf16": {"lora": True, "four_bits": True, "bf16": True},
}
MANY = [f"Prompt {i * i} ends in {chr(65 + i)}" for i in range(58)]  # as many, and as unlike, as H1 needs


def weights(trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def states_of(model, prompt: list[int], bf16: bool) -> list[np.ndarray]:
    """What transformers itself returns of one prompt."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = model.eval()(torch.tensor([prompt]), output_hidden_states=True)
    # activation checkpointing has the embedding's output ask for a gradient, whatever the context says
    return [hidden[0, -1].detach().float().numpy() for hidden in output.hidden_states]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", TRAINERS)
def test_training_ends_with_the_bits_it_would_have_and_its_own_states_are_recorded(tmp_path, kind, form):
    settings = FORMS[form]
    if "four_bits" in settings:
        pytest.importorskip("bitsandbytes")
    ends = []
    for recorded in (False, True):
        callback = TopologyCallback(
            PROMPTS, [0, 2, 4], Schedule(every=1), batch_size=4, behaviour=kind != "Reward"
        )
        trainer = build(kind, tmp_path, callback if recorded else None, **settings)
        before = weights(trainer)
        trainer.train()
        ends.append(weights(trainer))
    plain, watched = ends
    assert plain.keys() == watched.keys()
    assert [name for name in plain if not torch.equal(plain[name], watched[name])] == []
    moved = [name for name in watched if not torch.equal(watched[name], before[name])]
    assert moved
    assert all("lora" in name or "score" in name for name in moved) == settings.get("lora", False)
    checkpointed = [m for m in trainer.model.modules() if getattr(m, "gradient_checkpointing", False)]
    assert bool(checkpointed) == settings.get("activation_checkpointing", False)
    assert callback.steps == [0, 1, 2]
    bf16 = settings.get("bf16", False)
    for row, ids in enumerate(tokenize_prompts(byte_tokenizer(), PROMPTS, 512)):
        expected = states_of(trainer.model, ids, bf16)
        for layer, cloud in callback.clouds[2].items():
            assert cloud.dtype == np.float32
            error = np.abs(cloud[row] - expected[layer]).max()
            assert error <= (2e-2 if bf16 else 1e-5) * np.abs(expected[layer]).max()
    if kind != "Reward":
        assert callback.divergences[2].min() > 0


@pytest.mark.parametrize("kind", TRAINERS)
def test_topology_is_computed_while_it_trains_and_ends_it_once_it_is_stable(tmp_path, kind):
    callback = TopologyCallback(
        MANY,
        [2, 4],
        Schedule(every=1),
        topology=Topology(n_subsamples=2, subsample_size=24),
        stop_when_stable=2,
    )
    trainer = build(kind, tmp_path, callback, learning_rate=1e-6, max_steps=5)
    trainer.train()
    assert callback.steps == [0, 1, 2]
    assert callback.stopped_at == trainer.state.global_step == 2
    assert callback.metrics[2]["topology/h1_velocity/layer_04"] < callback.floors[4]


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_training_that_is_resumed_ends_with_the_states_of_one_that_was_not_interrupted(tmp_path, kind):
    def files(folder: Path) -> dict[str, bytes]:
        paths = (folder / "states").glob("step_*/*.npy")
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    def train(folder: Path, from_step: int = 0) -> TopologyCallback:
        callback = TopologyCallback(
            PROMPTS, [2, 4], Schedule(every=1), folder=folder / "states", behaviour=kind != "Reward"
        )
        trainer = build(kind, folder, callback, lora=True, max_steps=4, save_strategy="steps", save_steps=2)
        trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{from_step}") if from_step else None)
        return callback

    train(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for step in (3, 4):  # as if it had been killed after it was saved
        shutil.rmtree(tmp_path / f"resumed/states/step_{step:06d}")
    assert train(tmp_path / "resumed", 2).steps == [0, 1, 2, 3, 4]
    assert files(tmp_path / "resumed") == files(tmp_path / "whole")


def test_a_reward_model_has_no_answers_to_compare_and_is_refused_before_training(tmp_path):
    trainer = build("Reward", tmp_path, TopologyCallback(PROMPTS, [4], behaviour=True))
    with refused(name="model", expected="a head that makes logits", got="LlamaForSequenceClassification"):
        trainer.train()
    assert trainer.state.global_step == 0
