"""Do some classes of prompts move more than others: more than shuffled labels, their scale, or their shape explain?"""

from __future__ import annotations

import math
from functools import partial

from topoflow.dynamics.claims import moves
from topoflow.dynamics.claims.rungs import rotations_needed
from topoflow.dynamics.claims.verdict import Rung, Verdict, adjust, climb
from topoflow.dynamics.classes import KINDS, RAW
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import Trajectory
from topoflow.dynamics.labels import LEAST, classes_of
from topoflow.dynamics.permutation import Test, monte_carlo_p

CLAIM = "classes"
STATEMENT = "some classes of prompts move more than others"
STATISTIC = (
    "standard deviation of the classes' squared movement beyond jitter, as a share of their mean, over layers"
)
RULE = (
    "supported if every rung rejects at {level:g}: classes differ more than under shuffled labels, of the prompts as "
    "they are, with the scale of each class taken out, and of ways alone, each prompt keeping its class and its start"
)


def of_run(run: Trajectory) -> list[Verdict]:
    """Whether the classes of one run move differently; nothing where its prompts carry no labels."""
    if run.recorded.labels is None:
        return []
    return adjust([_verdict(run, homology) for homology in HOMOLOGY], run.claims.level)


def _verdict(run: Trajectory, homology: str) -> Verdict:
    level = run.claims.level
    rungs = [
        Rung(kind, partial(_shuffled, run, homology, kind), level, explains=kind != RAW) for kind in KINDS
    ]
    found = climb([moves.rung([run], homology, run.claims.moves_level), *rungs])
    return found.told(CLAIM, homology, found.at(RAW), STATEMENT, STATISTIC, RULE.format(level=level))


def _shuffled(run: Trajectory, homology: str, kind: str) -> Test | str:
    most = run.claims.n_rotations
    if most < (needed := rotations_needed(run.claims.level)):
        return f"needs {needed} shuffles of the labels, and claims.n_rotations allows {most}"
    if len(classes_of(run.recorded.labels or ())) < 2:
        return f"needs two classes of {LEAST} prompts"
    observed, *null = run.class_differences(kind)[homology].tolist()
    if any(map(math.isnan, (observed, *null))):
        return "no class moves"
    return Test(observed, monte_carlo_p(observed, null), smallest_p=1 / (1 + len(null)))
