"""Answers written in one batch for many users: as one at a time, and as transformers' own `generate`."""

from typing import Any

import numpy as np
import pytest
import torch
from oracle import Oracle
from test_against_peft import EVERYWHERE, Pair, hub
from torch import Tensor

from peftu.bank import Layout
from peftu.base.answers import Answer
from peftu.base.prompt import Prompt
from peftu.base.sites import attached
from peftu.base.writing import write
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.generate import generate
from peftu.methods.lora import Lora
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.testing import tiny_base, tiny_texts

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

WRITERS = ("llama", "gpt2", "t5")
SPECS = [RegionSpec(), RegionSpec(depth=2), RegionSpec(span="answer"), RegionSpec(depth=1, span="answer")]
SPECS += [RegionSpec(span="last")]
PROMPT = Prompt("What do you say?", (), 24, answer_tokens=12)
TEXTS = tiny_texts(4)
USERS = 3


def written_by_hub(judge: Oracle, text: Text, model: Any = None) -> str:
    """Returns what transformers' greedy `generate` answers."""
    model = model or judge.model
    if judge.model.config.is_encoder_decoder:
        ids = judge.ids(f"{PROMPT.instruction}\n\n{Prompt.body(text)}", special=True)
    else:
        start, tail = judge.prompt_ids(PROMPT, text)
        ids = start + tail
    given = torch.tensor([ids])
    out = model.generate(
        input_ids=given,
        attention_mask=torch.ones_like(given),
        max_new_tokens=PROMPT.answer_tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=1,
    )[0]
    own = out if judge.model.config.is_encoder_decoder else out[len(ids) :]
    return str(judge.tokenizer.decode(own, skip_special_tokens=True)).strip()


def modules(layout: Layout, users: int = USERS, size: float = 0.3) -> Tensor:
    rows = layout.fresh([f"user {number}" for number in range(users)], 0)
    return rows + size * torch.randn(rows.shape, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("family", WRITERS)
def test_the_base_writes_what_transformers_writes(family: str) -> None:
    base, judge = tiny_base(family), Oracle(*hub(family))
    expected = [written_by_hub(judge, text) for text in TEXTS]
    assert len(set(expected)) > 1
    assert generate(base, PROMPT, TEXTS, base.region(None)) == expected
    assert generate(base, PROMPT, TEXTS[::-1] * 2, base.region(RegionSpec()))[:4] == expected[::-1]


@pytest.mark.parametrize("family", WRITERS)
def test_users_modules_write_what_peft_writes(family: str) -> None:
    """Three users with different modules in one batch; peft one user and one text at a time."""
    base = tiny_base(family)
    pair = Pair(base, RegionSpec(), Lora(rank=2, targets=EVERYWHERE), PROMPT, TEXTS)
    rows = modules(pair.layout)
    texts = [text for text in TEXTS for _ in range(USERS)]
    units = np.tile(np.arange(USERS), len(TEXTS))
    expected = []
    for row in rows:
        pair.own = {s: {n: x[0] for n, x in own.items()} for s, own in pair.layout.views(row[None]).items()}
        model, tokenizer = hub(family)
        judge = Oracle(pair.wrapped(model), tokenizer)
        expected.append([written_by_hub(judge, text) for text in TEXTS])
    found = generate(base, PROMPT, texts, pair.region, pair.layout, rows, units)
    assert [found[user::USERS] for user in range(USERS)] == expected
    assert len(set(found)) > USERS


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("family", WRITERS)
def test_together_as_only_one(family: str, spec: RegionSpec, temperature: float) -> None:
    base = tiny_base(family)
    region = base.region(spec)
    layout = Layout(Lora(rank=2), base.sites(region, 0))
    rows = modules(layout)
    texts = [TEXTS[i] for i in (0, 1, 0, 2, 3, 1)]
    units = np.array([0, 1, 2, 0, 1, 2])
    seeds = [7, 8, 9, 7, 5, 4]
    how = {"temperature": temperature, "tokens": 8}
    together = generate(base, PROMPT, texts, region, layout, rows, units, seeds=seeds, **how)
    for place, text in enumerate(texts):
        alone = generate(base, PROMPT, [text], region, layout, rows, units[[place]], seeds=seeds[place:][:1], **how)
        assert alone == [together[place]]
    assert together != generate(base, PROMPT, texts, region, seeds=seeds, **how)
    if region.answering:
        fresh = layout.fresh(["somebody"], 0)
        same = generate(base, PROMPT, texts, region, layout, fresh, None, seeds=seeds, **how)
        assert same == generate(base, PROMPT, texts, region, seeds=seeds, **how)


def test_an_answer_span_leaves_the_text_as_it_was() -> None:
    """With span 'answer' a module acts on tail and answer: the same as training read it."""
    base = tiny_base("llama")
    answers = {}
    for span in ("all", "answer"):
        region = base.region(RegionSpec(span=span))
        layout = Layout(Lora(rank=2), base.sites(region, 0))
        answers[span] = generate(base, PROMPT, TEXTS, region, layout, modules(layout, 1))
    assert answers["all"] != answers["answer"]


def test_draws_follow_the_seed_and_the_temperature() -> None:
    base = tiny_base("gpt2")
    region = base.region(None)

    def draw(temperature: float, *seeds: int) -> list[str]:
        return generate(base, PROMPT, [TEXTS[0]] * len(seeds), region, temperature=temperature, seeds=seeds)

    greedy = generate(base, PROMPT, TEXTS[:1], region)
    assert draw(1.0, 3, 4)[::-1] == draw(1.0, 4, 3)
    assert len(set(draw(1.0, *range(8)))) > 4
    assert set(draw(1e-4, *range(4))) == set(greedy)


def test_draws_have_the_model_s_probabilities() -> None:
    from peftu.base.writing import _drawn

    logits = torch.tensor([0.5, -1.0, 2.0, 0.0]).expand(20_000, -1)
    draw = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(_drawn(logits, draw), minlength=4) / 20_000
    assert torch.allclose(shares.float(), logits[0].softmax(0), atol=0.01)


def test_what_cannot_be_written() -> None:
    with pytest.raises(PeftuError, match="an encoder writes no text"):
        generate(tiny_base("bert"), PROMPT, TEXTS, tiny_base("bert").region(None))
    base = tiny_base("gpt2")
    with pytest.raises(PeftuError, match="reads 512 tokens at most"):
        generate(base, PROMPT, TEXTS, base.region(None), tokens=500)


def test_text_written_for_a_prompt_is_transformers_own() -> None:
    base, judge = tiny_base("llama"), Oracle(*hub("llama"))
    expected = " ".join(written_by_hub(judge, TEXTS[0]).split())
    assert write(base, PROMPT.instruction, Prompt.body(TEXTS[0]), PROMPT.answer_tokens) == expected


ANSWERS = [Answer(0, "Fine."), Answer(3, "No, it was"), Answer(1, "ok"), Answer(0, "Why"), Answer(2, "Fine.")]
METHODS = {
    "lora": Lora(rank=2),
    "prompt": PromptTuning(tokens=3),
    "prefix": PrefixTuning(tokens=2),
}


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", WRITERS)
@torch.no_grad()
def test_writing_an_answer_runs_the_states_that_reading_it_does(family: str, method: str, spec: RegionSpec) -> None:
    """Each answer by a module of its own; of virtual tokens, decoders' rows have some or not."""
    base = tiny_base(family)
    region = base.region(spec)
    layout = Layout(METHODS[method], base.sites(region, 0))
    rows = modules(layout, len(ANSWERS))
    rows[:, layout.switches] = 1
    if family != "t5":
        rows[1] = 0
    binding = layout.bind(layout.views(rows), len(rows))
    prompt, every = Prompt("What do you say?", (), 24, answer_tokens=8), torch.arange(len(ANSWERS))
    context = base.prefill_answers(prompt, TEXTS, ANSWERS, region)
    with attached(base.family.model, binding) as attachment:
        read = base.writer.hidden(context, every, attachment)
    target = context.state["target"]
    with attached(base.family.model, binding if spec.span == "all" else None) as attachment:
        draft, first = base.writer.begin(prompt, [TEXTS[a.text] for a in ANSWERS], 8, region, attachment)
    tokens, written = first.expand(len(ANSWERS), -1), []
    for step in range(int(target.lengths.max())):
        with attached(base.family.model, binding) as attachment:
            written.append(base.writer.next(draft, tokens, attachment))
        tokens = target.values[target.offsets[:-1] + (target.lengths - 1).clamp(max=step)][:, None]
    states = torch.stack(written, 1)
    own = torch.cat([states[row, :length] for row, length in enumerate(target.lengths.tolist())])
    assert float((own - read).abs().max()) < 1e-3 * float(read.abs().max())
    plain = base.readout(context, every)
    moved = (base.readout(context, every, binding) - plain)[:, 0].abs() > 1e-4
    assert moved.tolist() == [family == "t5" or row != 1 for row in range(len(ANSWERS))]
