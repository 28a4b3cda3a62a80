"""Trainings on two real processes: DDP and FSDP, gloo. What each does is in train_on_ranks.py."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.spatial.distance import jensenshannon
from small_trainers import PROMPTS, TRAINERS, build
from support import environment, path_with, refused

from topoflow.recording.callback import tokenize_prompts
from topoflow.recording.hidden_states import record_states
from topoflow.recording.ranks import check_parallelism, on_each, on_first, share

SCRIPT = Path(__file__).parent / "train_on_ranks.py"
slow = pytest.mark.slow
# Every kind of Trainer under DeepSpeed, one rank: recorded as transformers itself gives the states, or refused by name.
DEEPSPEED = """
import sys
import torch
from small_trainers import PROMPTS, TRAINERS, build
from topoflow.recording.callback import TopologyCallback
from topoflow.config.schedule import Schedule
from topoflow.embedded.recipe import byte_tokenizer

stage = int(sys.argv[1])
config = {
    "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
    "zero_allow_untested_optimizer": True, "zero_optimization": {"stage": stage},
}
ids = torch.tensor([byte_tokenizer()(PROMPTS[0])["input_ids"]])
for kind in TRAINERS:
    callback = TopologyCallback(PROMPTS, [2, 4], Schedule(twins=0), behaviour=kind != "Reward")
    trainer = build(kind, f"{sys.argv[2]}/{kind}", callback, lora=True, deepspeed=config, use_cpu=False)
    try:
        trainer.train()
    except ValueError as error:
        print(f"{kind} refused at step {trainer.state.global_step}: {error}")
        continue
    assert type(trainer.model_wrapped).__name__ == "DeepSpeedEngine"
    assert callback.steps == [0, 2]
    with torch.no_grad():
        hidden = trainer.model.eval()(ids, output_hidden_states=True).hidden_states
    for layer, cloud in callback.clouds[2].items():
        expected = hidden[layer][0, -1].numpy()
        assert abs(cloud[0] - expected).max() <= 1e-5 * abs(expected).max()
    print(f"{kind} recorded")
"""


def launch(warm, folder, engine, *scenarios, seconds=300):
    """Two ranks, as `accelerate launch` starts them; it ends the other when one dies."""
    # `accelerate launch`; the defaults of its flags depend on what stands in the user's home, so they are given
    command = ["python", "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0"]
    changes = {"PYTHONPATH": path_with(), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run(
        [*command, str(SCRIPT), str(folder), engine, *scenarios],
        env=environment(warm, **changes), capture_output=True, text=True, timeout=seconds,
    )  # fmt: skip


@pytest.fixture(scope="module", params=["ddp", "fsdp2"])
def ranks(request, tmp_path_factory, warm):
    """(folder, engine, what rank 0 saw, what rank 1 saw), of all scenarios that end well."""
    engine, folder = request.param, tmp_path_factory.mktemp(request.param)
    scenarios = [
        "record",
        "unchanged",
        "stop",
        "each",
        "each_in_bf16",
        "each_stopped",
        "each_resumed",
        "still",
        "fits",
    ]
    scenarios += ["tracked", "fails"] if engine == "ddp" else []
    result = launch(warm, folder, engine, *scenarios)
    assert result.returncode == 0, result.stderr[-5000:]
    return folder, engine, *(json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(2))


@pytest.fixture(scope="module")
def witness(tokenizer):
    """One process and the whole model, from the weights that training began or ended with."""
    sys.path.insert(0, str(SCRIPT.parent))
    import train_on_ranks

    sys.path.remove(str(SCRIPT.parent))
    ids = tokenize_prompts(tokenizer, PROMPTS, 512)

    def states(weights=None):
        model = train_on_ranks.model(lora=True).eval()
        if weights is not None:
            model.load_state_dict(weights)
        with torch.no_grad():
            chances = [
                model(torch.tensor([row])).logits[0, -1].double().softmax(dim=0).numpy() for row in ids
            ]
        return record_states(model, ids, [0, 2, 4], pad_token_id=0), np.array(chances)

    return states


@slow
def test_states_are_those_of_one_process_at_both_ends_of_training(ranks, witness):
    folder, *_ = ranks
    trained = load_file(folder / "record" / "trained.safetensors")
    for step, weights in ((0, None), (4, trained)):
        expected, _ = witness(weights)
        for layer, cloud in expected.items():
            found = np.load(folder / f"record/set/step_{step:06}/layer_{layer:02}.npy", allow_pickle=False)
            assert found.dtype == np.float32
            assert np.abs(found - cloud).max() <= 1e-5 * np.abs(cloud).max(), (step, layer)
    assert any(value.abs().max() > 0 for name, value in trained.items() if "lora_B" in name)


@slow
def test_behaviour_is_that_of_one_process(ranks, witness):
    folder, *_ = ranks
    (_, first), (_, last) = witness(), witness(load_file(folder / "record" / "trained.safetensors"))
    found = np.load(folder / "record/set/step_000004/behaviour.npy", allow_pickle=False)
    assert found.shape == (2, 9)
    assert found[1] == pytest.approx(jensenshannon(first, last, axis=1) ** 2, rel=1e-2, abs=1e-9)
    assert found.min() > 0


@slow
@pytest.mark.parametrize("batch_size", [2, 5])
def test_a_training_that_moves_nothing_and_goes_on_in_one_process_has_no_divergence(
    ranks, tmp_path, batch_size, monkeypatch
):
    folder, engine, *_ = ranks
    if engine != "ddp":
        pytest.skip("the Trainer's own checkpoints of FSDP are not for one process")
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import train_on_ranks

    place = Path(shutil.copytree(folder / "still", tmp_path / "still"))
    for step in (3, 4):  # as if it had been killed
        shutil.rmtree(place / f"set/step_{step:06}")
    begun = str(place / "trainer/checkpoint-2")
    assert train_on_ranks.still("ddp", place, begun, batch_size)["steps"] == [0, 1, 2, 3, 4]
    found = [np.load(path, allow_pickle=False) for path in sorted(place.glob("set/step_*/behaviour.npy"))]
    assert len(found) == 5
    assert np.max(found) < 1e-9


@slow
def test_ranks_make_as_many_passes_and_the_first_alone_writes(ranks):
    folder, engine, *saw = ranks
    first, second = (rank["record"] for rank in saw)
    assert first["wrapped"].startswith({"ddp": "DistributedDataParallel", "fsdp2": "FSDP"}[engine])
    # nine prompts, at most four a pass: three batches of three, two passes a rank; at steps 0, 2, 4
    assert first["passes"] == second["passes"] == 6
    assert first["steps"] == second["steps"] == first["called"] == first["metrics"] == [0, 2, 4]
    assert second["called"] == second["metrics"] == []
    names = sorted(path.name for path in (folder / "record/set").glob("step_*/*"))
    of_one = ["layer_00.npy", "layer_02.npy", "layer_04.npy", "behaviour.npy", "roots.npy"]
    assert names == sorted(of_one * 3)


@slow
def test_recording_changes_no_bit_of_the_training(ranks):
    *_, first, _ = ranks
    assert first["unchanged"]["equal"]
    assert first["unchanged"]["trained"] > 10


@slow
def test_all_ranks_stop_at_the_same_step(ranks):
    *_, first, second = ranks
    for saw in (first, second):
        assert saw["stop"]["steps"] == [0, 1, 2]
        assert saw["stop"]["stopped_at"] == saw["stop"]["global_step"] == 2
    assert (first["stop"]["floors"], second["stop"]["floors"]) == (2, 0)


@slow
@pytest.mark.parametrize("scenario", ["each", "each_in_bf16"])
@pytest.mark.parametrize("kind", TRAINERS)
def test_every_trainer_is_recorded_as_in_one_process(ranks, tokenizer, tmp_path, kind, scenario):
    folder, engine, *saw = ranks
    assert [rank[scenario][kind]["steps"] for rank in saw] == [[0, 2], [0, 2]]
    assert saw[0][scenario][kind]["wrapped"].startswith({"ddp": "Distrib", "fsdp2": "FSDP"}[engine])
    model = build(kind, tmp_path, lora=True).model.eval()
    trained = load_file(folder / scenario / kind / "trained.safetensors")
    assert any(value.abs().max() > 0 for name, value in trained.items() if "lora_B" in name)
    model.load_state_dict(trained)
    witness = record_states(model, tokenize_prompts(tokenizer, PROMPTS, 512), [2, 4], pad_token_id=0)
    with np.load(folder / scenario / kind / "clouds.npz", allow_pickle=False) as found:
        for layer, expected in witness.items():
            assert found[str(layer)].dtype == np.float32
            error = np.abs(found[str(layer)] - expected).max() / np.abs(expected).max()
            # bfloat16 has eight bits: it is near float32, and cannot be nearer
            assert 1e-4 < error < 3e-2 if scenario == "each_in_bf16" else error <= 1e-5


@slow
@pytest.mark.parametrize("kind", TRAINERS)
def test_every_trainer_ends_early_on_all_ranks_with_activation_checkpointing(ranks, kind):
    *_, first, second = ranks
    assert first["each_stopped"][kind] == second["each_stopped"][kind] == [[0, 1, 2], 2, 2]


@slow
@pytest.mark.parametrize("kind", TRAINERS)
def test_every_trainer_that_is_resumed_ends_with_the_same_bits(ranks, kind):
    *_, first, second = ranks
    for saw in (first, second):
        assert saw["each_resumed"][kind] == {"steps": [0, 1, 2, 3, 4], "equal": True, "written again": True}


@slow
def test_one_rank_logs_and_an_error_of_one_is_raised_on_both(ranks):
    _, engine, first, second = ranks
    if engine != "ddp":
        pytest.skip("under FSDP an error within a pass ends the process, which has a test of its own")
    assert first["tracked"]["logged"] > 40
    assert second["tracked"]["logged"] == 0
    assert first["fails"]["first"] == "OSError: disk full"
    assert second["fails"]["first"].endswith("rank 0 has failed, and so rank 1 stops: OSError: disk full")
    assert second["fails"]["forward"] == "ValueError: broken"
    assert first["fails"]["forward"].endswith("rank 1 has failed, and so rank 0 stops: ValueError: broken")


@slow
def test_an_error_in_a_pass_of_one_rank_under_fsdp_ends_both(tmp_path, warm):
    result = launch(warm, tmp_path, "fsdp2", "fails", seconds=120)
    assert result.returncode != 0
    assert "ValueError: broken" in result.stderr
    assert not list(tmp_path.glob("rank_*.json"))


@slow
def test_a_rank_with_less_memory_records_in_smaller_passes(ranks, witness):
    folder, engine, *saw = ranks
    expected, _ = witness()
    with np.load(folder / "fits/clouds.npz", allow_pickle=False) as found:
        for layer, cloud in expected.items():
            assert np.abs(found[str(layer)] - cloud).max() <= 1e-5 * np.abs(cloud).max()
    first, second = (rank["fits"]["tried"] for rank in saw)
    assert [rank["fits"]["steps"] for rank in saw] == [[0, 2], [0, 2]]
    if engine == "fsdp2":  # each rank takes part in each pass, and none is too large
        assert len(first) == len(second)
        assert max(first + second) <= 40
    else:  # one rank halves, once and for all
        assert [tokens > 40 for tokens in second].count(True) == 1
        assert len(second) > len(first)


@slow
def test_a_pass_that_does_not_fit_under_fsdp_ends_the_training_before_its_first_step(tmp_path, warm):
    result = launch(warm, tmp_path, "fsdp2", "does_not_fit", seconds=120)
    assert result.returncode != 0
    assert "under FSDP no rank can halve it alone; record fewer tokens at once (batch_tokens" in result.stderr
    assert "a step of training" not in result.stdout
    assert not list(tmp_path.glob("rank_*.json"))


@slow
def test_a_model_that_fsdp1_has_sharded_is_refused_on_all_ranks(tmp_path, warm):
    result = launch(warm, tmp_path, "ddp", "refused", seconds=120)
    assert result.returncode == 0, result.stderr[-5000:]
    for rank in range(2):
        found = json.loads((tmp_path / f"rank_{rank}.json").read_text())["refused"]
        assert found["steps"] == []
        assert "got one that FSDP1 has sharded; " in found["error"]
        assert found["error"].endswith("set fsdp_version to 2")


@slow
@pytest.mark.skipif(not find_spec("deepspeed"), reason="DeepSpeed is not installed")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_under_deepspeed_models_that_are_whole_are_recorded_and_partitioned_ones_refused(tmp_path, stage):
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    result = subprocess.run(
        [sys.executable, "-c", DEEPSPEED, str(stage), str(tmp_path)],
        env=environment(PYTHONPATH=path_with(SCRIPT.parent.parent), DS_ACCELERATOR="cpu", **alone),
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-5000:]
    whole = "refused at step 0: model must be whole on each rank, or sharded by FSDP2, to be recorded"
    for kind in TRAINERS:
        assert f"{kind} {whole if stage == 3 else 'recorded'}" in result.stdout


# --- without processes ----------------------------------------------------------------------------


@pytest.mark.parametrize(("n_items", "size"), [(1, 4), (3, 2), (8, 4), (9, 4)])
def test_shares_are_of_one_length_and_leave_nothing_out(n_items, size):
    shares = [share(range(n_items), rank, size) for rank in range(size)]
    assert len({len(own) for own in shares}) == 1
    assert set().union(*shares) == set(range(n_items))


def test_where_there_is_one_process_everything_is_done_at_once():
    assert on_each(lambda: 1) == on_first(lambda: 1) == 1
    with pytest.raises(KeyError):
        on_each(lambda: {}["missing"])


def test_parameters_that_deepspeed_has_partitioned_are_refused_by_name(model):
    check_parallelism(model)
    model.lm_head.weight.ds_id = 0  # as ZeRO-3 marks them; DeepSpeed is not at hand
    with refused(
        name="model", got="parameters that DeepSpeed ZeRO-3 has partitioned", remedy="train with FSDP2"
    ):
        check_parallelism(model)


def test_what_several_ranks_cannot_be_followed_in_is_refused_by_name(model, monkeypatch):
    from accelerate import Accelerator
    from torch.distributed.fsdp import FullyShardedDataParallel

    Accelerator(cpu=True)
    monkeypatch.setattr("topoflow.recording.ranks.rank_and_size", lambda: (0, 2))
    check_parallelism(model)
    model._tp_size = 2  # as from_pretrained(tp_plan="auto") leaves it
    with refused(name="batches", got="2 ranks that share one (tensor, context or sequence parallelism)"):
        check_parallelism(model)
    model._tp_size = None
    model.wrapped = FullyShardedDataParallel.__new__(
        FullyShardedDataParallel
    )  # takes a process group to make
    torch.nn.Module.__init__(model.wrapped)
    with refused(name="model", got="one that FSDP1 has sharded", remedy="set fsdp_version to 2"):
        check_parallelism(model)
