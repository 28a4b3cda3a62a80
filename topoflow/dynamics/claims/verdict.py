"""One claim, what may be said of it, and the rung of the ladder on which that was decided."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from topoflow.dynamics.nulls import holm
from topoflow.dynamics.permutation import ABSENT, CANNOT_TELL, NOT_SUPPORTED, SUPPORTED, Test, decide

PASSED = "passed"


@dataclass(frozen=True)
class Verdict:
    """One claim about one run or about a study.

    Attributes
    ----------
    claim
        Its short name.
    homology
        "H1" (loops), "H0" (components), or "" where the claim is of both or of neither.
    verdict
        "supported", "explained by (a rung)", "not supported", "not supported beyond (a rung)", "shown absent" or
        "cannot tell".
    rung
        The rung that decided: the first that failed, or the last of those that passed.
    value, low, high, p
        The number, its 95 % interval and its p-value; None where there is none. Where a claim climbed, `p` is the
        largest of the rungs it passed and of the one that decided, adjusted for the other homology (Holm).
    rule
        How the verdict follows from the numbers.
    statement
        What is claimed, in words.
    statistic
        What `value` is, with its unit.
    steps
        Each rung climbed and what it said, in order.
    labels
        The two labels that are compared, if any.
    beside
        What to read with `value`, though no rung tests it: another number that could explain it, in words.
    why
        Why the verdict is "cannot tell", such as what is missing; empty of any other.

    Examples
    --------
    >>> one = Verdict("early", "H1", "supported", "the start", 2.0, None, None, 0.01, "", "")
    >>> one.verdict, one.name
    ('supported', 'early_h1')
    """

    claim: str
    homology: str
    verdict: str
    rung: str
    value: float | None
    low: float | None
    high: float | None
    p: float | None
    rule: str
    statement: str
    statistic: str = ""
    steps: tuple[tuple[str, str], ...] = ()
    labels: tuple[str, ...] = ()
    beside: str = ""
    why: str = ""

    @property
    def name(self) -> str:
        """What files and MLflow call it: the labels that are compared, if any, the claim, the homology.

        >>> one = Verdict("early", "H1", "cannot tell", "", None, None, None, None, "", "")
        >>> one.name, replace(one, claim="objectives", labels=("helpful", "harmless")).name
        ('early_h1', 'helpful_and_harmless_objectives_h1')
        """
        words = ["_and_".join(self.labels), self.claim.replace(" ", "_"), self.homology.lower()]
        return "_".join(word for word in words if word)


@dataclass(frozen=True)
class Rung:
    """One rival explanation of a claim.

    Attributes
    ----------
    name
        What the explanation is called.
    test
        Computes the test when the claim gets here; an explanation of why it cannot be made instead of a test.
    level
        At which it must reject.
    explains
        Whether the claim is "explained by" this rung where the test shows absence; else it is "shown absent".
    gate
        Whether a failure means that nothing can be told.

    Examples
    --------
    >>> Rung("scale", lambda: Test(2.0, p=0.01), level=0.05).test().p
    0.01
    """

    name: str
    test: Callable[[], Test | str]
    level: float
    explains: bool = True
    gate: bool = False


@dataclass(frozen=True)
class Climb:
    """How far a claim got.

    Attributes
    ----------
    verdict
        As `Verdict` has it.
    rung
        The rung that decided.
    p
        The largest p-value of the rungs up to there; NaN where a test could not be made.
    tests
        Name and test of each rung that was tested, in order.
    steps
        Name and outcome of each rung that was climbed, in order.
    why
        Why the verdict is "cannot tell"; empty of any other.

    Examples
    --------
    >>> found = climb([Rung("raw", lambda: Test(2.0, p=0.01), 0.05), Rung("scale", lambda: "needs twins", 0.05)])
    >>> found.verdict, found.rung, found.why
    ('cannot tell', 'scale', 'needs twins')
    """

    verdict: str
    rung: str
    p: float
    tests: tuple[tuple[str, Test], ...]
    steps: tuple[tuple[str, str], ...]
    why: str = ""

    def at(self, rung: str) -> Test | None:
        """Return the test of a rung.

        Parameters
        ----------
        rung
            Its name.

        Returns
        -------
        Test or None
            None where the claim did not get there, or the test could not be made.

        Examples
        --------
        >>> found = climb([Rung("raw", lambda: Test(2.0, p=0.01), 0.05)])
        >>> found.at("raw").value, found.at("scale") is None
        (2.0, True)
        """
        return dict(self.tests).get(rung)

    def told(
        self,
        claim: str,
        homology: str,
        shown: Test | None,
        statement: str,
        statistic: str,
        rule: str,
        labels: tuple[str, ...] = (),
        beside: str = "",
    ) -> Verdict:
        """Say the verdict in words.

        Parameters
        ----------
        claim, homology, statement, statistic, rule, labels, beside
            As `Verdict` has them.
        shown : Test or None
            Has the number of the verdict, with its interval.

        Returns
        -------
        Verdict

        Examples
        --------
        >>> found = climb([Rung("raw", lambda: Test(2.0, p=0.01), 0.05)])
        >>> told = found.told("early", "H1", found.at("raw"), "it moves early", "a ratio", "supported if p <= 0.05")
        >>> told.verdict, told.value, told.p
        ('supported', 2.0, 0.01)
        """
        number = shown or Test(math.nan, math.nan)
        return Verdict(
            claim,
            homology,
            self.verdict,
            self.rung,
            known(number.value),
            known(number.low),
            known(number.high),
            known(self.p),
            rule,
            statement,
            statistic,
            self.steps,
            labels,
            beside,
            self.why,
        )


def climb(rungs: Sequence[Rung]) -> Climb:
    """Climb until a rung fails.

    All rungs must reject (intersection-union), so none of them is corrected. The tests of later rungs are not computed.

    Parameters
    ----------
    rungs : sequence of Rung
        One or more, the cheapest rival explanation first.

    Returns
    -------
    Climb
        It is "supported" where all rungs reject; else the first that does not says what it is.

    Examples
    --------
    >>> raw = Rung("raw", lambda: Test(2.0, p=0.01), 0.05, explains=False)
    >>> scale = Rung("scale", lambda: Test(1.0, p=0.9, p_absent=0.02), 0.05)
    >>> climb([raw, scale]).verdict, climb([raw]).verdict
    ('explained by scale', 'supported')
    """
    tests: list[tuple[str, Test]] = []
    steps: list[tuple[str, str]] = []
    p = 0.0
    for number, rung in enumerate(rungs):
        test = rung.test()
        if isinstance(test, str):
            steps.append((rung.name, CANNOT_TELL))
            return Climb(CANNOT_TELL, rung.name, math.nan, tuple(tests), tuple(steps), test)
        tests.append((rung.name, test))
        found = decide(test, rung.level)
        if found == SUPPORTED:
            p = max(p, test.p)
            steps.append((rung.name, PASSED))
            continue
        p = max(p, test.p)
        if rung.gate:
            said = CANNOT_TELL
        elif found == ABSENT:
            said = f"explained by {rung.name}" if rung.explains else ABSENT
        elif found == NOT_SUPPORTED:
            said = f"{NOT_SUPPORTED} beyond {rung.name}" if number and rung.explains else NOT_SUPPORTED
        else:
            said = CANNOT_TELL
        steps.append((rung.name, said))
        why = "nothing moves beyond jitter" if rung.gate else "no outcome could have been significant"
        return Climb(said, rung.name, p, tuple(tests), tuple(steps), why if said == CANNOT_TELL else "")
    return Climb(SUPPORTED, rungs[-1].name, p, tuple(tests), tuple(steps))


def adjust(verdicts: Sequence[Verdict], level: float) -> list[Verdict]:
    """Adjust the p-values of one claim's verdicts, a homology each, for one another (Holm 1979).

    What is supported alone and not among the others becomes "not supported beyond the number of claims".

    Parameters
    ----------
    verdicts : sequence of Verdict
        One without a p-value counts as one of the family, and stays as it is.
    level
        Which the adjusted p-values must reach, between 0 and 1.

    Returns
    -------
    list of Verdict
        In their order, with adjusted p-values.

    Raises
    ------
    InvalidArgument
        As `holm` does.

    Examples
    --------
    >>> one = Verdict("early", "H1", "supported", "the start", 2.0, None, None, 0.04, "", "")
    >>> [v.verdict for v in adjust([one, replace(one, homology="H0", p=0.2, verdict="not supported")], 0.05)]
    ['not supported beyond the number of claims', 'not supported']
    """
    found = []
    # a verdict without a p-value counts as one of the family all the same
    adjusted = holm([1.0 if verdict.p is None else verdict.p for verdict in verdicts])
    for verdict, p in zip(verdicts, adjusted.tolist(), strict=True):
        if verdict.p is None:
            found.append(verdict)
            continue
        if verdict.verdict == SUPPORTED and p > level:
            rung = "the number of claims"
            said = f"{NOT_SUPPORTED} beyond {rung}"
            verdict = replace(verdict, verdict=said, rung=rung, steps=(*verdict.steps, (rung, said)))
        found.append(replace(verdict, p=p))
    return found


def known(value: float) -> float | None:
    """Return a number as JSON has it, which knows neither NaN nor infinity.

    Parameters
    ----------
    value
        Any number.

    Returns
    -------
    float or None
        None for NaN and infinity.

    Examples
    --------
    >>> known(0.5), known(math.nan)
    (0.5, None)
    """
    return float(value) if math.isfinite(value) else None
