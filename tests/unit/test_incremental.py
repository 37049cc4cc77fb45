"""A table that grew costs the cells whose users' rows changed, and a run says whose answers moved since."""

from pathlib import Path

import polars as pl

from peftu.cells.plan import Planner
from peftu.cells.spec import Reading
from peftu.config import MethodSpec, RunSpec, SplitSpec
from peftu.data.importer.frame import from_frame
from peftu.data.splits import make_problem, make_split
from peftu.execute.drift import drift
from peftu.plan import plan
from peftu.results import Hashes, RunRecord, TaskSummary, finish_folder
from peftu.testing import CPU

ROWS = pl.DataFrame(
    [
        (f"user {user:03}", f"text {(7 * user + item) % 90}", "ab"[(user + item) % 2])
        for user in range(300)
        for item in range(12)
    ],
    ["user", "text", "label"],
    orient="row",
)


def cells_of(frame: pl.DataFrame, method: str) -> list[tuple[str, tuple[str, ...]]]:
    """Returns the name and users of each cell of a method on a table."""
    table = from_frame(frame, user="user", text="text", label="label", name="mine")
    problem = make_problem(table, table.card, make_split(table, SplitSpec(), 0))
    (job,) = plan(RunSpec(task="mine", methods=(MethodSpec.parse(method),)))
    planner = Planner(problem, 0, Reading(64), lambda name: ("v2:sha256:0", CPU))
    return [(cell.name, cell.users) for cell in planner.cells(job)]


def test_a_newcomer_and_more_rows_change_the_shards_they_are_in() -> None:
    before = cells_of(ROWS, "lora")
    assert len(before) > 1
    newcomer = ROWS.filter(pl.col("user") == "user 000").with_columns(user=pl.lit("somebody new"))
    more = pl.DataFrame({"user": ["user 007"], "text": ["a text of its own"], "label": ["a"]})
    for grown, user in ((newcomer, "somebody new"), (more, "user 007")):
        after = cells_of(pl.concat([ROWS, grown]), "lora")
        changed = [users for name, users in after if name not in dict(before)]
        assert any(user in users for users in changed)
        assert len(changed) <= 2 < len(after) + 1
        assert sum(map(len, changed)) < 300
    assert cells_of(ROWS.reverse(), "lora") == before  # rows in another order are the same rows


def test_what_all_users_share_is_fitted_again_when_one_changes() -> None:
    more = pl.DataFrame({"user": ["user 007"], "text": ["a text of its own"], "label": ["a"]})
    for method in ("user-majority", "lora[warm_start=global]"):
        before = {name for name, _ in cells_of(ROWS, method)}
        assert not before & {name for name, _ in cells_of(pl.concat([ROWS, more]), method)}


def test_drift_counts_users_whose_answers_changed_among_items_in_both(tmp_path: Path) -> None:
    table = from_frame(ROWS, user="user", text="text", label="label", name="mine")

    def predictions(rows: list[tuple[str, str, str | None]]) -> pl.DataFrame:
        users, items, named = zip(*rows, strict=True)
        frame = pl.DataFrame({"user_id": users, "item_id": items})
        labels = pl.Series([None if label is None else [label] for label in named], dtype=pl.List(pl.String))
        place = {"method": pl.lit("lora"), "base": pl.lit(None, pl.String), "seed": pl.lit(0, pl.Int64)}
        return frame.with_columns(predicted=labels, **place)

    predictions([("u", "1", "a"), ("u", "2", "b"), ("v", "1", "a"), ("w", "1", None)]).write_parquet(
        tmp_path / "predictions.parquet"
    )
    record = RunRecord(
        run="x", spec_passed={}, spec={}, task=TaskSummary.of(table.card), regime="within-user",
        hashes=Hashes(data="sha256:0", splits={}), users=3,
    )  # fmt: skip
    finish_folder(tmp_path, record)
    now = predictions([("u", "1", "b"), ("u", "2", "b"), ("v", "1", "a"), ("w", "1", "a"), ("x", "9", "a")])
    assert drift(tmp_path, now) == [
        "since the version before, answers of lora changed for 2 of 3 users (50.0% of the answers that both gave)"
    ]
    assert drift(tmp_path / "nowhere", now) == []
