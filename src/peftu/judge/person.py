"""What differs about one user: labels, words and texts on which they and others part. For that user's own eyes."""

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
import polars as pl

from peftu.data.task import TaskCard
from peftu.errors import PeftuError
from peftu.judge.shapes import Shift
from peftu.judge.shifts import shifts
from peftu.judge.votes import Votes, votes
from peftu.results import Part
from peftu.stats import Doubles

_WORD = re.compile(r"[^\W\d_]{2,}")
_CLEAR = 1.96
_FEWEST = 3  # texts that a word must stand in
_FEWEST_VOTERS = 2
PRIOR = 10.0  # weight of the prior, in texts


class WordShift(Part):
    """A word of texts to which the user gives a label that most others do not give."""

    label: str
    word: str
    z: float
    texts: int
    of: int
    elsewhere: int
    of_elsewhere: int


class TextShift(Part):
    """A text to which few or no others give the user's labels."""

    text: str
    own: tuple[str, ...]
    others: dict[str, float]
    voters: int


class AboutUser(Part):
    """What differs about a user. Holds texts, and no key."""

    judged: int
    shared: int
    agreed: float | None
    shifts: tuple[Shift, ...]
    words: tuple[WordShift, ...]
    texts: tuple[TextShift, ...]

    def sentences(self) -> list[str]:
        """Returns the same in plain words."""
        lines = []
        if self.agreed is not None:
            lines.append(f"You say what most others say of {100 * self.agreed:.0f} % of {self.shared} texts.")
        lines += [
            f"You say '{s.label}' {'more' if s.own > s.others else 'less'} often than others: "
            f"{100 * s.own:.0f} % against {100 * s.others:.0f} %."
            for s in self.shifts
        ]
        lines += [
            f"'{w.word}' stands in {w.texts} of {w.of} texts that you call '{w.label}' and most others do not, "
            f"and in {w.elsewhere} of your other {w.of_elsewhere} texts."
            for w in self.words
        ]
        return lines


def about_user(judgements: pl.DataFrame, card: TaskCard, user: str, most: int = 10) -> AboutUser:
    """Returns what differs about a user, from all judgements of a task.

    Words are ranked by the z-score of their log-odds with an informative Dirichlet prior (Monroe, Colaresi & Quinn,
    2008), counted once a text: texts to which the user gives a label that most others do not, against the user's other
    texts; the prior are all texts of the task. Shown are those above 1.96, in at least three texts.

    Args:
        judgements: user_id, item_id, text, target; context where there is one.
        card: the task.
        user: the key.
        most: words of a label, and texts, at most.

    Raises:
        PeftuError: the user has no judgement, or the task's targets are free texts.
    """
    if not card.answers.labelled:
        raise PeftuError(f"task {card.name}: its targets are texts — labels are needed to compare users")
    crowd = votes(judgements, card)
    mine = (crowd.rows["user_id"] == user).to_numpy()
    if not mine.any():
        raise PeftuError(f"task {card.name}: there is no judgement of that user — check the key")
    texts = crowd.rows.join(
        judgements.select("user_id", "item_id", "text"), on=["user_id", "item_id"], how="left", maintain_order="left"
    )["text"]
    shared = mine & (crowd.voters > 0)
    agrees = (crowd.majority == (crowd.given > 0)).all(1)
    everywhere = _texts_with_word(texts.filter(pl.Series(~mine)).unique().to_list())
    words: list[WordShift] = []
    for place, label in enumerate(card.labels):
        apart = shared & (crowd.given[:, place] > 0) & ~crowd.majority[:, place]
        here, there = (texts.filter(pl.Series(rows)).to_list() for rows in (apart, mine & ~apart))
        words += _words(label, here, there, everywhere, most)
    return AboutUser(
        judged=int(mine.sum()),
        shared=int(shared.sum()),
        agreed=float(agrees[shared].mean()) if shared.any() else None,
        shifts=shifts(crowd, card.labels, [user]),
        words=tuple(words),
        texts=_texts(crowd, texts, shared, card, most),
    )


def log_odds(here: Doubles, there: Doubles, prior: Doubles) -> Doubles:
    """Returns [words] z-scores of the log-odds of words in two sets of texts (Monroe et al. 2008, eq. 15-22).

    Args:
        here: [words] counts in the first set.
        there: [words] counts in the second set.
        prior: [words] pseudo-counts, above 0.
    """
    odds = [np.log((counts + prior) / (counts.sum() + prior.sum() - counts - prior)) for counts in (here, there)]
    return np.asarray((odds[0] - odds[1]) / np.sqrt(1 / (here + prior) + 1 / (there + prior)))


def _words(label: str, here: list[str], there: list[str], everywhere: Counter[str], most: int) -> list[WordShift]:
    first, second = _texts_with_word(here), _texts_with_word(there)
    names = sorted(word for word, number in first.items() if number >= _FEWEST)
    every = sorted({*first, *second})
    if not names or not there:
        return []
    total = sum(everywhere.values()) + len(every)
    counts = [np.array([counter[word] for word in every], dtype=np.float64) for counter in (first, second)]
    prior = np.array([(everywhere[word] + 1) / total for word in every]) * PRIOR
    z = dict(zip(every, log_odds(counts[0], counts[1], prior).tolist(), strict=True))
    clear = sorted((word for word in names if z[word] > _CLEAR), key=lambda word: (-z[word], word))
    return [
        WordShift(
            label=label, word=word, z=z[word], texts=first[word], of=len(here), elsewhere=second[word],
            of_elsewhere=len(there),
        )
        for word in clear[:most]
    ]  # fmt: skip


def _texts(crowd: Votes, texts: pl.Series, shared: np.ndarray, card: TaskCard, most: int) -> tuple[TextShift, ...]:
    """Returns the texts on which fewest others give the user's labels, those with most judgements first."""
    majority = crowd.majority
    rows = np.flatnonzero(shared & (crowd.voters >= _FEWEST_VOTERS))
    support = (np.nan_to_num(crowd.shares[rows]) * crowd.given[rows]).sum(1) / np.maximum(crowd.given[rows].sum(1), 1)
    ranked = rows[np.lexsort((-crowd.voters[rows], support))][:most]
    return tuple(
        TextShift(
            text=texts[int(row)],
            own=tuple(label for label, given in zip(card.labels, crowd.given[row], strict=True) if given),
            others=dict(zip(card.labels, crowd.shares[row].tolist(), strict=True)),
            voters=int(crowd.voters[row]),
        )
        for row in ranked
        if (majority[row] != (crowd.given[row] > 0)).any()
    )


def _texts_with_word(texts: Iterable[str]) -> Counter[str]:
    return Counter(word for text in texts for word in set(_WORD.findall(text.lower())))
