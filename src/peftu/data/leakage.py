"""What the test rows of a split share with its training rows."""

import polars as pl

from peftu.data.texts import distinct_texts, with_text_keys

Leakage = dict[str, float | int]


def leakage_report(frame: pl.DataFrame) -> Leakage:
    """Returns what test rows share with training rows.

    Args:
        frame: user_id, item_id, text, context, part; time where there is one.

    Returns:
        ``test_rows``; ``text_seen_same_user`` and ``text_seen_other_users``: the share of test rows whose text (but
        for spelling) the same user or another one trained on; ``near_duplicates``: distinct test texts that differ
        from some training text in spelling only; ``item_overlap``: the share of test items that are training items;
        ``context_seen``: the share of test rows with a context that stands in training rows; ``user_seen``: the share
        of test rows whose user has training rows. With times also ``later_same_user`` and ``later_other_users``: the
        share of test rows with a later training row of the same user or of another.
    """
    frame = with_text_keys(frame)
    train, test = sides(frame, "train", "test")
    everyone = train.group_by("text_key").agg(pl.len().alias("everyone"))
    by_user = train.group_by("text_key", "user_id").agg(pl.len().alias("same_user"))
    seen = (
        test.select("text_key", "user_id")
        .join(everyone, on="text_key", how="left")
        .join(by_user, on=["text_key", "user_id"], how="left")
        .select(pl.col("everyone", "same_user").fill_null(0))
    )
    trained, tested = (distinct_texts(part) for part in (train, test))
    respelt = tested.join(trained, on=["text", "context"], how="anti", nulls_equal=True)
    items = test["item_id"].unique()
    contexts = train["context"].drop_nulls().unique().to_list()
    report: Leakage = {
        "test_rows": test.height,
        "text_seen_same_user": _share(seen["same_user"] > 0),
        "text_seen_other_users": _share(seen["everyone"] > seen["same_user"]),
        "near_duplicates": respelt.join(trained, on="text_key", how="semi").height,
        "item_overlap": _share(items.is_in(train["item_id"].unique().to_list())),
        "context_seen": _share(test["context"].is_in(contexts).fill_null(value=False)),
        "user_seen": _share(test["user_id"].is_in(train["user_id"].unique().to_list())),
    }
    return report | _later(train, test) if "time" in frame and frame["time"].count() else report


def sides(frame: pl.DataFrame, *parts: str) -> list[pl.DataFrame]:
    """Returns the rows of each of these parts."""
    return [frame.filter(pl.col("part") == part) for part in parts]


def _later(train: pl.DataFrame, test: pl.DataFrame) -> Leakage:
    """Returns the shares of test rows that some training row is later than; rows without a time are never that."""
    times = train.drop_nulls("time").group_by("user_id").agg(pl.col("time").max().alias("same_user"))
    last = times.sort("same_user", "user_id")
    top = last["same_user"].tail(2).to_list()
    latest = last["user_id"].tail(1).to_list()
    others = pl.when(pl.col("user_id").is_in(latest)).then(top[0] if len(top) > 1 else None)
    rows = test.join(last, on="user_id", how="left").with_columns(
        others.otherwise(top[-1] if top else None).cast(pl.Float64).alias("other_users")
    )
    return {
        f"later_{whose}": _share((rows[whose] > rows["time"]).fill_null(value=False))
        for whose in ("same_user", "other_users")
    }


def _share(seen: pl.Series) -> float:
    return float(seen.to_numpy().mean()) if len(seen) else 0.0
