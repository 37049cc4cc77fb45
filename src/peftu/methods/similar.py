"""How like a text is to each of a user's items: by words, or by sentence vectors."""

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from peftu.data.problem import Floats, Text
from peftu.errors import PeftuError

Likeness = npt.NDArray[np.floating]


def words_of(text: Text) -> list[str]:
    """Returns the lower-case words of a text and of what it answers."""
    return re.findall(r"\w+", f"{text.context or ''} {text.text}".lower())


class Bm25:
    """BM25 over one user's texts (Lucene's variant, k1 1.5, b 0.75).

    Args:
        texts: at least one.

    Raises:
        PeftuError: bm25s is not installed.
    """

    def __init__(self, texts: Sequence[Text]) -> None:
        try:
            import bm25s
        except ModuleNotFoundError:
            raise PeftuError("retrieval: by=bm25 needs bm25s — pip install 'peftu[train]'") from None
        corpus = [words_of(text) for text in texts]
        self.known = set().union(*corpus)
        self.count = len(corpus)
        if self.known:
            self.index = bm25s.BM25()
            self.index.index(corpus, show_progress=False)

    def likeness(self, text: Text) -> Likeness:
        """Returns [texts] scores."""
        query = [word for word in words_of(text) if word in self.known]
        if not query:
            return np.zeros(self.count)
        return np.asarray(self.index.get_scores(query), dtype=np.float64)


class Dense:
    """Cosines of sentence vectors.

    Args:
        texts: at least one.
        embed: gives unit vectors.
    """

    def __init__(self, texts: Sequence[Text], embed: Callable[[Sequence[Text]], Floats]) -> None:
        self.embed, self.vectors = embed, embed(texts)

    def likeness(self, text: Text) -> Likeness:
        """Returns [texts] cosines."""
        return np.asarray(self.vectors @ self.embed([text])[0])
