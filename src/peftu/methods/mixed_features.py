"""Frozen text features for the mixed head: sentence embeddings, TF-IDF of words and characters, their projection.

They are fitted on the texts with training rows, and made of any text, one that came later included.
"""

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


@dataclass(frozen=True)
class Featurizer:
    """What the features of texts are made with: everything in it comes from the texts with training rows.

    Attributes:
        tensors: centres, directions, scales and inverse document frequencies, by name.
        blocks: of the n-grams: which text they are of, how they are cut, and their vocabulary in column order.
        form: whether what texts look like joins the embedding, and the characters of contexts join the n-grams.
        whole: whether the shared part reads the n-grams themselves, and not their projection.
    """

    tensors: dict[str, Reals]
    blocks: tuple[dict[str, Any], ...]
    form: bool
    whole: bool

    def features(self, texts: Sequence[Text], embedding: npt.NDArray[np.floating] | None) -> TextFeatures:
        """Returns the features of any texts.

        Args:
            texts: the texts.
            embedding: [texts, width] sentence embeddings where these features were fitted with them.
        """
        with threadpool_limits(1):  # the same numbers on every machine, and no threads in each other's way
            surface = np.zeros((len(texts), 0))
            whole: Reals | sparse.csr_array = surface
            dense = self._dense(texts, embedding)
            if "ngrams.scale" in self.tensors or "surface.scale" in self.tensors:
                terms = self._terms(texts)
                if "surface.scale" in self.tensors:
                    surface = self._coordinates("surface", terms)
                whole = sparse.csr_array(terms / self.tensors["ngrams.scale"]) if self.whole else surface
            both = np.hstack([dense, surface])
            return TextFeatures(dense, whole, self._coordinates("personal", both))

    def _coordinates(self, name: str, matrix: Any) -> Reals:
        return np.asarray(matrix @ self.tensors[f"{name}.directions"] / self.tensors[f"{name}.scale"])

    def _dense(self, texts: Sequence[Text], embedding: npt.NDArray[np.floating] | None) -> Reals:
        dense = np.zeros((len(texts), 0))
        if "embedding.centre" in self.tensors:
            centred = np.asarray(embedding, np.float64) - self.tensors["embedding.centre"]
            dense = self._coordinates("embedding", centred)
        if self.form:
            looks = (_form(texts) - self.tensors["form.mean"]) / self.tensors["form.spread"]
            dense = np.hstack([dense, looks / self.tensors["form.scale"]])
        return dense

    def _terms(self, texts: Sequence[Text]) -> sparse.csr_array:
        parts = []
        for number, block in enumerate(self.blocks):
            vectorizer = _vectorizer(block, vocabulary={term: place for place, term in enumerate(block["terms"])})
            vectorizer.idf_ = self.tensors[f"idf.{number}"]
            parts.append(sparse.csr_array(vectorizer.transform(_strings(texts, block["of"]))))
        return sparse.csr_array(sparse.hstack(parts)) if parts else sparse.csr_array((len(texts), 0))


def fit_features(
    texts: Sequence[Text],
    seen: Numbers,
    embedding: npt.NDArray[np.floating] | None,
    ngrams: bool,
    rank: int,
    width: int,
    seed: int,
    form: bool = False,
) -> Featurizer:
    """Returns what makes features; vocabulary, centre, scale and directions come from the seen texts only.

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
    known = [texts[number] for number in seen]
    tensors: dict[str, Reals] = {}
    blocks: tuple[dict[str, Any], ...] = ()

    def project(name: str, matrix: Any, most: int) -> None:
        tensors[f"{name}.directions"] = _directions(matrix, most, seed)
        tensors[f"{name}.scale"] = _scale(matrix @ tensors[f"{name}.directions"])

    with threadpool_limits(1):
        if embedding is not None:
            vectors = np.asarray(embedding, np.float64)[seen]
            tensors["embedding.centre"] = vectors.mean(0)
            project("embedding", vectors - tensors["embedding.centre"], vectors.shape[1])
        if form:
            looks = _form(known)
            spread = looks.std(0)
            tensors |= {"form.mean": looks.mean(0), "form.spread": np.where(spread > 1e-9, spread, 1)}
            tensors["form.scale"] = _scale((looks - tensors["form.mean"]) / tensors["form.spread"])
        if ngrams:
            contexts = any(text.context for text in texts)
            blocks, frequencies = _vocabularies(known, contexts, context_characters=form)
            tensors |= {f"idf.{number}": idf for number, idf in enumerate(frequencies)}
            terms = Featurizer(tensors, blocks, form, whole=False)._terms(known)
            if rank or width:
                project("surface", terms, rank or PERSONAL_RANK)
            tensors["ngrams.scale"] = _scale(terms)
        made = Featurizer(tensors, blocks, form, whole=not rank)
        both = [made._dense(known, None if embedding is None else np.asarray(embedding)[seen])]
        if "surface.scale" in tensors:
            both.append(made._coordinates("surface", terms))
        project("personal", np.hstack(both), width)
    return made


def _form(texts: Sequence[Text]) -> Reals:
    """Returns [texts, 2 * counts] what texts look like in any language: logarithms of counts, and their squares."""
    counts = np.array([[*_looks(text.text), *_looks(text.context or "")] for text in texts], np.float64)
    logs = np.log1p(counts)
    return np.asarray(np.hstack([logs, np.square(logs)]))


def _looks(text: str) -> list[float]:
    """Returns lengths in characters and words, marks, the share of capitals, emoji and addresses."""
    marks = [text.count(mark) for mark in MARKS]
    capitals = sum(map(str.isupper, text)) / (len(text) + 1)
    return [len(text), len(text.split()), *marks, capitals, sum(letter >= EMOJI for letter in text)]


def _vocabularies(
    known: Sequence[Text], contexts: bool, context_characters: bool
) -> tuple[tuple[dict[str, Any], ...], list[Reals]]:
    """Returns the n-grams that occur twice: words 1–2 and characters 2–5 of the text, words 1–2 of the context.

    With ``context_characters`` characters 2–4 of the context, too. The second are their inverse document frequencies.
    """
    plan: list[dict[str, Any]] = [
        {"of": "text", "analyzer": "word", "ngram_range": [1, 2]},
        {"of": "text", "analyzer": "char_wb", "ngram_range": [2, 5]},
    ]
    if contexts:
        plan.append({"of": "context", "analyzer": "word", "ngram_range": [1, 2]})
        if context_characters:
            plan.append({"of": "context", "analyzer": "char_wb", "ngram_range": [2, 4]})
    blocks, frequencies = [], []
    for block in plan:
        vectorizer = _vectorizer(block, min_df=min(2, len(known)))
        try:
            vectorizer.fit(_strings(known, block["of"]))
        except ValueError:  # no term occurs twice: this block says nothing
            continue
        blocks.append({**block, "terms": vectorizer.get_feature_names_out().tolist()})
        frequencies.append(np.asarray(vectorizer.idf_, np.float64))
    return tuple(blocks), frequencies


def _vectorizer(block: dict[str, Any], **options: Any) -> TfidfVectorizer:
    return TfidfVectorizer(
        sublinear_tf=True,
        dtype=np.float64,
        analyzer=block["analyzer"],
        ngram_range=tuple(block["ngram_range"]),
        token_pattern=r"(?u)\w+" if block["analyzer"] == "word" else None,
        **options,
    )


def _strings(texts: Sequence[Text], of: str) -> list[str]:
    return [text.text if of == "text" else text.context or "" for text in texts]


def _directions(rows: Any, width: int, seed: int) -> Reals:
    """Returns [columns, ≤ width] the leading directions of these rows."""
    width = min(width, *rows.shape)
    if width == 0:
        return np.zeros((rows.shape[1], 0))
    if isinstance(rows, np.ndarray):
        return np.asarray(np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :width])
    if rows.shape[0] <= EXACT_ROWS:
        strength, coordinates = np.linalg.eigh((rows @ rows.T).toarray())
        kept = (strength > 1e-9 * strength[-1]) & (np.arange(len(strength)) >= len(strength) - width)
        return np.asarray(rows.T @ (coordinates[:, kept] / np.sqrt(strength[kept])))
    return np.asarray(TruncatedSVD(width, n_iter=2, random_state=seed).fit(rows).components_.T)


def _scale(rows: Any) -> Reals:
    """Returns the root mean squared length of these rows, as a number; 1 where they are all zero."""
    size = np.sqrt(squared(rows).sum() / max(1, rows.shape[0]))
    return np.asarray(size if size > 0 else 1.0, np.float64)


def squared(matrix: Any) -> Any:
    """Returns each number of a dense or sparse matrix times itself."""
    return matrix.power(2) if isinstance(matrix, sparse.csr_array) else np.square(matrix)
