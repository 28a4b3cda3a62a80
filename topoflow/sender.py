"""Numbers handed to a tracker that may be slow, down or broken, by whoever cannot wait for it: a training.

Nothing here knows MLflow; the caller says how a list of numbers is sent.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from topoflow.errors import said

logger = logging.getLogger(__name__)

# key, value, time (milliseconds since 1970), optimiser step
Metric = tuple[str, float, int, int]

# MLflow takes at most this many in one request.
MOST_AT_ONCE = 1000
# Kept of what cannot be sent; of more, the oldest is dropped.
_MOST_ROWS = 100_000
# Seconds: a trainer logs each step by itself, and what comes within this time goes in one request.
_GATHER = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 300.0


class Sender:
    """A thread that sends rows of numbers in order, and tries again after a growing pause where that fails.

    `add` never waits and never raises. The first failure is told in one warning, the others are not.

    Parameters
    ----------
    send : callable
        Given up to `MOST_AT_ONCE` numbers, whole rows of them; called by the thread alone. When it raises, whatever it
        raises, the same numbers come again: so it must be harmless to send them twice. It is also called once
        without any number, at the beginning.
    tracker, advice : str
        For the warning: what does not answer, and what happens to the numbers.

    Examples
    --------
    >>> sent = []
    >>> sender = Sender(sent.extend, "MLflow", "they are in loss.csv")
    >>> sender.add([("loss", 0.5, 0, 1)])
    >>> sender.close(10)
    0
    >>> sent
    [('loss', 0.5, 0, 1)]
    """

    def __init__(self, send: Callable[[Sequence[Metric]], None], tracker: str, advice: str) -> None:
        self._send, self._tracker, self._advice = send, tracker, advice
        self._rows: deque[Sequence[Metric]] = deque([()])
        self._unsent = 0  # numbers that are waiting, on their way, or dropped
        self._last: Callable[[], None] | None = None
        self._closing = self._given_up = self._warned = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="topoflow-sender", daemon=True)
        self._thread.start()

    def add(self, row: Sequence[Metric]) -> None:
        """Have numbers sent that belong together, as those of one step."""
        with self._changed:
            for start in range(0, len(row), MOST_AT_ONCE):
                self._rows.append(row[start : start + MOST_AT_ONCE])
            while len(self._rows) > _MOST_ROWS:
                self._rows.popleft()
            self._unsent += len(row)
            self._changed.notify()

    def close(self, patience: float, last: Callable[[], None] | None = None) -> int:
        """Send what is left, then do what is `last`; returns how many numbers were not sent, or -1 for `last` alone.

        Parameters
        ----------
        patience : float
            Seconds to wait at most. What is on its way then may still arrive.
        last : callable, optional
            Called by the thread after all is sent, and again where it raises.
        """
        with self._changed:
            self._closing, self._last = True, last
            self._changed.notify()
        self._thread.join(patience)
        with self._changed:
            self._given_up = True
            self._changed.notify()
            return self._unsent or (-1 if self._last else 0)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._rows or self._closing)
                self._changed.wait_for(lambda: self._closing, _GATHER)
                rows = self._next_rows()
            try:
                if rows:
                    self._send([metric for row in rows for metric in row])
                elif self._last:
                    self._last()
            except Exception as error:  # whatever happens to tracking, training goes on
                with self._changed:
                    self._rows.extendleft(reversed(rows))
                    if self._given_up:
                        return
                    self._warn(error)
                    # the end of the training is worth an attempt at once, and then one each second
                    was_closing = self._closing
                    self._changed.wait_for(
                        lambda was=was_closing: self._given_up or self._closing > was,  # type: ignore[misc]
                        _FIRST_PAUSE if was_closing else pause,
                    )
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            with self._changed:
                self._unsent -= sum(map(len, rows))
                if not rows:
                    self._last = None
                if self._given_up or (self._closing and not self._rows and self._last is None):
                    return

    def _next_rows(self) -> list[Sequence[Metric]]:
        """The first rows, as many as go in one request."""
        rows: list[Sequence[Metric]] = []
        count = 0
        while self._rows and (not rows or count + len(self._rows[0]) <= MOST_AT_ONCE):
            rows.append(self._rows.popleft())
            count += len(rows[-1])
        return rows

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            logger.warning("%s does not answer (%s); %s", self._tracker, said(error), self._advice)
        self._warned = True
