"""What was given as an array, as NumPy's, with nothing lost on the way: the one door into topology and dynamics.

`numpy.asarray` drops a mask without a word, takes a sparse matrix for one object, and ends in another library's error
for a tensor that is not in memory.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoflow.errors import InvalidArgument, Words


def as_array(name: str, given: ArrayLike) -> NDArray[Any]:
    """Return what was given as an array of any type, or say why that would lose something, calling it ``name``.

    Raises
    ------
    InvalidArgument
        If an entry is masked (see `leave_out_masked` for points and bars), the matrix is sparse, the rows are of
        different lengths, or a tensor's numbers cannot be read from here.

    Examples
    --------
    >>> as_array("velocity", np.ma.masked_array([1.0, 2.0], mask=[False, True]))
    Traceback (most recent call last):
    ...
    topoflow.errors.InvalidArgument: velocity must be free of masked entries, got 1 masked; leave them out
    """
    if type(given) is np.ndarray:
        return given
    if n_masked := _count_masked(given):
        raise InvalidArgument(name, "free of masked entries", Words(f"{n_masked} masked"), "leave them out")
    if hasattr(given, "toarray"):
        raise InvalidArgument(
            name,
            "a dense array",
            type(given),
            "convert a sparse one with .toarray(), if what it leaves out is 0",
        )
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        tensor = "a torch tensor is converted with .detach().float().cpu().numpy()"
        raise InvalidArgument(name, "an array of numbers", type(given), f"{error}; {tensor}") from error


def as_numbers(name: str, given: ArrayLike) -> NDArray[np.float64]:
    """Return real numbers as float64, NaN and infinity too, or say what else they are, calling them ``name``.

    Raises
    ------
    InvalidArgument
        If they are complex, truth values, text or objects (as of a data frame with NA), and as `as_array` does.

    Examples
    --------
    >>> as_numbers("points", [[1, 2]])
    array([[1., 2.]])
    """
    array = as_array(name, given)
    if array.dtype.kind not in "fiu":
        remedy = "convert them with .astype(float), which makes NA NaN" if array.dtype.kind == "O" else ""
        raise InvalidArgument(name, "real numbers", array.dtype, remedy)
    return array.astype(np.float64, copy=False)


def as_finite(name: str, given: ArrayLike) -> NDArray[np.float64]:
    """Return finite numbers as float64, or say which one is not finite, calling them ``name``.

    Examples
    --------
    >>> as_finite("points", [[1.0, float("nan")]])
    Traceback (most recent call last):
    ...
    topoflow.errors.InvalidArgument: points must be finite, got points[0, 1] = nan
    """
    numbers = as_numbers(name, given)
    if not np.isfinite(numbers).all():
        at = tuple(np.argwhere(~np.isfinite(numbers))[0].tolist())
        raise InvalidArgument(name, "finite", Words(f"{name}{list(at)} = {numbers[at]}"))
    return numbers


def leave_out_masked(given: ArrayLike, *, matrix: bool = False) -> ArrayLike:
    """Return points or bars without those that are masked whole; what is masked in part is left for `as_array`.

    Only for sets, which no other argument numbers: a subsample plan would then speak of other points.

    Parameters
    ----------
    given : array_like, shape (n, n_coordinates), or (n_points, n_points)
        One point or bar a row; or a distance matrix, of which row and column of a point are left out.
    matrix
        Whether it is a distance matrix.

    Examples
    --------
    >>> leave_out_masked(np.ma.masked_array([[1.0], [2.0]], mask=[[False], [True]])).tolist()
    [[1.0]]
    """
    if not isinstance(given, np.ma.MaskedArray) or given.ndim != 2:
        return given
    mask = np.ma.getmaskarray(given)
    if not matrix:
        return given[~mask.all(axis=1)]
    if mask.shape[0] != mask.shape[1]:
        return given
    kept = ~(mask.all(axis=0) & mask.all(axis=1))
    return given[np.ix_(kept, kept)]


def _count_masked(given: Any) -> int:
    if isinstance(given, list | tuple):
        return sum(map(_count_masked, given))
    return int(np.ma.getmaskarray(given).sum()) if isinstance(given, np.ma.MaskedArray) else 0
