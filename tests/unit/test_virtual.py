"""Virtual tokens: how they join a batch, start, are switched on, trained and kept."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.p_tuning import PromptEncoder as PeftEncoder
from peft.tuners.p_tuning import PromptEncoderConfig
from torch import Tensor

from peftu.bank import Bound, Layout, derived_seed
from peftu.base.prompt import Prompt
from peftu.base.region import Region
from peftu.base.sites import Site
from peftu.base.virtual import Prefix, VirtualStates
from peftu.config import RegionSpec, TrainSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.generate import generate
from peftu.methods.method import methods
from peftu.methods.p_tuning import PTuning
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.testing import FAMILIES, flan_t5_base, tiny_base, tiny_prompt, tiny_texts, tiny_units
from peftu.train import Trained, train
from peftu.train_rows import Unit

torch.set_num_threads(1)

TEXTS = 12
SPEC = TrainSpec(epochs=2, lr=1e-2, batch=4)
EVERY = [PromptTuning(tokens=2), PrefixTuning(tokens=2), PTuning(tokens=2, hidden=3)]
each_method = pytest.mark.parametrize("method", EVERY, ids=lambda method: method.card.name)


@cache
def bench(family: str, region: RegionSpec | None = None) -> Any:
    base = tiny_base(family)
    resolved = base.region(region or RegionSpec(depth=1, span="answer"))
    context = base.prefill(tiny_prompt(("a", "b")), tiny_texts(TEXTS), resolved)
    return base, context, base.sites(resolved, 2)


def run(method: Any, units: list[Unit], spec: TrainSpec = SPEC, start: Tensor | None = None) -> tuple[Layout, Trained]:
    base, context, sites = bench("llama")
    layout = Layout(method, sites)
    return layout, train(base, context, layout, units, spec, 0, start)


# --- joining a batch -------------------------------------------------------------------------------------------------


def test_rows_that_have_no_virtual_tokens_start_at_once() -> None:
    own, states = torch.arange(6.0).view(2, 3, 1), torch.tensor([[[-1.0], [-2.0]]]).expand(2, -1, -1)
    some = VirtualStates(2, counts := torch.tensor([2, 0]), counts, states)
    joined = some.in_front(own)
    assert joined[0].flatten().tolist() == [-1, -2, 0, 1, 2]
    assert joined[1].flatten().tolist()[:3] == [3, 4, 5]
    assert some.last(joined).flatten().tolist() == [2, 5]


@pytest.mark.parametrize("given", [True, False], ids=["mask", "no-mask"])
def test_a_prefix_stands_between_earlier_and_own_tokens(given: bool) -> None:
    keys = torch.randn(2, 3, 8)
    prefix = Prefix(3, counts := torch.tensor([3, 0]), counts, keys, keys + 1)
    own = torch.randn(2, 2, 4, 4)
    mask = torch.rand(1, 1, 4, 6) > 0.5 if given else None
    (key, value), joined = prefix.join(own, own + 1), prefix.seen(mask, own)
    assert torch.equal(value, key + 1)
    assert torch.equal(key[:, :, 3:], own)
    assert torch.equal(key[1, 1, 2], keys[1, 2, 4:])
    assert joined is not None
    assert joined[:, 0, 0, 2 if given else 0 :][:, :3].tolist() == [[True] * 3, [False] * 3]
    if mask is not None:
        assert torch.equal(joined[1, 0][:, [0, 1, 5, 6, 7, 8]], mask[0, 0])


@pytest.mark.parametrize("family", ["gpt2", "bert"])
@pytest.mark.parametrize("method", EVERY[:2], ids=lambda method: method.card.name)
def test_more_virtual_tokens_than_the_base_can_look_at_are_refused(family: str, method: Any) -> None:
    base, context, sites = bench(family, RegionSpec())
    layout = Layout(method.model_copy(update={"tokens": 600}), sites)
    binding = Bound(layout, layout.views(torch.ones(1, layout.width)), 1)
    with pytest.raises(PeftuError, match="reads 512 tokens at most, the longest input has 6"):
        base.readout(context, torch.tensor([0]), binding)


@pytest.mark.parametrize("span", ["all", "answer"])
@pytest.mark.parametrize("depth", [None, 1])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", EVERY[:2], ids=lambda method: method.card.name)
def test_a_longer_neighbour_that_is_off_changes_nothing(method: Any, family: str, depth: int | None, span: Any) -> None:
    if family == "bert" and span == "answer":
        return
    base = tiny_base(family)
    region = base.region(RegionSpec(depth=depth, span=span))
    context = base.prefill(tiny_prompt(("a", "b")), [Text("cat"), Text("a much longer text than that")], region)
    layout = Layout(method, base.sites(region, 2))
    row = layout.fresh(["one"], 0)
    row[:, layout.switches] = 1
    rows = torch.cat([row, torch.zeros_like(row)])
    both = base.readout(context, torch.tensor([0, 1]), layout.bind(layout.views(rows), 2))
    alone = base.readout(context, torch.tensor([0]), layout.bind(layout.views(row), 1))
    assert torch.allclose(both[:1], alone, atol=1e-5)
    assert torch.allclose(both[1:], base.readout(context, torch.tensor([1])), atol=1e-5)


@pytest.mark.parametrize("span", ["all", "answer"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", EVERY[:2], ids=lambda method: method.card.name)
def test_bases_in_bfloat16_read_and_write_behind_them(method: Any, family: str, span: Any) -> None:
    if family == "bert" and span == "answer":
        return
    base = tiny_base(family)
    base.family.model.to(torch.bfloat16)
    region = base.region(RegionSpec(depth=1, span=span))
    context = base.prefill(tiny_prompt(("a", "b")), tiny_texts(2), region)
    layout = Layout(method, base.sites(region, 2))
    row = layout.fresh(["one"], 0, base.primer(context))
    row[:, layout.switches] = 1
    scores = base.readout(context, torch.arange(2), layout.bind(layout.views(row), 1))
    assert scores.isfinite().all()
    assert not torch.allclose(scores, base.readout(context, torch.arange(2)), atol=1e-3)
    if family != "bert":
        inside = Layout(method, base.sites(region, 0))
        rows = inside.fresh(["one"], 0)
        rows[:, inside.switches] = 1
        assert len(generate(base, Prompt("Say", (), answer_tokens=3), tiny_texts(2), region, inside, rows)) == 2


# --- where they start ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", ["all", "answer"])
@pytest.mark.parametrize("depth", [None, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_they_start_as_the_prompt_s_own_last_tokens(family: str, depth: int | None, span: Any) -> None:
    if family == "bert" and span == "answer":
        return
    base, context, sites = bench(family, RegionSpec(depth=depth, span=span))
    primer = base.primer(context)
    for site in sites:
        if site.kind == "tokens" or (site.kind == "kv" and family != "bert"):
            made = primer[site.name]
            assert made.shape == (*[2] * (site.kind == "kv"), len(primer["tokens"]), site.d_out)
    layout = Layout(PromptTuning(tokens=3), sites)
    rows = layout.fresh(["one", "other"], 0, primer)
    states = layout.views(rows)["tokens"]["states"]
    assert torch.allclose(states, primer["tokens"][-3:].expand(2, -1, -1), atol=0.0101)
    assert not torch.equal(states[0], states[1])
    assert not rows[:, layout.switches].any()


def test_states_at_the_bottom_are_embeddings_of_the_last_label_word() -> None:
    for family in FAMILIES:
        base, context, _ = bench(family, RegionSpec())
        ids = base.family.tokenizer("b", add_special_tokens=False)["input_ids"]
        closing = [base.family.tokenizer.eos_token_id] if family in ("bert", "t5") else []
        embedding = base.family.model.get_input_embeddings()
        expected = embedding(torch.tensor([*ids, *closing]))
        assert torch.equal(base.primer(context)["tokens"][-len(expected) :], expected)


def test_a_prompt_shorter_than_the_module_is_read_over_again() -> None:
    layout = Layout(PromptTuning(tokens=5), [Site("tokens", "tokens", "tokens", 0, "decoder", 1, 1)])
    rows = layout.fresh(["one"], 0, {"tokens": torch.tensor([[10.0], [20.0]])})
    assert layout.views(rows)["tokens"]["states"].round().flatten().tolist() == [20, 10, 20, 10, 20]


# --- training --------------------------------------------------------------------------------------------------------


@each_method
def test_training_is_adamw_on_everything_but_the_switch(method: Any) -> None:
    """By a plain loop; without validation rows the last state is kept."""
    base, context, _ = bench("llama")
    (unit,) = tiny_units([8], TEXTS, val=0)
    layout, trained = run(method, [unit])
    taught = layout.teacher
    row = taught.fresh([unit.key], 0, base.primer(context) if taught.primed else None)
    row[:, taught.switches] = 1
    learned = torch.tensor([n for n in range(taught.width) if n not in taught.switches])
    leaf = torch.nn.Parameter(row[:, learned])
    optimiser = torch.optim.AdamW([leaf], lr=1.0, weight_decay=SPEC.weight_decay)
    order = [torch.from_numpy(x) for x in batches(unit)]
    for step, chosen in enumerate(order):
        optimiser.param_groups[0]["lr"] = SPEC.lr * (len(order) - step) / len(order)
        whole = row.index_copy(1, learned, leaf)
        binding = Bound(taught, taught.views(whole), 1)
        scores = base.readout(context, torch.from_numpy(unit.train.text)[chosen], binding)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(scores, torch.from_numpy(unit.train.target)[chosen]).backward()
        torch.nn.utils.clip_grad_norm_([leaf], SPEC.clip)
        optimiser.step()
    expected = layout.finish(row.index_copy(1, learned, leaf.detach()))
    assert (trained.rows[:, layout.switches] == 1).all()
    assert float((trained.rows - expected).abs().quantile(0.99)) < 1e-5
    assert float((trained.rows - expected).abs().max()) < 1e-3


def batches(unit: Unit) -> Any:
    rng = np.random.Generator(np.random.PCG64(derived_seed(0, unit.key, "order")))
    for _ in range(SPEC.epochs):
        order = rng.permutation(len(unit.train))
        yield from (order[first : first + SPEC.batch] for first in range(0, len(order), SPEC.batch))


@each_method
def test_a_cohort_is_its_users_each_alone(method: Any) -> None:
    units = tiny_units([8, 3, 0], TEXTS)
    _, together = run(method, units)
    for number, unit in enumerate(units):
        alone = run(method, [unit])[1].rows[0]
        assert float((together.rows[number] - alone).abs().max()) < 1e-3


@each_method
def test_who_is_best_before_any_step_keeps_the_base(method: Any) -> None:
    """One unit without train rows, and one whom training harms beyond doubt."""
    base, context, _ = bench("llama")
    harmed, idle = tiny_units([4, 0], TEXTS)
    plain = base.readout(context, torch.from_numpy(harmed.val.text)).softmax(-1).numpy()
    harmed = replace(harmed, val=replace(harmed.val, target=plain))  # nothing can say this better than the base
    layout, trained = run(method, [harmed, idle], SPEC.model_copy(update={"lr": 0.3}))
    assert [log.best_epoch for log in trained.logs] == [0, 0]
    assert not trained.rows[:, layout.switches].any()
    scores = base.readout(context, torch.arange(4), Bound(layout, layout.views(trained.rows[:1]), 1))
    assert torch.equal(scores, base.readout(context, torch.arange(4)))


def test_from_a_warm_start_p_tuning_tunes_the_prompt() -> None:
    layout, everyone = run(PTuning(tokens=2, hidden=3), tiny_units([10], TEXTS, val=0))
    assert everyone.rows.shape == (1, layout.width)
    assert layout.width < layout.teacher.width
    prompt, own = Layout(PromptTuning(tokens=2), bench("llama")[2]), tiny_units([6], TEXTS, val=0, seed=1)
    _, taught = run(PTuning(tokens=2, hidden=3), own, start=everyone.rows[0])
    _, tuned = run(prompt.method, own, start=everyone.rows[0])
    assert torch.equal(taught.rows, tuned.rows)
    assert not torch.equal(taught.rows, everyone.rows)


# --- p-tuning's encoder ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["mlp", "lstm"])
def test_the_encoders_are_peft_s(encoder: Any) -> None:
    method = PTuning(tokens=5, hidden=7, encoder=encoder)
    site = Site("tokens", "tokens", "tokens", 0, "decoder", 12, 12)
    taught = Layout(method, [site]).teacher
    own = taught.views(taught.fresh(["one", "other"], 0))["tokens"]
    ours = method.teacher.virtual(site, own)
    config = PromptEncoderConfig(
        num_virtual_tokens=5,
        token_dim=12,
        num_transformer_submodules=1,
        encoder_reparameterization_type=encoder.upper(),
        encoder_hidden_size=7,
    )
    for user in range(2):
        theirs = PeftEncoder(config)
        theirs.load_state_dict({name: tensor[user] for name, tensor in own.items() if name != "switch"})
        assert torch.allclose(ours[user], theirs(torch.arange(5)), atol=1e-6)


# --- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("span", ["all", "answer"])
@pytest.mark.parametrize(
    ("name", "stored", "learned"),
    [("prompt-tuning", 15_360, 15_360), ("prefix-tuning", 368_640, 368_640), ("p-tuning", 15_360, 1_593_344)],
)
def test_counts_on_flan_t5_base_are_the_paper_s(name: str, stored: int, learned: int, span: Any) -> None:
    layout = Layout(methods.get(name)(), flan_t5_base().sites(Region(12, span), 2))
    assert (layout.parameters, layout.teacher.parameters) == (stored, learned)
