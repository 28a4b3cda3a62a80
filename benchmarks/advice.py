"""What the trajectory of a training says of its health: topology beside simpler numbers, and what a stop costs.

    python benchmarks/spoiled.py && python benchmarks/advice.py [STUDY]...

Writes benchmarks/advice.json and benchmarks/advice.md. The studies are folders of finished ones with shuffled controls.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import spoiled
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, RobustScaler
from spoiled import EVERY, FOLDER, MAX_STEPS, WAYS, Training, recipes, trainings

from topoflow import storage
from topoflow.dynamics.advice import (
    ALL,
    BEHAVIOUR,
    GEOMETRY,
    HELD_OUT,
    LEVEL,
    PERSISTENCE,
    SIMPLER,
    TOPOLOGY,
    TRAINING,
    VELOCITIES,
    Course,
    alarm,
    behaviour_numbers,
    geometry_numbers,
    growth,
    held_out_numbers,
    size,
    strangeness,
    together,
    topology_numbers,
    training_numbers,
)
from topoflow.dynamics.cells import cell_diagrams, cell_distances, summarise_cell
from topoflow.dynamics.measures.listed import MEASURES
from topoflow.dynamics.measures.measure import Cell
from topoflow.dynamics.prompts import sampling_floor
from topoflow.names import DISPLACEMENT, VELOCITY, column
from topoflow.recording.live import below_floor
from topoflow.topology.point_clouds import subsample_plan
from topoflow.topology.summaries import SUMMARY_NAMES

HERE = Path(__file__).parent
N_SUBSAMPLES, SUBSAMPLE_SIZE, N_RESAMPLED = 8, 40, 1000
STRENGTHS = (0.01, 0.1, 1.0)  # of the classifier: the inverse of how much it is held back
_FAR = 30.0  # stands for a logarithm that is not finite
STEPS_OF = tuple(range(EVERY, MAX_STEPS + 1, EVERY))
EVERY_MEASURE = "every simpler measure"
SINGLE = tuple(one for one in MEASURES if not one.dear)
SCALE_FREE = VELOCITIES[-1]
KEPT = (*VELOCITIES, *PERSISTENCE, *(one.name for one in SINGLE))
OWN = "own held-out loss"
SHIPPED = (HELD_OUT, BEHAVIOUR, TRAINING, GEOMETRY, TOPOLOGY, SIMPLER, ALL)
MAIN = (*SHIPPED, EVERY_MEASURE)
KINDS = (*MAIN, OWN, *(one.name for one in SINGLE))
Matrix = NDArray[np.float64]


def numbers(training: Training) -> dict[str, Matrix]:
    """What is computed of a training's states, kept beside them; each of shape (n_checkpoints, n_layers)."""
    path = FOLDER / f"{training.name}.numbers.npz"
    if not path.is_file():
        with np.load(FOLDER / f"{training.name}.npz") as held:
            states = held["states"].astype(np.float64)
        found = [of_layer(states[:, layer]) for layer in range(states.shape[1])]
        np.savez(path, **{name: np.stack([one[name] for one in found], axis=-1) for name in found[0]})
    with np.load(path) as held:
        return {name: held[name] for name in held.files}


def of_layer(clouds: Matrix) -> dict[str, Matrix]:
    """Topology and measures of one layer, a number a checkpoint; what compares is of the first with itself there."""
    plan = subsample_plan(clouds.shape[1], N_SUBSAMPLES, SUBSAMPLE_SIZE, 0)
    cells = [Cell(cloud, cell_diagrams(cloud, plan), plan) for cloud in clouds]
    found: dict[str, list[float]] = {"floor": [floor(clouds[0].tobytes(), clouds[0].shape)] * len(cells)}
    for at, cell in enumerate(cells):
        before = cells[max(at - 1, 0)]
        row = dict(zip(SUMMARY_NAMES, summarise_cell(cell.diagrams).tolist(), strict=True))
        for h in (0, 1):
            row[column(h, VELOCITY)] = cell_distances(before.diagrams, cell.diagrams, h).mean()
            row[column(h, DISPLACEMENT)] = cell_distances(cells[0].diagrams, cell.diagrams, h).mean()
        units = [
            [bars / one.median_distance for bars in pair] for one in (before, cell) for pair in one.diagrams
        ]
        row[SCALE_FREE] = cell_distances(units[:N_SUBSAMPLES], units[N_SUBSAMPLES:], 1).mean()
        for measure in SINGLE:
            row[measure.name] = measure.of(*([cell] if measure.n_cells == 1 else [before, cell]))
        for name in KEPT:
            found.setdefault(name, []).append(float(row[name]))
    return {name: np.array(values) for name, values in found.items()}


@cache
def floor(cloud: bytes, shape: tuple[int, int]) -> float:
    """The floor of `stop_when_stable`: all trainings begin with the same clouds, so that there is one a layer."""
    first = np.frombuffer(cloud).reshape(shape)
    return float(sampling_floor(first, SUBSAMPLE_SIZE, 32, 0, 2.0, "auto").disjoint[1])


# --- the numbers of a training ---


def course(training: Training) -> Course:
    """A training as advice sees it, with the kinds of numbers that only this benchmark has beside those of a study."""
    with np.load(FOLDER / f"{training.name}.npz") as held:
        recorded = {name: held[name] for name in held.files if name != "states"}
    states = numbers(training)
    objective = recipes()[training.recipe].objective
    own = ("helpful", "harmless") if objective == "mixed" else (objective,)
    losses = {name.removeprefix("held_out/"): loss for name, loss in recorded.items() if "held_out/" in name}
    others = tuple(name for name in losses if name not in own)
    logged = {name: recorded[f"train/{name}"] for name in spoiled.LOGGED}
    steps = tuple(recorded["steps"].tolist())
    held_out = held_out_numbers(losses, others)
    kinds = {
        HELD_OUT: held_out,
        OWN: held_out[:, :1],
        BEHAVIOUR: behaviour_numbers(*recorded["divergences"][1:].mean(axis=2).T),
        TRAINING: training_numbers(steps, logged),
        GEOMETRY: geometry_numbers(states),
        TOPOLOGY: topology_numbers({name: states[name][1:] for name in VELOCITIES}, states),
        **{one.name: (growth if one.n_cells == 1 else later)(states[one.name]) for one in SINGLE},
    }
    plain = [kinds[one.name] for one in SINGLE if not one.topological]
    return Course(steps, together({**kinds, EVERY_MEASURE: side_by_side(plain)}), losses, others)


def later(values: Matrix) -> Matrix:
    """The logarithm of what compares each checkpoint but the first with the one before."""
    return size(values[1:])


def side_by_side(blocks: Sequence[Matrix]) -> Matrix:
    return np.concatenate(blocks, axis=-1)


# --- telling spoiled from healthy ---


@dataclass(frozen=True)
class Known:
    """All trainings that there are: their courses, whether each is spoiled, in which way, and by which recipe."""

    trainings: tuple[Training, ...]
    courses: tuple[Course, ...]

    @property
    def spoiled(self) -> NDArray[np.bool_]:
        return np.array([training.way is not None for training in self.trainings])

    @property
    def ways(self) -> NDArray[np.str_]:
        return np.array([training.way or "" for training in self.trainings])

    @property
    def recipes(self) -> NDArray[np.int64]:
        return np.array([training.recipe for training in self.trainings])

    def so_far(self, kind: str, checkpoint: int) -> Matrix:
        """What a kind has said up to a checkpoint: its numbers there, their mean, largest and smallest until then."""
        rows = []
        for one in self.courses:
            known = np.nan_to_num(one.kinds[kind][: checkpoint + 1], nan=_FAR, posinf=_FAR, neginf=-_FAR)
            rows.append(np.concatenate([known[-1], known.mean(axis=0), known.max(axis=0), known.min(axis=0)]))
        return np.array(rows)


def classifier(strength: float) -> Any:
    """Logistic regression on numbers that are centred and scaled robustly, since a diverged training is far off."""
    return make_pipeline(
        RobustScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -5.0, "a_max": 5.0}),
        LogisticRegression(C=strength, max_iter=300),
    )


def told(
    features: Matrix, known: Known, held_back: str | None = None, strength: float | None = None
) -> Matrix:
    """Log-odds of being spoiled, each training's by a classifier that has seen neither its recipe nor its seed.

    With `held_back`, the classifiers have seen no training that was spoiled in that way either. Without `strength`, it
    is chosen by the recipes that they have seen.
    """
    found = np.empty(len(features))
    seen = known.ways != (held_back or "nothing")
    for train, test in GroupKFold(6).split(features, groups=known.recipes):
        train = train[seen[train]]
        rows, wanted = features[train], known.spoiled[train]
        if strength is None:
            asked = {"logisticregression__C": STRENGTHS}
            search = GridSearchCV(classifier(1.0), asked, scoring="roc_auc", cv=GroupKFold(3))
            model = search.fit(rows, wanted, groups=known.recipes[train])
        else:
            model = classifier(strength).fit(rows, wanted)
        found[test] = model.decision_function(features[test])
    return found


def one_class(known: Known, kind: str) -> Matrix:
    """How strange each training is at each checkpoint beside the healthy ones of other recipes: no spoiled one is seen.

    As the alarm's score, which compares a training with healthy ones.
    """
    values = np.array([one.kinds[kind] for one in known.courses])
    found = np.empty(values.shape[:2])
    for recipe in np.unique(known.recipes):
        healthy = values[~known.spoiled & (known.recipes != recipe)]
        for at in np.flatnonzero(known.recipes == recipe):
            found[at] = strangeness(np.concatenate([values[at : at + 1], healthy]))[0]
    return found


def area(scores: Matrix, spoiled: NDArray[np.bool_]) -> float:
    """AUROC: how often a spoiled training has the higher score."""
    ranks = rankdata(scores)
    n = int(spoiled.sum())
    return float((ranks[spoiled].sum() - n * (n + 1) / 2) / (n * (len(scores) - n)))


def false_alarms(scores: Matrix, spoiled: NDArray[np.bool_], detected: float = 0.95) -> float:
    """The share of healthy trainings above a threshold that so many of the spoiled are above."""
    threshold = np.sort(scores[spoiled])[int(np.floor((1 - detected) * spoiled.sum()))]
    return float((scores[~spoiled] >= threshold).mean())


def resampled(known: Known) -> list[NDArray[np.int64]]:
    """Trainings drawn again, recipe by recipe, for intervals."""
    rng = np.random.default_rng(0)
    of = [np.flatnonzero(known.recipes == recipe) for recipe in np.unique(known.recipes)]
    return [
        np.concatenate([of[at] for at in rng.integers(len(of), size=len(of))]) for _ in range(N_RESAMPLED)
    ]


def interval(values: Sequence[float]) -> list[float]:
    return [float(bound) for bound in np.quantile(values, [0.025, 0.975])]


def judged(scores: Matrix, known: Known, draws: Sequence[NDArray[np.int64]]) -> dict[str, Any]:
    """AUROC with its interval, false alarms at 95 % detection, and AUROC of each way against all healthy ones."""
    spoiled = known.spoiled
    return {
        "auroc": area(scores, spoiled),
        "interval": interval([area(scores[drawn], spoiled[drawn]) for drawn in draws]),
        "false_alarms": false_alarms(scores, spoiled),
        "ways": {
            way: area(scores[chosen := (known.ways == way) | ~spoiled], spoiled[chosen]) for way in WAYS
        },
    }


def first_shown(scores: Matrix, known: Known) -> NDArray[np.float64]:
    """The checkpoint at which each training is first above what 5 % of the healthy ones are ever above; else NaN.

    `scores` are of shape (n_trainings, n_checkpoints); each checkpoint's are centred and scaled by healthy ones.
    """
    healthy = scores[~known.spoiled]
    middle = np.median(healthy, axis=0)
    scaled = (scores - middle) / np.maximum(np.quantile(healthy, 0.84, axis=0) - middle, 1e-12)
    limit = np.quantile(scaled[~known.spoiled].max(axis=1), 0.95)
    above = scaled > limit
    return np.where(above.any(axis=1), above.argmax(axis=1).astype(float), np.nan)


def earliness(first: dict[str, NDArray[np.float64]], known: Known) -> dict[str, Any]:
    """How many spoiled trainings each kind shows, when, and how long before held-out loss and behaviour do."""
    found: dict[str, Any] = {}
    for kind, at in first.items():
        shown = at[known.spoiled]
        found[kind] = {
            "shown": float(np.isfinite(shown).mean()),
            "ways": {way: float(np.isfinite(at[known.ways == way]).mean()) for way in WAYS},
            "step": None if np.isnan(shown).all() else float(STEPS_OF[int(np.nanmedian(shown))]),
        }
        for other in (HELD_OUT, BEHAVIOUR):
            lead = first[other][known.spoiled] - shown
            both = lead[np.isfinite(lead)]
            found[kind][f"before {other}"] = {
                "both": len(both),
                "mean": float(both.mean()) if len(both) else None,
                "earlier": int((both > 0).sum()),
                "later": int((both < 0).sum()),
                "alone": int((np.isfinite(shown) & np.isnan(first[other][known.spoiled])).sum()),
            }
    return found


def alarms(known: Known, kind: str, n_healthy: int) -> dict[str, Any]:
    """What the alarm of `topoflow advise` does with so many healthy trainings of other recipes, drawn by lot."""
    rng = np.random.default_rng(n_healthy)
    raised = []
    for at, one in enumerate(known.courses):
        pool = np.flatnonzero(~known.spoiled & (known.recipes != known.recipes[at]))
        drawn = [known.courses[place] for place in rng.choice(pool, n_healthy, replace=False)]
        raised.append(alarm(one, drawn, kind).raised)
    said = np.array(raised)
    return {
        "rate": max(int(LEVEL * (n_healthy + 1) + 1e-9), 1) / (n_healthy + 1),
        "false": float(said[~known.spoiled].mean()),
        "detected": float(said[known.spoiled].mean()),
        "ways": {way: float(said[known.ways == way].mean()) for way in WAYS},
    }


# --- what a stop costs ---


def stops(known: Known) -> dict[str, Any]:
    """What `stop_when_stable` would have saved and lost, by its own rule, and a rule of held-out loss beside it."""
    found: dict[str, Any] = {}
    for name, chosen in (("healthy", ~known.spoiled), ("spoiled", known.spoiled)):
        places = np.flatnonzero(chosen)
        for patience in (1, 2, 3):
            for rule, stop in (("stop_when_stable", stable), ("held-out loss", no_better)):
                rows = [_stopped(known, at, stop(known, at, patience)) for at in places]
                saved, lost, lost_best = (np.array(column) for column in zip(*rows, strict=True))
                found[f"{rule}, {patience}, {name}"] = {
                    "n": len(rows),
                    "stopped": float((saved > 0).mean()),
                    "saved": float(saved.mean()),
                    "lost": float(lost.mean()),
                    "lost_worst": float(lost.max()),
                    "lost_interval": interval(_means(lost)),
                    "above_best": float(lost_best.mean()),
                }
    return found


def stable(known: Known, at: int, patience: int) -> int | None:
    """The checkpoint at which `stop_when_stable` ends the training."""
    states = numbers(known.trainings[at])
    floors = dict(enumerate(states["floor"][0]))
    calm = 0
    for place, velocities in enumerate(states["h1_velocity"][1:], 1):
        calm = calm + 1 if below_floor(dict(enumerate(velocities)), floors) else 0
        if calm >= patience:
            return place
    return None


def no_better(known: Known, at: int, patience: int) -> int | None:
    """The checkpoint at which the own held-out loss has not been least for so many checkpoints."""
    loss = known.courses[at].own_loss
    assert loss is not None
    for place in range(patience, len(loss)):
        if place - int(np.argmin(loss[: place + 1])) >= patience:
            return place
    return None


def _stopped(known: Known, at: int, place: int | None) -> tuple[float, float, float]:
    loss, steps = known.courses[at].own_loss, known.courses[at].steps
    assert loss is not None
    place = len(loss) - 1 if place is None else place
    return 1 - steps[place] / steps[-1], float(loss[place] - loss[-1]), float(loss[place] - loss.min())


def _means(values: Matrix) -> list[float]:
    rng = np.random.default_rng(0)
    return [float(values[rng.integers(len(values), size=len(values))].mean()) for _ in range(N_RESAMPLED)]


# --- finished studies ---


def in_study(root: Path) -> dict[str, Any]:
    """How well each kind tells the shuffled controls of a finished study from its other runs, by those alone."""
    from topoflow.config import load_params
    from topoflow.config.sources import ShuffledText
    from topoflow.study.advice import course, finished

    params = load_params(root / "params.yaml")
    wrong = {name for name in params.objectives if isinstance(params.objective_source(name), ShuffledText)}
    runs = [
        run
        for run in finished(params, root)
        if run.objective in wrong or not params.is_control(run.objective)
    ]
    courses = [course(params, run, root) for run in runs]
    spoiled = np.array([run.objective in wrong for run in runs])
    areas = {}
    for kind in SHIPPED:
        if not all(kind in one.kinds for one in courses):  # of a study from before there was measures.csv
            continue
        values = np.array([one.kinds[kind] for one in courses])
        scores = []
        for at in range(len(values)):
            healthy = values[~spoiled & (np.arange(len(values)) != at)]
            scores.append(strangeness(np.concatenate([values[at : at + 1], healthy]))[0].max())
        areas[kind] = area(np.array(scores), spoiled)
    return {
        "model": params.models[0],
        "healthy": int((~spoiled).sum()),
        "spoiled": int(spoiled.sum()),
        "auroc": areas,
    }


# --- the page ---

CONCLUSIONS = """\
- **Nothing here is a good alarm.** The best numbers reach an AUROC of 0.85, and whoever wants to find 95 % of the
  spoiled trainings has to take four in five of the healthy ones for spoiled. A rate ten times too high, few rows and
  training all weights are found by almost anything. Shuffled answers are found by nothing with any certainty, and a
  tenth of bad rows only sometimes, best by what the trainer logs.
- **Topology adds nothing to the simpler numbers here.** With it the classifier does a little worse (-0.013, and the
  interval holds 0). Alone it is no better than the mean distance of two prompts or the held-out loss. It has one merit:
  when a way of going wrong has never been seen, topology and held-out loss lose least.
- **Nor is it earlier.** Trainings that both show, topology shows half a checkpoint later than held-out loss, and a
  third of a checkpoint earlier than behaviour. It shows 15 of 108 that held-out loss does not, and so does geometry.
- **In the finished studies it is otherwise.** Their shuffled controls have another topology than their runs (AUROC
  0.975 and 1.000), while held-out loss and behaviour are at chance for `tiny`. Plain geometry says nearly the same
  (0.948): answers that have nothing to do with their questions draw the last layer's states together. These trainings
  are longer, and all their seeds share one recipe, so that healthy runs are far more alike than those above.
- `topoflow advise` goes by *all but topology* where a run has all of it. That won with healthy trainings alone, but the
  intervals overlap, and another kind may be as good. Else it goes by the best kind that the runs have.
- **`stop_when_stable` ends every healthy training, nearly as early as it can**: velocities lie below the floor almost
  from the first checkpoint on. It saves steps because it stops, and does not know when. A rule on held-out loss
  saves less and loses almost nothing.
- What is called `forgetting` also unlearns its own objective, so that it is no pure case of it. The trainings are short
  and the model is small. Nobody has measured this on larger ones; on `smollm2` only shuffled answers were tried.
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def in_order(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What was found of each kind, in the order of `KINDS`."""
    return [(kind, found[kind]) for kind in KINDS if kind in found]


def with_interval(judged: Mapping[str, Any]) -> str:
    low, high = judged["interval"]
    return f"{judged['auroc']:.3f} ({low:.3f} to {high:.3f})"


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def kinds_table(found: Mapping[str, Any], part: str) -> str:
    rows = [
        [kind, with_interval(one), percent(one["false_alarms"]), *(f"{one['ways'][way]:.2f}" for way in WAYS)]
        for kind, one in in_order(found[part])
    ]
    return table(["numbers", "AUROC (95 %)", "false alarms at 95 % detection", *WAYS], rows)


def steps_table(found: Mapping[str, Any]) -> str:
    rows = [
        [kind, *(f"{one['by_step'][str(step)]:.2f}" for step in STEPS_OF)]
        for kind, one in in_order(found["supervised"])
        if "by_step" in one
    ]
    return table(["numbers up to step", *map(str, STEPS_OF)], rows)


def lead(said: Mapping[str, Any]) -> str:
    if said["mean"] is None:
        return "-"
    return f"{said['mean']:+.1f} ({said['earlier']} / {said['later']} of {said['both']}; {said['alone']})"


def earliness_table(found: Mapping[str, Any]) -> str:
    rows = [
        [kind, percent(one["shown"]), f"{one['step']:g}" if one["step"] else "-"]
        + [lead(one[f"before {other}"]) for other in (HELD_OUT, BEHAVIOUR)]
        for kind, one in in_order(found["earliness"])
    ]
    return table(
        ["numbers", "spoiled trainings shown", "median step", f"before {HELD_OUT}", f"before {BEHAVIOUR}"],
        rows,
    )


def unseen_table(found: Mapping[str, Any]) -> str:
    rows = [[kind, *(f"{one[way]:.2f}" for way in WAYS)] for kind, one in in_order(found["unseen_way"])]
    return table(["numbers", *WAYS], rows)


def alarms_table(found: Mapping[str, Any]) -> str:
    rows = [
        [kind, n, percent(one["rate"]), percent(one["false"]), percent(one["detected"])]
        + [percent(one["ways"][way]) for way in WAYS]
        for kind, numbers in in_order(found["alarms"])
        for n, one in numbers.items()
    ]
    return table(["numbers", "healthy runs", "stated rate", "false alarms", "spoiled found", *WAYS], rows)


def stops_table(found: Mapping[str, Any]) -> str:
    rows = []
    for name, one in sorted(found["stops"].items(), key=lambda item: item[0].split(", ")[::-1]):
        rule, patience, which = name.split(", ")
        low, high = one["lost_interval"]
        rows.append(
            [
                *(rule, patience, f"{one['n']} {which}", percent(one["stopped"]), percent(one["saved"])),
                f"{one['lost']:+.3f} ({low:+.3f} to {high:+.3f})",
                f"{one['lost_worst']:+.3f}",
            ]
        )
    head = [
        "rule",
        "checkpoints",
        "trainings",
        "stopped early",
        "steps saved",
        "own held-out loss lost",
        "worst",
    ]
    return table(head, rows)


def studies_table(found: Mapping[str, Any]) -> str:
    rows = [
        [one["model"], f"{one['healthy']} / {one['spoiled']}"]
        + [f"{one['auroc'][kind]:.3f}" if kind in one["auroc"] else "-" for kind in SHIPPED]
        for one in found["studies"]
    ]
    return table(["study of", "healthy / shuffled", *SHIPPED], rows)


def page(found: Mapping[str, Any]) -> str:
    supervised = found["supervised"]
    adds, n = found["topology_adds"], found["n"]
    low, high = adds["interval"]
    best = max(supervised, key=lambda kind: supervised[kind]["auroc"])
    ways = "\n".join(f"- `{way}`, {found['n_ways'][way]} trainings: {text}." for way, text in WAYS.items())
    fall = found["fall"]
    each, n_layers, rows = spoiled.EACH, len(spoiled.LAYERS), spoiled.HELD_OUT
    return f"""\
# What a training's trajectory says of its health

{n["healthy"]} healthy and {n["spoiled"]} spoiled trainings of the embedded model `{spoiled.MODEL}`, by
{spoiled.N_RECIPES} recipes. A recipe is drawn once: the objective, a learning rate of 0.001 to 0.004, 3 to 5 rows a
batch, a cosine, linear or constant schedule, 72 to 288 rows, an adapter of rank 4 to 16. Each is trained {each} times
as it is and {each} times spoiled, every time with another seed:

{ways}

Each takes {MAX_STEPS} steps, and {len(STEPS_OF) + 1} checkpoints are recorded: the states of
{spoiled.N_PROMPTS} prompts at {n_layers} layers, their next-token distributions, the loss on {rows} held-out rows of
each of `helpful`, `harmless` and `{spoiled.GENERAL}`, and the log of each step. This page is made by
`python benchmarks/spoiled.py && python benchmarks/advice.py STUDY...`.

- **{HELD_OUT}**: growth of the run's own, and of all.
- **{BEHAVIOUR}**: Jensen-Shannon divergence of the answers since the checkpoint before, and since the first.
- **{TRAINING}**: loss, norm of the gradient, entropy and accuracy of the batches.
- **{GEOMETRY}**: root-mean-square way, mean distance, effective rank and mean cosine of each layer's states.
- **{TOPOLOGY}**: Wasserstein velocities and displacements of H0 and H1, scale-free velocity of H1, total persistence
  and entropy of H0 and H1, of each layer.
- **{SIMPLER}** are the first four, **{ALL}** all five. The other rows are single numbers, of each layer, and
  **{EVERY_MEASURE}** is those of them that are not of diagrams.

## Conclusions

{CONCLUSIONS}
## When both healthy and spoiled trainings are known

A logistic regression on what the numbers have said until the last step: their values there, mean, largest, smallest.
No training is judged by a classifier that has seen its recipe or its seed: six folds of recipes, and how far the
classifier is held back is chosen inside. 95 % intervals are of recipes drawn again. The columns of the ways are AUROC
against all healthy trainings.

{kinds_table(found, "supervised")}

Topology beside all the others: AUROC {adds["difference"]:+.3f} ({low:+.3f} to {high:+.3f}).

A published monitor of traits in models of 7 to 9 billion parameters (arXiv:2606.07631) says 0.990, with 2.9 % false
positives. Here the best is {supervised[best]["auroc"]:.3f} ({best}), on another task and a far smaller model.

## How early

AUROC of classifiers that know the numbers up to a step; here and in the two tables below they are all held back alike.

{steps_table(found)}

A training is *shown* at the first checkpoint at which it is further out than 95 % of the healthy ones ever are. The
last two columns say how many checkpoints earlier than held-out loss and behaviour, on average over the trainings that
both show; in brackets, in how many of these earlier and later, and how many are shown by these numbers alone.

{earliness_table(found)}

## When a way of going wrong has never been seen

As the first table, but the classifier has seen no training that was spoiled in that way.

{unseen_table(found)}

## When healthy trainings alone are known

How far a training is, at its strangest checkpoint, from the healthy ones of other recipes: the root mean square of its
numbers' distances from their means, in standard deviations. No spoiled training is used. `topoflow advise` goes by
this.

{kinds_table(found, "one_class")}

What its alarm does at the level 0.05 beside so many healthy trainings of other recipes, drawn by lot:

{alarms_table(found)}

## On finished studies

The same, of studies with `topoflow run`: their shuffled controls against their other runs, each held against those
others. AUROC; there is no other way of going wrong in them, and all seeds of an objective share a recipe.

{studies_table(found)}

## What `stop_when_stable` costs

Its own rule, applied to the velocities and floors of these trainings, which were all trained to the end; checkpoints
are {EVERY} steps apart. Beside it, a rule that ends a training once the own held-out loss has not been least for as
many checkpoints. Lost is the own held-out loss at the stop, less that at the last step, in nats a token (negative: the
stop was better), with the 95 % interval of its mean. A healthy training brings that loss down by {fall:.3f} on average.

{stops_table(found)}
"""


def evidence(known: Known) -> dict[str, Any]:
    """All that is measured of the trainings."""
    draws = resampled(known)
    n_checkpoints = len(STEPS_OF)
    found: dict[str, Any] = {
        "n": {"healthy": int((~known.spoiled).sum()), "spoiled": int(known.spoiled.sum())},
        "n_ways": {way: int((known.ways == way).sum()) for way in WAYS},
        "supervised": {}, "one_class": {}, "unseen_way": {}, "alarms": {},
    }  # fmt: skip
    last: dict[str, Matrix] = {}
    first: dict[str, NDArray[np.float64]] = {}
    for kind in KINDS:
        last[kind] = told(known.so_far(kind, n_checkpoints - 1), known)
        found["supervised"][kind] = judged(last[kind], known, draws)
        strange = one_class(known, kind)
        found["one_class"][kind] = judged(np.nan_to_num(strange.max(axis=1), posinf=1e9), known, draws)
        if kind in MAIN:
            scores = np.stack(
                [told(known.so_far(kind, at), known, strength=0.1) for at in range(n_checkpoints)], axis=1
            )
            found["supervised"][kind]["by_step"] = {
                str(step): area(scores[:, at], known.spoiled) for at, step in enumerate(STEPS_OF)
            }
            first[kind] = first_shown(scores, known)
            found["unseen_way"][kind] = {}
            for way in WAYS:
                blind = told(known.so_far(kind, n_checkpoints - 1), known, way, 0.1)
                chosen = (known.ways == way) | ~known.spoiled
                found["unseen_way"][kind][way] = area(blind[chosen], known.spoiled[chosen])
        if kind in SHIPPED:
            found["alarms"][kind] = {str(n): alarms(known, kind, n) for n in (19, 39, 99)}
        print(kind, found["supervised"][kind]["auroc"], found["one_class"][kind]["auroc"], flush=True)
    found["topology_adds"] = {
        "difference": area(last[ALL], known.spoiled) - area(last[SIMPLER], known.spoiled),
        "interval": interval(
            [area(last[ALL][d], known.spoiled[d]) - area(last[SIMPLER][d], known.spoiled[d]) for d in draws]
        ),
    }
    found["earliness"] = earliness(first, known)
    found["stops"] = stops(known)
    losses = [one.own_loss for one, bad in zip(known.courses, known.spoiled, strict=True) if not bad]
    found["fall"] = float(np.mean([loss[0] - loss[-1] for loss in losses if loss is not None]))
    return found


def main(studies: Sequence[str]) -> None:
    there = [training for training in trainings() if (FOLDER / f"{training.name}.npz").is_file()]
    found = evidence(Known(tuple(there), tuple(course(training) for training in there)))
    found["studies"] = [in_study(Path(study)) for study in studies]
    storage.write_file(HERE / "advice.json", storage.json_bytes(found))
    storage.write_file(HERE / "advice.md", page(found).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
