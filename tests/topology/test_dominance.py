"""How much of a cloud lies along one direction: planted shares, another way to compute them, and what mends them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.decomposition import PCA
from support import refused

from topoflow.topology.dominance import dominance
from topoflow.topology.prepared import Preparation


def planted(share: float, n: int = 40, width: int = 12, at: int = 5) -> np.ndarray:
    """A cloud with exactly this share of its variance in one coordinate, and as much in each of the others."""
    rng = np.random.default_rng(0)
    columns = np.linalg.qr(np.c_[np.ones(n), rng.normal(size=(n, width))])[0][
        :, 1:
    ]  # centred, at right angles
    variances = np.full(width, (1 - share) / (width - 1))
    variances[at] = share
    return columns * np.sqrt(variances) + 7.0


@pytest.mark.parametrize("share", [0.2, 0.49, 0.51, 0.83, 0.999])
def test_a_planted_share_is_found_in_its_coordinate(share):
    found = dominance(planted(share))
    assert found.direction == pytest.approx(share, rel=1e-9)
    assert found.coordinate == pytest.approx(share, rel=1e-9)
    assert found.index == 5
    assert found.dominates == (share > 0.5)


@pytest.mark.parametrize("shape", [(40, 12), (12, 40)])
def test_the_share_along_a_direction_that_is_no_coordinate_is_that_of_the_first_principal_component(shape):
    rng = np.random.default_rng(1)
    turned = rng.normal(size=shape) + 3 * rng.normal(size=(shape[0], 1)) * rng.normal(size=shape[1])
    found = dominance(turned)
    assert found.direction == pytest.approx(PCA(1).fit(turned).explained_variance_ratio_[0], rel=1e-9)
    assert found.coordinate == pytest.approx((turned.var(axis=0) / turned.var(axis=0).sum()).max())
    assert found.coordinate < found.direction


def test_a_share_of_the_variance_is_that_of_the_mean_squared_distance():
    cloud = planted(0.83)
    gaps = cloud[:, None] - cloud[None]
    assert (gaps[..., 5] ** 2).mean() / (gaps**2).sum(axis=2).mean() == pytest.approx(0.83)


def test_all_prompts_in_one_state_have_no_shares():
    assert dominance(np.full((6, 3), 0.1)) is None
    with refused(name="points"):
        dominance([[np.nan, 1.0]])


@settings(deadline=None)
@given(
    arrays(float, (6, 4), elements=st.floats(-100, 100, width=32)),
    st.sampled_from([1e-150, 1.0, 1e150, 1e300]),
)
def test_neither_place_nor_size_changes_shares_and_none_is_outside_its_bounds(cloud, scale):
    found, scaled = dominance(cloud), dominance(cloud * scale)
    if found is None:
        assert scaled is None
        return
    assert 0 < found.coordinate <= found.direction <= 1
    assert found.direction >= 1 / 4 - 1e-12
    assert scaled.direction == pytest.approx(found.direction, rel=1e-6)
    assert dominance(cloud[::-1] - cloud.mean(axis=0)).direction == pytest.approx(found.direction, rel=1e-6)


def test_zscore_mends_a_large_coordinate_and_pca_does_not():
    cloud = planted(0.95)
    assert dominance(Preparation(normalise="zscore")(cloud)).direction < 0.2
    assert dominance(Preparation(pca=6)(cloud)).direction > 0.95


def test_cosine_mends_a_direction_that_is_the_length_of_states():
    rng = np.random.default_rng(2)
    directions = 1 + 0.5 * rng.normal(size=(60, 30))
    cloud = directions * rng.lognormal(sigma=2, size=(60, 1))
    assert dominance(cloud).dominates
    assert not dominance(Preparation(normalise="zscore")(cloud)).coordinate > 0.5
    assert dominance(Preparation(normalise="zscore")(cloud)).dominates  # many coordinates share it
    assert not dominance(Preparation(metric="cosine")(cloud)).dominates
