"""Which verdicts hang on a choice that could as well have been another: a specification curve.

A study decides once how topology is computed and how time is told. Whoever tries several ways and shows the one that
says most fools himself. So alternatives are declared beforehand, the same verdicts are computed under each of them, and
all are shown (Simonsohn, Simmons and Nelson, Specification curve analysis, Nature Human Behaviour 4, 2020).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topoflow.dynamics.cells import CellDiagrams, cell_diagrams, cell_distances
from topoflow.dynamics.claims import listed
from topoflow.dynamics.claims.margins import Claims
from topoflow.dynamics.claims.reading import sort_of
from topoflow.dynamics.claims.verdict import Verdict, known
from topoflow.dynamics.features import HOMOLOGY
from topoflow.dynamics.following import Keeper, Mapper, Recorded, Trajectory, one_by_one
from topoflow.dynamics.nulls import NullTest, concentration_test
from topoflow.dynamics.permutation import CANNOT_TELL, SUPPORTED, Test, decide
from topoflow.dynamics.surrogates import COVARIANCE, START
from topoflow.dynamics.twins import clock_of
from topoflow.errors import InvalidArgument
from topoflow.topology.point_clouds import subsample_plan
from topoflow.topology.prepared import Preparation

CONCENTRATION = "concentration"
# A verdict that the ladder does not have: where no rotations are drawn, a claim can get no farther.
PASSES = "passes before rotations"
_BLOCKS = 20200727  # with the study's seed, which prompts are left out together


@dataclass(frozen=True)
class Choices:
    """What an analysis chooses, and another could choose otherwise.

    Attributes
    ----------
    order : float
        Of the Wasserstein distance between diagrams. Only the concentration has to do with it.
    clock : str or None
        As `Recorded.clock` has it: by what all tell time. By default claims do as the ladder has it.
    third : str
        By what the first third of the concentration is then counted, one of `topoflow.dynamics.twins.CLOCKS`.
    preparation : Preparation
        Metric, scale and subspace of the clouds.
    n_subsamples, subsample_size : int
        Subsamples of a cell, and prompts in each.
    without_layer : int or None
        A layer that is left out.
    without_prompts : tuple of int and int, or None
        A block of prompts that is left out, counted from 0, and of how many blocks.

    Examples
    --------
    >>> Choices(order=1.0, n_subsamples=32).told(layers=(1, 2), n_prompts=750)["n_subsamples"]
    32
    """

    order: float = 2.0
    clock: str | None = None
    third: str = "steps"
    preparation: Preparation = field(default_factory=Preparation)
    n_subsamples: int = 64
    subsample_size: int = 160
    without_layer: int | None = None
    without_prompts: tuple[int, int] | None = None

    def told(self, layers: Sequence[int], n_prompts: int) -> dict[str, Any]:
        """Say the choices as a table has them: a name and a value for each.

        Parameters
        ----------
        layers : sequence of int
            All layers that were recorded.
        n_prompts
            Number of prompts that were recorded.

        Returns
        -------
        dict
            Each is a number or a text.

        Examples
        --------
        >>> told = Choices(without_layer=2, without_prompts=(0, 10)).told(layers=(1, 2), n_prompts=750)
        >>> told["layers"], told["prompts"], told["clock"]
        ('without layer 2', 'without block 1 of 10', 'as claims')
        """
        layer = self.without_layer if self.without_layer in layers else None
        block = self.without_prompts
        return {
            "order": self.order,
            "clock": self.clock or ("as claims" if self.third == "steps" else f"as claims, {self.third}"),
            "metric": self.preparation.metric,
            "normalise": self.preparation.normalise,
            "subsample_size": min(self.subsample_size, n_prompts - len(left_out(n_prompts, block, 0))),
            "n_subsamples": self.n_subsamples,
            "layers": "all" if layer is None else f"without layer {layer}",
            "prompts": "all" if block is None else f"without block {block[0] + 1} of {block[1]}",
        }


@dataclass(frozen=True)
class Alternative:
    """Choices under a name that says in what they depart from the study's own.

    Attributes
    ----------
    name : str
    choices : Choices

    Examples
    --------
    >>> Alternative("order 1", Choices(order=1.0)).choices.order
    1.0
    """

    name: str
    choices: Choices


OWN = "the study's own choices"


def alternatives(
    own: Choices,
    layers: Sequence[int],
    n_prompts: int,
    *,
    order: Iterable[float] = (1.0, 2.0),
    clock: Iterable[str] = ("steps", "learning_rate", "checkpoints"),
    metric: Iterable[str] = ("euclidean", "cosine"),
    normalise: Iterable[str] = ("none", "median", "zscore"),
    subsample_size: Iterable[float] = (0.5, 1.5),
    n_subsamples: Iterable[float] = (0.5,),
    leave_out_layers: bool = True,
    prompt_blocks: int = 10,
    joint: Iterable[Mapping[str, Any]] = (),
) -> list[Alternative]:
    """List the study's own choices and the alternatives to them: each changes one choice alone, `joint` ones several.

    Parameters
    ----------
    own : Choices
        The study's.
    layers : sequence of int
        All layers that were recorded.
    n_prompts
        Number of prompts that were recorded.
    order, clock, metric, normalise : iterable
        Values of each choice. That of the study itself is no alternative.
    subsample_size, n_subsamples : iterable of float
        Shares of the study's own. A subsample that would be larger than the prompts, or have fewer than 2, is left out.
    leave_out_layers
        Whether to leave out one layer at a time, where there are several.
    prompt_blocks
        Number of blocks of prompts, of which one at a time is left out; 0 for none.
    joint : iterable of mapping
        Choices that are changed together, by the names above.

    Returns
    -------
    list of Alternative
        The study's own first; no two of the same choices.

    Raises
    ------
    InvalidArgument
        If a metric, scale or name of a joint choice is not known.

    Examples
    --------
    >>> joint = [{"order": 1, "metric": "cosine"}]
    >>> found = alternatives(Choices(), layers=[3], n_prompts=200, prompt_blocks=2, joint=joint)
    >>> [one.name for one in found][:4]
    ["the study's own choices", 'order 1', 'clock steps', 'clock learning_rate']
    >>> [one.name for one in found][-5:]  # 240 of 200 prompts cannot be drawn
    ['subsample_size 80', 'n_subsamples 32', 'without block 1 of 2', 'without block 2 of 2', 'order 1, metric cosine']
    """
    values_of: dict[str, Iterable[Any]] = {
        "order": order, "clock": clock, "metric": metric, "normalise": normalise,
        "subsample_size": subsample_size, "n_subsamples": n_subsamples,
    }  # fmt: skip
    found = [Alternative(OWN, own)]
    wanted = [{name: value} for name, values in values_of.items() for value in values]
    wanted += [{"without_layer": layer} for layer in layers if leave_out_layers and len(layers) > 1]
    wanted += [{"without_prompts": (block, prompt_blocks)} for block in range(prompt_blocks)]
    for changes in (*wanted, *joint):
        choices = own
        for name, value in changes.items():
            choices = _changed(choices, name, value)
        fits = 2 <= choices.subsample_size <= n_prompts
        if fits and choices not in [one.choices for one in found]:
            found.append(Alternative(_name(own, choices, layers, n_prompts), choices))
    return found


def _changed(choices: Choices, name: str, value: Any) -> Choices:
    if name in ("metric", "normalise"):
        return replace(choices, preparation=replace(choices.preparation, **{name: value}))
    if name not in Choices.__dataclass_fields__:
        raise InvalidArgument("joint", "choices by their names", name)
    if name in ("subsample_size", "n_subsamples"):
        value = max(1, round(value * getattr(choices, name)))
    changes: dict[str, Any] = {name: float(value) if name == "order" else value}
    return replace(choices, **changes)


def _name(own: Choices, choices: Choices, layers: Sequence[int], n_prompts: int) -> str:
    before, after = (one.told(layers, n_prompts) for one in (own, choices))
    said = []
    for key, value in after.items():
        if value != before[key] and not (
            key == "subsample_size" and choices.subsample_size == own.subsample_size
        ):
            shown = format(value, "g") if isinstance(value, float) else value
            said.append(str(shown) if key in ("layers", "prompts") else f"{key} {shown}")
    return ", ".join(said)


def left_out(n_prompts: int, block: tuple[int, int] | None, seed: int) -> NDArray[np.int64]:
    """Return the prompts of a block: prompts are shuffled once and dealt into blocks of nearly equal size.

    Parameters
    ----------
    n_prompts
        Number of prompts.
    block : tuple of int and int, or None
        Which block, counted from 0, of how many; None for no prompt at all.
    seed
        The study's.

    Returns
    -------
    ndarray of int64
        Increasing.

    Examples
    --------
    >>> blocks = [left_out(7, (block, 2), seed=0) for block in range(2)]
    >>> sorted(np.concatenate(blocks).tolist()), len(left_out(7, None, seed=0))
    ([0, 1, 2, 3, 4, 5, 6], 0)
    """
    if block is None:
        return np.zeros(0, dtype=np.int64)
    order = np.random.default_rng([_BLOCKS, seed, n_prompts]).permutation(n_prompts)
    return np.sort(np.array_split(order, block[1])[block[0]]).astype(np.int64)


@dataclass(eq=False)
class Examination:
    """A run under other choices than its own.

    Parameters
    ----------
    recorded : Recorded
        The run with its clouds as they were recorded, not prepared; `cell` has the diagrams of its own choices, where
        they are known.
    own : Choices
        The study's.
    claims : topoflow.Claims
        Margins and levels. Where `n_rotations` is 0, claims climb as far as the rotations.
    mapper : callable
        As `Trajectory` has it.
    keeper : mapping of str to ndarray, optional
        Holds rotations of the study's own choices.

    Examples
    --------
    A cloud that grows early moves, and under its median distance nothing is left to move.

    >>> cloud, rng = np.random.default_rng(0).normal(size=(40, 3)), np.random.default_rng(1)
    >>> steps = [t + twin for t in range(0, 48, 8) for twin in (0, 1)]
    >>> clouds = {t: {1: (2 - np.exp(-t / 8)) * cloud + 0.01 * rng.normal(size=cloud.shape)} for t in steps}
    >>> from topoflow.dynamics.following import follow
    >>> own = Choices(n_subsamples=4, subsample_size=20)
    >>> run = Examination(follow(clouds).recorded, own, Claims(n_rotations=0))
    >>> scale_free = replace(own, preparation=Preparation(normalise="median"))
    >>> [run.verdicts(choices)["moves_h0"].verdict for choices in (own, scale_free)]
    ['supported', 'cannot tell']
    """

    recorded: Recorded
    own: Choices
    claims: Claims = field(default_factory=Claims)
    mapper: Mapper = one_by_one
    keeper: Keeper = field(default_factory=dict[str, NDArray[np.float64]], repr=False)
    _velocities: dict[tuple[Choices, int], dict[str, NDArray[np.float64]]] = field(
        default_factory=dict, repr=False
    )

    @cached_property
    def n_prompts(self) -> int:
        """Number of prompts that were recorded."""
        return len(self.recorded.cloud(self.recorded.steps[0], self.recorded.layers[0]))

    def trajectory(self, choices: Choices) -> Trajectory:
        """Return the run as its claims see it under other choices.

        Parameters
        ----------
        choices : Choices

        Returns
        -------
        Trajectory

        Examples
        --------
        >>> clouds = {t: {1: np.random.default_rng(t).normal(size=(40, 3))} for t in range(12)}
        >>> from topoflow.dynamics.following import follow
        >>> run = Examination(follow(clouds).recorded, Choices(n_subsamples=4, subsample_size=20))
        >>> fewer = Choices(n_subsamples=2, subsample_size=20, without_prompts=(0, 4))
        >>> run.trajectory(fewer).recorded.plan.shape, len(run.trajectory(fewer).recorded.cloud(0, 1))
        ((2, 20), 30)
        """
        # neither the order nor the clock changes what moves: all that was computed is shared, but that of classes
        if replace(choices, order=self.own.order, clock=self.own.clock) == self.own:
            recorded = replace(self._own.recorded, clock=choices.clock, order=choices.order)
            return replace(self._own, recorded=recorded, _of_classes={})
        return Trajectory(self._recorded(choices), self.claims, self.mapper)

    def verdicts(self, choices: Choices) -> dict[str, Verdict]:
        """Return what may be said of the run under other choices, and its concentration as published.

        Parameters
        ----------
        choices : Choices

        Returns
        -------
        dict of str to Verdict
            By name: those of the claims that one run can decide, then `CONCENTRATION`, each for H1 and H0. A claim that
            gets to the rotations, where none are drawn, is `PASSES`.

        Examples
        --------
        >>> clouds = {t: {1: np.random.default_rng(t).normal(size=(40, 3))} for t in range(12)}
        >>> from topoflow.dynamics.following import follow
        >>> own = Choices(n_subsamples=4, subsample_size=20)
        >>> run = Examination(follow(clouds).recorded, own, Claims(n_rotations=0))
        >>> found = run.verdicts(own)
        >>> round(found["concentration_h1"].value, 2), round(found["concentration_h0"].value, 2)
        (0.28, 0.28)
        """
        run = self.trajectory(choices)
        if run.recorded.cell is None:
            run = replace(run, recorded=replace(run.recorded, cell=self._cells(run.recorded)))
        alone = {claim.name for claim in listed.CLAIMS if claim.alone}
        found = [verdict for verdict in without_rotations(run.verdicts) if verdict.claim in alone]
        return {one.name: one for one in (*found, *self._concentration(choices, run.recorded))}

    @cached_property
    def _own(self) -> Trajectory:
        return Trajectory(self._recorded(self.own), self.claims, self.mapper, self.keeper)

    def _recorded(self, choices: Choices) -> Recorded:
        raw, seed = self.recorded, self.recorded.seed
        left = left_out(self.n_prompts, choices.without_prompts, seed)
        kept = np.setdiff1d(np.arange(self.n_prompts), left)
        prepared = choices.preparation

        @cache
        def fitted(layer: int) -> Callable[[Any], NDArray[np.float64]]:
            return prepared.fitted(raw.cloud(raw.steps[0], layer)[kept])

        def cloud(step: int, layer: int) -> NDArray[np.float64]:
            states = raw.cloud(step, layer)
            states = states if not len(left) else states[kept]
            return states if prepared.plain else fitted(layer)(states)

        def roots(step: int) -> NDArray[np.floating[Any]] | None:
            found = None if raw.roots is None else raw.roots(step)
            return found if found is None or not len(left) else found[kept]

        size = min(choices.subsample_size, len(kept))
        return replace(
            raw,
            layers=tuple(layer for layer in raw.layers if layer != choices.without_layer),
            cloud=cloud,
            plan=subsample_plan(len(kept), choices.n_subsamples, size, seed),
            cell=self._known_cells(choices),
            roots=None if raw.roots is None else roots,
            clock=choices.clock,
            labels=None if raw.labels is None else tuple(raw.labels[place] for place in kept),
            order=choices.order,
        )

    def _known_cells(self, choices: Choices) -> Callable[[int, int], CellDiagrams] | None:
        """What reads the diagrams of these choices, where they are those of the study's own or the first of them."""
        own = self.own
        as_own = replace(
            own, order=choices.order, clock=choices.clock, n_subsamples=choices.n_subsamples,
            without_layer=choices.without_layer,
        )  # fmt: skip
        if choices != as_own or choices.n_subsamples > own.n_subsamples:
            return None
        return lambda step, layer: self._own_cell(step, layer)[: choices.n_subsamples]

    @cached_property
    def _own_cell(self) -> Callable[[int, int], CellDiagrams]:
        return self.recorded.cell or self._cells(self._recorded(self.own))

    def _cells(self, recorded: Recorded) -> Callable[[int, int], CellDiagrams]:
        """The diagrams of all cells, computed once: claims and concentration both need them."""
        places = [(step, layer) for layer in recorded.layers for step in recorded.steps]
        tasks = ((recorded.cloud(*place), recorded.plan, recorded.engine) for place in places)
        found = dict(zip(places, self.mapper(cell_diagrams, tasks, len(places), "diagrams"), strict=True))
        return lambda step, layer: found[step, layer]

    def _concentration(self, choices: Choices, recorded: Recorded) -> list[Verdict]:
        """The share of all velocities in the first third (arXiv:2606.19542, Eq. 2), and whether order could give it."""
        steps, kind = recorded.steps, choices.clock or choices.third
        found = []
        for homology in HOMOLOGY:
            test = NullTest(math.nan, math.nan, math.nan, 0, exact=False)
            if recorded.rates_known or kind != "learning_rate":
                velocity = self._velocity(choices, recorded)[homology]
                clock = None if kind == "steps" else clock_of(kind, steps, recorded.learning_rate)
                test = concentration_test(velocity, steps, seed=recorded.seed, clock=clock)
            smallest = test.smallest_p if test.n_permutations else 1.0
            said = decide(Test(test.statistic, test.p_value, smallest_p=smallest), self.claims.level)
            found.append(
                Verdict(
                    CONCENTRATION, homology, said, "", known(test.statistic), None, None, known(test.p_value),
                    f"supported if p <= {self.claims.level:g} against the velocities in any order; scale, covariance "
                    "and the learning rate raise it too, so that no other verdict uses it",
                    "velocities concentrate in the first third of training, as published",
                    "share of the summed velocities that falls to intervals ending within the first third",
                )
            )  # fmt: skip
        return found

    def _velocity(self, choices: Choices, recorded: Recorded) -> dict[str, NDArray[np.float64]]:
        """Velocities by homology, shape (n_layers, T - 1); of all layers computed once for those that leave one out."""
        same = replace(choices, clock=None, without_layer=None)
        cell, places = (
            recorded.cell,
            [(layer, *move) for layer in recorded.layers for move in pairwise(recorded.steps)],
        )
        assert cell is not None
        missing = [place for place in places if (same, place[0]) not in self._velocities]
        tasks = ((cell(a, layer), cell(b, layer), choices.order) for layer, a, b in missing)
        moved = iter(self.mapper(_moved, tasks, len(missing), "velocities")) if missing else iter(())
        for layer in dict.fromkeys(layer for layer, *_ in missing):
            rows = [next(moved) for place in missing if place[0] == layer]
            self._velocities[same, layer] = {h: np.array([row[h] for row in rows]) for h in HOMOLOGY}
        return {
            h: np.array([self._velocities[same, layer][h] for layer in recorded.layers]) for h in HOMOLOGY
        }


def _moved(before: CellDiagrams, after: CellDiagrams, order: float) -> dict[str, float]:
    """The velocity between two cells, by homology."""
    return {h: float(cell_distances(before, after, int(h[1:]), order).mean()) for h in HOMOLOGY}


def without_rotations(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return verdicts in which a claim that got to the rotations, and found none drawn, is `PASSES`.

    Parameters
    ----------
    verdicts : sequence of Verdict
        As `Trajectory.verdicts` or `topoflow.compare` gives them.

    Returns
    -------
    list of Verdict
        A claim that comes after another passes only where that one does.

    Examples
    --------
    >>> one = Verdict("early", "H1", "cannot tell", "covariance", None, None, None, None, "", "")
    >>> [v.verdict for v in without_rotations([one, replace(one, claim="calm")])]
    ['passes before rotations', 'passes before rotations']
    >>> late = replace(one, verdict="shown absent", rung="raw")
    >>> [v.verdict for v in without_rotations([late, replace(one, claim="calm")])]
    ['shown absent', 'not supported beyond early']
    """
    stopped = [verdict.verdict == CANNOT_TELL and verdict.rung in (COVARIANCE, START) for verdict in verdicts]
    as_if = [
        replace(verdict, verdict=SUPPORTED) if at else verdict
        for verdict, at in zip(verdicts, stopped, strict=True)
    ]
    return [
        replace(verdict, verdict=PASSES) if at and verdict.verdict == SUPPORTED else verdict
        for verdict, at in zip(listed.gated(as_if), stopped, strict=True)
    ]


def sort_under(verdict: str) -> str:
    """Return the sort of a verdict: two of one sort agree, whichever rung they name.

    Parameters
    ----------
    verdict
        In words.

    Returns
    -------
    str
        As `topoflow.dynamics.claims.reading.sort_of` says, or "passes".

    Examples
    --------
    >>> sort_under("passes before rotations"), sort_under("explained by scale")
    ('passes', 'explained')
    """
    return "passes" if verdict == PASSES else sort_of(verdict)


@dataclass(frozen=True)
class Agreement:
    """How one verdict fares under the alternatives.

    Attributes
    ----------
    name : str
        What the verdict is called.
    own : Verdict
        Under the study's own choices.
    n_agree, n_alternatives : int
        Alternatives that say the same sort of thing, and all.
    flips : dict of str to list of str
        Each other verdict, with the alternatives that give it.

    Examples
    --------
    >>> one = Verdict("early", "H1", "supported", "the start", 0.3, None, None, 0.01, "", "")
    >>> other = replace(one, verdict="not supported")
    >>> by_name = {name: {one.name: v} for name, v in {OWN: one, "order 1": one, "metric cosine": other}.items()}
    >>> (found,) = agreements(by_name)
    >>> found.name, found.n_agree, found.n_alternatives, found.flips
    ('early_h1', 1, 2, {'not supported': ['metric cosine']})
    """

    name: str
    own: Verdict
    n_agree: int
    n_alternatives: int
    flips: dict[str, list[str]]


def agreements(verdicts: Mapping[str, Mapping[str, Verdict]]) -> list[Agreement]:
    """Count how many alternatives agree with each verdict of the study's own choices.

    Parameters
    ----------
    verdicts : mapping of str to mapping of str to Verdict
        By the alternative's name, `OWN` being one, and then by the verdict's.

    Returns
    -------
    list of Agreement
        One for each verdict of the study's own choices, in their order.

    Examples
    --------
    >>> one = Verdict("moves", "H0", "supported", "moves", 9.0, None, None, 0.002, "", "")
    >>> agreements({OWN: {"moves_h0": one}, "order 1": {"moves_h0": one}})[0].flips
    {}
    """
    found = []
    for name, own in verdicts[OWN].items():
        flips: dict[str, list[str]] = {}
        told = {one: of[name].verdict for one, of in verdicts.items() if one != OWN and name in of}
        for one, said in told.items():
            if sort_under(said) != sort_under(own.verdict):
                flips.setdefault(said, []).append(one)
        found.append(Agreement(name, own, len(told) - sum(map(len, flips.values())), len(told), flips))
    return found


def heading(name: str) -> str:
    """Return the name of a verdict as tables and pictures have it.

    Parameters
    ----------
    name
        As files have it.

    Returns
    -------
    str

    Examples
    --------
    >>> heading("early_h1_of_tiny")
    'early H1 of tiny'
    """
    return re.sub(r"\bh([01])\b", r"H\1", name.replace("_", " "))


def in_words(n_verdicts: int, n_sure: int, n_rotations: int) -> str:
    """Return what a table of agreements means, in a few sentences.

    Parameters
    ----------
    n_verdicts, n_sure
        Number of verdicts, and of those that no alternative flips.
    n_rotations
        Rotations that were drawn for a rung at most; 0 for none.

    Returns
    -------
    str

    Examples
    --------
    >>> in_words(8, 6, 39).partition(".")[0]
    '6 of 8 verdicts hold under every alternative'
    """
    rotations = (
        f"At most {n_rotations} rotations were drawn for a rung."
        if n_rotations
        else "No rotations were drawn: claims are followed as far as the rungs before them, under the study's own "
        "choices too."
    )
    return (
        f"{n_sure} of {n_verdicts} verdicts hold under every alternative. A verdict that flips hangs on that choice: "
        f"report the choice with it. {rotations} Alternatives count if they were declared before the verdicts were "
        "seen; one that is picked afterwards is no evidence."
    )
