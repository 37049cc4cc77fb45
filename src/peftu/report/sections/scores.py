"""Every other metric, and how far the methods' probabilities can be believed."""

from peftu.judge import Judgement
from peftu.judge.shapes import MetricInfo
from peftu.metrics import metrics
from peftu.report.blocks import Section, Table
from peftu.report.names import above
from peftu.report.sections.tables import bounds
from peftu.report.view import RunView
from peftu.report.words import NOTHING, Scale
from peftu.results import Score

_MOST_OPEN = 3  # methods
_NOTHING = Score(mean=None, ci=None)


def scores(view: RunView) -> Section | None:
    """Returns every metric of every method as a table."""
    judgement = view.judgement
    if judgement is None:
        return None
    shown = [metric for metric in judgement.metrics if _known(judgement, metric)]
    if len(shown) < 2:
        return None
    heads = tuple(f"{_title(metric)} {'↑' if metric.higher_is_better else '↓'}" for metric in shown)
    rows = []
    for method in judgement.scores:
        cells = [_cell(metric, method.scores.get(metric.name, _NOTHING)) for metric in shown]
        rows.append((above(method.system), *cells))
    lead = "↑ higher is better, ↓ lower is better; with 95 % intervals."
    of_items = [metric.title for metric in shown if metric.unit == "item"]
    if of_items:
        lead += f" Averaged over users; {', '.join(of_items)} over items."
    summary = "All metrics as a table" if len(rows) > _MOST_OPEN else ""
    table = Table("All metrics of all methods.", ("method", *heads), tuple(rows), summary=summary)
    return Section("scores", "Other ways to count", "Metrics", (table,), lead=lead)


def _known(judgement: Judgement, metric: MetricInfo) -> bool:
    return any(method.scores.get(metric.name, _NOTHING).mean is not None for method in judgement.scores)


def _title(metric: MetricInfo) -> str:
    return f"{metric.title}, %" if metric.percent else metric.title


def _cell(metric: MetricInfo, score: Score) -> str:
    scale = Scale(metrics.get(metric.name))
    if score.mean is None:
        return NOTHING
    return scale.number(score.mean) + (f" ({bounds(scale, score)})" if score.ci else "")
