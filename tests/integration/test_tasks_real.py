"""Every task on its real files, where they are: the counts of the files, the benchmark's own figures, the rules."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from peftu.config import SplitSpec
from peftu.data.agreement import statistics
from peftu.data.check import check_task
from peftu.data.reading import AGAIN, ANEW
from peftu.data.splits import make_problem, make_split
from peftu.data.table import UserTable
from peftu.data.task import tasks
from peftu.errors import PeftuError

Build = Callable[..., UserTable]
GREEN, BIO = "polis/american-assembly.bowling-green", "polis/scoop-hivemind.biodiversity"
DISCOURSE = "subjectivediscourse"


@pytest.fixture(scope="module")
def build(shared_data: Callable[[str], Path]) -> Build:
    """Returns a function: a task's checked table of a folder, by options."""

    @cache
    def table(name: str, folder: str, options: str) -> UserTable:
        return check_task(tasks.get(name), shared_data(folder), json.loads(options))

    return lambda name, folder=None, **options: table(name, folder or name, json.dumps(options))


def size(table: UserTable) -> tuple[int, int, int]:
    frame = table.frame
    return frame["user_id"].n_unique(), frame["item_id"].n_unique(), frame.height


@pytest.mark.parametrize(
    ("name", "folder", "options", "counts"),
    [
        ("hatexplain", None, {}, (236, 3846, 11538)),
        ("goemotions", None, {"unclear": "keep"}, (79, 4703, 4895)),
        ("goemotions", None, {"emotions": "all", "unclear": "keep"}, (79, 4703, 4895)),
        ("goemotions", None, {}, (79, 4652, 4837)),
        ("studemo", None, {}, (25, 5182, 7463)),
        ("subjectivediscourse-response", DISCOURSE, {}, (68, 1000, 6206)),
        ("subjectivediscourse-question-sentiment", DISCOURSE, {}, (68, 1000, 6206)),
        ("subjectivediscourse-response-sentiment", DISCOURSE, {}, (68, 1000, 6206)),
        ("cockamamie", None, {}, (309, 8120, 131330)),
        ("convabuse", None, {}, (8, 4052, 12182)),
        ("hatecheck", None, {}, (10, 3901, 19505)),
        ("multipico", None, {}, (506, 18778, 94342)),
        pytest.param("polis", GREEN, {"moderated": "keep"}, (2031, 896, 225524), marks=pytest.mark.slow),  # as BIO
        pytest.param("polis", GREEN, {}, (2010, 607, 225040), marks=pytest.mark.slow),  # as BIO
        pytest.param(
            "polis", GREEN, {"moderated": "keep", "min_examples": 50}, (1089, 823, 212123), marks=pytest.mark.slow
        ),  # as BIO
        ("polis", BIO, {"moderated": "keep"}, (536, 314, 29719)),
        ("polis", BIO, {"moderated": "keep", "min_examples": 50}, (303, 285, 26369)),
        ("polis", BIO, {}, (529, 154, 29188)),
        ("stackexchange-matheducators", "stackexchange/matheducators_2014", {}, (19, 318, 648)),
        ("stackexchange-beer", "stackexchange/beer_2017", {}, (16, 384, 474)),
        ("stackexchange-quantumcomputing", "stackexchange/quantumcomputing_2018", {}, (11, 429, 581)),
    ],
)
def test_users_texts_annotations(
    build: Build, name: str, folder: str | None, options: dict[str, Any], counts: tuple[int, int, int]
) -> None:
    assert size(build(name, folder, **options)) == counts


@pytest.mark.parametrize(
    ("name", "folder", "examples_per_user", "users_per_text", "alpha"),
    [
        ("tweeteval", None, 200.0, 20.0, 0.148),
        ("epic", None, 191.5, 4.73, 0.196),
        ("studemo", None, 296.44, 1.44, 0.164),
        ("subjectivediscourse-response", DISCOURSE, 91.26, 6.21, 0.494),
        ("subjectivediscourse-question-sentiment", DISCOURSE, 91.26, 6.21, 0.008),
        ("subjectivediscourse-response-sentiment", DISCOURSE, 91.26, 6.21, 0.013),
    ],
)
def test_the_reference_preset_gives_the_benchmark_s_figures(
    build: Build, name: str, folder: str | None, examples_per_user: float, users_per_text: float, alpha: float
) -> None:
    found = statistics(build(name, folder, preset="reference"))
    assert round(found["examples_per_user"], 2) == examples_per_user
    assert round(found["users_per_text"], 2) == users_per_text
    assert round(found["alpha_masi"], 3) == alpha


def test_studemo_s_reference_makes_labels_of_valence_and_arousal(build: Build) -> None:
    table = build("studemo", preset="reference")
    assert table.card.labels[-2:] == ("valence", "arousal")
    assert size(table) == (25, 5163, 7411)
    assert table.notes == {"judgements without an emotion": 52}
    usual = build("studemo")
    alone = usual.frame.filter(pl.col("target").list.contains("none"))
    assert alone["target"].list.len().unique().to_list() == [1]
    assert build("studemo", threshold=2).frame["target"].list.len().sum() < usual.frame["target"].list.len().sum()


def test_goemotions_leaves_out_aloud(build: Build) -> None:
    table = build("goemotions", preset="reference")
    assert table.card.labels == ("anger", "disgust", "fear", "joy", "sadness", "surprise")
    assert list(table.notes.values()) == [58, 1306, 2]
    assert table.frame.height + 58 + 1306 == 4895


def test_convabuse_keeps_the_first_of_repeated_judgements(build: Build) -> None:
    table = build("convabuse")
    assert table.notes == {AGAIN: 554, ANEW["first"]: 32}
    assert table.frame.height + 554 + 32 == 12768


def test_polis_leaves_out_what_moderators_turned_down(build: Build) -> None:
    assert build("polis", BIO).notes == {"votes on statements that the moderators turned down": 29719 - 29188}
    assert build("polis", BIO, moderated="keep").notes == {}


def test_multipico_has_its_published_parts(build: Build) -> None:
    table = build("multipico")
    split = make_split(table, SplitSpec(regime="published"))
    items = table.frame.join(split.frame, on=["user_id", "item_id"]).group_by("part").agg(pl.col("item_id").n_unique())
    assert dict(items.iter_rows()) == {"train": 12017, "val": 3005, "test": 3756}
    assert split.notes == {}


def test_multipico_s_english_part_is_epic(build: Build) -> None:
    keys = ["user_id", "item_id"]
    english = build("multipico", language="en").frame.with_columns(pl.col("item_id").str.extract(r"(\d+)$"))
    epic = build("epic").frame.with_columns(pl.col("item_id").str.extract(r"(\d+)$"))
    both = english.join(epic, on=[*keys, "text", "context"])
    assert both.height == epic.height == english.height
    assert both["target"].to_list() == both["target_right"].to_list()


def test_stack_exchange_by_option_and_by_name(build: Build) -> None:
    folder = "stackexchange/matheducators_2014"
    named, chosen = build("stackexchange-matheducators", folder), build("stackexchange", folder, site="matheducators")
    assert (named.hash, named.card) == (chosen.hash, chosen.card)
    assert named.frame["time"].null_count() == 0
    assert (
        not named.frame.select(pl.concat_str("text", pl.col("target").list.first()).str.contains("</p>")).sum().item()
    )
    assert size(build("stackexchange-matheducators", folder, preset="reference")) == (4, 91, 126)
    with pytest.raises(PeftuError, match=r"nothing is left \(.*answers by users with fewer than 20: "):
        build("stackexchange-beer", "stackexchange/beer_2017", preset="reference")


@pytest.mark.parametrize(
    ("name", "folder"),
    [("studemo", None), ("convabuse", None), ("polis", BIO), ("stackexchange-beer", "stackexchange/beer_2017")],
)
def test_every_kind_of_target_can_be_split(build: Build, name: str, folder: str | None) -> None:
    table = build(name, folder)
    split = make_split(table)
    assert all(split.counts().values())
    if table.card.kind != "text":
        target = make_problem(table, table.card, split).target
        assert (target.sum(1) >= 1).all()
        assert target.shape[1] == len(table.card.labels)
