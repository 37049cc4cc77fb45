"""`check_joint_method`: every promise of `JointMethod`, checked on tiny bases."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor

from peftu.codes import CodeLayout, SharedLayout, tensors_at
from peftu.methods.joint import EncodingMethod, JointMethod
from peftu.methods.method import region_of
from peftu.testing.bank import AdapterBank
from peftu.testing.bases import FAMILIES
from peftu.testing.methods import TEXTS, USERS, _base, _Case, _case, _cases, _hold


def check_joint_method(method: JointMethod, families: Sequence[str] = FAMILIES) -> None:
    """Checks what every joint method promises, on a tiny base of each family its card claims and in several regions.

    Fresh shared tensors with codes of zeros are the base, bit for bit; a code of zeros and an empty slot are the shared
    module; composed tensors have the declared shapes; users batched together score as one at a time; a user's loss
    moves that user's code and what is shared, and no other's code; codes computed from no examples are zeros.

    Args:
        method: the method with its knobs.
        families: tiny bases to check it on, those left out that its card does not claim.

    Raises:
        AssertionError: a promise is broken; the message names it, the family and the region.
    """
    for family in families:
        base = _base(family)
        if base.family.kind not in method.card.families:
            continue
        for region, prompt in _cases(base):
            try:
                _check(method, _case(family, region_of(method, region), prompt))
            except AssertionError as error:
                raise AssertionError(f"{method.card.name} on {family}, {region}: {error}") from None


def _noise(like: Tensor, seed: int) -> Tensor:
    return torch.rand(like.shape, generator=torch.Generator().manual_seed(seed)) - 0.5


def _check(method: JointMethod, case: _Case) -> None:
    layout = SharedLayout(method, case.sites)
    plain, row = case.read(None), layout.fresh([""], seed=0)
    none = torch.zeros(USERS, layout.code_width)
    expected = case.base.readout(case.context, case.texts.repeat(USERS))
    _hold(torch.equal(case.read(CodeLayout(layout, row[0]), none), expected), "fresh, it is not the base bit for bit")
    moved = row + 0.5 * _noise(row, 1)
    moved[:, layout.switches] = 1
    codes, personal = 2 * _noise(none, 2), CodeLayout(layout, moved[0])
    _composed(layout, moved, codes)
    made = layout.modules.added_tokens
    _hold(layout.added_tokens == personal.added_tokens == made, f"its {made} virtual tokens are not counted")
    shared = case.read(personal, none[:1])
    alone = torch.cat([case.read(personal, codes[[user]]) for user in range(USERS)])
    _hold(bool(alone.isfinite().all()), "scores are not finite")
    for first, second in combinations([plain, shared, *alone.view(USERS, TEXTS, -1)], 2):
        _hold(not torch.allclose(first, second, atol=1e-4), "users that differ (or the base, or nobody) score alike")
    case._batched(personal, codes, alone)
    case._own_rows_only(personal, codes)
    bank = AdapterBank(personal, slots=USERS)
    empty = case.base.readout(case.context, case.texts, bank.bind(torch.tensor([0])))
    _hold(torch.equal(empty, shared), "an empty slot is not the shared module")
    leaf = moved.clone().requires_grad_()
    scores = case.base.readout(case.context, case.texts, layout.compose(layout.views(leaf), codes[:1]))
    (gradient,) = torch.autograd.grad(scores.square().sum(), leaf)
    _hold(bool(gradient.any()), "a user's loss does not move what is shared")
    if isinstance(method, EncodingMethod):
        _encodes(method, layout, moved)


def _composed(layout: SharedLayout, row: Tensor, codes: Tensor) -> None:
    views = layout.views(row)
    for name, site in layout.modules.sites.items():
        composed = layout.joint.compose(site, tensors_at(views, name), codes)
        declared = layout.joint.tensors(site)
        _hold(composed.keys() == declared.keys(), f"{name}: composed tensors are not the declared ones")
        for key, spec in declared.items():
            shape = (len(codes), *spec.shape)
            _hold(tuple(composed[key].shape) == shape, f"{name}, {key}: is {tuple(composed[key].shape)}, not {shape}")


def _encodes(method: EncodingMethod, layout: SharedLayout, row: Tensor) -> None:
    head = next(site for site in layout.all_sites if site.kind == "head")
    shared = tensors_at(layout.views(row), head.name)
    embedded = _noise(torch.empty(6, head.d_in), 3)
    target = torch.eye(head.d_out)[torch.arange(6) % head.d_out]
    moments = method.moments(embedded, target)
    parts = method.moments(embedded[:2], target[:2]) + method.moments(embedded[2:], target[2:])
    _hold(torch.allclose(moments, parts, atol=1e-4), "sums of some examples and of others are not the sums of all")
    padded = method.moments(embedded, target * (torch.arange(6) < 2)[:, None])
    _hold(torch.allclose(padded, method.moments(embedded[:2], target[:2]), atol=1e-5), "no example adds something")
    _hold(not bool(method.encode(shared, torch.zeros_like(moments)[None]).any()), "no examples make a code")
    _hold(bool(method.encode(shared, moments[None]).any()), "examples make no code")
