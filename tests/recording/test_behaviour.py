"""Behaviour: next-token distributions as transformers itself gives them, compared between checkpoints."""

import gc
import math
import tempfile

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from support import llama, refused, rows
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config

from topoflow.config import Finetune, Lora
from topoflow.config.schedule import Schedule
from topoflow.errors import InvalidFile
from topoflow.recording.behaviour import Behaviour
from topoflow.recording.callback import TopologyCallback, tokenize_prompts
from topoflow.recording.hidden_states import prompt_states_and_logits, record_states
from topoflow.recording.sketch import sketched_roots
from topoflow.training import sft

PROMPTS = [[5, 6, 7], [9], [10, 11, 12, 13, 14, 15, 16], [20, 21], [30, 31, 32, 33]]
TEXTS = [f"Prompt {i} {'x' * i}" for i in range(6)]


def plain_probabilities(model, prompt):
    """The witness: the model's own logits of one unpadded prompt."""
    with torch.no_grad():
        return model(torch.tensor([prompt])).logits[0, -1].double().softmax(dim=0).numpy()


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=64),
        Gemma2Config(  # caps its logits after the head
            hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, head_dim=8,
            intermediate_size=48, vocab_size=64, final_logit_softcapping=0.05,
        ),
    ],
    ids=["gpt2", "gemma2"],
)  # fmt: skip
def test_the_distributions_are_those_of_the_models_own_forward_pass(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    seen = {}

    class Watch:
        def add(self, chosen, log_probabilities):
            assert log_probabilities.shape == (len(chosen), 64)  # never logits of whole sequences
            seen.update(zip(chosen.tolist(), np.exp(log_probabilities), strict=True))

    clouds = record_states(model, PROMPTS, [1, 3], pad_token_id=0, batch_size=2, behaviour=Watch())
    plain = record_states(model, PROMPTS, [1, 3], pad_token_id=0, batch_size=2)
    for row, prompt in enumerate(PROMPTS):
        assert np.allclose(seen[row], plain_probabilities(model, prompt), rtol=1e-4, atol=1e-7)
    for layer in (1, 3):
        assert np.array_equal(clouds[layer], plain[layer])


def test_the_head_sees_the_last_rows_alone_and_keeps_no_hook(model):
    shapes = []
    handle = model.lm_head.register_forward_hook(lambda m, args, out: shapes.append(tuple(out.shape)))
    ids = torch.ones(3, 7, dtype=torch.long)
    with torch.no_grad():
        prompt_states_and_logits(model, ids, torch.ones_like(ids), [2])
    handle.remove()
    assert shapes == [(3, 1, model.config.vocab_size)]
    assert not model.lm_head._forward_pre_hooks
    with refused(name="model", expected="a head that makes logits"):
        prompt_states_and_logits(model.model.layers, ids, torch.ones_like(ids), [2])


@pytest.mark.parametrize("on_disk", [False, True])
def test_divergences_are_from_the_checkpoint_before_and_from_the_first(tmp_path, on_disk):
    rng = np.random.default_rng(0)
    checkpoints = rng.dirichlet(np.ones(40), size=(4, 5))
    behaviour = Behaviour(5, tmp_path / "scratch" if on_disk else None)
    for step, now in enumerate(checkpoints):
        for chosen in (np.array([3, 0]), np.array([1, 2, 4])):
            behaviour.add(chosen, np.log(now[chosen]))
        found, roots = behaviour.finish(step)
        assert roots == pytest.approx(np.sqrt(now), rel=1e-6)  # as small a vocabulary is kept whole
        before = checkpoints[max(step - 1, 0)]
        for row, there in zip(found, (before, checkpoints[0]), strict=True):
            assert row == pytest.approx(jensenshannon(there, now, axis=1) ** 2, rel=1e-4, abs=1e-9)


def told(behaviour, step, distributions):
    behaviour.add(np.arange(len(distributions)), np.log(distributions))
    return behaviour.finish(step).divergences


def test_distances_between_sketches_are_those_between_whole_distributions():
    rng = np.random.default_rng(0)
    prompts, logits = np.arange(200), rng.normal(size=(200, 5000)) * 3
    whole, kept = [], []
    for moved in (0.0, 0.02, 0.5):
        p = np.exp(logits + moved * rng.normal(size=logits.shape))
        p /= p.sum(axis=1, keepdims=True)
        whole.append(np.sqrt(p))
        kept.append(sketched_roots(prompts, np.log(p), seed=3))
        assert np.array_equal(sketched_roots(prompts[7:9], np.log(p[7:9]), seed=3), kept[-1][7:9])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        expected = ((whole[a] - whole[b]) ** 2).sum(axis=1).mean()
        assert ((kept[a] - kept[b]) ** 2).sum(axis=1).mean() == pytest.approx(expected, rel=0.05)
    assert not np.array_equal(sketched_roots(prompts, np.log(p), seed=4), kept[-1])


def test_comparing_goes_on_from_the_steps_that_it_is_told(tmp_path):
    rng = np.random.default_rng(0)
    first, second, third, fourth = rng.dirichlet(np.ones(40), size=(4, 5))
    whole, interrupted = Behaviour(5, tmp_path / "whole"), Behaviour(5, tmp_path / "interrupted")
    for step, now in enumerate((first, second, third)):
        expected = told(whole, step, now)
        if step < 2:
            told(interrupted, step, now)
    again = Behaviour(5, tmp_path / "interrupted")
    again.resume(0, 1)
    assert np.array_equal(told(again, 2, third), expected)
    again = Behaviour(5, tmp_path / "interrupted")
    again.resume(0, 1)  # those of step 2 have taken the place of those of step 1
    found = told(again, 3, fourth)
    assert np.isnan(found[0]).all()
    assert found[1] == pytest.approx(jensenshannon(first, fourth, axis=1) ** 2, rel=1e-4)


@pytest.mark.parametrize("kept", ["zeros", "other vocabulary", "other prompts", "nothing"])
def test_no_divergence_is_taken_from_what_is_no_distribution(tmp_path, kept):
    answers = np.full((3, 8), 1 / 8)
    told(Behaviour(3, tmp_path), 0, answers)
    (path,) = tmp_path.iterdir()
    sizes = {"zeros": 3 * 8, "other vocabulary": 3 * 9, "other prompts": 2 * 8}
    if kept == "nothing":
        path.unlink()
    else:
        np.zeros(sizes[kept], np.float32).tofile(path)

    def go_on():
        again = Behaviour(3, tmp_path)
        again.resume(0, 0)
        told(again, 1, answers)

    with refused(InvalidFile, path=path):
        go_on()


def test_divergences_are_at_most_ln_2(tmp_path):
    behaviour = Behaviour(1)
    with np.errstate(divide="ignore"):
        told(behaviour, 0, np.array([[1.0, 0.0]]))
        assert told(behaviour, 1, np.array([[0.0, 1.0]])).tolist() == [[math.log(2)], [math.log(2)]]


def test_a_folder_of_its_own_goes_with_it_and_nobody_is_warned(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    behaviour = Behaviour(1)
    told(behaviour, 0, np.array([[0.5, 0.5]]))
    assert [*tmp_path.glob("*/step_*")]
    del behaviour
    gc.collect()
    assert not [*tmp_path.iterdir()]
    assert not recwarn.list


def test_a_training_records_how_far_its_answers_move(tokenizer, tmp_path):
    settings = Finetune(max_steps=4, per_device_train_batch_size=2, lora=Lora(r=2))
    network = llama(len(tokenizer))
    callback = TopologyCallback(TEXTS, [4], Schedule(every=2), behaviour=True)
    first = [plain_probabilities(network, ids) for ids in tokenize_prompts(tokenizer, TEXTS, 512)]
    trained, _ = sft.finetune(network, tokenizer, rows(16), settings, 7, tmp_path / "trainer", callback)
    last = [plain_probabilities(trained, ids) for ids in tokenize_prompts(tokenizer, TEXTS, 512)]
    assert sorted(callback.divergences) == [0, 2, 4]
    assert not callback.divergences[0].any()
    assert np.array_equal(*callback.divergences[2])  # the checkpoint before is the first
    expected = jensenshannon(first, last, axis=1) ** 2
    assert callback.divergences[4][1] == pytest.approx(expected, rel=1e-2, abs=1e-10)
    assert expected.min() > 0
    distances = (callback.roots[4] - callback.roots[0]).astype(float) ** 2
    exact = (np.sqrt(last) - np.sqrt(first)) ** 2
    assert distances.sum() == pytest.approx(exact.sum(), rel=0.3)  # of six prompts alone
