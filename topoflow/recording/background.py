"""Work that goes on beside the main thread, and keeps nobody waiting who wants to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P, T = ParamSpec("P"), TypeVar("T")


def in_background(act: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> Future[T]:
    """Act in a thread of its own; what comes of it, an error too, is the result of the future.

    A pool of threads would be waited for at the end of the process, after Ctrl-C as well.

    >>> in_background(pow, 2, 3).result()
    8
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(act(*arguments, **options))
        except BaseException as error:  # whatever it is, whoever asks for the result must have it
            future.set_exception(error)

    threading.Thread(target=run, name="topoflow-background", daemon=True).start()
    return future
