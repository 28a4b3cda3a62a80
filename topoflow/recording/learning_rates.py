"""The learning rate of each optimiser step of a training: as its scheduler says beforehand, and as it was used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch.optim.lr_scheduler import LambdaLR


def rates_ahead(scheduler: Any, max_steps: int) -> list[float] | None:
    """The rates of the steps 1 to `max_steps`, to the bit those that the trainer will use; None where none can know.

    They can be known of schedulers that are a function of the step (`LambdaLR`, as nearly all of transformers'), and
    not of those that heed the loss. Of several groups of parameters it is the first one's, which the Trainer logs.

    Examples
    --------
    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    >>> rates_ahead(LambdaLR(optimizer, lambda step: 1 / (1 + step)), 3)
    [0.5, 0.25, 0.16666666666666666]
    >>> rates_ahead(torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), 3) is None
    True
    """
    if not isinstance(scheduler, LambdaLR):
        return None
    base, factor = float(scheduler.base_lrs[0]), scheduler.lr_lambdas[0]
    rates = [float(base * factor(step)) for step in range(max_steps)]
    return rates if all(0 <= rate < math.inf for rate in rates) else None


def rates_so_far(log: Iterable[Mapping[str, Any]], scheduler: Any, step: int) -> list[float]:
    """The rates of the steps 1 to `step` of a training that is resumed there.

    A trainer's log has them where each step was logged; else the scheduler is asked. NaN where neither knows.
    """
    logged = {entry["step"]: float(entry["learning_rate"]) for entry in log if "learning_rate" in entry}
    ahead = rates_ahead(scheduler, step) or [math.nan] * step
    return [logged.get(number, rate) for number, rate in enumerate(ahead, 1)]
