"""One process and one device: how a stage trains, however many there are."""

from __future__ import annotations

import logging
import os

from topoflow.errors import InvalidArgument

logger = logging.getLogger(__name__)

# What a launcher sets, and accelerate reads.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def check_single_process() -> None:
    """Refuse to be one of several processes that a launcher has begun: each would run the whole stage.

    Raises
    ------
    InvalidArgument
        When `accelerate launch`, `torchrun` or MPI has begun more than one.
    """
    for name in _WORLD_SIZES:
        if (size := os.environ.get(name, "")).isdigit() and int(size) > 1:
            raise InvalidArgument(
                name,
                "1 or unset, since a stage is a single process",
                int(size),
                "call topoflow itself, without accelerate launch or torchrun; a training of your own on many GPUs is "
                "recorded with TopologyCallback",
            )


def check_gpu(number: int) -> None:
    """Refuse a GPU that is not there.

    Raises
    ------
    InvalidArgument
        When fewer are visible.
    """
    import torch

    if number >= (count := torch.cuda.device_count()):
        there = (
            f"below {count}, the number of GPUs that are visible here" if count else "left out without a GPU"
        )
        raise InvalidArgument("compute.gpu", there, number)


def pin_one_gpu(number: int | None = None) -> None:
    """Have this process see one GPU where it would see several, before CUDA starts: TRL refuses DataParallel.

    Parameters
    ----------
    number : int, optional
        Which of those in `CUDA_VISIBLE_DEVICES` (under ROCm in `HIP_VISIBLE_DEVICES`, where that is set), or else of
        all that are there; without it, the first.

    Raises
    ------
    InvalidArgument
        When there is no such GPU, or it is too late for that.
    """
    import torch

    if number is not None:
        check_gpu(number)
    if (count := torch.cuda.device_count()) < 2:
        return
    name = "HIP_VISIBLE_DEVICES" if os.environ.get("HIP_VISIBLE_DEVICES") else "CUDA_VISIBLE_DEVICES"
    visible = os.environ.get(name, ",".join(map(str, range(count)))).split(",")
    chosen = visible[number or 0].strip()
    os.environ[name] = chosen
    if (left := torch.cuda.device_count()) != 1:
        raise InvalidArgument(
            name, "one GPU for a stage", left, f"set it before topoflow begins, as in: export {name}={chosen}"
        )
    if number is None:
        logger.warning(
            "%d GPUs are visible, and a stage uses one: GPU %s; compute.gpu in params.yaml, or %s, chooses another",
            count, chosen, name,
        )  # fmt: skip
