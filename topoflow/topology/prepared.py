"""Clouds whose Euclidean distances are those of another metric, scale or subspace.

Everything above computes with Euclidean distances. Another choice is another cloud, made of the recorded one, so that
diagrams, rotations and floors all see the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from topoflow.errors import InvalidArgument
from topoflow.topology.point_clouds import check_cloud, check_whole_number, distance_matrix

METRICS = ("euclidean", "cosine")
SCALES = ("none", "median", "zscore")


@dataclass(frozen=True)
class Preparation:
    """What is done to a cloud before its distances are taken, in the order of the fields from below.

    Parameters
    ----------
    metric : str
        "euclidean", or "cosine": points are put at length 1, so that the distance of two is
        ``sqrt(2 - 2 cos)``, which orders pairs as the cosine distance does and is a metric.
    normalise : str
        "zscore" divides each coordinate by its standard deviation in the first cloud, after its mean is taken out;
        "median" divides the cloud by its own median distance, last of all; "none" does neither.
    pca : int, optional
        Number of leading directions of the first cloud that the cloud is projected to.

    Raises
    ------
    InvalidArgument
        If a name is not known, or ``pca`` is not a positive whole number.

    Examples
    --------
    >>> Preparation(metric="cosine")([[3.0, 0.0], [0.0, 5.0]])
    array([[1., 0.],
           [0., 1.]])
    """

    metric: str = "euclidean"
    normalise: str = "none"
    pca: int | None = None

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise InvalidArgument("metric", f"one of {', '.join(METRICS)}", self.metric)
        if self.normalise not in SCALES:
            raise InvalidArgument("normalise", f"one of {', '.join(SCALES)}", self.normalise)
        if self.pca is not None:
            check_whole_number("pca", self.pca, at_least=1)

    def __call__(self, points: ArrayLike, first: ArrayLike | None = None) -> NDArray[np.float64]:
        """Prepare a cloud.

        Parameters
        ----------
        points : array_like, shape (n_points, n_coordinates)
            The recorded cloud.
        first : array_like, same shape, optional
            The cloud of the first checkpoint, which says what "zscore" and ``pca`` do to all; the cloud itself by
            default.

        Returns
        -------
        ndarray of float64, shape (n_points, n_coordinates or pca)

        Raises
        ------
        InvalidArgument
            If a cloud is malformed, or a point is 0 and so has no direction.
        """
        cloud = check_cloud("points", points)
        return self.fitted(cloud if first is None else first)(cloud)

    def fitted(self, first: ArrayLike) -> Callable[[ArrayLike], NDArray[np.float64]]:
        """Learn once from the first checkpoint's cloud what is done to the cloud of each checkpoint.

        BLAS is held to one thread: on more it rounds otherwise, and the clouds would depend on who prepares them.

        Parameters
        ----------
        first : array_like, shape (n_points, n_coordinates)
            The cloud of the first checkpoint.

        Returns
        -------
        callable
            From a cloud of the same shape to the prepared one.

        Raises
        ------
        InvalidArgument
            As a call does.

        Examples
        --------
        >>> halved = Preparation(normalise="zscore").fitted([[0.0], [4.0]])
        >>> halved([[2.0], [6.0]]).tolist()
        [[0.0], [2.0]]
        """
        reference = check_cloud("first", first)
        centre, spread, directions = np.zeros(1), np.ones(1), None
        if self.normalise == "zscore" or self.pca is not None:
            centre = reference.mean(axis=0)
        if self.normalise == "zscore":
            spread = reference.std(axis=0)
            spread[spread == 0] = 1.0
        if self.pca is not None:
            with threadpool_limits(1, user_api="blas"):
                directions = np.linalg.svd((reference - centre) / spread, full_matrices=False)[2][: self.pca]

        def prepared(points: ArrayLike) -> NDArray[np.float64]:
            cloud = (check_cloud("points", points) - centre) / spread
            if directions is not None:
                with threadpool_limits(1, user_api="blas"):
                    cloud = cloud @ directions.T
            return self._scaled(cloud)

        return prepared

    def _scaled(self, cloud: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.metric == "cosine":
            lengths = np.linalg.norm(cloud, axis=1, keepdims=True)
            if not lengths.all():
                zero = cloud[lengths[:, 0] == 0][0]
                raise InvalidArgument("points", "other than 0, where the metric is cosine", zero)
            cloud = cloud / lengths
        if self.normalise == "median" and len(cloud) > 1:
            middle = float(np.median(distance_matrix(cloud)[np.triu_indices(len(cloud), 1)]))
            cloud = cloud / (middle or 1.0)  # one point repeated has none to divide by
        return cloud

    @property
    def plain(self) -> bool:
        """Whether nothing is done."""
        return self == Preparation()

    @property
    def words(self) -> str:
        """What is done, in words; "" where nothing is."""
        return ", ".join(
            said
            for said, done in (
                ("coordinates divided by their spread at the first checkpoint", self.normalise == "zscore"),
                (
                    f"projected to the {self.pca} leading directions of the first checkpoint",
                    self.pca is not None,
                ),
                ("points at length 1 (cosine)", self.metric == "cosine"),
                ("divided by the cloud's median distance", self.normalise == "median"),
            )
            if done
        )
