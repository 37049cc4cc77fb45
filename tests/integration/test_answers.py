"""Free answers: as likely as transformers finds them, written as transformers writes them, whoever shares the batch."""

import pytest
import torch
from oracle import Oracle
from test_against_peft import EVERYWHERE, Pair, alike, hub, weighed
from torch import Tensor

from peftu.bank import Bound, Layout
from peftu.base import answers as answers_module
from peftu.base.answers import Answer, log_likelihood
from peftu.base.families.family import Context
from peftu.base.finish import Finish
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.methods.lora import Lora
from peftu.testing import tiny_base, tiny_texts

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

WRITERS = ("llama", "gpt2", "t5")
SPECS = [
    RegionSpec(),
    RegionSpec(depth=2),
    RegionSpec(span="answer"),
    RegionSpec(depth=1, span="answer"),
    RegionSpec(depth=2, span="last"),
]
PROMPT = Prompt("What do you say?", (), 24, answer_tokens=9)
TEXTS = tiny_texts(5)
ANSWERS = [
    Answer(0, "Fine."),
    Answer(3, "No"),
    Answer(0, "I had one, once; it was long"),  # cut
    Answer(1, "Why not"),
    Answer(4, "a"),
    Answer(2, "Fine."),
]


def sequences(judge: Oracle, prompt: Prompt, text: Text, words: str) -> tuple[list[int], list[int], list[int]]:
    """Returns what the hub model reads, the decoder's own tokens before the answer, and the answer's tokens."""
    tokens = [*judge.ids(words if judge.model.config.is_encoder_decoder else f" {words}"), judge.tokenizer.eos_token_id]
    tokens = tokens[: prompt.answer_tokens]
    if judge.model.config.is_encoder_decoder:
        body = f"{prompt.instruction}\n\n{Prompt.body(text)}"
        return judge.ids(body, special=True), [], tokens
    start, tail = judge.prompt_ids(prompt, text)
    return start, tail, tokens


def hub_loss(judge: Oracle, prompt: Prompt, text: Text, words: str) -> Tensor:
    """Returns transformers' own loss of one answer."""
    start, tail, tokens = sequences(judge, prompt, text, words)
    if judge.model.config.is_encoder_decoder:
        return judge.model(input_ids=torch.tensor([start]), labels=torch.tensor([tokens])).loss
    ids = torch.tensor([[*start, *tail, *tokens]])
    labels = ids.clone()
    labels[:, : len(start) + len(tail)] = -100
    return judge.model(input_ids=ids, labels=labels, use_cache=False).loss


def losses(base: FrozenBase, context: Context, layout: Layout | None = None, rows: Tensor | None = None) -> Tensor:
    binding = None if layout is None or rows is None else Bound(layout, layout.views(rows), len(rows))
    order = torch.arange(context.count).repeat(1 if rows is None else len(rows))
    read = base.readout(context, order, binding)
    return -read[:, 0] / read[:, 1]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("family", WRITERS)
def test_the_loss_of_an_answer_is_the_hub_model_s_own(family: str, spec: RegionSpec) -> None:
    base = tiny_base(family)
    judge = Oracle(*hub(family))
    expected = torch.stack([hub_loss(judge, PROMPT, TEXTS[a.text], a.words) for a in ANSWERS]).detach()
    context = base.prefill_answers(PROMPT, TEXTS, ANSWERS, base.region(spec))
    assert float((losses(base, context) - expected).abs().max()) < 1e-4
    assert context.answers_cut == 1
    rows = torch.tensor([4, 2, 2, 0])
    assert torch.allclose(base.readout(context, rows), base.readout(context, torch.arange(6))[rows], atol=1e-4)


def mean_loss(pair: Pair, spec: RegionSpec, own: dict[str, dict[str, Tensor]]) -> Tensor:
    """Returns our loss, a different weight for each answer, with the module's numbers as leaves."""
    context = pair.base.prefill_answers(PROMPT, TEXTS, ANSWERS, pair.base.region(spec))
    tensors = {site: {name: value[None] for name, value in views.items()} for site, views in own.items()}
    read = pair.base.readout(context, torch.arange(len(ANSWERS)), Bound(pair.layout, tensors, 1))
    return weighed(-read[:, 0] / read[:, 1])


@pytest.mark.parametrize("depth", [None, 2])
@pytest.mark.parametrize("family", WRITERS)
def test_losses_and_gradients_are_peft_s(family: str, depth: int | None) -> None:
    spec = RegionSpec(depth=depth)
    # In double precision: the random T5 amplifies rounding in its gradients.
    pair = Pair(tiny_base(family, dtype=torch.float64), spec, Lora(rank=2, targets=EVERYWHERE), PROMPT, TEXTS)
    pair.own = {
        site: {name: leaf.detach().double().requires_grad_() for name, leaf in own.items()}
        for site, own in pair.own.items()
    }
    model, tokenizer = hub(family)
    judge = Oracle(pair.wrapped(model.double()).double(), tokenizer)
    expected = weighed(torch.stack([hub_loss(judge, PROMPT, TEXTS[a.text], a.words) for a in ANSWERS]))
    ours = mean_loss(pair, spec, pair.own)
    assert float((ours - expected).detach().abs()) < 1e-4
    expected.backward()
    ours.backward()
    for site in pair.names:
        for name in "AB":
            theirs = getattr(judge.model.get_submodule(site), f"lora_{name}")["default"].weight
            assert alike(pair.own[site][name].grad, theirs.grad), (site, name)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_answer_span_changes_tail_and_answer_only(family: str, depth: int) -> None:
    spec = RegionSpec(depth=depth, span="answer")
    pair = Pair(tiny_base(family), spec, Lora(rank=4, targets=EVERYWHERE), PROMPT, TEXTS)
    model, tokenizer = hub(family)
    judge, expected, length = Oracle(model, tokenizer), [], 0
    with pair.only_after(model, lambda: length):
        for answer in ANSWERS:
            length = len(judge.prompt_ids(PROMPT, TEXTS[answer.text])[0])
            expected.append(hub_loss(judge, PROMPT, TEXTS[answer.text], answer.words))
    weighed(torch.stack(expected)).backward()
    theirs = {site: {name: leaf.grad for name, leaf in own.items()} for site, own in pair.own.items()}
    copies = {
        site: {name: leaf.detach().clone().requires_grad_() for name, leaf in own.items()}
        for site, own in pair.own.items()
    }
    ours = mean_loss(pair, spec, copies)
    assert float((ours - weighed(torch.stack(expected))).detach().abs()) < 1e-4
    ours.backward()
    for site, own in copies.items():
        for name, leaf in own.items():
            assert leaf.grad is not None
            assert alike(leaf.grad, theirs[site][name]), (site, name)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("family", WRITERS)
def test_users_read_together_read_as_alone(family: str, spec: RegionSpec) -> None:
    base = tiny_base(family)
    region = base.region(spec)
    context = base.prefill_answers(PROMPT, TEXTS, ANSWERS, region)
    layout = Layout(Lora(rank=2), base.sites(region, 0))
    rows = layout.fresh(["a", "b", "c"], 0)
    assert torch.equal(losses(base, context, layout, rows), losses(base, context).repeat(3))  # fresh is the base
    rows += 0.3 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1))
    together = losses(base, context, layout, rows).view(3, -1)
    for number in range(3):
        alone = losses(base, context, layout, rows[[number]])
        assert torch.allclose(together[number], alone, atol=1e-5)
        assert not torch.allclose(alone, losses(base, context), atol=1e-3)


@pytest.mark.parametrize("finish", [Finish(), Finish(scale=0.4), Finish(scale=2.0, cap=1.5)], ids=str)
def test_the_vocabulary_is_read_in_chunks(finish: Finish, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk's size changes nothing, and the gradient is autograd's own."""
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(6, 11)
    hidden = torch.randn(7, 6, generator=generator)
    target = torch.randint(0, 11, (7,), generator=generator)
    leaf = hidden.clone().requires_grad_()
    plain = -torch.nn.functional.cross_entropy(finish(head(leaf)), target, reduction="none")
    weighed(plain).backward()
    for logits in (3, 7, 100):
        monkeypatch.setattr(answers_module, "LOGIT_BYTES", 4 * 11 * logits)
        own = hidden.clone().requires_grad_()
        ours = log_likelihood(own, target, head, finish)
        weighed(ours).backward()
        assert torch.allclose(ours, plain, atol=1e-5)
        assert torch.allclose(own.grad, leaf.grad, atol=1e-5)


def test_an_encoder_writes_nothing() -> None:
    base = tiny_base("bert")
    with pytest.raises(PeftuError, match="an encoder writes no text"):
        base.prefill_answers(PROMPT, TEXTS, ANSWERS, base.region(None))
