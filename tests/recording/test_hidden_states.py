import gc
import weakref
from importlib.util import find_spec
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import llama, refused

from topoflow.recording.behaviour import Answers
from topoflow.recording.hidden_states import (
    batches_by_length,
    evenly_spaced_layers,
    in_order,
    noting_how,
    prompt_states,
    record_batches,
    record_states,
    resolve_layers,
)

PROMPTS = [[5, 6, 7], [9], [10, 11, 12, 13, 14, 15, 16], [20, 21], [30, 31, 32, 33]]


def padded(prompts: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(map(len, prompts))
    ids, mask = (
        torch.zeros(len(prompts), length, dtype=torch.long),
        torch.zeros(len(prompts), length, dtype=torch.long),
    )
    for row, prompt in enumerate(prompts):
        where = slice(0, len(prompt)) if side == "right" else slice(length - len(prompt), length)
        ids[row, where] = torch.tensor(prompt)
        mask[row, where] = 1
    return ids, mask


def all_states(model, prompt: list[int]) -> list[torch.Tensor]:
    """The witness: transformers' own hidden states of one unpadded prompt, a row for each token."""
    with torch.no_grad():
        output = model(torch.tensor([prompt]), output_hidden_states=True)
    # a model prepared for 4-bit training has its embedding ask for a gradient, whatever the context says
    return [hidden[0].detach() for hidden in output.hidden_states]


def plain_states(model, prompt: list[int]) -> list[np.ndarray]:
    return [hidden[-1].numpy() for hidden in all_states(model, prompt)]


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() <= 1e-5 * np.abs(b).max())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_gives_the_states_of_one_prompt_alone(model, side):
    with torch.no_grad():
        states = prompt_states(model, *padded(PROMPTS, side), layers=range(5))
    for row, prompt in enumerate(PROMPTS):
        for layer, expected in enumerate(plain_states(model, prompt)):
            assert close(states[layer][row].numpy(), expected), (side, row, layer)


LONGER = [[5, 6, 7], [9, 8], [10, 11, 12, 13, 14, 15, 16], [20, 21], [30, 31, 32, 33]]
POOLED = {  # what is asked for, and what a witness makes of the rows of one prompt's tokens
    "mean": ({"pooling": "mean"}, lambda rows: rows.double().mean(dim=0)),
    "the last but one": ({"position": -2}, lambda rows: rows[-2]),
}


@pytest.mark.parametrize("asked", POOLED)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_mean_and_another_token_are_those_of_one_prompt_alone_whatever_the_padding(model, side, asked):
    how, of_rows = POOLED[asked]
    with torch.no_grad():
        states = prompt_states(model, *padded(LONGER, side), layers=range(5), **how)
    for row, prompt in enumerate(LONGER):
        for layer, expected in enumerate(all_states(model, prompt)):
            assert close(states[layer][row].numpy(), of_rows(expected).numpy()), (side, row, layer)


@pytest.mark.parametrize("asked", POOLED)
@pytest.mark.parametrize("path", ["without the head", "with the head", "sharded"])
def test_every_path_records_what_is_asked_for_and_answers_after_the_last_token(
    model, monkeypatch, path, asked
):
    how, of_rows = POOLED[asked]
    if path == "sharded":  # as under FSDP, where the pass goes on to its end
        module = SimpleNamespace(reshard=lambda: None)
        monkeypatch.setattr("topoflow.recording.hidden_states.sharded_modules", lambda _: [module])
    answers = [Answers(5), Answers(5)] if path == "with the head" else [None, None]
    given = {"layers": [0, 2, 4], "pad_token_id": 0, "batch_size": 2}
    clouds = record_states(model, LONGER, **given, **how, behaviour=answers[0])
    record_states(model, LONGER, **given, behaviour=answers[1])
    for row, prompt in enumerate(LONGER):
        rows = all_states(model, prompt)
        for layer, cloud in clouds.items():
            assert close(cloud[row], of_rows(rows[layer]).numpy())
            assert not close(cloud[row], rows[layer][-1].numpy())
    if path == "with the head":
        one, other = (next(kept.pieces(1, 5)) for kept in answers)
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_mean_is_summed_in_float32_and_what_padding_holds_does_not_matter(model):
    ids, mask = padded(LONGER, "right")

    def spoil(_, args, output):
        return output.masked_fill(mask.unsqueeze(2) == 0, torch.nan)

    model.bfloat16().model.layers[-1].register_forward_hook(spoil)
    with torch.no_grad():
        states = prompt_states(model, ids, mask, [3, 4], pooling="mean")
        plain = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    for layer, means in states.items():
        assert means.dtype == torch.float32
        for row, prompt in enumerate(LONGER):
            expected = plain[layer][row, : len(prompt)].double().mean(dim=0).numpy()
            assert close(means[row].numpy(), expected)


def test_a_position_that_a_prompt_has_not_is_refused_before_any_pass(model):
    ran = []
    model.register_forward_pre_hook(lambda module, args: ran.append(module))
    with refused(name="position", expected="token_ids[1] has 1 token", got=-2):
        record_states(model, PROMPTS, [2], pad_token_id=0, position=-2)
    with refused(name="position", expected="input_ids[1] has 1 token", got=-3):
        prompt_states(model, *padded(PROMPTS, "left"), layers=[2], position=-3)
    with refused(name="position", expected="pooling is mean", got=-2):
        record_states(model, LONGER, [2], pad_token_id=0, pooling="mean", position=-2)
    with refused(name="pooling", got="max"):
        record_states(model, LONGER, [2], pad_token_id=0, pooling="max")
    assert not ran


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_recording_keeps_the_order_of_the_prompts_whatever_the_batches(model, batch_size):
    clouds = record_states(model, PROMPTS, [0, 2, 4], pad_token_id=0, batch_size=batch_size)
    assert sorted(clouds) == [0, 2, 4]
    for layer, cloud in clouds.items():
        assert cloud.shape == (len(PROMPTS), 32)
        assert cloud.dtype == np.float32
        for row, prompt in enumerate(PROMPTS):
            assert close(cloud[row], plain_states(model, prompt)[layer])


def test_states_pass_through_the_adapters_of_peft(model):
    from peft import LoraConfig, get_peft_model

    before = record_states(model, PROMPTS, [4], pad_token_id=0)[4]
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert np.array_equal(record_states(wrapped, PROMPTS, [4], pad_token_id=0)[4], before)  # B starts at 0
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    assert not close(record_states(wrapped, PROMPTS, [4], pad_token_id=0)[4], before)


def test_recording_leaves_no_trace_on_the_model(model):
    model.train()
    model.model.layers[1].eval()  # a module that its owner keeps in eval mode stays there
    model(torch.tensor([PROMPTS[0]]), labels=torch.tensor([PROMPTS[0]])).loss.backward()
    modes = [module.training for module in model.modules()]
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    use_cache, random_state = model.config.use_cache, torch.get_rng_state()
    record_states(model, PROMPTS, [1, 4], pad_token_id=0)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert model.config.use_cache == use_cache
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_model_that_draws_random_numbers_even_in_eval_mode_leaves_the_training_its_own(model):
    def jitter(module, args, output):
        return output + 1e-3 * torch.randn(output.shape)

    model.get_input_embeddings().register_forward_hook(jitter)
    torch.manual_seed(3)
    undisturbed = torch.rand(4)
    torch.manual_seed(3)
    clouds = record_states(model, PROMPTS, [4], pad_token_id=0)
    assert torch.equal(torch.rand(4), undisturbed)
    assert not np.array_equal(clouds[4], record_states(model, PROMPTS, [4], pad_token_id=0)[4])


def test_a_failing_forward_pass_leaves_the_model_in_training_mode_and_without_hooks(model):
    model.train()
    with pytest.raises(IndexError):
        record_states(model, [[10**6]], [1], pad_token_id=0)
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_recorded_as_float32_to_the_bit(model, dtype):
    clouds = record_states(model.to(dtype), PROMPTS, [2, 4], pad_token_id=0, batch_size=1)
    for row, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            hidden = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        for layer, cloud in clouds.items():
            assert cloud.dtype == np.float32
            assert hidden[layer].dtype == dtype
            assert np.array_equal(cloud[row], hidden[layer][0, -1].float().numpy())


def test_nothing_of_a_pass_outlives_it_but_the_rows(model):
    outputs = []
    for block in model.model.layers:
        block.register_forward_hook(lambda block, args, output: outputs.append(weakref.ref(output)))
    ids, mask = padded(PROMPTS, "right")
    gc.disable()  # what only the collector would free would stand beside the next batch
    try:
        with torch.no_grad():
            states = prompt_states(model, ids, mask, [1, 3])
        assert len(outputs) == 3
        assert not any(output() is not None for output in outputs)
    finally:
        gc.enable()
    for rows in states.values():
        assert rows.untyped_storage().nbytes() == len(PROMPTS) * 32 * 4


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB, other allocations: 1.00 MB)"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
    ],
    ids=["CUDA", "cuBLAS", "MPS", "CPU"],
)
def test_a_batch_that_does_not_fit_is_halved_and_stays_so(model, caplog, error):
    tried = []

    def small_memory(module, args, kwargs):
        tried.append(len(kwargs["input_ids"]))
        if tried[-1] > limit:
            raise error

    expected = record_states(model, PROMPTS, [0, 4], pad_token_id=0)
    handle = model.register_forward_pre_hook(small_memory, with_kwargs=True)
    limit, batches = 2, batches_by_length(PROMPTS, 4)
    rows = record_batches(model, PROMPTS, batches, [0, 4], pad_token_id=0)
    assert tried == [4, 2, 2, 1]
    assert "2 prompts a forward pass" in caplog.text
    tried.clear()
    again = record_batches(model, PROMPTS, batches, [0, 4], pad_token_id=0)
    assert tried == [2, 2, 1]
    order = np.concatenate(batches)
    for layer, cloud in expected.items():
        assert np.array_equal(rows[layer], again[layer])
        assert close(in_order(order, [rows[layer]]), cloud)
    limit = 0
    with pytest.raises(type(error)):
        record_states(model, PROMPTS, [4], pad_token_id=0)
    assert tried[-4:] == [5, 3, 2, 1]
    error, before = RuntimeError("shapes do not match"), len(tried)  # which no smaller batch mends
    with pytest.raises(RuntimeError):
        record_states(model, PROMPTS, [4], pad_token_id=0)
    assert tried[before:] == [5]
    handle.remove()


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    size=st.integers(1, 70),
    tokens=st.integers(1, 200),
)
def test_batches_hold_every_prompt_once_and_no_more_than_they_may(lengths, size, tokens):
    ids = [[0] * length for length in lengths]
    batches = batches_by_length(ids, size, tokens)
    by_length = np.argsort(lengths, kind="stable")
    assert np.concatenate(batches).tolist() == by_length.tolist()
    for batch in batches:
        assert len(batch) <= size
        assert len(batch) == 1 or len(batch) * max(lengths[prompt] for prompt in batch) <= tokens
    for batch, following in pairwise(batches):  # none could have taken the next prompt as well
        assert len(batch) == size or (len(batch) + 1) * lengths[following[0]] > tokens
    plain = [by_length[at : at + size].tolist() for at in range(0, len(ids), size)]
    assert [batch.tolist() for batch in batches_by_length(ids, size)] == plain


def test_states_are_the_same_however_few_tokens_are_recorded_at_once(model):
    seen = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    expected = record_states(model, PROMPTS, [0, 4], pad_token_id=0)
    assert len(seen) == 1
    found = record_states(model, PROMPTS, [0, 4], pad_token_id=0, batch_tokens=8)
    assert seen[1:] == [4, 8, 7]
    assert all(close(found[layer], expected[layer]) for layer in expected)


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_a_model_that_is_offloaded_is_read_where_its_embedding_runs(model, tmp_path, place):
    from accelerate import cpu_offload, disk_offload

    given = {"layers": [0, 2, 4], "pad_token_id": 0, "batch_size": 2}
    plain, answers = record_states(model, PROMPTS, **given), [Answers(5), Answers(5)]
    record_states(model, PROMPTS, **given, behaviour=answers[0])
    if place == "cpu":
        cpu_offload(model, execution_device="cpu")
    else:
        disk_offload(model, str(tmp_path), execution_device="cpu")
    assert next(model.parameters()).device.type == "meta"
    with noting_how(model) as computed:
        offloaded = record_states(model, PROMPTS, **given, behaviour=answers[1])
    assert computed["device"] == "cpu"
    assert all(np.array_equal(offloaded[layer], plain[layer]) for layer in plain)
    one, other = (next(kept.pieces(1, 5)) for kept in answers)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_model_without_numbers_is_refused_by_name():
    with torch.device("meta"):
        network = llama(64)
    with refused(name="model"):
        record_states(network, PROMPTS, [2], pad_token_id=0)


def test_states_too_large_for_float16_are_said_to_be_that(model, caplog):
    model.model.layers[2].register_forward_hook(lambda _, __, output: output * 1e8)
    whole = record_states(model, PROMPTS, [1, 3], pad_token_id=0)
    assert not caplog.records
    half = record_states(model, PROMPTS, [1, 3], pad_token_id=0, dtype="float16")
    assert np.isfinite(whole[3]).all()
    assert np.isinf(half[3]).any()
    (said,) = caplog.records
    assert said.args == ("float16", "3")


def test_virtual_tokens_of_prompt_tuning_stand_before_the_prompt(model):
    from peft import PromptTuningConfig, get_peft_model

    torch.manual_seed(0)
    tuned = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
    clouds = record_states(tuned, PROMPTS, [2, 4], pad_token_id=0, batch_size=3)
    means = record_states(tuned, PROMPTS, [2, 4], pad_token_id=0, batch_size=3, pooling="mean")
    for row, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            hidden = tuned(torch.tensor([prompt]), output_hidden_states=True).hidden_states
        assert hidden[2].shape[1] == 3 + len(prompt)
        for layer, cloud in clouds.items():
            assert close(cloud[row], hidden[layer][0, -1].numpy())
            assert close(means[layer][row], hidden[layer][0, 3:].mean(dim=0).numpy())


@pytest.mark.skipif(not find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
def test_a_4_bit_base_with_adapters_is_recorded(tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from support import llama
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    # bitsandbytes quantizes 64 weights at a time, and on a CPU no row may be shorter
    llama(len(tokenizer), hidden_size=64, intermediate_size=128).save_pretrained(tmp_path)
    quantized = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=BitsAndBytesConfig(load_in_4bit=True), device_map={"": "cpu"}
    )
    assert any(parameter.dtype == torch.uint8 for parameter in quantized.parameters())
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    wrapped = get_peft_model(prepare_model_for_kbit_training(quantized), lora).train()  # there is no dropout
    clouds = record_states(wrapped, PROMPTS, [2, 4], pad_token_id=0, batch_size=3)
    for row, prompt in enumerate(PROMPTS):
        expected = plain_states(wrapped, prompt)
        for layer, cloud in clouds.items():
            assert cloud.dtype == np.float32
            assert np.abs(cloud[row] - expected[layer]).max() <= 1e-3 * np.abs(expected[layer]).max()


@pytest.mark.parametrize("n_layers", [5, 9, 12, 30, 80])
def test_layers_are_spaced_evenly_and_end_with_the_last(n_layers):
    layers = evenly_spaced_layers(n_layers, 5)
    assert layers[0] == 1
    assert layers[-1] == n_layers
    gaps = np.diff(layers)
    assert gaps.max() - gaps.min() <= 1


def test_impossible_layers_are_refused_by_name(model):
    with refused(name="layers", expected="between 1 and the number of blocks (4)", got=5):
        resolve_layers(model, 5)
    with refused(name="layers", expected="between 0 (the embedding) and 4", got=[2, 7]):
        resolve_layers(model, [2, 7])
    with refused(name="layers", got=[]):
        resolve_layers(model, [])
    assert resolve_layers(model, [3, 1, 3]) == (1, 3)


def test_something_that_is_no_language_model_is_refused_by_name():
    with refused(name="model", expected="a causal language model of transformers", got="Linear"):
        resolve_layers(torch.nn.Linear(2, 2), 1)


@pytest.mark.parametrize("layers", [[0], [2, 4]])
def test_how_a_pass_computes_is_noted_within_it(model, layers):
    ids = torch.ones(2, 3, dtype=torch.long)
    with noting_how(model) as plain, torch.no_grad():
        prompt_states(model, ids, torch.ones_like(ids), layers)
    assert plain == {"device": "cpu", "compute_dtype": "float32", "autocast": None}
    with noting_how(model.half()) as mixed, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        prompt_states(model, ids, torch.ones_like(ids), layers)
    assert mixed == {"device": "cpu", "compute_dtype": "float16", "autocast": "bfloat16"}
    assert not model.model.layers[0]._forward_pre_hooks
