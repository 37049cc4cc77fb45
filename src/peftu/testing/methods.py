"""`check_method`: every promise of `ModuleMethod`, checked on tiny bases."""

from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from itertools import combinations
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from pydantic import BaseModel
from torch import Tensor

from peftu.bank import Layout
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec, TrainSpec
from peftu.methods.method import ModuleMethod, region_of
from peftu.store import AdapterStore, Collection
from peftu.testing.bank import AdapterBank
from peftu.testing.bases import FAMILIES, tiny_base
from peftu.testing.problems import tiny_prompt, tiny_texts, tiny_units
from peftu.train import train

USERS, TEXTS = 3, 4
CLOSE = 1e-5
WORDS = ("no", "nor", "yes")  # one begins another: the label trie has several branching points


def regions_of(base: FrozenBase) -> list[RegionSpec]:
    """Returns regions worth checking: deep and shallow, and the answer span where the base has one."""
    spans = [RegionSpec(), RegionSpec(depth=2)]
    if base.family.kind != "encoder":
        spans += [RegionSpec(span="answer"), RegionSpec(depth=1, span="answer")]
    if base.family.kind == "decoder":
        spans += [RegionSpec(span="last")]
    return spans


def check_method(method: ModuleMethod, families: Sequence[str] = FAMILIES) -> None:
    """Checks what every module method promises, on a tiny base of each family its card claims and in several regions.

    A fresh module and an empty slot are the base, bit for bit; users batched together score as one at a time, in
    whatever order they stand; a user's loss moves that user's module only; users trained together are trained as if
    alone; the declared tensors and bytes are all there is, and come back from a store as they were; the base stays as
    it was.

    Args:
        method: the method with its knobs.
        families: tiny bases to check it on, those left out that its card does not claim.

    Raises:
        AssertionError: a promise is broken; the message names it, the family and the region.
    """
    _frozen(method)
    claimed = [family for family in families if _base(family).family.kind in method.card.families]
    _hold(bool(claimed), f"{method.card.name} claims none of {', '.join(families)}")
    for family in claimed:
        base = _base(family)
        before = base.family.model.state_dict()
        before = {name: tensor.clone() for name, tensor in before.items()}
        checked: set[_Case] = set()
        for region, prompt in _cases(base):
            case = _case(family, region_of(method, region), prompt)
            if case in checked:  # the method itself decides where it acts
                continue
            try:
                case.check(method)
                if not checked:
                    case.check_training(method)
                checked.add(case)
            except AssertionError as error:
                raise AssertionError(f"{method.card.name} on {family}, {region}: {error}") from None
        after = base.family.model.state_dict()
        _hold(all(torch.equal(before[name], after[name]) for name in before), "the base's weights changed")


def _frozen(method: ModuleMethod) -> None:
    """A method's knobs say what its stored modules are, so they are data that cannot change."""
    config = method.model_config if isinstance(method, BaseModel) else {}
    whole = config.get("frozen") and config.get("extra") == "forbid"
    _hold(bool(whole), f"{method.card.name}: is no frozen pydantic model with extra='forbid'")
    named = {"method"} if method.card.scope != "global" else set()  # everyone's module says which method it trains
    ours = ({*TrainSpec.model_fields, *RegionSpec.model_fields} | named) & set(getattr(method, "model_fields", ()))
    _hold(not ours, f"{method.card.name}: its knob {min(ours, default='')} is a run's own — give it another name")


def _hold(truth: bool, broken: str) -> None:
    if not truth:
        raise AssertionError(broken)


@cache
def _base(family: str) -> FrozenBase:
    return tiny_base(family)


def _cases(base: FrozenBase) -> Iterator[tuple[RegionSpec, Prompt]]:
    """Yields regions, deep ones with a trie of label words, shallow ones with labels that a first token tells apart."""
    for region in regions_of(base):
        yield region, tiny_prompt(WORDS if region.depth is None else WORDS[1:])
    yield RegionSpec(depth=1), tiny_prompt(WORDS[1:], exclusive=False)


@cache
def _case(family: str, region: RegionSpec, prompt: Prompt) -> "_Case":
    return _Case(_base(family), region, prompt)


class _Case:
    """A base, a region and a prompt that one method is checked on."""

    def __init__(self, base: FrozenBase, region: RegionSpec, prompt: Prompt) -> None:
        self.base, self.region = base, base.region(region)
        self.sites = base.sites(self.region, len(prompt.words))
        self.context: Context = base.prefill(prompt, tiny_texts(TEXTS), self.region)
        self.texts = torch.arange(TEXTS)

    def check(self, method: ModuleMethod) -> None:
        layout = Layout(method, self.sites)
        plain = self.plain
        keys = [f"user {number}" for number in range(USERS)]
        fresh = layout.fresh(keys, seed=0)
        noise = torch.rand(fresh.shape, generator=torch.Generator().manual_seed(1)) - 0.5
        moved = fresh + 0.5 * noise
        moved[:, layout.switches] = 1
        self._declared(method, layout, fresh)
        self._starts_as_the_base(layout, fresh, plain)
        alone = torch.cat([self.read(layout, moved[[user]]) for user in range(USERS)])
        _hold(bool(alone.isfinite().all()), "scores are not finite")
        different = [plain, *alone.view(USERS, TEXTS, -1)]
        for first, second in combinations(different, 2):
            _hold(not torch.allclose(first, second, atol=1e-3), "modules that differ (or the base) score alike")
        self._batched(layout, moved, alone)
        self._own_rows_only(layout, moved)
        if layout.teacher is not layout:
            self._finishes(layout)
            self.check(layout.teacher.method)

    @cached_property
    def plain(self) -> Tensor:
        """Returns [texts, labels] the base's scores, of every method's check alike."""
        return self.read(None)

    @cached_property
    def plain_for_all(self) -> Tensor:
        """Returns [users × texts, labels] the base's scores, read for several users at once."""
        return self.base.readout(self.context, self.texts.repeat(USERS))

    def read(self, layout: Layout | None, rows: Tensor | None = None) -> Tensor:
        """Returns [modules × texts, labels] every text read with every module; without them, with the base."""
        if layout is None or rows is None:
            return self.base.readout(self.context, self.texts)
        binding = layout.bind(layout.views(rows), len(rows))
        return self.base.readout(self.context, self.texts.repeat(len(rows)), binding)

    def check_training(self, method: ModuleMethod) -> None:
        layout = Layout(method, self.sites)
        units = tiny_units([4, 3], TEXTS, labels=len(self.context.prompt.words), val=0)
        spec = TrainSpec(epochs=1, batch=2, lr=1e-2)
        together = train(self.base, self.context, layout, units, spec, seed=0)
        _hold(bool(together.rows.isfinite().all()), "training ends in numbers that are not finite")
        for row, unit in zip(together.rows, units, strict=True):
            alone = train(self.base, self.context, layout, [unit], spec, seed=0).rows
            # Judged by scores: where a gradient is a rounding error, Adam takes a whole step along it all the same.
            way, apart = (
                float((self.read(layout, rows) - self.read(layout, alone)).norm()) for rows in (0 * alone, row[None])
            )
            _hold(apart <= 0.01 * way, f"a user trained with another ends {apart:.1e} off the same user trained alone")
        self._stored(layout, [unit.key for unit in units], together.rows)

    # --- the promises -------------------------------------------------------------------------------------------

    def _declared(self, method: ModuleMethod, layout: Layout, fresh: Tensor) -> None:
        declared = {(site.name, name): spec for site in self.sites for name, spec in method.tensors(site).items()}
        number = sum(prod(spec.shape) for spec in declared.values())
        _hold(layout.width == number, f"{number} numbers are declared, a module has {layout.width}")
        learned = sum(prod(spec.shape) for spec in declared.values() if not spec.switch)
        _hold(layout.parameters == learned, f"{learned} parameters are declared, a module has {layout.parameters}")
        views = {(site, name): view for site, tensors in layout.views(fresh).items() for name, view in tensors.items()}
        _hold(views.keys() == declared.keys(), "a module's tensors are not the declared ones")
        for key, spec in declared.items():
            _hold(tuple(views[key].shape[1:]) == spec.shape, f"{key}: is {tuple(views[key].shape[1:])}")
            _hold(bool((views[key].abs() <= spec.bound).all()), f"{key}: starts outside ±{spec.bound}")
        if "tokens" in layout.sites:
            made = layout.bind(layout.views(fresh), USERS).virtual(layout.sites["tokens"]).shape[1]
            _hold(layout.added_tokens == made, f"{layout.added_tokens} virtual tokens are declared, there are {made}")
        bank = AdapterBank(layout, slots=2)
        _hold(bank.rows[0].nbytes == 4 * number, f"a module takes {bank.rows[0].nbytes} bytes, not {4 * number}")

    def _starts_as_the_base(self, layout: Layout, fresh: Tensor, plain: Tensor) -> None:
        _hold(torch.equal(self.read(layout, fresh), self.plain_for_all), "a fresh module is not the base bit for bit")
        bank = AdapterBank(layout, slots=USERS)
        bank.put("somebody", fresh[0] + 0.1)  # switches too: above zero is on
        bank.drop("somebody")
        empty = self.base.readout(self.context, self.texts, bank.bind(torch.tensor([0])))
        _hold(torch.equal(empty, plain), "an empty slot is not the base bit for bit")

    def _batched(self, layout: Layout, moved: Tensor, alone: Tensor) -> None:
        batched = self.read(layout, moved)
        apart = float((batched - alone).abs().max())
        _hold(apart < CLOSE, f"users read together score {apart:.1e} apart from users read alone")
        order = torch.tensor([2, 0, 1])
        permuted = self.read(layout, moved[order])
        expected = batched.view(USERS, TEXTS, -1)[order].view_as(batched)
        _hold(torch.allclose(permuted, expected, atol=CLOSE), "users in another order score differently")
        if layout.switches:
            self._switched(layout, moved, alone)

    def _switched(self, layout: Layout, moved: Tensor, alone: Tensor) -> None:
        """A user whose module is off sees none of its virtual tokens, nor anybody else's."""
        some = moved.clone()
        some[1, layout.switches] = 0
        off = self.read(layout, some[[1]])
        expected = alone.clone()
        expected[TEXTS : 2 * TEXTS] = off
        apart = float((self.read(layout, some) - expected).abs().max())
        _hold(apart < CLOSE, f"beside users whose modules are on, one who is off scores {apart:.1e} apart")
        head = [c for c in layout.columns if c.site.kind == "head"]
        for column in head:
            some[1, column.start : column.stop] = 0
        _hold(torch.equal(self.read(layout, some[[1]]), self.plain), "a module that is off is not the base")

    def _finishes(self, layout: Layout) -> None:
        """What is kept of a taught module scores as what was trained; a fresh one is kept as the base."""
        teacher = layout.teacher
        rows = teacher.fresh([f"user {number}" for number in range(USERS)], seed=0)
        _hold(not layout.finish(rows)[:, layout.switches].any(), "a fresh module is kept as one that is on")
        rows[1:, teacher.switches] = 1
        apart = float((self.read(layout, layout.finish(rows)) - self.read(teacher, rows)).abs().max())
        _hold(apart < CLOSE, f"what is kept of a module scores {apart:.1e} apart from what was trained")

    def _own_rows_only(self, layout: Layout, moved: Tensor) -> None:
        rows = moved.clone().requires_grad_()
        scores = self.read(layout, rows).view(USERS, TEXTS, -1)
        for user in range(USERS):
            (gradient,) = torch.autograd.grad(scores[user].square().sum(), rows, retain_graph=True)
            others = torch.arange(USERS) != user
            _hold(bool((gradient[others] == 0).all()), "a user's loss moves another user's module")
            _hold(bool(gradient[user].any()), "a user's loss does not move the user's own module")
        trained = any(p.requires_grad or p.grad is not None for p in self.base.family.model.parameters())
        _hold(not trained, "the base would be trained")
        hooks = [name for name, module in self.base.family.model.named_modules() if module._forward_hooks]
        _hold(not hooks, f"a hook stays on {hooks[:1]}")

    def _stored(self, layout: Layout, keys: Sequence[str], rows: Tensor) -> None:
        with TemporaryDirectory() as folder, AdapterStore(Path(folder), create=True) as store:
            kind = Collection("checked", 0, self.base.name, "sha256:0", layout.width, "{}")
            store.add(kind, keys, rows, [1] * len(keys))
            (collection,) = store.collections()
            back = store.get(collection, list(keys)[::-1]).flip(0)
        _hold(torch.equal(back, rows), "a module comes back from a store changed")
        _hold(torch.equal(self.read(layout, back), self.read(layout, rows)), "a stored module scores differently")
