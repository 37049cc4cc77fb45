"""The leaderboard as it is shown in a terminal."""

from textwrap import wrap

from rich.console import Group
from rich.text import Text

from peftu.judge.decide import FEWEST
from peftu.judge.findings import Findings
from peftu.judge.shapes import Judgement
from peftu.metrics import metrics
from peftu.report.names import beneath, plain
from peftu.report.verdict import Tone, verdict
from peftu.report.words import NOTHING, Scale, count, data_size, plural, seconds
from peftu.results import GLOBAL, USER_MAJORITY, MethodResult, RunRecord, Score
from peftu.system import System

WIDTH = 80  # columns that every terminal has; a name that would make a line longer stands on a line of its own
_GAP = "  "
_METHOD = "method"
_HEADS = (["helped/", "same/hurt"], ["time", "a user"], ["size", "a user"])
_BARS = {USER_MAJORITY: "habit", GLOBAL: "the shared model"}
_MARK, _NO_MARK = "*", " "
FAILED = "failed"
_DIGITS = 12  # means that differ later differ by rounding
_STYLES: dict[Tone, str] = {"yes": "bold blue", "open": "bold", "no": "bold yellow"}


def leaderboard(record: RunRecord, findings: Findings) -> Text:
    """Returns the methods, best first: mean ± half the 95 % interval over users, gain over the yardstick, costs.

    A star marks gains and losses that are decided (``peftu.judge.decide``). Methods have their plain names, with the
    ids that commands take below them.
    """
    scale = Scale(metrics.get(record.task.main_metric))
    bar = findings.bar
    heads = [wrap(scale.title.lower(), len(USER_MAJORITY)), ["gain over", f"{_BARS[bar]} "], *_HEADS]
    results = ranked(record)
    rows = [_numbers(result, scale, findings) for result in results]
    known = [place for place in range(len(heads)) if place == 0 or any(row[place] != NOTHING for row in rows)]
    heads, rows = [heads[place] for place in known], [[row[place] for place in known] for row in rows]
    widths = [max(len(cell) for cell in (*head, *(row[place] for row in rows))) for place, head in enumerate(heads)]
    room = WIDTH - sum(widths) - len(_GAP) * len(widths)
    names = [*map(_names, results), *([plain(system)] for system in record.failures)]
    room = min(room, max((len(name) for lines in names for name in lines), default=0))
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
    for system, why in record.failures.items():
        text.append_text(_failed(system, why, widths, room))
    text.append("".join(f"\n{line}" for line in _legend(scale, heads, rows)), "dim")
    return text


def summary(record: RunRecord, judgement: Judgement | None) -> Group:
    """Returns the leaderboard with the answer in a few sentences below it, and what is recommended."""
    findings = Findings(record.methods, judgement.gains if judgement else (), record.task.kind)
    answer = verdict(record, findings)
    words = f"{answer.text} {answer.whom}".strip()
    verdict_text = Text.assemble((f"{answer.headline}. ", _STYLES[answer.tone]), words)
    if answer.advice:
        verdict_text.append("\nWhat to do: ", "bold").append(answer.advice)
    return Group(leaderboard(record, findings), "", verdict_text)


def ranked(record: RunRecord) -> list[MethodResult]:
    """Returns the results, best first, equal ones by name; those without a score last."""
    sign = -1.0 if metrics.get(record.task.main_metric).higher_is_better else 1.0
    return sorted(
        record.methods,
        key=lambda result: (result.mean is None, round(sign * (result.mean or 0.0), _DIGITS), result.label),
    )


def _numbers(result: MethodResult, scale: Scale, findings: Findings) -> list[str]:
    gain = None if result.name == findings.bar else result.gain.get(findings.bar)
    compared = result.helped is not None and result.name != USER_MAJORITY
    mark = _NO_MARK if findings.decision(result, findings.bar) in ("unclear", None) else _MARK
    return [
        scale.give_or_take(Score(mean=result.mean, ci=result.ci)),
        NOTHING if gain is None or gain.mean is None else f"{scale.gain(gain)}{mark}",
        f"{result.helped}/{result.unchanged}/{result.hurt}" if compared else NOTHING,
        seconds(result.seconds_per_user),
        data_size(result.bytes_per_user),
    ]


def _legend(scale: Scale, heads: list[list[str]], rows: list[list[str]]) -> list[str]:
    """Returns what a reader cannot guess: the star, which way is better, what the time was spent on."""
    lines = []
    if any(cell.endswith(_MARK) for row in rows for cell in row):
        lines.append(f"{_MARK} a clear gain or loss: at least {plural(FEWEST, 'user')}, 95 % interval without 0, and a")
        lines.append("  test that holds when it is corrected for the number of methods")
    if not scale.metric.higher_is_better:
        lines.append(f"{scale.title.lower()}: lower is better; of gains, + is better")
    if _HEADS[1] in heads:
        lines.append("time a user: training and answering; of what is not trained, answering")
    return lines


def _names(result: MethodResult) -> list[str]:
    """Returns the method's plain name and, on a second line, its id and what weighs on its numbers."""
    name = plain(result.system)
    below = [result.label] if name != result.method else [result.base] if result.base else []
    below += [f"{count(result.unscored)} rows not scored"] if result.unscored else []
    return [name, f"  {' · '.join(below)}"] if below else [name]


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


def _failed(system: System, why: str, widths: list[int], room: int) -> Text:
    """Returns the lines of a method that could not be fitted: where its numbers would stand, and why."""
    name = plain(system)
    lines = [name] if len(name) <= room else [name, ""]
    lines[-1] = _line(lines[-1], [FAILED, *[NOTHING] * (len(widths) - 1)], widths, room)
    reason = wrap(" · ".join(filter(None, (beneath(system), why))), WIDTH - len(_GAP))
    return Text.assemble("\n" + "\n".join(lines), ("".join(f"\n{_GAP}{line}" for line in reason), "dim"))


def _line(name: str, cells: list[str], widths: list[int], room: int) -> str:
    return name.ljust(room) + "".join(_GAP + cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
