"""How sure: ranks, tests between methods, and what other users or items would have changed."""

from peftu.judge import Judgement
from peftu.report.blocks import Block, Picture, Pictures, Section, Table
from peftu.report.charts.ranks import Rank, rank_chart
from peftu.report.sections.tables import bounds, chance
from peftu.report.view import RunView
from peftu.report.words import NOTHING, Scale, join, plural

_SHARE = Scale.of_shares()


def certainty(view: RunView) -> Section | None:
    """Returns which methods can be told apart, and how far the numbers would move."""
    found = view.judgement
    if found is None or len(found.standings) < 2:
        return None
    blocks: list[Block] = [*_ranks(view, found), _standings(found), *_intervals(view, found), *_pairs(view, found)]
    return Section("certainty", "How sure is that?", "How sure", tuple(blocks), lead=_lead(view, found))


def _lead(view: RunView, found: Judgement) -> str:
    text = ""
    if found.detectable is not None:
        text = (
            f"With {plural(found.users, 'user')} like these, a true gain of {view.scale.number(found.detectable)} "
            f"{view.scale.unit} would be found four times out of five; smaller ones are easily missed."
        )
    if found.one_item_users:
        text += f" {plural(found.one_item_users, 'user')} had a single test item; they count, and widen the intervals."
    return text.strip()


def _ranks(view: RunView, found: Judgement) -> list[Block]:
    difference = found.critical_difference
    standings = [one for one in found.standings if one.mean_rank is not None]
    standings.sort(key=lambda one: one.mean_rank or 0.0)
    if difference.distance is None or len(standings) < 2:
        return []
    ranks = [Rank(one.label, one.mean_rank or 0.0, _personal(view, one.label)) for one in standings]
    alike = next((group for group in difference.groups if group[0] == standings[0].label), ())
    first = view.name(standings[0].label)
    title = f"{first} ranks best, and apart from all others"
    if alike:
        title = f"{first} ranks best, but {join([view.name(label) for label in alike[1:]])} cannot be told from it"
    picture = Picture(
        title=title,
        note=f"users each rank the methods; mean ranks nearer than {difference.distance:.2f} (grey band) may be chance",
        svg=rank_chart(ranks, difference.groups, difference.distance),
        narrow=rank_chart(ranks, difference.groups, difference.distance, narrow=True),
        alt="Mean ranks: " + "; ".join(f"{one.name} {one.rank:.2f}" for one in ranks)
        + ". Not told apart: " + "; ".join(join(group) for group in difference.groups),
    )  # fmt: skip
    lead = (
        f"A critical-difference picture: the methods a bar joins cannot be told apart by Nemenyi's test over "
        f"{plural(difference.users, 'user')} (Friedman's test that all are alike: p {_p(difference.friedman_p)})."
    )
    return [Pictures((picture,), lead=lead, columns=1)]


def _standings(found: Judgement) -> Table:
    rows = tuple(
        (
            one.label,
            str(one.rank),
            NOTHING if one.ci is None else f"{one.ci[0]} to {one.ci[1]}",
            f"{_SHARE.number(one.first)} %",
            NOTHING if one.mean_rank is None else f"{one.mean_rank:.2f}",
        )
        for one in found.standings
    )
    caption = "Places on the board when the users are drawn again and again."
    head = ("method", "place", "95 % of draws", "first in", "mean rank over users")
    return Table(caption, head, rows)


def _intervals(view: RunView, found: Judgement) -> list[Block]:
    rows = []
    for one in found.intervals:
        spans = [
            NOTHING if span is None else f"{view.scale.number(span[0])} to {view.scale.number(span[1])}"
            for span in (one.by_user, one.by_item, one.two_way)
        ]
        spread = NOTHING if one.seed_sd is None else view.scale.number(one.seed_sd)
        rows.append((one.label, view.scale.number(one.mean), *spans, spread))
    caption = (
        "95 % intervals if other users, other items, or both could have been drawn. Where all users judge the same few "
        "texts, the last one is the honest one."
    )
    head = ("method", view.scale.title, "other users", "other items", "both", "standard deviation over seeds")
    return [Table(caption, head, tuple(rows), summary="Intervals over users and over items")] if rows else []


def _pairs(view: RunView, found: Judgement) -> list[Block]:
    rows = tuple(
        (
            f"{one.label} over {one.against}",
            view.scale.signed(one.gain.mean),
            bounds(view.scale, one.gain, gain=True),
            chance(one.p),
            chance(one.p_holm),
            "yes" if one.shown else "no",
        )
        for one in found.comparisons
    )
    caption = "Every pair of methods on the same users: sign-flip permutation test, corrected for all pairs (Holm)."
    head = ("pair", f"gain, {view.scale.unit}", "95 % interval", "p", "p corrected", "told apart")
    return [Table(caption, head, rows, summary=f"Tests of all {len(rows)} pairs")] if rows else []


def _personal(view: RunView, label: str) -> bool:
    return label in view.by_label and view.by_label[label].personal


def _p(value: float | None) -> str:
    shown = chance(value)
    return shown if shown.startswith("<") else f"= {shown}"
