"""How far one could go: what others' judgements of the same texts would give, and how much of that is reached."""

from peftu.report.blocks import Block, Picture, Pictures, Section, Table
from peftu.report.charts.rows import Row, panel_rows
from peftu.report.sections.tables import bounds, span
from peftu.report.view import RunView
from peftu.report.words import Scale, count

_SHARE = Scale.of_shares()


def ceilings(view: RunView) -> Section | None:
    """Returns the ceilings, and the share of the way to them that each method goes."""
    found = view.judgement
    if found is None or not found.ceilings:
        return None
    rows = tuple(
        (
            one.title,
            view.scale.number(one.score.mean),
            bounds(view.scale, one.score),
            count(one.users),
            count(one.scored),
            count(one.unscored),
        )
        for one in found.ceilings
    )
    caption = "Computed from judgements, without a model, on the same test rows."
    if any(one.oracle for one in found.ceilings):
        caption += " An oracle has seen the test labels themselves: nobody could use it."
    head = ("ceiling", view.scale.title, "95 % interval", "users", "rows", "rows it cannot say anything of")
    blocks: list[Block] = [Table(caption, head, rows), *_closed(view)]
    lead = (
        "What people's judgements of the very same text could give: a yardstick for how much there is to know about a "
        "user. No method has them."
    )
    return Section("ceilings", "How far could one go?", "Ceilings", tuple(blocks), lead=lead)


def _closed(view: RunView) -> list[Block]:
    """Returns for each ceiling how much of the gap above user-majority the personal methods close."""
    found = view.judgement
    if found is None:
        return []
    titles: dict[str, str] = {ceiling.name: ceiling.title for ceiling in found.ceilings}
    pictures, rows = [], []
    for name in dict.fromkeys(one.ceiling for one in found.closed):
        drawn = []
        for one in found.closed:
            if one.ceiling != name or one.share.mean is None:
                continue
            rows.append((one.label, titles.get(name, name), f"{_SHARE.number(one.share.mean)} %",
                         bounds(_SHARE, one.share), count(one.users)))  # fmt: skip
            if one.label in view.by_label and view.by_label[one.label].personal:
                drawn.append(Row(view.name(one.label), *span(one.share, 100)))
        if drawn:
            drawn.sort(key=lambda row: -row.mean)
            title = f"{drawn[0].name} goes {drawn[0].mean:.0f} % of the way to this ceiling"
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
    caption = "Share of the way from user-majority to a ceiling."
    numbers = Table(caption, ("method", "ceiling", "share closed", "95 % interval", "users"), tuple(rows), words=(1,))
    return [Pictures(tuple(pictures), numbers=numbers)]
