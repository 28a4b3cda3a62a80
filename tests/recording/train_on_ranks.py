"""Small trainings on several ranks, recorded; what each rank saw goes into FOLDER/rank_N.json.

    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 train_on_ranks.py FOLDER ENGINE SCENARIO...

The engine is ddp, fsdp1 or fsdp2. Accelerate itself shards on accelerators alone, and so FSDP is put into its state
here; from there on, wrapping and training are accelerate's and the Trainer's own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import FullyShardedDataParallelPlugin, PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers import Trainer

sys.path.insert(0, str(Path(__file__).parent.parent))
import small_trainers
from small_trainers import PROMPTS, TRAINERS, build
from support import llama

from topoflow.config import Topology
from topoflow.config.schedule import Schedule
from topoflow.embedded.recipe import byte_tokenizer
from topoflow.recording.callback import TopologyCallback

MANY = [f"Prompt {i * i} ends in {chr(65 + i)}" for i in range(59)]


def model(lora: bool = False) -> Any:
    network = llama(len(byte_tokenizer()), tie_word_embeddings=True)
    if not lora:
        return network
    torch.manual_seed(1)
    return get_peft_model(network, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))


def trainer(network: Any, engine: str, folder: Path, callback: Any, **changes: Any) -> Trainer:
    quiet = {"dataloader_pin_memory": False, "logging_strategy": "no"}
    made = small_trainers.trainer(
        network, folder / "trainer", *filter(None, [callback]), **{**quiet, **changes}
    )
    return shard(made, engine, bool(changes.get("bf16")))


def shard(made: Any, engine: str, bf16: bool = False) -> Any:
    """Have FSDP shard what a Trainer trains, if that is the engine."""
    if engine.startswith("fsdp"):
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=int(engine[-1]),
            auto_wrap_policy="transformer_based_wrap",
            cpu_ram_efficient_loading=False,
        )
        if bf16:
            plugin.set_mixed_precision("bf16")
        made.accelerator.state.fsdp_plugin = plugin
        made.accelerator.state.distributed_type = DistributedType.FSDP
        made.is_fsdp_enabled = True
    return made


def weights(made: Trainer) -> dict[str, torch.Tensor]:
    """The whole model, on every rank."""
    whole = {}
    for name, value in made.model.state_dict().items():
        value = value.full_tensor() if isinstance(value, DTensor) else value
        whole[name] = value.detach().clone().contiguous()
    return whole


def record(engine: str, folder: Path) -> dict[str, Any]:
    """LoRA, everything that can be recorded, into a folder."""
    network = model(lora=True)
    passes = []
    network.get_decoder().register_forward_hook(
        lambda module, args, output: None if module.training else passes.append(1)
    )
    callback = TopologyCallback(
        PROMPTS, [0, 2, 4], Schedule(steps=(2,)), folder=folder / "set", batch_size=4, behaviour=True,
        topology=Topology(n_subsamples=2, subsample_size=8), on_record=(called := []).append,
    )  # fmt: skip
    made = trainer(network, engine, folder, callback)
    made.train()
    trained = weights(made)
    if dist.get_rank() == 0:
        save_file(trained, folder / "trained.safetensors")
    return {
        "steps": callback.steps,
        "called": called,
        "passes": len(passes),
        "metrics": sorted(callback.metrics),
        "wrapped": type(made.model_wrapped).__name__,
    }


def unchanged(engine: str, folder: Path) -> dict[str, Any]:
    """Trained twice, with and without the hook: equal weights, to the bit?"""
    ends = []
    for callback in (None, TopologyCallback(PROMPTS, 2, Schedule(every=1), batch_size=2, behaviour=True)):
        made = trainer(model(), engine, folder, callback)
        made.train()
        ends.append(weights(made))
    first, second = ends
    start = model().state_dict()
    return {
        "names": len(first),
        "equal": first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first),
        "trained": [not torch.equal(first[k], start[k]) for k in first].count(True),
    }


def each(engine: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Every kind of Trainer with LoRA; the weights and the states of the last step go into its folder."""
    found = {}
    for kind in TRAINERS:
        callback = TopologyCallback(
            PROMPTS, [2, 4], Schedule(twins=0), batch_size=4, behaviour=kind != "Reward"
        )
        made = shard(build(kind, folder / kind, callback, lora=True, **changes), engine, "bf16" in changes)
        made.train()
        trained = weights(made)
        if dist.get_rank() == 0:
            save_file(trained, folder / kind / "trained.safetensors")
            np.savez(folder / kind / "clouds.npz", **{str(k): v for k, v in callback.clouds[2].items()})
        found[kind] = {"steps": callback.steps, "wrapped": type(made.model_wrapped).__name__}
    return found


def each_in_bf16(engine: str, folder: Path) -> dict[str, Any]:
    """The same in mixed precision."""
    return each(engine, folder, bf16=True)


def each_stopped(engine: str, folder: Path) -> dict[str, Any]:
    """Every kind of Trainer, with activation checkpointing: training that hardly moves ends early."""
    found = {}
    for kind in TRAINERS:
        callback = TopologyCallback(
            MANY, [2, 4], Schedule(every=1), topology=Topology(n_subsamples=2, subsample_size=24), stop_when_stable=2,
        )  # fmt: skip
        changes = {"learning_rate": 1e-6, "max_steps": 5, "activation_checkpointing": True}
        made = shard(build(kind, folder / kind, callback, lora=True, **changes), engine)
        made.train()
        found[kind] = [callback.steps, callback.stopped_at, made.state.global_step]
    return found


def each_resumed(engine: str, folder: Path) -> dict[str, Any]:
    """Every kind of Trainer resumed at step 2 of 4, and not interrupted: equal states at the end, to the bit?"""
    found = {}
    for kind in TRAINERS:
        place, ends = folder / kind, []
        for begun in (None, str(place / "checkpoint-2")):
            callback = TopologyCallback(PROMPTS, [4], Schedule(every=1), folder=place / "set", batch_size=4)
            changes = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
            made = shard(build(kind, place, callback, lora=True, **changes), engine)
            made.train(resume_from_checkpoint=begun)
            dist.barrier()
            last = place / "set/step_000004/layer_04.npy"
            ends.append((last.read_bytes(), last.stat().st_mtime_ns))
            dist.barrier()
        (whole, first), (again, second) = ends
        found[kind] = {"steps": callback.steps, "equal": whole == again, "written again": first != second}
    return found


def still(engine: str, folder: Path, begun: str | None = None, batch_size: int = 2) -> dict[str, Any]:
    """A training that moves nothing, to be resumed at step 2 of 4: no answer may seem to have changed."""
    callback = TopologyCallback(
        PROMPTS, [4], Schedule(every=1), folder=folder / "set", batch_size=batch_size, behaviour=True
    )
    made = trainer(model(), engine, folder, callback, learning_rate=0.0, save_strategy="steps", save_steps=2)
    made.train(resume_from_checkpoint=begun)
    return {"steps": callback.steps}


def stop(engine: str, folder: Path) -> dict[str, Any]:
    """Training that hardly moves ends early, on all ranks at once."""
    callback = TopologyCallback(
        MANY, [2, 4], Schedule(every=1), topology=Topology(n_subsamples=2, subsample_size=24), stop_when_stable=2,
    )  # fmt: skip
    made = trainer(model(), engine, folder, callback, learning_rate=1e-6)
    made.train()
    return {
        "steps": callback.steps,
        "stopped_at": callback.stopped_at,
        "global_step": made.state.global_step,
        "floors": len(callback.floors),
    }


def tracked(engine: str, folder: Path) -> dict[str, Any]:
    """Each rank in a run of its own; only the first may log."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/rank_{dist.get_rank()}.db")
    with mlflow.start_run() as run:
        callback = TopologyCallback(PROMPTS, [4], topology=Topology(n_subsamples=1, subsample_size=8))
        trainer(model(), engine, folder, callback, max_steps=1).train()
    return {"logged": len(mlflow.get_run(run.info.run_id).data.metrics)}


def fails(engine: str, folder: Path) -> dict[str, Any]:
    """An error of rank 0 in what it does alone, and one of rank 1 in its forward pass."""

    def refuse(step: int) -> None:
        raise OSError("disk full")

    def broken(module: Any, args: Any, output: Any) -> None:
        if dist.get_rank() == 1 and not module.training:
            raise ValueError("broken")

    network = model()
    found = {}
    for name, callback in (
        ("first", TopologyCallback(PROMPTS, [2], on_record=refuse)),
        ("forward", TopologyCallback(PROMPTS, [4])),
    ):
        if name == "forward":
            network = model()
            network.get_decoder().register_forward_hook(broken)
        made = trainer(network, engine, folder, callback)
        if name == "forward" and engine != "ddp":
            made.train()  # ends this process, and with it the other
        try:
            made.train()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


# Tokens of a forward pass that fit into the memory of rank 1; batches of three prompts have 33 to 57.
ROOM = 40


def _short_of_memory(network: Any) -> list[int]:
    """Have rank 1 run out of memory in any recorded pass of more tokens; returns the tokens of each that is tried."""
    tried: list[int] = []

    def overflow(module: Any, args: Any, kwargs: Any) -> None:
        if not module.training:
            tried.append(kwargs["input_ids"].numel())
            if dist.get_rank() == 1 and tried[-1] > ROOM:
                raise torch.OutOfMemoryError("CUDA out of memory")

    network.get_decoder().register_forward_pre_hook(overflow, with_kwargs=True)
    return tried


def fits(engine: str, folder: Path) -> dict[str, Any]:
    """Rank 1 has less memory: under DDP it halves its own batches, under FSDP no batch has more tokens than fit."""
    network = model(lora=True)
    tried = _short_of_memory(network)
    given = {"batch_tokens": ROOM} if engine.startswith("fsdp") else {}
    callback = TopologyCallback(PROMPTS, [0, 2, 4], Schedule(twins=0), batch_size=4, behaviour=True, **given)
    made = trainer(network, engine, folder, callback, max_steps=2)
    made.train()
    if dist.get_rank() == 0:
        np.savez(folder / "clouds.npz", **{str(k): v for k, v in callback.clouds[0].items()})
    return {"steps": callback.steps, "tried": tried}


def does_not_fit(engine: str, folder: Path) -> dict[str, Any]:
    """The same without a bound: under FSDP the first recording ends the training, before a step is made."""
    network = model()
    _short_of_memory(network)
    network.get_decoder().register_forward_hook(
        lambda module, *_: print("a step of training") if module.training else None
    )
    trainer(network, engine, folder, TopologyCallback(PROMPTS, [4], batch_size=4)).train()
    return {}


def refused(engine: str, folder: Path) -> dict[str, Any]:
    """What recording cannot follow is refused on all ranks, before a step is made."""
    # accelerate itself has FSDP1 wrap on accelerators alone
    network = FullyShardedDataParallel(model(), device_id=torch.device("cpu"))
    callback = TopologyCallback(PROMPTS, [4])
    made = trainer(network, "none", folder, callback)
    try:
        callback.on_train_begin(
            made.args, made.state, made.control, model=network, processing_class=byte_tokenizer()
        )
    except ValueError as error:
        return {"error": str(error), "steps": callback.steps}
    return {}


if __name__ == "__main__":
    folder, engine, *scenarios = sys.argv[1:]
    PartialState(cpu=True)  # opens the process group
    saw = {name: globals()[name](engine, Path(folder) / name) for name in scenarios}
    (Path(folder) / f"rank_{dist.get_rank()}.json").write_text(json.dumps(saw))
    dist.destroy_process_group()
