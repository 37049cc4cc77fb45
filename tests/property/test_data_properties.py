"""What holds for any table: hashes and splits that depend on what they should, and on nothing else."""

from fractions import Fraction

import polars as pl
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from peftu.config import SplitSpec
from peftu.data.agreement import alpha
from peftu.data.problem import PARTS
from peftu.data.splits import Split, make_problem, make_split, part_sizes
from peftu.data.stratify import deal, deal_multi
from peftu.data.synthetic import LABELS, synthetic_card
from peftu.data.table import UserTable
from peftu.data.task import Row
from peftu.data.texts import normalise

KINDS = st.sampled_from(["single", "multi", "ordinal"])
REGIMES = st.sampled_from(["within-user", "unseen-text"])
KEYS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=4)
few = settings(max_examples=25, deadline=None)


@st.composite
def rows_of(draw: st.DrawFn, kind: str, users: int = 5, most: int = 14) -> list[Row]:
    """Rows of any keys: each user judges some of the items."""
    names = draw(st.lists(KEYS, min_size=1, max_size=users, unique=True))
    items = draw(st.lists(KEYS, min_size=4, max_size=most, unique=True))
    labels = st.sets(st.sampled_from(LABELS[kind]), min_size=1, max_size=3 if kind == "multi" else 1).map(tuple)
    first = draw(st.integers(4, len(items)))
    return [
        Row(name, item, f"on {item}", draw(labels))
        for place, name in enumerate(names)
        for item in (items[:first] if place else items)
    ]


def split_of(table: UserTable, spec: SplitSpec, seed: int = 0) -> Split:
    """The split, or another example where all texts are one but for spelling, so that nobody can be split."""
    if spec.regime == "unseen-text":
        assume(len(set(map(normalise, table.frame["text"]))) > 3)
    return make_split(table, spec, seed)


@few
@given(st.data(), KINDS, st.randoms(use_true_random=False))
def test_the_hash_does_not_depend_on_the_order_of_rows(data: st.DataObject, kind: str, random: object) -> None:
    rows = data.draw(rows_of(kind))
    table = UserTable.build(synthetic_card(kind), rows)
    random.shuffle(rows)  # type: ignore[attr-defined]
    other = UserTable.build(synthetic_card(kind), rows)
    assert other.hash == table.hash
    assert other.frame.equals(table.frame)


@few
@given(st.data(), KINDS, st.integers(0, 99))
def test_any_other_label_gives_another_hash(data: st.DataObject, kind: str, at: int) -> None:
    rows = data.draw(rows_of(kind))
    at %= len(rows)
    other = next((label,) for label in LABELS[kind] if (label,) != rows[at].target)
    changed = [*rows[:at], rows[at]._replace(target=other), *rows[at + 1 :]]
    assert UserTable.build(synthetic_card(kind), rows).hash != UserTable.build(synthetic_card(kind), changed).hash


@few
@given(st.data(), KINDS, REGIMES, st.integers(0, 5))
def test_a_split_is_a_partition_of_the_rows_of_its_users(
    data: st.DataObject, kind: str, regime: str, seed: int
) -> None:
    rows = data.draw(rows_of(kind))
    table = UserTable.build(synthetic_card(kind), rows)
    split = split_of(table, SplitSpec(regime=regime, min_items=4), seed)
    own = table.frame.filter(pl.col("user_id").is_in(split.users)).select("user_id", "item_id")
    assert split.frame.select("user_id", "item_id").equals(own)
    assert set(split.frame["part"]) <= set(PARTS)
    left_out = table.frame["user_id"].n_unique() - len(split.users)
    assert left_out == sum(split.excluded.values())
    for user in split.frame.partition_by("user_id"):
        assert {"train", "test"} <= set(user["part"])
        if regime == "within-user":
            sizes = part_sizes(user.height, (Fraction(8, 10), Fraction(1, 10), Fraction(1, 10)))
            assert [(user["part"] == part).sum() for part in PARTS] == sizes
    if regime == "unseen-text":
        assert split.leakage["text_seen_other_users"] == split.leakage["text_seen_same_user"] == 0
    problem = make_problem(table, table.card, split)
    assert len(problem.item_ids) == split.frame.height
    assert problem.target.sum() == sum(map(len, table.frame.join(split.frame, on=["user_id", "item_id"])["target"]))


@few
@given(st.data(), KINDS, st.integers(0, 5), st.randoms(use_true_random=False))
def test_within_user_depends_on_nobody_else(data: st.DataObject, kind: str, seed: int, random: object) -> None:
    rows = data.draw(rows_of(kind))
    whole = make_split(UserTable.build(synthetic_card(kind), rows), SplitSpec(min_items=4), seed)
    one = data.draw(st.sampled_from(whole.users))
    own = [row for row in rows if row.user_id == one]
    random.shuffle(own)  # type: ignore[attr-defined]
    alone = make_split(UserTable.build(synthetic_card(kind), own), SplitSpec(min_items=4), seed)
    assert alone.frame.equals(whole.frame.filter(pl.col("user_id") == one))


@few
@given(st.data(), REGIMES, st.integers(1, 5))
def test_drawing_users_changes_no_row_of_theirs(data: st.DataObject, regime: str, users: int) -> None:
    table = UserTable.build(synthetic_card(), data.draw(rows_of("single")))
    whole = split_of(table, SplitSpec(regime=regime, min_items=4))
    drawn = make_split(table, SplitSpec(regime=regime, min_items=4, users=users))
    assert len(drawn.users) == min(users, len(whole.users))
    assert drawn.frame.equals(whole.frame.filter(pl.col("user_id").is_in(drawn.users)))


@few
@given(st.lists(st.integers(0, 4), min_size=3, max_size=60), st.integers(0, 2**64 - 1))
def test_every_stratum_gets_its_share(strata: list[int], turn: int) -> None:
    fractions = (Fraction(8, 10), Fraction(1, 10), Fraction(1, 10))
    sizes = part_sizes(len(strata), fractions)
    parts = deal(strata, list(range(len(strata))), sizes, turn)
    assert [parts.count(part) for part in range(3)] == sizes
    for stratum in set(strata):
        inside = [part for part, own in zip(parts, strata, strict=True) if own == stratum]
        for part in range(3):
            assert abs(inside.count(part) - len(inside) * sizes[part] / len(strata)) < 2


@few
@given(st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=3, max_size=40))
def test_several_labels_are_dealt_to_exact_sizes(labels: list[set[int]]) -> None:
    sizes = part_sizes(len(labels), (Fraction(8, 10), Fraction(1, 10), Fraction(1, 10)))
    parts = deal_multi([sorted(own) for own in labels], list(range(len(labels))), sizes)
    assert [parts.count(part) for part in range(3)] == sizes
    assert parts == deal_multi([sorted(own, reverse=True) for own in labels], list(range(len(labels))), sizes)


@few
@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert bool(normalise(text)) == bool(text.strip())


@few
@given(st.data(), KINDS)
def test_alpha_is_at_most_one(data: st.DataObject, kind: str) -> None:
    table = UserTable.build(synthetic_card(kind), data.draw(rows_of(kind)))
    value = alpha(table, "masi")
    assert value is None or value <= 1 + 1e-12
