"""The task and the method in CONTRIBUTING.md are what it says: whole, and accepted."""

import re
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch

from peftu.config import MethodSpec, RunSpec
from peftu.data.check import check_task
from peftu.data.problem import Text
from peftu.data.synthetic import SyntheticTask, synthetic_rows
from peftu.data.task import Task, tasks
from peftu.errors import PeftuError
from peftu.execute.answer import answer
from peftu.execute.run import run
from peftu.execute.tune import tune
from peftu.experiment import method_list
from peftu.methods.describe import describe_method
from peftu.methods.method import MethodCard, TensorSpec, methods
from peftu.methods.module import Module
from peftu.plan import plan
from peftu.preset import load_preset
from peftu.results import load_run
from peftu.testing import check_method, load_tiny

torch.set_num_threads(1)

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
TASK = "synthetic-single"


def from_page(name: str) -> Any:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(next(block for block in blocks if f"class {name}" in block), found)  # noqa: S102 - our own page
    return found[name]


@pytest.fixture
def task() -> type[Task]:
    return from_page("Jokes")


def card_of(name: str, **changes: Any) -> MethodCard:
    return from_page("Shift").card.model_copy(update={"name": name, **changes})


class Headed(Module):
    """A method with `Module` as its base class, which changes what maps and blocks do, and has a knob."""

    card: ClassVar[MethodCard] = card_of("headed")
    train_defaults: ClassVar[dict[str, Any]] = {"lr": 5e-3}
    search: ClassVar[dict[str, Any]] = {"size": (1, 2, 4)}

    size: int = 2

    def inside(self, site: Any) -> dict[str, TensorSpec]:
        return {"s": TensorSpec((1,)), "unused": TensorSpec((self.size,))} if site.kind == "block" else {}

    def change(self, site: Any, x: Any, y: Any, p: Any) -> Any:
        return y + p["s"].to(y.dtype)[:, None] * x + p["unused"].sum(-1)[:, None, None].to(y.dtype)


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The page's method and others that it describes, registered as by a package of its own; raw files of a task."""
    monkeypatch.setattr(methods, "_loaded", dict(methods._loaded))
    monkeypatch.setattr(tasks, "_loaded", {})
    tasks.add(TASK, cast(Any, SyntheticTask))
    shift: Any = from_page("Shift")

    class Fixed(shift):  # type: ignore[misc, valid-type]
        card: ClassVar[MethodCard] = card_of("fixed", families=("decoder",))
        region: ClassVar[dict[str, Any]] = {"span": "answer"}

    for method in (shift, Fixed, Headed):
        methods.add(method.card.name, method)
    for room in ("peftu.lab.lab", "peftu.fitted.opening"):
        monkeypatch.setattr(f"{room}.load_base", load_tiny)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "none.txt").write_text("")
    return tmp_path / "raw"


def spec_of(asked: str, **values: Any) -> RunSpec:
    listed = tuple(map(MethodSpec.parse, method_list(asked)))
    options = {"users": 3, "items": 15}
    return RunSpec(task=TASK, task_options=options, methods=listed, base="llama", **values)


def test_the_method_of_the_page_keeps_every_promise() -> None:
    check_method(from_page("Shift")(), ("bert", "t5"))
    check_method(Headed(), ("llama",))


@pytest.mark.parametrize(
    "name", ["shift", *(pytest.param(name, marks=pytest.mark.slow) for name in ("headed", "fixed"))]
)
def test_a_method_like_the_page_s_works_in_every_way_without_further_ado(
    plugged: Path, tmp_path: Path, name: str
) -> None:
    asked = [
        *(name, f"global+{name}", f"global[method={name}]", f"{name}+guard", f"global+{name}+guard"),
        *(f"{name}[depth=1,lr=0.01]", f"{name}[shrink=0.1,warm_start=global]"),
    ]
    _, record = run(spec_of(",".join(asked), train={"epochs": 1}), tmp_path / "run", plugged)
    assert [result.method for result in record.methods if result.method != "user-majority"] == [
        *(name, f"{name}[warm_start=global]", f"global[method={name}]", f"{name}+guard"),
        *(f"{name}+guard[warm_start=global]", f"{name}[depth=1,lr=0.01]", f"{name}[shrink=0.1,warm_start=global]"),
    ]
    predictions = load_run(tmp_path / "run").predictions()
    texts = {row.item_id: row.text for row in synthetic_rows(3, 15)}
    for label in (name, f"{name}[warm_start=global]", f"global[method={name}]"):
        line = predictions.filter((predictions["method"] == label) & (predictions["part"] == "test")).row(0, named=True)
        found = answer(tmp_path / "run", line["user_id"], [Text(texts[line["item_id"]])], label)
        assert found["answers"][0]["labels"] == line["predicted"]
    assert describe_method(name)["name"] == name


def test_it_can_be_tuned_and_run_with_what_was_found(plugged: Path, tmp_path: Path) -> None:
    spec = spec_of("headed,global+shift", train={"epochs": 1}, seeds=(10,))
    tune(spec, tmp_path / "mine.json", trials=2, raw=plugged)
    found = load_preset(str(tmp_path / "mine.json")).methods["llama"]
    assert set(found) == {"headed", "global+shift"}
    settings = {str(method): dict(value) for method, value in zip(spec.methods, found.values(), strict=True)}
    assert len(plan(spec.model_copy(update={"settings": settings}))) == 2


def test_one_whose_card_has_another_name_is_refused_before_it_is_stored_under_it(plugged: Path) -> None:
    methods.add("other", from_page("Shift"))
    with pytest.raises(PeftuError, match="registered as 'other', and its card says 'shift' — give both one name"):
        plan(spec_of("other"))


def test_a_class_that_no_store_could_name_breaks_a_promise() -> None:
    class Plain:
        card = card_of("plain")

    with pytest.raises(AssertionError, match="plain: is no frozen pydantic model"):
        check_method(Plain())  # type: ignore[arg-type]


def test_the_task_of_the_page_is_accepted(task: type[Task], tmp_path: Path) -> None:
    rows = "volunteer,joke,text,label\nann,1,Knock knock.,funny\nbob,1,Knock knock.,dull\n"
    (tmp_path / "jokes.csv").write_text(rows, encoding="utf-8")
    assert check_task(task, tmp_path).frame["user_id"].to_list() == ["ann", "bob"]


def test_a_wrong_row_of_it_is_named(task: type[Task], tmp_path: Path) -> None:
    (tmp_path / "jokes.csv").write_text("volunteer,joke,text,label\nann,1,Knock knock.,fuzzy\n", encoding="utf-8")
    with pytest.raises(PeftuError, match="row 1: label 'fuzzy'"):
        check_task(task, tmp_path)
