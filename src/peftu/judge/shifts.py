"""Which labels a user gives more or less often than others give them to the same texts."""

from collections.abc import Sequence

import numpy as np

from peftu.judge.shapes import Shift
from peftu.judge.votes import Votes

MOST = 200
FALSE_SHARE = 0.05
_FEWEST_TEXTS = 5


def shifts(votes: Votes, labels: Sequence[str], users: Sequence[str]) -> tuple[Shift, ...]:
    """Returns the users' clearest label shifts, the clearest first, as long as about one in twenty is chance.

    On the texts that others have judged too, the user's number of a label is set against the sum of what others would
    give: with c of v others' judgements having the label, p = (c + s) / (v + 1), s the label's overall share; the
    number has mean Σ p and variance Σ p (1 - p). Two-sided normal p-values, cut by Benjamini and Hochberg's rule
    (1995) at 5 %; at most 200.

    Args:
        votes: all judgements.
        labels: the label set.
        users: keys, in the order of their numbers.
    """
    from scipy.special import ndtr

    number = {user: place for place, user in enumerate(users)}
    who = np.array([number.get(user, -1) for user in votes.rows["user_id"]], dtype=np.int64)
    kept = (votes.voters > 0) & (who >= 0)
    if not kept.any():
        return ()
    who, given_labels, others, voters = who[kept], votes.given[kept], votes.others[kept], votes.voters[kept]
    texts = np.bincount(who, minlength=len(users))
    chance = (others + votes.common) / (voters[:, None] + 1)
    candidates: list[tuple[float, int, int, float, float]] = []
    for label in range(len(labels)):
        given, expected, share, variance = (
            np.bincount(who, values, len(users))
            for values in (
                given_labels[:, label],
                chance[:, label],
                others[:, label] / voters,
                chance[:, label] * (1 - chance[:, label]),
            )
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            p_values = 2 * ndtr(-np.abs(given - expected) / np.sqrt(variance))
        candidates += [
            (float(p_values[user]), user, label, float(given[user] / texts[user]), float(share[user] / texts[user]))
            for user in np.flatnonzero((texts >= _FEWEST_TEXTS) & (variance > 0)).tolist()
        ]
    return tuple(
        Shift(
            user=user + 1,
            label=labels[label],
            own=own_share,
            others=others_share,
            rows=int(texts[user]),
            p=p,
            words=_words(user + 1, labels[label], own_share, others_share, int(texts[user])),
        )
        for p, user, label, own_share, others_share in _clear(sorted(candidates))[:MOST]
    )


def _clear(tested: list[tuple[float, int, int, float, float]]) -> list[tuple[float, int, int, float, float]]:
    below = [place for place, test in enumerate(tested, 1) if test[0] <= FALSE_SHARE * place / len(tested)]
    return tested[: below[-1]] if below else []


def _words(user: int, label: str, share: float, others: float, texts: int) -> str:
    how = "more" if share > others else "less"
    return (
        f"User {user} says '{label}' {how} often than others: for {100 * share:.0f} % of {texts} texts, "
        f"others for {100 * others:.0f} % of the same texts."
    )
