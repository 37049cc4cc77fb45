"""The leaderboard as it is shown in a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from peftu.metrics import metrics
from peftu.report.verdict import Tone, verdict
from peftu.report.words import NOTHING, Scale, count, data_size, seconds
from peftu.results import USER_MAJORITY, MethodResult, RunRecord, Score

_STYLES: dict[Tone, str] = {"yes": "bold blue", "open": "bold", "no": "bold yellow"}


def leaderboard(record: RunRecord) -> Table:
    """Returns the methods, best first: mean ± half the 95 % interval over users, gain over user-majority, costs."""
    scale = Scale(metrics.get(record.task.main_metric))
    title = f"{record.task.title} · {record.regime} · {count(record.users)} users"
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=Text(title), title_justify="left", title_style="bold")
    table.add_column("method", overflow="fold")
    headings = (
        scale.title.lower(),
        f"gain over\n{USER_MAJORITY}",
        "helped/\nsame/hurt",
        "time\na user",
        "size\na user",
    )
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for result in ranked(record):
        name = Text(result.method)  # as text: rich would take the knobs in brackets for markup
        if result.base:
            name.append(f"\n  {result.base}", "dim")
        if result.unscored:
            name.append(f"\n  {count(result.unscored)} rows not scored")
        gain = None if result.name == USER_MAJORITY else result.gain.get(USER_MAJORITY)
        table.add_row(
            name,
            scale.give_or_take(Score(mean=result.mean, ci=result.ci)),
            NOTHING if gain is None else scale.give_or_take(gain, gain=True),
            helped(result),
            seconds(result.seconds_per_user),
            data_size(result.bytes_per_user),
            style="" if result.personal else "dim",
        )
    return table


def summary(record: RunRecord) -> Group:
    """Returns the leaderboard with the verdict in one sentence below it."""
    answer = verdict(record)
    line = Text.assemble((answer.headline + ". ", _STYLES[answer.tone]), answer.text)
    return Group(leaderboard(record), line)


def ranked(record: RunRecord) -> list[MethodResult]:
    """Returns the results, best first; those without a score last."""
    sign = -1.0 if metrics.get(record.task.main_metric).higher_is_better else 1.0
    return sorted(record.methods, key=lambda result: (result.mean is None, sign * (result.mean or 0.0)))


def helped(result: MethodResult) -> str:
    """Returns 'helped/unchanged/hurt' against user-majority; a dash where there is nothing to compare."""
    if result.helped is None or result.name == USER_MAJORITY:
        return NOTHING
    return f"{result.helped}/{result.unchanged}/{result.hurt}"
