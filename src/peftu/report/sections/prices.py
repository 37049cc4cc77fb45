"""What the methods cost, and which of them nothing beats for that."""

from typing import NamedTuple

from peftu.judge.pareto import pareto
from peftu.report.blocks import Block, Picture, Pictures, Section, Table, Words
from peftu.report.charts.pareto_panel import Point, pareto_panel
from peftu.report.names import above
from peftu.report.view import RunView
from peftu.report.words import NOTHING, count, data_size, join, plural, seconds
from peftu.results import MethodResult

_BYTES = (
    "datum.value >= 1e9 ? datum.value / 1e9 + ' GB' : datum.value >= 1e6 ? datum.value / 1e6 + ' MB' : "
    "datum.value >= 1e3 ? datum.value / 1e3 + ' kB' : datum.value + ' B'"
)
_SECONDS = "datum.value >= 1 ? datum.value + ' s' : format(datum.value * 1000, '~r') + ' ms'"
_MILLISECONDS = "datum.value >= 1000 ? datum.value / 1000 + ' s' : datum.value + ' ms'"


class _Price(NamedTuple):
    """A cost to draw scores against."""

    field: str
    name: str
    title: str
    label: str
    smallest: float


_PRICES = (
    _Price("bytes_per_user", "stored size", "stored bytes a user (log scale)", _BYTES, 1.0),
    _Price("seconds_per_user", "time", "time to train and answer, a user (log scale)", _SECONDS, 0.001),
    _Price("ms_per_answer", "time an answer", "time to answer once (log scale)", _MILLISECONDS, 0.001),
)


def cost(view: RunView) -> Section | None:
    """Returns scores against costs, and the costs as a table."""
    if not view.ranked:
        return None
    pictures = tuple(picture for price in _PRICES if (picture := _picture(view, price)) is not None)
    lead = (
        "Up and to the left is better. On the dashed line stand the methods for which no other one averages at least "
        "as well and costs no more. Averages alone are looked at here; whether they differ clearly is said above."
    )
    blocks: list[Block] = [Pictures(pictures, lead=lead, columns=2)] if pictures else []
    table = _table(view)
    totals = _totals(view)
    if len(table.head) == 1 and not totals:  # nothing was measured
        return None
    blocks.append(table)
    blocks += [Words(f"The whole run: {totals}.")] if totals else []
    return Section("cost", "What it costs", "Cost", tuple(blocks))


def _picture(view: RunView, price: _Price) -> Picture | None:
    priced = [
        (result, float(value), result.mean)
        for result in view.ranked
        if (value := getattr(result, price.field)) is not None and result.mean is not None
    ]
    if len(priced) < 2:
        return None
    better = view.scale.metric.higher_is_better
    front = {point.system for point in pareto(view.ranked, higher_is_better=better) if price.field in point.front}
    points = [
        Point(view.short(result), value, mean, result.personal, result.system not in front)
        for result, value, mean in priced
    ]
    kept = [result for result, *_ in priced if result.system in front]
    return Picture(
        title=_finding(price, [view.short(result) for result in kept]),
        svg=pareto_panel(points, view.scale, price.title, price.label, price.smallest),
        narrow=pareto_panel(points, view.scale, price.title, price.label, price.smallest, narrow=True),
        alt=f"{view.scale.title} against {price.name} a user. On the line: "
        + "; ".join(f"{view.short(result)}, {view.scale.number(result.mean)}" for result in kept),
        note=f"for {len(priced) - len(kept)} of {len(priced)} methods another one averages no worse and costs no more",
    )


def _finding(price: _Price, names: list[str]) -> str:
    if len(names) == 1:
        return f"By {price.name}, {names[0]} averages best and costs least"
    return f"By {price.name}, worth a look: {join(names)}"


def _table(view: RunView) -> Table:
    where = view.record.environment
    machine = f" on {where.cpu}" if where.cpu else ""
    head = (
        "method",
        "training and answering",
        "users an hour",
        "time an answer",
        "parameters",
        "stored size",
        "peak memory",
    )
    rows = tuple(
        (
            above(result.system),
            _time(result),
            count(result.users_per_hour),
            seconds(None if result.ms_per_answer is None else result.ms_per_answer / 1000),
            count(result.parameters_per_user),
            data_size(result.bytes_per_user),
            data_size(result.peak_rss_bytes),
        )
        for result in view.ranked
    )
    return Table(f"Per user, as measured in this run{machine}, {plural(where.cores, 'core')}.", head, rows).known()


def _time(result: MethodResult) -> str:
    """Returns what training and answering took, or answering alone."""
    shown = seconds(result.seconds_per_user)
    return f"{shown} (answering)" if shown != NOTHING and result.trained is False else shown


def _totals(view: RunView) -> str:
    total = view.record.cost
    parts = [seconds(total.seconds)] if total.seconds is not None else []
    parts += [f"{data_size(total.peak_rss_bytes)} peak memory"] if total.peak_rss_bytes is not None else []
    parts += [f"{data_size(total.bytes)} of personal modules"] if total.bytes is not None else []
    return ", ".join(parts)
