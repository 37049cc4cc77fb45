"""Hate-based rhetoric or not: posts from Gab, judged by trained annotators."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from peftu.data.reading import once, read_csv
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard

FILE = "GabHateCorpus_annotations.tsv"
LABELS = {"1": "Hateful", "0": "Non-hateful"}


class GabHate:
    """The Gab Hate Corpus, judgement by judgement."""

    card: ClassVar[TaskCard] = TaskCard(
        name="gabhate",
        version="1",
        title="Hateful posts on Gab (Gab Hate Corpus)",
        description=(
            "27,665 posts from gab.com, each judged by three annotators or more for hate-based rhetoric: assaults on "
            "human dignity or calls for violence. Where an annotator judged a post twice, the first judgement is kept "
            "and the other counted; the benchmark keeps the last (option repeated=last)."
        ),
        user="One of 18 annotators, trained on a codebook.",
        kind="single",
        labels=("Hateful", "Non-hateful"),
        words=("yes", "no"),
        instruction="Does this post contain hate speech? Answer yes or no.",
        main_metric="accuracy",
        language="en",
        licence="CC-BY-4.0",
        citation=(
            "Brendan Kennedy, Mohammad Atari, Aida Mostafazadeh Davani, Leigh Yeh, Ali Omrani, Yehsong Kim, et al. "
            "(2022). Introducing the Gab Hate Corpus: defining and applying hate-based rhetoric to social media posts "
            "at scale. Language Resources and Evaluation 56. doi 10.1007/s10579-021-09569-x."
        ),
        homepage="https://osf.io/edua3/",
        files=(SourceFile(name=FILE),),
        presets={"reference": {"repeated": "last"}},
        content_warning="Slurs, hate and calls for violence against many groups.",
        verified="format",
    )

    def rows(self, raw: Path, repeated: Literal["first", "last"] = "first") -> Iterator[Row | LeftOut]:
        """Yields every judgement in file order."""
        cells = read_csv(raw / FILE, ("ID", "Annotator", "Text", "Hate"), "\t")
        yield from once(
            (Row(row["Annotator"], row["ID"], row["Text"], (LABELS.get(row["Hate"], row["Hate"]),)) for row in cells),
            repeated,
        )
