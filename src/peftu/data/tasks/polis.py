"""Agree, disagree or pass: what people vote on one another's statements in a Polis conversation."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from peftu.data.reading import read_csv
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard

VOTES = {"1": "agree", "-1": "disagree", "0": "pass"}
DOWN = "-1"


class Polis:
    """One conversation of the Polis open data: a folder with comments.csv and participants-votes.csv."""

    card: ClassVar[TaskCard] = TaskCard(
        name="polis",
        version="1",
        title="Votes on statements (a Polis conversation)",
        description=(
            "Statements that participants of a public consultation wrote, and how others voted. Any conversation of "
            "the open data will do: pass its folder with --raw. Votes on statements that the moderators turned down "
            "are left out and counted; moderated=keep keeps them. Many people vote a few times only; "
            "min_examples=50 keeps the busy ones. Beyond PEFT-U."
        ),
        user="A participant of the conversation.",
        kind="single",
        labels=("agree", "disagree", "pass"),
        words=("agree", "disagree", "pass"),
        instruction="Does this participant agree with the statement? Answer agree, disagree or pass.",
        main_metric="accuracy",
        language="as in the conversation",
        licence="CC-BY-4.0, credit 'The Computational Democracy Project'",
        citation=(
            "The Computational Democracy Project, openData. Christopher Small, Michael Bjorkegren, Timo Erkkilä, "
            "Lynette Shaw, Colin Megill (2021). Polis: Scaling Deliberation by Mapping High Dimensional Opinion "
            "Spaces. Recerca 26(2)."
        ),
        homepage="https://github.com/compdemocracy/openData",
        files=(SourceFile(name="comments.csv"), SourceFile(name="participants-votes.csv")),
        content_warning="Unfiltered statements by the public.",
    )

    def rows(self, raw: Path, moderated: Literal["drop", "keep"] = "drop") -> Iterator[Row | LeftOut]:
        """Yields participant by participant the votes in the order of the columns."""
        texts, turned_down = {}, set()
        for cells in read_csv(raw / "comments.csv", ("comment-id", "moderated", "comment-body")):
            texts[cells["comment-id"]] = cells["comment-body"]
            if cells["moderated"] == DOWN and moderated == "drop":
                turned_down.add(cells["comment-id"])
        left = {"votes on statements that the moderators turned down": 0, "votes on statements without a text": 0}
        down, textless = left
        for cells in read_csv(raw / "participants-votes.csv", ("participant",)):
            for item, vote in cells.items():
                if not vote or not item.isdigit():
                    continue
                if item in turned_down:
                    left[down] += 1
                elif not texts.get(item, "").strip():
                    left[textless] += 1
                else:
                    yield Row(cells["participant"], item, texts[item], (VOTES.get(vote, vote),))
        yield from (LeftOut(what, number) for what, number in left.items())
