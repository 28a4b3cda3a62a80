"""What a run is said to cost: counted by hand, and held against what a real one leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from support import REPOSITORY, small_params

from topoflow.config import load_params, parse_params
from topoflow.dynamics import trajectory
from topoflow.storage.layout import Run
from topoflow.study import stages
from topoflow.study.cost import Opened, Rates, Size, Texts, count, estimate, memory, obstacles
from topoflow.telling import duration

PARAMS = parse_params(small_params())  # 4 steps, checkpoints 0, 1, 2, 4; 2 layers, 24 prompts
SIZE = Size(n_parameters=1000, n_trainable=100, n_layers=2, hidden_size=16, vocab_size=300)
TEXTS = Texts([10] * 20 + [30] * 4, [50, 40, 20, 30])


def test_passes_tokens_and_bytes_are_those_counted_by_hand():
    params = replace(PARAMS, recording=replace(PARAMS.recording, batch_size=20))
    counts = count(params, SIZE, TEXTS)
    assert (counts.checkpoints, counts.cells, counts.forward_passes) == (4, 8, 8)
    assert counts.prompt_tokens == 20 * 10 + 4 * 30
    assert counts.training_tokens == 4 * (2 * 50 + 2 * 30) / 2  # batches of two, padded to the longer row
    assert counts.activation_bytes == 4 * 24 * (2 * 16 * 4 + 2 * 8 + min(SIZE.vocab_size, 256) * 4)
    assert counts.weight_bytes == 400
    assert counts.scratch_bytes == 2 * 3 * 400 + 3 * 24 * 300 * 4
    assert (counts.held_out_tokens, counts.answers) == (4 * 160 / 4, PARAMS.recording.answers)
    assert counts.compared == 2 * 24 * 300  # with the first checkpoint and the one before
    assert counts.rotated == 2 * PARAMS.claims.n_rotations * 4 * 2 * PARAMS.claims.rotation_subsamples


def test_a_pass_has_no_more_tokens_than_are_recorded_at_once():
    params = replace(PARAMS, recording=replace(PARAMS.recording, batch_size=20, batch_tokens=60))
    counts = count(params, SIZE, TEXTS, steps=[0])
    assert counts.forward_passes == 6  # of 6, 6, 6 and 2 prompts of 10 tokens, and 2 and 2 of 30
    assert counts.prompt_tokens == 20 * 10 + 4 * 30
    assert counts.memory.host["states"] == 4 * 60 * 8 * 16
    assert counts.memory.host["logits"] == 12 * 6 * 300


@pytest.mark.parametrize(
    ("device", "batch_tokens", "trained"),
    [
        ("cuda", None, True),
        ("cuda", 64, True),
        ("cuda", None, False),
        ("cpu", None, True),
        ("cpu", 64, False),
    ],
)
def test_passes_and_tokens_are_those_of_a_recording(model, tokenizer, device, batch_tokens, trained):
    import torch

    from topoflow import TopologyCallback
    from topoflow.recording.callback import tokenize_prompts

    passes = []
    model.register_forward_pre_hook(
        lambda _, __, kwargs: passes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    params = replace(
        PARAMS,
        finetune=replace(PARAMS.finetune, max_length=16),
        recording=replace(PARAMS.recording, batch_size=8, batch_tokens=batch_tokens),
    )
    arguments = SimpleNamespace(
        device=torch.device(device), per_device_train_batch_size=2, dataloader_num_workers=0,
        **({"max_length": 16} if trained else {}),  # else these are checkpoints of a finished training
    )  # fmt: skip
    prompts = ["x" * i for i in range(1, 17)]
    callback = TopologyCallback(prompts, [4], batch_size=8, batch_tokens=batch_tokens)
    state = SimpleNamespace(global_step=0, max_steps=0, log_history=[])
    callback.on_train_begin(arguments, state, None, model=model, processing_class=tokenizer)
    lengths = [len(ids) for ids in tokenize_prompts(tokenizer, prompts, params.recording.max_length)]
    texts = Texts(lengths, [16] * 4 if trained else [])
    opened = Opened(accelerator=device == "cuda")
    counts = count(params, SIZE, texts, None if trained else [0], opened=opened)
    assert counts.forward_passes == counts.checkpoints * len(passes)
    assert counts.prompt_tokens == sum(size * length for size, length in passes)


def held(**changes):
    """The memory of a run that is changed, and which pass is the largest: (host, device, pass)."""
    opened, size = changes.pop("opened", Opened()), changes.pop("size", SIZE)
    prepare = replace(PARAMS.prepare, held_out=changes.pop("held_out", 0))
    params = replace(PARAMS, prepare=prepare, finetune=replace(PARAMS.finetune, **changes))
    found = memory(params, size, TEXTS, opened)
    return dict(found.host), dict(found.device), found.largest


def test_memory_is_that_counted_by_hand_line_by_line():
    tokens = 2 * 50  # a batch, padded to the longest row
    kept, tiles = 4 * tokens * 2 * 18 * 16, 4 * tokens * 300 * 8
    stays = {"weights": 4000, "adapters": 400, "gradients": 400, "Adam's moments": 800}
    training = {"activations": kept, "logits": tiles, "allocator": round(0.3 * (kept + tiles))}
    host, device, largest = held()
    assert (host, device, largest) == ({"process": 800_000_000, **stays, **training}, {}, "training")
    host, _, _ = held(sft_config={"activation_checkpointing": True})
    assert host["activations"] == 4 * tokens * (2 + 18) * 16
    host, _, _ = held(lora=None)  # SIZE has 100 weights that are trained
    assert "adapters" not in host
    assert (host["gradients"], host["Adam's moments"]) == (400, 800)


def test_the_loss_is_computed_in_tiles_so_that_a_large_vocabulary_costs_no_more_memory():
    wide = replace(SIZE, vocab_size=262_144)
    assert held(size=wide)[0]["logits"] == 4 * 100 * 32768 * 8
    host, _, largest = held(size=wide, held_out=4)  # whose logits are whole
    assert largest == "held-out loss"
    assert host["logits"] == 12 * 100 * 262_144


def test_on_a_card_the_weights_pass_through_the_host_and_copies_are_counted_under_autocast():
    mixed = Opened("float32", autocast=True, accelerator=True)
    size = Size(n_parameters=10_000, n_trainable=100, n_layers=2, hidden_size=16, vocab_size=300)
    host, device, _ = held(size=size, opened=mixed)
    assert host == {"process": 800_000_000, "weights": 40_000}
    assert device["context"] == 600_000_000
    assert device["bfloat16 copies of weights"] == 2 * (10_000 - 300 * 16)
    assert device["logits"] == 4 * 100 * 32768  # one buffer of its full width
    _, device, _ = held(size=size, opened=mixed, sft_config={"activation_checkpointing": True})
    assert device["bfloat16 copies of weights"] == 10_000 - 300 * 16  # those of one block of two
    _, device, _ = held(size=size, opened=Opened("bfloat16", accelerator=True))
    assert device["weights"] == 20_000
    assert "bfloat16 copies of weights" not in device
    _, device, _ = held(size=size, opened=Opened("bfloat16", four_bits=True, accelerator=True))
    assert device["weights"] == 2 * 2 * 300 * 16 + 400 * 4.5 / 8  # embedding and head stay as they are


def test_the_backward_pass_keeps_copies_of_frozen_weights_under_autocast(tokenizer):
    """What autograd saves of a real model is what the arithmetic counts."""
    import torch
    from peft import get_peft_model
    from support import llama

    from topoflow.training.sft import lora_config

    network = get_peft_model(llama(len(tokenizer)), lora_config(PARAMS.finetune)).train()
    ids = torch.arange(12)[None]
    shapes = {
        tuple(sorted(weights.shape)) for name, weights in network.named_parameters() if "base_layer" in name
    }
    blocks = sum(weights.numel() for name, weights in network.named_parameters() if "base_layer" in name)

    def copies() -> int:
        """Bytes of matrices in bfloat16, of the shape of a frozen weight, that one forward pass saves."""
        found: dict[int, int] = {}

        def pack(saved):
            if saved.dtype == torch.bfloat16 and saved.dim() == 2 and tuple(sorted(saved.shape)) in shapes:
                found[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
            return saved

        with (
            torch.autocast("cpu", dtype=torch.bfloat16),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved),
        ):
            kept = network(input_ids=ids, labels=ids).loss  # noqa: F841 (holds what was saved)
        return sum(found.values())

    first = 3 * 32 * 32  # queries, keys and values of the first block: what they read needs no gradient
    assert copies() == 2 * (blocks - first)


def test_checkpoints_that_are_there_cost_no_training():
    counts = count(PARAMS, SIZE, replace(TEXTS, rows=[]), steps=range(1000))
    assert (counts.steps, counts.training_tokens, counts.weight_bytes) == (0, 0, 0)
    assert (counts.checkpoints, counts.cells, counts.models_opened) == (1000, 2000, 1000)
    assert count(PARAMS, SIZE, TEXTS, range(1000), adapters=True).models_opened == 1  # of the base alone
    assert count(PARAMS, SIZE, TEXTS).models_opened == 1
    # each of three subsamples: three ways along the run, and the pairs of 128 checkpoints; bands and floor beside
    pairs = trajectory.MOST_PAIRED * (trajectory.MOST_PAIRED - 1) // 2
    assert counts.h1_distances == (3 * 999 + pairs) * 3 + 999 * 20 * 8 + 32


def test_times_add_up_and_workers_share_cells_but_no_layer():
    counts = count(PARAMS, SIZE, TEXTS)
    rates = Rates.assumed(SIZE, PARAMS, flops=1e6)
    assert rates.training_token == pytest.approx((4 * 1000 + 2 * 100) / 1e6)
    one, two, many = (estimate(counts, rates, n) for n in (1, 2, 64))
    trained = counts.training_tokens * rates.training_token
    trained += 4 * counts.prompt_tokens * rates.forward_token + 4 * counts.compared * rates.compared
    trained += 4 * (counts.held_out_tokens * rates.held_out_token + 40 * rates.answered)  # at each checkpoint
    assert one["finetune"] == pytest.approx(rates.start + rates.open_model + trained)
    begin = rates.start / 4
    assert one["diagrams"] - begin == pytest.approx(2 * (two["diagrams"] - begin))
    assert one["trajectory"] - begin == pytest.approx(2 * (two["trajectory"] - begin))
    assert many["trajectory"] == two["trajectory"]
    assert one["rotations"] == pytest.approx(2 * two["rotations"])
    assert one["rotations"] == pytest.approx(counts.rotated * 5 * rates.diagram)


def test_labels_of_prompts_cost_labelings_ways_and_probes_of_each_layer_in_the_stage_trajectory():
    """Twice 40 labelings and 40 ways at 4 checkpoints; a class that is drawn whole is drawn once, any other 4 times."""
    labelled = replace(TEXTS, classes=(20, 30, 40))
    assert (PARAMS.claims.n_rotations, PARAMS.claims.rotation_subsamples) == (39, 4)
    params = replace(
        PARAMS,
        prompts=replace(PARAMS.prompts, n_prompts=90),
        topology=replace(PARAMS.topology, subsample_size=80),
    )
    counts = count(params, SIZE, labelled)
    assert (counts.labelings, counts.ways, counts.probes) == (2 * 40 * 4, 40 * 4, 4)
    rates = Rates.assumed(SIZE, params, 1e6, labelled.classes)
    assert rates.labeling == pytest.approx((1 + 4 + 4) * (20 / 160) ** 2 * (0.5e-3 + 0.04e-3 + 0.047e-3))
    plain = estimate(count(params, SIZE, TEXTS), Rates.assumed(SIZE, params, 1e6), 1)
    more = {stage: seconds - plain[stage] for stage, seconds in estimate(counts, rates, 1).items()}
    layer = 320 * rates.labeling + 160 * rates.way + 4 * rates.probe
    assert {stage for stage, seconds in more.items() if seconds} == {"trajectory"}
    assert more["trajectory"] == pytest.approx(2 * layer)


def test_blocks_that_are_checkpointed_go_forward_twice():
    changed = replace(PARAMS, finetune=replace(PARAMS.finetune, sft_config={"gradient_checkpointing": True}))
    assert Rates.assumed(SIZE, changed, flops=1e6).training_token == pytest.approx((6 * 1000 + 2 * 100) / 1e6)


def test_voids_cost_time_in_the_stage_that_computes_diagrams_and_in_no_other():
    params = replace(PARAMS, topology=replace(PARAMS.topology, maxdim=2))
    counts = count(params, SIZE, TEXTS)
    without, with_voids = (estimate(counts, Rates.assumed(SIZE, p, 1e6), 1) for p in (PARAMS, params))
    more = {
        stage: with_voids[stage] - without[stage] for stage in without if with_voids[stage] != without[stage]
    }
    each = (PARAMS.topology.subsample_size / 160) ** 3 * 17e-3
    assert more == {"diagrams": pytest.approx(counts.diagrams[0] * each)}


def test_what_cannot_fit_is_said_with_what_would_help():
    counts = count(PARAMS, SIZE, TEXTS)
    assert obstacles(counts, 10**12, 10**12) == []
    disk, memory = obstacles(counts, 1000, 2000)
    assert disk.startswith("it needs ")
    assert "1.0 kB are free; record fewer layers or checkpoints" in disk
    assert "2.0 kB are available; choose a smaller model" in memory


def test_the_bytes_of_activations_are_those_that_a_run_leaves(tmp_path, monkeypatch, model_cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOFLOW_CACHE", str(model_cache))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    Path("params.yaml").write_text(yaml.safe_dump(small_params()))
    from topoflow.study.calibration import look

    run = Run("tiny", "helpful", 0)
    before = look(PARAMS, run)
    stages.model(PARAMS, "tiny")
    stages.prompts(PARAMS)
    stages.prepare(PARAMS, "helpful")
    after = look(PARAMS, run)
    assert (before.size, before.texts) == (after.size, after.texts)  # before a weight is made, as after
    stages.finetune(PARAMS, run)
    counts = count(PARAMS, after.size, after.texts)
    arrays = list(run.folder("activations").rglob("*.npy"))
    written = sum(path.stat().st_size for path in arrays) - 128 * len(arrays)  # the header of each
    assert counts.activation_bytes == written
    weights = run.folder("tuned") / "adapter_model.safetensors"
    assert counts.weight_bytes == pytest.approx(weights.stat().st_size, rel=0.5)


SEVEN_BILLION = Size(7_000_000_000, 40_000_000, 32, 4096, 32_000)
THEIR_TEXTS = Texts([150] * 750, [300] * 8000, assumed=True)


def test_a_thousand_checkpoints_of_seven_billion_parameters_by_hand():
    preset = load_params(REPOSITORY / "topoflow" / "presets" / "hh_rlhf_7b.yaml")
    counts = count(preset, SEVEN_BILLION, THEIR_TEXTS, steps=range(1000))
    assert counts.activation_bytes == 1000 * 750 * (5 * 4096 * 4 + 2 * 8 + 256 * 4)  # 62 GB
    seconds = estimate(counts, Rates.assumed(SEVEN_BILLION, preset, flops=8 * 2e14), n_workers=64)
    passes = 1000 * 750 * 150 * 2 * 7e9 / 1.6e15
    compared = 1000 * 2 * 750 * 32_000 * 6e-8
    assert seconds["finetune"] == pytest.approx(passes + compared + 1000 * 28 + 12)
    assert duration(passes) == "16.4 min"
