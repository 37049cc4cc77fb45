"""Hate, offence or neither: posts with three judgements each."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from peftu.data.reading import meta, once, read_json
from peftu.data.task import LeftOut, Row, SourceFile, TaskCard

PUBLISHED = "https://raw.githubusercontent.com/hate-alert/HateXplain/master/Data"
DIVISIONS = "post_id_divisions.json"


class HateXplain:
    """HateXplain's judgements, one by one."""

    card: ClassVar[TaskCard] = TaskCard(
        name="hatexplain",
        version="1",
        title="Hateful, offensive or normal (HateXplain)",
        description=(
            "About 20,000 posts from Twitter and Gab, three judgements each. Texts are the publisher's tokens joined "
            "by spaces, names and numbers masked. The publisher's own parts stand in meta as 'split'. A user's second "
            "judgement of a post is left out and counted. Checked on the validation and test posts."
        ),
        user="A crowd worker on Amazon Mechanical Turk.",
        kind="single",
        labels=("hatespeech", "normal", "offensive"),
        words=("hateful", "normal", "offensive"),
        instruction="Is this post hateful, offensive but not hateful, or normal? Answer hateful, offensive or normal.",
        main_metric="accuracy",
        language="en",
        licence="MIT",
        citation=(
            "Binny Mathew, Punyajoy Saha, Seid Muhie Yimam, Chris Biemann, Pawan Goyal, Animesh Mukherjee (2021). "
            "HateXplain: A Benchmark Dataset for Explainable Hate Speech Detection. AAAI 2021. arXiv 2012.10289."
        ),
        homepage="https://github.com/hate-alert/HateXplain",
        files=(
            SourceFile(name="dataset.json", url=f"{PUBLISHED}/dataset.json"),
            SourceFile(name=DIVISIONS, url=f"{PUBLISHED}/{DIVISIONS}", optional=True),
        ),
        presets={"reference": {}},
        content_warning="Slurs and hate against many groups.",
    )

    def rows(self, raw: Path) -> Iterator[Row | LeftOut]:
        """Yields post by post what each annotator said."""
        yield from once(self._all(raw))

    def _all(self, raw: Path) -> Iterator[Row]:
        divisions = read_json(raw / DIVISIONS) if (raw / DIVISIONS).is_file() else {}
        part = {post: name for name, posts in divisions.items() for post in posts}
        for post, value in read_json(raw / "dataset.json").items():
            for vote in value["annotators"]:
                text = " ".join(value["post_tokens"])
                yield Row(str(vote["annotator_id"]), post, text, (vote["label"],), meta=meta(split=part.get(post)))
