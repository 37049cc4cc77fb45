"""Ironic or not: replies to posts, judged by annotators from five English-speaking countries."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from peftu.data.reading import read_csv
from peftu.data.task import Row, SourceFile, TaskCard

LABELS = {"iro": "Ironic", "not": "Non-ironic"}
COLUMNS = ("user", "id_original", "label", "parent_text", "text")


class Epic:
    """EPIC, the English Perspectivist Irony Corpus."""

    card: ClassVar[TaskCard] = TaskCard(
        name="epic",
        version="1",
        title="Irony in short conversations (EPIC)",
        description=(
            "Posts and replies from Twitter and Reddit in five varieties of English; annotators of those five "
            "countries say whether the reply is ironic, given the post. MultiPICo's English part holds the same "
            "judgements (this reader was checked on it, in EPIC's columns: 14,171 judgements, all different, are "
            "191.50 a user; the benchmark's 191.51 are one more): never train on one and test on the other."
        ),
        user="A crowd annotator from Australia, India, Ireland, the United Kingdom or the United States.",
        kind="single",
        labels=("Ironic", "Non-ironic"),
        words=("yes", "no"),
        instruction="Is the reply to this message ironic? Answer yes or no.",
        main_metric="accuracy",
        language="en",
        licence="CC-BY-NC-SA-4.0",
        citation=(
            "Simona Frenda, Alessandro Pedrani, Valerio Basile, Soda Marem Lo, Alessandra Teresa Cignarella, Raffaella "
            "Panizzon, Cristina Marco, Bianca Scarlini, Viviana Patti, Cristina Bosco, Davide Bernardi (2023). EPIC: "
            "Multi-Perspective Annotation of a Corpus of Irony. ACL 2023."
        ),
        homepage="https://huggingface.co/datasets/Multilingual-Perspectivist-NLU/EPIC",
        files=(
            SourceFile(
                name="EPICorpus.csv",
                url="https://huggingface.co/datasets/Multilingual-Perspectivist-NLU/EPIC/resolve/main/EPICorpus.csv",
            ),
        ),
        presets={"reference": {}},
        content_warning="Unfiltered posts; some are crude.",
    )

    def rows(self, raw: Path) -> Iterator[Row]:
        """Yields every judgement in file order."""
        for cells in read_csv(raw / "EPICorpus.csv", COLUMNS):
            meta = json.dumps({key: cells[key] for key in ("source", "language_variety") if key in cells})
            label = LABELS.get(cells["label"], cells["label"])
            yield Row(cells["user"], cells["id_original"], cells["text"], (label,), cells["parent_text"], meta=meta)
