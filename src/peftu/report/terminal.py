"""The leaderboard as it is shown in a terminal."""

from textwrap import wrap

from rich.console import Group
from rich.text import Text

from peftu.metrics import metrics
from peftu.report.verdict import Tone, verdict, yardstick
from peftu.report.words import NOTHING, Scale, count, data_size, seconds
from peftu.results import USER_MAJORITY, MethodResult, RunRecord, Score

WIDTH = 80  # columns that every terminal has; a name that would make a line longer stands on a line of its own
_GAP = "  "
_METHOD = "method"
_HEADS = (["helped/", "same/hurt"], ["time", "a user"], ["size", "a user"])
_STYLES: dict[Tone, str] = {"yes": "bold blue", "open": "bold", "no": "bold yellow"}


def leaderboard(record: RunRecord) -> Text:
    """Returns the methods, best first: mean ± half the 95 % interval over users, gain over the yardstick, costs.

    A method's base stands below its name, which leaves room for both beside the numbers.
    """
    scale = Scale(metrics.get(record.task.main_metric))
    bar = yardstick(record)
    heads = [wrap(scale.title.lower(), len(USER_MAJORITY)), ["gain over", bar], *_HEADS]
    results = ranked(record)
    rows = [_numbers(result, scale, bar) for result in results]
    known = [place for place in range(len(heads)) if place == 0 or any(row[place] != NOTHING for row in rows)]
    heads, rows = [heads[place] for place in known], [[row[place] for place in known] for row in rows]
    widths = [max(len(cell) for cell in (*head, *(row[place] for row in rows))) for place, head in enumerate(heads)]
    room = WIDTH - sum(widths) - len(_GAP) * len(widths)
    room = min(room, max((len(name) for result in results for name in _names(result)), default=0))
    room = max(room, len(_METHOD))
    text = Text(f"{record.task.title} · {record.regime} · {count(record.users)} users", "bold")
    text.append("\n")
    height = max(map(len, heads))
    for line in range(-height, 0):
        cells = [head[line] if len(head) >= -line else "" for head in heads]
        text.append("\n" + _line(_METHOD if line == -1 else "", cells, widths, room), "bold")
    text.append("\n" + "─" * len(_line("", [""] * len(widths), widths, room)))
    for result, row in zip(results, rows, strict=True):
        text.append_text(_entry(result, row, widths, room))
    return text


def summary(record: RunRecord) -> Group:
    """Returns the leaderboard with the answer in a few sentences below it."""
    answer = verdict(record)
    words = f"{answer.text} {answer.whom}".strip()
    return Group(leaderboard(record), "", Text.assemble((f"{answer.headline}. ", _STYLES[answer.tone]), words))


def ranked(record: RunRecord) -> list[MethodResult]:
    """Returns the results, best first; those without a score last."""
    sign = -1.0 if metrics.get(record.task.main_metric).higher_is_better else 1.0
    return sorted(record.methods, key=lambda result: (result.mean is None, sign * (result.mean or 0.0)))


def _numbers(result: MethodResult, scale: Scale, bar: str) -> list[str]:
    gain = None if result.name == bar else result.gain.get(bar)
    compared = result.helped is not None and result.name != USER_MAJORITY
    return [
        scale.give_or_take(Score(mean=result.mean, ci=result.ci)),
        NOTHING if gain is None else scale.give_or_take(gain, gain=True),
        f"{result.helped}/{result.unchanged}/{result.hurt}" if compared else NOTHING,
        seconds(result.seconds_per_user),
        data_size(result.bytes_per_user),
    ]


def _names(result: MethodResult) -> list[str]:
    """Returns the method's name and, on a second line, its base and what weighs on its numbers."""
    below = [result.base] if result.base else []
    below += [f"{count(result.unscored)} rows not scored"] if result.unscored else []
    return [result.method, f"  {' · '.join(below)}"] if below else [result.method]


def _entry(result: MethodResult, row: list[str], widths: list[int], room: int) -> Text:
    """Returns a method's lines: its numbers stand beside the first of its names that leaves them room."""
    names = _names(result)
    fitting = next((place for place, name in enumerate(names) if len(name) <= room), len(names))
    names += [""] if fitting == len(names) else []
    text = Text(style="" if result.personal else "dim")
    for place, name in enumerate(names):
        text.append("\n")
        text.append(name, "dim" if place else "")
        if place == fitting:
            text.append(_line("", row, widths, room - len(name)))
    return text


def _line(name: str, cells: list[str], widths: list[int], room: int) -> str:
    return name.ljust(room) + "".join(_GAP + cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
