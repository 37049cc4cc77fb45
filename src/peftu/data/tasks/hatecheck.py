"""Hateful or not: sentences made from templates, on which people mostly agree."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from peftu.data.reading import meta, read_csv
from peftu.data.task import Row, SourceFile, TaskCard

FILE = "all_annotations.csv"
ANNOTATORS = tuple(f"label_{number}" for number in range(1, 11))


class HateCheck:
    """The annotations behind HateCheck's functional tests."""

    card: ClassVar[TaskCard] = TaskCard(
        name="hatecheck",
        version="1",
        title="Hateful test sentences (HateCheck)",
        description=(
            "3,901 sentences, most of them from templates, that test what hate-speech models can do; five of ten "
            "annotators judged each. They agree nearly always, so this is a control: a personal module has nothing to "
            "gain here. Beyond PEFT-U."
        ),
        user="One of ten trained annotators.",
        kind="single",
        labels=("hateful", "non-hateful"),
        words=("yes", "no"),
        instruction="Is this text hateful? Answer yes or no.",
        main_metric="accuracy",
        language="en",
        licence="CC-BY-4.0",
        citation=(
            "Paul Röttger, Bertie Vidgen, Dong Nguyen, Zeerak Waseem, Helen Margetts, Janet Pierrehumbert (2021). "
            "HateCheck: Functional Tests for Hate Speech Detection Models. ACL 2021. arXiv 2012.15606."
        ),
        homepage="https://github.com/paul-rottger/hatecheck-data",
        files=(
            SourceFile(
                name=FILE,
                url=f"https://raw.githubusercontent.com/paul-rottger/hatecheck-data/HEAD/{FILE}",
                sha256="080b5a57327829a4ea27219a22acc7b6eee8f3af1074424e49e116225d53264f",
                bytes=591987,
            ),
        ),
        content_warning="Hate against many groups, made up for testing.",
    )

    def rows(self, raw: Path) -> Iterator[Row]:
        """Yields sentence by sentence what its five annotators said."""
        for cells in read_csv(raw / FILE, ("case_id", "test_case", "functionality", *ANNOTATORS)):
            about = meta(functionality=cells["functionality"])
            for column in ANNOTATORS:
                if cells[column]:
                    user, target = column.removeprefix("label_"), (cells[column],)
                    yield Row(user, cells["case_id"], cells["test_case"], target, meta=about)
