"""A run resolved before any work: every default filled in, nothing asked for dropped in silence."""

from typing import Any

import pytest

from peftu.cli.spec import run_spec
from peftu.config import MethodSpec, RegionSpec, RunSpec
from peftu.errors import PeftuError
from peftu.experiment import method_list
from peftu.methods.everyone import Global
from peftu.methods.ia3 import Ia3
from peftu.methods.lora import Lora
from peftu.plan import Job, plan

FLAGS = (
    "task base methods seeds regime users min_items max_items epochs lr warm_start shrink option region setting config"
)


def planned(methods: str, **values: Any) -> list[Job]:
    asked = tuple(MethodSpec.parse(part) for part in method_list(methods))
    return plan(RunSpec(task="any", methods=asked, base="the-base", **values))


def from_flags(**flags: Any) -> RunSpec:
    return run_spec({**dict.fromkeys(FLAGS.split()), "task": "any", "methods": "lora", **flags})


def test_defaults_come_from_the_method_and_what_is_nearer_wins() -> None:
    (job,) = planned("lora")
    assert job.train.model_dump().items() >= Lora.train_defaults.items()
    assert (job.base, job.region, job.start, job.label) == ("the-base", None, None, "lora")
    (job,) = planned("lora", train={"lr": 0.5, "batch": 2})
    assert (job.train.lr, job.train.batch, job.train.epochs) == (0.5, 2, Lora.train_defaults["epochs"])
    (job,) = planned("lora[lr=0.25,rank=4,depth=2]@other", train={"lr": 0.5}, region=RegionSpec(span="answer"))
    assert (job.train.lr, job.method.rank, job.base) == (0.25, 4, "other")
    assert job.region == RegionSpec(depth=2, span="answer")
    assert job.label == "lora[depth=2,lr=0.25,rank=4]"


def test_reference_methods_take_a_base_only_where_it_helps() -> None:
    majority, head, zero = planned("user-majority,mixed-head,zero-shot")
    assert (majority.base, head.base, zero.base) == (None, "the-base", "the-base")
    with pytest.raises(PeftuError, match="user-majority: takes no base"):
        planned("user-majority@gpt2")


def test_a_warm_start_is_a_job_of_its_own() -> None:
    (job,) = planned("lora[rank=3,warm_start=global,shrink=2,depth=1]", train={"batch": 4})
    assert job.start is not None
    assert isinstance(job.start.method, Global)
    assert job.start.method.rank == job.method.rank == 3
    assert (job.start.base, job.start.region) == (job.base, job.region) == ("the-base", RegionSpec(depth=1))
    assert job.start.train.model_dump().items() >= {**Global.train_defaults, "batch": 4}.items()
    assert (job.start.train.warm_start, job.start.train.shrink, job.start.start) == ("none", 0, None)
    assert job.train.model_dump().items() >= {**Lora.train_defaults, **Lora.warm_defaults, "batch": 4}.items()
    everyone, own = planned("global,lora", train={"warm_start": "global", "shrink": 1.0})
    assert (everyone.start, everyone.train.warm_start) == (None, "none")
    assert own.start is not None
    assert own.train.shrink == 1


@pytest.mark.parametrize(
    ("everyone", "own"),
    [
        ("global", "lora[warm_start=global]"),
        ("global[rank=2]", "global+lora[rank=2]"),
        ("global[method=ia3]", "global+ia3"),
        ("global[method=adapter-pfeiffer,parallel=true]", "adapter-pfeiffer[warm_start=global,parallel=true]"),
        ("global[method=alora,depth=2]", "alora[warm_start=global,depth=2]"),
    ],
)
def test_a_start_and_the_same_global_are_one_training(everyone: str, own: str) -> None:
    first, second = planned(f"{everyone},{own}")
    assert second.start is not None
    assert second.start.resolved() == first.resolved()
    assert (first.card.name, first.card.scope, first.card.uses_others_labels) == ("global", "global", True)
    assert type(second.method) is not type(first.method)
    assert isinstance(first.method, type(second.method))  # the same module, whoever has it
    assert "warm_start=global" in second.label


def test_everyone_s_training_goes_by_the_method() -> None:
    (job,) = planned("global[method=ia3]")
    assert (job.train.lr, job.train.epochs) == (Ia3.train_defaults["lr"], Global.train_defaults["epochs"])
    assert planned("global")[0].train.lr == Lora.everyone_defaults["lr"]
    assert planned("global[method=lora]")[0].resolved() == planned("global")[0].resolved()


class _Family:
    layers = 4

    def __init__(self, kind: str) -> None:
        self.kind = kind


class _Base:
    name, default_region = "some-base", RegionSpec(depth=2, span="all")

    def __init__(self, kind: str) -> None:
        self.family = _Family(kind)

    def region(self, spec: RegionSpec) -> RegionSpec:
        return spec


def test_a_method_may_say_where_it_acts_and_on_what() -> None:
    base: Any = _Base("decoder")
    assert planned("lora")[0].region_on(base) == RegionSpec(depth=2, span="all")
    assert planned("alora")[0].region_on(base) == RegionSpec(depth=2, span="answer")
    assert planned("personal-head", region=RegionSpec(depth=3))[0].region_on(base) == RegionSpec(depth=1)
    encoder: Any = _Base("encoder")
    complaint = "alora: needs a base of family decoder or encoder-decoder, some-base is of family encoder — use .*smol"
    with pytest.raises(PeftuError, match=complaint):
        planned("alora")[0].region_on(encoder)


@pytest.mark.parametrize(
    ("methods", "complaint"),
    [
        ("lorra", "unknown method 'lorra' — did you mean 'lora'"),
        ("lora[rnak=4]", "method lora: unknown setting 'rnak' — did you mean 'rank'"),
        ("lora[rank=0]", "method lora: rank"),
        ("lora[rank=four]", "method lora: rank"),
        ("lora[targets=q+vv]", "method lora: targets"),
        ("lora[lr=-1]", "method lora: lr"),
        ("lora[span=answers]", "method lora: span"),
        ("lora[warm_start=everyone]", "method lora: warm_start"),
        ("lora[shrink=1]", "method lora: shrink pulls towards a warm start — add warm_start=global"),
        ("global[warm_start=global]", "method global: warm_start is for modules of single users"),
        ("alora[span=all]", "method alora: acts at span=answer only"),
        ("global[method=iaa3]", "'iaa3' trains no module of a user's own — did you mean 'ia3'"),
        ("global[method=mixed-head]", "'mixed-head' trains no module of a user's own — "),
        ("global[method=global]", "'global' trains no module of a user's own — "),
        ("global+lora[warm_start=none]", "method global+lora: 'global+' says where it starts"),
        ("global+zero-shot", "method zero-shot: unknown setting 'warm_start'"),
        ("globe+lora", "unknown method 'globe+lora'"),
        ("global[shrink=1]", "method global: shrink is for modules of single users"),
        ("user-majority[epochs=3]", "method user-majority: unknown setting 'epochs'"),
        ("zero-shot[depth=3]", "method zero-shot: unknown setting 'depth'"),
        ("mixed-head[batch=3]", "method mixed-head: unknown setting 'batch'"),
        ("lora,zero-shot,lora", "'lora' stands twice"),
        ("lora,lora@the-base", "'lora@the-base' stands twice"),
        ("lora[rank=4", "not of the form"),
        ("lora rank=4", "not of the form"),
        ("lora[rank]", "not of the form"),
        ("lora@", "not of the form"),
        ("lora[rank=4,rank=8]", "method lora: 'rank' stands twice — write it once"),
        ("lora[=4]", "method lora: '=4' is not of the form key=value"),
        ("lora[alpha=inf]", "alpha"),
        ("mixed-head[text=inf]", "method mixed-head: text: is inf — write a finite number"),
    ],
)
def test_a_wrong_method_is_refused_in_one_line(methods: str, complaint: str) -> None:
    with pytest.raises(PeftuError) as caught:
        planned(methods)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"train": {"epoch": 3}}, "unknown setting 'epoch' — did you mean 'epochs'"),
        ({"train": {"shrink": 1.0}}, "shrink pulls towards a warm start"),
        ({"train": {"lr": "high"}}, "lr"),
    ],
)
def test_wrong_training_settings_are_refused_whatever_the_method(values: dict[str, Any], complaint: str) -> None:
    for methods in ("lora", "user-majority"):
        if "shrink" in complaint and methods != "lora":
            continue
        with pytest.raises(PeftuError) as caught:
            planned(methods, **values)
        assert complaint in str(caught.value)
        assert "\n" not in str(caught.value)


# --- from flags ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("a[k=1,l=2]@x,b", ["a[k=1,l=2]@x", "b"]),
        ("a,b[k=1,l=q+v],c@./m", ["a", "b[k=1,l=q+v]", "c@./m"]),
        (" a , b,", [" a ", " b"]),
        ('a[k=["x","y"],l=["z"]],b', ['a[k=["x","y"],l=["z"]]', "b"]),
        ("a[k=1,b", ["a[k=1,b"]),
        ("a]b,c[k=1,l=2]", ["a]b", "c[k=1,l=2]"]),
    ],
)
def test_methods_are_divided_at_commas_outside_brackets(text: str, parts: list[str]) -> None:
    assert method_list(text) == parts


def test_settings_reach_where_they_are_meant() -> None:
    spec = from_flags(setting=["train.batch=16", "split.min_items=5", "max_tokens=64", "region.depth=2"])
    assert spec.train == {"batch": 16}
    assert (spec.split.min_items, spec.max_tokens) == (5, 64)
    assert spec.region == RegionSpec(depth=2)
    spec = from_flags(region="span=answer", setting=["region.depth=2"])
    assert spec.region == RegionSpec(depth=2, span="answer")
    assert from_flags(setting=["seeds=[3,4]"]).seeds == (3, 4)
    assert list(map(str, from_flags(setting=["methods=user-majority,ia3"]).methods)) == ["user-majority", "ia3"]


def test_a_preset_is_used_wherever_it_is_named(tmp_path: Any) -> None:
    """Named by -s alone it once stood in the record, and none of its settings in the run."""
    asked = from_flags(task="tweeteval", preset="paper")
    assert asked.train["lr"] == 2e-5
    assert from_flags(task="tweeteval", setting=["preset=paper"]) == asked
    assert from_flags(task="tweeteval", setting=["preset=paper"], preset="tuned") == asked
    path = tmp_path / "run.yaml"
    path.write_text("preset: paper\n")
    assert from_flags(task="tweeteval", config=path) == asked


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"setting": ["max_token=64"]}, "unknown setting 'max_token' — did you mean 'max_tokens'"),
        ({"setting": ["split.min_item=5"]}, "unknown setting 'split.min_item' — did you mean 'min_items'"),
        ({"setting": ["max_tokens"]}, "key=value"),
        ({"setting": ["task.name=x"]}, "task"),
        ({"setting": ["methods.rank=4"]}, "methods"),
        ({"setting": ["seeds=3"]}, "seeds"),
        ({"regime": "within-users"}, "within-user"),
        ({"region": "dept=2"}, "did you mean 'depth'"),
        ({"methods": ","}, "run: methods: names no method — write one, as lora"),
        ({"setting": ["methods=[]"]}, "run: methods: names no method — write one, as lora"),
        ({"methods": ""}, "--methods: is empty — give it a value, or leave it out"),
        ({"base": " "}, "--base: is empty"),
        ({"region": ""}, "--region: is empty"),
        ({"warm_start": ""}, "--warm-start: is empty"),
        ({"preset": ""}, "--preset: is empty"),
        ({"setting": [""]}, "-s: is empty — write key=value, or leave it out"),
        ({"setting": ["max_tokens=64", "generate"]}, "-s: 'generate' is not of the form key=value"),
        ({"setting": ["=3"]}, "-s: '=3' is not of the form key=value"),
        ({"setting": ["train.lr=0.1", "train.lr=0.2"]}, "-s: 'train.lr' stands twice — write it once"),
        ({"setting": ["train.lr=0.1,train.lr=0.2"]}, "-s: 'train.lr' stands twice — write it once"),
        ({"setting": ["preset=papers"]}, "preset 'papers' is not known — did you mean 'paper'"),
        ({"setting": ["task=epic"]}, "-s: task=epic is another task than 'any' — write it once"),
        ({"option": ["group"]}, "--option"),
        ({"option": [""]}, "--option: is empty"),
        ({"option": ["group=a", "group=b"]}, "--option: 'group' stands twice"),
    ],
)
def test_a_wrong_flag_is_refused_in_one_line(flags: dict[str, Any], complaint: str) -> None:
    with pytest.raises(PeftuError) as caught:
        from_flags(**flags)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("split: 3\n", "split"),
        ("methods: 3\n", "list methods"),
        ("train: [1, 2]\n", "train"),
        ("max_token: 3\n", "did you mean 'max_tokens'"),
        ("- a\n", "key: value"),
        ("a: [1\n", "not valid YAML"),
        ("", "key: value"),
    ],
)
def test_a_wrong_config_file_is_refused_in_one_line(text: str, complaint: str, tmp_path: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(PeftuError) as caught:
        from_flags(config=path, users=3, epochs=2, methods=None if "methods" in text else "lora")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_config_file_that_is_no_text_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PeftuError, match="cannot be read"):
        from_flags(config=path)


@pytest.mark.parametrize(
    "listed",
    ["[user-majority, 'lora[rank=4,lr=0.1]@b']", "user-majority,lora[rank=4,lr=0.1]@b",
     "[{name: user-majority}, {name: lora, params: {rank: 4, lr: 0.1}, base: b}]"],
)  # fmt: skip
def test_a_file_names_the_methods_where_no_flag_does(listed: str, tmp_path: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"methods: {listed}\n")
    assert list(map(str, from_flags(config=path, methods=None).methods)) == ["user-majority", "lora[lr=0.1,rank=4]@b"]
    assert list(map(str, from_flags(config=path).methods)) == ["lora"]


def test_flags_win_over_the_file(tmp_path: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("base: b\nseeds: [5]\nsplit: {users: 9, min_items: 4}\ntrain: {lr: 0.5, batch: 2}\n")
    spec = from_flags(config=path, users=3, lr=0.1)
    assert (spec.base, spec.seeds, spec.split.users, spec.split.min_items) == ("b", (5,), 3, 4)
    assert spec.train == {"lr": 0.1, "batch": 2}
    assert from_flags(config=path, base="c", seeds=2).seeds == (0, 1)
