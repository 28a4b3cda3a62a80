"""Verdicts as people read them: their order, their marks, the steps that they climbed, and the table of them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from topoflow.dynamics.claims import listed
from topoflow.dynamics.claims.verdict import PASSED
from topoflow.dynamics.permutation import ABSENT, CANNOT_TELL, SUPPORTED

# The columns of verdicts.csv.
TABLE = (
    "claim",
    "homology",
    "statement",
    "statistic",
    "value",
    "low",
    "high",
    "p",
    "beside",
    "verdict",
    "rung",
    "steps",
    "rule",
)


def table_row(verdict: Mapping[str, Any]) -> list[Any]:
    """A verdict as a row of `TABLE`, its steps as one text."""
    shown = {
        "beside": "",
        **verdict,
        "steps": "; ".join(f"{name}: {outcome}" for name, outcome in verdict["steps"]),
    }
    return [shown[name] for name in TABLE]


# The mark of each sort of verdict, and of the rung that decided it.
MARKS = {"supported": "●", "absent": "✕", "explained": "◐", "unsupported": "○", "open": "?"}


def in_order(claims: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Claims in the order of `CLAIMS`, then others; of each H1 before H0.

    >>> claims = [{"claim": name, "homology": "H1"} for name in ("objectives", "early", "moves")]
    >>> [claim["claim"] for claim in in_order(claims)]
    ['moves', 'early', 'objectives']
    """
    names = [claim.name for claim in listed.CLAIMS]

    def place(claim: Mapping[str, Any]) -> tuple[int, str, tuple[str, ...], bool]:
        name = claim["claim"]
        known = names.index(name) if name in names else len(names)
        return known, name, tuple(claim.get("labels", ())), claim["homology"] != "H1"

    return sorted(claims, key=place)


def sort_of(verdict: str) -> str:
    """The sort of a verdict, a key of `MARKS`, whatever the rung that it names.

    >>> sort_of("explained by scale"), sort_of("not supported beyond the learning rate")
    ('explained', 'unsupported')
    """
    if verdict.startswith("explained by"):
        return "explained"
    return {SUPPORTED: "supported", ABSENT: "absent", CANNOT_TELL: "open"}.get(verdict, "unsupported")


def why_open(claim: Mapping[str, Any]) -> str:
    """Why a claim's verdict is "cannot tell", which the end of its rule says; "" of any other verdict.

    >>> why_open({"verdict": "cannot tell", "rule": "supported if p <= 0.05; nothing moves beyond jitter"})
    'nothing moves beyond jitter'
    """
    if claim["verdict"] != CANNOT_TELL:
        return ""
    return str(claim["rule"]).rpartition("; ")[2].removeprefix(f"{CANNOT_TELL}: ")


def rungs(steps: Iterable[Sequence[str]]) -> list[str]:
    """The rungs that a claim climbed: passed ones with a tick, the one that decided with a cross or, if open, a "?".

    >>> rungs([("raw", "passed"), ("scale", "explained by scale")])
    ['✓ raw', '✗ scale']
    """
    marks = {PASSED: "✓", CANNOT_TELL: "?"}
    return [f"{marks.get(outcome, '✗')} {name}" for name, outcome in steps]


def plain_table(claims: Iterable[Mapping[str, Any]], width: int = 96) -> str:
    """Claims as a table for a terminal: a row a claim, a column a homology, each verdict with what decided it.

    >>> one = {"claim": "moves", "statement": "it moves", "verdict": "supported", "rung": "moves"}
    >>> one |= {"value": 11.3, "p": 0.002}
    >>> print(plain_table([{**one, "homology": homology} for homology in ("H1", "H0")], 66))
    claim                 loops (H1)            components (H0)
    ------------------------------------------------------------------
    it moves              supported             supported
                          rung: moves           rung: moves
                          value 11.3, p 0.002   value 11.3, p 0.002
    ------------------------------------------------------------------
    """
    column = (width - 4) // 3
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for claim in in_order(claims):
        found.setdefault(claim["statement"], {})[claim["homology"] or "H1"] = claim
    rule = "-" * width
    lines = ["  ".join(name.ljust(column) for name in ("claim", "loops (H1)", "components (H0)")), rule]
    for statement, of in found.items():
        cells = [
            textwrap.wrap(statement, column),
            *(_plain_cell(of.get(name), column) for name in ("H1", "H0")),
        ]
        lines += ["  ".join(text.ljust(column) for text in row) for row in zip_longest(*cells, fillvalue="")]
        lines.append(rule)
    return "\n".join(map(str.rstrip, lines))


def _plain_cell(claim: Mapping[str, Any] | None, column: int) -> list[str]:
    """A verdict, the rung that decided or why it is open, and the numbers, in lines of a column."""
    if claim is None:
        return []
    numbers = [f"{name} {claim[name]:.3g}" for name in ("value", "p") if claim[name] is not None]
    rung = f"rung: {claim['rung']}" if claim["rung"] else ""
    said = [claim["verdict"], why_open(claim) or rung, ", ".join(numbers), claim.get("beside", "")]
    return [line for text in said for line in textwrap.wrap(text, column)]
