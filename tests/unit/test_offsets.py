"""Modules whose scores are added to those of a method that does without them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from peftu.cells.fits import Fits
from peftu.config import MethodSpec, RunSpec, SplitSpec
from peftu.data.load import load_task
from peftu.data.problem import PARTS, Problem, Text
from peftu.data.shards import part_of
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import LABELS, SyntheticTask
from peftu.data.task import tasks
from peftu.errors import PeftuError
from peftu.execute.run import run
from peftu.execute.stored import Kept, chosen, opened
from peftu.fitted.fitted import Examples
from peftu.fitted.modules import ModuleFitted
from peftu.fitted.offsets import addable, fit_offset, folds
from peftu.fitted.reference import ReferenceFitted, fit_reference
from peftu.fitted.training import offsets_of
from peftu.lab.lab import Lab, items_of, prompt_of
from peftu.lab.progress import Silent
from peftu.plan import plan
from peftu.store import AdapterStore
from peftu.testing import load_tiny
from peftu.testing.fitted import check_fitted, fit_tiny
from peftu.train_rows import with_offset

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *given: Any) -> Any:
        base = load_tiny(name, *given)
        base.name = name
        return base

    for room in ("peftu.lab.lab", "peftu.fitted.opening"):
        monkeypatch.setattr(f"{room}.load_base", load)


@pytest.mark.parametrize(
    ("method", "base"),
    [
        ("lora[rank=2,offset=mixed-head]", "llama"),
        ("lora[rank=2,offset=user-majority,warm_start=global]", "bert"),
        ("global[rank=2,offset=mixed-head]", "llama"),
        ("user-embedding[offset=mixed-head]", "bert"),
        ("hypernet[offset=user-majority]", "llama"),
        ("lora[rank=2,offset=global-majority]", "bert"),
    ],
)
def test_it_keeps_every_promise_of_a_fitted_method(method: str, base: str) -> None:
    check_fitted(method, base)


def test_sets_of_labels_too() -> None:
    check_fitted("lora[rank=2,offset=mixed-head]", "llama", "multi")


@pytest.mark.parametrize("kind", ["single", "multi", "ordinal"])
@pytest.mark.parametrize("base", ["llama", "bert"])
def test_a_module_of_zeros_leaves_the_other_methods_answers(base: str, kind: Any) -> None:
    fitted, problem = fit_tiny("lora[rank=2,offset=mixed-head]", base, kind)
    alone, _ = fit_tiny(f"mixed-head@{base}", base, kind)
    assert isinstance(fitted, ModuleFitted)
    fitted.rows.rows.zero_()  # type: ignore[union-attr]
    users, texts = list(problem.users) * 3, [text for text in problem.texts[:3] for _ in problem.users]
    assert np.allclose(fitted.scores(users, texts), alone.scores(users, texts), atol=1e-5)


def test_a_module_starts_there_and_learns_from_there() -> None:
    fitted, problem = fit_tiny("lora[rank=2,offset=mixed-head]", "bert")
    alone, _ = fit_tiny("mixed-head@bert", "bert")
    rows = problem.rows("test")
    users, texts = (
        [names[n] for n in of[rows]] for names, of in ((problem.users, problem.user), (problem.texts, problem.text))
    )
    apart = np.abs(fitted.scores(users, texts) - alone.scores(users, texts)).max()
    assert 1e-6 < apart < 5


@pytest.mark.parametrize("new_texts", [False, True])
def test_no_training_row_is_judged_by_a_fit_that_saw_it(new_texts: bool) -> None:
    _, problem = fit_tiny("user-majority", "bert", users=6)
    if new_texts:  # held out: every row of some texts, and no other
        held_out = problem.text % 3 == 0
        problem = replace(problem, part=np.where(held_out, 1 + problem.text % 2, 0).astype(np.int8))
    offset = _offset(problem)
    train, user_places = problem.rows("train"), problem.user
    parts = folds(problem, 0)
    assert np.array_equal(np.sort(np.concatenate(parts)), train)
    together = [set(problem.text[rows]) for rows in parts] if new_texts else []
    assert not any(first & second for n, first in enumerate(together) for second in together[n + 1 :])
    scores = offset.of(problem)
    for rows in parts:  # by hand: the model fitted on the rest, and asked
        rest = replace(
            problem, part=np.where(np.isin(np.arange(len(problem.part)), rows), 2, problem.part).astype(np.int8)
        )
        again, _ = fit_reference(rest, _settled(problem), 0, Lab(), prompt_of(problem.card, 64))
        keys, items = [problem.users[n] for n in user_places[rows]], items_of(problem)
        assert np.allclose(again.read(keys, [items[row] for row in rows]), scores[rows], atol=1e-5)


def test_a_rows_own_label_does_not_reach_its_offset() -> None:
    _, problem = fit_tiny("user-majority", "bert", users=6)
    row = int(problem.rows("train")[5])
    target = problem.target.copy()
    target[row] = target[row][::-1]
    turned = replace(problem, target=target)
    job = _settled(problem)
    before, after = (fit_offset(p, job, 0, Lab(), prompt_of(p.card, 64)).of(p) for p in (problem, turned))
    assert np.array_equal(before[row], after[row])
    others = problem.rows("train")[[n for n in range(20) if n != 5]]
    assert not np.array_equal(before[others], after[others])


def test_a_part_of_a_problem_has_its_rows_offsets() -> None:
    _, problem = fit_tiny("user-majority", "bert", users=6)
    offset, some = _offset(problem), part_of(problem, problem.users[1:4])
    rows = np.flatnonzero(np.isin(problem.user, [1, 2, 3]))
    assert np.array_equal(offset.of(some), offset.of(problem)[rows])


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_what_is_added_undoes_the_base(kind: Any) -> None:
    _, problem = fit_tiny("user-majority", "llama", kind)
    spec = RunSpec(task="any", methods=(MethodSpec.parse("lora[rank=2,offset=user-majority]"),), base="llama")
    prompt, lab, [job] = prompt_of(problem.card, 64), Lab(items=items_of(problem)), plan(spec)
    added = offsets_of(problem, job, 0, lab, prompt)
    base, _ = fit_tiny("zero-shot", "llama", kind)
    users = [problem.users[n] for n in problem.user]
    read = base.read(users, items_of(problem))
    both = with_offset(torch.from_numpy(read), torch.from_numpy(added), prompt).numpy()
    wanted = fit_offset(problem, job.offset, 0, lab, prompt).of(problem)
    given = both if kind == "single" else np.asarray(torch.from_numpy(both).sigmoid().log())
    assert np.allclose(np.exp(given), np.exp(wanted), atol=1e-5)


def test_a_certain_answer_has_a_finite_offset() -> None:
    prompt = prompt_of(fit_tiny("user-majority", "llama", "multi")[1].card, 64)
    scores = np.log(np.array([[1.0, 0.5, 1e-6]], np.float32))
    added = addable(scores, np.zeros_like(scores), prompt)
    assert np.isfinite(added).all()
    assert added[0, 1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("method", ["mixed-head", "lore", "history", "user-majority"])
def test_taking_in_or_forgetting_a_user_leaves_the_one_it_was_copied_from(method: str) -> None:
    fitted, problem = fit_tiny(f"{method}@bert" if method != "user-majority" else method, "bert")
    assert isinstance(fitted, ReferenceFitted)
    users, texts = list(problem.users), list(problem.texts[:4])
    before, state = fitted.scores(users, texts), fitted.state()
    examples = Examples(tuple((text, None) for text in problem.texts[:6]), problem.target[:6])
    assert fitted.with_user("newcomer", examples).knows("newcomer")
    assert not fitted.with_user(users[0], examples).without_user(users[0]).knows(users[0])
    assert np.array_equal(fitted.scores(users, texts), before)
    after = fitted.state()
    assert after.about == state.about
    assert all(np.array_equal(after.tensors[name], values) for name, values in state.tensors.items())


def test_forgetting_in_one_method_leaves_another_on_the_same_offset() -> None:
    _, problem = fit_tiny("user-majority", "bert")
    methods = tuple(map(MethodSpec.parse, ("lora[rank=2,offset=user-majority]", "ia3[offset=user-majority]")))
    fits = Fits(problem.card, {0: problem}, 64, Silent())
    jobs = plan(RunSpec(task="any", methods=methods, base="bert", train={"epochs": 1}))
    first, second = (fits.run(job, 0).fitted for job in jobs)
    first.forget(problem.users[0])
    assert not first.knows(problem.users[0])
    assert np.isfinite(second.scores([problem.users[0]], list(problem.texts[:1]))).all()


def test_it_cannot_be_exported(tmp_path: Path) -> None:
    fitted, problem = fit_tiny("lora[rank=2,offset=user-majority]", "llama")
    with pytest.raises(PeftuError, match="take offset out"):
        fitted.export(problem.users[0], tmp_path / "out")


@pytest.mark.parametrize(("asked", "label"), [("lora", "lora[rank=2]@bert"), ("full", None), ("global", None)])
def test_a_method_is_known_without_its_knobs_where_that_is_clear(asked: str, label: str | None) -> None:
    labels = ("lora[rank=2]@bert", "global[rank=1]@bert", "global[rank=2]@bert")
    kept = [Kept(label=name, seed=0, kind="module", personal=True) for name in labels]
    if label is None:
        with pytest.raises(PeftuError, match=r"several global|no modules of .full."):
            chosen(kept, asked, None)
    else:
        assert chosen(kept, asked, None)["label"] == label


def test_who_may_be_an_offset() -> None:
    for asked in ("lora[offset=lora]", "lora[offset=mixed-hed]"):
        with pytest.raises(PeftuError, match=r"offset: is '(lora|mixed-hed)'"):
            plan(RunSpec(task="any", methods=(MethodSpec.parse(asked),)))


def _settled(problem: Problem) -> Any:
    spec = RunSpec(task="any", methods=(MethodSpec.parse("mixed-head[features=tfidf]"),))
    [job] = plan(spec)
    fitted, _ = fit_reference(problem, job, 0, Lab(), prompt_of(problem.card, 64))
    return replace(job, method=job.method.settled(fitted.model))


def _offset(problem: Problem) -> Any:
    assert set(np.unique(problem.part)) <= set(range(len(PARTS)))
    return fit_offset(problem, _settled(problem), 0, Lab(), prompt_of(problem.card, 64))


def test_a_run_in_shards_scores_and_answers_as_one_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftu.cells.plan.shards", lambda users: [tuple(users[:3]), tuple(users[3:])])
    monkeypatch.setitem(tasks._loaded, "synthetic-single", SyntheticTask)
    (tmp_path / "none.txt").write_text("")
    asked = (
        "mixed-head", "lora[rank=2,offset=mixed-head,warm_start=global]", "global[rank=2,offset=mixed-head]",
        "lora[rank=2]",
    )  # fmt: skip
    spec = RunSpec(
        task="synthetic-single",
        task_options={"users": 5, "items": 15},
        methods=tuple(map(MethodSpec.parse, asked)),
        base="bert",
        train={"epochs": 2, "lr": 0.005},
    )
    folder = tmp_path / "run"
    _, record = run(spec, folder, tmp_path)
    assert [line.uses_others_labels for line in record.methods] == [True] * 3 + [False]
    table = load_task("synthetic-single", tmp_path, {"users": 5, "items": 15})
    problem = make_problem(table, table.card, make_split(table, SplitSpec(), 0))
    predictions = pl.read_parquet(folder / "predictions.parquet")
    with AdapterStore(folder / "modules") as store:
        assert sorted(len(store.keys(kind)) for kind in store.collections()) == [1, 5, 5]
    for job in plan(spec)[1:3]:
        fits = Fits(table.card, {0: problem}, spec.max_tokens, Silent())
        whole = fits.run(job, 0)
        rows = predictions.filter(method=job.label)
        assert np.allclose(np.array(rows["scores"].to_list()), whole.fitted.written(whole.scores), atol=1e-4)
        fitted = opened(folder, job.label)
        texts = {row.item_id: Text(row.text) for row in SyntheticTask().rows(tmp_path, 5, 15)}
        users, texts_of = rows["user_id"].to_list(), [texts[item] for item in rows["item_id"]]
        assert np.allclose(fitted.scores(users, texts_of), np.array(rows["scores"].to_list()), atol=1e-4)
        fitted.enrol("newcomer", [(text, LABELS["single"][0]) for text in texts_of[:6]])
        again = opened(folder, job.label)
        assert np.isfinite(again.scores(["newcomer"], texts_of[:1])).all()
        again.forget("newcomer")
        again.forget(users[0])
        kept = b"".join(path.read_bytes() for path in again.folder.rglob("*") if path.is_file())
        assert users[0].encode() not in kept
