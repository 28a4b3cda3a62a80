"""Processes that end when they are told to, with those they began; threads that keep no process from ending."""

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
    """A signal that ends the process; it is raised as Ctrl-C is, so that what must be undone is undone.

    Attributes
    ----------
    number : int
        Which signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


# Sent to end a process, and by a terminal or connection that closes. A signal that `nohup` ignores stays ignored.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def stop_when_told() -> None:
    """Have SIGTERM and SIGHUP raise `Stopped` in the main thread, instead of ending the process at once.

    Python drops an exception that a signal, or Ctrl-C, raises inside a destructor; it is then raised again.
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
    """Run a command as `subprocess.run` does, and leave none of its processes behind, however it ends.

    DVC begins processes of its own, which would live on; so all of them form a group and are signalled as one.
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
    """Call a function in a thread of its own; the future has its result or its error.

    Python would wait for the threads of a pool before the process ends, after Ctrl-C as well.

    >>> in_background(pow, 2, 3).result()
    8
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(act(*arguments, **options))
        except BaseException as error:  # whoever asks for the result must get any error
            future.set_exception(error)

    threading.Thread(target=run, name="topoflow-beside", daemon=True).start()
    return future
