"""A cohort does less work than a loop over users, and takes less of the processor: loose, so that machines differ."""

import time
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from peftu.bank import Layout
from peftu.base.model import FrozenBase, wrap
from peftu.config import RegionSpec, TrainSpec
from peftu.methods.lora import Lora
from peftu.predict import score
from peftu.testing import randomise, tiny_prompt, tiny_texts, tiny_tokenizer, tiny_units
from peftu.train import train

torch.set_num_threads(1)

USERS, ROWS, BATCH, TEXTS = 4, 16, 8, 24
METHOD = Lora(targets=("q", "v"))
SPEC = TrainSpec(epochs=1, batch=BATCH, patience=1, lr=1e-3)


class Sides:
    """The same users trained by us and by a plain loop with the same LoRA, padded to the longest row of a batch."""

    def __init__(self) -> None:
        tokenizer = tiny_tokenizer()
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=160, num_hidden_layers=6,
            num_attention_heads=4, num_key_value_heads=2, eos_token_id=1, bos_token_id=2,
        )  # fmt: skip
        self.model: Any = LlamaForCausalLM(config).eval()
        randomise(self.model)
        self.base: FrozenBase = wrap(self.model, tokenizer, "small")
        self.prompt, self.texts = tiny_prompt(), tiny_texts(TEXTS)
        self.units = tiny_units([ROWS] * USERS, TEXTS, val=0)

    def ours(self, region: RegionSpec) -> None:
        """Trains everybody for one epoch; the prefill counts."""
        resolved = self.base.region(region)
        context = self.base.prefill(self.prompt, self.texts, resolved)
        train(self.base, context, Layout(METHOD, self.base.sites(resolved, 2)), self.units, SPEC, 0)

    def loop(self) -> None:
        """Trains one user after another by the hub's own forward pass."""
        reader = self.base.family.reader
        words = reader.ending(self.prompt).words
        layout = Layout(METHOD, self.base.sites(self.base.region(None), 2))
        for unit in self.units:
            row = layout.fresh([unit.key], 0).requires_grad_()
            for first in range(0, ROWS, BATCH):
                texts = [self.texts[int(n)] for n in unit.train.text[first : first + BATCH]]
                prompts = [ids + words[0] for ids in reader.read(self.prompt, texts).lists]
                longest = max(map(len, prompts))
                ids = torch.tensor([p + [0] * (longest - len(p)) for p in prompts])
                labels = torch.full_like(ids, -100)
                labels[:, -1] = ids[:, -1]
                delta = [x for own in layout.views(row).values() for x in (own["A"], own["B"])]
                embedded = self.model.get_input_embeddings()(ids) + sum(x.sum() for x in delta) * 0
                self.model(inputs_embeds=embedded, labels=labels).loss.backward()


@pytest.fixture(scope="module")
def sides() -> Sides:
    return Sides()


@pytest.mark.parametrize(
    ("region", "less", "faster"),
    [
        (RegionSpec(), 1.2, 1.0),
        (RegionSpec(depth=1, span="answer"), 4.0, 2.0),
        (RegionSpec(depth=1, span="last"), 4.0, 2.0),
    ],
    ids=["equal-work", "answer-region", "last-token"],
)
def test_training_everybody_is_less_work_than_a_loop(
    region: RegionSpec, less: float, faster: float, sides: Sides
) -> None:
    """The loop leaves its LoRA's own products out: what is counted against it is a little too small."""
    work, seconds = [], []
    for side in (lambda: sides.ours(region), sides.loop):
        with FlopCounterMode(display=False) as counter:
            side()
        work.append(counter.get_total_flops())
        seconds.append(_seconds(side))  # what warms up has warmed up
    assert work[1] > less * work[0]
    assert seconds[1] > faster * seconds[0]


def test_one_text_for_everyone_is_read_once(sides: Sides) -> None:
    region = sides.base.region(RegionSpec(depth=2, span="last"))
    layout = Layout(METHOD, sides.base.sites(region, 2))
    users = 32
    rows = layout.fresh([str(number) for number in range(users)], 0)

    def ours() -> None:
        context = sides.base.prefill(sides.prompt, sides.texts[:1], region)
        score(sides.base, context, torch.zeros(users).long().numpy(), layout, rows, torch.arange(users).numpy())

    ids = torch.tensor(sides.base.family.reader.read(sides.prompt, sides.texts[:1]).lists)

    @torch.no_grad()
    def loop() -> None:
        for _ in range(users):
            sides.model(input_ids=ids, logits_to_keep=1)

    ours()
    assert _seconds(loop) > 4 * _seconds(ours)


def _seconds(work: Any) -> float:
    """Returns the processor time of a call, which other work on the machine hardly changes."""
    start = time.process_time()
    work()
    return time.process_time() - start
