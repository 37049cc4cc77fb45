"""Presets stand beneath what the user writes, and reach the method they are for."""

import json
from pathlib import Path
from typing import Any

import pytest

from peftu.cli.spec import run_spec
from peftu.config import MethodSpec, RunSpec
from peftu.errors import PeftuError
from peftu.plan import plan, without_settings
from peftu.preset import Preset, load_preset, shipped

FLAGS = (
    "task base methods seeds regime users min_items max_items epochs lr warm_start shrink option region setting config"
)


def from_flags(**flags: Any) -> RunSpec:
    return run_spec({**dict.fromkeys(FLAGS.split()), "task": "movielens", "methods": "lora", **flags})


def written(folder: Path, **values: Any) -> str:
    path = folder / "mine.json"
    path.write_text(json.dumps({"name": "mine", "note": "", **values}), encoding="utf-8")
    return str(path)


def test_the_paper_s_protocol() -> None:
    spec = from_flags(preset="paper", task="tweeteval")
    assert (spec.base, spec.preset, spec.task_options) == ("flan-t5-base", "paper", {"preset": "reference"})
    (job,) = plan(spec)
    train = job.train
    assert (train.lr, train.epochs, train.batch, train.warmup, train.weight_decay) == (2e-5, 8, 8, 0, 0.01)
    assert train.patience >= train.epochs
    assert job.region is not None
    assert (job.region.depth, job.region.span) == (None, "all")
    assert (job.method.rank, job.method.targets) == (8, ("q", "v"))
    assert spec.metric == {"multi": "any_match"}
    assert from_flags(preset="paper").task_options == {}  # movielens has no such preset


def test_what_the_user_writes_wins(tmp_path: Path) -> None:
    mine = written(
        tmp_path,
        base="all-minilm-l6-v2",
        train={"batch": 4, "epochs": 3},
        methods={"*": {"lora": {"rank": 2, "lr": 0.5, "depth": 1}}, "all-minilm-l6-v2": {"lora": {"rank": 3}}},
    )
    (job,) = plan(from_flags(preset=mine))
    assert (job.base, job.method.rank, job.train.lr, job.train.batch, job.train.epochs) == (
        "all-minilm-l6-v2", 3, 0.5, 4, 3,
    )  # fmt: skip
    assert job.region is not None
    assert job.region.depth == 1
    assert job.label == "lora"
    (job,) = plan(from_flags(preset=mine, base="other", lr=0.1, epochs=7, methods="lora[batch=2]"))
    assert (job.base, job.method.rank, job.train.lr, job.train.batch, job.train.epochs) == ("other", 2, 0.1, 2, 7)
    (job,) = plan(from_flags(preset=mine, methods="lora[rank=9]", region="depth=2,span=answer"))
    assert job.region is not None
    assert (job.method.rank, job.region.depth) == (9, 2)


def test_a_warm_start_has_settings_of_its_own(tmp_path: Path) -> None:
    mine = written(tmp_path, methods={"*": {"lora": {"lr": 0.5}, "global+lora": {"lr": 0.25, "shrink": 0.5}}})
    alone, warm = plan(from_flags(preset=mine, methods="lora,lora[warm_start=global]"))
    assert (alone.train.lr, alone.train.shrink) == (0.5, 0)
    assert (warm.train.lr, warm.train.shrink) == (0.25, 0.5)
    _, alone, _ = plan(from_flags(preset=mine, methods="lora+guard"))
    assert alone.train.lr == 0.5
    for asked in ({"warm_start": "global"}, {"setting": ["train.warm_start=global"]}):
        warm, cold, everyone = plan(from_flags(preset=mine, methods="lora,lora[warm_start=none],global", **asked))
        assert (warm.train.lr, warm.train.shrink, cold.train.lr) == (0.25, 0.5, 0.5)
        assert everyone.train.warm_start == "none"


def test_methods_that_a_preset_knows_nothing_of_are_named(tmp_path: Path) -> None:
    mine = written(tmp_path, methods={"a": {"lora": {}, "global": {"lr": 0.5}}})
    asked = "user-majority,lora@a,lora+guard@a,lora@b,ia3@a,lora[warm_start=global]@a"
    spec = from_flags(preset=mine, methods=asked)
    assert without_settings(spec, plan(spec)) == ["lora@b", "ia3@a", "lora[warm_start=global]@a"]
    whole = from_flags(preset=written(tmp_path, train={"lr": 0.5}), methods=asked)  # settings of every method
    assert without_settings(whole, plan(whole)) == []
    bare = from_flags(methods=asked)
    assert without_settings(bare, plan(bare)) == []


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_preset_plans(name: str) -> None:
    preset = load_preset(name)
    assert preset.name == name
    assert preset.note
    for base, of in preset.methods.items():
        for method in of:
            plain = method.removeprefix("global+")
            asked = MethodSpec(name=plain, params={} if plain == method else {"warm_start": "global"})
            known = {"smollm2-135m-instruct"} if base == "*" else {base}
            spec = RunSpec(task="any", methods=(asked,), base=min(known), settings={str(asked): of[method]})
            assert len(plan(spec)) == 1


def test_wrong_presets_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(PeftuError, match="preset 'papr' is not known — did you mean 'paper'"):
        load_preset("papr")
    with pytest.raises(PeftuError, match=r"none\.json: cannot be read"):
        load_preset(str(tmp_path / "none.json"))
    (tmp_path / "list.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(PeftuError, match="not a preset"):
        load_preset(str(tmp_path / "list.json"))
    with pytest.raises(PeftuError, match=r"unknown setting 'tran'.*did you mean 'train'"):
        load_preset(written(tmp_path, tran={}))
    assert Preset(name="x", note="").settings(MethodSpec(name="lora"), None) is None
