"""Clouds and matrices for hypothesis, of every kind that an engine of persistence could get wrong."""

import numpy as np
from hypothesis import strategies as st

seeds = st.integers(0, 2**32 - 1)


@st.composite
def clouds(draw):
    """Every kind of cloud that a shortcut could get wrong."""
    rng = np.random.default_rng(draw(seeds))
    n_points = draw(st.integers(1, 70))
    kind = draw(
        st.sampled_from(
            ["normal", "high", "grid", "duplicates", "circle", "torus", "clusters", "line", "specks"]
        )
    )
    if kind == "grid":
        return rng.integers(0, draw(st.integers(1, 5)), (n_points, draw(st.integers(1, 3))), endpoint=True)
    if kind == "duplicates":
        return rng.normal(size=(n_points, 2))[rng.integers(0, n_points, n_points)]
    if kind in ("circle", "torus"):
        angles = 2 * np.pi * rng.integers(0, 40, (n_points, 1 if kind == "circle" else 2)) / 40
        return np.hstack([np.cos(angles), np.sin(angles)])
    if kind == "clusters":
        return rng.normal(size=(n_points, 3)) + 50 * rng.integers(0, 3, (n_points, 1))
    if kind == "line":
        return rng.normal(size=(n_points, 1)) * [1.0, 2.0]
    if (
        kind == "specks"
    ):  # lengths of two scales: those within a speck crowd into one bucket of the radix sort
        return 1e-9 * rng.normal(size=(n_points, 2)) + rng.integers(0, 2, (n_points, 1))
    return rng.normal(size=(n_points, 60 if kind == "high" else draw(st.integers(1, 4))))


@st.composite
def dissimilarities(draw):
    """Symmetric matrices without the triangle inequality: of few values, of many, of many nearly equal ones."""
    rng = np.random.default_rng(draw(seeds))
    n_points = draw(st.integers(1, 40))
    kind = draw(st.sampled_from(["few", "many", "near", "tiny"]))
    values = rng.integers(0, draw(st.integers(1, 12)), (n_points, n_points), endpoint=True) / 8
    if kind == "many":
        values = rng.random((n_points, n_points))
    elif kind == "near":  # differences below and above what float32 can tell
        values = values + 10.0 ** -draw(st.integers(5, 9)) * rng.random((n_points, n_points))
    elif kind == "tiny":  # down to lengths that are zero in float32
        values = 10.0 ** rng.uniform(-60, 0, (n_points, n_points))
    upper = np.triu(values, k=1)
    return upper + upper.T
