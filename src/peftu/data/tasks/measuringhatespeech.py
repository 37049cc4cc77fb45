"""Hate speech, unclear or not: comments judged by thousands of crowd workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from peftu.data.reading import meta, once, read_parquet
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard

FILE = "measuring-hate-speech.parquet"
ABOUT = ("annotator_gender", "annotator_age", "annotator_ideology")


class MeasuringHateSpeech:
    """The hate-speech item of the Measuring Hate Speech corpus."""

    card: ClassVar[TaskCard] = TaskCard(
        name="measuringhatespeech",
        version="1",
        title="Hate speech on a three-step scale (Measuring Hate Speech)",
        description=(
            "39,565 comments from YouTube, Twitter and Reddit in 135,556 judgements; of the survey's ten items this is "
            "the last, 'does this contain hate speech': 0 no, 1 unclear, 2 yes. PEFT-U treats the steps as unordered "
            "classes. Where a user judged a comment twice, the first judgement is kept and the other counted; the "
            "benchmark keeps the last (option repeated=last)."
        ),
        user="A crowd worker on Amazon Mechanical Turk in the United States.",
        kind="ordinal",
        labels=("0", "1", "2"),
        words=("0", "1", "2"),
        instruction="Does this comment contain hate speech? Answer 0 for no, 1 for unclear or 2 for yes.",
        main_metric="accuracy",
        language="en",
        licence="CC-BY-4.0",
        citation=(
            "Chris J. Kennedy, Geoff Bacon, Alexander Sahn, Claudia von Vacano (2020). Constructing interval variables "
            "via faceted Rasch measurement and multitask deep learning: a hate speech application. arXiv 2009.10277."
        ),
        homepage="https://huggingface.co/datasets/ucberkeley-dlab/measuring-hate-speech",
        files=(
            SourceFile(
                name=FILE,
                url=f"https://huggingface.co/datasets/ucberkeley-dlab/measuring-hate-speech/resolve/main/{FILE}",
            ),
        ),
        presets={"reference": {"repeated": "last"}},
        content_warning="Slurs, hate and calls for violence against many groups.",
        verified="format",
    )

    def rows(self, raw: Path, repeated: Literal["first", "last"] = "first") -> Iterator[Row | LeftOut]:
        """Yields every judgement in file order."""
        yield from once(self._all(raw), repeated)

    def _all(self, raw: Path) -> Iterator[Row | LeftOut]:
        columns = ("annotator_id", "comment_id", "text", "hatespeech", *ABOUT)
        for user, comment, text, step, *about in read_parquet(raw / FILE, columns):
            if step is None:
                yield LeftOut("judgements without an answer")
                continue
            known = {name.removeprefix("annotator_"): value for name, value in zip(ABOUT, about, strict=True)}
            yield Row(str(user), str(comment), text, (f"{step:g}",), meta=meta(**known))
