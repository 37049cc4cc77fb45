"""The leaderboard: a picture, and a table that can be sorted and filtered."""

from dataclasses import dataclass, replace
from typing import Literal

from peftu.metrics import metrics
from peftu.report.blocks import Picture
from peftu.report.charts.rows import Row, method_rows
from peftu.report.sections.tables import span
from peftu.report.view import RunView
from peftu.report.words import Scale, count, data_size, plural, seconds
from peftu.results import GLOBAL, REFERENCES, USER_MAJORITY, MethodResult, Score, plain_name

_FEWEST_TO_FILTER = 4
_SCOPES = {"none": "no parameters", "global": "shared", "user": "personal", "both": "shared + personal"}


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard; ``first`` is the order that a first click asks for: the good ones on top."""

    title: str
    first: Literal["ascending", "descending"]


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, small print below it, and the number that it is sorted by."""

    text: str
    note: str
    order: float


@dataclass(frozen=True)
class Split:
    """How many users are helped, unchanged and hurt, drawn as a bar."""

    helped: int
    unchanged: int
    hurt: int

    @property
    def order(self) -> float:
        """Returns how many more users are helped than hurt."""
        return self.helped - self.hurt

    @property
    def shares(self) -> tuple[tuple[str, float], ...]:
        """Returns each part's class and its percentage."""
        users = max(self.helped + self.unchanged + self.hurt, 1)
        parts = (("helped", self.helped), ("same", self.unchanged), ("hurt", self.hurt))
        return tuple((name, 100 * part / users) for name, part in parts if part)


@dataclass(frozen=True)
class Line:
    """A method's line.

    Attributes:
        method: its label without the base.
        base: the base it ran on.
        tags: what a reader must weigh beside its numbers.
        personal: whether it must prove itself.
        scope: whose parameters it has, in words; empty where unknown.
        trained: 'trained', 'not trained', or empty where unknown.
        cells: one for each column after the method's name; None where there is nothing to say, which sorts last.
    """

    method: str
    base: str
    tags: str
    personal: bool
    scope: str
    trained: str
    cells: tuple[Cell | Split | None, ...]


@dataclass(frozen=True)
class Board:
    """The leaderboard.

    Attributes:
        lead: how to read the picture.
        picture: means and intervals; None without any score.
        columns: those after the method's name.
        lines: best first.
        scopes: values to filter by; empty where there is nothing to choose.
        trained: likewise.
        filters: whether there are enough lines to filter.
    """

    lead: str
    picture: Picture | None
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    scopes: tuple[str, ...]
    trained: tuple[str, ...]
    filters: bool


def board(view: RunView) -> Board:
    """Returns the leaderboard of a run."""
    references = [name for name in REFERENCES if any(name in result.gain for result in view.ranked)]
    better: Literal["ascending", "descending"] = "descending" if view.scale.metric.higher_is_better else "ascending"
    columns = [Column(view.scale.title, better)]
    columns += [Column(f"gain over {name}", "descending") for name in references]
    columns += [Column("users helped / same / hurt", "descending")] if USER_MAJORITY in references else []
    columns += [Column("macro-F1, %", "descending"), Column("time a user", "ascending")]
    columns += [Column("size a user", "ascending")]
    lines = tuple(_line(view, result, references) for result in view.ranked)
    known = [
        place for place in range(len(columns)) if place == 0 or any(line.cells[place] is not None for line in lines)
    ]
    lines = tuple(replace(line, cells=tuple(line.cells[place] for place in known)) for line in lines)
    scopes = tuple(name for name in _SCOPES.values() if any(line.scope == name for line in lines))
    trained = tuple(name for name in ("trained", "not trained") if any(line.trained == name for line in lines))
    return Board(
        lead=_lead(view),
        picture=_picture(view),
        columns=tuple(columns[place] for place in known),
        lines=lines,
        scopes=scopes if len(scopes) > 1 else (),
        trained=trained if len(trained) > 1 else (),
        filters=len(lines) >= _FEWEST_TO_FILTER,
    )


def _lead(view: RunView) -> str:
    lower = "" if view.scale.metric.higher_is_better else "; lower is better"
    line = "; the dashed line is user-majority" if view.majority is not None else ""
    colours = f" Blue: personal methods. Grey: what they are compared with{line}." if len(view.ranked) > 1 else ""
    return (
        f"{view.scale.title}, averaged over users{lower}. Bars show the 95 % interval: how far the average would move "
        f"with other users of the same kind.{colours}"
    )


def _picture(view: RunView) -> Picture | None:
    scored = [result for result in view.ranked if result.mean is not None]
    if not scored:
        return None
    factor = view.scale.factor
    rows = [
        Row(result.label, *span(Score(mean=result.mean, ci=result.ci), factor), result.personal) for result in scored
    ]
    line = None if view.majority is None else view.majority * factor
    values = "; ".join(f"{result.label} {view.scale.score(Score(mean=result.mean, ci=result.ci))}" for result in scored)
    return Picture(
        title=_finding(view, scored),
        svg=method_rows(rows, view.scale.title, line),
        narrow=method_rows(rows, view.scale.title, line, narrow=True),
        alt=f"{view.scale.title} with intervals. {values}",
    )


def _finding(view: RunView, scored: list[MethodResult]) -> str:
    first = scored[0]
    unit = " %" if view.scale.metric.percent else ""
    verb = "comes first with" if len(scored) > 1 else "reaches"
    lead = f"{view.short(first)} {verb} {view.scale.number(first.mean)}{unit}"
    personal = [result for result in scored if result.personal]
    for name, plain in ((USER_MAJORITY, "each user's habit"), (GLOBAL, "one shared model")):
        compared = [result for result in personal if name in result.gain]
        if compared:
            better = sum(_better(view, result, name) for result in compared)
            how_many = "no personal method is" if not better else f"{plural(better, 'personal method')} {_be(better)}"
            return f"{lead}; {how_many} clearly better than {plain}"
    return lead


def _better(view: RunView, result: MethodResult, name: str) -> bool:
    """Returns whether a gain stands after correction for the number of methods; by its interval where untested."""
    tests = view.judgement.gains if view.judgement else ()
    test = next((one for one in tests if one.label == result.label and plain_name(one.against) == name), None)
    if test is not None:
        return test.shown and (test.gain.mean or 0.0) > 0
    gain = result.gain[name]
    return gain.ci is not None and gain.ci[0] > 0


def _be(number: int) -> str:
    return "is" if number == 1 else "are"


def _line(view: RunView, result: MethodResult, references: list[str]) -> Line:
    scale = view.scale
    nothing = Score(mean=None, ci=None)
    gains = [nothing if result.name == name else result.gain.get(name, nothing) for name in references]
    cells = [_cell(scale, Score(mean=result.mean, ci=result.ci))]
    cells += [_cell(scale, gain, gain=True) for gain in gains]
    if USER_MAJORITY in references:
        cells.append(_split(result))
    cells.append(_cell(Scale(metrics.get("macro_f1")), result.macro_f1))
    for value, write in ((result.seconds_per_user, seconds), (result.bytes_per_user, data_size)):
        cells.append(None if value is None else Cell(write(value), "", value))
    scope = _SCOPES[result.scope] if result.scope else ""
    trained = "" if result.trained is None else "trained" if result.trained else "not trained"
    return Line(result.method, result.base or "", _tags(result, scope), result.personal, scope, trained, tuple(cells))


def _cell(scale: Scale, score: Score, *, gain: bool = False) -> Cell | Split | None:
    if score.mean is None:
        return None
    write = scale.signed if gain else scale.number
    bounds = "" if score.ci is None else f"{write(score.ci[0])} to {write(score.ci[1])}"
    return Cell(write(score.mean), bounds, score.mean)


def _split(result: MethodResult) -> Split | None:
    if result.name == USER_MAJORITY or result.helped is None or result.unchanged is None or result.hurt is None:
        return None
    return Split(result.helped, result.unchanged, result.hurt)


def _tags(result: MethodResult, scope: str) -> str:
    """Returns what a reader must weigh beside a method's number."""
    tags = [scope] if scope else []
    tags += ["sees other users' labels"] if result.uses_others_labels else []
    tags += [f"{count(result.unscored)} rows not scored"] if result.unscored else []
    return " · ".join(tags)
