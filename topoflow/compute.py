"""Run one function over many cells, on this machine's cores or on a cluster, with the same results.

On CPUs of one kind the results agree to the last bit; on another kind, NumPy and BLAS may round otherwise.

joblib does the work, so its backends are the choice: threads, processes, and the clusters that Dask and Ray
make of many machines. Cells travel as arrays and results as bytes or numbers: workers need no shared disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, overload

from topoflow.config import Compute
from topoflow.errors import InvalidArgument
from topoflow.machine import cores
from topoflow.telling import counted

T = TypeVar("T")


class OnDemand(Sequence[T]):
    """A sequence of what `read` gives for each key; an item is read each time it is asked for, and not held.

    Another process gets a list of all items, since a worker need not have the files.

    Parameters
    ----------
    read : callable
        From a key to an item.
    keys : sequence

    Examples
    --------
    >>> from copy import copy
    >>> squares = OnDemand(lambda n: n * n, [1, 2, 3])
    >>> squares[-1], copy(squares)  # as another process gets it
    (9, [1, 4, 9])
    """

    def __init__(self, read: Callable[[Any], T], keys: Sequence[Any]) -> None:
        self.read, self.keys = read, keys

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[T]: ...
    def __getitem__(self, at: int | slice) -> T | Sequence[T]:
        return OnDemand(self.read, self.keys[at]) if isinstance(at, slice) else self.read(self.keys[at])

    def __reduce__(self) -> tuple[type[list[T]], tuple[list[T]]]:
        return list, (list(self),)


def map_cells(
    function: Callable[..., Any], tasks: Iterable[tuple[Any, ...]], total: int, compute: Compute, label: str
) -> Iterator[Any]:
    """`function(*task)` for each task, yielded in the order of the tasks as soon as they are known.

    Tasks are drawn as workers become free, so a lazy iterable of `tasks` bounds the memory. BLAS is held to
    one thread a worker: cells run side by side, and nested threads would only fight for the cores.

    Parameters
    ----------
    function : callable
        Pure and importable: other processes must find it.
    tasks : iterable of tuple
        The arguments of each call.
    total : int
        How many tasks there are, for the progress bar, or the lines that stand for it where there is no terminal.
    compute : Compute
        Backend, number of workers and the cluster's address.
    label : str
        Names the work there.

    Examples
    --------
    >>> list(map_cells(pow, [(2, 3), (3, 2)], 2, Compute(n_jobs=1), "powers"))
    [8, 9]
    """
    from joblib import Parallel, delayed

    with _backend(compute):
        # Ray's backend cannot hand out results one by one
        workers = Parallel(return_as="list" if compute.backend == "ray" else "generator")
        # the arguments go as one tuple: arrays of their own, joblib would scatter into the memory of one Dask
        # worker, and with that worker they would be lost
        results = workers(delayed(_one_blas_thread)(function, task) for task in tasks)
        yield from counted(results, total, label)


def workers(compute: Compute) -> int:
    """How many cells are computed at once where this machine computes them: `n_jobs`, -1 for all `machine.cores`.

    >>> workers(Compute(n_jobs=3)), workers(Compute(n_jobs=-1)) == cores()
    (3, True)
    """
    return compute.n_jobs if compute.n_jobs > 0 else max(1, cores() + 1 + compute.n_jobs)


def _one_blas_thread(function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="blas"):
        return function(*task)


@contextmanager
def _backend(compute: Compute) -> Iterator[None]:
    """joblib's configuration for `compute`, connected to its cluster where there is one."""
    from joblib import parallel_config
    from threadpoolctl import threadpool_limits

    if compute.backend == "threads":
        # the limit is the process's: set here too, so that no worker's end lifts it for the others
        with (
            threadpool_limits(1, user_api="blas"),
            parallel_config(backend="threading", n_jobs=workers(compute)),
        ):
            yield
    elif compute.backend == "processes":
        with parallel_config(backend="loky", n_jobs=workers(compute)):
            yield
    elif compute.backend == "dask":
        distributed = _require("distributed", "dask")
        # without an address, a cluster of this machine's cores
        client = distributed.Client(compute.address) if compute.address else distributed.Client()
        with client, parallel_config(backend="dask", n_jobs=compute.n_jobs):
            yield
    else:
        ray = _require("ray", "ray")
        _require("ray.util.joblib", "ray").register_ray()
        ray.init(address=compute.address, ignore_reinit_error=True, log_to_driver=False)
        with parallel_config(backend="ray", n_jobs=compute.n_jobs):
            yield


def _require(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        remedy = f"pip install 'topoflow[{extra}]'"
        raise InvalidArgument("compute.backend", "one whose package is installed", extra, remedy) from None
