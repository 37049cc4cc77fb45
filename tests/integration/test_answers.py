"""Free answers: as likely as transformers finds them, written as transformers writes them, whoever shares the batch."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from oracle import Oracle
from test_against_peft import EVERYWHERE, Pair, hub
from torch import Tensor

from peftu.bank import Bound, Layout
from peftu.base.answers import Answer, log_likelihood
from peftu.base.families.family import Context
from peftu.base.model import FrozenBase
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.methods.lora import Lora
from peftu.testing import tiny_base, tiny_prompt, tiny_texts

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

WRITERS = ("llama", "gpt2", "t5")
SPECS = [
    RegionSpec(),
    RegionSpec(depth=2),
    RegionSpec(span="answer"),
    RegionSpec(depth=1, span="answer"),
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
