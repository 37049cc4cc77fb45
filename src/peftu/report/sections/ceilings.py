"""How far one could go: what others' judgements of the same texts would give, and how much of that is reached."""

from peftu.report.blocks import Block, Picture, Pictures, Section, Table
from peftu.report.charts.rows import Row, panel_rows
from peftu.report.names import above, capital
from peftu.report.sections.tables import bounds, span
from peftu.report.view import RunView
from peftu.report.words import Scale, count, join
from peftu.results import MethodResult
from peftu.stats import SAME

_SHARE = Scale.of_shares()
_BEYOND = {
    "others-majority": "what most others say is no limit for one who knows the user",
    "others-threshold": "an oracle of others' votes knows nothing of the text itself",
    "self-consistency": "only texts that a user judged twice count there, often the hard ones",
}


def ceilings(view: RunView) -> Section | None:
    """Returns the ceilings, and the share of the way to them that each method goes."""
    judgement = view.judgement
    if judgement is None or not judgement.ceilings:
        return None
    rows = tuple(
        (
            ceiling.title,
            view.scale.number(ceiling.score.mean),
            bounds(view.scale, ceiling.score),
            count(ceiling.users),
            count(ceiling.scored),
            count(ceiling.unscored),
        )
        for ceiling in judgement.ceilings
    )
    caption = "Computed from judgements, without a model, on the same test rows."
    if any(ceiling.oracle for ceiling in judgement.ceilings):
        caption += " An oracle has seen the test labels themselves: nobody could use it."
    head = ("ceiling", view.scale.title, "95 % interval", "users", "rows", "rows it cannot say anything of")
    blocks: list[Block] = [Table(caption, head, rows), *_closed(view)]
    lead = (
        "What people's judgements of the very same text could give: a yardstick for how much there is to know about a "
        f"user. No method has them.{_passed(view)}"
    )
    return Section("ceilings", "How far could one go?", "Ceilings", tuple(blocks), lead=lead)


def _passed(view: RunView) -> str:
    """Returns which methods have a better average than a ceiling, and why that can be."""
    judgement, sign = view.judgement, 1 if view.scale.metric.higher_is_better else -1
    scored = [result for result in view.ranked if result.mean is not None]
    words = []
    for ceiling in judgement.ceilings if judgement else ():
        if ceiling.score.mean is None:
            continue
        passing = [r for r in scored if sign * ((r.mean or 0.0) - ceiling.score.mean) > SAME]
        if passing:
            names = join([view.short(result) for result in passing])
            words.append(f" {capital(names)} {'average' if len(passing) > 1 else 'averages'} better than "
                         f"'{ceiling.title}': {_BEYOND[ceiling.name]}.")  # fmt: skip
    return "".join(words)


def _closed(view: RunView) -> list[Block]:
    """Returns for each ceiling how much of the gap above user-majority the personal methods close."""
    judgement = view.judgement
    if judgement is None:
        return []
    titles: dict[str, str] = {ceiling.name: ceiling.title for ceiling in judgement.ceilings}
    pictures, rows = [], []
    for name in dict.fromkeys(gap.ceiling for gap in judgement.closed):
        drawn: list[Row] = []
        best: dict[str, MethodResult] = {}
        for gap in judgement.closed:
            if gap.ceiling != name or gap.share.mean is None:
                continue
            rows.append((above(gap.system), titles.get(name, name), f"{_SHARE.number(gap.share.mean)} %",
                         bounds(_SHARE, gap.share), count(gap.users)))  # fmt: skip
            if gap.system in view.results and view.results[gap.system].personal:
                drawn.append(Row(view.name(gap.system), *span(gap.share, 100)))
                best[view.name(gap.system)] = view.results[gap.system]
        if drawn:
            drawn.sort(key=lambda row: -row.mean)
            title = _finding(view, drawn[0], best[drawn[0].name])
            alt = "; ".join(f"{row.name} {row.mean:.0f} %" for row in drawn)
            pictures.append(
                Picture(
                    title,
                    panel_rows(drawn, "share of the gap closed, %", 0.0),
                    f"{titles.get(name, name)}: {alt}",
                    titles.get(name, name),
                )
            )
    if not pictures:
        return []
    caption = "Share of the way from each user's habit to a ceiling; 100 % is the ceiling."
    numbers = Table(caption, ("method", "ceiling", "share closed", "95 % interval", "users"), tuple(rows), words=(1,))
    return [Pictures(tuple(pictures), numbers=numbers)]


def _finding(view: RunView, first: Row, result: MethodResult) -> str:
    """Returns how far the method that goes furthest goes; a way it is not clearly on is none."""
    name = capital(first.name)
    if first.mean <= 0:
        return "No personal method is on the way to it"
    if view.habit_decision(result) != "better":
        return f"No personal method is clearly on the way to it; {first.name} averages {first.mean:.0f} % of it"
    if first.mean > 100:
        return f"{name} passes it, with {first.mean:.0f} % of the way"
    return f"{name} goes {first.mean:.0f} % of the way (95 % interval {first.low:.0f} to {first.high:.0f})"
