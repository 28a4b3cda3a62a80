"""Do models evolve differently? Never by where they are, only by how far each goes from its own start, and when."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np
from scipy import stats

from topoflow.dynamics.claims import moves
from topoflow.dynamics.claims.early import share
from topoflow.dynamics.claims.rungs import LEAST_SPREAD, SEEDS, in_rate_time
from topoflow.dynamics.claims.verdict import Rung, Verdict, adjust, climb
from topoflow.dynamics.design import (
    LOG_SPREADS,
    OF_A_DIFFERENCE,
    Decidable,
    MarginTest,
    Question,
    joined,
)
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import SCALE_FREE, Trajectory
from topoflow.dynamics.permutation import Test

AMOUNT, TIMING = "amount", "timing"
_AMOUNTS = (1.75, 2.0, 3.0)  # ratios of which a design is asked


def two_sided_margin_test(values: Sequence[float], margin: float) -> Test | str:
    """Test over seeds whether a mean lies outside +- a margin (t, half the level each side), or inside it."""
    numbers = np.asarray(values, dtype=np.float64)
    n = len(numbers)
    if n < 2:
        return f"needs 2 seeds, and has {n}"
    if not np.isfinite(numbers).all():
        return "nothing moves in some run"
    mean, error = float(numbers.mean()), max(float(numbers.std(ddof=1)), LEAST_SPREAD) / math.sqrt(n)
    beyond = min(1.0, 2 * float(stats.t.sf((abs(mean) - margin) / error, n - 1)))
    within = max(
        float(stats.t.cdf((mean - margin) / error, n - 1)), float(stats.t.sf((mean + margin) / error, n - 1))
    )
    reach = float(stats.t.isf(0.025, n - 1)) * error
    return Test(mean, beyond, within, 0.0, mean - reach, mean + reach)


def amount(run: Trajectory, homology: str) -> float:
    """Log of the mean distance from the run's own start (scale-free, cross-twin)."""
    return math.log(float(run.movement(SCALE_FREE)[homology].profile().mean()) + 1e-4)


def compared(labels: Mapping[str, Sequence[Trajectory]]) -> list[Verdict]:
    """Two verdicts for each pair of models and each homology: amount and timing, each within declared margins."""
    claims = next(iter(labels.values()))[0].claims
    kinds: tuple[tuple[str, Callable[[Trajectory, str], float], float, str, str], ...] = (
        (
            AMOUNT,
            amount,
            math.log(claims.amount_ratio),
            "mean over seeds of the log ratio of mean distances from the own start (scale-free)",
            f"supported if the ratio is beyond {claims.amount_ratio:g} or its inverse",
        ),
        (
            TIMING,
            share,
            claims.timing_margin,
            "mean over seeds of the difference of early shares (scale-free, cumulative learning rate)",
            f"supported if the difference is beyond +-{claims.timing_margin:g}",
        ),
    )
    found: list[Verdict] = []
    for one, other in combinations(labels, 2):
        for claim, value, margin, statistic, rule in kinds:
            pair = [
                _verdict(
                    labels[one], labels[other], one, other, homology, claim, value, margin, statistic, rule
                )
                for homology in HOMOLOGY
            ]
            found.extend(adjust(pair, claims.level))
    return found


def decidable(asked: Question) -> list[Decidable]:
    """Whether so many seeds can tell models apart, and how often: by amount, and by timing."""
    claims, n_models, n = asked.claims, asked.design.n_models, asked.design.n_seeds
    why = asked.design.why_no_twins
    if n_models < 2:
        why = f"needs 2 models, and has {n_models}"
    elif n < 2:
        why = f"needs 2 seeds, and has {n}"
    apart = partial(MarginTest, level=claims.level, wider=OF_A_DIFFERENCE, two_sided=True)
    far = apart(claims.amount_ratio, spreads=LOG_SPREADS, effects=_AMOUNTS, ratios=True)
    late = apart(claims.timing_margin, spreads=asked.spreads)
    return [
        Decidable(
            claim, "each pair of models", 0.0, claims.level, joined(asked.enough_twins, test.enough()), why,
            test.powers(n if n_models > 1 else 0), effect, test.spread,
        )
        for claim, effect, test in (
            (AMOUNT, "farther by a factor of", far), (TIMING, "early shares that differ by", late),
        )
    ]  # fmt: skip


def _verdict(
    a: Sequence[Trajectory], b: Sequence[Trajectory], one: str, other: str, homology: str, claim: str,
    value: Callable[[Trajectory, str], float], margin: float, statistic: str, rule: str,
) -> Verdict:  # fmt: skip
    claims = a[0].claims

    def differ() -> Test | str:
        if len(a) != len(b):
            return f"needs the same seeds of both models, and has {len(a)} and {len(b)}"
        return two_sided_margin_test(
            [value(x, homology) - value(y, homology) for x, y in zip(a, b, strict=True)], margin
        )

    def either_moves() -> Test | str:
        tests = [moves.rung(group, homology, claims.moves_level).test() for group in (a, b)]
        if why := next((test for test in tests if isinstance(test, str)), None):
            return why
        best = min((test for test in tests if isinstance(test, Test)), key=lambda test: test.p)
        return Test(best.value, min(1.0, 2 * best.p))

    climbed = climb(
        [
            Rung(moves.CLAIM, either_moves, claims.moves_level, explains=False, gate=True),
            Rung(
                SEEDS,
                in_rate_time([*a, *b], differ) if claim == TIMING else differ,
                claims.level,
                explains=False,
            ),
        ]
    )
    rule = f"{rule} (t test over seeds, half of {claims.level:g} each side); shown absent if it is shown to lie within"
    statement = f"{one} and {other} evolve differently: in {claim}, for these prompts"
    return climbed.told(claim, homology, climbed.at(SEEDS), statement, statistic, rule, (one, other))
