"""The audit finds what it should, and says nothing of anybody by name."""

import pytest

from peftu.config import SplitSpec
from peftu.data.audit import audit, audit_report
from peftu.data.audit_texts import Finding
from peftu.data.splits import make_split
from peftu.data.synthetic import synthetic_card, synthetic_table
from peftu.data.table import UserTable
from peftu.data.task import Row


def findings(rows: list[Row], regime: str = "within-user", **spec: int) -> dict[str, Finding]:
    table = UserTable.build(synthetic_card(), rows)
    return {one.check: one for one in audit(table, make_split(table, SplitSpec(regime=regime, **spec)))}


def rows_of(user: str, labels: str, text: str = "text") -> list[Row]:
    return [
        Row(user, f"i{n}", f"{text} {n}", ("likes" if label == "+" else "dislikes",)) for n, label in enumerate(labels)
    ]


def test_a_sound_table_has_no_warning() -> None:
    table = synthetic_table()
    found = audit(table, make_split(table, SplitSpec(regime="unseen-text")))
    assert {one.level for one in found} <= {"ok", "note"}
    assert len({one.check for one in found}) == len(found) == 14


def test_constant_and_twin_users_are_counted_without_their_names() -> None:
    rows = rows_of("somebody", "+" * 12) + rows_of("b", "+-" * 6) + rows_of("c", "+-" * 6) + rows_of("d", "+--" * 4)
    found = findings(rows)
    assert (found["constant-users"].level, found["constant-users"].count, found["constant-users"].of) == (
        "warning",
        1,
        4,
    )
    assert (found["twin-users"].level, found["twin-users"].count) == ("warning", 1)
    assert "somebody" not in str(found)


def test_respelt_texts_are_a_warning() -> None:
    rows = [
        Row("a", f"{n}-{v}", f"Text {n}{'!' * v}", ("likes" if n % 2 else "dislikes",))
        for n in range(20)
        for v in range(3)
    ]
    found = findings(rows)
    assert found["near-duplicates"].level == found["text-seen-same-user"].level == "warning"
    assert next(iter(found.values())).level == "warning"
    clean = findings(rows, "unseen-text")
    assert clean["near-duplicates"].level == clean["text-seen-same-user"].level == "ok"


def test_shared_texts_are_a_note_within_users() -> None:
    found = findings(rows_of("a", "+-" * 10) + rows_of("b", "-+" * 10))
    assert (found["text-seen-other-users"].level, found["item-overlap"].level) == ("note", "note")


def test_labels_in_texts_are_counted_as_words() -> None:
    rows = [
        *rows_of("a", "+-" * 10),
        Row("a", "x", "she LIKES it", ("likes",)),
        Row("a", "y", "dislikesome", ("likes",)),
    ]
    assert findings(rows)["label-in-text"].count == 1


def test_users_left_out_are_told_with_the_reason() -> None:
    found = findings(rows_of("a", "+-" * 10) + rows_of("b", "+-"), min_items=5)
    assert found["users-left-out"].count == 1
    assert "fewer than 5 items: 1" in found["users-left-out"].message


def test_labels_that_are_the_answer_are_a_warning() -> None:
    rows = [Row("a", f"{n}", f"note {n}: {label} it", (label,)) for n, label in enumerate(["likes", "dislikes"] * 20)]
    found = findings(rows)["label-in-text"]
    assert (found.level, found.count) == ("warning", 40)
    assert "100% of the answers are the label named, 50% would be by chance" in found.message
    turned = [row._replace(target=rows[n - 1].target) for n, row in enumerate(rows)]
    assert findings(turned)["label-in-text"].level == "note"


def test_words_that_tell_the_label() -> None:
    rows = [Row("a", f"{n}", f"note{n} code{n % 2} of something", (("likes", "dislikes")[n % 2],)) for n in range(60)]
    found = findings(rows)["telltale-words"]
    assert (found.level, found.count, found.of) == ("warning", 60, 60)
    mixed = [row._replace(text=row.text.replace("code1", "code0")) for row in rows]
    assert findings(mixed)["telltale-words"].level == "ok"
    few = [row if n < 20 else row._replace(text=f"note{n}") for n, row in enumerate(rows)]
    assert findings(few)["telltale-words"].level == "ok"  # ten texts a word may be luck


def test_similar_texts_are_told_with_examples() -> None:
    long = "the quick brown fox jumps over the lazy dog near the river bank on a sunny day, number"
    rows = [Row("a", f"{n}", f"{long} {n:02}", (("likes", "dislikes")[n % 2],)) for n in range(40)]
    table = UserTable.build(synthetic_card(), rows)
    split = make_split(table, SplitSpec(regime="unseen-text"))
    found, details = audit_report(table, split)
    assert (found[0].check, found[0].level, found[0].count) == ("similar-texts", "warning", 4)
    assert len(details["similar_texts"]) == 3
    assert all(0.8 <= pair["similarity"] < 1 and len(pair["test"]) <= 80 for pair in details["similar_texts"])
    assert findings(rows)["similar-texts"].level == "note"


def test_parts_say_how_many_items_are_shared() -> None:
    table = synthetic_table(4, 20)
    _, details = audit_report(table, make_split(table, SplitSpec(regime="unseen-text")))
    assert details["parts"][0] == {
        "part": "train",
        "rows": 64,
        "users": 4,
        "items": 16,
        "shared_items": 16,
        "users_per_item": 4,
    }
    assert [part["rows"] for part in details["parts"]] == [64, 8, 8]


def test_the_future_is_a_note_but_where_time_divides() -> None:
    table = synthetic_table(4, 20)
    later = {one.check: one for one in audit(table, make_split(table))}
    assert (later["later-same-user"].level, later["later-other-users"].level) == ("note", "note")
    timed = {one.check: one for one in audit(table, make_split(table, SplitSpec(regime="temporal")))}
    assert (timed["later-same-user"].level, timed["later-other-users"].level) == ("ok", "ok")


def test_unseen_users_are_unseen() -> None:
    table = synthetic_table(10, 20)
    none = {one.check: one for one in audit(table, make_split(table, SplitSpec(regime="unseen-user", k=0)))}
    assert none["user-seen"].count == 0
    some = {one.check: one for one in audit(table, make_split(table, SplitSpec(regime="unseen-user", k=1)))}
    assert some["user-seen"].count == some["user-seen"].of == 38


@pytest.mark.parametrize("kind", ["multi", "ordinal", "text"])
def test_every_kind_of_task(kind: str) -> None:
    table = synthetic_table(5, 20, kind)  # type: ignore[arg-type]
    assert len(audit(table, make_split(table))) == 14
