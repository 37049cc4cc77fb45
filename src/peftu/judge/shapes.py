"""The judgement of a run as data: what every picture and table of a report is drawn from.

In JSON a method is named by its label, 'method@base', as ``MethodResult.label`` is; users by a number from 1, in the
order of their sorted keys. Scores are in the metric's own unit, gains are turned so that positive is better.
"""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema, computed_field

from peftu.judge.decide import Decision, decide
from peftu.results import Part, Score
from peftu.system import System

JUDGEMENT = "judgement.json"

Case = Literal[
    "nothing-personal",
    "no-yardstick",
    "too-few-users",
    "pays",
    "better-than-habit",
    "shared-suffices",
    "shared-better",
    "no-gain",
    "harm",
]
Action = Literal["ship", "ship-shared", "keep-habit", "collect"]


def _system(value: Any) -> System:
    """Returns the system of a label in a file, or of one that was made from a frame's columns, in the same form."""
    if not isinstance(value, str | System):
        raise ValueError("is no label of a method")
    return System.parse(str(value))


SystemLabel = Annotated[
    System, PlainValidator(_system), PlainSerializer(str, return_type=str), WithJsonSchema({"type": "string"})
]


class OfSystem(Part):
    """What is known of one method."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    system: SystemLabel = Field(alias="label")


class MetricInfo(Part):
    """How a metric is written."""

    name: str
    title: str
    unit: Literal["user", "item"] = Field(description="What its mean and interval run over.")
    percent: bool
    higher_is_better: bool


class MethodMetrics(OfSystem):
    """Every metric of one method, averaged over seeds, then over users (or items)."""

    scores: dict[str, Score]
    counts: dict[str, int] = Field(description="Users or items that each metric could be computed for.")


class Intervals(OfSystem):
    """The main metric's interval when other users, other items, or both could have been drawn."""

    mean: float | None
    by_user: tuple[float, float] | None
    by_item: tuple[float, float] | None
    two_way: tuple[float, float] | None
    users: int
    items: int
    seeds: int
    seed_sd: float | None = Field(description="Standard deviation of the means of single seeds; null for one seed.")


def _optional_decision(schema: dict[str, Any]) -> None:
    """Lets files without a decision be whole: those written before there was one."""
    schema["required"] = [name for name in schema["required"] if name != "decision"]


class Tested(Part):
    """A paired gain with its test; ``peftu.judge.decide`` holds the rule that decides."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True, json_schema_extra=_optional_decision)

    gain: Score
    users: int
    p: float | None = Field(None, description="Two-sided sign-flip permutation test over users.")
    p_holm: float | None = Field(None, description="Corrected for all comparisons made beside it (Holm, 1979).")

    @computed_field(description="Whether the gain is shown; every text, title and mark goes by this.")  # type: ignore[prop-decorator]
    @property
    def decision(self) -> Decision:
        """Returns what the one rule makes of it; also for judgements written before there was this field."""
        return decide(self.gain, self.users, self.p_holm)


class Comparison(Tested):
    """Two methods on the same users: is the difference more than chance?"""

    system: SystemLabel = Field(alias="label")
    against: SystemLabel
    detectable: float | None = Field(description="Smallest true gain found with 80 % chance at the 5 % level.")
    item_noise: float | None = Field(
        None,
        description="Share of the variance of users' gains that comes from having few test items; null where the "
        "metric is no mean over rows.",
    )
    items: float | None = Field(None, description="Test items a user that both methods have a score for, on average.")


class Standing(OfSystem):
    """A method's place on the board."""

    rank: int = Field(description="1 is best; by the mean over users; equal means share a rank.")
    ci: tuple[int, int] | None = Field(
        description="95 % of the bootstrap draws of users have it between these ranks; holds the rank itself."
    )
    first: float = Field(description="Share of draws in which it is first.")
    mean_rank: float | None = Field(description="Its rank averaged over users, ties shared.")


class CriticalDifference(Part):
    """Data of a critical-difference picture (Demšar, 2006): mean ranks, and which lie too close to tell apart."""

    users: int
    friedman_p: float | None
    distance: float | None = Field(description="Nemenyi's critical difference of mean ranks at the 5 % level.")
    groups: tuple[tuple[SystemLabel, ...], ...] = Field(description="Methods joined by a bar, best first.")


class Ceiling(Part):
    """A row computed from other judgements of the same texts; no method, and no model."""

    name: Literal["others-majority", "others-threshold", "self-consistency"]
    title: str
    oracle: bool = Field(description="Has seen the test labels themselves; nobody could use it.")
    score: Score
    users: int
    scored: int
    unscored: int = Field(description="Test rows that nobody else, or not the same user again, has judged.")


class GapClosed(OfSystem):
    """The share of the way from user-majority to a ceiling that a method goes; null where that way is not shown."""

    ceiling: str
    share: Score
    users: int


class Helped(OfSystem):
    """How many users do better, the same and worse than with a reference method; shares with Wilson intervals."""

    against: SystemLabel
    users: int
    helped: int
    unchanged: int
    hurt: int
    helped_share: Score
    hurt_share: Score
    surely_helped: int = Field(description="Users whose own rows show it (exact sign test, 5 % level, uncorrected).")
    surely_hurt: int


class WorstServed(OfSystem):
    """The tenth of the users that the reference method serves worst, and what a method gives them."""

    against: SystemLabel
    users: int
    score: Score = Field(description="Mean over the method's own worst tenth.")
    reference: Score = Field(description="Mean of the reference method over its own worst tenth.")
    items: float | None = Field(None, description="Scored test rows of these users together, averaged over seeds.")


class TrendBin(Part):
    """Users with about the same value of what a gain is set against."""

    low: float
    high: float
    median: float
    users: int
    gain: Score


class Trend(OfSystem):
    """A method's gain against a number that each user has."""

    against: SystemLabel
    by: Literal["n_train", "distance"]
    title: str
    users: int
    correlation: float | None = Field(description="Spearman's rho over users.")
    p: float | None
    p_holm: float | None = Field(None, description="Corrected for the methods (Holm, 1979).")
    bins: tuple[TrendBin, ...]


class Group(Tested):
    """A method on the rows with one gold label, or on the users of one group."""

    system: SystemLabel = Field(alias="label")
    against: SystemLabel
    by: str = Field(description="'label', or the name of a demographic field of the task.")
    value: str
    rows: int
    score: Score


class ParetoPoint(OfSystem):
    """What a method's score costs."""

    mean: float
    ci: tuple[float, float] | None
    bytes_per_user: int | None
    seconds_per_user: float | None
    ms_per_answer: float | None
    front: tuple[str, ...] = Field(description="Costs by which no method is both cheaper and better (or equal).")


class Shift(Part):
    """A label that one user gives more or less often than others give it to the same texts."""

    user: int
    label: str
    own: float
    others: float
    rows: int
    p: float
    words: str


class Curve(OfSystem):
    """A method's score against the number of a user's training items, on the same test rows."""

    points: tuple["CurvePoint", ...]


class CurvePoint(Part):
    """One point of a cold-start curve."""

    k: float = Field(description="Training items a user; the median over users where they have all.")
    all: bool
    users: int
    score: Score
    over_habit: Comparison | None = Field(None, description="Against user-majority after as many items.")


class ReliabilityBin(Part):
    """Rows of about the same confidence, of all users."""

    low: float
    high: float
    confidence: float = Field(description="Mean of the largest probability.")
    right: float = Field(description="Share of rows in which its label is right.")
    rows: int


class Reliability(OfSystem):
    """How far a method's probabilities can be believed, all users' rows together."""

    rows: int
    error: float = Field(description="Expected calibration error over all rows.")
    bins: tuple[ReliabilityBin, ...]


class Guarded(OfSystem):
    """What the rule of a guarded method decided."""

    fallback: SystemLabel
    users: int
    kept: int


class Answer(Part):
    """Was personalising worth it, and what to do; the rules stand in ``peftu.judge.answer`` and ``docs/judging.md``."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    case: Case
    system: SystemLabel | None = Field(alias="label", description="The personal method that the answer speaks of.")
    against: SystemLabel | None = Field(
        description="What it is compared with first: habit; one model for all for free text."
    )
    shared: SystemLabel | None = Field(description="The model shared by all, where one was run beside it.")
    action: Action | None = Field(description="What is recommended; null where nothing can be.")
    target: SystemLabel | None = Field(
        None, description="The method to ship, to keep, or whose gain more users would show."
    )
    more_users: int | None = Field(None, description="'collect': so many more users, about.")
    more_items: int | None = Field(None, description="'collect': or so many more test items from each, about.")


class Judgement(Part):
    """Version 1 of the judgement of one run."""

    schema_version: Literal[1] = 1
    metric: MetricInfo
    metrics: tuple[MetricInfo, ...]
    users: int
    one_item_users: int = Field(description="Users with a single test row; they count, and widen the intervals.")
    references: tuple[SystemLabel, ...] = Field(description="Labels of the reference methods that were run.")
    scores: tuple[MethodMetrics, ...]
    intervals: tuple[Intervals, ...]
    gains: tuple[Comparison, ...] = Field(description="Every other method against each reference method.")
    comparisons: tuple[Comparison, ...] = Field(description="Every pair of methods.")
    detectable: float | None = Field(description="Median over gains of what this task's test users can tell apart.")
    standings: tuple[Standing, ...]
    critical_difference: CriticalDifference
    ceilings: tuple[Ceiling, ...] = ()
    closed: tuple[GapClosed, ...] = ()
    helped: tuple[Helped, ...] = ()
    worst: tuple[WorstServed, ...] = ()
    trends: tuple[Trend, ...] = ()
    groups: tuple[Group, ...] = ()
    pareto: tuple[ParetoPoint, ...] = ()
    shifts: tuple[Shift, ...] = ()
    cold_start: tuple[Curve, ...] = ()
    guards: tuple[Guarded, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    answer: Answer | None = Field(None, description="Null in judgements from before there was one.")
