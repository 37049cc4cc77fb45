"""Funny or not: single words and short phrases."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from peftu.data.reading import once, read_json
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard


class Cockamamie:
    """The word ratings of 'Cockamamie Gobbledegook for Nincompoops'."""

    card: ClassVar[TaskCard] = TaskCard(
        name="cockamamie",
        version="1",
        title="Funny words (Cockamamie Gobbledegook)",
        description=(
            "Words and phrases of the English language. It was a forced choice: of six words on the screen a worker "
            "marked the funniest, so about one answer in six is yes and 'no' alone scores about 83 %; an item differs "
            "between users by what else was on the screen, too. Checked on one of the study's three stages."
        ),
        user="A crowd worker on Amazon Mechanical Turk.",
        kind="single",
        labels=("no", "yes"),
        words=("no", "yes"),
        instruction="Is this word or phrase funny? Answer yes or no.",
        main_metric="accuracy",
        language="en",
        licence="not stated",
        citation=(
            "Limor Gultchin, Genevieve Patterson, Nancy Baym, Nathaniel Swinger, Adam Tauman Kalai (2019). Humor in "
            "Word Embeddings: Cockamamie Gobbledegook for Nincompoops. ICML 2019. arXiv 1902.02783."
        ),
        homepage="https://github.com/limorigu/Cockamamie-Gobbledegook",
        files=(SourceFile(name="cockamamie.json"),),
        presets={"reference": {}},
        content_warning="Some words are offensive.",
    )

    def rows(self, raw: Path) -> Iterator[Row | LeftOut]:
        """Yields word by word who found it funny and who did not."""
        yield from once(
            Row(user, word, word, (label,))
            for votes in read_json(raw / "cockamamie.json")["word_ratings"]["votes"]
            for word, ballot in votes.items()
            for label in ("no", "yes")
            for user in ballot[f"{label}_votes"]
        )
