"""Modules as rows: columns, fresh starts, slots."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from peftu.bank import Layout, derived_seed
from peftu.base.sites import Site
from peftu.errors import PeftuError
from peftu.methods.lora import Lora
from peftu.testing.bank import AdapterBank

torch.set_num_threads(1)

SITES = [
    Site("layer.0.q", "linear", "q", 0, "decoder", 6, 4),
    Site("layer.0.up", "linear", "up", 0, "decoder", 6, 12),
    Site("layer.1.v", "linear", "v", 1, "decoder", 6, 2),
    Site("head", "head", "head", 2, "decoder", 6, 3),
]


@pytest.fixture(scope="module")
def layout() -> Layout:
    return Layout(Lora(rank=2, targets=("q", "v"), head=True), SITES)


def test_columns_divide_a_row_without_gap_or_overlap(layout: Layout) -> None:
    assert layout.width == (2 * 6 + 4 * 2) + (2 * 6 + 2 * 2) + (3 * 6 + 3)
    assert [column.start for column in layout.columns] == [0, *(column.stop for column in layout.columns[:-1])]
    assert layout.columns[-1].stop == layout.width
    assert list(layout.sites) == ["layer.0.q", "layer.1.v", "head"]
    rows = torch.arange(2.0 * layout.width).view(2, -1)
    views = layout.views(rows)
    assert views["layer.0.q"]["A"].shape == (2, 2, 6)
    flat = torch.cat([view.flatten(1) for site in views.values() for view in site.values()], 1)
    assert torch.equal(flat, rows)
    views["head"]["bias"].zero_()
    assert not rows[:, -3:].any()  # views, not copies


def test_a_method_without_a_place_to_act_is_refused() -> None:
    with pytest.raises(PeftuError, match="no target lies in the region — this base has head, q, up, v"):
        Layout(Lora(targets=("gate",)), SITES)


@given(keys=st.lists(st.text(), min_size=1, max_size=5, unique=True), seed=st.integers(0, 2**62))
@settings(max_examples=30, deadline=None)
def test_a_fresh_module_depends_on_seed_and_key_alone(keys: list[str], seed: int) -> None:
    layout = Layout(Lora(rank=2, targets=("q", "v"), head=True), SITES)
    rows = layout.fresh(keys, seed)
    backwards = layout.fresh(keys[::-1], seed).flip(0)
    assert torch.equal(rows, backwards)
    assert torch.equal(layout.fresh(keys[-1:], seed)[0], rows[-1])
    for site in layout.views(rows).values():
        assert not site.get("B", torch.zeros(1)).any()
    a = layout.views(rows)["layer.0.q"]["A"]
    assert float(a.abs().max()) <= 6**-0.5
    assert len({tuple(row) for row in rows.tolist()}) == len(keys)


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derived_seed(0, "anna") == 2683751445312694938
    assert derived_seed(0, "anna", "order") == 2975755569962894907
    assert derived_seed(1, "anna") != derived_seed(0, "anna")
    assert derived_seed(0, "a", "b") != derived_seed(0, "ab")
    assert 0 <= derived_seed(7, "") < 2**63


def test_a_wrong_row_leaves_the_bank_as_it_was(layout: Layout) -> None:
    """Were the key noted first, the new user would be served the module of the one who made room."""
    bank = AdapterBank(layout, slots=1)
    bank.put("old", torch.ones(layout.width))
    for wrong in (torch.ones(layout.width + 1), torch.ones(1), torch.ones(1, layout.width), torch.ones(())):
        with pytest.raises(ValueError, match="row"):
            bank.put("new", wrong)
        assert "new" not in bank
        assert bank.rows[bank.slot("old")].all()


def test_nobody_is_served_another_s_module(layout: Layout) -> None:
    bank = AdapterBank(layout, slots=2)
    bank.put("a", torch.full((layout.width,), 1.0))
    bank.put("b", torch.full((layout.width,), 2.0))
    bank.slot("a")  # now b is the least recently used
    bank.put("c", torch.full((layout.width,), 3.0))
    assert ("a" in bank, "b" in bank, "c" in bank) == (True, False, True)
    with pytest.raises(KeyError):
        bank.slot("b")
    with pytest.raises(KeyError):
        bank.drop("b")
    bound = bank.bind(torch.tensor([bank.slot("c"), bank.slot("a")]))
    assert bound.groups == 2
    assert bound.tensors["head"]["bias"].tolist() == [[3.0] * 3, [1.0] * 3]


class BankAgainstDict(RuleBasedStateMachine):
    """A bank of three slots beside a plain list in order of use."""

    def __init__(self) -> None:
        super().__init__()
        self.layout = Layout(Lora(rank=1, targets=("q",)), SITES)
        self.bank = AdapterBank(self.layout, slots=3)
        self.model: list[tuple[str, float]] = []

    @rule(key=st.sampled_from("abcdef"), value=st.floats(0.5, 9))
    def put(self, key: str, value: float) -> None:
        self.bank.put(key, torch.full((self.layout.width,), value))
        self.model = [entry for entry in self.model if entry[0] != key][-2 if key not in dict(self.model) else 0 :]
        self.model.append((key, value))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def use(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.model))
        self.bank.slot(entry[0])
        self.model.remove(entry)
        self.model.append(entry)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.model))
        self.bank.drop(entry[0])
        self.model.remove(entry)

    @invariant()
    def agrees(self) -> None:
        assert len(self.bank) == len(self.model)
        assert {key for key in "abcdef" if key in self.bank} == set(dict(self.model))
        slots = dict(self.bank._slot)
        assert len(set(slots.values())) == len(slots)
        for key, value in self.model:
            assert (self.bank.rows[slots[key]] == torch.tensor(value)).all()
        empty = set(range(3)) - set(slots.values())
        assert not self.bank.rows[list(empty)].any()


TestBank = BankAgainstDict.TestCase
TestBank.settings = settings(max_examples=25, stateful_step_count=12, deadline=None)
