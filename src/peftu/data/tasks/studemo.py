"""Emotions that consumer reviews stir: 25 students, intensities of eight emotions, valence and arousal."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from peftu.data.reading import read_csv
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard

PLUTCHIK = ("joy", "trust", "anticipation", "surprise", "fear", "sadness", "disgust", "anger")
DIMENSIONS = ("valence", "arousal")


class StudEmo:
    """StudEmo, with intensities turned into labels."""

    card: ClassVar[TaskCard] = TaskCard(
        name="studemo",
        version="1",
        title="Emotions stirred by reviews (StudEmo)",
        description=(
            "5,182 consumer reviews, translated from Polish; students gave each of eight emotions an intensity from 0 "
            "to 3. An emotion of intensity 1 or more is a label (threshold=), and 'none' says that there is no such "
            "emotion. PEFT-U also makes labels of valence and arousal, which are scales and no emotions (a valence of "
            "-2 becomes no label), and drops rows without a label: emotions=all, none=drop."
        ),
        user="One of 25 students.",
        kind="multi",
        labels=(*PLUTCHIK, "none"),
        instruction="Which emotions does this review stir in the reader? Name one or more, or none.",
        main_metric="jaccard",
        language="en (translated from pl)",
        licence="not stated",
        citation=(
            "Anh Ngo, Agri Candri, Teddy Ferdinan, Jan Kocoń, Wojciech Korczyński (2022). StudEmo: A Non-aggregated "
            "Review Dataset for Personalized Emotion Recognition. NLPerspectives 2022."
        ),
        homepage="https://aclanthology.org/2022.nlperspectives-1.7/",
        files=(
            SourceFile(
                name="annotation_data.csv",
                sha256="41ea03cdb09839c1c3f643a02fb3419abbcea71d5b49fefcbe19d663ec52a828",
                bytes=365191,
            ),
            SourceFile(
                name="text_data.csv",
                sha256="1edd45a0b43c94a44519d85948310c163a541f4e661736143e9fb31c173369e1",
                bytes=4054674,
            ),
        ),
        presets={"reference": {"emotions": "all", "none": "drop", "threshold": 1}},
    )

    @classmethod
    def variant(cls, emotions: str, none: str, threshold: int) -> TaskCard:
        """Returns the card with the labels that these options leave."""
        labels = (*PLUTCHIK, *(DIMENSIONS if emotions == "all" else ()), *(("none",) if none == "keep" else ()))
        return cls.card.model_copy(update={"labels": labels})

    def rows(
        self,
        raw: Path,
        emotions: Literal["plutchik", "all"] = "plutchik",
        none: Literal["keep", "drop"] = "keep",
        threshold: Literal[1, 2, 3] = 1,
    ) -> Iterator[Row | LeftOut]:
        """Yields every judgement in file order."""
        texts = {cells["text_id"]: cells["text"] for cells in read_csv(raw / "text_data.csv", ("text_id", "text"))}
        names = PLUTCHIK + DIMENSIONS if emotions == "all" else PLUTCHIK
        for cells in read_csv(raw / "annotation_data.csv", ("text_id", "annotator_id", *names)):
            item, target = cells["text_id"], tuple(name for name in names if float(cells[name]) >= threshold)
            if item not in texts:
                yield LeftOut("judgements of reviews without a text")
            elif target or none == "keep":
                yield Row(cells["annotator_id"], item, texts[item], target or ("none",))
            else:
                yield LeftOut("judgements without an emotion")
