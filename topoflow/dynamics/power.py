"""What a design can decide, before it runs: the smallest p-values it can reach, its power, and how many seeds suffice.

Ask before a run. A test whose smallest p-value is above its level can only end in "cannot tell", whatever comes out;
one of little power will mostly miss what there is. The checkpoints and the number of seeds say both.
"""

from __future__ import annotations

from collections.abc import Sequence

from topoflow.dynamics.claims import Claims, listed
from topoflow.dynamics.design import JITTERS, ONE_RUN, SPREADS, Decidable, Design, Question


def of_run(
    design: Design, claims: Claims | None = None, jitters: Sequence[float] = JITTERS
) -> list[Decidable]:
    """Say of each claim about one run whether it can be decided, and with what power.

    Parameters
    ----------
    design : Design
        What will be recorded of the run.
    claims : Claims, optional
        Levels, margins and numbers of rotations; by default `Claims()`.
    jitters
        Standard errors that jitter gives to the squared movement of a whole run, as shares of it.

    Returns
    -------
    list of Decidable
        One a claim: moves, early, calm, leads.

    Examples
    --------
    >>> [(found.claim, found.can_decide) for found in of_run(Design(range(0, 49, 8)))]
    [('moves', False), ('early', False), ('calm', False), ('leads', False)]
    """
    asked = Question(design, claims or Claims(), jitters=jitters)

    def ask(claim: listed.Claim) -> Decidable:
        if claim.decidable_of_run:
            return claim.decidable_of_run(asked)
        why = "one run has no error bar"
        return Decidable(claim.name, ONE_RUN, 1.0, asked.claims.level, "2 seeds or more", why)

    return [ask(claim) for claim in listed.CLAIMS if not claim.of_labels]


def of_study(
    design: Design, claims: Claims | None = None, spreads: Sequence[float] = SPREADS, pilot: bool = False
) -> list[Decidable]:
    """Say of each claim over seeds whether it can be decided, with what power, and what would be enough.

    Parameters
    ----------
    design : Design
        What will be recorded of each run, and how many runs there will be.
    claims : Claims, optional
        Levels, margins and numbers of rotations; by default `Claims()`.
    spreads
        Standard deviations of early shares between seeds.
    pilot
        Whether those are a pilot's. A pilot says nothing of leads, and the usual spreads are taken for them; so are
        those of logs of ratios.

    Returns
    -------
    list of Decidable
        One a claim: early, calm, leads, objectives, and the two of models.

    Examples
    --------
    >>> twins = [t + twin for t in range(0, 48, 4) for twin in (0, 1)]
    >>> three, six = (of_study(Design(twins, n_seeds=n, n_objectives=3)) for n in (3, 6))
    >>> three[3].claim, three[3].why, six[3].can_decide
    ('objectives', 'needs 6 seeds, and has 3', True)
    """
    asked = Question(design, claims or Claims(), spreads, pilot)
    return [
        *(claim.decidable_over_runs(asked) for claim in listed.CLAIMS if claim.decidable_over_runs),
        *(one for kind in listed.BETWEEN.values() for between in kind for one in between.decidable(asked)),
    ]
