"""What may be said: one file a claim, with its statistic, its ladder of rival explanations, and its words.

`listed.py` lists them, and `objectives.py` and `models.py` compare labels.
"""

from topoflow.dynamics.claims.margins import Claims
from topoflow.dynamics.claims.verdict import Verdict

__all__ = ["Claims", "Verdict"]
