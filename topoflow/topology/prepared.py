"""Clouds whose Euclidean distances are those of another metric, scale or subspace.

Everything above computes with Euclidean distances. Another choice is another cloud, made of the recorded one, so that
diagrams, rotations and floors all see the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
        reference = cloud if first is None else check_cloud("first", first)
        if self.normalise == "zscore":
            spread = reference.std(axis=0)
            spread[spread == 0] = 1.0
            cloud, reference = ((it - reference.mean(axis=0)) / spread for it in (cloud, reference))
        if self.pca is not None:
            centre = reference.mean(axis=0)
            directions = np.linalg.svd(reference - centre, full_matrices=False)[2][: self.pca]
            cloud = (cloud - centre) @ directions.T
        if self.metric == "cosine":
            lengths = np.linalg.norm(cloud, axis=1, keepdims=True)
            if not lengths.all():
                zero = cloud[lengths[:, 0] == 0][0]
                raise InvalidArgument("points", "other than 0, where the metric is cosine", zero)
            cloud = cloud / lengths
        if self.normalise == "median":
            distances = distance_matrix(cloud)
            if len(cloud) > 1 and (middle := np.median(distances[np.triu_indices(len(cloud), 1)])):
                cloud = cloud / middle
        return np.asarray(cloud)

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
