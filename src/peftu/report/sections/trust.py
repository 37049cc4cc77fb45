"""What weighs on the numbers: the split's leakage, exclusions, rows without a score, the data's terms."""

from collections.abc import Mapping
from typing import Any

from peftu.report.blocks import Facts, Section
from peftu.report.view import RunView
from peftu.report.words import Scale, count

_PERCENT = Scale.of_shares()
_LEAKS = {
    "test_rows": "test rows",
    "text_seen_same_user": "with a text that the same user trained on",
    "text_seen_other_users": "with a text that other users trained on",
    "near_duplicates": "test texts that differ from a training text in spelling only",
    "item_overlap": "of the test items are training items of somebody",
    "context_seen": "with a context that stands in training rows",
    "user_seen": "of users with training rows",
    "later_same_user": "older than a training row of the same user",
    "later_other_users": "older than a training row of another user",
}


def trust(view: RunView) -> Section:
    """Returns what a reader must know before trusting the numbers."""
    record = view.record
    excluded = "; ".join(f"{count(users)} {reason}" for reason, users in record.excluded_users.items())
    cut, shortened = (
        "; ".join(f"{count(texts)} by {base}" for base, texts in counts.items() if texts)
        for counts in (record.truncated_texts, record.shortened_texts)
    )
    unscored = f"{count(record.unscored)} of {count(record.scored + record.unscored)} test rows, over all methods"
    facts = [
        ("Split", f"{record.regime} · {record.split}"),
        ("Seen in training", "; ".join(_leaks(record.leakage)) or "not reported"),
        ("Users left out", excluded or "none"),
        ("Rows not scored", unscored + ("; they are in no average" if record.unscored else "")),
        ("Judged texts cut short", cut or "none"),
        ("What stands beside them cut short", shortened or "none"),
        ("Data", f"{record.task.title}, version {record.task.version}, licence {record.task.licence}"),
        ("Citation", record.task.citation),
    ]
    if record.task.superseded_by:
        facts.append(("Superseded", f"use {record.task.superseded_by} instead"))
    return Section("trust", "Before you trust these numbers", "Trust", (Facts(tuple(facts)),))


def _leaks(leakage: Mapping[str, Any]) -> list[str]:
    """Returns a leakage report in words; reports of several seeds are averaged."""
    reports = [report for report in leakage.values() if isinstance(report, Mapping)] or [leakage]
    words = []
    for key in dict.fromkeys(key for report in reports for key in report):
        values = [float(report[key]) for report in reports if isinstance(report.get(key), int | float)]
        if not values:
            continue
        mean = sum(values) / len(values)
        share = all(isinstance(report.get(key), float) for report in reports)
        name = _LEAKS.get(key, key.replace("_", " "))
        words.append(f"{_PERCENT.number(mean)} % {name}" if share else f"{count(mean)} {name}")
    return words
