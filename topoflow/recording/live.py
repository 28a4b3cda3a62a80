"""Topology while training runs: summaries and velocities of each checkpoint as soon as it is recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from topoflow.dynamics.cells import CellDiagrams, cell_diagrams, cell_distances, summarise_cell
from topoflow.dynamics.prompts import sampling_floor
from topoflow.names import DISPLACEMENT, H1_VELOCITY, VELOCITY, column, metric_name
from topoflow.topology.point_clouds import subsample_plan
from topoflow.topology.prepared import Preparation
from topoflow.topology.summaries import summary_names

logger = logging.getLogger(__name__)


def below_floor(h1_velocities: Mapping[int, float], floors: Mapping[int, float]) -> bool:
    """Whether no layer has moved by as much as its floor since the checkpoint before: the rule of `stop_when_stable`.

    Parameters
    ----------
    h1_velocities, floors : mapping of layer to float
        Filtration distance. A layer whose velocity is not known counts as moving.

    Examples
    --------
    >>> below_floor({1: 0.1, 3: 0.1}, {1: 0.2, 3: 0.2}), below_floor({1: 0.1}, {1: 0.2, 3: 0.2})
    (True, False)
    """
    return all(h1_velocities.get(layer, np.inf) < floor for layer, floor in floors.items())


class LiveTopology:
    """Keeps the diagrams of the first and the last checkpoint of each layer, and compares the next with them.

    Parameters
    ----------
    n_prompts : int
        Points of every cloud.
    n_subsamples, subsample_size, seed, order, engine, maxdim
        As in the sections `topology` and `trajectory` of params.yaml. A `subsample_size` above `n_prompts` is refused.

    Attributes
    ----------
    h1_velocities : dict of int to float
        layer -> how far H1 has moved since the checkpoint before, as far as there is one and it is known.

    Examples
    --------
    >>> live = LiveTopology(4, n_subsamples=1, subsample_size=4)
    >>> square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    >>> live.update({5: square})["topology/h1_count/layer_05"]
    1.0
    >>> live.update({5: 3 * square})["topology/h1_velocity/layer_05"].__round__(3)
    0.926
    """

    def __init__(
        self,
        n_prompts: int,
        n_subsamples: int = 64,
        subsample_size: int = 160,
        seed: int = 0,
        order: float = 2.0,
        engine: str = "auto",
        prepared: Preparation = Preparation(),  # noqa: B008 (frozen)
        maxdim: int = 1,
    ) -> None:
        self.plan = subsample_plan(n_prompts, n_subsamples, subsample_size, seed)
        self.seed = seed
        self.order = order
        self.engine = engine
        self.prepared = prepared
        self.maxdim = maxdim
        self.h1_velocities: dict[int, float] = {}
        self._fitted: dict[int, Callable[[npt.ArrayLike], npt.NDArray[np.float64]]] = {}
        self._first: dict[int, CellDiagrams] = {}
        self._last: dict[int, CellDiagrams] = {}

    def update(self, clouds: Mapping[int, npt.NDArray[Any]]) -> dict[str, float]:
        """The metrics of one checkpoint, under the names that they have in MLflow; missing ones are left out.

        Parameters
        ----------
        clouds : mapping of layer to ndarray of shape (n_prompts, hidden_size)
        """
        metrics: dict[str, float] = {}
        self.h1_velocities = {}
        for layer, cloud in clouds.items():
            if not np.isfinite(cloud).all():
                logger.warning("layer %d holds states that are not finite, and has no topology", layer)
                continue
            cell = cell_diagrams(self._prepared(layer, cloud), self.plan, self.engine, self.maxdim)
            found = dict(zip(summary_names(self.maxdim), summarise_cell(cell).tolist(), strict=True))
            if layer in self._last:
                for h in range(self.maxdim + 1):
                    for name, other in ((VELOCITY, self._last), (DISPLACEMENT, self._first)):
                        found[column(h, name)] = float(
                            cell_distances(other[layer], cell, h, self.order).mean()
                        )
                self.h1_velocities[layer] = found[H1_VELOCITY]
            self._first.setdefault(layer, cell)
            self._last[layer] = cell
            metrics.update({metric_name("topology", name, layer): value for name, value in found.items()})
        return {key: value for key, value in metrics.items() if np.isfinite(value)}

    def _prepared(self, layer: int, cloud: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.prepared.plain:
            return cloud
        if layer not in self._fitted:  # the first checkpoint
            self._fitted[layer] = self.prepared.fitted(cloud)
        return self._fitted[layer](cloud)

    def sampling_floors(self, clouds: Mapping[int, npt.NDArray[Any]]) -> dict[int, float]:
        """How far apart the H1 diagrams of two disjoint sets of prompts are at one checkpoint, on average, a layer.

        See `sampling_floor` for what it can say and what not.
        """
        size = self.plan.shape[1]
        return {
            layer: float(sampling_floor(cloud, size, 32, self.seed, self.order, self.engine).disjoint[1])
            for layer, cloud in ((layer, self._prepared(layer, cloud)) for layer, cloud in clouds.items())
        }
