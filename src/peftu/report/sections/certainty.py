"""How sure: ranks, tests between methods, and what other users or items would have changed."""

from peftu.judge import Judgement
from peftu.report.blocks import Block, Picture, Pictures, Section, Table
from peftu.report.charts.ranks import Rank, rank_chart
from peftu.report.names import above, capital, drawn, plain
from peftu.report.sections.tables import bounds, chance
from peftu.report.view import RunView
from peftu.report.words import NOTHING, Scale, join, plural
from peftu.system import System

_SHARE = Scale.of_shares()


def certainty(view: RunView) -> Section | None:
    """Returns which methods can be told apart, and how far the numbers would move."""
    judgement = view.judgement
    if judgement is None or len(judgement.standings) < 2:
        return None
    blocks: list[Block] = [
        *_ranks(view, judgement),
        _standings(judgement),
        *_intervals(view, judgement),
        *_pairs(view, judgement),
    ]
    return Section("certainty", "How sure is that?", "How sure", tuple(blocks), lead=_lead(view, judgement))


def _lead(view: RunView, judgement: Judgement) -> str:
    text, best = "", view.verdict.method
    gain = view.findings.over(best, view.findings.bar) if best else None
    if best is not None and gain is not None and gain.detectable:
        least = f"{view.scale.number(gain.detectable)} {view.scale.unit}"
        text = (
            f"With {plural(gain.users, 'user')} like these, a true gain of {view.short(best)} over "
            f"{plain(System(view.findings.bar))} is easily missed below {least}: a test of it alone would then miss it "
            "more than one time in five, and the more methods are tried, the more it takes."
        )
    if judgement.one_item_users:
        text += (
            f" {plural(judgement.one_item_users, 'user')} had a single test item; they count, and widen the intervals."
        )
    return text.strip()


def _ranks(view: RunView, judgement: Judgement) -> list[Block]:
    difference = judgement.critical_difference
    standings = [standing for standing in judgement.standings if standing.mean_rank is not None]
    standings.sort(key=lambda standing: standing.mean_rank or 0.0)
    if difference.distance is None or len(standings) < 2:
        return []
    ranks = [
        Rank(drawn(standing.system), standing.mean_rank or 0.0, _personal(view, standing.system))
        for standing in standings
    ]
    best = [standing for standing in standings if standing.mean_rank == standings[0].mean_rank]
    first, rank = join([view.name(standing.system) for standing in best]), f"{standings[0].mean_rank:.2f}"
    groups = [[drawn(system) for system in group] for group in difference.groups]
    picture = Picture(
        title=f"{capital(first)} {'have' if len(best) > 1 else 'has'} the best mean rank, {rank} of {len(standings)}",
        note=f"mean ranks nearer than {difference.distance:.2f} (grey band) may be chance",
        svg=rank_chart(ranks, groups, difference.distance),
        narrow=rank_chart(ranks, groups, difference.distance, narrow=True),
        alt="Mean ranks: " + "; ".join(f"{view.name(place.system)} {place.mean_rank:.2f}" for place in standings)
        + ". Joined: " + "; ".join(join([view.name(system) for system in group]) for group in difference.groups),
    )  # fmt: skip
    lead = (
        f"A second, coarser look, at ranks alone: {plural(difference.users, 'user')} each rank the methods, and a bar "
        f"joins those whose mean ranks may be alike (that all are: p {_p(difference.friedman_p)}). What is called "
        "clear rests on the pairs below."
    )
    return [Pictures((picture,), lead=lead, columns=1)]


def _standings(judgement: Judgement) -> Table:
    ranks = [standing.rank for standing in judgement.standings]
    rows = tuple(
        (
            above(standing.system),
            f"{standing.rank}{' (shared)' if ranks.count(standing.rank) > 1 else ''}",
            NOTHING if standing.ci is None else f"{standing.ci[0]} to {standing.ci[1]}",
            f"{_SHARE.number(standing.first)} %",
            NOTHING if standing.mean_rank is None else f"{standing.mean_rank:.2f}",
        )
        for standing in judgement.standings
    )
    caption = "Places on the board when the users are drawn again and again."
    head = ("method", "place", "95 % of draws", "first in", "mean rank over users")
    return Table(caption, head, rows)


def _intervals(view: RunView, judgement: Judgement) -> list[Block]:
    rows = []
    for interval in judgement.intervals:
        spans = [
            NOTHING if span is None else f"{view.scale.number(span[0])} to {view.scale.number(span[1])}"
            for span in (interval.by_user, interval.by_item, interval.two_way)
        ]
        spread = NOTHING if interval.seed_sd is None else view.scale.number(interval.seed_sd)
        rows.append((above(interval.system), view.scale.number(interval.mean), *spans, spread))
    caption = (
        "95 % intervals if other users, other items, or both could have been drawn. Where all users judge the same few "
        "texts, the last one is the honest one."
    )
    head = ("method", view.scale.title, "other users", "other items", "both", "standard deviation over seeds")
    return [Table(caption, head, tuple(rows), summary="Intervals over users and over items")] if rows else []


def _pairs(view: RunView, judgement: Judgement) -> list[Block]:
    rows = tuple(
        (
            f"{view.name(pair.system)} over {view.name(pair.against)}",
            view.scale.signed(pair.gain.mean),
            bounds(view.scale, pair.gain, gain=True),
            chance(pair.p),
            chance(pair.p_holm),
            view.scale.number(pair.detectable),
            pair.decision,
        )
        for pair in judgement.comparisons
    )
    caption = (
        "Every pair of methods on the same users. A pair with a reference method is corrected for the methods compared "
        "with that reference, all others for each other. Better or worse: ten users, an interval without 0, and a "
        "corrected p below 0.05. Found from: the true gain that a test of the pair alone would find four times out of "
        "five."
    )
    head = ("pair", f"gain, {view.scale.unit}", "95 % interval", "p", "p corrected", "found from", "decided")
    return [Table(caption, head, rows, summary=f"Tests of all {len(rows)} pairs")] if rows else []


def _personal(view: RunView, system: System) -> bool:
    return system in view.results and view.results[system].personal


def _p(value: float | None) -> str:
    shown = chance(value)
    return shown if shown.startswith("<") else f"= {shown}"
