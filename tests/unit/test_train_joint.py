"""Joint training: it learns users, the same each time, and each code from its own user's rows alone."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from peftu.base.model import FrozenBase
from peftu.cells.fits import Fits
from peftu.codes import CodeLayout, SharedLayout
from peftu.config import MethodSpec, RunSpec, SplitSpec, TrainSpec
from peftu.data.problem import Text
from peftu.data.splits import make_problem, make_split
from peftu.data.synthetic import SyntheticTask, synthetic_table
from peftu.data.task import tasks
from peftu.errors import DivergedError, PeftuError
from peftu.execute.answer import answer
from peftu.execute.exchange import exported
from peftu.execute.run import run
from peftu.lab.progress import Silent
from peftu.methods.hypernet import Hypernet
from peftu.methods.joint import EncodingMethod
from peftu.methods.user_embedding import UserEmbedding
from peftu.methods.user_token import UserToken
from peftu.plan import plan
from peftu.predict import score
from peftu.testing import load_tiny, tiny_base, tiny_prompt, tiny_texts
from peftu.train import train
from peftu.train_joint import GROUP, JointTrained, _Loop, encoded, train_jointly
from peftu.train_rows import Examples, Unit

torch.set_num_threads(1)

TEXTS = 30
METHODS = [UserEmbedding(rank=4, size=4), UserToken(rank=4), Hypernet(rank=4, size=4, hidden=8)]
SPEC = TrainSpec(epochs=10, lr=5e-3, batch=16, patience=10)
NAMES = [method.card.name for method in METHODS]


def opposed_units(sizes: tuple[int, ...], seed: int = 0) -> list[Unit]:
    """Returns users of two kinds: what one kind likes, the other does not."""
    units = []
    for user, size in enumerate(sizes):
        text = np.random.Generator(np.random.PCG64([seed, user])).permutation(TEXTS)[: size + 6]
        target = np.eye(2, dtype=np.float32)[(text + user) % 2]
        parts = (Examples(text[p], target[p], np.ones(len(text[p]), np.float32)) for p in (slice(6, None), slice(6)))
        units.append(Unit(f"user-{seed}-{user}", *parts))
    return units


class Setting:
    """A tiny base, texts and users with tastes of their own."""

    def __init__(self, method: Any, sizes: tuple[int, ...] = (20, 20, 17, 20, 3)) -> None:
        self.base = tiny_base("llama")
        region = self.base.region(None)
        self.context = self.base.prefill(tiny_prompt(), tiny_texts(TEXTS), region)
        self.layout = SharedLayout(method, self.base.sites(region, 2))
        self.units = opposed_units(sizes)
        self.embedded = torch.from_numpy(self.base.embed(tiny_texts(TEXTS)))

    def train(self, units: list[Unit] | None = None, spec: TrainSpec = SPEC, seed: int = 0) -> JointTrained:
        vectors = self.embedded if isinstance(self.layout.joint, EncodingMethod) else None
        return train_jointly(self.base, self.context, self.layout, units or self.units, spec, seed, vectors)


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_it_learns_who_they_are(method: Any) -> None:
    setting = Setting(method)
    found = setting.train()
    assert found.log.start_loss is not None
    assert found.log.best_loss is not None
    assert found.log.best_loss < found.log.start_loss
    layout = CodeLayout(setting.layout, found.shared)
    text, target = (np.concatenate([getattr(u.train, name) for u in setting.units]) for name in ("text", "target"))
    owner = np.repeat(np.arange(len(setting.units)), [len(u.train) for u in setting.units])

    def loss(codes: torch.Tensor) -> float:
        return float(-(target * score(setting.base, setting.context, text, layout, codes, owner)).sum(1).mean())

    own = loss(found.codes)
    assert own < loss(torch.zeros_like(found.codes))
    assert own < loss(found.codes.roll(1, 0))


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_the_seed_decides(method: Any) -> None:
    setting, short = Setting(method), SPEC.model_copy(update={"epochs": 2})
    first, second, other = (setting.train(spec=short, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.shared, second.shared)
    assert torch.equal(first.codes, second.codes)
    assert first.log == second.log
    assert not torch.allclose(first.shared, other.shared)


def test_nobody_s_code_moves_without_rows() -> None:
    setting = Setting(METHODS[0])
    empty = Examples(*(getattr(setting.units[1].train, name)[:0] for name in ("text", "target", "weight")))
    units = [replace(unit, train=empty) if n == 1 else unit for n, unit in enumerate(setting.units)]
    codes = setting.train(units).codes
    assert not codes[1].any()
    assert all(codes[n].any() for n in (0, 2, 3, 4))


def test_nothing_to_learn_from_leaves_the_start() -> None:
    setting = Setting(METHODS[0])
    empty = Examples(*(getattr(setting.units[0].train, name)[:0] for name in ("text", "target", "weight")))
    found = setting.train([Unit("a", empty, empty), Unit("b", empty, empty)])
    assert torch.equal(found.shared, setting.layout.fresh([""], 0)[0])
    assert (found.log.steps, found.log.best_loss) == (0, None)


@pytest.mark.parametrize("seen", [True, False])
def test_without_validation_rows_the_last_state_is_kept(seen: bool) -> None:
    setting = Setting(METHODS[0])
    units = setting.units
    if not seen:
        units = [replace(u, val=Examples(u.val.text[:0], u.val.target[:0], u.val.weight[:0])) for u in units]
    log = setting.train(units, SPEC.model_copy(update={"lr": 3.0, "epochs": 3, "clip": 50.0})).log
    assert log.best_epoch == (log.best_epoch if seen else 3)
    assert (log.best_loss is None) == (not seen)


@pytest.mark.usefixtures("tiny")
def test_training_that_diverges_is_told() -> None:
    table = synthetic_table(users=3, items=12)
    problem = make_problem(table, table.card, make_split(table, SplitSpec(), 0))
    asked = MethodSpec(name="user-embedding", params={"lr": 1e30, "epochs": 3})
    (job,) = plan(RunSpec(task="any", methods=(asked,), base="llama"))
    with pytest.raises(DivergedError, match=r"training on everyone diverged at lr=1e\+30 — lower lr"):
        Fits(table.card, {0: problem}, 64, Silent()).run(job, 0)


def test_every_row_is_seen_once_an_epoch_in_groups_of_one_user() -> None:
    setting = Setting(METHODS[0])
    loop = _Loop(setting.base, setting.context, setting.layout, setting.units, SPEC, 0, None)
    for epoch in (1, 2):
        steps = list(loop._steps(epoch))
        assert len(steps) == loop.epoch_steps
        rows = np.concatenate([picked[picked >= 0] for _, picked in steps])
        assert sorted(rows) == list(range(sum(len(u.train) for u in setting.units)))
        for users, picked in steps:
            assert picked.shape == (len(users), GROUP)
            for user, own in zip(users, picked, strict=True):
                place = own[own >= 0] - loop.data.start[user]
                assert ((place >= 0) & (place < loop.data.size[user])).all()


def test_a_new_user_s_code_is_fitted_with_the_rest_frozen() -> None:
    setting = Setting(METHODS[0])
    found = setting.train()
    layout, (newcomer, other) = CodeLayout(setting.layout, found.shared), opposed_units((20, 20), seed=9)
    blind = replace(newcomer, val=Examples(*(getattr(newcomer.val, n)[:0] for n in ("text", "target", "weight"))))
    spec = TrainSpec(epochs=8, lr=0.05)
    fitted = train(setting.base, setting.context, layout, [blind, other], spec, 0)
    assert torch.equal(layout.shared, found.shared)
    rows = torch.stack([torch.zeros(4), fitted.rows[0]])
    text, target = newcomer.train.text, newcomer.train.target
    before, after = (
        -(target * score(setting.base, setting.context, text, layout, row[None])).sum(1).mean() for row in rows
    )
    assert after < before
    alone = train(setting.base, setting.context, layout, [blind], spec, 0)
    assert torch.allclose(alone.rows[0], fitted.rows[0], atol=1e-4)


def test_a_hypernet_knows_a_new_user_from_examples_alone() -> None:
    setting = Setting(METHODS[2])
    found = setting.train()
    (newcomer,) = opposed_units((20,), seed=9)
    codes = encoded(setting.layout, found.shared, [*(u.train for u in setting.units), newcomer.train], setting.embedded)
    assert torch.allclose(codes[:-1], found.codes, atol=1e-5)
    nobody = Examples(newcomer.train.text[:0], newcomer.train.target[:0], newcomer.train.weight[:0])
    assert not encoded(setting.layout, found.shared, [nobody], setting.embedded).any()


def test_a_row_s_own_label_is_not_in_the_code_that_predicts_it() -> None:
    """The code for a group comes from the user's other rows: with one group in all, from none."""
    setting = Setting(METHODS[2], sizes=(GROUP, GROUP))
    seen = []
    loop = _Loop(setting.base, setting.context, setting.layout, setting.units, SPEC, 0, setting.embedded)
    method = loop.method
    assert isinstance(method, Hypernet)

    class Watched(Hypernet):
        def encode(self, shared: Any, moments: torch.Tensor) -> torch.Tensor:
            seen.append(moments.detach())
            return super().encode(shared, moments)

    loop.method = Watched(**method.model_dump())
    for users, picked in loop._steps(1):
        loop._move(users, picked)
    assert torch.allclose(torch.cat(seen), torch.zeros(()), atol=1e-4)


# --- in a run --------------------------------------------------------------------------------------------------------

Loader = Callable[..., FrozenBase]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("peftu.lab.lab.load_base", load_tiny)
    monkeypatch.setattr("peftu.fitted.opening.load_base", load_tiny)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_unseen_users_without_items_are_read_with_the_shared_module(family: str) -> None:
    table = synthetic_table(users=4, items=12)
    spec = SplitSpec(regime="unseen-user", k=0, unseen=0.5)
    problem = make_problem(table, table.card, make_split(table, spec, 0))
    fits = Fits(table.card, {0: problem}, 64, Silent())
    for method in METHODS:
        asked = MethodSpec(name=method.card.name, params={"rank": 2, "epochs": 1})
        (job,) = plan(RunSpec(task="any", methods=(asked,), base=family))
        cell = fits.run(job, 0)
        assert cell.modules is not None
        unseen = np.setdiff1d(np.arange(4), problem.user[problem.rows("train")])
        assert len(unseen) == 2
        assert not cell.modules.trained.rows[torch.from_numpy(unseen)].any()
        assert np.isfinite(cell.scores).all()


@pytest.mark.usefixtures("tiny")
def test_answers_may_be_free_text() -> None:
    table = synthetic_table(users=3, items=12, kind="text")
    problem = make_problem(table, table.card, make_split(table, SplitSpec(), 0))
    fits = Fits(table.card, {0: problem}, 64, Silent(), answer_tokens=8)
    asked = [MethodSpec(name=name, params={"rank": 2, "epochs": 2, "lr": 0.01}) for name in NAMES]
    embedding, token, hypernet = plan(RunSpec(task="any", methods=tuple(asked), base="llama"))
    for job in (embedding, token):
        log = fits.run(job, 0).logs[0]
        assert log.start_loss is not None
        assert log.best_loss is not None
        assert log.best_loss < log.start_loss
    with pytest.raises(PeftuError, match="hypernet: reads labels, and answers here are free text"):
        fits.run(hypernet, 0)


@pytest.mark.usefixtures("tiny")
def test_a_stored_user_answers_with_code_and_shared_module(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_loaded", {})  # the task is gone again when the test ends
    tasks.add("synthetic-single", SyntheticTask)
    (tmp_path / "none.txt").write_text("")
    names = [f"{name}[rank=2]" for name in NAMES]
    spec = RunSpec(
        task="synthetic-single",
        task_options={"users": 3, "items": 15},
        methods=tuple(map(MethodSpec.parse, names)),
        base="llama",
        train={"epochs": 2, "lr": 0.02},
    )
    folder = tmp_path / "run"
    _, record = run(spec, folder, tmp_path)
    predictions = cells_of(folder)
    table = {(row.item_id, row.user_id): row.text for row in SyntheticTask().rows(tmp_path, 3, 15)}
    for result, name in zip(record.methods, names, strict=True):
        assert result.uses_others_labels
        assert result.parameters_per_user == (32 if "token" in name else 16)
        for row in predictions.filter(method=name, part="test").iter_rows(named=True):
            text = Text(table[row["item_id"], row["user_id"]])
            (said,) = answer(folder, row["user_id"], [text], name)["answers"]
            assert list(said["probabilities"].values()) == pytest.approx(np.exp(row["scores"]), abs=1e-4)
        with pytest.raises(PeftuError, match="the asked user has no module"):
            answer(folder, "stranger", [Text("a")], name)
        with pytest.raises(PeftuError, match="peft"):
            exported(folder, "user-0", tmp_path / "out", name)


def cells_of(folder: Any) -> Any:
    import polars as pl

    return pl.read_parquet(folder / "predictions.parquet")
