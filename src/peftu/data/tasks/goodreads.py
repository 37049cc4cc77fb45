"""Reviews in one's own voice: what readers wrote on Goodreads."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

from peftu.data.reading import meta, read_json_lines
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard

REVIEWS = "goodreads_reviews_spoiler_raw.json.gz"
BOOKS = "goodreads_books.json.gz"
AUTHORS = "goodreads_book_authors.json.gz"


class Goodreads:
    """Reviews of the UCSD Book Graph, with the description of the book reviewed."""

    card: ClassVar[TaskCard] = TaskCard(
        name="goodreads",
        version="1",
        title="Book reviews on Goodreads (UCSD Book Graph)",
        description=(
            "A book's title, authors and description, and what each reader wrote about it. Kept are readers with 20 "
            "reviews or more (min_examples=), then the books with a description, the order that PEFT-U filters in; "
            "spoiler marks are taken out of the text. Reviews left out are counted. PEFT-U takes descriptions from "
            "another crawl, so its figures differ. The files are large: the books are read once, the reviews twice."
        ),
        user="A reader with 20 reviews or more.",
        kind="text",
        labels=(),
        instruction="What does this reader write in a review of the book?",
        main_metric="perplexity",
        language="mostly en",
        licence="academic use only, no redistribution or commercial use",
        citation=(
            "Mengting Wan, Julian McAuley (2018). Item Recommendation on Monotonic Behavior Chains. RecSys 2018. "
            "Mengting Wan, Rishabh Misra, Ndapa Nakashole, Julian McAuley (2019). Fine-Grained Spoiler Detection from "
            "Large-Scale Review Corpora. ACL 2019."
        ),
        homepage="https://mengtingwan.github.io/data/goodreads",
        files=(SourceFile(name=REVIEWS), SourceFile(name=BOOKS), SourceFile(name=AUTHORS, optional=True)),
        presets={"reference": {"min_examples": 20}},
        content_warning="Unfiltered reviews; some tell the plot.",
        verified="format",
    )

    def rows(self, raw: Path, min_examples: int = 20) -> Iterator[Row | LeftOut]:
        """Yields every kept review in file order."""
        given = Counter(review["user_id"] for review in read_json_lines(raw / REVIEWS))
        few = [number for number in given.values() if number < min_examples]
        yield LeftOut(f"reviews by readers with fewer than {min_examples}", sum(few))
        yield LeftOut(f"users with fewer than {min_examples} examples", len(few))
        texts = _descriptions(raw)
        seen: set[tuple[str, str]] = set()
        for review in read_json_lines(raw / REVIEWS):
            if given[review["user_id"]] >= min_examples:
                yield _row(review, texts, seen)


def _row(review: dict[str, Any], texts: dict[str, str], seen: set[tuple[str, str]]) -> Row | LeftOut:
    user, book = review["user_id"], review["book_id"]
    words = re.sub(r"\(view spoiler\)\[|\(hide spoiler\)\]", "", review["review_text"]).strip()
    if book not in texts:
        return LeftOut("reviews of books without a description")
    if not words:
        return LeftOut("reviews without a text")
    if (user, book) in seen:
        return LeftOut("reviews by a reader of a book reviewed before")
    seen.add((user, book))
    time = datetime.strptime(review["date_added"], "%a %b %d %H:%M:%S %z %Y").timestamp()
    return Row(user, book, texts[book], (words,), time=time, meta=meta(rating=review["rating"]))


def _descriptions(raw: Path) -> dict[str, str]:
    """Returns title, authors and description of each book that has one."""
    names = {}
    if (raw / AUTHORS).is_file():
        names = {author["author_id"]: author["name"] for author in read_json_lines(raw / AUTHORS)}
    texts = {}
    for book in read_json_lines(raw / BOOKS):
        about = book["description"].strip()
        writers = [names[author["author_id"]] for author in book["authors"] if author["author_id"] in names]
        if about:
            by = f" by {', '.join(writers)}" if writers else ""
            texts[book["book_id"]] = f'"{book["title"]}"{by}\n\n{about}'
    return texts
