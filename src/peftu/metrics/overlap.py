"""How much two texts have in common: ROUGE-1, ROUGE-L and chrF."""

import re
from collections import Counter
from collections.abc import Sequence

_NOT_A_WORD = re.compile(r"[^a-z0-9]+")
CHRF_ORDER, CHRF_BETA = 6, 2


def words(text: str) -> list[str]:
    """Returns the lower-case words of a text, letters a-z and digits only, as the package rouge-score cuts them."""
    return [word for word in _NOT_A_WORD.sub(" ", text.lower()).split(" ") if word]


def rouge_1(reference: Sequence[str], answer: Sequence[str]) -> float:
    """Returns the F1 of common words, each as often as both have it (Lin, 2004)."""
    common = (Counter(reference) & Counter(answer)).total()
    return _f1(common, len(answer), len(reference))


def rouge_l(reference: Sequence[str], answer: Sequence[str]) -> float:
    """Returns the F1 of the longest common subsequence of words (Lin, 2004; of the whole text, not by sentence)."""
    if not reference or not answer:
        return 0.0
    # Bit-parallel (Hyyrö, 2004): bit i of row is 0 where the subsequence grows at reference word i.
    places: dict[str, int] = {}
    for place, word in enumerate(reference):
        places[word] = places.get(word, 0) | 1 << place
    everywhere = (1 << len(reference)) - 1
    row = everywhere
    for word in answer:
        here = row & places.get(word, 0)
        row = ((row + here) | (row - here)) & everywhere
    return _f1(len(reference) - row.bit_count(), len(answer), len(reference))


def chrf(reference: str, answer: str) -> float:
    """Returns the F2 of character 1- to 6-grams without white space, averaged over the orders both texts reach.

    As sacrebleu computes it for one sentence, from 0 to 1 (Popović, 2015).
    """
    texts = ["".join(text.split()) for text in (reference, answer)]
    precision = recall = 0.0
    orders = 0
    for order in range(1, CHRF_ORDER + 1):
        wanted, given = (Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in texts)
        if not wanted or not given:
            continue
        common = (wanted & given).total()
        precision += common / given.total()
        recall += common / wanted.total()
        orders += 1
    if not orders or precision + recall == 0:
        return 0.0
    precision, recall = precision / orders, recall / orders
    weight = CHRF_BETA**2
    return (1 + weight) * precision * recall / (weight * precision + recall)


def _f1(common: int, given: int, wanted: int) -> float:
    return 2 * common / (given + wanted) if common else 0.0
