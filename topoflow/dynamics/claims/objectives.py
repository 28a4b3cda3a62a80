"""Do objectives leave distinguishable trajectories? Same-seed differences, so that what seeds share drops out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations, permutations, product

import numpy as np
from numpy.typing import NDArray

from topoflow.dynamics.chances import corrected_for, power_of_a_pair, seeds_for_pairs, smallest_paired_p
from topoflow.dynamics.claims import moves
from topoflow.dynamics.claims.rungs import SEEDS
from topoflow.dynamics.claims.verdict import Rung, Verdict, adjust, climb
from topoflow.dynamics.design import Decidable, Question, joined
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import SCALE_FREE, Trajectory
from topoflow.dynamics.permutation import Test, at_least, monte_carlo_p, sign_flips

CLAIM = "objectives"
STATISTIC = (
    "unbiased squared distance between the labels' mean trajectories, from products of same-seed differences of "
    "different seeds (scale-free, no unit)"
)
_MOST_ORDERS = 4_999  # of labels within seeds, where there are too many to enumerate
# Smallest distance between labels that counts, in distances of runs from their label's median. Labels that only spread
# differently are a third apart, and truly so: who goes farther leaves the start that all share farther behind.
_APART = 1.0
_PARTED = (0.5, 1.0, 2.0)  # distances of which a design is asked

Matrix = NDArray[np.float64]


def location_test(a: Matrix, b: Matrix) -> Test:
    """Test whether two labels have different means, whatever their spreads.

    Parameters
    ----------
    a, b : ndarray, shape (n_seeds, n_features)
        Vectors of whole runs, in the same order of seeds.

    Returns
    -------
    Test
        Value: the mean over pairs of different seeds of <a_i - b_i, a_j - b_j>, unbiased for the squared distance of
        the means. The labels are swapped within seeds, in all 2 ** (n_seeds - 1) ways.

    Examples
    --------
    >>> found = location_test(np.ones((6, 2)), np.zeros((6, 2)))
    >>> found.value, found.p
    (2.0, 0.03125)
    """
    differences = a - b
    n = len(differences)
    gram = differences @ differences.T
    np.fill_diagonal(gram, 0)
    signs = sign_flips(n)
    values = np.einsum("pi,ij,pj->p", signs, gram, signs) / max(n * (n - 1), 1)
    p = float(at_least(values, values[0], np.abs(gram).sum()).mean())
    return Test(float(values[0]), p, smallest_p=1 / len(values))


def all_labels_test(vectors: Sequence[Matrix], seed: int = 0) -> Test:
    """Test whether any two of three labels or more differ: labels permuted within seeds, the pairs' values summed."""
    stack = np.array(vectors)  # (n_labels, n_seeds, n_features)
    n_labels, n_seeds, _ = stack.shape
    orders = np.array(list(permutations(range(n_labels))))
    n_all = len(orders) ** (n_seeds - 1)
    if n_all <= _MOST_ORDERS:
        chosen = np.array([(0, *rest) for rest in product(range(len(orders)), repeat=n_seeds - 1)])
    else:
        rng = np.random.default_rng(seed)
        chosen = rng.integers(len(orders), size=(_MOST_ORDERS + 1, n_seeds))
        chosen[0] = 0
    flat = stack.reshape(n_labels * n_seeds, -1)
    gram = (flat @ flat.T).reshape(n_labels, n_seeds, n_labels, n_seeds)
    of_seed = np.arange(n_seeds)
    values = np.zeros(len(chosen))
    for x, y in combinations(range(n_labels), 2):
        px, py = orders[chosen, x], orders[chosen, y]  # which label each seed's run counts as
        for p, q, sign in ((px, px, 1), (py, py, 1), (px, py, -1), (py, px, -1)):
            products = gram[p[:, :, None], of_seed[:, None], q[:, None, :], of_seed]
            values += sign * (products.sum(axis=(1, 2)) - np.trace(products, axis1=1, axis2=2))
    p = float(at_least(values, values[0], np.abs(gram).sum()).mean())
    return Test(float(values[0]), p, smallest_p=1 / len(chosen))


def mean_spread(vectors: Matrix) -> float:
    """Mean distance of runs from their label's median run."""
    return float(np.linalg.norm(vectors - np.median(vectors, axis=0), axis=1).mean())


def dispersion_test(a: Matrix, b: Matrix, seed: int = 0, n_permutations: int = 999) -> float:
    """Return the p-value of "the labels differ in spread": distances from each label's median, labels permuted."""
    away = np.concatenate([np.linalg.norm(x - np.median(x, axis=0), axis=1) for x in (a, b)])
    n, rng = len(a), np.random.default_rng(seed)

    def apart(order: NDArray[np.int64]) -> float:
        return abs(float(away[order[:n]].mean() - away[order[n:]].mean()))

    observed = apart(np.arange(len(away)))
    null = [apart(rng.permutation(len(away))) for _ in range(n_permutations)]
    return monte_carlo_p(observed, null)


def whole_run(run: Trajectory, homology: str) -> Matrix:
    """A run as one vector: its scale-free vectors at all anchors but the first, averaged over twins."""
    moved = run.movement(SCALE_FREE)[homology]
    return np.asarray(((moved.a + moved.b) / 2)[1:].ravel())


def compared(labels: Mapping[str, Sequence[Trajectory]]) -> list[Verdict]:
    """A verdict for each pair of labels and each homology, never none.

    With three labels the test of all of them and that of the pair must both reject, which keeps the level over the
    pairs (closed testing: two of the three pairs can only both be equal if all labels are). With more labels the
    p-values are Holm's.
    """
    names = list(labels)
    runs = [run for group in labels.values() for run in group]
    claims = runs[0].claims
    found: list[Verdict] = []
    for homology in HOMOLOGY:
        of_homology: list[Verdict] = []
        cannot = _why_not(labels, claims.level)
        vectors = {}
        if cannot is None:
            vectors = {
                name: np.array([whole_run(run, homology) for run in group]) for name, group in labels.items()
            }
        together = (
            all_labels_test([vectors[name] for name in names], runs[0].recorded.seed)
            if vectors and len(names) > 2
            else None
        )
        for one, other in combinations(names, 2):
            of_homology.append(_pair(labels, vectors, one, other, homology, cannot, together))
        if len(names) > 3:
            of_homology = adjust(of_homology, claims.level)
        found.extend(of_homology)
    return found


def decidable(asked: Question) -> list[Decidable]:
    """Whether so many seeds can tell a pair of objectives apart, and how often, by how many spreads part them."""
    design, level = asked.design, asked.claims.level
    n_labels, n = design.n_objectives, design.n_seeds
    needed, corrected = seeds_for_pairs(n_labels, level), corrected_for(n_labels)
    why = design.why_no_twins
    if n_labels < 2:
        why = f"needs 2 objectives, and has {n_labels}"
    elif n < needed:
        why = f"needs {needed} seeds, and has {n}"
    powers = {1.0: {effect: power_of_a_pair(effect, n, level / corrected) for effect in _PARTED}}
    smallest = min(1.0, smallest_paired_p(n) * corrected)
    enough = joined(asked.enough_twins, f"{needed} seeds")
    effect = "apart, in spreads of same-seed differences"
    return [
        Decidable(CLAIM, "each pair", smallest, level, enough, why, powers if n_labels > 1 else {}, effect)
    ]


def _why_not(labels: Mapping[str, Sequence[Trajectory]], level: float) -> str | None:
    counts = {len(group) for group in labels.values()}
    # of four labels or more Holm's procedure asks the smallest of all pairs for this
    needed = seeds_for_pairs(len(labels), level)
    if len(counts) > 1 or min(counts) < needed:
        return f"needs {needed} seeds of each label, and has {min(counts)}"
    return next((run.why_no_twins for group in labels.values() for run in group if run.why_no_twins), None)


def _pair(
    labels: Mapping[str, Sequence[Trajectory]],
    vectors: Mapping[str, Matrix],
    one: str,
    other: str,
    homology: str,
    cannot: str | None,
    together: Test | None,
) -> Verdict:
    both = [*labels[one], *labels[other]]
    claims = both[0].claims

    def location() -> Test | str:
        return cannot or location_test(vectors[one], vectors[other])

    def farther_apart_than_seeds() -> Test | str:
        return Test(apart, 0.0 if apart > _APART else 1.0)

    apart, beside = math.nan, ""
    if vectors:
        a, b = vectors[one], vectors[other]
        distance = math.sqrt(max(location_test(a, b).value, 0.0))
        apart = distance / (max(mean_spread(a), mean_spread(b)) or 1e-300)
        p = dispersion_test(a, b, both[0].recorded.seed)
        beside = f"test of equal spread between seeds: p = {p:.2g}"
    rungs = [
        moves.rung(both, homology, claims.moves_level),
        *(
            [Rung("all labels", lambda: cannot or together or "", claims.level, explains=False)]
            if together
            else []
        ),
        Rung(SEEDS, location, claims.level, explains=False),
    ]
    climbed = climb([*rungs, Rung("spread", farther_apart_than_seeds, claims.level)])
    rule = (
        f"supported if labels swapped within seeds rarely part as much (p <= {claims.level:g}"
        f"{', of all labels and of the pair' if together else ''}) and the labels are farther apart than runs of one "
        f"label are from its median"
    )
    statement = f"{one} and {other} leave distinguishable trajectories, for this base and these prompts"
    return climbed.told(CLAIM, homology, climbed.at(SEEDS), statement, STATISTIC, rule, (one, other), beside)
