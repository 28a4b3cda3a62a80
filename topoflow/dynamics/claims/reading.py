"""Verdicts as people read them: their order, their marks, the steps that they climbed, and the table of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from topoflow.dynamics.claims import listed
from topoflow.dynamics.claims.verdict import PASSED
from topoflow.dynamics.permutation import ABSENT, CANNOT_TELL, SUPPORTED
from topoflow.errors import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

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
    "why",
)


def table_row(verdict: Mapping[str, Any]) -> list[Any]:
    """A verdict as a row of `TABLE`, its steps as one text."""
    shown = {
        "beside": "",
        "why": "",
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


def rungs(steps: Iterable[Sequence[str]]) -> list[str]:
    """The rungs that a claim climbed: passed ones with a tick, the one that decided with a cross or, if open, a "?".

    >>> rungs([("raw", "passed"), ("scale", "explained by scale")])
    ['✓ raw', '✗ scale']
    """
    marks = {PASSED: "✓", CANNOT_TELL: "?"}
    return [f"{marks.get(outcome, '✗')} {name}" for name, outcome in steps]


def rich_table(claims: Iterable[Mapping[str, Any]]) -> Table:
    """Claims as a table that rich prints: a row a claim, a column a homology, each verdict with what decided it."""
    from rich import box
    from rich.table import Column, Table
    from rich.text import Text

    headings = (Column(name, ratio=1) for name in ("claim", "loops (H1)", "components (H0)"))
    table = Table(*headings, box=box.HORIZONTALS, show_lines=True, expand=True, pad_edge=False)
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for claim in in_order(claims):
        found.setdefault(claim["statement"], {})[claim["homology"] or "H1"] = claim
    for statement, of in found.items():
        table.add_row(Text(printable(statement)), *(_cell(of.get(name)) for name in ("H1", "H0")))
    return table


def _cell(claim: Mapping[str, Any] | None) -> Text:
    """A verdict, the rung that decided or why it is open, and the numbers, a line each."""
    from rich.text import Text

    if claim is None:
        return Text()
    numbers = [f"{name} {claim[name]:.3g}" for name in ("value", "p") if claim[name] is not None]
    rung = f"rung: {claim['rung']}" if claim["rung"] else ""
    beside = [claim.get("why") or rung, ", ".join(numbers), claim.get("beside", "")]
    verdict = printable(claim["verdict"]), _STYLES[sort_of(claim["verdict"])]
    return Text.assemble(verdict, *(f"\n{printable(line)}" for line in beside if line))


_STYLES = {
    "supported": "bold blue",
    "absent": "bold magenta",
    "explained": "bold yellow",
    "unsupported": "bold",
    "open": "bold",
}


def plain_table(claims: Iterable[Mapping[str, Any]], width: int = 96) -> str:
    """`rich_table` as text without colours.

    >>> one = {"claim": "moves", "statement": "it moves", "verdict": "supported", "rung": "moves"}
    >>> one |= {"value": 11.3, "p": 0.002}
    >>> print(plain_table([{**one, "homology": homology} for homology in ("H1", "H0")], 70))
    claim                   loops (H1)             components (H0)
    ────────────────────────────────────────────────────────────────────
    it moves                supported              supported
                            rung: moves            rung: moves
                            value 11.3, p 0.002    value 11.3, p 0.002
    """
    from rich.console import Console

    console = Console(file=StringIO(), width=width)
    console.print(rich_table(claims))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line[1:].rstrip() for line in lines[1:-1])
