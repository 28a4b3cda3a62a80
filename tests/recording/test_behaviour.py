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
from topoflow.recording import on_device
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


# --- the same numbers, sooner -------------------------------------------------------------------


def by_the_formula(p, q):
    """The divergences as whole arrays give them, which results of earlier versions hold."""
    total = p + q
    t = np.divide(p - q, total, out=np.zeros_like(total), where=total > 0)
    up, down = np.zeros_like(t), np.zeros_like(t)
    np.log1p(t, out=up, where=t > -1)
    np.log1p(-t, out=down, where=t < 1)
    return np.maximum((total * ((1 + t) * up + (1 - t) * down) / 4).sum(axis=1), 0.0)


def sketched_by_the_formula(prompts, log_probabilities, seed):
    roots = np.exp(0.5 * log_probabilities.astype(np.float64))
    found = np.empty((len(roots), 256), np.float32)
    for row, prompt in enumerate(prompts.tolist()):
        drawn = np.random.default_rng([seed, prompt]).integers(512, size=roots.shape[1], dtype=np.uint16)
        signed = np.where(drawn < 256, roots[row], -roots[row])
        found[row] = np.bincount(drawn % 256, weights=signed, minlength=256)
    return found


def series(n_checkpoints, n_prompts, n_tokens):
    """Logarithms of distributions that move, some of their probabilities 0."""
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(n_prompts, n_tokens))
    logits[0, : n_tokens // 2] = -np.inf
    for _ in range(n_checkpoints):
        logits = logits + 0.1 * rng.normal(size=logits.shape)
        yield (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_the_bytes_are_those_of_the_formula_on_whole_arrays_in_any_number_of_threads(monkeypatch, n_threads):
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    behaviour, kept = Behaviour(4, seed=5), []
    for step, now in enumerate(series(3, 4, 70_001)):  # more than one part of a row, and not whole parts
        for chosen in (np.array([2, 0]), np.array([3, 1])):
            behaviour.add(chosen, now[chosen])
        found, roots = behaviour.finish(step)
        kept.append(np.exp(now.astype(np.float64)))
        if step:
            assert np.array_equal(found, [by_the_formula(kept[at], kept[-1]) for at in (step - 1, 0)])
        assert np.array_equal(roots, sketched_by_the_formula(np.arange(4), now, 5))


@pytest.mark.parametrize("n_tokens", [40, 3000])
def test_a_device_finds_what_numpy_finds_and_leaves_the_same_files(tmp_path, monkeypatch, n_tokens):
    monkeypatch.setattr(on_device, "_AT_ONCE", 2 * n_tokens)
    places = [tmp_path / "numpy", tmp_path / "device"]
    host, device = (Behaviour(5, place) for place in places)
    for step, now in enumerate(series(4, 5, n_tokens)):
        if step == 3:  # resumed
            device = Behaviour(5, places[1])
            device.resume(0, 2)
        for chosen in (np.array([3, 0]), np.array([1, 2, 4])):
            host.add(chosen, now[chosen])
            device.add(chosen, torch.from_numpy(now[chosen]))
        ours, theirs = device.finish(step), host.finish(step)
        assert ours.divergences == pytest.approx(theirs.divergences, rel=1e-9, abs=1e-15)
        assert ours.roots == pytest.approx(theirs.roots, rel=1e-6, abs=1e-7)
        names = [sorted(path.name for path in place.iterdir()) for place in places]
        assert names[0] == names[1]
        assert all((places[0] / name).read_bytes() == (places[1] / name).read_bytes() for name in names[0])


def test_a_device_too_knows_what_is_no_distribution(tmp_path):
    answers = torch.full((3, 8), 1 / 8).log()
    behaviour = Behaviour(3, tmp_path)
    behaviour.add(np.arange(3), answers)
    behaviour.finish(0)
    behaviour.add(np.arange(3), answers.index_fill(0, torch.tensor([1]), math.nan))
    assert np.isnan(behaviour.finish(1).divergences).tolist() == [[False, True, False]] * 2  # has diverged
    np.zeros(3 * 8, np.float32).tofile(tmp_path / "step_000000.f32")
    again = Behaviour(3, tmp_path)
    again.resume(0, 0)
    again.add(np.arange(3), answers)
    with refused(InvalidFile, path=tmp_path / "step_000000.f32"):
        again.finish(2)


def test_what_a_device_sums_is_the_same_in_any_order():
    """Devices add in no fixed order: sums of whole numbers are the same in each."""
    rng = np.random.default_rng(0)
    logarithms = torch.from_numpy(rng.normal(size=(1, 4000)) - 9).float()
    drawn = torch.from_numpy(rng.integers(512, size=(1, 4000)))
    found = on_device.roots(logarithms, drawn)
    for _ in range(5):
        order = torch.from_numpy(rng.permutation(4000))
        assert torch.equal(on_device.roots(logarithms[:, order], drawn[:, order]), found)


def test_comparing_waits_for_no_value_and_stays_on_the_device_that_has_the_answers():
    """The device "meta" has no values, and refuses to be mixed with others."""
    logarithms = torch.empty(2, 1000, device="meta")
    kept, drawn = torch.empty(5, 1000), torch.empty(5, 1000, dtype=torch.int16)
    kept, drawn = (on_device._sent(rows, [4, 1], logarithms.device) for rows in (kept, drawn))
    found = on_device.divergences(logarithms, kept), on_device.roots(logarithms, drawn)
    assert [(it.device.type, tuple(it.shape)) for it in found] == [("meta", (2, 2)), ("meta", (2, 256))]
    assert not on_device.compares(torch.device("cpu"))
