"""Every type of encoder-decoder that is read: as transformers reads it, its modules as peft has them, users apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hub
from oracle import Oracle
from test_against_peft import EVERYWHERE, WORDS, Pair, check_gradients, check_read_as_alone, close, weighed
from torch import Tensor

from peftu.bank import Layout
from peftu.base.answers import Answer
from peftu.base.families.known import families
from peftu.base.model import FrozenBase, load_base, wrap
from peftu.base.prompt import Prompt
from peftu.config import RegionSpec
from peftu.data.problem import Text
from peftu.errors import PeftuError
from peftu.generate import generate
from peftu.methods.lora import Lora
from peftu.methods.prefix_tuning import PrefixTuning
from peftu.methods.prompt_tuning import PromptTuning
from peftu.testing import CPU, randomise, tiny_prompt, tiny_texts, tiny_tokenizer

torch.set_num_threads(1)
# peft 0.21 asks transformers 5 for an attribute under its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

TOKENS = {"vocab_size": len(tiny_tokenizer()), "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
T5 = {**TOKENS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
GATED = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": 3}
BART = {**TOKENS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 3, "max_position_embeddings": 128}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40}
BART |= {"decoder_start_token_id": 1, "scale_embedding": True, "forced_eos_token_id": None}
LANGUAGE = 44  # any token will do


def bart(forced: int | None) -> Any:
    model = hub.BartForConditionalGeneration(hub.BartConfig(**BART))
    model.generation_config.forced_bos_token_id = forced
    return model


def mbart() -> Any:
    model = hub.MBartForConditionalGeneration(hub.MBartConfig(**BART))
    model.generation_config.forced_bos_token_id = LANGUAGE
    return model


TYPES: dict[str, Callable[[], Any]] = {
    "t5": lambda: hub.T5ForConditionalGeneration(hub.T5Config(**T5)),
    "flan-t5": lambda: hub.T5ForConditionalGeneration(hub.T5Config(**GATED)),
    "mt5": lambda: hub.MT5ForConditionalGeneration(hub.MT5Config(**T5)),
    "bart": lambda: bart(None),
    "bart-forced": lambda: bart(2),
    "mbart": mbart,
    "pegasus": lambda: hub.PegasusForConditionalGeneration(hub.PegasusConfig(**BART)),
}
SPECS = [RegionSpec(), RegionSpec(span="answer")]  # the default is the second
each_type = pytest.mark.parametrize("name", TYPES)
each_region = pytest.mark.parametrize("spec", SPECS, ids=str)
ASKED = Prompt("What do you say?", (), 24, answer_tokens=6)
ANSWERS = [Answer(0, "Fine."), Answer(2, "No"), Answer(0, "Not at all"), Answer(1, "a")]  # the third is cut


def model_of(name: str) -> Any:
    model = TYPES[name]().eval()
    randomise(model, seed=1)
    for buffer in (buffer for path, buffer in model.named_buffers() if path == "final_logits_bias"):
        buffer.copy_(torch.randn(buffer.shape, generator=torch.Generator().manual_seed(2)))
    return model


def base_of(name: str, model: Any = None) -> FrozenBase:
    return wrap(model or model_of(name), tiny_tokenizer(True), name)


def test_no_type_is_left_out() -> None:
    known = {
        t for family in map(families.get, families.names()) if family.kind == "encoder_decoder" for t in family.types
    }
    assert {model_of(name).config.model_type for name in TYPES} == known


@each_type
def test_label_scores_are_the_hub_model_s_own(name: str, tmp_path: Path) -> None:
    """Also of a base that was saved and read again."""
    base, prompt, texts = base_of(name), tiny_prompt(WORDS), tiny_texts(4)
    judge = Oracle(model_of(name), base.family.tokenizer)
    with torch.no_grad():
        expected = torch.stack([judge.scores(prompt, text) for text in texts])
        wrote = judge.model.generate(torch.tensor([judge.ids("x", special=True)]), max_new_tokens=1, use_cache=False)
    assert wrote[0, : len(judge.opening)].tolist() == judge.opening
    base.family.model.save_pretrained(tmp_path)  # type: ignore[operator]
    base.family.tokenizer.save_pretrained(tmp_path)
    again = load_base(str(tmp_path), CPU)
    for read in (base, again):
        for spec in [*SPECS, RegionSpec(depth=1), RegionSpec(depth=1, span="answer")]:
            context = read.prefill(prompt, texts, read.region(spec))
            assert close(read.readout(context, torch.arange(4)), expected), spec


@each_region
@each_type
def test_scores_and_gradients_of_lora_are_peft_s(name: str, spec: RegionSpec) -> None:
    """In double precision: random T5 models amplify rounding in their gradients."""
    base = base_of(name, model_of(name).double())
    pair = Pair(base, spec, Lora(rank=2, targets=EVERYWHERE, head=False), tiny_prompt(WORDS), tiny_texts(4))
    roles = {(site.role, site.cross) for site in pair.layout.sites.values()}
    assert {("q", False), ("q", True), ("o", True), ("up", False), ("down", False)} <= roles
    assert (("k", True) in roles) == (spec.span == "all")
    wrapped = pair.wrapped(model_of(name).double())
    theirs = pair.oracle(wrapped, base.family.tokenizer)
    assert close(pair.scores(), theirs)
    weighed(theirs).backward()
    check_gradients(pair, wrapped)


@pytest.mark.parametrize(
    "method", [Lora(rank=2, alpha=2), PromptTuning(tokens=3), PrefixTuning(tokens=2)], ids=lambda m: m.card.name
)
@pytest.mark.parametrize("free", [False, True], ids=["labels", "answers"])
@each_region
@pytest.mark.parametrize("name", ["flan-t5", "bart-forced", "pegasus"])
def test_users_read_together_are_read_as_alone(name: str, spec: RegionSpec, free: bool, method: Any) -> None:
    base = base_of(name)
    region = base.region(spec)
    if free:
        context = base.prefill_answers(ASKED, tiny_texts(3), ANSWERS, region)
    else:
        context = base.prefill(tiny_prompt(), tiny_texts(4), region)
    layout = Layout(method, base.sites(region, 0 if free else 2))
    check_read_as_alone(base, context, layout)


@pytest.mark.parametrize("name", ["bart", "bart-forced", "mbart", "pegasus"])
def test_answers_are_as_likely_as_the_hub_model_finds_them_and_written_as_it_writes_them(name: str) -> None:
    base, texts = base_of(name), tiny_texts(3)
    judge = Oracle(model_of(name), base.family.tokenizer)

    def asked(text: Text) -> Tensor:
        return torch.tensor([judge.ids(f"{ASKED.instruction}\n\n{Prompt.body(text)}", special=True)])

    losses, written = [], []
    for answer in ANSWERS:
        tokens = [*judge.ids(answer.words), 1][: ASKED.answer_tokens]
        read = torch.tensor([[*judge.opening, *tokens[:-1]]])
        logits = judge.model(input_ids=asked(texts[answer.text]), decoder_input_ids=read).logits[0, -len(tokens) :]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(tokens)))
    for text in texts:
        ids = judge.model.generate(
            asked(text), max_new_tokens=5 + len(judge.opening), do_sample=False, use_cache=False
        )[0]
        written.append(judge.tokenizer.decode(ids[len(judge.opening) :], skip_special_tokens=True).strip())
    for spec in SPECS:
        context = base.prefill_answers(ASKED, texts, ANSWERS, base.region(spec))
        read = base.readout(context, torch.arange(4))
        assert torch.allclose(-read[:, 0] / read[:, 1], torch.stack(losses), atol=1e-4)
        assert generate(base, ASKED, texts, base.region(spec), tokens=6) == written


def test_a_text_beyond_the_learned_places_is_cut_and_counted() -> None:
    base, prompt = base_of("bart"), tiny_prompt(WORDS, max_tokens=999)
    around = base.family.taken(prompt)
    texts = [Text("x" * (128 - around)), Text("x" * 128), Text("y")]
    context = base.prefill(prompt, texts, base.region(None))
    assert context.cut == base.cuts(prompt, texts).judged == 1
    scores = base.readout(context, torch.arange(3))
    assert torch.allclose(scores[0], scores[1], atol=1e-5)
    assert not torch.allclose(scores[0], scores[2], atol=1e-3)
    vectors = base.embed([Text("x" * 127), Text("x" * 128)], 999)
    assert abs(vectors[0] - vectors[1]).max() < 1e-5
    with pytest.raises(PeftuError, match=r"reads 128 tokens at most, the longest input has 13\d — lower max_tokens"):
        base.prefill_answers(Prompt("Say.", (), answer_tokens=999), texts, [Answer(0, "a" * 130)], base.region(None))
