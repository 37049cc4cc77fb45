"""Aggressive or not: comments from Wikipedia's talk pages."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from peftu.data.reading import once, read_csv
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard

COMMENTS = "aggression_annotated_comments.tsv"
JUDGEMENTS = "aggression_annotations.tsv"
LABELS = {"1": "Aggressive", "0": "Normal"}


class WikiDetox:
    """Wikipedia Talk Labels: Aggression."""

    card: ClassVar[TaskCard] = TaskCard(
        name="wikidetox",
        version="1",
        title="Aggressive comments on Wikipedia (Wikipedia Talk Labels)",
        description=(
            "Some 116,000 comments from talk pages of the English Wikipedia, about ten judgements each; below 0 on the "
            "publisher's scale of friendliness counts as aggressive. NEWLINE_TOKEN and TAB_TOKEN become white space. "
            "All but the first judgement of a user on a comment are left out and counted."
        ),
        user="A crowd worker on Crowdflower.",
        kind="single",
        labels=("Aggressive", "Normal"),
        words=("yes", "no"),
        instruction="Is this comment aggressive? Answer yes or no.",
        main_metric="accuracy",
        language="en",
        licence="CC0-1.0 (annotations), CC-BY-SA-3.0 (comments)",
        citation=(
            "Ellery Wulczyn, Nithum Thain, Lucas Dixon (2017). Ex Machina: Personal Attacks Seen at Scale. WWW 2017. "
            "doi 10.1145/3038912.3052591. Data: doi 10.6084/m9.figshare.4267550."
        ),
        homepage="https://doi.org/10.6084/m9.figshare.4267550",
        files=(SourceFile(name=COMMENTS), SourceFile(name=JUDGEMENTS)),
        presets={"reference": {}},
        content_warning="Insults, slurs and threats.",
        verified="format",
    )

    def rows(self, raw: Path) -> Iterator[Row | LeftOut]:
        """Yields every judgement in file order."""
        yield from once(self._all(raw))

    def _all(self, raw: Path) -> Iterator[Row | LeftOut]:
        texts = {
            cells["rev_id"].removesuffix(".0"): _plain(cells["comment"])
            for cells in read_csv(raw / COMMENTS, ("rev_id", "comment"), "\t")
        }
        for cells in read_csv(raw / JUDGEMENTS, ("rev_id", "worker_id", "aggression"), "\t"):
            item, answer = cells["rev_id"].removesuffix(".0"), cells["aggression"].removesuffix(".0")
            if texts.get(item):
                yield Row(cells["worker_id"].removesuffix(".0"), item, texts[item], (LABELS.get(answer, answer),))
            else:
                yield LeftOut("judgements of comments without a text")


def _plain(comment: str) -> str:
    return comment.replace("NEWLINE_TOKEN", "\n").replace("TAB_TOKEN", " ").strip()
