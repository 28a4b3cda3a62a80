import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, Qwen2Config

from topoflow.recording.hidden_states import (
    evenly_spaced_layers,
    last_token_states,
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


def plain_states(model, prompt: list[int]) -> list[np.ndarray]:
    """The witness: transformers' own hidden states of one unpadded prompt, last token."""
    with torch.no_grad():
        output = model(torch.tensor([prompt]), output_hidden_states=True)
    return [hidden[0, -1].numpy() for hidden in output.hidden_states]


def close(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(np.abs(a - b).max() <= 1e-5 * np.abs(b).max())


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_gives_the_states_of_one_prompt_alone(model, side):
    with torch.no_grad():
        states = last_token_states(model, *padded(PROMPTS, side), layers=range(5))
    for row, prompt in enumerate(PROMPTS):
        for layer, expected in enumerate(plain_states(model, prompt)):
            assert close(states[layer][row].numpy(), expected), (side, row, layer)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_recording_keeps_the_order_of_the_prompts_whatever_the_batches(model, batch_size):
    clouds = record_states(model, PROMPTS, [0, 2, 4], pad_token_id=0, batch_size=batch_size)
    assert sorted(clouds) == [0, 2, 4]
    for layer, cloud in clouds.items():
        assert cloud.shape == (len(PROMPTS), 32)
        assert cloud.dtype == np.float32
        for row, prompt in enumerate(PROMPTS):
            assert close(cloud[row], plain_states(model, prompt)[layer])


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=64),
        GPTNeoXConfig(
            hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48, vocab_size=64
        ),
        Qwen2Config(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            vocab_size=64,
        ),
    ],
    ids=lambda config: config.model_type,
)
def test_other_architectures_give_what_transformers_gives(config):
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(config).eval()
    clouds = record_states(network, PROMPTS, range(4), pad_token_id=0, batch_size=3)
    for row, prompt in enumerate(PROMPTS):
        for layer, expected in enumerate(plain_states(network, prompt)):
            assert close(clouds[layer][row], expected), layer


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


def test_half_precision_is_recorded_as_float32(model):
    cloud = record_states(model.to(torch.bfloat16), PROMPTS, [2], pad_token_id=0)[2]
    assert cloud.dtype == np.float32
    assert np.isfinite(cloud).all()


@pytest.mark.parametrize("n_layers", [5, 9, 12, 30, 80])
def test_layers_are_spaced_evenly_and_end_with_the_last(n_layers):
    layers = evenly_spaced_layers(n_layers, 5)
    assert layers[0] == 1
    assert layers[-1] == n_layers
    gaps = np.diff(layers)
    assert gaps.max() - gaps.min() <= 1


def test_impossible_layers_are_refused_by_name(model):
    with pytest.raises(ValueError, match=r"layers must be between 1 and the number of blocks \(4\), got 5"):
        resolve_layers(model, 5)
    with pytest.raises(ValueError, match=r"layers must be between 0 \(the embedding\) and 4, got \[2, 7\]"):
        resolve_layers(model, [2, 7])
    with pytest.raises(ValueError, match="layers must be"):
        resolve_layers(model, [])
    assert resolve_layers(model, [3, 1, 3]) == (1, 3)


def test_something_that_is_no_language_model_is_refused_by_name():
    with pytest.raises(ValueError, match="model must be a causal language model of transformers, got Linear"):
        resolve_layers(torch.nn.Linear(2, 2), 1)
