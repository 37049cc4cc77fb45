"""What differs about single users, in words."""

from peftu.judge.shapes import Shift
from peftu.report.blocks import Section, Table
from peftu.report.view import RunView
from peftu.report.words import plural

_MOST = 12


def shifts(view: RunView) -> Section | None:
    """Returns the labels that users give clearly more or less often than others give them to the same texts."""
    judgement = view.judgement
    if judgement is None or not judgement.shifts:
        return None
    clearest: dict[int, Shift] = {}
    for shift in sorted(judgement.shifts, key=lambda shift: shift.p):
        clearest.setdefault(shift.user, shift)
    rows = tuple((f"user {user}", shift.words) for user, shift in clearest.items())
    shown = rows[:_MOST]
    caption = f"The clearest shift of {plural(len(shown), 'user')}"
    caption += f", of {len(rows)} with a clear one." if len(rows) > len(shown) else "."
    table = Table(f"{caption} Users are numbered in a fixed order.", ("user", "in words"), shown, words=(1,))
    lead = "Labels that a user gives more or less often than others give them to the same texts."
    return Section("shifts", "What differs about these users?", "Users", (table,), lead=lead)
