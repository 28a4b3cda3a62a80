"""Rotations that are kept: none is drawn twice, and values are the same bits whoever draws them, where and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import topoflow
from topoflow.compute import map_cells
from topoflow.config import Compute
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import Trajectory, one_by_one
from topoflow.dynamics.surrogates import COVARIANCE, START

KINDS = (COVARIANCE, START)
STEPS = [step + twin for step in range(0, 48, 8) for twin in (0, 1)]


def recorded(n_prompts: int = 40, width: int = 60) -> Any:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(n_prompts, width))
    clouds = {
        step: {layer: base * (1 + step / 50) + 0.1 * rng.normal(size=base.shape) for layer in (1, 2)}
        for step in STEPS
    }
    return topoflow.follow(clouds, topology=topoflow.Topology(3, 16)).recorded


RECORDED = recorded()
CLAIMS = topoflow.Claims(n_rotations=39, rotation_subsamples=2)


class Counting:
    """A mapper that counts the rotations it draws, and is interrupted at one if it is told to."""

    def __init__(self, interrupted_at: int = -1) -> None:
        self.drawn: list[list[int]] = []
        self.interrupted_at = interrupted_at

    def __call__(self, function: Any, tasks: Any, n_tasks: int, label: str) -> Any:
        for task in tasks:
            if label.startswith("rotations"):
                if len(self.drawn) == self.interrupted_at:
                    raise KeyboardInterrupt
                self.drawn.append(task[-1])
            yield function(*task)


def followed(keeper: Any = None, mapper: Any = one_by_one) -> Trajectory:
    return Trajectory(RECORDED, CLAIMS, mapper, {} if keeper is None else keeper)


def bits(moved: Any) -> bytes:
    return b"".join(
        moved[h].squared.tobytes() + moved[h].jitter_floor.tobytes() + moved[h].error.tobytes()
        for h in HOMOLOGY
    )


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, int], bytes]:
    """25 of each kind, each drawn by a trajectory that draws nothing else but its batch."""
    found = {}
    for kind in KINDS:
        for number in (4, 14, 24):
            alone = followed()
            for at in range(number - 4, number + 1):
                found[kind, at] = bits(alone.rotated(kind, at))
    assert len(set(found.values())) == len(found)
    return found


@pytest.mark.parametrize("first", KINDS)
def test_rotations_are_the_same_bits_in_whatever_order_they_are_asked_for_and_drawn_once(expected, first):
    keeper: dict[str, Any] = {}
    once, again = Counting(), Counting()
    for counting in (once, again):
        run = followed(keeper, counting)
        for kind, number in sorted(expected, key=lambda key: (key[0] != first, -key[1])):
            assert bits(run.rotated(kind, number)) == expected[kind, number]
    assert len(once.drawn) == 2 * 30
    assert len({tuple(seed) for seed in once.drawn}) == 2 * 30
    assert again.drawn == []


@pytest.mark.parametrize("interrupted_at", [0, 9, 10, 27])
def test_an_interrupted_drawing_goes_on_from_its_last_whole_batch(expected, interrupted_at):
    keeper: dict[str, Any] = {}
    with pytest.raises(KeyboardInterrupt):
        followed(keeper, Counting(interrupted_at)).rotated(START, 24)
    counting = Counting()
    run = followed(keeper, counting)
    assert bits(run.rotated(START, 24)) == expected[START, 24]
    assert len(counting.drawn) == 30 - interrupted_at // 10 * 10
    assert all(bits(run.rotated(*key)) == value for key, value in expected.items() if key[0] == START)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda batch: batch[:-1],
        lambda batch: batch[..., :-1],
        lambda batch: batch.astype(np.float32),
        lambda batch: np.where(batch == batch.max(), np.nan, batch),
        lambda batch: None,
    ],
)
def test_what_a_keeper_gives_is_no_rotation_unless_it_can_be_one(expected, spoil):
    keeper: dict[str, Any] = {}
    followed(keeper).rotated(COVARIANCE, 4)
    whole = dict(keeper)
    keeper.update({name: spoil(batch) for name, batch in keeper.items()})
    counting = Counting()
    assert bits(followed(keeper, counting).rotated(COVARIANCE, 4)) == expected[COVARIANCE, 4]
    assert len(counting.drawn) == 10
    assert all(np.array_equal(keeper[name], batch) for name, batch in whole.items())


def test_a_run_tells_of_the_rotations_that_it_asked_for_and_of_no_others():
    keeper: dict[str, Any] = {}
    followed(keeper).rotated(COVARIANCE, 24)
    run = followed(keeper)
    assert run.drawn(COVARIANCE) == []
    run.rotated(COVARIANCE, 4)
    assert len(run.drawn(COVARIANCE)) == 10


def test_where_all_is_kept_no_cloud_is_read():
    keeper: dict[str, Any] = {}
    values = [bits(followed(keeper).unrotated), bits(followed(keeper).rotated(START, 0))]

    def never(*_: Any) -> Any:
        raise AssertionError("computed")

    run = followed(keeper, never)
    assert [bits(run.unrotated), bits(run.rotated(START, 0))] == values


BACKENDS = ["threads", "processes", *(pytest.param(one, marks=pytest.mark.slow) for one in ("dask", "ray"))]


@pytest.fixture(scope="module")
def of_many_prompts() -> tuple[Any, list[bytes]]:
    """Enough prompts for BLAS to use all its threads, and what one thread of one process makes of them."""
    many = recorded(n_prompts=300, width=400)
    with threadpool_limits(1, user_api="blas"):
        run = Trajectory(many, CLAIMS)
        return many, [bits(run.unrotated), *(bits(run.rotated(kind, 9)) for kind in KINDS)]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_rotations_are_the_same_bits_wherever_they_are_drawn(of_many_prompts, backend):
    many, values = of_many_prompts
    pytest.importorskip(
        {"dask": "distributed"}.get(backend, backend) if backend in ("dask", "ray") else "numpy"
    )
    compute = Compute(backend=backend, n_jobs=2)

    def mapper(function: Any, tasks: Any, n_tasks: int, label: str) -> Any:
        return map_cells(function, tasks, n_tasks, compute, label)

    with threadpool_limits(2, user_api="blas"):  # of this process: two threads round otherwise than one
        run = Trajectory(many, CLAIMS, mapper)
        assert [bits(run.unrotated), *(bits(run.rotated(kind, 9)) for kind in KINDS)] == values
