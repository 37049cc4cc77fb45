"""The leaderboard: a picture, and a table that can be sorted and filtered."""

from dataclasses import dataclass, replace
from typing import Literal

from peftu.answers import answers_of
from peftu.judge.decide import FEWEST
from peftu.metrics import metrics
from peftu.report.blocks import Picture
from peftu.report.charts.rows import Row, method_rows
from peftu.report.names import beneath, capital, drawn, plain
from peftu.report.sections.tables import span
from peftu.report.terminal import FAILED
from peftu.report.view import RunView
from peftu.report.words import Scale, count, data_size, join, seconds
from peftu.results import USER_MAJORITY, MethodResult, Score
from peftu.system import System

_FEWEST_TO_FILTER = 4
_MOST_NAMED = 2
_MARKS = {"better": "clear gain", "worse": "clear loss"}
_SCOPES = {"none": "no parameters", "global": "shared", "user": "personal", "both": "shared + personal"}


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard; ``first`` is the order that a first click asks for: the good ones on top."""

    title: str
    first: Literal["ascending", "descending"]


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, small print below it, what it is sorted by (None: last), and a mark on a last line."""

    text: str
    note: str
    order: float | None
    mark: str = ""


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
        name: its plain name.
        label: its id with its base, where that is more than the name.
        tags: what a reader must weigh beside its numbers.
        personal: whether it must prove itself.
        scope: whose parameters it has, in words; empty where unknown.
        trained: 'trained', 'not trained', or empty where unknown.
        cells: one for each column after the method's name; None where there is nothing to say, which sorts last.
    """

    name: str
    label: str
    tags: str
    personal: bool
    scope: str
    trained: str
    cells: tuple[Cell | Split | None, ...]


@dataclass(frozen=True)
class Leaderboard:
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


def board(view: RunView) -> Leaderboard:
    """Returns the leaderboard of a run."""
    names = answers_of(view.record.task.kind).references
    references = [name for name in names if any(name in result.gain for result in view.ranked)]
    better: Literal["ascending", "descending"] = "descending" if view.scale.metric.higher_is_better else "ascending"
    columns = [Column(view.scale.title, better)]
    columns += [Column(f"gain over {plain(System(name))}", "descending") for name in references]
    columns += [Column("users helped / same / hurt", "descending")] if USER_MAJORITY in references else []
    columns += [Column("macro-F1, %", "descending"), Column("time a user", "ascending")]
    columns += [Column("size a user", "ascending")]
    lines = tuple(_line(view, result, references) for result in view.ranked)
    known = [
        place for place in range(len(columns)) if place == 0 or any(line.cells[place] is not None for line in lines)
    ]
    lines = tuple(replace(line, cells=tuple(line.cells[place] for place in known)) for line in lines)
    lines += tuple(_failed(system, why, len(lines[0].cells)) for system, why in view.record.failures.items())
    scopes = tuple(name for name in _SCOPES.values() if any(line.scope == name for line in lines))
    trained = tuple(name for name in ("trained", "not trained") if any(line.trained == name for line in lines))
    return Leaderboard(
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
    line = "; the dashed line is each user's habit" if view.majority is not None else ""
    colours = f" Blue: personal methods. Grey: what they are compared with{line}." if len(view.ranked) > 1 else ""
    marks = (
        f" A gain or loss is called clear from {FEWEST} users on, where its interval excludes 0 and a test agrees that "
        "is corrected for the number of methods."
    )
    return (
        f"{view.scale.title}, averaged over users{lower}. Bars show the 95 % interval: how far the average would move "
        f"with other users of the same kind.{colours}{marks if view.findings.gains else ''}"
    )


def _picture(view: RunView) -> Picture | None:
    scored = [result for result in view.ranked if result.mean is not None]
    if not scored:
        return None
    factor = view.scale.factor
    rows = [
        Row(drawn(result.system), *span(Score(mean=result.mean, ci=result.ci), factor), result.personal)
        for result in scored
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
    """Returns who leads, and which personal methods are shown to be better than the yardstick."""
    names = [view.short(result) for result in view.leaders]
    who = join(names) if len(names) <= _MOST_NAMED else f"{len(names)} methods"
    verb = "share first place with" if len(names) > 1 else "comes first with" if len(scored) > 1 else "reaches"
    unit = " %" if view.scale.metric.percent else ""
    return f"{capital(who)} {verb} {view.scale.number(scored[0].mean)}{unit}{_claim(view, names)}"


def _claim(view: RunView, leaders: list[str]) -> str:
    findings = view.findings
    compared = [result for result in view.ranked if result.personal and findings.over(result, findings.bar)]
    if not compared:
        return ""
    better = [view.short(result) for result in compared if findings.decision(result, findings.bar) == "better"]
    who = join(better) if 0 < len(better) <= _MOST_NAMED else f"{len(better)} personal methods"
    if not better:
        who = "no personal method"
    elif better == leaders:
        who = "it" if len(better) == 1 else "they"
    verb = "are" if len(better) > 1 else "is"
    return f"; {who} {verb} clearly better than {plain(System(findings.bar))}"


def _line(view: RunView, result: MethodResult, references: list[str]) -> Line:
    scale = view.scale
    nothing = Score(mean=None, ci=None)
    gains = [nothing if result.name == name else result.gain.get(name, nothing) for name in references]
    cells = [_cell(scale, Score(mean=result.mean, ci=result.ci))]
    marks = [_MARKS.get(view.findings.decision(result, name) or "unclear", "") for name in references]
    cells += [_cell(scale, gain, gain=True, mark=mark) for gain, mark in zip(gains, marks, strict=True)]
    if USER_MAJORITY in references:
        cells.append(_split(result))
    cells.append(_cell(Scale(metrics.get("macro_f1")), result.macro_f1))
    spent = "" if result.trained is None else "with training" if result.trained else "answering"
    for value, write, note in ((result.seconds_per_user, seconds, spent), (result.bytes_per_user, data_size, "")):
        cells.append(None if value is None else Cell(write(value), note, value))
    scope = _SCOPES[result.scope] if result.scope else ""
    trained = "" if result.trained is None else "trained" if result.trained else "not trained"
    name = plain(result.system)
    below = result.label if name != result.method else f"@{result.base}" if result.base else ""
    return Line(capital(name), below, _tags(result, scope), result.personal, scope, trained, tuple(cells))


def _failed(system: System, why: str, cells: int) -> Line:
    failed = Cell(FAILED, "", None)
    return Line(capital(plain(system)), beneath(system), why, False, "", "", (failed, *[None] * (cells - 1)))


def _cell(scale: Scale, score: Score, *, gain: bool = False, mark: str = "") -> Cell | Split | None:
    if score.mean is None:
        return None
    write = scale.signed if gain else scale.number
    bounds = "" if score.ci is None else f"{write(score.ci[0])} to {write(score.ci[1])}"
    return Cell(write(score.mean), bounds, score.mean, mark)


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
