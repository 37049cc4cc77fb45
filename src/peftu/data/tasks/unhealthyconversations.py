"""Healthy or not: comments on news articles and whether they have a place in a good discussion."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from peftu.data.reading import once, read_csv
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard

FILE = "unhealthy_full.csv"
LABELS = {"1": "healthy", "0": "unhealthy"}
COLUMNS = ("_unit_id", "comment", "_worker_id", "healthy")


class UnhealthyConversations:
    """The Unhealthy Comments Corpus, judgement by judgement."""

    card: ClassVar[TaskCard] = TaskCard(
        name="unhealthyconversations",
        version="1",
        title="Comments that have a place in a healthy conversation (UCC)",
        description=(
            "Some 44,000 comments on articles of the Globe and Mail; each judgement says whether the comment belongs "
            "in a healthy conversation. All judgements are read, whatever trust the platform gave the worker. "
            "Judgements without an answer, and all but the first of a user on a comment, are left out and counted."
        ),
        user="A crowd worker on Figure Eight.",
        kind="single",
        labels=("healthy", "unhealthy"),
        words=("yes", "no"),
        instruction="Does this comment have a place in a healthy online conversation? Answer yes or no.",
        main_metric="accuracy",
        language="en",
        licence="CC-BY-NC-SA-4.0 or CC-BY-SA-4.0: the publisher's readme has named both",
        citation=(
            "Ilan Price, Jordan Gifford-Moore, Jory Flemming, Saul Musker, Maayan Roichman, Guillaume Sylvain, Nithum "
            "Thain, Lucas Dixon, Jeffrey Sorensen (2020). Six Attributes of Unhealthy Conversations. Workshop on "
            "Online Abuse and Harms 2020. arXiv 2010.07410."
        ),
        homepage="https://github.com/conversationai/unhealthy-conversations",
        files=(
            SourceFile(
                name=FILE, url=f"https://raw.githubusercontent.com/conversationai/unhealthy-conversations/main/{FILE}"
            ),
        ),
        presets={"reference": {}},
        content_warning="Insults and hostile comments.",
        verified="format",
    )

    def rows(self, raw: Path) -> Iterator[Row | LeftOut]:
        """Yields every judgement in file order."""
        yield from once(self._all(raw))

    def _all(self, raw: Path) -> Iterator[Row | LeftOut]:
        for cells in read_csv(raw / FILE, COLUMNS):
            answer = cells["healthy"].removesuffix(".0")
            if answer:
                yield Row(cells["_worker_id"], cells["_unit_id"], cells["comment"], (LABELS.get(answer, answer),))
            else:
                yield LeftOut("judgements without an answer")
