"""When a gain counts as shown: the one rule behind verdict, titles, marks and recommendation."""

from typing import Literal

from peftu.results import Score

FEWEST = 10  # users; below, neither Student's interval nor the sign-flip test can be checked against the users' gains
LEVEL = 0.05

Decision = Literal["better", "worse", "unclear"]
Doubt = Literal["users", "interval", "correction"]


def decide(gain: Score, users: int, p_holm: float | None) -> Decision:
    """Returns whether a paired gain is shown.

    'better' and 'worse' need ten users, a 95 % interval that excludes 0, and a sign-flip test below 5 % after Holm's
    correction for every comparison that was made beside it. All else is 'unclear', an untested gain, too.
    """
    if doubt(gain, users, p_holm) is not None:
        return "unclear"
    return "better" if (gain.mean or 0.0) > 0 else "worse"


def doubt(gain: Score, users: int, p_holm: float | None) -> Doubt | None:
    """Returns what a gain lacks to be shown, the first of: users, an interval without 0, a test that holds; or None."""
    if users < FEWEST:
        return "users"
    if gain.ci is None or gain.ci[0] <= 0 <= gain.ci[1]:
        return "interval"
    return None if p_holm is not None and p_holm < LEVEL else "correction"
