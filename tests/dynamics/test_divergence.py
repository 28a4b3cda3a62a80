import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from support import refused

from topoflow.dynamics.divergence import jensen_shannon


@pytest.mark.parametrize("concentration", [0.01, 1.0, 100.0])
def test_it_is_the_square_of_scipys_distance(concentration):
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.full(500, concentration), size=20) for _ in range(2))
    p[0, :400] = 0  # zeros are probabilities too
    p[0] /= p[0].sum()
    assert np.allclose(jensen_shannon(p, q), jensenshannon(p, q, axis=1) ** 2, rtol=1e-9, atol=1e-15)


def test_it_is_0_for_equal_and_ln_2_for_disjoint_distributions():
    assert jensen_shannon([[0.2, 0.8, 0.0]], [[0.2, 0.8, 0.0]]) == [0.0]
    assert jensen_shannon([[1.0, 0.0, 0.0]], [[0.0, 0.3, 0.7]]) == pytest.approx([np.log(2)])


def test_nearly_equal_distributions_keep_their_digits():
    """To second order J = sum((p - q)^2 / p) / 8."""
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(50), size=3)
    step = rng.standard_normal((3, 50)) * p * 1e-6
    step -= p * step.sum(axis=1, keepdims=True)
    assert jensen_shannon(p, p + step) == pytest.approx((step**2 / p).sum(axis=1) / 8, rel=1e-4)


def test_what_is_no_distribution_is_refused():
    with refused(name="q", expected="of the shape of p"):
        jensen_shannon([[1.0]], [[0.5, 0.5]])
    for bad in (-0.1, np.nan, np.inf):
        with refused(name="q", expected="finite probabilities", got=bad):
            jensen_shannon([[0.5, 0.5]], [[bad, 1.0]])
