"""Say how far a stage is, on stderr: by a bar in a terminal, by lines elsewhere. Print a stage's tables."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, TypeVar

from topoflow.errors import printable

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")

# Set for the stages of a `topoflow run`, which keeps DVC's own words from the reader: DVC names stages on stdout, among
# advice on git and remotes.
NAMES_STAGES = "TOPOFLOW_NAMES_STAGES"
_SELDOM = 10.0  # seconds between two lines of many cells


def say(text: str) -> None:
    """Write a line to stderr, above a bar if there is one."""
    from tqdm import tqdm

    tqdm.write(printable(text), file=sys.stderr)


def show_table(table: Table) -> None:
    """Print a table to stdout, as wide as the terminal and 120 columns at most, or 96 columns without a terminal."""
    from rich.console import Console

    width = min(get_terminal_size().columns, 120) if sys.stdout.isatty() else 96
    Console(width=width).print(table)


def name_stage() -> None:
    """Say which stage DVC has begun, where DVC does not."""
    if (stage := os.environ.get("DVC_STAGE")) and os.environ.get(NAMES_STAGES):
        say(f"Running stage '{stage}'")


def duration(seconds: float) -> str:
    """
    >>> duration(9.6), duration(75), duration(7300), duration(200_000)
    ('10 s', '1.2 min', '2.0 h', '2.3 days')
    """
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length * (2 if unit == "days" else 1):
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def time_left(seconds: float, done: int, total: int) -> str:
    """The time left when `done` of `total` took `seconds`; "" where nothing is done yet, or everything.

    >>> time_left(30, 10, 40), time_left(0, 0, 40)
    (', about 1.5 min left', '')
    """
    return f", about {duration(seconds * (total - done) / done)} left" if 0 < done < total else ""


def counted(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield items and say how many there were: by a bar, or where there is no terminal in a line each ten seconds."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=label, unit="cell", disable=None)
        return
    begun = said = time.monotonic()
    for number, item in enumerate(items, 1):
        now = time.monotonic()
        if number == 1:
            begun = now  # the first waits for code to be compiled and workers to begin
        if now - said >= _SELDOM and number < total:
            said = now
            say(f"{label}: {number} of {total}{time_left(now - begun, number - 1, total - 1)}")
        yield item


def at_checkpoints(recording: Any) -> Any:
    """A callback for a Trainer, after `recording` (a `TopologyCallback`), that says a line of each checkpoint.

    A line waits for the next step to begin: a Trainer logs the loss of a step only after the step has ended.
    """
    from transformers import TrainerCallback

    class AtCheckpoints(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.first, self.begun = state.global_step, time.monotonic()

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            step, last = state.global_step, state.max_steps
            if step not in recording.steps[-1:]:
                return
            known = next((entry["loss"] for entry in reversed(state.log_history) if "loss" in entry), None)
            loss = "" if known is None else f"loss {known:.4g}, "
            left = time_left(time.monotonic() - self.begun, step - self.first, last - self.first)
            say(f"step {step} of {last}: {loss}{recorded(recording)}{left}")

        on_train_end = on_step_begin

    return AtCheckpoints()


def of_finished(recording: Any, steps: Sequence[int]) -> Callable[[int], None]:
    """An `on_record` that says a line a checkpoint of a finished training, which are at `steps`."""
    begun: list[tuple[int, float]] = []

    def say_so(step: int) -> None:
        number = steps.index(step) + 1
        begun.append((number, time.monotonic()))
        (first, then), (_, now) = begun[0], begun[-1]
        left = time_left(now - then, number - first, len(steps) - first)
        say(f"checkpoint {number} of {len(steps)}, step {step}: {recorded(recording)}{left}")

    return say_so


def recorded(recording: Any) -> str:
    """What a `TopologyCallback` has recorded at its last checkpoint, in words."""
    behaviour = ", with next-token distributions" if recording.behaviour else ""
    layers = ", ".join(map(str, recording.layers))
    where = f"layer{'s' * (len(recording.layers) > 1)} {layers}"
    return f"{len(recording.prompts)} prompts recorded at {where}{behaviour}"
