"""Ironic or not, in nine languages: the third LeWiDi shared task's MultiPICo, with its published parts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from peftu.data.reading import meta, read_json
from peftu.data.task import Row, SourceFile, TaskCard

PARTS = {"train": "train", "dev": "val", "test": "test"}
LABELS = {"1": "Ironic", "0": "Non-ironic"}
META = "MP_annotators_meta.json"
ABOUT = {"Age": "age", "Gender": "gender", "Nationality": "nationality"}
SUMS = {
    "train": ("01f273c87ddef59487df7fbf10fa6c85f6eeb420816de64de9ed8829dcf6b873", 12002494),
    "dev": ("d7211f326ba495dc83dee81be315b4aa0c92ab445dc2606e9b4908ce5313138b", 2987307),
    "test": ("da313236d8b6b1cb056c3965751d56c33fffd3d635f53546a924948246ed0ad6", 3173281),
}


class MultiPico:
    """MultiPICo as LeWiDi-2025 publishes it (data set MP)."""

    card: ClassVar[TaskCard] = TaskCard(
        name="multipico",
        version="1",
        title="Irony in nine languages (MultiPICo, LeWiDi-2025)",
        description=(
            "Posts and replies from Twitter and Reddit in Arabic, Dutch, English, French, German, Hindi, Italian, "
            "Portuguese and Spanish; annotators say whether the reply is ironic. The published parts stand in meta as "
            "'split' (dev is 'val'): --regime published gives figures to compare with the shared task's. EPIC is the "
            "English part (language=en): never train on one and test on the other. Beyond PEFT-U."
        ),
        user="A crowd annotator, native in the language.",
        kind="single",
        labels=("Ironic", "Non-ironic"),
        words=("yes", "no"),
        instruction="Is the reply to this message ironic? Answer yes or no.",
        main_metric="accuracy",
        language="ar, de, en, es, fr, hi, it, nl, pt",
        licence="CC-BY-4.0",
        citation=(
            "Silvia Casola, Simona Frenda, Soda Marem Lo, Erhan Sezerer, Antonio Uva, Valerio Basile, Cristina Bosco, "
            "Alessandro Pedrani, Chiara Rubagotti, Viviana Patti, Davide Bernardi (2024). MultiPICo: Multilingual "
            "Perspectivist Irony Corpus. ACL 2024. Parts: Elisa Leonardelli, Silvia Casola, Siyao Peng, Giulia Rizzi, "
            "et al. (2025). LeWiDi-2025 at NLPerspectives: The Third Edition of the Learning with Disagreements Shared "
            "Task. NLPerspectives 2025. arXiv 2510.08460."
        ),
        homepage="https://le-wi-di.github.io/",
        files=(
            *(SourceFile(name=f"MP_{part}.json", sha256=SUMS[part][0], bytes=SUMS[part][1]) for part in PARTS),
            SourceFile(
                name=META,
                sha256="8b0e310e21246884847f36d0e5c54de22e6031c11fd7e5e2447cdd884619ea3e",
                bytes=156760,
                optional=True,
            ),
        ),
        content_warning="Unfiltered posts; some are crude.",
    )

    def rows(
        self,
        raw: Path,
        language: Literal["all", "ar", "de", "en", "es", "fr", "hi", "it", "nl", "pt"] = "all",
    ) -> Iterator[Row]:
        """Yields item by item what each annotator said: training part, then validation, then test."""
        people = read_json(raw / META) if (raw / META).is_file() else {}
        known = {f"Ann{key}": _known(person) for key, person in people.items()}
        for part, split in PARTS.items():
            for item, value in read_json(raw / f"MP_{part}.json").items():
                if language not in ("all", value["lang"]):
                    continue
                about = {"split": split, "language": value["lang"], **value["other_info"]}
                post, reply = value["text"]["post"], value["text"]["reply"]
                for user, label in value["annotations"].items():
                    target = (LABELS.get(label, label),)
                    yield Row(user, item, reply, target, post, meta=meta(**about, **known.get(user, {})))


def _known(person: dict[str, Any]) -> dict[str, Any]:
    return {short: person[name] for name, short in ABOUT.items() if person[name] != "DATA_EXPIRED"}
