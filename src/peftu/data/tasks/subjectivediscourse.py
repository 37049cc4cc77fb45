"""Three questions on witnesses before Congress: what the reply does, and how annotators feel about either side."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from peftu.data.reading import literal, read_csv_in_tar
from peftu.data.task import Row, SourceFile, TaskCard
from peftu.errors import PeftuError

ARCHIVE = "gold_full_data.tar.gz"
MEMBER = "with_features_annotated_questions_responses_gold.tsv"
TEXTS = ("q_speaker_detail", "q_text", "r_speaker_detail", "r_text")
STEPS = {
    "veryNegative": "very-negative",
    "negative": "negative",
    "somewhatNegative": "somewhat-negative",
    "neutral": "neutral",
    "somewhatPositive": "somewhat-positive",
    "positive": "positive",
    "veryPositive": "very-positive",
}
SCALE = "Answer with a number from 1 (very negative) through 4 (neutral) to 7 (very positive)."


def _card(name: str, title: str, instruction: str, **more: Any) -> TaskCard:
    return TaskCard(
        name=f"subjectivediscourse-{name}",
        version="1",
        title=title,
        description=(
            "1,000 questions and replies from hearings of the United States Congress, each pair judged by about six "
            "annotators. The text is the reply, the context the question, both after who speaks; PEFT-U joins the four "
            "parts in one text. Users judged 1 to over 500 pairs each."
        ),
        user="A crowd worker on Amazon Mechanical Turk.",
        instruction=instruction,
        main_metric="accuracy",
        language="en",
        licence="not stated; hearings of Congress are in the public domain",
        citation=(
            "Elisa Ferracane, Greg Durrett, Junyi Jessy Li, Katrin Erk (2021). Did they answer? Subjective acts and "
            "intents in conversational discourse. NAACL 2021. arXiv 2104.04470."
        ),
        homepage="https://github.com/elisaF/subjective_discourse",
        files=(
            SourceFile(
                name=ARCHIVE,
                url=f"https://raw.githubusercontent.com/elisaF/subjective_discourse/HEAD/data/gold/{ARCHIVE}",
                sha256="5533179c5129fed368595011bd5785bca55f97f6e9aa3a7da03d692b22aa0ae2",
                bytes=2717950,
            ),
        ),
        presets={"reference": {}},
        **more,
    )


class _Judgements:
    """A column of judgements, one a worker, beside the column of workers."""

    card: ClassVar[TaskCard]
    column: ClassVar[str]

    def rows(self, raw: Path) -> Iterator[Row]:
        """Yields pair by pair what each annotator said."""
        columns = ("qa_index", *TEXTS, "gold_workers", self.column)
        for number, cells in enumerate(read_csv_in_tar(raw / ARCHIVE, MEMBER, columns, "\t"), 1):
            where = f"{raw / ARCHIVE}: {MEMBER}: row {number}"
            workers, votes = (literal(cells[name], f"{where}: {name}") for name in ("gold_workers", self.column))
            if len(workers) != len(votes):
                raise PeftuError(f"{where}: {len(workers)} workers but {len(votes)} {self.column} — get the file again")
            asker, question, witness, reply = (cells[name].strip() for name in TEXTS)
            for user, label in zip(workers, votes, strict=True):
                target = (STEPS.get(label, label),)
                yield Row(user, cells["qa_index"], f"{witness}: {reply}", target, f"{asker}: {question}")


class Response(_Judgements):
    """What the witness does with the question."""

    column = "gold_coarse_labels"
    card = _card(
        "response",
        "What a witness does with a question (Subjective Discourse)",
        "What does the witness do with the question? Answer with 'answers', 'overanswers' (says more, to sway), "
        "'corrects' (shifts the question, to correct it), 'dodges' (shifts it, to avoid it), 'honestly cannot' or "
        "'lies' (claims falsely not to know).",
        kind="single",
        labels=(
            "answer",
            "answer_overans-sway",
            "shift-correct",
            "shift-dodge",
            "cant-answer-sincere",
            "cant-answer-lying",
        ),
        words=("answers", "overanswers", "corrects", "dodges", "honestly cannot", "lies"),
    )


class QuestionSentiment(_Judgements):
    """How the annotator feels about the questioner."""

    column = "gold_q_sentiments"
    card = _card(
        "question-sentiment",
        "Sentiment towards the questioner (Subjective Discourse)",
        f"How does the reader feel about the one who asks? {SCALE}",
        about="context",
        kind="ordinal",
        labels=tuple(STEPS.values()),
        words=tuple("1234567"),
    )


class ResponseSentiment(_Judgements):
    """How the annotator feels about the witness."""

    column = "gold_sentiments"
    card = _card(
        "response-sentiment",
        "Sentiment towards the witness (Subjective Discourse)",
        f"How does the reader feel about the witness who replies? {SCALE}",
        kind="ordinal",
        labels=tuple(STEPS.values()),
        words=tuple("1234567"),
    )
