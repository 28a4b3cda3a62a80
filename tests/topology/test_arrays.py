"""What is given as an array loses nothing on the way in: mask, imaginary part, or what a sparse matrix leaves out."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from support import refused

from topoflow import barcode_summary, concentration, vietoris_rips_diagrams, wasserstein_distance
from topoflow.dynamics.cells import cell_diagrams
from topoflow.dynamics.controls import pairwise_distances
from topoflow.dynamics.divergence import jensen_shannon
from topoflow.dynamics.effects import hedges_g
from topoflow.dynamics.embedding import classical_mds
from topoflow.dynamics.energy import energy_distance
from topoflow.dynamics.labelings import count_labelings
from topoflow.dynamics.nulls import concentration_test, holm
from topoflow.dynamics.prompts import sampling_floor
from topoflow.dynamics.separation import separation, trajectory_distances
from topoflow.dynamics.trajectory import follow_layer, pooled_velocity
from topoflow.dynamics.velocity import stabilised_at
from topoflow.errors import InvalidArgument
from topoflow.topology.arrays import as_array
from topoflow.topology.betti import betti_numbers
from topoflow.topology.point_clouds import distance_matrix, is_constant, subsample_plan
from topoflow.topology.summaries import cell_summary

CLOUD = np.random.default_rng(0).normal(size=(6, 3))
SQUARE = distance_matrix(CLOUD)
SPEED, STEPS = np.arange(1.0, 7.0), np.arange(7)
PLAN = [[0, 1, 2], [3, 4, 5]]
BARS = np.array([[1.0, 2.0], [0.5, 3.0]])
# Every function that takes arrays, with an array that it takes in the place to be tested.
TAKES = {
    "distance_matrix": (distance_matrix, CLOUD),
    "is_constant": (is_constant, CLOUD),
    "cell_diagrams": (lambda x: cell_diagrams(x, [[0, 1, 2]]), CLOUD),
    "plan": (lambda x: cell_diagrams(CLOUD, x), np.array([[0, 1, 2]])),
    "cell_summary": (cell_summary, np.zeros((2, 41))),
    "betti_numbers": (lambda x: betti_numbers(BARS, x), np.array([1.0, 2.0])),
    "concentration": (lambda x: concentration(x, STEPS), SPEED),
    "steps": (lambda x: concentration(SPEED, x), STEPS),
    "pairwise_distances": (pairwise_distances, CLOUD),
    "jensen_shannon": (lambda x: jensen_shannon(x, np.full((2, 2), 0.5)), np.full((2, 2), 0.5)),
    "hedges_g": (lambda x: hedges_g(x, SPEED), SPEED),
    "classical_mds": (classical_mds, SQUARE),
    "energy_distance": (lambda x: energy_distance(x, CLOUD), CLOUD),
    "labels": (count_labelings, np.array([0, 1, 1])),
    "holm": (holm, np.array([0.1, 0.2])),
    "sampling_floor": (lambda x: sampling_floor(x, 3, 2), CLOUD),
    "separation": (lambda x: separation(x, [0, 0, 0, 1, 1, 1]), SQUARE),
    "trajectory_distances": (trajectory_distances, SQUARE[None, None]),
    "follow_layer": (
        lambda x: follow_layer([CLOUD, x], [cell_diagrams(CLOUD, PLAN)] * 2, PLAN),
        CLOUD,
    ),
    "pooled_velocity": (pooled_velocity, SPEED[None]),
}


@pytest.mark.parametrize("name", TAKES)
def test_no_function_drops_a_mask_an_imaginary_part_or_what_is_not_stored(name):
    call, given = TAKES[name]
    call(given)  # which is good
    masked = np.ma.masked_array(given, mask=np.zeros(given.shape, dtype=bool))
    call(masked)  # nothing is
    masked[(0,) * given.ndim] = np.ma.masked
    with pytest.raises(InvalidArgument) as caught:
        call(masked)
    assert caught.value.expected == "free of masked entries"
    with refused(expected="free of masked entries"):
        call(list(masked))
    if name != "labels":
        with refused(name=caught.value.name):
            call(given + 1j)
    if given.ndim == 2 and given.shape[0] > 1:
        with refused(name=caught.value.name, expected="a dense array"):
            call(sparse.csr_matrix(given))


def test_masked_points_and_bars_are_left_out_where_nothing_else_numbers_them():
    masked = np.ma.masked_array(CLOUD, mask=np.zeros(CLOUD.shape, dtype=bool))
    masked[2] = np.ma.masked
    five = vietoris_rips_diagrams(np.delete(CLOUD, 2, axis=0))
    assert len(five[0]) == 5
    distances = np.ma.masked_array(SQUARE, mask=np.zeros(SQUARE.shape, dtype=bool))
    distances[2], distances[:, 2] = np.ma.masked, np.ma.masked
    for found in (
        vietoris_rips_diagrams(masked),
        vietoris_rips_diagrams(distances, metric="precomputed"),
    ):
        assert [bars.round(12).tolist() for bars in found] == [bars.round(12).tolist() for bars in five]
    bars = np.ma.masked_array(BARS, mask=[[False, False], [True, True]])
    assert wasserstein_distance(bars, BARS[:1]) == 0
    assert np.array_equal(
        barcode_summary([bars, bars]), barcode_summary([BARS[:1], BARS[:1]]), equal_nan=True
    )
    masked[1, 1] = bars[0, 0] = np.ma.masked  # in part
    for call in (lambda: vietoris_rips_diagrams(masked), lambda: wasserstein_distance(bars, BARS)):
        with refused(expected="free of masked entries"):
            call()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3, 2, requires_grad=True),
        torch.ones(3, 2, dtype=torch.bfloat16),
        torch.ones(3, 2, device="meta"),
        [torch.ones(2, requires_grad=True)] * 3,
    ],
    ids=["requires grad", "bfloat16", "not in memory", "a list"],
)
@pytest.mark.parametrize("call", [vietoris_rips_diagrams, lambda x: wasserstein_distance(x, BARS)])
def test_a_tensor_that_cannot_be_read_is_refused_with_what_to_do(tensor, call):
    with refused(remedy=".detach().float()"):
        call(tensor)


def test_tensors_in_memory_and_small_floats_are_read_as_they_are():
    assert np.array_equal(distance_matrix(torch.tensor(CLOUD)), SQUARE)
    far = np.array([[60000.0, 0], [-60000.0, 0]], dtype=np.float16)  # their distance is no float16
    assert distance_matrix(far)[0, 1] == np.float64(far[0, 0]) * 2


def test_missing_values_of_a_data_frame_are_named():
    frame = pd.DataFrame({"x": [1, 2, None], "y": [1, 2, 3]}, dtype="Int64")
    with pytest.raises(InvalidArgument) as caught:
        vietoris_rips_diagrams(frame)
    assert caught.value.got.kind == "O"
    with refused(name="labels"):
        count_labelings(["a", None, "b"])
    with refused(name="labels"):
        count_labelings(pd.Series(["a", pd.NA, "b"]))


def test_rows_of_different_lengths_are_refused_by_name():
    with refused(name="points"):
        as_array("points", [[1.0], [1.0, 2.0]])


@pytest.mark.parametrize("call", [subsample_plan, sampling_floor, concentration_test])
def test_numbers_of_draws_that_would_never_end_are_refused_at_once(call):
    given = {
        subsample_plan: {"n_points": 10, "n_subsamples": 10**15, "subsample_size": 5},
        sampling_floor: {"cloud": CLOUD, "subsample_size": 3, "n_pairs": 10**15},
        concentration_test: {"velocity": SPEED, "steps": range(len(SPEED) + 1), "n_permutations": 10**15},
    }[call]
    with refused(got=10**15) as caught:
        call(**given)
    assert caught.value.name in inspect.signature(call).parameters


@pytest.mark.parametrize("number", ["2", None, True, 10**400, 1j, [2.0], float("nan")])
def test_what_is_no_number_is_refused_by_name(number):
    for name, call in {
        "order": lambda: wasserstein_distance(BARS, BARS, number),
        "thresh": lambda: vietoris_rips_diagrams(CLOUD, thresh=number),
        "maxdim": lambda: vietoris_rips_diagrams(CLOUD, maxdim=10**15 if number == "2" else number),
        "floor": lambda: stabilised_at(SPEED, STEPS, number),
    }.items():
        with refused(name=name):
            call()


def test_steps_that_would_overflow_are_refused():
    with refused(name="steps", got=2**62):
        concentration([1.0, 2.0], [0, 2**61, 2**62])
