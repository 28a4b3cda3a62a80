"""Families of models, built small from their configurations: what is recorded is what transformers itself returns."""

import pytest
import torch
import transformers
from support import refused
from transformers import AutoConfig, AutoModelForCausalLM

from topoflow.recording.hidden_states import prompt_states, record_states, resolve_layers

DEPTH = 4
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES = {  # name -> what it needs beside or instead of SIZES
    "llama": {},
    "mistral": {"sliding_window": 4},
    "mixtral": {"num_local_experts": 4},  # as many experts as blocks
    "qwen2": {},
    "qwen3": {},
    "qwen3_next": {  # linear attention in three blocks of four
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "gemma2": {"sliding_window": 4},
    "gemma3_text": {"sliding_window": 4},
    "gpt2": {"n_embd": 32, "n_layer": DEPTH, "n_head": 4},
    "gpt_neox": {},
    "olmo2": {},  # normalises what blocks write
    "phi": {},
    "phi3": {},
    "falcon": {"alibi": False, "head_dim": None},
    "bloom": {"n_layer": DEPTH, "n_head": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "cohere": {},
    "mamba": {"state_size": 4, "intermediate_size": 64},  # no attention
    "mamba2": {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 8},
}
PROMPTS = [[5, 6, 7], [9], [10, 11, 12, 13, 14, 15, 16], [20, 21], [30, 31, 32, 33, 34, 35]]
# Their recurrences run over padding that stands before the text, in transformers' own forward pass too.
RIGHT_ONLY = {"mamba", "mamba2", "qwen3_next"}


def build(family):
    torch.manual_seed(0)
    sizes = {**SIZES, **FAMILIES[family]}
    config = AutoConfig.for_model(family, **{k: size for k, size in sizes.items() if size is not None})
    return AutoModelForCausalLM.from_config(config).eval()


def plain_states(model, prompt):
    with torch.no_grad():
        output = model(torch.tensor([prompt]), output_hidden_states=True, use_cache=False)
    states = [hidden[0, -1] for hidden in output.hidden_states]
    if model.config.model_type.startswith(
        "mamba"
    ):  # lists no embedding, and the last block twice: before the norm too
        states = [model.get_input_embeddings().weight[prompt[-1]].detach(), *states[:-2], states[-1]]
    return torch.stack(states)


def assert_close(found, expected):
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def test_states_are_those_of_output_hidden_states_prompt_by_prompt(family):
    model = build(family)
    layers = resolve_layers(model, range(DEPTH + 1))
    clouds = record_states(model, PROMPTS, layers, pad_token_id=0, batch_size=3)
    for row, prompt in enumerate(PROMPTS):
        expected = plain_states(model, prompt)
        assert len(expected) == DEPTH + 1
        for layer in layers:
            assert_close(torch.from_numpy(clouds[layer][row]), expected[layer])
    assert not model.config.output_hidden_states
    if family in RIGHT_ONLY:
        return
    ids = torch.tensor([[0] * (7 - len(prompt)) + prompt for prompt in PROMPTS])
    with torch.no_grad():
        states = prompt_states(model, ids, (ids != 0).long(), layers)
    for layer in layers:
        for row, prompt in enumerate(PROMPTS):
            assert_close(states[layer][row], plain_states(model, prompt)[layer])


def test_the_pass_ends_at_the_deepest_layer(family):
    model = build(family)
    ran = []
    for module in model.modules():
        module.register_forward_hook(lambda module, args, output: ran.append(module))
    record_states(model, PROMPTS[:1], [0, 2], pad_token_id=0)
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == DEPTH)
    assert [block in ran for block in blocks] == [True, True, False, False]
    assert model not in ran


def llava():
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8,
        patch_size=4, projection_dim=16,
    )  # fmt: skip
    text = LlamaConfig(**SIZES)
    return transformers.LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_index=60)
    )


def qwen2_5_vl():
    from transformers import Qwen2_5_VLConfig

    vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 32}
    rope = {"rope_type": "default", "type": "default", "mrope_section": [1, 1, 2]}
    text = {**SIZES, "rope_scaling": rope}
    return transformers.Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=60, video_token_id=61,
                         vision_start_token_id=62, vision_end_token_id=63)
    )  # fmt: skip


def gemma3():
    from transformers import Gemma3Config, Gemma3TextConfig, SiglipVisionConfig

    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=8,
        patch_size=4,
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=Gemma3TextConfig(**SIZES),
            vision_config=vision,
            mm_tokens_per_image=4,
            image_token_index=60,
        )
    )


@pytest.mark.parametrize("build_one", [llava, qwen2_5_vl, gemma3])
def test_of_a_multimodal_model_the_text_decoder_is_recorded(build_one):
    torch.manual_seed(0)
    model = build_one().eval()
    layers = resolve_layers(model, range(DEPTH + 1))
    clouds = record_states(model, PROMPTS, layers, pad_token_id=0, batch_size=3)
    for row, prompt in enumerate(PROMPTS):
        for layer in layers:
            assert_close(torch.from_numpy(clouds[layer][row]), plain_states(model, prompt)[layer])


def test_an_encoder_decoder_is_refused_by_name():
    config = transformers.T5Config(d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2, vocab_size=64)
    with refused(name="model", expected="decoder-only", got="the encoder-decoder T5ForConditionalGeneration"):
        resolve_layers(transformers.T5ForConditionalGeneration(config), 2)


def test_a_model_whose_blocks_pass_several_streams_is_refused_by_name():
    config = transformers.Gemma3nTextConfig(
        **{**SIZES, "intermediate_size": [48] * DEPTH}, vocab_size_per_layer_input=64,
        hidden_size_per_layer_input=8, num_kv_shared_layers=0, laurel_rank=4,
        activation_sparsity_pattern=[0.0] * DEPTH, layer_types=["full_attention"] * DEPTH,
    )  # fmt: skip
    model = transformers.Gemma3nForCausalLM(config).eval()
    with refused(name="model", expected="hidden states are of shape (batch, length, hidden_size)"):
        record_states(model, PROMPTS, [1], pad_token_id=0)
