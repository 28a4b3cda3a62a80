"""Processes that end when they are told to, and take their own with them; threads that keep none from ending."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Seconds that the processes begun here have to end by themselves after each of the signals.
_GRACE = 5.0


class Stopped(KeyboardInterrupt):
    """A signal that ends: as Ctrl-C, so that what must be undone is undone on the way out.

    Attributes
    ----------
    number : int
        Which signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


# Sent to end a process, and by a terminal or connection that closes. What `nohup` has had ignored stays so.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def stop_when_told() -> None:
    """Have SIGTERM and SIGHUP raise `Stopped` in the main thread, where they would end the process as it stands.

    An exception that a signal raises inside a destructor is dropped by Python; it, and Ctrl-C's, is then raised again.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    ours = [number for number in _ENDING if signal.getsignal(number) in (signal.SIG_DFL, None)]
    if not ours:
        return
    report = sys.unraisablehook

    def stop(number: int, _: object) -> None:
        for one in ours:
            signal.signal(one, signal.SIG_IGN)  # once is enough: what follows is the way out
        raise Stopped(number)

    def again(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            report(dropped)
            return
        number: int = signal.SIGINT
        if isinstance(dropped.exc_value, Stopped):
            number = dropped.exc_value.number
            for one in ours:
                signal.signal(one, stop)
        later = threading.Timer(0.1, os.kill, (os.getpid(), number))  # not now: this is inside the destructor
        later.daemon = True
        later.start()

    sys.unraisablehook = again
    for number in ours:
        signal.signal(number, stop)


def call(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run(command, **options)`, at whose end, however it comes, no process is left of what was begun.

    DVC begins processes of its own, which would live on: so all of them are a group, and are signalled as one.
    """
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, process_group=0, **options) as process:  # noqa: S603 (no shell, our own arguments)
        try:
            output, errors = process.communicate()
        except BaseException:
            _end(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def _end(process: subprocess.Popen[Any]) -> None:
    """End a process and its group: by what Ctrl-C sends, which DVC leaves in order, or else by force."""
    number: int
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline:
            process.poll()  # reaps it: a group is there as long as one of its members is
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                return
            number = 0  # sent once; from here on only asks
            time.sleep(0.05)


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

    threading.Thread(target=run, name="topoflow-beside", daemon=True).start()
    return future
