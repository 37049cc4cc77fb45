"""Near-duplicate texts: MinHash over character 5-grams finds candidates, exact Jaccard similarity decides.

Banded MinHash as in Leskovec, Rajaraman and Ullman, *Mining of Massive Datasets*, chapter 3. With 16 bands of 4 values
two texts of similarity s meet in some band with probability 1 − (1 − s⁴)¹⁶: 0.9998 at 0.8. What is reported is exact;
of what is there, a pair in some thousands at the very threshold may be missed.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from peftu.splitmix import finalised

WIDTH = 5  # characters a shingle
BANDS, ROWS = 16, 4
MOST_CANDIDATES = 64  # training texts compared with one test text in one band; more share the band in templates only
LEAST = 0.8  # default similarity
SLACK = 0.2  # four standard deviations of the share of equal values, at the default

Hashes = npt.NDArray[np.uint64]


class Shingles:
    """The distinct character 5-grams of texts, as 64-bit hashes; a shorter text is one shingle.

    Args:
        texts: as they are to be compared (in one case, say).
    """

    def __init__(self, texts: Sequence[str]) -> None:
        letters, sizes = _letters(texts)
        number = np.maximum(sizes - WIDTH + 1, 1)
        self.start = np.concatenate([[0], number.cumsum()])
        # Zeros follow each text, so that a window at any of its shingles, an empty text's too, ends before the next.
        begin = np.concatenate([[0], (sizes + WIDTH).cumsum()[:-1]])
        offset = np.repeat(begin - self.start[:-1], number) + np.arange(self.start[-1])
        mixed = np.zeros(len(offset), np.uint64)
        for place in range(WIDTH):
            mixed = _mixed(mixed * np.uint64(0x100000001B3) + letters[offset + place])
        self.hashes = mixed

    def of(self, text: int) -> Hashes:
        """Returns the sorted distinct shingles of one text."""
        return np.unique(self.hashes[self.start[text] : self.start[text + 1]])

    def signatures(self, values: int = BANDS * ROWS) -> Hashes:
        """Returns [texts, values] the least of each text's shingles under so many hash functions."""
        signatures = np.empty((len(self.start) - 1, values), np.uint64)
        for value in range(values):
            signatures[:, value] = np.minimum.reduceat(_mixed(self.hashes ^ _key(value)), self.start[:-1])
        return signatures

    def jaccard(self, text: int, other: int) -> float:
        """Returns the share of two texts' shingles that both have."""
        first, second = self.of(text), self.of(other)
        both = len(np.intersect1d(first, second, assume_unique=True))
        return both / (len(first) + len(second) - both)


def near_duplicates(
    tested: Sequence[str], trained: Sequence[str], least: float = LEAST
) -> list[tuple[int, int, float]]:
    """Returns (test text, training text, similarity) for each test text that is like some training text.

    A test text stands once, with the first training text found that is as similar as ``least`` or more.
    """
    if not tested or not trained:
        return []
    shingles = Shingles([*tested, *trained])
    signatures = shingles.signatures()
    matches: dict[int, tuple[int, float]] = {}
    waiting = np.ones(len(tested), np.bool_)
    for band in range(BANDS):
        test, train = _meeting(signatures, len(tested), band)
        test, train = test[waiting[test]], train[waiting[test]]
        estimate = (signatures[test] == signatures[len(tested) + train]).mean(1)
        likely = estimate >= least - SLACK
        for text, twin in zip(test[likely].tolist(), train[likely].tolist(), strict=True):
            if text not in matches and (similarity := shingles.jaccard(text, len(tested) + twin)) >= least:
                matches[text], waiting[text] = (twin, similarity), False
    return [(test, *matches[test]) for test in sorted(matches)]


def _meeting(signatures: Hashes, tested: int, band: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns test and training texts, pairwise, that agree on all values of a band."""
    key = np.zeros(len(signatures), np.uint64)
    for value in range(band * ROWS, (band + 1) * ROWS):
        key = _mixed(key ^ signatures[:, value])
    test, train = (pl.DataFrame({"key": part, "text": np.arange(len(part))}) for part in (key[:tested], key[tested:]))
    train = train.group_by("key", maintain_order=True).agg(pl.col("text").head(MOST_CANDIDATES))
    pairs = test.join(train, on="key", maintain_order="left").explode("text_right")
    return pairs["text"].to_numpy().astype(np.int64), pairs["text_right"].to_numpy().astype(np.int64)


def _letters(texts: Sequence[str]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Returns the code points of all texts, WIDTH zeros after each, and the length of each text."""
    sizes = np.fromiter(map(len, texts), np.int64, len(texts))
    gap = "\0" * WIDTH
    data = (gap.join(texts) + gap).encode("utf-32-le", "surrogatepass")
    return np.frombuffer(data, "<u4").astype(np.uint64), sizes


def _key(value: int) -> np.uint64:
    return np.uint64(_mixed(np.array([value + 1], np.uint64))[0])


def _mixed(numbers: Hashes) -> Hashes:
    """Returns the numbers scattered over 64 bits."""
    return np.asarray(finalised(numbers, np.uint64, lambda z, by: z >> np.uint64(by)), np.uint64)
