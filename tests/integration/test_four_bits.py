"""A base in 4 bits, trained by adapters and recorded on the study's own path; on a CPU, with bitsandbytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from support import put, small_params, tracking_to

from topoflow import storage
from topoflow.config import parse_params
from topoflow.recording.callback import tokenize_prompts
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study import stages
from topoflow.training import models

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.slow
RUN = Run("tiny", "helpful", 0)


def packed(network: Any) -> dict[str, torch.Tensor]:
    """The weights that are in 4 bits, two in a byte."""
    found = network.named_parameters()
    return {name: weight.detach().clone() for name, weight in found if weight.dtype == torch.uint8}


def test_a_base_in_four_bits_is_trained_recorded_and_left_as_it_was(tmp_path, monkeypatch, model_cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOFLOW_CACHE", str(model_cache))
    entry = {"source": "embedded", "name": "tiny", "quantization": "4bit", "dtype": "bfloat16"}
    mapping = put(small_params(), "model.tiny", entry)
    mapping["finetune"].update(max_steps=12, learning_rate=0.001, per_device_train_batch_size=8)
    params, opened, load = parse_params({**mapping, "objectives": ["helpful"]}), [], models.load

    def watched(*given: Any) -> Any:
        network, tokenizer = load(*given)
        opened.append((network, packed(network)))
        return network, tokenizer

    monkeypatch.setattr(models, "load", watched)
    with tracking_to(tmp_path):
        stages.model(params, RUN.model)
        stages.prompts(params)
        stages.prepare(params, RUN.objective)
        stages.finetune(params, RUN)
    ((network, before),) = opened
    after = {name.replace(".base_layer", ""): weight for name, weight in packed(network).items()}
    assert len(before) > 10
    assert after.keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in after.items())
    losses = [row["loss"] for row in layout.read_table(RUN.folder("results") / layout.LOSS_FILE)]
    assert len(losses) == 12
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.1
    adapters = load_file(RUN.folder("tuned") / "adapter_model.safetensors")
    assert {weight.dtype for weight in adapters.values()} == {torch.float32}
    assert all(weight.any() for name, weight in adapters.items() if "lora_B" in name)

    stored = storage.open_set(RUN.folder("activations"), storage.ACTIVATIONS)
    assert stored.steps == (0, 1, 2, 4, 6, 8, 10, 12)
    assert stored.manifest["sources"]["model"] == {key: entry[key] for key in entry if key != "source"}
    # the base opened anew, with the adapter that was saved, has the states of the last checkpoint
    description = layout.read_model(layout.model_file(RUN.model))
    base, tokenizer = load(description, params.model_source(RUN.model), True)
    trained = PeftModel.from_pretrained(
        base, RUN.folder("tuned")
    ).train()  # without dropout; in eval mode it is packed
    ids = tokenize_prompts(tokenizer, layout.read_prompts(), params.recording.max_length)
    for prompt in (0, 11, 23):
        with torch.no_grad():
            hidden = trained(torch.tensor([ids[prompt]]), output_hidden_states=True).hidden_states
        for layer in stored.layers:
            expected = hidden[layer][0, -1].float().numpy()
            found, first = (stored.point_cloud(step, layer)[prompt] for step in (12, 0))
            rounding, moved = (
                np.linalg.norm(expected - it) / np.linalg.norm(expected) for it in (found, first)
            )
            assert rounding < 0.05  # of bfloat16, with another padding
            assert moved > 3 * rounding
