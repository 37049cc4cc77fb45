"""Hateful or not: 200 tweets, each judged by twenty people; three groups under three annotation instructions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from peftu.data.reading import read_csv
from peftu.data.task import Row, SourceFile, TaskCard

PUBLISHED = (
    "https://raw.githubusercontent.com/paul-rottger/annotation-paradigms/be8085613625a2ffa41ce788c46e2752bfe4c320"
)


def _file(group: str, sha256: str, size: int) -> SourceFile:
    name = f"annotations_{group}.csv"
    url = f"{PUBLISHED}/0_data/{name}"
    return SourceFile(name=name, url=url, sha256=sha256, bytes=size, option=f"group={group}")


class TweetEval:
    """The annotations of Röttger et al. (2022); group g3, asked for no definition, is the benchmark's."""

    card: ClassVar[TaskCard] = TaskCard(
        name="tweeteval",
        version="1",
        title="Hateful tweets under two annotation paradigms",
        description=(
            "200 tweets from Davidson et al. (2017), each labelled by all twenty annotators of a group: g1 with a "
            "detailed prescriptive guideline, g2 with a prescriptive definition only, g3 encouraged to follow their "
            "own view. PEFT-U calls group g3 'tweeteval' though the tweets are not of the TweetEval benchmark."
        ),
        user="A crowd annotator who labelled all 200 tweets.",
        kind="single",
        labels=("Hateful", "Non-hateful"),
        words=("yes", "no"),
        instruction="Is this post hateful? Answer yes or no.",
        main_metric="accuracy",
        language="en",
        licence="CC0-1.0",
        citation=(
            "Paul Röttger, Bertie Vidgen, Dirk Hovy, Janet Pierrehumbert (2022). Two Contrasting Data Annotation "
            "Paradigms for Subjective NLP Tasks. NAACL 2022. arXiv 2112.07475."
        ),
        homepage="https://github.com/paul-rottger/annotation-paradigms",
        files=(
            _file("g1", "4e53afd7edd1105bc69fc778fd98cb848032b1e0ea7760d35694bf44c63797de", 52280),
            _file("g2", "a73129ae17dbd9148bf4fd39c939d1ccd57d8f61c427e9e8dfe42f6f983d2077", 53796),
            _file("g3", "9e2a8578adb1446154aef2f5ea7c60702a97992369faa48aa06dd8b8045e7915", 52264),
        ),
        presets={"reference": {"group": "g3"}},
        content_warning="Slurs and hate against many groups.",
    )

    def rows(self, raw: Path, group: Literal["g1", "g2", "g3"] = "g3") -> Iterator[Row]:
        """Yields tweet by tweet what each annotator of the group said."""
        for cells in read_csv(raw / f"annotations_{group}.csv", ("id", "text")):
            for column, label in cells.items():
                if column.startswith("label_"):
                    user = column.removeprefix("label_")  # such as M_1, in g1 1_M
                    meta = json.dumps({"gender": "female" if "F" in user else "male"})
                    user = f"{group}-{user}"
                    yield Row(user, cells["id"], cells["text"], (label,), meta=meta)
