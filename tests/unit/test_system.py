"""One typed id for what stands on a line of a leaderboard."""

import polars as pl
import pytest

from peftu.judge.shapes import Standing
from peftu.system import System


@pytest.mark.parametrize(
    ("label", "method", "base"),
    [
        ("lora", "lora", None),
        ("lora@base", "lora", "base"),
        ("lora[rank=4]@/data/a@b/base", "lora[rank=4]", "/data/a@b/base"),
        ("few-shot[words=a@b,order=['x@y']]@./b", "few-shot[words=a@b,order=['x@y']]", "./b"),
        ("describe[words=a@b]", "describe[words=a@b]", None),
    ],
)
def test_a_label_is_a_method_and_a_base(label: str, method: str, base: str | None) -> None:
    system = System.parse(label)
    assert (system.method, system.base, system.label) == (method, base, label)


def test_plain_name_and_knobs() -> None:
    system = System("lora[rank=4,words=a@b]", "base")
    assert (system.name, system.knobs) == ("lora", ("rank=4", "words=a@b"))
    assert (System("global").name, System("global").knobs) == ("global", ())


def test_a_base_within_the_name_of_a_scored_file_is_the_same_system() -> None:
    assert System("mine@v2") == System("mine", "v2") != System("mine")
    assert len({System("mine@v2"), System("mine", "v2")}) == 1
    assert System("mine@v2").name == "mine"


def test_rows_of_a_system_are_its_own() -> None:
    frame = pl.DataFrame({"method": ["lora", "lora", "ia3"], "base": [None, "b", None]}, schema_overrides={"base": str})
    for place, system in enumerate((System("lora"), System("lora", "b"), System("ia3"))):
        assert frame.with_row_index().filter(system.rows)["index"].to_list() == [place]


def test_a_judgement_names_systems_by_their_labels_in_its_file() -> None:
    values = {"label": "lora[rank=4]@base", "rank": 1, "ci": None, "first": 1.0, "mean_rank": None}
    standing = Standing.model_validate(values)
    assert standing.system == System("lora[rank=4]", "base")
    assert standing.model_dump(mode="json") == values
    with pytest.raises(ValueError, match="no label of a method"):
        Standing.model_validate({**values, "label": 3})
