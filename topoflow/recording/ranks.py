"""Several processes that train one model: which prompts each records, and how a failure of one reaches the others.

Prompts are shared among the ranks, and rank 0 gets what all of them found. Objects travel through torch.distributed's
own collectives over the group that the training has opened; where there is none, every function does the plain thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn

from topoflow.errors import InvalidArgument, Words

T = TypeVar("T")


def rank_and_size() -> tuple[int, int]:
    """The number of this process and how many there are: (0, 1) outside distributed training."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def share(items: Sequence[T], rank: int, size: int) -> list[T]:
    """The items of one rank: each `size`-th; where they run out, the first again.

    All ranks have equally many, because each must take part in every forward pass of a model that is sharded over them.

    Examples
    --------
    >>> [share("abcde", rank, 2) for rank in range(2)]
    [['a', 'c', 'e'], ['b', 'd', 'a']]
    """
    rounds = math.ceil(len(items) / size)
    own = list(items[rank::size])
    return own + [items[0]] * (rounds - len(own))


def on_each(act: Callable[[], T]) -> T:
    """Act on every rank; where one fails, all raise, so that none is left waiting for it.

    Raises
    ------
    RuntimeError
        When another rank has failed. The rank that has raises its own error.
    """
    rank, size = rank_and_size()
    if size == 1:
        return act()
    failure: Exception | None = None
    try:
        result = act()
    except Exception as error:
        failure = error
    failures: list[str | None] = [None] * size
    dist.all_gather_object(failures, None if failure is None else f"{type(failure).__name__}: {failure}")
    if failure is not None:
        raise failure
    for other, message in enumerate(failures):
        if message is not None:
            raise RuntimeError(f"rank {other} has failed, and so rank {rank} stops: {message}")
    return result


def on_first(act: Callable[[], T]) -> T:
    """Act on rank 0 and give each rank what came of it; a failure there is raised on all."""
    rank, size = rank_and_size()
    found: list[Any] = [on_each(lambda: act() if rank == 0 else None)]
    if size > 1:
        dist.broadcast_object_list(found, src=0)
    return found[0]  # type: ignore[no-any-return]


def gathered(part: T) -> list[T]:
    """The parts of all ranks, in their order, on rank 0; nothing on the others."""
    rank, size = rank_and_size()
    if size == 1:
        return [part]
    parts: list[Any] = [None] * size if rank == 0 else []
    dist.gather_object(part, parts if rank == 0 else None, dst=0)
    return parts


def unwrapped(model: nn.Module) -> nn.Module:
    """The model of transformers inside DistributedDataParallel, DataParallel or torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif (inner := model._modules.get("_orig_mod")) is not None:
            model = inner
        else:
            return model


def sharded_modules(model: nn.Module) -> list[nn.Module]:
    """The modules of which FSDP2 has given each rank a part; none where every rank holds the model whole."""
    if rank_and_size()[1] == 1:  # spares a plain training the import
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def check_parallelism(model: nn.Module) -> None:
    """Refuse what recording could not follow, before training.

    Raises
    ------
    InvalidArgument
        When DeepSpeed (ZeRO-3) or the first FSDP has partitioned the parameters, or when ranks share one batch
        (tensor, context or sequence parallelism).
    """
    expected = "whole on each rank, or sharded by FSDP2, to be recorded"
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        got = Words("parameters that DeepSpeed ZeRO-3 has partitioned")
        raise InvalidArgument(
            "model",
            expected,
            got,
            "its engine alone puts them together; train with FSDP2, or with ZeRO stage 1 or 2",
        )
    if rank_and_size()[1] == 1:
        return
    from accelerate.state import AcceleratorState
    from torch.distributed.fsdp import FullyShardedDataParallel

    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        got = Words("one that FSDP1 has sharded")
        raise InvalidArgument(
            "model",
            expected,
            got,
            "its own wrapper alone puts the parameters together; set fsdp_version to 2",
        )
    plan = getattr(AcceleratorState(), "parallelism_config", None)
    sharing = max(plan.non_data_parallel_size if plan else 1, getattr(model, "tp_size", None) or 1)
    if sharing > 1:
        expected = "each rank's own (DDP or FSDP2) for a model to be recorded"
        got = Words(f"{sharing} ranks that share one (tensor, context or sequence parallelism)")
        raise InvalidArgument("batches", expected, got)
