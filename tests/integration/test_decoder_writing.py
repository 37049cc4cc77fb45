"""Decoders of every make beside plain Llama's: answers in free text and virtual keys, texts longer than the windows."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracle import Oracle
from test_against_peft import Pair, alike, weighed
from test_answers import ANSWERS, TEXTS, hub_loss, mean_loss
from test_answers import PROMPT as ANSWERED
from test_decoder_types import CLOSE, METHOD, PROMPT, base_of, model_of, pytestmark
from test_virtual_against_peft import TOKENS, config_of
from test_virtual_against_peft import Pair as VirtualPair
from test_writing import PROMPT as ASKED
from test_writing import written_by_hub

from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.generate import generate
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.testing import tiny_texts, tiny_tokenizer

__all__ = ["pytestmark"]

torch.set_num_threads(1)
WINDOWED = ["gemma2", "gemma3_text", "mistral"]
UNLIKE = [*WINDOWED, "falcon-new", "gpt_oss", "granite", "phi3-long"]


@pytest.mark.parametrize("name", UNLIKE)
def test_losses_and_gradients_of_answers_are_peft_s(name: str) -> None:
    pair = Pair(base_of(name), RegionSpec(), METHOD, ANSWERED, TEXTS)
    wrapped = pair.wrapped(model_of(name))
    judge = Oracle(wrapped, tiny_tokenizer())
    expected = weighed(torch.stack([hub_loss(judge, ANSWERED, TEXTS[a.text], a.words) for a in ANSWERS]))
    ours = mean_loss(pair, RegionSpec(), pair.own)
    assert float((ours - expected).detach().abs()) < CLOSE
    expected.backward()
    ours.backward()
    for site in pair.names:
        for matrix in "AB":
            theirs = getattr(wrapped.get_submodule(site), f"lora_{matrix}")["default"].weight.grad
            assert alike(pair.own[site][matrix].grad, theirs), (site, matrix)


@pytest.mark.parametrize("name", UNLIKE)
@torch.no_grad()
def test_losses_of_answers_are_the_hub_model_s_own_in_each_region(name: str) -> None:
    judge, base = Oracle(model_of(name), tiny_tokenizer()), base_of(name)
    expected = torch.stack([hub_loss(judge, ANSWERED, TEXTS[a.text], a.words) for a in ANSWERS])
    for spec in (RegionSpec(depth=2), RegionSpec(depth=2, span="answer"), RegionSpec(span="last")):
        read = base.readout(
            base.prefill_answers(ANSWERED, TEXTS, ANSWERS, base.region(spec)), torch.arange(len(ANSWERS))
        )
        assert torch.allclose(-read[:, 0] / read[:, 1], expected, atol=CLOSE), spec


@pytest.mark.parametrize("name", UNLIKE)
def test_the_base_writes_what_transformers_writes(name: str) -> None:
    judge, base, texts = Oracle(model_of(name), tiny_tokenizer()), base_of(name), tiny_texts(4)
    expected = [written_by_hub(judge, text) for text in texts]
    assert len(set(expected)) > 1
    assert generate(base, ASKED, texts, base.region(None)) == expected
    assert generate(base, ASKED, texts[::-1] * 2, base.region(RegionSpec()))[:4] == expected[::-1]


def test_what_is_written_about_a_text_that_has_no_room_is_written_about_its_beginning() -> None:
    prompt, texts = replace(ASKED, max_tokens=9999), [Text("x" * 600), Text("x" * 700), Text("y")]
    first, second, other = generate(base_of("gpt2"), prompt, texts, base_of("gpt2").region(None))
    assert first == second != other


@pytest.mark.parametrize("name", WINDOWED)
def test_a_prefix_leaves_the_window_as_in_peft(name: str, tmp_path: Path) -> None:
    method = PrefixTuning(tokens=TOKENS)
    pair = VirtualPair(base_of(name), method, PROMPT, tiny_texts(4), size=1.0)
    loaded = pair.loaded(model_of(name), tmp_path, config_of(pair.base, method))
    expected = pair.oracle(loaded, tiny_tokenizer(), model_of(name), 0)
    assert torch.allclose(pair.scores(), expected, atol=CLOSE)
