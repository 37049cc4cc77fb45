"""Frozen text features for the mixed head: sentence embeddings, TF-IDF of words and characters, their projection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from peftu.data.problem import Text

Reals = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.integer]

PERSONAL_RANK = 128  # directions of whole n-grams that the personal part is taken from
MARKS = ("!", "?", ".", '"', "@", "#", "http")
EMOJI = "\U0001f000"  # the first of them, and of little else
EXACT_ROWS = 2048  # with more rows the leading directions come from a randomised decomposition


@dataclass(frozen=True)
class TextFeatures:
    """Features of every distinct text; scaled so that a training text's squared length is 1 on average in each block.

    Attributes:
        embedding: [texts, width] centred sentence embeddings; width 0 when they are not used.
        tfidf: [texts, rank] projection of the n-gram features, or the sparse features; width 0 when they are not used.
        personal: [texts, width] leading directions of both, on which users may deviate.
    """

    embedding: Reals
    tfidf: Reals | sparse.csr_array
    personal: Reals


def text_features(
    texts: Sequence[Text],
    seen: Numbers,
    embedding: npt.NDArray[np.floating] | None,
    ngrams: bool,
    rank: int,
    width: int,
    seed: int,
    form: bool = False,
) -> TextFeatures:
    """Returns the features of all texts; vocabulary, centre, scale and directions come from the seen texts only.

    Args:
        texts: the distinct texts.
        seen: numbers of the texts with training rows.
        embedding: [texts, width] sentence embeddings, or None.
        ngrams: whether to use TF-IDF n-grams.
        rank: most directions the n-grams are projected on, with fewer seen texts than that nothing is lost; 0: the
            n-grams stay as they are, and only the personal part sees a projection, on PERSONAL_RANK directions.
        width: most directions of the personal part.
        seed: of the randomised projections.
        form: whether what texts look like joins the embedding, and the characters of contexts join the n-grams.
    """
    dense = surface = np.zeros((len(texts), 0))
    whole: Reals | sparse.csr_array = surface
    with threadpool_limits(1):  # the same directions on every machine, and no threads in each other's way
        if embedding is not None:
            centred = np.asarray(embedding, np.float64) - np.asarray(embedding, np.float64)[seen].mean(0)
            dense = _scaled(_projected(centred, seen, centred.shape[1], seed), seen)
        if form:
            dense = np.hstack([dense, _scaled(_form(texts, seen), seen)])
        if ngrams:
            terms = _ngrams(texts, seen, context_characters=form)
            if rank or width:
                surface = _scaled(_projected(terms, seen, rank or PERSONAL_RANK, seed), seen)
            whole = surface if rank else _scaled(terms, seen)
        both = np.hstack([dense, surface])
        return TextFeatures(dense, whole, _scaled(_projected(both, seen, width, seed), seen))


def _form(texts: Sequence[Text], seen: Numbers) -> Reals:
    """Returns [texts, 2 * counts] what texts look like in any language: standardised logarithms of counts, squares."""
    counts = np.array([[*_looks(text.text), *_looks(text.context or "")] for text in texts], np.float64)
    logs = np.log1p(counts)
    both = np.hstack([logs, np.square(logs)])
    spread = both[seen].std(0)
    return np.asarray((both - both[seen].mean(0)) / np.where(spread > 1e-9, spread, 1))


def _looks(text: str) -> list[float]:
    """Returns lengths in characters and words, marks, the share of capitals, emoji and addresses."""
    marks = [text.count(mark) for mark in MARKS]
    capitals = sum(map(str.isupper, text)) / (len(text) + 1)
    return [len(text), len(text.split()), *marks, capitals, sum(letter >= EMOJI for letter in text)]


def _ngrams(texts: Sequence[Text], seen: Numbers, context_characters: bool) -> sparse.csr_array:
    """Returns [texts, terms]: words 1–2 and characters 2–5 of the text, words 1–2 of the context where there is one.

    With ``context_characters`` characters 2–4 of the context, too.
    """
    bodies = [text.text for text in texts]
    contexts = [text.context or "" for text in texts]
    words = {"ngram_range": (1, 2), "token_pattern": r"(?u)\w+"}
    plan = [(bodies, words), (bodies, {"ngram_range": (2, 5), "analyzer": "char_wb"})]
    if any(contexts):
        plan.append((contexts, words))
        if context_characters:
            plan.append((contexts, {"ngram_range": (2, 4), "analyzer": "char_wb"}))
    blocks = []
    for strings, options in plan:
        known = [strings[number] for number in seen]
        vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float64, min_df=min(2, len(known)), **options)
        try:
            vectorizer.fit(known)
        except ValueError:  # no term occurs twice: this block says nothing
            continue
        blocks.append(sparse.csr_array(vectorizer.transform(strings)))
    return sparse.csr_array(sparse.hstack(blocks)) if blocks else sparse.csr_array((len(texts), 0))


def _projected(matrix: Reals | sparse.csr_array, seen: Numbers, width: int, seed: int) -> Reals:
    """Returns [rows, ≤ width] coordinates along the leading directions of the seen rows."""
    rows = matrix[seen]
    width = min(width, *rows.shape)
    if width == 0:
        return np.zeros((matrix.shape[0], 0))
    if not sparse.issparse(rows):
        directions = np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :width]
    elif rows.shape[0] <= EXACT_ROWS:
        strength, coordinates = np.linalg.eigh((rows @ rows.T).toarray())
        kept = (strength > 1e-9 * strength[-1]) & (np.arange(len(strength)) >= len(strength) - width)
        directions = rows.T @ (coordinates[:, kept] / np.sqrt(strength[kept]))
    else:
        directions = TruncatedSVD(width, n_iter=2, random_state=seed).fit(rows).components_.T
    return np.asarray(matrix @ directions)


def _scaled(matrix: Any, seen: Numbers) -> Any:
    size = np.sqrt(squared(matrix[seen]).sum() / max(1, len(seen)))
    return matrix / size if size > 0 else matrix


def squared(matrix: Any) -> Any:
    """Returns each number of a dense or sparse matrix times itself."""
    return matrix.power(2) if isinstance(matrix, sparse.csr_array) else np.square(matrix)
