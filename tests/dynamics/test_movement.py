"""Movement between twins and its jitter floor, against sums written out."""

import numpy as np
import pytest

from topoflow.dynamics.movement import Movement, _imitated_jitter, moves_test
from topoflow.dynamics.twins import why_no_twins


@pytest.fixture
def jitter():
    a, b = np.random.default_rng(3).normal(size=(2, 6, 4)) * np.array([3, 2, 1, 1, 0.5, 0.1])[:, None]
    return Movement(a, b)


def test_the_jitter_floor_is_the_weighted_mean_of_products_within_twins_at_both_ends(jitter):
    e = jitter.b - jitter.a
    at_anchor = []
    for k in range(6):
        weights = {other: np.exp(-abs(k - other) / 2) for other in range(6) if other != k}
        products = sum(weight * (e[k] @ e[other]) ** 2 for other, weight in weights.items())
        at_anchor.append(products / sum(weights.values()))
    wanted = [np.sqrt((at_anchor[k] + at_anchor[k + 1]) / 2) for k in range(5)]
    np.testing.assert_allclose(jitter.jitter_floor, wanted)


def test_imitated_jitter_has_half_the_variance_of_the_differences_within_twins_around_each_anchor(jitter):
    size = (jitter.within**2).sum(axis=1)
    wanted = []
    for k in range(6):
        weights = [np.exp(-abs(k - other) / 2) for other in range(6)]
        wanted.append(sum(w * s for w, s in zip(weights, size, strict=True)) / sum(weights) / 2)
    drawn = _imitated_jitter(jitter.within, 3)
    assert drawn.shape[:3] == (3, 999, 6)
    np.testing.assert_allclose((drawn**2).sum(axis=-1).mean(axis=(0, 1)), wanted, rtol=0.06)


def test_no_p_value_is_below_twice_one_in_a_thousand_and_none_is_one(jitter):
    far = 100.0 * np.arange(6)[:, None]
    found = moves_test(Movement(far + jitter.a, far + jitter.b))
    assert found.p == found.smallest_p == pytest.approx(2 / 1000)
    assert moves_test(jitter).p < 1


def test_twins_reach_to_the_twin_of_the_last_anchor():
    steps = [0, 1, 10, 11, 20, 21, 30, 31, 40, 41, 45]
    clock = np.array([0.0, 0.02, 0.2, 0.22, 0.4, 0.42, 0.6, 0.62, 0.8, 0.86, 1.0])
    assert why_no_twins(steps, clock) is None  # 86 % of the training, of which 85 % are asked
    clock[-2] = 0.84
    assert why_no_twins(steps, clock) == (
        "needs twin checkpoints through 85% of the training, and has them through 84%"
    )
    still = "needs twin checkpoints through 85% of the training, and has them through 0%"
    assert why_no_twins(steps, np.zeros(len(steps))) == still
