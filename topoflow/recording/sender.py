"""Numbers handed to a tracker that may be slow, down or broken, by whoever cannot wait for it: a training.

Nothing here knows MLflow; the caller says how a list of numbers is sent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from topoflow.errors import said

logger = logging.getLogger(__name__)

# Seconds between two requests: a trainer logs each step by itself, and what comes meanwhile goes in one.
_PAUSE, _PAUSE_AFTER_A_FAILURE = 1.0, 60.0
# Seconds between the last attempts: a busy server that refuses once takes the same soon after.
_LAST_PAUSES = (1.0, 3.0, 9.0)
# MLflow takes at most this many in one request.
_MOST_AT_ONCE = 1000
_MOST_WAITING = 1_000_000  # some 100 MB; what is left out is elsewhere as well, as the caller's advice says


class Sender:
    """A thread that sends rows in order; where that fails, it tries again a minute later, and four times at the end.

    `add` never waits and never raises. One warning tells of the first failure, and none of those after it.

    Parameters
    ----------
    send : callable
        Given rows that were added, at most 1000, or none; called by the thread alone, first at once. When it raises,
        whatever it raises, the same rows come again: so it must be harmless to send them twice.
    tracker, advice : str
        For the warning: what does not answer, and what happens to the rows.

    Examples
    --------
    >>> sent = []
    >>> sender = Sender(sent.extend, "MLflow", "they are in loss.csv")
    >>> sender.add([("loss", 0.5, 1)])
    >>> sender.close(10)
    >>> sent
    [('loss', 0.5, 1)]
    """

    def __init__(self, send: Callable[[Sequence[Any]], None], tracker: str, advice: str) -> None:
        self._send, self._tracker, self._advice = send, tracker, advice
        self._waiting: list[Any] = []
        self._last: Callable[[], None] | None = None
        self._closing, self._warned = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="topoflow-sender", daemon=True)
        self._thread.start()

    def add(self, rows: Sequence[Any]) -> None:
        """Have rows sent, soon; left out where very many wait already for a tracker that is down."""
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.extend(rows)

    def close(self, patience: float, last: Callable[[], None] | None = None) -> None:
        """Send what is left, and do what is `last`, which may come again; wait for `patience` seconds at most."""
        self._last = last
        self._closing.set()
        self._thread.join(patience)
        if self._thread.is_alive():
            self._warn("it takes too long")

    def _run(self) -> None:
        pause = 0.0
        while not self._closing.wait(pause):
            pause = _PAUSE if self._succeeds(self._send_all) else _PAUSE_AFTER_A_FAILURE
        self._insist(self._send_all)
        if self._last is not None:
            self._insist(self._last)

    def _insist(self, act: Callable[[], None]) -> None:
        for pause in (0.0, *_LAST_PAUSES):
            time.sleep(pause)
            if self._succeeds(act):
                return

    def _send_all(self) -> None:
        while True:
            rows = self._waiting[:_MOST_AT_ONCE]
            self._send(rows)
            del self._waiting[: len(rows)]
            if len(rows) < _MOST_AT_ONCE:
                return

    def _succeeds(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except Exception as error:  # whatever happens to tracking, training goes on
            self._warn(said(error))
            return False
        return True

    def _warn(self, reason: str) -> None:
        if not self._warned:
            logger.warning("%s does not answer (%s); %s", self._tracker, reason, self._advice)
        self._warned = True
