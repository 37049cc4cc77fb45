"""Specs: parsed from short texts, frozen, closed, and named by their canonical JSON."""

import json

import pytest
from pydantic import ValidationError

from peftu.config import MethodSpec, RegionSpec, RunSpec, SplitSpec, TrainSpec
from peftu.errors import PeftuError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("lora", MethodSpec(name="lora")),
        ("mixed-head@all-minilm-l6-v2", MethodSpec(name="mixed-head", base="all-minilm-l6-v2")),
        ("lora[rank=4, scale=0.5]@a/b", MethodSpec(name="lora", params={"rank": 4, "scale": 0.5}, base="a/b")),
        (
            'lora[targets=["q","v"],rank=2]@./a',
            MethodSpec(name="lora", params={"targets": ["q", "v"], "rank": 2}, base="./a"),
        ),
        ("lora[rank=2]@./a[1]", MethodSpec(name="lora", params={"rank": 2}, base="./a[1]")),
        ("lora@/data/a@b/base", MethodSpec(name="lora", base="/data/a@b/base")),
        ("few[shots=3,order=hash,own=true]", MethodSpec(name="few", params={"shots": 3, "order": "hash", "own": True})),
    ],
)
def test_methods_are_read_and_written_back(text: str, spec: MethodSpec) -> None:
    assert MethodSpec.parse(text) == spec
    assert MethodSpec.parse(str(spec)).name == spec.name


@pytest.mark.parametrize("text", ["", "lora[rank=4", "lora[rank]", "a b", "@base"])
def test_other_shapes_are_refused(text: str) -> None:
    with pytest.raises(PeftuError) as caught:
        MethodSpec.parse(text)
    assert "\n" not in str(caught.value)


def test_regions() -> None:
    assert RegionSpec.parse("depth=6,span=answer") == RegionSpec(depth=6, span="answer")
    assert RegionSpec.parse("depth=full") == RegionSpec() == RegionSpec.parse("")
    assert str(RegionSpec(depth=2)) == "depth=2,span=all"
    for bad in ("depth=0", "span=some", "width=3", "depth"):
        with pytest.raises(PeftuError) as caught:
            RegionSpec.parse(bad)
        assert "\n" not in str(caught.value)


def test_specs_are_frozen_and_closed() -> None:
    with pytest.raises(ValidationError):
        SplitSpec(min_items=2)
    with pytest.raises(ValidationError):
        TrainSpec(speed=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        SplitSpec().min_items = 5  # type: ignore[misc]


def test_the_run_id_is_of_the_content() -> None:
    spec = RunSpec(task="tweeteval", methods=(MethodSpec(name="lora", params={"b": 1, "a": 2}),))
    same = RunSpec(methods=(MethodSpec(name="lora", params={"a": 2, "b": 1}),), task="tweeteval")
    assert spec.run_id == same.run_id == spec.digest()[:12]
    assert RunSpec.model_validate_json(spec.canonical()) == spec
    assert json.loads(spec.canonical())["split"]["regime"] == "within-user"
    assert spec.model_copy(update={"seeds": (1,)}).run_id != spec.run_id
