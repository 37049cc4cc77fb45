"""The audit finds what it should, and says nothing of anybody by name."""

from peftu.config import SplitSpec
from peftu.data.audit import Finding, audit
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
    assert len({one.check for one in found}) == len(found) == 9


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
