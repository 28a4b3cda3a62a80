"""How often each verdict is given on planted worlds, whose truth is known.

    nice python benchmarks/verdicts.py [--processes 2] [SECTION...]    run what is missing, then render
    python benchmarks/verdicts.py --render                             render what is there

Counts go to benchmarks/verdicts.json as they come, and a later call goes on from there; benchmarks/verdicts.md is
rendered from them. Clouds of real states are taken from the package `actopo` where it is installed; else that section
keeps the counts that it has. Trainings on shuffled answers are made, half a minute each, where the folder `--trainings`
does not have them. A world whose counts are from another version of the code goes on from them, and the page names the
versions: delete the file to start anew.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: processes are the parallelism

import argparse
import datetime as dt
import json
import math
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path as File
from typing import Any

import numpy as np
import shuffled
import worlds
from scipy import stats
from worlds import LAST, RISE, WORLDS, Cloud, Path

import topoflow
from topoflow.dynamics.claims.models import AMOUNT, TIMING
from topoflow.dynamics.claims.verdict import Verdict
from topoflow.dynamics.following import Trajectory

HERE = File(__file__).parent
COUNTS, PAGE = HERE / "verdicts.json", HERE / "verdicts.md"
SEED = 2026_1128  # of all that is reported; rules were tuned on other seeds
MOST_FALSE, MOST_FALSE_UPPER = 0.05, 0.08  # the bars where a claim is false
CHUNK = 5  # replicates a task
ROUND = 20  # replicates of a world before the next world's turn: a run may be ended at any time
ROTATIONS = 39  # as in params.yaml: the fewest with which one of two homologies can be supported
Said = list[tuple[str, str, str]]  # claim, homology, verdict
Truth = Mapping[str, bool | None]  # by claim; None: described, not judged


@dataclass(frozen=True)
class World:
    """What is run, and what is true of it."""

    name: str
    judge: Callable[[list[int]], Said]  # from the numbers that seed a replicate
    truth: Truth
    power: Mapping[str, float] = field(default_factory=dict)  # claim and homology: least share of supported
    replicates: int = 200


# --- one run ------------------------------------------------------------------------------------

JITTER = ("jitter", "shrinking jitter")
REMEMBERED = ("jitter remembered by .8", "shrinking jitter remembered by .8")
CALM = (
    "near copies gather early", "early loop", "early loop, wide", "early loop of the plane's variance",
    "weak early loop", "loop in one interval",
)  # fmt: skip
POWER = {
    "early loop": {"early, H1": 0.9, "early, H0": 0.9, "calm, H1": 0.9, "calm, H0": 0.9},
    "cosine and an early loop": {"early, H1": 0.8, "early, H0": 0.8},
}


def truth_of(name: str) -> Truth:
    """What is true of a world: whether anything moves, is early, and is then calm."""
    moves = None if name in REMEMBERED else name not in JITTER
    calm = None if name == "cosine and an early loop" else name in CALM
    return {"moves": moves, "early": WORLDS[name][2], "calm": calm}


def follow(
    clouds: Mapping[int, Mapping[int, Cloud]],
    rates: Cloud,
    shape: tuple[int, int],
    behaviour: Mapping[int, Cloud] | None = None,
    seed: int = 0,
) -> Trajectory:
    """Follow a run as a study with the default parameters does, but for the size of its clouds."""
    claims = topoflow.Claims(n_rotations=ROTATIONS, rotation_subsamples=shape[0])
    return topoflow.follow(clouds, rates, behaviour, topoflow.Topology(*shape), claims, seed)


def said(verdicts: Sequence[Verdict], after: str = "") -> Said:
    return [(f"{v.claim}{after}", v.homology, v.verdict) for v in verdicts]


def one_run(name: str, seed: list[int], anchors: int = 13, layers: int = 1) -> Said:
    make, kind, _ = WORLDS[name]
    rng = np.random.default_rng(seed)
    path = make(rng, worlds.base(rng, kind))
    clouds = worlds.record(path, rng, worlds.twin_steps(path.cosine, anchors))
    for layer in range(2, layers + 1):  # turned, ten times larger, with its own jitter
        turn = np.linalg.qr(rng.normal(size=(path.clouds[0].shape[1],) * 2))[0]
        again = worlds.record(path, rng, sorted(clouds))
        for step, cloud in again.items():
            clouds[step][layer] = 10.0 ** (layer - 1) * cloud[1] @ turn
    return told(follow(clouds, path.learning_rate, (5, 32), seed=seed[-1]))


def told(run: Trajectory) -> Said:
    return [one for one in said(run.verdicts) if one[0] != "leads"]  # of one run it always says "cannot tell"


def at_rest(noise: float, seed: list[int]) -> Said:
    """A learning rate of 0: the same clouds again and again, but for rounding."""
    rng = np.random.default_rng(seed)
    start = worlds.base(rng)
    clouds = {s: {1: start + noise * rng.normal(size=start.shape)} for s in worlds.twin_steps(False)}
    return told(follow(clouds, np.zeros(LAST), (5, 32), seed=seed[-1]))


FEWER = (
    "jitter", "shrinking jitter", "shrinking jitter remembered by .8", "walk, cosine", "walk from clusters",
    "drift, cosine", "drift from clusters, cosine", "growth of two directions", "4 movers of 80", "late loop",
    "early loop", "loop in one interval", "cosine and an early loop",
)  # fmt: skip
TWO_LAYERS = (
    "shrinking jitter", "walk, cosine", "drift, cosine", "walk from clusters", "growth of two directions",
    "early loop", "cosine and an early loop",
)  # fmt: skip


# --- real states --------------------------------------------------------------------------------


@cache
def real_states() -> tuple[Cloud, Cloud] | None:
    try:
        from actopo.data import load_example_cloud
    except ImportError:
        return None
    return tuple(np.asarray(load_example_cloud(one), dtype=np.float64) for one in ("base", "instruct"))  # type: ignore[return-value]


def real_run(
    kind: str, seed: list[int], states: Callable[[], tuple[Cloud, Cloud] | None] = real_states
) -> Said:
    """150 prompts of a model before and after training, and what a training may do to them.

    By default those of Qwen2.5-0.5B and of its instruct sibling, 896 wide.
    """
    known = states()
    assert known is not None
    rng = np.random.default_rng(seed)
    who = rng.choice(len(known[0]), 150, replace=False)
    start, goal = (cloud[who] for cloud in known)
    cosine = "cosine" in kind
    pace = worlds.rates(cosine)
    done = np.concatenate([[0], np.cumsum(pace)]) / pace.sum()
    centred = start - start.mean(axis=0)

    def alike() -> Cloud:  # Gaussian, of the base's mean and covariance
        return start.mean(axis=0) + rng.normal(size=(150, 150)) @ centred / math.sqrt(150)

    if kind.startswith("walk"):
        clouds = [start]
        for rate in pace:
            angle = 0.11 * rate
            mean = clouds[-1].mean(axis=0)
            clouds.append(mean + worlds.turned(clouds[-1] - mean, alike() - start.mean(axis=0), angle))
    elif kind.startswith("to instruct"):
        clouds = [start + share * (goal - start) for share in (RISE if "early" in kind else done)]
    elif "loop" in kind:
        left, sizes, right = np.linalg.svd(centred, full_matrices=False)
        scale = sizes[0] / math.sqrt(150)
        turned = left * sizes / scale
        even = kind.endswith("even")
        clouds = [
            start.mean(axis=0) + scale * worlds.loop(turned, share, even=even) @ right for share in RISE
        ]
    else:
        clouds = [start] * (LAST + 1)
    size = 0.05 * float(centred.std())
    path = Path(clouds, np.full(LAST + 1, size), cosine=cosine)
    recorded = worlds.record(path, rng, worlds.twin_steps(cosine))
    return told(follow(recorded, path.learning_rate, (5, 50), seed=seed[-1]))


@cache
def tuned_states(trainings: File) -> tuple[Cloud, Cloud]:
    """The third layer of `tiny`, 128 wide, before a training on shuffled answers and after it."""
    run = shuffled.followed(trainings, 0).recorded
    return run.cloud(run.steps[0], 3), run.cloud(run.steps[-1], 3)


REAL: dict[str, tuple[Truth, Mapping[str, float]]] = {
    "jitter": ({"moves": False, "early": False, "calm": False}, {}),
    "walk": ({"moves": True, "early": False, "calm": False}, {}),
    "walk, cosine": ({"moves": True, "early": False, "calm": False}, {}),
    "to instruct": ({"moves": True, "early": False, "calm": False}, {}),
    "to instruct, cosine": ({"moves": True, "early": False, "calm": False}, {}),
    "to instruct, early": ({"moves": True, "early": None, "calm": None}, {}),
    "early loop": ({"moves": True, "early": True, "calm": True}, {"early, H1": 0.9, "early, H0": 0.9}),
    "early loop, even": ({"moves": True, "early": True, "calm": True}, {"early, H1": 0.9, "early, H0": 0.9}),
}


# --- runs of one study --------------------------------------------------------------------------

N, SIZE, SHAPE = 60, 6, (4, 26)  # of study-level clouds
HEAD = np.random.default_rng(5).normal(size=(SIZE, 16)) * 0.7


def probabilities(cloud: Cloud) -> Cloud:
    """What a fixed head makes of the states."""
    logits = cloud @ HEAD
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def shifted(path: Path, share: Cloud, rng: np.random.Generator) -> Path:
    """All prompts translate alike: behaviour moves, topology does not."""
    way = 2 * rng.normal(size=path.clouds[0].shape[1])
    clouds = [cloud + s * way for cloud, s in zip(path.clouds, share, strict=True)]
    return Path(clouds, path.jitter, path.memory, path.cosine)


def translation(rng: np.random.Generator, start: Cloud) -> Path:
    done = np.concatenate([[0], np.cumsum(worlds.rates(True))])
    return shifted(Path([start] * (LAST + 1), cosine=True), done / done[-1], rng)


def late_shift(rng: np.random.Generator, path: Path) -> Path:
    return shifted(path, 1 / (1 + np.exp(-(np.arange(LAST + 1) - 36) / 2)), rng)


def loop_then_shift(rng: np.random.Generator, start: Cloud) -> Path:
    return late_shift(rng, worlds.shaped(start, 0.5 * RISE, 0.02))


STUDIES = {
    **{name: WORLDS[name] for name in (
        "jitter", "shrinking jitter", "walk", "walk, cosine", "drift", "drift, cosine", "30 % slower later",
        "walk from clusters", "drift from clusters, cosine", "growth", "growth of two directions", "late loop",
        "early loop", "weak early loop", "loop in one interval", "cosine and an early loop",
    )},
    "all prompts translate, cosine": (translation, "gauss", False),
    "loop, then all prompts translate": (loop_then_shift, "gauss", True),
}  # fmt: skip
_STILL = WORLDS["jitter"][0]
CONTROLS: dict[str, Callable[[np.random.Generator, Cloud], Path]] = {  # the same world without the loop
    "early loop": _STILL,
    "weak early loop": _STILL,
    "late loop": _STILL,
    "loop in one interval": _STILL,
    "cosine and an early loop": WORLDS["drift, cosine"][0],
    "loop, then all prompts translate": lambda rng, x: late_shift(rng, worlds.still(x, 0.02)),
}


def recorded(path: Path, rng: np.random.Generator, seed: int) -> Trajectory:
    clouds = worlds.record(path, rng, worlds.twin_steps(path.cosine))
    behaviour = {step: probabilities(layers[1]) for step, layers in clouds.items()}
    return follow(clouds, path.learning_rate, SHAPE, behaviour, seed)


def runs_of_a_study(name: str, seed: list[int]) -> Said:
    """Six runs of one base and the same prompts: what three of them say and all, by rotations and by controls."""
    make, kind, _ = STUDIES[name]
    start = worlds.base(np.random.default_rng([*seed, 0]), kind, N, SIZE)
    groups = []
    for label, how in enumerate((make, CONTROLS.get(name, make))):
        rngs = [np.random.default_rng([*seed, label, run, 1]) for run in range(6)]
        groups.append([recorded(how(rng, start), rng, seed[-1]) for rng in rngs])
    runs, controls = groups
    found: Said = []
    for n in (3, 6):
        mine = {"a": runs[:n]}
        found += said(topoflow.compare(mine, "runs").verdicts, f", {n} seeds")
        held = topoflow.compare(mine, "runs", {"a": controls[:n]}).verdicts
        found += said(held, f", {n} seeds and controls")
    return found


def truth_of_study(name: str) -> Truth:
    early = STUDIES[name][2]
    calm = None if name == "cosine and an early loop" else name in (*CALM, "loop, then all prompts translate")
    # a loop and then a shift: topology leads, but so does the plain geometry of the loop
    leads = None if name in ("cosine and an early loop", "loop, then all prompts translate") else False
    found: dict[str, bool | None] = {}
    for n in (3, 6):
        for held in ("", " and controls"):
            found[f"early, {n} seeds{held}"] = early
            # with controls of a clustered base the control explains what the start does
            found[f"calm, {n} seeds{held}"] = calm
            found[f"leads, {n} seeds{held}"] = leads
    return found


def power_of_study(name: str) -> Mapping[str, float]:
    bar = {"early loop": 0.9, "cosine and an early loop": 0.8}.get(name)
    if bar is None:
        return {}
    claims = [
        f"early, {n} seeds{held}, {h}" for n in (3, 6) for held in ("", " and controls") for h in ("H1", "H0")
    ]
    return dict.fromkeys(claims, bar)


# --- objectives and models ----------------------------------------------------------------------


def wander(rng: np.random.Generator, shared: np.random.Generator, start: Cloud, pace: float) -> list[Cloud]:
    """A walk half of which all labels of a seed share; `pace` is the angle of a whole run."""
    clouds = [start]
    for _ in range(LAST):
        way = math.sqrt(0.5) * (rng.normal(size=start.shape) + shared.normal(size=start.shape))
        clouds.append(worlds.turned(clouds[-1], way, pace / math.sqrt(LAST)))
    return clouds


def looped(clouds: list[Cloud], share: Cloud) -> list[Cloud]:
    return [worlds.loop(cloud, s, 2.5) for cloud, s in zip(clouds, share, strict=True)]


def labelled(kind: str, label: int, run: int, seed: list[int], start: Cloud) -> Trajectory:
    """One run of an objective or of a model."""
    rng, shared = (np.random.default_rng([*seed, *which]) for which in ((label, run, 8), (run, 9)))
    first = label == 0
    pace = 0.0 if kind == "nothing moves" else 0.6
    if kind == "wider drift, .9 against .5":
        pace = 0.9 if first else 0.5
    if kind == "drift x 2" and first:
        pace = 1.2
    clouds, steps = wander(rng, shared, start, pace), np.arange(LAST + 1)
    rise = 1 - np.exp(-steps / 8)
    if first and "loop of" in kind:
        clouds = looped(clouds, float(kind.split("loop of ")[1].split()[0]) * rise)
    if kind == "early against late loop":
        clouds = looped(clouds, 0.5 * (RISE if first else worlds.LATE))
    if kind == "scaled by 15 %" and first:
        clouds = [cloud * (1 + 0.15 * step / LAST) for step, cloud in enumerate(clouds)]
    jitter = np.full(LAST + 1, 0.25 if kind == "noisier states" and first else 0.03)
    jitter[:2] = 0.03
    path = Path(clouds, jitter)
    return follow(
        worlds.record(path, rng, worlds.twin_steps(False)), path.learning_rate, SHAPE, seed=seed[-1]
    )


def objectives(kind: str, n_labels: int, seed: list[int]) -> Said:
    start = worlds.base(np.random.default_rng([*seed, 31]), "gauss", N, SIZE)
    names = "abc"[:n_labels]
    labels = {
        name: [labelled(kind, at, run, seed, start) for run in range(6)] for at, name in enumerate(names)
    }
    verdicts = topoflow.compare(labels).verdicts
    if n_labels == 2:
        return said(verdicts)
    found = [(f"{v.claim} {v.statement.split(' leave')[0]}", v.homology, v.verdict) for v in verdicts]
    for h in ("H1", "H0"):
        of_h = [verdict for _, homology, verdict in found if homology == h]
        found.append(("objectives, any pair", h, "supported" if "supported" in of_h else "none supported"))
    return found


def models(kind: str, seed: list[int]) -> Said:
    rng = np.random.default_rng([*seed, 31])
    start = worlds.base(rng, "gauss", N, SIZE)
    starts = [start, worlds.turned(start, rng.normal(size=start.shape), 0.5)]
    labels = {
        name: [labelled(kind, at, run, seed, starts[at]) for run in range(6)] for at, name in enumerate("ab")
    }
    return said(topoflow.compare(labels, "models").verdicts)


OBJECTIVES: dict[str, bool] = {
    "equal": False, "scaled by 15 %": False, "noisier states": False, "wider drift, .9 against .5": False,
    "loop of .3 in one": True, "loop of .5 in one": True,
}  # fmt: skip
MODELS: dict[str, tuple[Truth, Mapping[str, float]]] = {
    "nothing moves": ({AMOUNT: False, TIMING: False}, {}),
    "equal evolution from another start": ({AMOUNT: False, TIMING: False}, {}),
    # distances from the start saturate: twice the drift goes less than 1.5 times as far
    "drift x 2": ({AMOUNT: False, TIMING: False}, {}),
    "loop of .5 in one": ({AMOUNT: True, TIMING: None}, {f"{AMOUNT}, H1": 0.9, f"{AMOUNT}, H0": 0.9}),
    "early against late loop": ({AMOUNT: True, TIMING: True}, {}),
}
_THREE = {"objectives a and b": True, "objectives a and c": True, "objectives b and c": False}


# --- trainings on shuffled answers --------------------------------------------------------------


def one_training(trainings: File, seed: list[int]) -> Said:
    return told(shuffled.followed(trainings, seed[-1]))


@cache
def kept(trainings: File, number: int) -> Trajectory:
    """A training that many studies share, with what was computed of it."""
    return shuffled.followed(trainings, number)


def six_against_six(trainings: File, seed: list[int]) -> Said:
    """Twelve of the trainings by lot: six of one label, and six of another or as their controls."""
    lot = np.random.default_rng(seed).permutation(shuffled.N).tolist()
    one, other = ([kept(trainings, number) for number in lot[at : at + 6]] for at in (0, 6))
    held = topoflow.compare({"one": one}, "runs", {"one": other}).verdicts
    return [
        *said(topoflow.compare({"one": one, "other": other}).verdicts),
        *said([v for v in held if v.claim != "leads"], ", 6 seeds and controls"),
    ]


# --- all of them --------------------------------------------------------------------------------


def single(names: Iterable[str], **how: int) -> list[World]:
    """Worlds of one run."""
    return [
        World(name, partial(one_run, name, **how), truth_of(name), POWER.get(name, {}))
        for name in names
    ]  # fmt: skip


SHUFFLED, TUNED = "Shuffled-answer trainings", "One run, states of tiny"


def sections(trainings: File = shuffled.FOLDER) -> dict[str, list[World]]:
    """Worlds by section, in the order of the page; a section's place is in its seeds, so a new one comes last."""
    at_zero = {"moves": False, "early": False, "calm": False}
    return {
        "One run, 13 anchors": [
            *single(WORLDS),
            World("learning rate 0", partial(at_rest, 0.0), at_zero),
            World("learning rate 0, rounding", partial(at_rest, 1e-7), at_zero),
        ],
        "Runs of one study": [
            World(
                name, partial(runs_of_a_study, name), truth_of_study(name), power_of_study(name),
                200 if "from clusters" in name else 100,  # the worlds nearest to the bar
            )
            for name in STUDIES
        ],
        "Objectives, six seeds": [
            *(
                World(
                    kind, partial(objectives, kind, 2), {"objectives": true},
                    {f"objectives, {h}": 0.9 for h in ("H1", "H0")} if "of .5" in kind else {}, 100,
                )
                for kind, true in OBJECTIVES.items()
            ),
            World(
                "three, all equal", partial(objectives, "equal", 3),
                dict.fromkeys([*_THREE, "objectives, any pair"], False), {}, 100,
            ),
            World("three, a loop of .5 in one", partial(objectives, "loop of .5 in one", 3), _THREE, {}, 100),
        ],
        "Models, six seeds": [World(kind, partial(models, kind), *MODELS[kind], 100) for kind in MODELS],
        "One run, real states": [World(kind, partial(real_run, kind), *REAL[kind]) for kind in REAL],
        "One run, 8 anchors": single(FEWER, anchors=8),
        "One run, 5 anchors": single(FEWER, anchors=5),
        "One run, two layers": single(TWO_LAYERS, layers=2),
        SHUFFLED: [
            World(
                "each training", partial(one_training, trainings),
                dict.fromkeys(("moves", "early", "calm")), replicates=shuffled.N,
            ),
            World(
                "six against six", partial(six_against_six, trainings),
                {"objectives": False, "early, 6 seeds and controls": False, "calm, 6 seeds and controls": None},
            ),
        ],
        TUNED: [
            World(kind.replace("instruct", "the last state"),
                  partial(real_run, kind, states=partial(tuned_states, trainings)), *REAL[kind])
            for kind in REAL
        ],
    }  # fmt: skip


def chunk(trainings: File, section: str, name: str, first: int, last: int) -> list[Said]:
    """Some replicates of a world; called in a process of its own."""
    known = sections(trainings)
    world = next(one for one in known[section] if one.name == name)
    key = [SEED, list(known).index(section), *name.encode()]
    return [world.judge([*key, replicate]) for replicate in range(first, last)]


def train(trainings: File, pool: ProcessPoolExecutor, most: int) -> None:
    """Make those of the first so many trainings that are not there yet."""
    if numbers := [number for number in shuffled.missing(trainings) if number < most]:
        description = pool.submit(shuffled.describe).result()
        for _ in pool.map(partial(shuffled.train, trainings, description), numbers):
            pass


def run(wanted: Sequence[str], processes: int, trainings: File, counts: dict[str, Any]) -> None:
    """Run what is missing, and write after each chunk."""
    version = commit()
    tasks = [
        (section, world.name, first, min(first + CHUNK, world.replicates))
        for section, of_section in sections().items()
        if section in wanted and (real_states() is not None or "real" not in section)
        for world in of_section
        for first in range(counts.get(section, {}).get(world.name, {}).get("replicates", 0), world.replicates, CHUNK)
    ]  # fmt: skip
    tasks.sort(key=lambda task: task[2] // ROUND)
    with ProcessPoolExecutor(processes) as pool:
        named = {section for section, *_ in tasks}
        train(trainings, pool, shuffled.N if SHUFFLED in named else int(TUNED in named))
        results = pool.map(partial(chunk, trainings), *zip(*tasks, strict=True))
        for (section, name, _, last), found in zip(tasks, results, strict=True):
            entry = counts.setdefault(section, {}).setdefault(name, {"versions": [], "counts": {}})
            for claim, homology, verdict in (one for replicate in found for one in replicate):
                of_claim = entry["counts"].setdefault(f"{claim}, {homology}", {})
                of_claim[verdict] = of_claim.get(verdict, 0) + 1
            entry["replicates"] = last
            entry["versions"] = sorted({*entry["versions"], version})
            part = COUNTS.with_suffix(".part")
            part.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")
            part.replace(COUNTS)


def commit() -> str:
    """Of the checkout, with a mark where its files differ from it."""
    command = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


# --- the page -----------------------------------------------------------------------------------

READING = """\
Each world is a training whose truth is known: `benchmarks/worlds.py` and `benchmarks/verdicts.py` say what
happens in it. Three bars are set. Where a claim is false, it is *supported* in at most 5 % of the replicates,
with a one-sided 95 % upper bound (Clopper and Pearson) of at most 8 %. Where it is true, it is *shown absent*
in at most 5 %. An early loop is found in 90 %, under a cosine rate in 80 %, and objectives that differ by a
loop of 0.5 in 90 % of studies of six seeds. H1 is the claim about loops, H0 the one about components.

{rotations} rotations of the prompts are drawn, as in params.yaml. With the 199 of `topoflow.Claims` no more false
claims pass, and more true ones. Clouds of single runs have 80 prompts of 8 dimensions and 5 subsamples of 32, those of
studies 60 prompts of 6 dimensions and 4 subsamples of 26. All runs of a study share base and prompts. Every world of
single runs has 200 replicates, every world of studies 100; the two with a clustered base, which come nearest to the
bar, have 200.

What is known not to hold, and how to read verdicts for it:

- *An early loop on the states of `tiny`*, the embedded model, is a matter of where the prompts lie. These states
  have one direction that is four times as long as any other, so that drawn to a circle at their own angles ("early
  loop") the prompts leave a third of it empty: an arc. Components find it in {tiny} runs, loops in {tiny_loops}.
  Spread evenly over the circle ("early loop, even"), loops find it in {even}, and components in {even_h0}: read
  both.
- *A loop under a rate that decays*, on states that drift: the claim about loops (H1) hardly ever finds it, for drift
  moves loops as well, and never shows it absent. Read H0: one run of 13 anchors finds {run}, one of 8 or 5 anchors
  {eight} and {five}, two layers {layers}; three seeds find {three}, six seeds {six}.
- *Calm* of loops is found in {calm} single runs, and in {calm_three} studies of three seeds.
- *A clustered base without controls*: with rotations alone, "leads" of components is supported in {leads_three} studies
  of three seeds and {leads_six} of six, where it is false; with shuffled controls in {leads_held} and {leads_held_six}.
  "Early" with six seeds is supported in {clusters}, and with shuffled controls in {clusters_held}.
- *Jitter that is remembered* for longer than a step counts as movement: "moves" is supported in {memory} (H1) and
  {memory_h0} (H0) such runs.
- *Timing of models* that differ by an early and a late loop is told by H0 in {timing_h0} studies, and by H1 in
  {timing}.
"""


def reading(counts: Mapping[str, Any]) -> str:
    """What stands above the tables, with the counts that it speaks of."""
    studies, run, cosine = "Runs of one study", "One run, 13 anchors", "cosine and an early loop"
    clusters, memory = "drift from clusters, cosine", "jitter remembered by .8"

    def of(section: str, world: str, claim: str) -> str:
        found = counts.get(section, {}).get(world, {}).get("counts", {}).get(claim)
        if found is None:  # not reached yet
            return "–"
        return f"{found.get('supported', 0)} of {sum(found.values())}"

    return READING.format(
        rotations=ROTATIONS,
        tiny=of(TUNED, "early loop", "early, H0"),
        tiny_loops=of(TUNED, "early loop", "early, H1"),
        even=of(TUNED, "early loop, even", "early, H1"),
        even_h0=of(TUNED, "early loop, even", "early, H0"),
        run=of(run, cosine, "early, H0"),
        eight=of("One run, 8 anchors", cosine, "early, H0"),
        five=of("One run, 5 anchors", cosine, "early, H0"),
        layers=of("One run, two layers", cosine, "early, H0"),
        three=of(studies, cosine, "early, 3 seeds, H0"),
        six=of(studies, cosine, "early, 6 seeds, H0"),
        calm=of(run, "early loop", "calm, H1"),
        calm_three=of(studies, "early loop", "calm, 3 seeds, H1"),
        leads_three=of(studies, clusters, "leads, 3 seeds, H0"),
        leads_six=of(studies, clusters, "leads, 6 seeds, H0"),
        leads_held=of(studies, clusters, "leads, 3 seeds and controls, H0"),
        leads_held_six=of(studies, clusters, "leads, 6 seeds and controls, H0"),
        clusters=of(studies, clusters, "early, 6 seeds, H0"),
        clusters_held=of(studies, clusters, "early, 6 seeds and controls, H0"),
        memory=of(run, memory, "moves, H1"),
        memory_h0=of(run, memory, "moves, H0"),
        timing=of("Models, six seeds", "early against late loop", f"{TIMING}, H1"),
        timing_h0=of("Models, six seeds", "early against late loop", f"{TIMING}, H0"),
    )


NOTES = {SHUFFLED: shuffled.NOTE}  # by section


def upper(k: int, n: int) -> float:
    """One-sided 95 % upper bound of a share (Clopper and Pearson)."""
    return 1.0 if k == n else float(stats.beta.ppf(0.95, k + 1, n - k))


def failing(world: World, claim: str, homology: str, counts: Mapping[str, int]) -> list[str]:
    """The bars that a claim misses in a world."""
    n, key = sum(counts.values()), f"{claim}, {homology}"
    yes, absent = counts.get("supported", 0), counts.get("shown absent", 0)
    true, missed = world.truth.get(claim), []
    if true is False and yes > MOST_FALSE * n:
        missed.append(f"{homology}: supported too often")
    elif true is False and upper(yes, n) > MOST_FALSE_UPPER:
        missed.append(f"{homology}: {n} are too few to tell")
    if true and absent > MOST_FALSE * n:
        missed.append(f"{homology}: shown absent too often")
    if yes < world.power.get(key, 0.0) * n:
        missed.append(f"{homology}: power below {world.power[key]:g}")
    return missed


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def tables(section: str, of_section: Sequence[World], counts: Mapping[str, Any]) -> Iterator[str]:
    """A table for each claim of a section."""
    there = [world for world in of_section if counts.get(world.name, {}).get("replicates")]
    claims = dict.fromkeys(claim for world in there for claim in world.truth)
    for claim in claims:
        yield f"### {section}: {claim}"
        yield ""
        heads = ("world", "it is", "of", "supported, H1", "supported, H0", "shown absent, H1 / H0", "else mostly, H1",
                 "else mostly, H0", "bars missed")  # fmt: skip
        yield row(heads)
        yield row(["---"] * len(heads))
        for world in there:
            if claim not in world.truth:
                continue
            by_h = {h: counts[world.name]["counts"].get(f"{claim}, {h}", {}) for h in ("H1", "H0")}
            n, cells, other = counts[world.name]["replicates"], [], []
            for found in by_h.values():
                yes = found.get("supported", 0)
                cells.append(
                    f"{yes} (at most {upper(yes, n):.1%})" if world.truth[claim] is False else str(yes)
                )
                rest = Counter({k: v for k, v in found.items() if k not in ("supported", "shown absent")})
                other.append("; ".join(f"{k} {v}" for k, v in rest.most_common(2)))
            absent = " / ".join(str(found.get("shown absent", 0)) for found in by_h.values())
            true = {True: "true", False: "false", None: "not judged"}[world.truth[claim]]
            missed = [miss for h, found in by_h.items() for miss in failing(world, claim, h, found)]
            yield row([world.name, true, str(n), *cells, absent, *other, "; ".join(missed) or "–"])
        yield ""


def render(counts: Mapping[str, Any]) -> None:
    known = sections()
    missed: list[str] = []
    n_false = n_power = n_open = 0
    n_all = sum(world.replicates for of_section in known.values() for world in of_section)
    n_done = sum(entry["replicates"] for part in counts.values() for entry in part.values())
    for section, of_section in known.items():
        for world in of_section:
            entry = counts.get(section, {}).get(world.name)
            if not entry:
                continue
            if strangers := {claim for claim in world.truth if f"{claim}, H1" not in entry["counts"]}:
                raise ValueError(
                    f"{section}, {world.name}: no verdict was ever given of {', '.join(strangers)}"
                )
            for key, found in entry["counts"].items():
                claim, homology = key.rsplit(", ", 1)
                n_false += world.truth.get(claim) is False
                n_power += key in world.power
                for miss in failing(world, claim, homology, found):
                    if miss.endswith("too few to tell"):
                        n_open += 1
                        continue
                    times = ", ".join(f"{v} {found.get(v, 0)}" for v in ("supported", "shown absent"))
                    missed.append(
                        f"- {section}, *{world.name}*, {claim}, {miss}: {times} of {entry['replicates']}"
                    )
    versions = sorted({v for part in counts.values() for entry in part.values() for v in entry["versions"]})
    cpu = re.search(r"model name\s*: (.*)", File("/proc/cpuinfo").read_text(encoding="utf-8"))
    machine = (
        f"{cpu[1] if cpu else platform.machine()}, Python {platform.python_version()}, NumPy {np.__version__}"
    )
    lines = [
        "# How often each verdict is given where the truth is known",
        "",
        f"Written by `benchmarks/verdicts.py` on {dt.date.today()}: {machine},",
        f"topoflow at {', '.join(versions)}, seeds from {SEED}. All counts are in verdicts.json.",
        "",
        *reading(counts).splitlines(),
        "",
        "## Bars missed",
        "",
        f"Of {n_false} rates where a claim is false and {n_power} powers with a bar, in {n_done:,} of {n_all:,}",
        f"replicates{' (the others were not reached yet)' * (n_done < n_all)}. Of {n_open} rates, the replicates are",
        "too few to tell.",
        "",
        *(missed or ["none."]),
        "",
    ]
    for section, of_section in known.items():
        if counts.get(section):
            lines += [f"## {section}", ""]
            if section in NOTES:
                lines += [*NOTES[section].splitlines(), ""]
            lines += tables(section, of_section, counts[section])
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def main() -> None:
    names = list(sections())
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="; ".join(names))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--trainings", type=File, default=shuffled.FOLDER, metavar="FOLDER",
        help="where trainings on shuffled answers are kept",
    )  # fmt: skip
    parser.add_argument("--render", action="store_true", help="only write the page")
    options = parser.parse_args()
    counts = json.loads(COUNTS.read_text(encoding="utf-8")) if COUNTS.exists() else {}
    if not options.render:
        run(options.sections or names, options.processes, options.trainings, counts)
    render(counts)


if __name__ == "__main__":
    main()
