"""Emotions in Reddit comments: one or several of six, or of 27, or none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from peftu.data.reading import once, read_csv
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard

PUBLISHED = "https://storage.googleapis.com/gresearch/goemotions/data/full_dataset"
EKMAN = {
    "anger": ("anger", "annoyance", "disapproval"),
    "disgust": ("disgust",),
    "fear": ("fear", "nervousness"),
    "joy": (
        *("joy", "amusement", "approval", "excitement", "gratitude", "love", "optimism", "relief"),
        *("pride", "admiration", "desire", "caring"),
    ),
    "sadness": ("sadness", "disappointment", "embarrassment", "grief", "remorse"),
    "surprise": ("surprise", "realization", "confusion", "curiosity"),
}
FINE = tuple(sorted(emotion for emotions in EKMAN.values() for emotion in emotions))
UNCLEAR = "judgements that the comment is very unclear, which name no emotion"
NEUTRAL = "judgements that the comment is neutral"


class GoEmotions:
    """GoEmotions, rater by rater."""

    card: ClassVar[TaskCard] = TaskCard(
        name="goemotions",
        version="1",
        title="Emotions in Reddit comments (GoEmotions)",
        description=(
            "58,000 Reddit comments, three to five raters each, 27 emotions or 'neutral'. By default the 27 are mapped "
            "to Ekman's six by the publisher's table and 'neutral' stays a label; emotions=all keeps the 27. PEFT-U "
            "drops neutral judgements (neutral=drop), which selects rows by what is to be predicted. Judgements that a "
            "comment is very unclear name no emotion: they are left out and counted, or a label of their own with "
            "unclear=keep. Checked on the first part of the first file."
        ),
        user="One of 82 paid raters in India, native speakers of English.",
        kind="multi",
        labels=(*EKMAN, "neutral"),
        instruction="Which emotions does the writer of this comment show? Name one or more.",
        main_metric="jaccard",
        language="en",
        licence="Apache-2.0",
        citation=(
            "Dorottya Demszky, Dana Movshovitz-Attias, Jeongwoo Ko, Alan Cowen, Gaurav Nemade, Sujith Ravi (2020). "
            "GoEmotions: A Dataset of Fine-Grained Emotions. ACL 2020. arXiv 2005.00547."
        ),
        homepage="https://github.com/google-research/google-research/tree/master/goemotions",
        files=tuple(
            SourceFile(name=name, url=f"{PUBLISHED}/{name}", optional=number > 1)
            for number, name in ((number, f"goemotions_{number}.csv") for number in (1, 2, 3))
        ),
        presets={"reference": {"emotions": "ekman", "neutral": "drop", "unclear": "drop"}},
        content_warning="Unfiltered comments; some are crude or hateful.",
    )

    @classmethod
    def variant(cls, emotions: str, neutral: str, unclear: str) -> TaskCard:
        """Returns the card with the labels that these options leave."""
        more = [label for label, option in (("neutral", neutral), ("unclear", unclear)) if option == "keep"]
        return cls.card.model_copy(update={"labels": (*(EKMAN if emotions == "ekman" else FINE), *more)})

    def rows(
        self,
        raw: Path,
        emotions: Literal["ekman", "all"] = "ekman",
        neutral: Literal["keep", "drop"] = "keep",
        unclear: Literal["keep", "drop"] = "drop",
    ) -> Iterator[Row | LeftOut]:
        """Yields every judgement in file order."""
        coarse = {fine: ekman for ekman, group in EKMAN.items() for fine in group}
        name_of = coarse if emotions == "ekman" else {fine: fine for fine in FINE}
        rows = (self._row(cells, name_of, neutral, unclear) for cells in _cells(raw))
        yield from once(rows)

    @staticmethod
    def _row(cells: dict[str, str], name_of: dict[str, str], neutral: str, unclear: str) -> Row | LeftOut:
        target: dict[str, Any] = {name_of[fine]: None for fine in FINE if cells[fine] == "1"}
        if cells["neutral"] == "1":
            if neutral == "drop":
                return LeftOut(NEUTRAL)
            target["neutral"] = None
        if not target and unclear == "drop":
            return LeftOut(UNCLEAR)
        return Row(cells["rater_id"], cells["id"], cells["text"], tuple(target) or ("unclear",))


def _cells(raw: Path) -> Iterator[dict[str, str]]:
    for file in GoEmotions.card.files:
        if (raw / file.name).is_file():
            yield from read_csv(raw / file.name, ("text", "id", "rater_id", *FINE, "neutral"))
